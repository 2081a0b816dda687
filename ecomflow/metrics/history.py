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

from ecomflow.metrics.snapshot import ENDED, LOCAL, Figures, quantile

KEPT_SECONDS = 300.0
# Rates of now are means over as long. Dataflow's figures come less often: then from the last to the one before.
RATE_SECONDS = 10.0

# From when on a pipeline that has told nothing, or moved nothing, is in trouble. The local one tells each second; Dataflow about
# twice a minute, and Cloud Monitoring's backlog is minutes old.
SILENT_SECONDS = 10.0
_STUCK_SECONDS, _CLOUD_STUCK_SECONDS = 30.0, 600.0
_RESTARTS_SECONDS = 60.0

_LOOK = "See: ecomflow job logs"


class StepRates(msgspec.Struct, frozen=True):
    """As ``StepFigures``, a second."""

    step: str
    taken_in: float
    put_out: float
    refused: float


class TableRates(msgspec.Struct, frozen=True):
    """Rows that a table takes a second."""

    table: str
    rows: float


class Rates(msgspec.Struct, frozen=True):
    """What flows a second, as the mean of the last ``seconds``; steps and tables in the order of the figures."""

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

    figures: Figures
    rates: Rates | None
    latency: Latency
    trouble: str | None


class _Sample(NamedTuple):
    figures: Figures
    life: int  # counts the processes or jobs that the figures were of


class History:
    """The figures of the last minutes. Not safe for several threads at a time."""

    def __init__(self, kept_seconds: float = KEPT_SECONDS) -> None:
        self.kept_seconds = kept_seconds
        self.now = 0.0
        self._samples: deque[_Sample] = deque()

    def add(self, figures: Figures, now: float) -> None:
        """Add what was read at ``now``. Where the pipeline has told nothing new since, it takes the place of the last."""
        self.now = now
        life = 0
        if self._samples:
            last = self._samples[-1]
            life = last.life if _is_same_life(last.figures, figures) else last.life + 1
            if life == last.life and figures.at <= last.figures.at:
                self._samples.pop()
        self._samples.append(_Sample(figures, life))
        while len(self._samples) > 2 and self._samples[1].figures.at < now - self.kept_seconds:
            self._samples.popleft()

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def latest(self) -> Figures | None:
        return self._samples[-1].figures if self._samples else None

    def life(self, seconds: float = math.inf) -> list[Figures]:
        """The figures since the pipeline of now began, of the last ``seconds``, but the last two at least where there are two."""
        last = self._samples[-1] if self._samples else None
        found: list[Figures] = []
        for sample in reversed(self._samples):
            assert last is not None
            is_old = len(found) > 1 and sample.figures.at < last.figures.at - seconds
            if is_old or sample.life != last.life:
                break
            found.append(sample.figures)
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

        def pace(of: Callable[[Figures], int]) -> float:
            return max(0, of(last) - of(first)) / took

        return Rates(
            took,
            pace(lambda figures: figures.received),
            pace(lambda figures: sum(figures.refused.values())),
            tuple(
                StepRates(step.step, *(pace(_of_step(step.step, part)) for part in ("taken_in", "put_out", "refused")))
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

    def series(self, of: Callable[[Figures], int], columns: int, seconds: float | None = None) -> list[float | None]:
        """``of`` a second in each of ``columns`` equal parts of the last ``seconds``, oldest first; None: not looked at then.

        The parts begin at multiples of their own length, so that a part does not change once its time is over.
        """
        if len(self._samples) < 2:
            return [None] * columns
        width = (seconds or self.kept_seconds) / columns
        edges = (math.floor(self.now / width) + np.arange(1 - columns, 2)) * width
        times = np.maximum.accumulate([sample.figures.at for sample in self._samples])
        counts = np.array([of(sample.figures) for sample in self._samples])
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


def rows_of(table: str) -> Callable[[Figures], int]:
    """The rows of ``table``, for ``History.series``."""
    return lambda figures: next((found.rows for found in figures.tables if found.table == table), 0)


def taken_in_by(step: str) -> Callable[[Figures], int]:
    """What ``step`` has taken in, or put out where it is the first, for ``History.series``."""
    taken, put = _of_step(step, "taken_in"), _of_step(step, "put_out")
    return lambda figures: taken(figures) or put(figures)


def trouble(history: History) -> str | None:
    """Why the pipeline does not flow as it should, in a sentence, and the next command; None where it does.

    It does not run; or it has told nothing for a while, restarts, waits for a service, or moves nothing although messages wait.
    """
    figures = history.latest
    if figures is None:
        return None
    if figures.state in ENDED:
        return _why_nothing_runs(figures)
    silent = history.now - figures.at
    if figures.where == LOCAL and silent > SILENT_SECONDS:
        return f"The pipeline ({figures.name}) has told nothing for {silent:.0f} s: it hangs, or its disk is full. {_LOOK}"
    if figures.waiting_for:
        return f"The pipeline waits for {_ended(figures.waiting_for)} See: ecomflow infra status"
    restarts = figures.restarts - history.life(_RESTARTS_SECONDS)[0].restarts
    if restarts > 0:
        return f"The pipeline has restarted in the last minute, {figures.restarts:,} times in all{_because(figures)}"
    return _stuck(history, figures)


def _why_nothing_runs(figures: Figures) -> str:
    waits = f"; {_waits(figures)}" if figures.backlog else ""
    named = f"The pipeline ({figures.name})" if figures.name else "The pipeline"
    start = f"Start it with: ecomflow deploy{' --detach' if figures.where == LOCAL else ''}"
    if figures.state == "none":
        # Here the backlog is not known where the local stack does not run, which has to come first.
        unready = figures.backlog_unknown if figures.where == LOCAL else None
        return f"No pipeline runs{waits}. {_on_one_line(unready) if unready else start}"
    if figures.state == "gone":
        return f"{named} was killed{waits}; what it had not acknowledged comes again. {start}"
    if figures.state == "failed":
        return f"{named} has failed{waits}{_because(figures)}"
    return f"{named} has ended as {figures.state}{waits}. {start}"


def _stuck(history: History, figures: Figures) -> str | None:
    """Messages wait, the oldest long enough, and nothing has moved for as long."""
    patience = _STUCK_SECONDS if figures.where == LOCAL else _CLOUD_STUCK_SECONDS
    still = figures.at - _last_moved(history.life())
    if not figures.backlog or still < patience or (figures.oldest_unacked_seconds or patience) < patience:
        return None
    why = _because(figures) if figures.restarts else f"{_held(figures)}. {_LOOK}"
    return f"{_waits(figures)}, and nothing has moved for {still:.0f} s{why}"


def _held(figures: Figures) -> str:
    """The first step that has taken in what it has neither put out nor refused: those behind it wait for it."""
    for step in figures.steps:
        if (held := step.taken_in - step.put_out - step.refused) > 0:
            return f": the step '{step.step}' holds {held:,}"
    return ""


def _waits(figures: Figures) -> str:
    return "1 message waits" if figures.backlog == 1 else f"{figures.backlog:,} messages wait"


def _because(figures: Figures) -> str:
    """The last failure, which may bring what to do along."""
    return f". {_LOOK}" if not figures.last_failure else f": {_ended(figures.last_failure)} {_LOOK}"


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _ended(sentence: str) -> str:
    text = _on_one_line(sentence)
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _last_moved(life: Sequence[Figures]) -> float:
    """When a count last changed, or rows were appended; as far as is known, when the pipeline began."""
    first, last = life[0], life[-1]
    known = [first.started or first.at, *(table.last_append for table in last.tables if table.last_append)]
    if first.received and not any(table.last_append for table in last.tables):
        known.append(first.at)  # what came in before it was looked at has no time
    known += [after.at for before, after in pairwise(life) if _moved(before) != _moved(after)]
    return max(known)


def _moved(figures: Figures) -> tuple[int, int, int]:
    return figures.received, sum(table.rows for table in figures.tables), sum(figures.refused.values())


def _is_same_life(before: Figures, after: Figures) -> bool:
    """Whether both are of one process or job, whose counts have not begun anew."""
    fallen = any(now < then for then, now in zip(_moved(before), _moved(after), strict=True))
    return before.started == after.started and not fallen


def _of_step(name: str, part: str) -> Callable[[Figures], int]:
    return lambda figures: next((int(getattr(step, part)) for step in figures.steps if step.step == name), 0)


def _latency(buckets: Sequence[int], seconds: float | None) -> Latency:
    return Latency(sum(buckets), quantile(buckets, 0.5), quantile(buckets, 0.99), seconds)
