"""The local GCS: the JSON API of Cloud Storage for one user, on loopback, with its data in one folder.

Run it as ``python -m ecomflow.local.storage --port N --data-dir DIR``. Google's own client uses it with
``client_options={"api_endpoint": "http://127.0.0.1:PORT"}``. ``api.py`` lists the supported parts of the API; docs/adr/0017 says
why it is not fake-gcs-server.
"""

from __future__ import annotations

import contextlib
import os
from importlib import util
from pathlib import Path

from ecomflow.errors import MissingExtraError, install_extra
from ecomflow.local.process import check_free, exit_code, service_parser
from ecomflow.loopback.peers import OtherUsers, OwnUser
from ecomflow.loopback.web_guard import ServiceGuard
from ecomflow.processes.lifeline import tied_to

_HOST = "127.0.0.1"


def check_storage_installed() -> None:
    """Raises MissingExtraError if a package that the local GCS needs is not installed."""
    for package in ("starlette", "uvicorn"):
        if util.find_spec(package) is None:
            raise MissingExtraError(f"The local GCS needs {package}, which is not installed.", install_extra("local"))


def run(port: int, data_dir: Path, others: OtherUsers = "refuse") -> None:
    """Serve until SIGINT or SIGTERM. Raises MissingExtraError, and UnavailableError for a port in use, before it starts."""
    check_storage_installed()
    check_free(port)
    import uvicorn

    from ecomflow.local.storage.api import StorageApi
    from ecomflow.local.storage.store import Store
    from ecomflow.loopback.connections import BoundedProtocol

    os.umask(0o077)
    with contextlib.closing(Store(data_dir)) as store, tied_to(data_dir):
        app = ServiceGuard(StorageApi(store), OwnUser((_HOST, port), others), json_only=False)
        options = {"log_level": "warning", "access_log": False, "server_header": False, "proxy_headers": False}
        options |= {"http": BoundedProtocol, "ws": "none", "lifespan": "off", "timeout_graceful_shutdown": 1}
        uvicorn.run(app, host=_HOST, port=port, **options)  # type: ignore[arg-type]


def main() -> int:
    parser = service_parser("storage", "GCS", "buckets and objects")
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1")
    options = parser.parse_args()
    return exit_code(lambda: run(options.port, options.data_dir, options.other_users))
