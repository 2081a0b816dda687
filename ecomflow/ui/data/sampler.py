"""Reads the pipeline's metrics once a second for all open pages, and not at all while there are none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import msgspec

from ecomflow.errors import EcomflowError
from ecomflow.metrics.history import KEPT_SECONDS, History, Report, report, rows_of
from ecomflow.metrics.snapshot import PipelineMetrics
from ecomflow.ui.data.readings import unexpected

# A page counts as open for this long after its last request.
_OPEN_SECONDS = 5.0
_COLUMNS = 100
_SPARK_COLUMNS = 50

Series = tuple[float | None, ...]


class Sample(msgspec.Struct, frozen=True):
    """The latest reading, or why it failed (``error``). ``now``: seconds since the epoch.

    The series are rates per second, oldest first, over the last ``KEPT_SECONDS`` up to ``now``; None: no reading then.
    """

    report: Report | None = None
    error: EcomflowError | None = None
    now: float = 0.0
    received: Series = ()
    refused: Series = ()
    rows: Series = ()


class Sampler:
    """Reads in its own thread, which ends when nobody has called ``look`` for some seconds and restarts with the next call."""

    def __init__(
        self,
        read: Callable[[], PipelineMetrics],
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._read, self._seconds, self._clock, self._now = read, seconds, clock, now
        self._lock = threading.Lock()
        self._history = History()
        self._sample = Sample()
        self._looked = 0.0
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

    def tables(self, names: Iterable[str]) -> dict[str, Series]:
        """The rows per second of each table of ``names``, as series like those of a sample."""
        with self._lock:
            return {name: tuple(self._history.series(rows_of(name), _SPARK_COLUMNS)) for name in names}

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
        metrics = error = None
        try:
            metrics = self._read()
        except EcomflowError as caught:
            error = caught
        except Exception as caught:  # noqa: BLE001  # shown on the page: nothing else handles errors of this thread
            error = unexpected(caught)
        with self._lock:
            if metrics is not None:
                self._history.add(metrics, self._now())
            self._sample = _sample(self._history, error)
        self._first.set()


def _sample(history: History, error: EcomflowError | None) -> Sample:
    return Sample(
        report(history),
        error,
        history.now,
        tuple(history.series(lambda metrics: metrics.received, _COLUMNS)),
        tuple(history.series(lambda metrics: sum(metrics.refused.values()), _COLUMNS)),
        tuple(history.series(lambda metrics: sum(table.rows for table in metrics.tables), _COLUMNS)),
    )


def times(series: Series, now: float) -> list[tuple[float, float | None]]:
    """The values of a series, each with the end of its interval in seconds since the epoch."""
    width = KEPT_SECONDS / max(len(series), 1)
    last = now // width * width + width
    return [(last - (len(series) - 1 - place) * width, value) for place, value in enumerate(series)]
