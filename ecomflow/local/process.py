"""Detached processes: a command goes in, and a pid with its start time comes out, by which it is known again and stopped.

A pid alone is no identity: the kernel gives it to another process once the first is gone.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import psutil

# The boot time that start times are counted from may move by a second when the clock is set.
_SAME_START_SECONDS = 1.5

# Kept so that a child that has ended is reaped by its handle, and no handle is collected while its process runs.
_children: list[subprocess.Popen[bytes]] = []


class Identity(msgspec.Struct, frozen=True):
    """A process: its pid and when it started, seconds since the epoch."""

    pid: int
    started: float


def spawn(command: list[str], log: Path, folder: Path) -> Identity:
    """Starts ``command`` in a session of its own, its output appended to ``log``: it outlives this process and its terminal."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder, start_new_session=True
        )
    _children.append(child)
    return Identity(child.pid, psutil.Process(child.pid).create_time())


def find(identity: Identity) -> psutil.Process | None:
    """The running process that ``identity`` names; None where it has ended, even if its pid is in use again."""
    _reap()
    try:
        process = psutil.Process(identity.pid)
        same = abs(process.create_time() - identity.started) < _SAME_START_SECONDS
        return process if same and not _has_ended(process) else None
    except psutil.NoSuchProcess:
        return None


def stop(identities: Iterable[Identity], grace_seconds: float) -> None:
    """Ends the processes: SIGTERM to all, and SIGKILL to those that are still there after ``grace_seconds``."""
    for identity in identities:
        _signal(identity, signal.SIGTERM)
        # A suspended process takes the SIGTERM only when it goes on.
        _signal(identity, signal.SIGCONT)
    _wait_until_gone(identities, grace_seconds)
    for identity in identities:
        _signal(identity, signal.SIGKILL)
    _wait_until_gone(identities, grace_seconds)


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def is_free(port: int) -> bool:
    with socket.socket() as listener:
        # As the servers do it: a port whose last connections are still winding down is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wait_until_gone(identities: Iterable[Identity], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(find(identity) for identity in identities) and time.monotonic() < deadline:
        time.sleep(0.02)


def _signal(identity: Identity, number: int) -> None:
    if find(identity):
        try:
            os.kill(identity.pid, number)
        except ProcessLookupError:
            pass


def _has_ended(process: psutil.Process) -> bool:
    """Waits only for its parent's notice. A zombie with threads is still closing its files and ports."""
    return bool(process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1)


def _reap() -> None:
    _children[:] = [child for child in _children if child.poll() is None]
