"""Runs the ``ecomflow`` command as a user does: a process, its exit code, what it printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ecomflow.config import Settings


def environment(settings: Settings | None = None, **more: str) -> dict[str, str]:
    """This process's environment with ``settings`` as ECOMFLOW_ variables; nothing of the user's own ones."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("ECOMFLOW_")}
    named = {}
    if settings is not None:
        named = {
            f"ECOMFLOW_{name.upper()}": str(value)
            for name in settings.__struct_fields__
            if (value := getattr(settings, name)) not in (None, "")
        }
    return {**base, "COLUMNS": "200", "NO_COLOR": "1", **named, **more}


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
