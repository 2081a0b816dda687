"""How the pipeline fares, as figures: the counters that the pipeline publishes flow in, the same record for every view flows out.

``deploy --metrics-port``, ``ecomflow top`` and ``ecomflow ui`` all show these, of the pipeline on this machine and of the one on
Dataflow. The names of the counters are those of ``pipeline/counters.py``; steps bear the labels of ``pipeline/graph.py``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate

import msgspec

from ecomflow.facts import SCHEMAS

# Upper bounds, in seconds, of the latency histogram's buckets, from publish to append; what took longer is in one more.
LATENCY_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 1800)


class StepFigures(msgspec.Struct, frozen=True):
    """What a step of the graph (by its label) has taken in, put out for the next step, and refused: messages or events."""

    step: str
    taken_in: int = 0
    put_out: int = 0
    refused: int = 0


class TableFigures(msgspec.Struct, frozen=True):
    """Rows that BigQuery has confirmed to this pipeline since it began; ``last_append`` in seconds since the epoch."""

    table: str
    rows: int = 0
    last_append: float | None = None


class Figures(msgspec.Struct, frozen=True):
    """The pipeline at one moment, ``at`` in seconds since the epoch. All counts are since its process (or job) began.

    ``state``: as in ``PipelineStatus`` or of a Dataflow job (``jobs.records``). ``started`` tells two processes apart: where it
    differs, counts began anew. ``latency[i]``: messages whose rows were appended within ``LATENCY_BOUNDS[i]`` seconds of their
    publish time and not within the bound before; the last, slower than all. None: not known, or not yet.
    """

    at: float
    state: str
    where: str
    name: str = ""
    started: float | None = None
    processes: int = 1
    steps: tuple[StepFigures, ...] = ()
    tables: tuple[TableFigures, ...] = ()
    refused: dict[str, int] = {}
    received: int = 0
    latency: tuple[int, ...] = (0,) * (len(LATENCY_BOUNDS) + 1)
    bundles: int = 0
    retries: int = 0
    restarts: int = 0
    last_failure: str | None = None
    waiting_for: str | None = None
    memory_bytes: int | None = None
    backlog: int | None = None
    oldest_unacked_seconds: float | None = None


def quantile(latency: Sequence[int], share: float) -> float | None:
    """The latency in seconds that ``share`` of the messages stayed within, interpolated within its bucket; None without messages.

    Beyond the last bound it is that bound: a histogram can't tell more.
    """
    total = sum(latency)
    if not total:
        return None
    wanted, sums = share * total, list(accumulate(latency))
    bucket = bisect_left(sums, wanted)
    if bucket >= len(LATENCY_BOUNDS):
        return float(LATENCY_BOUNDS[-1])
    low = LATENCY_BOUNDS[bucket - 1] if bucket else 0.0
    before = sums[bucket - 1] if bucket else 0
    return low + (LATENCY_BOUNDS[bucket] - low) * (wanted - before) / max(latency[bucket], 1)


def step_figures(counters: Mapping[str, int]) -> tuple[StepFigures, ...]:
    """From ``in/<step>``, ``out/<step>`` and ``refused_in/<step>``, steps by name."""
    names = sorted({name.partition("/")[2] for name in counters if name.startswith(("in/", "out/", "refused_in/"))})
    return tuple(
        StepFigures(name, *(counters.get(f"{kind}/{name}", 0) for kind in ("in", "out", "refused_in"))) for name in names
    )


def table_figures(counters: Mapping[str, int], gauges: Mapping[str, float]) -> tuple[TableFigures, ...]:
    """From ``rows/<table>`` and ``last_append/<table>``, every fact table."""
    return tuple(TableFigures(name, counters.get(f"rows/{name}", 0), gauges.get(f"last_append/{name}")) for name in SCHEMAS)
