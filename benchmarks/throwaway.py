"""A throw-away local stack in; what the processes around it did, watched from outside, out: rates, CPU seconds, memory.

Everything listens on loopback, on free ports, and lies in a temporary folder; it is stopped and removed however the block ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import grpc
import msgspec
import psutil

from ecomflow import infra
from ecomflow.config import Endpoints, Settings
from ecomflow.gcp.target import Target
from ecomflow.local import supervisor
from ecomflow.local.pubsub.queue import Backlog

# A Pub/Sub as far away as one in another region of the continent, and as stingy as Google's sometimes is.
DISTANT = ("--round-trip", "0.05", "--messages-per-pull", "100")
_DRAIN_SECONDS = 60.0


class Stack(NamedTuple):
    """A provisioned stack: its settings, its endpoints, and the pid of each service."""

    settings: Settings
    endpoints: Endpoints
    pids: dict[str, int]


@contextmanager
def provisioned_stack(pubsub_options: Sequence[str] = ()) -> Iterator[Stack]:
    """A stack of its own with topic, subscription, bucket, dataset and tables, gone after the block."""
    with temporary_folder() as folder, _pubsub_with(pubsub_options), supervisor.running_stack(folder) as endpoints:
        settings = Settings(state_dir=str(folder))
        target = Target(settings, endpoints)
        infra.apply(target, infra.plan(target))
        reports = supervisor.status(folder).services
        yield Stack(settings, endpoints, {report.name: report.pid for report in reports if report.pid is not None})


@contextmanager
def _pubsub_with(options: Sequence[str]) -> Iterator[None]:
    """Within, the stack's Pub/Sub is started with ``options``."""
    command = supervisor._command

    def with_options(name: str, ports: tuple[int, ...], data_dir: Path) -> list[str]:
        return [*command(name, ports, data_dir), *(options if name == "pubsub" else ())]

    supervisor._command = with_options
    try:
        yield
    finally:
        supervisor._command = command


@contextmanager
def temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ecomflow-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def running(arguments: Sequence[str], settings: Settings) -> Iterator[psutil.Process]:
    """``python ARGUMENTS`` with ``settings`` in its environment, drained (SIGTERM) at the end, or killed with its children.

    Its output is in ``process.log`` in the state folder; if it ends before the block does, ``alive`` raises.
    """
    with (settings.state_path / "process.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, *arguments], stdout=log, stderr=log, env=environment(settings), start_new_session=True
        )
    process = psutil.Process(child.pid)
    try:
        yield process
        child.send_signal(signal.SIGTERM)
        child.wait(_DRAIN_SECONDS)
    finally:
        for one in family(process):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        child.wait()


def alive(process: psutil.Process, settings: Settings) -> None:
    """Raises RuntimeError with the end of its log where ``process`` has ended."""
    if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
        log = (settings.state_path / "process.log").read_text(errors="replace")
        raise RuntimeError(f"The process ended before its work was done. It said:\n{log[-3000:]}")


def family(process: psutil.Process) -> list[psutil.Process]:
    """``process`` and its children, theirs included; those that have ended are left out."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """User and system time of ``processes`` together, since each began."""
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def rss(processes: Sequence[psutil.Process]) -> int:
    """Resident bytes of ``processes`` together."""
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def environment(settings: Settings | None = None) -> dict[str, str]:
    """This process's environment without ECOMFLOW_ and emulator variables of the user's, with those of ``settings``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ECOMFLOW_") and "EMULATOR_HOST" not in name}
    named = {} if settings is None else {"ECOMFLOW_STATE_DIR": settings.state_dir}
    return {**kept, "PYTHONHASHSEED": "0", "NO_COLOR": "1", **named}


class BacklogReader:
    """The backlog of the stack's subscription, read over one connection so that looking often costs little."""

    def __init__(self, stack: Stack) -> None:
        self._channel = grpc.insecure_channel(str(stack.endpoints.pubsub))
        self._get = self._channel.unary_unary("/ecomflow.local.Stats/Get")
        self._path = stack.settings.subscription_path.encode()

    def read(self) -> Backlog:
        return msgspec.json.decode(self._get(self._path, timeout=30), type=Backlog)

    def close(self) -> None:
        self._channel.close()


def wait_for(condition: Any, seconds: float, pause: float = 0.05) -> Any:
    """What ``condition()`` gives once it is true. Raises TimeoutError after ``seconds``."""
    give_up = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > give_up:
            raise TimeoutError(f"The condition did not come true within {seconds:.0f} s.")
        time.sleep(pause)
    return found


def end_on_sigterm() -> None:
    """SIGTERM unwinds this process like Ctrl-C, so that what it started is stopped."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
