"""The pipeline's counters: each count goes to Beam's metrics, and to totals of this process that can be read while it runs.

Names: ``received``, ``decoded/<stream>``, ``refused/<reason>``, ``rows/<table>``, ``schema_drift/<type>/<path>``,
``duplicates_seen``, ``order_totals_differ``; ``in/<step>``, ``out/<step>`` and ``refused_in/<step>`` by the labels of the graph;
``latency/<bucket>`` of ``snapshot.LATENCY_BOUNDS``, ``bundles``, ``retries``. docs/watching.md says what each counts. They are
counted by the batch, never by the message.

Gauges and what is waited for are of this process alone: Beam has no such metric that Dataflow tells of.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from apache_beam.metrics import Metrics
from numpy.typing import NDArray

from ecomflow.metrics.snapshot import LATENCY_BOUNDS

NAMESPACE = "ecomflow"
# Producers choose the names of unknown fields, so their number must be bounded; what comes after is counted under one name.
MAX_DRIFT_NAMES = 200
OTHER_DRIFT = "schema_drift/other"

_totals: Counter[str] = Counter()
_gauges: dict[str, float] = {}
_waiting: dict[str, str] = {}
_lock = threading.Lock()
# Making Beam's counter anew costs six times as much as counting; names are bounded.
_beam_counter = cache(lambda name: Metrics.counter(NAMESPACE, name))
_LATENCY_MICROS = np.array([round(bound * 1e6) for bound in LATENCY_BOUNDS])


def count(name: str, amount: int = 1) -> None:
    """Add ``amount`` to the counter ``name``."""
    if amount:
        _beam_counter(name).inc(amount)
        with _lock:
            _totals[name] += amount


def count_step(step: str, *, messages_in: int = 0, messages_out: int = 0, refused: int = 0) -> None:
    """Count messages into, out of and refused by the step with this label."""
    count(f"in/{step}", messages_in)
    count(f"out/{step}", messages_out)
    count(f"refused_in/{step}", refused)


def count_latency(published: NDArray[np.int64], confirmed: float) -> None:
    """Count messages by the time from their publication, in microseconds since the epoch (0: not known, left out), to
    ``confirmed``, in seconds since it.
    """
    taken = round(confirmed * 1e6) - published[published > 0]
    for bucket, amount in enumerate(np.bincount(np.searchsorted(_LATENCY_MICROS, taken)).tolist()):
        count(f"latency/{bucket}", amount)


def count_drift(drift: Mapping[tuple[str, str], int]) -> None:
    """Count unknown fields by (event type, path). Their values reach neither a counter nor a log: they may be personal."""
    for (event_type, path), amount in drift.items():
        count(_drift_name(f"schema_drift/{event_type}/{path}"), amount)


def totals() -> dict[str, int]:
    """What this process has counted since it began, failed bundles included."""
    with _lock:
        return dict(_totals)


def gauge(name: str, value: float) -> None:
    """Set the gauge ``name`` of this process: ``last_append/<table>``, in seconds since the epoch."""
    with _lock:
        _gauges[name] = value


def appended(table: str, rows: int) -> None:
    """Count ``rows`` that BigQuery has confirmed just now."""
    count(f"rows/{table}", rows)
    if rows:
        gauge(f"last_append/{table}", time.time())


def waiting(place: str, sentence: str | None) -> None:
    """Say what ``place`` waits for just now: "BigQuery to take rows of fact_order: 503 …"; None: it goes on."""
    with _lock:
        _waiting.pop(place, None)  # what is told last stands last
        if sentence is not None:
            _waiting[place] = sentence


def snapshot() -> dict[str, Any]:
    """What this process has counted, its gauges, its memory in hand, and what was last said to be waited for: under the names
    that they have in ``launch.PipelineStatus``.
    """
    with _lock:
        gauges, waits = dict(_gauges), list(_waiting.values())
    return {
        "counters": totals(),
        "gauges": {**gauges, "memory_bytes": float(_memory_bytes())},
        "waiting_for": waits[-1] if waits else None,
    }


def _memory_bytes() -> int:
    """What this process has in memory (resident set size)."""
    import psutil  # late: workers on Dataflow have none, and nobody asks them

    return int(psutil.Process().memory_info().rss)


def _drift_name(name: str) -> str:
    with _lock:
        known = [key for key in _totals if key.startswith("schema_drift/")]
    return name if name in known or len(known) < MAX_DRIFT_NAMES else OTHER_DRIFT
