"""Work that takes its time in; one line of the terminal that tells how far it is and how fast, and a soon and honest end at
Ctrl-C, out. Where standard error is no terminal the line is left out.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from types import FrameType

from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from ecomflow.terminal import console

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class Progress:
    """What is being done, and how much of it; ``progress`` makes one. Safe for several threads."""

    def __init__(self, bar: Bar, what: str) -> None:
        self._bar, self._what, self._unit, self._lock = bar, what, "", Lock()
        self._task = self._added(None)

    def begin(self, what: str) -> None:
        """``what`` is done from now on; its amount and rate count from zero."""
        with self._lock:
            self._what, self._unit = what, ""
            self._start_anew(None)

    def count(self, unit: str, done: int, total: int | None = None) -> None:
        """``done`` so far, in ``unit`` (``events``), of ``total`` where that is known. Another unit is another rate."""
        with self._lock:
            if unit != self._unit:
                self._unit = unit
                self._start_anew(total)
            self._bar.update(self._task, completed=done, total=total)

    def _start_anew(self, total: int | None) -> None:
        before, self._task = self._task, self._added(total)  # a task of Rich's can't forget its total
        self._bar.remove_task(before)

    def _added(self, total: int | None) -> TaskID:
        return self._bar.add_task(f"{self._what}…", total=total, unit=self._unit)


class _Amount(ProgressColumn):
    """``12,000 of 60,000 events, 30,000/s``."""

    def __init__(self) -> None:
        super().__init__(table_column=Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        if not task.fields["unit"]:
            return Text()
        whole = "" if task.total is None else f" of {task.total:,.0f}"
        speed = task.finished_speed or task.speed
        rate = "" if speed is None else f", {speed:,.0f}/s"
        return Text(f"{task.completed:,.0f}{whole} {task.fields['unit']}{rate}")


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """Shows ``what``, then whatever the Progress is told, while the block runs; the line is gone afterwards."""
    words = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), words, BarColumn(bar_width=12), _Amount(), TimeElapsedColumn())
    with Bar(*columns, console=console.err, transient=True, disable=not console.err.is_terminal) as bar:
        yield Progress(bar, what)


@contextmanager
def interruptible(sentence: str) -> Iterator[None]:
    """Ctrl-C in the block ends the process with 130, after ``sentence``, which says what was done until then."""
    try:
        yield
    except KeyboardInterrupt:
        console.note(sentence)
        leave(INTERRUPTED)


@contextmanager
def stopping(sentence: str, stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C in the block says ``sentence`` at once, calls ``stop`` and interrupts the block. Later ones are let be, so
    that nothing which the block has started is left behind.
    """

    def interrupt(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        console.note(sentence)
        stop()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def leave(code: int) -> None:
    """End the process now. An ordinary exit would wait for threads, and those for a service that may not answer."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
