"""Ends a process when its folder is deleted. Otherwise it would continue to run, and no command would find it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_SECONDS = 1.0


def terminate() -> None:
    """Send this process SIGTERM."""
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def tied_to(folder: Path, on_gone: Callable[[], None] = terminate) -> Iterator[None]:
    """Call ``on_gone`` if ``folder`` is deleted while the block runs. Moving the folder does not count as deletion."""
    opened, over = os.open(folder, os.O_RDONLY | os.O_DIRECTORY), threading.Event()

    def watch() -> None:
        while not over.wait(_SECONDS):
            if not os.fstat(opened).st_nlink:
                on_gone()
                return

    watcher = threading.Thread(target=watch, name="lifeline", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        os.close(opened)
