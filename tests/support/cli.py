"""Runs the ``ecomflow`` command as a user does: a process, its exit code, what it printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from ecomflow.config import STACK_FILE, Endpoints, Settings, variables_of
from ecomflow.processes.state_folder import folder_mark


def environment(settings: Settings | None = None, **more: str) -> dict[str, str]:
    """This process's environment with ``settings`` as ECOMFLOW_ variables; nothing of the user's own ones."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("ECOMFLOW_")}
    named = {} if settings is None else variables_of(settings)
    return {**base, "COLUMNS": "200", "NO_COLOR": "1", **named, **more}


def customised(folder: Path, text: str) -> dict[str, str]:
    """The variables of a process that runs ``text`` when it starts, before whatever else is in PYTHONPATH."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


#: Runs the command line that follows it; root, too, is then held to the permissions of files. It is a program of its own, and no
#: ``preexec_fn``: that would fork this process, whose gRPC threads can abort it before its exec.
_OBEY_PERMISSIONS = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH) if os.geteuid() == 0 else ():
    if ctypes.CDLL(None, use_errno=True).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "root can't give up a capability here, so every file is open to it")
os.execv(sys.argv[1], sys.argv[1:])
"""


def ecomflow_that_obeys(
    *arguments: str, settings: Settings | None = None, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """``ecomflow ARGUMENTS`` to its end, held to the permissions of files."""
    return subprocess.run(
        [sys.executable, "-c", _OBEY_PERMISSIONS, sys.executable, "-m", "ecomflow", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env=environment(settings),
        check=False,
    )


def write_stack_file(folder: Path, endpoints: Endpoints) -> None:
    """Make ``folder`` a state folder whose local stack listens at ``endpoints``."""
    (folder / STACK_FILE).write_bytes(msgspec.json.encode({"folder": folder_mark(folder), "endpoints": endpoints}))


def ecomflow(
    *arguments: str, settings: Settings | None = None, folder: Path | None = None, timeout: float = 120, **more: str
) -> subprocess.CompletedProcess[str]:
    """``ecomflow ARGUMENTS`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "ecomflow", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=folder,
        env=environment(settings, **more),
        check=False,
    )


def start(*arguments: str, settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    """``ecomflow ARGUMENTS`` in the background, its output in ``log``."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "ecomflow", *arguments], stdout=output, stderr=output, env=environment(settings)
        )
