"""The local BigQuery: starts a patched bqemulator, which serves REST and Storage Write calls and stores the tables in DuckDB.

Run it as ``python -m ecomflow.local.bigquery --http-port N --grpc-port M --data-dir DIR``. It listens only on loopback; datasets,
tables and rows are in ``DIR/bqemulator.duckdb`` and survive a restart. It ignores ``BQEMU_*`` variables of the environment, which
could expose it to the network or send traces elsewhere. The patches and their reasons are in ``repairs.py``, ``appends.py`` and
``files.py``, access control is in ``guard.py``. All depend on the internals of one version, so that version is pinned.
"""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import Any

from ecomflow.errors import MissingExtraError, install_extra
from ecomflow.local.process import check_free, exit_code, service_parser
from ecomflow.loopback.peers import OtherUsers, OwnUser
from ecomflow.processes.lifeline import tied_to

EMULATOR_VERSION = "1.4.0"
_INSTALL = install_extra("local")


def check_installed() -> None:
    """Raises MissingExtraError unless DuckDB's packages and the patched version of bqemulator are installed."""
    for package in ("bqemulator", "duckdb", "duckdb-extension-spatial"):
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError as error:
            raise MissingExtraError(f"The local BigQuery needs {package}, which is not installed.", _INSTALL) from error
        if package == "bqemulator" and version != EMULATOR_VERSION:
            message = f"The local BigQuery needs bqemulator {EMULATOR_VERSION}, but {version} is installed."
            raise MissingExtraError(message, _INSTALL)


def run(http_port: int, grpc_port: int, data_dir: Path, others: OtherUsers = "refuse") -> None:
    """Serve until SIGINT or SIGTERM. Raises MissingExtraError, and UnavailableError for a port in use, before it starts."""
    check_installed()
    check_free(http_port, grpc_port)
    _forget_settings_of_the_environment()
    from ecomflow.local.bigquery.guard import guard_servers
    from ecomflow.local.bigquery.repairs import apply_repairs

    apply_repairs()
    guard_servers(OwnUser(("127.0.0.1", http_port), others), OwnUser(("127.0.0.1", grpc_port), others))
    from bqemulator.server import run_forever

    data_dir.mkdir(parents=True, exist_ok=True)
    with tied_to(data_dir):
        run_forever(_settings(http_port, grpc_port, data_dir))


def _settings(http_port: int, grpc_port: int, data_dir: Path) -> Any:
    from bqemulator.config import LogFormat, LogLevel, PersistenceMode, Settings

    return Settings(
        rest_host="127.0.0.1",
        rest_port=http_port,
        grpc_host="127.0.0.1",
        grpc_port=grpc_port,
        persistence_mode=PersistenceMode.PERSISTENT,
        data_dir=data_dir,
        upload_staging_dir=data_dir / "uploads",
        # It would be downloaded, and only Avro files need it.
        enable_format_extensions=False,
        log_level=LogLevel.WARNING,
        log_format=LogFormat.JSON,
        tracing_enabled=False,
        otlp_endpoint=None,
    )


def _forget_settings_of_the_environment() -> None:
    for name in [name for name in os.environ if name.startswith("BQEMU_")]:
        del os.environ[name]


def main(arguments: list[str] | None = None) -> int:
    parser = service_parser("bigquery", "BigQuery", "the tables")
    parser.add_argument("--http-port", type=int, required=True, help="port of the REST API")
    parser.add_argument("--grpc-port", type=int, required=True, help="port of the Storage API")
    options = parser.parse_args(arguments)
    return exit_code(lambda: run(options.http_port, options.grpc_port, options.data_dir, options.other_users))
