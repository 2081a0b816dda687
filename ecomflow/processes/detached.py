"""Detached processes: a command goes in, and an identity comes out by which it is known again and stopped.

A pid alone is no identity: the kernel gives it to another process once the first is gone. Neither is a start time by the wall
clock, which steps (the first NTP answer after a boot): what is kept is the kernel's own mark.
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

# Set in what ``spawn`` starts, to its role. With the user and the working folder it tells a service of ours from other processes.
ROLE_VARIABLE = "ECOMFLOW_SERVICE"

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Identity(msgspec.Struct, frozen=True):
    """A process: its pid, and the mark of its start, which no other process of this machine has with that pid."""

    pid: int
    mark: str


def identity_of(pid: int) -> Identity:
    """Of a running process. Raises psutil.NoSuchProcess."""
    return Identity(pid, _mark(pid))


def _mark(pid: int) -> str:
    """On Linux the boot and the ticks from it to the start, which nobody can set; elsewhere the start as the kernel noted it."""
    try:
        # The name may hold blanks and parentheses; after it the state is the third field of proc_pid_stat(5), the start the 22nd.
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{_BOOT_ID.read_text().strip()}:{ticks}"
    except (FileNotFoundError, ProcessLookupError):
        return f"{psutil.Process(pid).create_time():.2f}"


def spawn(command: list[str], log: Path, folder: Path, role: str = "") -> Identity:
    """Starts ``command`` in a session of its own, its output appended to ``log``: it outlives this process and its terminal.

    ``role``: what it is to ``folder``, which is its working folder, for ``processes_of``.
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
    """The running processes of this user that ``spawn`` has started with a role in ``folder``, or in one deleted at its path.

    The kernel is asked, and no file: nobody can name another process here.
    """
    found = []
    for process in psutil.process_iter(["uids"]):
        role = _role_in(process, folder)
        if role and not _has_ended(process):
            found.append((role, identity_of(process.pid)))
    return found


def is_in_role(identity: Identity, role: str, folder: Path) -> bool:
    """Whether the process is the one that ``spawn`` has started with ``role`` in ``folder``."""
    process = find(identity)
    return process is not None and _role_in(process, folder) == role


def _role_in(process: psutil.Process, folder: Path) -> str | None:
    try:
        if process.uids().real != os.getuid() or Path(process.cwd()) != folder:
            return None
        return str(process.environ().get(ROLE_VARIABLE, "")) or None
    except (psutil.Error, OSError):  # it has ended, or is another user's
        return None


def find(identity: Identity) -> psutil.Process | None:
    """The running process that ``identity`` names; None where it has ended, even if its pid is in use again."""
    try:
        process = psutil.Process(identity.pid)
        return process if _mark(identity.pid) == identity.mark and not _has_ended(process) else None
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
