"""The pipeline's metrics at one time: its counters in, the one record that all views show out.

``deploy --metrics-port``, ``ecomflow top`` and ``ecomflow ui`` show it, for the pipeline on this machine and for a job on
Dataflow. The counters' names come from ``pipeline/counters.py``, the steps' labels from ``pipeline/graph.py``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import Any, TypeVar

import msgspec

from ecomflow.contract.dead_letter import UNKNOWN_STREAM
from ecomflow.contract.language import Contract
from ecomflow.contract.tables import stream_tables, tables_of

T = TypeVar("T")

# ``PipelineMetrics.where`` of a pipeline on this machine; on Dataflow it is the region.
LOCAL = "local"
# The states in which nothing runs: of the local pipeline, and of a job on Dataflow.
ENDED = frozenset({"none", "gone", "failed", "drained", "done", "cancelled", "updated"})
# Those that mean failure.
ENDED_BADLY = frozenset({"none", "gone", "failed", "cancelled"})

# A gauge has this name followed by the table's: when rows were last confirmed, in seconds since the epoch.
LAST_APPEND = "last_append/"

# Upper bounds, in seconds, of the buckets of the latency histogram, from publish to append; one more bucket has the rest.
LATENCY_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 1800)


class StepMetrics(msgspec.Struct, frozen=True):
    """Messages into, out of, and refused by a step of the graph, identified by its label.

    A message is refused by exactly one step, so the steps add up to ``PipelineMetrics.refused``. A write step emits what is
    confirmed: events by BigQuery, dead letters by the bucket. While no bundle is being processed, in = out + refused for every
    step but the first, which has no input. ``reasons``: the refused messages by reason.
    """

    step: str
    messages_in: int = 0
    messages_out: int = 0
    refused: int = 0
    reasons: dict[str, int] = {}


class TableMetrics(msgspec.Struct, frozen=True):
    """Rows that BigQuery has confirmed since this pipeline started; ``last_append`` in seconds since the epoch."""

    table: str
    rows: int = 0
    last_append: float | None = None


class PipelineMetrics(msgspec.Struct, frozen=True):
    """The pipeline at one time. ``at``: when it reported its counters, in seconds since the epoch. Counters start at zero with
    the process or job. They include failed bundles: those messages are redelivered and counted again.

    ``state``: as in ``PipelineStatus`` or of a Dataflow job (``jobs.records``). ``started`` identifies the process: a different
    value means that the counters have been reset. ``last_restart``: when an engine last restarted. ``latency[i]``: messages whose
    rows were appended within ``LATENCY_BOUNDS[i]`` seconds of their publish time and not within the previous bound; the last
    bucket has all slower ones. ``waiting_for``: what the pipeline is waiting for now, as a sentence. ``backlog``: unacknowledged
    messages, including those in flight, counted at ``backlog_at``; ``backlog_unknown`` says why they could not be counted.
    ``name``: the process or job. ``silent_services``: the services of the local stack that do not answer. None: not known, or
    not yet.
    """

    at: float
    state: str
    where: str
    name: str = ""
    started: float | None = None
    processes: int = 1
    steps: tuple[StepMetrics, ...] = ()
    tables: tuple[TableMetrics, ...] = ()
    refused: dict[str, int] = {}
    received: int = 0
    latency: tuple[int, ...] = (0,) * (len(LATENCY_BOUNDS) + 1)
    bundles: int = 0
    retries: int = 0
    restarts: int = 0
    last_restart: float | None = None
    last_failure: str | None = None
    waiting_for: str | None = None
    silent_services: tuple[str, ...] = ()
    memory_bytes: int | None = None
    backlog: int | None = None
    oldest_unacked_seconds: float | None = None
    backlog_at: float | None = None
    backlog_unknown: str | None = None


class Branch(msgspec.Struct, frozen=True):
    """The steps of one stream, by their labels in ``pipeline/graph.py``, and the tables that it writes. Without tables it refuses
    all its messages, and has no ``write``.
    """

    stream: str
    first: str
    write: str | None
    dead_letters: str
    tables: tuple[str, ...] = ()


FIRST_STEPS = ("Read messages", "Decode events")


def branches_of(contracts: Sequence[Contract]) -> tuple[Branch, ...]:
    """The branches of the graph in order, that of unknown events last."""
    events = (
        Branch(stream, f"Model {stream} facts", f"Write {stream} facts", f"Write {stream} dead letters", tables)
        for stream, tables in stream_tables(contracts).items()
    )
    unknown = Branch(UNKNOWN_STREAM, f"Refuse {UNKNOWN_STREAM} events", None, f"Write {UNKNOWN_STREAM} dead letters")
    return (*events, unknown)


def steps_of(contracts: Sequence[Contract]) -> tuple[str, ...]:
    """The steps of ``pipeline/graph.py`` in order, stream by stream; a test compares them with the graph."""
    branches = ((branch.first, branch.write, branch.dead_letters) for branch in branches_of(contracts))
    return (*FIRST_STEPS, *(step for step in chain.from_iterable(branches) if step is not None))


def from_counters(
    counters: Mapping[str, int], gauges: Mapping[str, float], contracts: Sequence[Contract], **known: Any
) -> PipelineMetrics:
    """The metrics in ``counters`` and ``gauges`` of a pipeline with ``contracts``. ``known``: other fields of PipelineMetrics,
    including at least ``at``, ``state`` and ``where``.
    """
    return PipelineMetrics(
        steps=step_metrics(counters, steps_of(contracts)),
        tables=table_metrics(counters, gauges, [table.name for table in tables_of(contracts)]),
        refused=dict(sorted(_below("refused/", counters).items())),
        received=counters.get("received", 0),
        latency=tuple(counters.get(f"latency/{bucket}", 0) for bucket in range(len(LATENCY_BOUNDS) + 1)),
        bundles=counters.get("bundles", 0),
        retries=counters.get("retries", 0),
        memory_bytes=int(gauges["memory_bytes"]) if "memory_bytes" in gauges else None,
        **known,
    )


def quantile(latency: Sequence[int], share: float) -> float | None:
    """The latency quantile ``share`` in seconds, interpolated within its bucket; None without messages.

    Beyond the last bound it is that bound, because the histogram has no more detail.
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


def step_metrics(counters: Mapping[str, int], steps: Sequence[str]) -> tuple[StepMetrics, ...]:
    """From ``in/<step>``, ``out/<step>``, ``refused_in/<step>`` and ``reason_in/<step>/<reason>``: all of ``steps``, then any
    others by name.
    """
    messages_in, messages_out, refused = (_below(prefix, counters) for prefix in ("in/", "out/", "refused_in/"))
    others = sorted({*messages_in, *messages_out, *refused} - set(steps))
    return tuple(
        StepMetrics(
            name,
            messages_in.get(name, 0),
            messages_out.get(name, 0),
            refused.get(name, 0),
            _below(f"reason_in/{name}/", counters),
        )
        for name in (*steps, *others)
    )


def table_metrics(counters: Mapping[str, int], gauges: Mapping[str, float], tables: Sequence[str]) -> tuple[TableMetrics, ...]:
    """From ``rows/<table>`` and ``last_append/<table>``: all of ``tables``, then any others by name."""
    rows, appends = _below("rows/", counters), _below(LAST_APPEND, gauges)
    others = sorted({*rows, *appends} - set(tables))
    return tuple(TableMetrics(name, rows.get(name, 0), appends.get(name)) for name in (*tables, *others))


def _below(prefix: str, counters: Mapping[str, T]) -> dict[str, T]:
    """The counters or gauges whose names start with ``prefix``, by the rest of the name."""
    return {name.removeprefix(prefix): amount for name, amount in counters.items() if name.startswith(prefix)}
