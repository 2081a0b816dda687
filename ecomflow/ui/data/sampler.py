"""Reads the pipeline's metrics once a second for all open pages, and not at all while there are none.

The last hour comes from the file that the local pipeline writes. A job on Dataflow writes none: its hour is what was read here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from ecomflow.errors import EcomflowError
from ecomflow.metrics.history import History, Report, report
from ecomflow.metrics.record import RECORD_EVERY_SECONDS, RECORDED_SECONDS, Hour
from ecomflow.metrics.snapshot import PipelineMetrics
from ecomflow.ui.data.readings import unexpected

# A page counts as open for this long after its last request.
_OPEN_SECONDS = 5.0

T = TypeVar("T")
# The recorded metrics up to a time, in seconds since the epoch.
ReadRecord = Callable[[float], Sequence[PipelineMetrics]]


class Sample(msgspec.Struct, frozen=True):
    """The latest reading, or why it failed (``error``); ``now``, in seconds since the epoch; the last hour, or why it can't be
    read.
    """

    report: Report | None = None
    error: EcomflowError | None = None
    now: float = 0.0
    hour: Hour | None = None
    hour_error: EcomflowError | None = None


class Sampler:
    """Reads in its own thread, which ends when nobody has called ``look`` for some seconds and restarts with the next call.

    ``read_record`` None: the hour is made of the readings.
    """

    def __init__(
        self,
        read: Callable[[], PipelineMetrics],
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        read_record: ReadRecord | None = None,
    ) -> None:
        self._read, self._seconds, self._clock, self._now = read, seconds, clock, now
        self._read_record = read_record or self._own_record
        self._lock = threading.Lock()
        self._history = History()
        self._sample = Sample()
        self._looked = 0.0
        self._own: list[PipelineMetrics] = []
        self._hour: tuple[Hour | None, EcomflowError | None] = (None, None)
        self._hour_due = 0.0
        self._runs = False
        self._first, self._stopped = threading.Event(), threading.Event()

    def look(self) -> Sample:
        """The newest sample. Never waits."""
        with self._lock:
            self._looked = self._clock()
            if not self._runs and not self._stopped.is_set():
                self._runs = True
                threading.Thread(target=self._run, daemon=True, name="sampler").start()
            return self._sample

    def wait_for_first(self, seconds: float) -> None:
        """Wait for the first reading, at most ``seconds``."""
        self._first.wait(seconds)

    def stop(self) -> None:
        """Stop reading."""
        self._stopped.set()

    def _run(self) -> None:
        while True:
            due = self._clock() + self._seconds
            self._take()
            if self._stopped.wait(max(0.1, due - self._clock())):
                return
            with self._lock:
                if self._clock() - self._looked > max(_OPEN_SECONDS, self._seconds):
                    self._runs = False
                    return

    def _take(self) -> None:
        metrics, error = _tried(self._read)
        if self._clock() >= self._hour_due:  # there can be something new in it
            self._hour_due = self._clock() + RECORD_EVERY_SECONDS
            if metrics is not None and (not self._own or metrics.at > self._own[-1].at):
                self._own.append(metrics)
            now = self._now()
            self._hour = _tried(lambda: Hour(self._read_record(now), now))
        with self._lock:
            if metrics is not None:
                self._history.add(metrics, self._now())
            self._sample = Sample(report(self._history), error, self._history.now, *self._hour)
        self._first.set()

    def _own_record(self, now: float) -> Sequence[PipelineMetrics]:
        self._own = [one for one in self._own if now - RECORDED_SECONDS <= one.at <= now]
        return self._own


def _tried(read: Callable[[], T]) -> tuple[T | None, EcomflowError | None]:
    """What ``read`` returns, or the error that it raises, for the page to show: nothing else handles errors of this thread."""
    try:
        return read(), None
    except EcomflowError as error:
        return None, error
    except Exception as error:  # noqa: BLE001
        return None, unexpected(error)
