"""A process that ends with its folder: one whose state folder was deleted under it would run on, known to nobody."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

_SECONDS = 1.0


def end_with(folder: Path, on_gone: Callable[[], None] | None = None) -> None:
    """Call ``on_gone``, or send this process SIGTERM, within seconds of ``folder``'s deletion. Moving it is no deletion."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    threading.Thread(target=_watch, args=(opened, on_gone or _terminate), name="lifeline", daemon=True).start()


def _watch(opened: int, on_gone: Callable[[], None]) -> None:
    while os.fstat(opened).st_nlink:
        time.sleep(_SECONDS)  # no system call waits for this on every platform
    on_gone()


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
