"""Figures read one after the other flow in; rates, series for charts, and what is wrong flow out. The time is passed in.

A pipeline may be replaced or restarted meanwhile: its counts then begin anew, and no rate is taken across that.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np

from ecomflow.metrics.snapshot import ENDED, LOCAL, PipelineMetrics, quantile

KEPT_SECONDS = 300.0
# Rates of now are means over as long. Dataflow's metrics come less often: then from the last to the one before.
RATE_SECONDS = 10.0

# From when on a pipeline that has told nothing, or moved nothing, is in trouble. The local one tells each second; Dataflow about
# twice a minute, and Cloud Monitoring's backlog is minutes old.
SILENT_SECONDS = 10.0
_STUCK_SECONDS, _CLOUD_STUCK_SECONDS = 30.0, 600.0
_RESTARTS_SECONDS = 60.0

_LOOK = "See: ecomflow job logs"


class StepRates(msgspec.Struct, frozen=True):
    """As ``StepMetrics``, a second."""

    step: str
    messages_in: float
    messages_out: float
    refused: float


class TableRates(msgspec.Struct, frozen=True):
    """Rows that a table takes a second."""

    table: str
    rows: float


class Rates(msgspec.Struct, frozen=True):
    """What flows a second, as the mean of the last ``seconds``; steps and tables in the order of the metrics."""

    seconds: float
    received: float
    refused: float
    steps: tuple[StepRates, ...]
    tables: tuple[TableRates, ...]


class Latency(msgspec.Struct, frozen=True):
    """From publish to append, in seconds, of the ``messages`` written in the last ``seconds``; None: since the pipeline began."""

    messages: int
    p50: float | None
    p99: float | None
    seconds: float | None = None


class Report(msgspec.Struct, frozen=True):
    """All that a view shows of one moment."""

    metrics: PipelineMetrics
    rates: Rates | None
    latency: Latency
    trouble: str | None


class _Sample(NamedTuple):
    metrics: PipelineMetrics
    life: int  # counts the processes or jobs that the metrics were of


class History:
    """The metrics of the last minutes. Not safe for several threads at a time."""

    def __init__(self, kept_seconds: float = KEPT_SECONDS) -> None:
        self.kept_seconds = kept_seconds
        self.now = 0.0
        self._samples: deque[_Sample] = deque()

    def add(self, metrics: PipelineMetrics, now: float) -> None:
        """Add what was read at ``now``. Where the pipeline has told nothing new since, it takes the place of the last."""
        self.now = now
        life = 0
        if self._samples:
            last = self._samples[-1]
            life = last.life if _is_same_life(last.metrics, metrics) else last.life + 1
            # The last reading again; or the clock was put back, and what was read before lies in the future now.
            while life == last.life and self._samples and metrics.at <= self._samples[-1].metrics.at:
                self._samples.pop()
        self._samples.append(_Sample(metrics, life))
        while len(self._samples) > 2 and self._samples[1].metrics.at < now - self.kept_seconds:
            self._samples.popleft()

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def latest(self) -> PipelineMetrics | None:
        return self._samples[-1].metrics if self._samples else None

    def life(self, seconds: float = math.inf) -> list[PipelineMetrics]:
        """The metrics since the pipeline of now began, of the last ``seconds``, but the last two at least where there are two."""
        last = self._samples[-1] if self._samples else None
        found: list[PipelineMetrics] = []
        for sample in reversed(self._samples):
            assert last is not None
            is_old = len(found) > 1 and sample.metrics.at < last.metrics.at - seconds
            if is_old or sample.life != last.life:
                break
            found.append(sample.metrics)
        return found[::-1]

    def rates(self, seconds: float = RATE_SECONDS) -> Rates | None:
        """What flows a second just now; None where nothing runs, or where it was read but once."""
        life = self.life(seconds)
        if len(life) < 2 or life[-1].state in ENDED:
            return None
        first, last = life[0], life[-1]
        took = last.at - first.at
        if took <= 0:  # a clock was put back
            return None

        def pace(of: Callable[[PipelineMetrics], int]) -> float:
            return max(0, of(last) - of(first)) / took

        return Rates(
            took,
            pace(lambda metrics: metrics.received),
            pace(lambda metrics: sum(metrics.refused.values())),
            tuple(
                StepRates(step.step, *(pace(_of_step(step.step, part)) for part in ("messages_in", "messages_out", "refused")))
                for step in last.steps
            ),
            tuple(TableRates(table.table, pace(rows_of(table.table))) for table in last.tables),
        )

    def latency(self, seconds: float = 60.0) -> Latency:
        """Of the messages written in the last ``seconds``; where there are none, of all since the pipeline began."""
        life = self.life(seconds)
        if not life:
            return Latency(0, None, None)
        recent = [max(0, now - then) for now, then in zip(life[-1].latency, life[0].latency, strict=True)]
        if len(life) > 1 and any(recent):
            return _latency(recent, life[-1].at - life[0].at)
        return _latency(life[-1].latency, None)

    def series(self, of: Callable[[PipelineMetrics], int], columns: int, seconds: float | None = None) -> list[float | None]:
        """``of`` a second in each of ``columns`` equal parts of the last ``seconds``, oldest first; None: not looked at then.

        The parts begin at multiples of their own length, so that a part does not change once its time is over.
        """
        if len(self._samples) < 2:
            return [None] * columns
        width = (seconds or self.kept_seconds) / columns
        edges = (math.floor(self.now / width) + np.arange(1 - columns, 2)) * width
        times = np.maximum.accumulate([sample.metrics.at for sample in self._samples])
        counts = np.array([of(sample.metrics) for sample in self._samples])
        is_new = np.diff([sample.life for sample in self._samples]) > 0
        grown = np.cumsum([0, *np.where(is_new, 0, np.maximum(np.diff(counts), 0))])
        seen = np.clip(edges, times[0], times[-1])
        parts = zip(np.diff(np.interp(seen, times, grown)), np.diff(seen), strict=True)
        return [float(more / length) if length > 0 else None for more, length in parts]


def report(history: History) -> Report | None:
    """All that is known of the last moment; None where there is none."""
    if history.latest is None:
        return None
    return Report(history.latest, history.rates(), history.latency(), trouble(history))


def rows_of(table: str) -> Callable[[PipelineMetrics], int]:
    """The rows of ``table``, for ``History.series``."""
    return lambda metrics: next((found.rows for found in metrics.tables if found.table == table), 0)


def messages_in_by(step: str) -> Callable[[PipelineMetrics], int]:
    """Messages into ``step``, or out of it where it is the first, for ``History.series``."""
    taken, put = _of_step(step, "messages_in"), _of_step(step, "messages_out")
    return lambda metrics: taken(metrics) or put(metrics)


def trouble(history: History) -> str | None:
    """Why the pipeline does not flow as it should, in a sentence, and the next command; None where it does.

    It does not run; or it has told nothing for a while, restarts, waits for a service, or moves nothing although messages wait.
    """
    metrics = history.latest
    if metrics is None:
        return None
    if metrics.state in ENDED:
        return _why_nothing_runs(metrics)
    silent = history.now - metrics.at
    if metrics.where == LOCAL and silent > SILENT_SECONDS:
        return f"The pipeline ({metrics.name}) has told nothing for {silent:.0f} s: it hangs, or its disk is full. {_LOOK}"
    if metrics.waiting_for:
        return f"The pipeline waits for {_ended(metrics.waiting_for)} See: ecomflow infra status"
    restarts = metrics.restarts - history.life(_RESTARTS_SECONDS)[0].restarts
    if restarts > 0:
        return f"The pipeline has restarted in the last minute, {metrics.restarts:,} times in all{_because(metrics)}"
    return _stuck(history, metrics)


def _why_nothing_runs(metrics: PipelineMetrics) -> str:
    waits = f"; {_waits(metrics)}" if metrics.backlog else ""
    named = f"The pipeline ({metrics.name})" if metrics.name else "The pipeline"
    start = f"Start it with: ecomflow deploy{' --detach' if metrics.where == LOCAL else ''}"
    if metrics.state == "none":
        # Here the backlog is not known where the local stack does not run, which has to come first.
        unready = metrics.backlog_unknown if metrics.where == LOCAL else None
        return f"No pipeline runs{waits}. {_on_one_line(unready) if unready else start}"
    if metrics.state == "gone":
        return f"{named} was killed{waits}; what it had not acknowledged comes again. {start}"
    if metrics.state == "failed":
        return f"{named} has failed{waits}{_because(metrics)}"
    return f"{named} has ended as {metrics.state}{waits}. {start}"


def _stuck(history: History, metrics: PipelineMetrics) -> str | None:
    """Messages wait, the oldest long enough, and nothing has moved for as long."""
    patience = _STUCK_SECONDS if metrics.where == LOCAL else _CLOUD_STUCK_SECONDS
    still = metrics.at - _last_moved(history.life())
    if not metrics.backlog or still < patience or (metrics.oldest_unacked_seconds or patience) < patience:
        return None
    why = _because(metrics) if metrics.restarts else f"{_held(metrics)}. {_LOOK}"
    return f"{_waits(metrics)}, and nothing has moved for {still:.0f} s{why}"


def _held(metrics: PipelineMetrics) -> str:
    """The first step with messages that it has neither passed on nor refused: the steps after it wait for it."""
    for step in metrics.steps:
        if (held := step.messages_in - step.messages_out - step.refused) > 0:
            return f": the step '{step.step}' holds {held:,}"
    return ""


def _waits(metrics: PipelineMetrics) -> str:
    return "1 message waits" if metrics.backlog == 1 else f"{metrics.backlog:,} messages wait"


def _because(metrics: PipelineMetrics) -> str:
    """The last failure, which may bring what to do along."""
    return f". {_LOOK}" if not metrics.last_failure else f": {_ended(metrics.last_failure)} {_LOOK}"


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _ended(sentence: str) -> str:
    text = _on_one_line(sentence)
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _last_moved(life: Sequence[PipelineMetrics]) -> float:
    """When a count last changed, or rows were appended; as far as is known, when the pipeline began."""
    first, last = life[0], life[-1]
    known = [first.started or first.at, *(table.last_append for table in last.tables if table.last_append)]
    if first.received and not any(table.last_append for table in last.tables):
        known.append(first.at)  # what came in before it was looked at has no time
    known += [after.at for before, after in pairwise(life) if _moved(before) != _moved(after)]
    return max(known)


def _moved(metrics: PipelineMetrics) -> tuple[int, int, int]:
    return metrics.received, sum(table.rows for table in metrics.tables), sum(metrics.refused.values())


def _is_same_life(before: PipelineMetrics, after: PipelineMetrics) -> bool:
    """Whether both are of one process or job, whose counts have not begun anew."""
    fallen = any(now < then for then, now in zip(_moved(before), _moved(after), strict=True))
    return before.started == after.started and not fallen


def _of_step(name: str, part: str) -> Callable[[PipelineMetrics], int]:
    return lambda metrics: next((int(getattr(step, part)) for step in metrics.steps if step.step == name), 0)


def _latency(buckets: Sequence[int], seconds: float | None) -> Latency:
    return Latency(sum(buckets), quantile(buckets, 0.5), quantile(buckets, 0.99), seconds)
