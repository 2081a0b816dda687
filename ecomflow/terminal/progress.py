"""A progress line with amount and rate, and a prompt end on Ctrl-C. The line is shown if standard error is a terminal."""

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

INTERRUPTED = 130  # 128 + SIGINT, as in shells


class Progress:
    """The current step and its progress; created by ``progress``. Thread-safe."""

    def __init__(self, bar: Bar, what: str) -> None:
        self._bar, self._what, self._unit, self._lock = bar, what, "", Lock()
        self._task = self._added(None)

    def begin(self, what: str) -> None:
        """Start the step ``what``: its amount and rate count from zero."""
        with self._lock:
            self._what, self._unit = what, ""
            self._start_anew(None)

    def count(self, unit: str, done: int, total: int | None = None) -> None:
        """Report ``done`` so far, in ``unit`` (``events``), of ``total`` if known. Another unit restarts the rate."""
        with self._lock:
            if unit != self._unit:
                self._unit = unit
                self._start_anew(total)
            self._bar.update(self._task, completed=done, total=total)

    def _start_anew(self, total: int | None) -> None:
        before, self._task = self._task, self._added(total)  # the total of a Rich task can't be reset
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
    """Shows ``what`` and the reported progress while the block runs, then clears the line."""
    words = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), words, BarColumn(bar_width=12), _Amount(), TimeElapsedColumn())
    with Bar(*columns, console=console.err, transient=True, disable=not console.err.is_terminal) as bar:
        yield Progress(bar, what)


@contextmanager
def interruptible(sentence: str) -> Iterator[None]:
    """Ctrl-C in the block prints ``sentence``, which says what was done so far, and ends the process with 130."""
    try:
        yield
    except KeyboardInterrupt:
        console.note(sentence)
        leave(INTERRUPTED)


@contextmanager
def stopping(sentence: str, stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C in the block prints ``sentence`` at once, calls ``stop`` and interrupts the block. Later ones are ignored,
    so that everything the block has started is stopped.
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
    """End the process now. A normal exit would wait for threads, which may wait for a service that does not answer."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
