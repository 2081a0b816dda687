"""Successive readings of the metrics in; rates, series for charts, and the pipeline's condition out. The time is passed in.

A pipeline may be replaced or restarted between two readings. Its counters then start again at zero, and no rate spans that.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np

from ecomflow.metrics.moments import LEAST_STEP
from ecomflow.metrics.snapshot import ENDED, ENDED_BADLY, LOCAL, PipelineMetrics, quantile

KEPT_SECONDS = 300.0
# Current rates are means over this interval. Dataflow updates its metrics less often: then the last two readings are used.
RATE_SECONDS = 10.0

# After these times without metrics, or without progress, a pipeline has a problem. The local one reports every second, Dataflow
# about twice a minute, and Cloud Monitoring's backlog is minutes old.
SILENT_SECONDS = 10.0
_STUCK_SECONDS, _CLOUD_STUCK_SECONDS = 30.0, 600.0
_RESTARTS_SECONDS = 60.0

_LOOK = "See: ecomflow job logs"


class StepRates(msgspec.Struct, frozen=True):
    """Like ``StepMetrics``, per second."""

    step: str
    messages_in: float
    messages_out: float
    refused: float


class TableRates(msgspec.Struct, frozen=True):
    """Rows appended to a table per second."""

    table: str
    rows: float


class Rates(msgspec.Struct, frozen=True):
    """Rates per second, as means over the last ``seconds``; steps and tables in the order of the metrics."""

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


class Condition(msgspec.Struct, frozen=True):
    """What a pipeline does: the one judgement that all commands and the page show.

    ``name``: its state, as in ``PipelineMetrics``; or for one that runs and is in trouble: ``silent`` (it reports nothing),
    ``degraded`` (a service of the local stack does not answer), ``waiting`` (for a service or a fix), ``restarting`` (in the last
    minute) or ``stuck`` (there is a backlog, and no progress). ``trouble``: a sentence with the next command; None: all is well.
    """

    name: str
    trouble: str | None = None


# The names of conditions in which a pipeline does not do its work, for the exit code.
FAILING = ENDED_BADLY | {"silent", "degraded", "waiting", "restarting", "stuck"}


class Report(msgspec.Struct, frozen=True):
    """Everything that a view shows at one time. ``condition``: the name of the Condition."""

    metrics: PipelineMetrics
    rates: Rates | None
    latency: Latency
    condition: str
    trouble: str | None


class _Sample(NamedTuple):
    metrics: PipelineMetrics
    life: int  # number of the process or job that the metrics belong to


class History:
    """The metrics of the last minutes. Not thread-safe."""

    def __init__(self, kept_seconds: float = KEPT_SECONDS) -> None:
        self.kept_seconds = kept_seconds
        self.now = 0.0
        self._samples: deque[_Sample] = deque()

    def add(self, metrics: PipelineMetrics, now: float) -> None:
        """Add a reading made at ``now``. It replaces the previous one if the pipeline has reported nothing new since.

        If the clock was set back since the previous one, all earlier readings are dropped: they would be in the future.
        """
        if now < self.now - LEAST_STEP:
            self._samples.clear()
        self.now = now
        life = 0
        if self._samples:
            last = self._samples[-1]
            life = last.life if is_same_life(last.metrics, metrics) else last.life + 1
            # The same reading again; or the clock was set back, and earlier readings are now in the future.
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
        """The readings of the current pipeline in the last ``seconds``, and at least the last two if there are two."""
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
        """The current rates; None if nothing runs or if there is only one reading."""
        life = self.life(seconds)
        if len(life) < 2 or life[-1].state in ENDED:
            return None
        first, last = life[0], life[-1]
        took = last.at - first.at
        if took <= 0:  # the clock was set back
            return None

        def pace(of: Callable[[PipelineMetrics], int]) -> float:
            return max(0, of(last) - of(first)) / took

        return Rates(
            took,
            pace(lambda metrics: metrics.received),
            pace(lambda metrics: sum(metrics.refused.values())),
            tuple(
                StepRates(step.step, *(pace(in_step(step.step, part)) for part in ("messages_in", "messages_out", "refused")))
                for step in last.steps
            ),
            tuple(TableRates(table.table, pace(rows_of(table.table))) for table in last.tables),
        )

    def latency(self, seconds: float = 60.0) -> Latency:
        """The latency of the messages written in the last ``seconds``; if there are none, of all since the pipeline started."""
        life = self.life(seconds)
        if not life:
            return Latency(0, None, None)
        recent = [max(0, now - then) for now, then in zip(life[-1].latency, life[0].latency, strict=True)]
        if len(life) > 1 and any(recent):
            return _latency(recent, life[-1].at - life[0].at)
        return _latency(life[-1].latency, None)

    def series(self, of: Callable[[PipelineMetrics], int], columns: int, seconds: float | None = None) -> list[float | None]:
        """The rate of ``of`` in each of ``columns`` equal parts of the last ``seconds``, oldest first; None: no reading then.

        The parts start at multiples of their own length, so a part no longer changes once it is over.
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
    """The report on the last reading; None if there is none."""
    if history.latest is None:
        return None
    found = condition(history)
    return Report(history.latest, history.rates(), history.latency(), found.name, found.trouble)


def rows_of(table: str) -> Callable[[PipelineMetrics], int]:
    """The rows of ``table``, for ``History.series``."""
    return lambda metrics: next((found.rows for found in metrics.tables if found.table == table), 0)


def in_step(step: str, part: str) -> Callable[[PipelineMetrics], int]:
    """``part`` of the StepMetrics of ``step``, as ``messages_in``, for series."""
    return lambda metrics: next((int(getattr(found, part)) for found in metrics.steps if found.step == step), 0)


def messages_in_by(step: str) -> Callable[[PipelineMetrics], int]:
    """Messages into ``step``, or out of it if it is the first, for ``History.series``."""
    taken, put = in_step(step, "messages_in"), in_step(step, "messages_out")
    return lambda metrics: taken(metrics) or put(metrics)


def condition_now(metrics: PipelineMetrics, now: float) -> Condition:
    """The condition by a single reading, made at ``now``."""
    history = History()
    history.add(metrics, now)
    return condition(history)


def condition(history: History) -> Condition:
    """The condition at the last reading, of which there must be one."""
    metrics = history.latest
    assert metrics is not None
    if metrics.state in ENDED:
        return Condition(metrics.state, _why_nothing_runs(metrics))
    silent = history.now - metrics.at
    if not metrics.name:  # the local pipeline's status is damaged
        return Condition("silent", f"The pipeline runs. {_ended(metrics.last_failure or '')} {_LOOK}")
    if metrics.where == LOCAL and silent > SILENT_SECONDS:
        sentence = (
            f"The pipeline ({metrics.name}) has reported nothing for {silent:.0f} s: it hangs, or the disk is full. {_LOOK}"
        )
        return Condition("silent", sentence)
    if metrics.silent_services:
        return Condition("degraded", _without_services(metrics))
    if metrics.waiting_for:
        return Condition("waiting", f"The pipeline is waiting for {_ended(metrics.waiting_for)} See: ecomflow infra status")
    if metrics.last_restart is not None and metrics.at - metrics.last_restart < _RESTARTS_SECONDS:
        sentence = f"The pipeline has restarted in the last minute, {metrics.restarts:,} times in total{_because(metrics)}"
        return Condition("restarting", sentence)
    stuck = _stuck(history, metrics)
    return Condition(metrics.state) if stuck is None else Condition("stuck", stuck)


def _without_services(metrics: PipelineMetrics) -> str:
    names, verb = " and ".join(metrics.silent_services), "does" if len(metrics.silent_services) == 1 else "do"
    waits = f", and the pipeline is waiting for {_ended(metrics.waiting_for)}" if metrics.waiting_for else "."
    return f"{names} of the local stack {verb} not answer{waits} Run: ecomflow infra up"


def _why_nothing_runs(metrics: PipelineMetrics) -> str:
    waits = f"; {_waits(metrics)}" if metrics.backlog else ""
    named = f"The pipeline ({metrics.name})" if metrics.name else "The pipeline"
    start = f"Start it with: ecomflow deploy{' --detach' if metrics.where == LOCAL else ''}"
    if metrics.state == "none":
        # Locally the backlog is unknown if the local stack does not run, and the remedy, on a line of its own, comes first. The
        # backlog of another emulator is unknown without a remedy.
        unready = (metrics.backlog_unknown or "") if metrics.where == LOCAL else ""
        first = _on_one_line(unready) if "\n" in unready else start
        return f"No pipeline is running{waits}. {first}"
    if metrics.state == "gone":
        return f"{named} was killed{waits}; unacknowledged messages will be redelivered. {start}"
    if metrics.state == "failed":
        return f"{named} has failed{waits}{_because(metrics)}"
    return f"{named} has ended as {metrics.state}{waits}. {start}"


def _stuck(history: History, metrics: PipelineMetrics) -> str | None:
    """There is a backlog, its oldest message is old enough, and nothing has moved for as long."""
    patience = _STUCK_SECONDS if metrics.where == LOCAL else _CLOUD_STUCK_SECONDS
    still = metrics.at - _last_moved(history.life())
    if not metrics.backlog or still < patience or (metrics.oldest_unacked_seconds or patience) < patience:
        return None
    why = _because(metrics) if metrics.restarts else f"{_held(metrics)}. {_LOOK}"
    return f"{_waits(metrics)}, and there has been no progress for {still:.0f} s{why}"


def _held(metrics: PipelineMetrics) -> str:
    """The first step with messages that it has neither emitted nor refused: the steps after it wait for it."""
    for step in metrics.steps:
        if (held := step.messages_in - step.messages_out - step.refused) > 0:
            return f": the step '{step.step}' has {held:,} in flight"
    return ""


def _waits(metrics: PipelineMetrics) -> str:
    return "1 message is waiting" if metrics.backlog == 1 else f"{metrics.backlog:,} messages are waiting"


def _because(metrics: PipelineMetrics) -> str:
    """The last failure, which may include its own remedy."""
    return f". {_LOOK}" if not metrics.last_failure else f": {_ended(metrics.last_failure)} {_LOOK}"


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _ended(sentence: str) -> str:
    text = _on_one_line(sentence)
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _last_moved(life: Sequence[PipelineMetrics]) -> float:
    """When a counter last changed or rows were last appended; if unknown, when the pipeline started."""
    first, last = life[0], life[-1]
    known = [first.started or first.at, *(table.last_append for table in last.tables if table.last_append)]
    if first.received and not any(table.last_append for table in last.tables):
        known.append(first.at)  # it is unknown when the messages before the first reading arrived
    known += [after.at for before, after in pairwise(life) if _moved(before) != _moved(after)]
    return max(known)


def _moved(metrics: PipelineMetrics) -> tuple[int, int, int]:
    return metrics.received, sum(table.rows for table in metrics.tables), sum(metrics.refused.values())


def is_same_life(before: PipelineMetrics, after: PipelineMetrics) -> bool:
    """Whether both belong to one process or job whose counters have not been reset."""
    fallen = any(now < then for then, now in zip(_moved(before), _moved(after), strict=True))
    return before.started == after.started and not fallen


def _latency(buckets: Sequence[int], seconds: float | None) -> Latency:
    return Latency(sum(buckets), quantile(buckets, 0.5), quantile(buckets, 0.99), seconds)
