"""Question 8: the local stack, how soon it answers and what it uses while nothing happens.

Subjects: ``stack`` (a cold ``ecomflow infra up`` in a new folder, then its idle services), and ``pubsub``, ``storage``,
``bigquery``: that service's process alone. Each is ready when it answers the calls that ``infra up`` asks of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from benchmarks.throwaway import cpu_seconds, end_on_sigterm, environment, rss, temporary_folder, wait_for
from ecomflow.config import STACK_FILE, Settings
from ecomflow.local import supervisor
from ecomflow.local.probes import answers
from ecomflow.processes.detached import Identity, find, free_port, spawn, stop

SETTLE_SECONDS = 5.0
IDLE_SECONDS = 10.0
_START_SECONDS = 60.0
_LOOK_SECONDS = 0.02


def main() -> None:
    end_on_sigterm()
    parser = argparse.ArgumentParser()
    parser.add_argument("--subject", choices=("stack", *supervisor.SERVICES), required=True)
    parser.add_argument("--idle", type=float, default=IDLE_SECONDS, help="seconds to look at the idle services")
    arguments = parser.parse_args()
    is_stack = arguments.subject == "stack"
    print(json.dumps(whole_stack(arguments.idle) if is_stack else {"ready": alone(arguments.subject)}))


def whole_stack(idle_seconds: float) -> dict[str, Any]:
    """Seconds from the command's start until every service answers, and until it has ended; then each service at rest."""
    with temporary_folder() as folder:
        try:
            began = time.monotonic()
            with _infra_up(folder) as command:
                pids = wait_for(lambda: _answering(folder), _START_SECONDS, _LOOK_SECONDS)
                ready = time.monotonic() - began
                if command.wait(_START_SECONDS) != 0:
                    raise RuntimeError(f"ecomflow infra up failed:\n{(folder / 'up.log').read_text()[-3000:]}")
                ended = time.monotonic() - began
            time.sleep(SETTLE_SECONDS)
            return {"ready": ready, "command": ended, "idle": _idle(pids, idle_seconds)}
        finally:
            supervisor.down(folder)


def alone(name: str) -> float:
    """Seconds from the start of the service's process until it answers."""
    with temporary_folder() as folder:
        ports = [free_port() for _ in range(supervisor.SERVICES[name])]
        began = time.monotonic()
        identity = spawn(_command(name, ports, folder), folder / "service.log", folder)
        try:
            wait_for(lambda: _is_up(identity, folder) and answers(name, ports, 2), _START_SECONDS, _LOOK_SECONDS)
            return time.monotonic() - began
        finally:
            stop([identity], 10)


def _command(name: str, ports: list[int], folder: Path) -> list[str]:
    data = folder / "data"
    data.mkdir()
    numbers = ["--port", str(ports[0])] if name != "bigquery" else ["--http-port", str(ports[0]), "--grpc-port", str(ports[1])]
    return [sys.executable, "-P", "-m", f"ecomflow.local.{name}", *numbers, "--data-dir", str(data)]


def _is_up(identity: Identity, folder: Path) -> bool:
    if find(identity) is None:
        raise RuntimeError(f"The service ended while it started:\n{(folder / 'service.log').read_text()[-3000:]}")
    return True


@contextmanager
def _infra_up(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    settings = Settings(state_dir=str(folder))
    with (folder / "up.log").open("ab") as log:
        command = subprocess.Popen(
            [sys.executable, "-m", "ecomflow", "infra", "up"], stdout=log, stderr=log, env=environment(settings), cwd=folder
        )
    try:
        yield command
    finally:
        command.kill()
        command.wait()


def _answering(folder: Path) -> dict[str, int] | None:
    """The pid of each service once all are known and answer."""
    try:
        services = msgspec.json.decode((folder / STACK_FILE).read_bytes(), type=supervisor.Stack).services
    except FileNotFoundError:
        return None
    if services.keys() != supervisor.SERVICES.keys() or not all(answers(name, one.ports, 2) for name, one in services.items()):
        return None
    return {name: service.pid for name, service in services.items()}


def _idle(pids: dict[str, int], seconds: float) -> dict[str, dict[str, float]]:
    """Each service's share of a core over ``seconds``, and its resident megabytes."""
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    before = {name: cpu_seconds([process]) for name, process in processes.items()}
    time.sleep(seconds)
    return {
        name: {"cpu_share": (cpu_seconds([process]) - before[name]) / seconds, "mb": rss([process]) / 1e6}
        for name, process in processes.items()
    }


if __name__ == "__main__":
    main()
