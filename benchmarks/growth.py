"""Question 7: question 3's own subject at growing backlogs and growing orders; do time and memory stay within their targets?

The runs are those of ``end_to_end``; this module chooses them, and calculates from their metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.measure import Metrics, Subject, median

SIZES = (10_000, 100_000, 1_000_000)
ITEMS = (1, 3, 30)
# A million orders and their like at 30 lines make 20 million rows, at 1 line a million; on a laptop those two take minutes each,
# and are left to ``--full``. Without it a size between the other two takes their place.
SHORT_SIZES = {1: (10_000, 30_000, 100_000), 3: SIZES, 30: (10_000, 30_000, 100_000)}
# Beyond so many events one round is enough: a run is long, and disturbances even out.
LONG = 100_000

TIME_WITHIN = 0.15
MEMORY_WITHIN = 0.20


class Run(NamedTuple):
    """One cell of the matrix: its size, and the medians of its rounds (seconds, megabytes, microseconds of CPU an event)."""

    items: int
    events: int
    rows: int
    seconds: float
    peak_mb: float
    cpu_us: dict[str, float]
    services_mb: dict[str, list[float]]


class Fit(NamedTuple):
    """seconds = start + per_event * events, fitted to minimise relative errors; ``off``: the largest relative error."""

    start: float
    per_event: float
    off: float


def subjects(is_full: bool) -> tuple[Subject, ...]:
    """A subject for each cell of the matrix."""
    matrix = dict.fromkeys(ITEMS, SIZES) if is_full else SHORT_SIZES
    return tuple(
        Subject(
            f"{events}x{items}",
            "end_to_end",
            "ecomflow",
            f"{events:,} events, {items} {'item' if items == 1 else 'items'} an order",
            ("--events", str(events), "--items", str(items)),
            max_rounds=1 if events > LONG else None,
        )
        for items, sizes in matrix.items()
        for events in sizes
    )


def runs(results: Mapping[str, Sequence[Metrics]]) -> list[Run]:
    """The cells that have metrics, by items and events."""
    found = []
    for key, rounds in results.items():
        good = [metrics for metrics in rounds if "error" not in metrics]
        if good:
            found.append(_run(int(key.partition("x")[2]), good))
    return sorted(found)


def _run(items: int, good: Sequence[Metrics]) -> Run:
    events = good[0]["events"]
    cpu = {name: median([metrics["cpu"] for metrics in good], name) or 0.0 for name in good[0]["cpu"]}
    return Run(
        items,
        events,
        good[0]["rows"],
        median(good, "seconds") or 0.0,
        median(good, "peak_mb") or 0.0,
        {name: seconds / events * 1e6 for name, seconds in cpu.items()},
        good[0]["services_mb"],
    )


def fit(cells: Sequence[Run]) -> Fit | None:
    """The line through the times of ``cells``, which differ in their events; None for fewer than three."""
    if len(cells) < 3:
        return None
    events, seconds = np.array([cell.events for cell in cells], float), np.array([cell.seconds for cell in cells])
    per_event, start = np.polyfit(events, seconds, 1, w=1 / seconds)
    off = np.abs(seconds / (start + per_event * events) - 1).max()
    return Fit(float(start), float(per_event), float(off))


def spread(cells: Sequence[Run]) -> float:
    """How much more memory the largest of ``cells`` took than the smallest: 0.2 is 20 % more."""
    peaks = [cell.peak_mb for cell in cells]
    return max(peaks) / min(peaks) - 1
