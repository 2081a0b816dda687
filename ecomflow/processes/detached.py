"""Starts detached processes, and finds and stops them again by their identity.

A pid alone does not identify a process, because the kernel reuses it. Neither does the start time by the wall clock, which can be
adjusted (for example by NTP after a boot). So an identity includes the kernel's own record of the start.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import psutil

# ``spawn`` sets it to the role of the process. With the user and the working folder it identifies ecomflow's services.
ROLE_VARIABLE = "ECOMFLOW_SERVICE"

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Identity(msgspec.Struct, frozen=True):
    """A process: its pid and the mark of its start. No other process of this machine has both."""

    pid: int
    mark: str


def identity_of(pid: int) -> Identity:
    """The identity of a running process. Raises psutil.NoSuchProcess."""
    return Identity(pid, _mark(pid))


def _mark(pid: int) -> str:
    """On Linux the boot id and the ticks from boot to start, which nobody can change; elsewhere the kernel's start time."""
    try:
        # The name can contain blanks and parentheses. After it come field 3 of proc_pid_stat(5), the state, and 22, the start.
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{_BOOT_ID.read_text().strip()}:{ticks}"
    except (FileNotFoundError, ProcessLookupError):
        return f"{psutil.Process(pid).create_time():.2f}"


def spawn(command: list[str], log: Path, folder: Path, role: str = "") -> Identity:
    """Start ``command`` in its own session, with its output appended to ``log``. It outlives this process and its terminal.

    ``role``: its role in ``folder``, which becomes its working folder, for ``processes_of``.
    """
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            start_new_session=True,
            env={**os.environ, ROLE_VARIABLE: role},
        )
    identity = identity_of(child.pid)
    # It holds the handle for as long as the process runs, and takes its end from the kernel's table.
    threading.Thread(target=child.wait, name=f"end of {child.pid}", daemon=True).start()
    return identity


def processes_of(folder: Path) -> list[tuple[str, Identity]]:
    """This user's running processes that ``spawn`` has started with a role in ``folder``, or in a deleted folder at its path.

    It asks the kernel and reads no file, so nobody can make it return other processes.
    """
    found = []
    for process in psutil.process_iter(["uids"]):
        role = _role_in(process, folder)
        if role and not _has_ended(process):
            found.append((role, identity_of(process.pid)))
    return found


def is_in_role(identity: Identity, role: str, folder: Path) -> bool:
    """Whether ``spawn`` has started this process with ``role`` in ``folder``."""
    process = find(identity)
    return process is not None and _role_in(process, folder) == role


def _role_in(process: psutil.Process, folder: Path) -> str | None:
    try:
        if process.uids().real != os.getuid() or Path(process.cwd()) != folder:
            return None
        return str(process.environ().get(ROLE_VARIABLE, "")) or None
    except (psutil.Error, OSError):  # it has ended, or belongs to another user
        return None


def find(identity: Identity) -> psutil.Process | None:
    """The running process with this identity; None if it has ended, even if its pid has been reused."""
    try:
        process = psutil.Process(identity.pid)
        return process if _mark(identity.pid) == identity.mark and not _has_ended(process) else None
    except psutil.NoSuchProcess:
        return None


def stop(identities: Iterable[Identity], grace_seconds: float) -> None:
    """End the processes: SIGTERM to all, and SIGKILL to those that still run after ``grace_seconds``."""
    for identity in identities:
        _signal(identity, signal.SIGTERM)
        # A suspended process handles the SIGTERM only after it is continued.
        _signal(identity, signal.SIGCONT)
    _wait_until_gone(identities, grace_seconds)
    for identity in identities:
        _signal(identity, signal.SIGKILL)
    _wait_until_gone(identities, grace_seconds)


def free_port() -> int:
    """A loopback port on which nothing listens now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def is_free(port: int) -> bool:
    with socket.socket() as listener:
        # Like the servers: a port whose last connections are in TIME_WAIT is free.
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
    """Whether the process is a zombie. A zombie with several threads is still closing its files and ports."""
    return bool(process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1)
