"""The metrics of the last hour: the running pipeline's readings in, lines of a file in its state folder; series for charts out.

The pipeline writes the file itself, so the hour is known however seldom anybody looks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import msgspec

from ecomflow.errors import EcomflowError
from ecomflow.metrics.history import is_same_life
from ecomflow.metrics.snapshot import LOCAL, PipelineMetrics, StepMetrics, TableMetrics, quantile
from ecomflow.processes.json_lines import append_line, lines_backwards
from ecomflow.processes.state_folder import access_error

log = logging.getLogger(__name__)

RECORD_FILE = "metrics.jsonl"
RECORDED_SECONDS = 3600.0
RECORD_EVERY_SECONDS = 10.0
# A line has about 1 KB with the built-in contracts, so a file has some six hours.
MAX_BYTES = 2 * 2**20

# Between two readings that are further apart nothing is known: the pipeline did not run, or the machine was suspended.
_MAX_GAP_SECONDS = 60.0
_END_SECONDS = 2.0

Series = tuple[float | None, ...]


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the file: fields of ``PipelineMetrics``; of each step messages in, out and refused; of each table its rows."""

    at: float
    started: float | None = None
    received: int = 0
    refused: dict[str, int] = {}
    steps: dict[str, tuple[int, int, int]] = {}
    rows: dict[str, int] = {}
    latency: tuple[int, ...] = ()
    backlog: int | None = None
    oldest: float | None = None


_decoder = msgspec.json.Decoder(Line)


def line_of(metrics: PipelineMetrics) -> Line:
    """What the file keeps of ``metrics``."""
    return Line(
        metrics.at,
        metrics.started,
        metrics.received,
        metrics.refused,
        {step.step: (step.messages_in, step.messages_out, step.refused) for step in metrics.steps},
        {table.table: table.rows for table in metrics.tables},
        metrics.latency,
        metrics.backlog,
        metrics.oldest_unacked_seconds,
    )


def metrics_of(line: Line) -> PipelineMetrics:
    """The metrics of which ``line`` was made, with what the line has of them."""
    kept = PipelineMetrics(line.at, "running", LOCAL)
    return msgspec.structs.replace(
        kept,
        started=line.started,
        steps=tuple(StepMetrics(step, *counts) for step, counts in line.steps.items()),
        tables=tuple(TableMetrics(table, rows) for table, rows in line.rows.items()),
        refused=line.refused,
        received=line.received,
        latency=line.latency if len(line.latency) == len(kept.latency) else kept.latency,
        backlog=line.backlog,
        oldest_unacked_seconds=line.oldest,
    )


def read_record(state_path: Path, now: float, seconds: float = RECORDED_SECONDS) -> list[PipelineMetrics]:
    """The recorded metrics of the last ``seconds`` up to ``now``, oldest first. Damaged lines are left out, and those of the
    future, which the clock was set back from. Raises AccessError.
    """
    path = state_path / RECORD_FILE
    try:
        lines = list(lines_backwards(path))
    except OSError as error:
        raise access_error(path, error, "read") from error
    found: list[PipelineMetrics] = []
    for text in lines:
        try:
            line = _decoder.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError):  # truncated by a full disk or a power cut
            continue
        if line.at < now - seconds:
            break
        if line.at <= (found[-1].at if found else now):
            found.append(metrics_of(line))
    return found[::-1]


@contextmanager
def recorded(read: Callable[[], PipelineMetrics], state_path: Path, seconds: float = RECORD_EVERY_SECONDS) -> Iterator[None]:
    """Inside the block, append the result of ``read`` to the file in ``state_path`` every ``seconds``, and once at the end.

    Only a pipeline's own metrics are recorded, each once. Metrics that can't be read are left out; if the file can't be written,
    that is logged once, and the pipeline continues.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_record, args=(read, state_path, seconds, ended), name="record", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_END_SECONDS)  # it may be waiting for a service that does not answer


def _record(read: Callable[[], PipelineMetrics], state_path: Path, seconds: float, ended: threading.Event) -> None:
    began, last, is_over, writable = time.time(), 0.0, False, True
    while not is_over:
        # Until the pipeline has reported something, soon again.
        is_over = ended.wait(seconds if last else min(seconds, 1.0))
        try:
            metrics = read()
            if metrics.started is None or metrics.started < began - seconds or metrics.at == last:
                continue  # the status of an earlier pipeline, or the same again
            append_line(state_path / RECORD_FILE, msgspec.json.encode(line_of(metrics)), MAX_BYTES)
        except EcomflowError:
            continue
        except OSError as error:
            if writable:
                log.warning("The pipeline continues, but can't record its metrics: %s: %s", RECORD_FILE, error.strerror)
            writable = False
        else:
            last, writable = metrics.at, True


class Hour:
    """The last ``seconds`` up to ``now`` in ``columns`` equal parts, from ``readings`` in their order.

    The parts end at multiples of their own length, so one no longer changes once it is over. A series has a value for each part,
    None where nothing is known.
    """

    def __init__(
        self, readings: Sequence[PipelineMetrics], now: float, columns: int = 120, seconds: float = RECORDED_SECONDS
    ) -> None:
        self.width = seconds / columns
        self._last = int(now // self.width)
        self._columns = columns
        self._readings: list[list[PipelineMetrics]] = [[] for _ in range(columns)]
        self._pairs: list[list[tuple[PipelineMetrics, PipelineMetrics]]] = [[] for _ in range(columns)]
        for after in readings:
            if (column := self._column(after.at)) is not None:
                self._readings[column].append(after)
        for before, after in pairwise(readings):
            if (column := self._column(after.at)) is not None and _is_one_interval(before, after):
                self._pairs[column].append((before, after))

    @property
    def ends(self) -> tuple[float, ...]:
        """The end of each part, in seconds since the epoch."""
        return tuple((self._last - back + 1) * self.width for back in reversed(range(self._columns)))

    def rate(self, of: Callable[[PipelineMetrics], int]) -> Series:
        """The growth of ``of`` per second."""
        return tuple(_rate(pairs, of) for pairs in self._pairs)

    def highest(self, of: Callable[[PipelineMetrics], float | None]) -> Series:
        """The highest value of ``of``."""
        known = ([value for one in readings if (value := of(one)) is not None] for readings in self._readings)
        return tuple(max(values, default=None) for values in known)

    def latency(self, share: float) -> Series:
        """The quantile ``share`` of the latency from publish to append, in seconds, of the messages written meanwhile."""
        return tuple(quantile(_grown(pairs), share) for pairs in self._pairs)

    def _column(self, at: float) -> int | None:
        column = int(at // self.width) - self._last + self._columns - 1
        return column if 0 <= column < self._columns else None


def _is_one_interval(before: PipelineMetrics, after: PipelineMetrics) -> bool:
    return 0 < after.at - before.at <= _MAX_GAP_SECONDS and is_same_life(before, after)


def _rate(pairs: Sequence[tuple[PipelineMetrics, PipelineMetrics]], of: Callable[[PipelineMetrics], int]) -> float | None:
    if not pairs:
        return None
    return sum(max(0, of(after) - of(before)) for before, after in pairs) / sum(after.at - before.at for before, after in pairs)


def _grown(pairs: Sequence[tuple[PipelineMetrics, PipelineMetrics]]) -> list[int]:
    """The messages in each bucket of the latency histogram."""
    each = ([max(0, now - then) for then, now in zip(before.latency, after.latency, strict=True)] for before, after in pairs)
    return [sum(bucket) for bucket in zip(*each, strict=True)]
