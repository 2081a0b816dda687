"""The pipeline's counters: each count goes to Beam's metrics, and to totals of this process that can be read while it runs.

Names: ``received``, ``decoded/<stream>``, ``refused/<reason>``, ``rows/<table>``, ``schema_drift/<type>/<path>``,
``duplicates_seen``, ``order_totals_differ``.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

from apache_beam.metrics import Metrics

log = logging.getLogger(__name__)

NAMESPACE = "ecomflow"
# Producers choose the names of unknown fields, so their number must be bounded; what comes after is counted under one name.
MAX_DRIFT_NAMES = 200
OTHER_DRIFT = "schema_drift/other"

_totals: Counter[str] = Counter()
_gauges: dict[str, float] = {}
_examples: dict[str, str] = {}
_lock = threading.Lock()


def count(name: str, amount: int = 1) -> None:
    """Add ``amount`` to the counter ``name``."""
    if amount:
        Metrics.counter(NAMESPACE, name).inc(amount)
        with _lock:
            _totals[name] += amount


def count_drift(drift: Mapping[tuple[str, str], int], examples: Mapping[tuple[str, str], str]) -> None:
    """Count unknown fields by (event type, path), and keep the first value of each, which is logged too."""
    for (event_type, path), amount in drift.items():
        name = _drift_name(f"schema_drift/{event_type}/{path}")
        if name not in _examples and (event_type, path) in examples:
            _examples[name] = examples[event_type, path]
            log.info("A field that the contract does not name: %s %s, such as %s", event_type, path, _examples[name])
        count(name, amount)


def drift_examples() -> dict[str, str]:
    """A value of each unknown field that this process has counted, as JSON, clipped, by the counter's name."""
    return dict(_examples)


def totals() -> dict[str, int]:
    """What this process has counted since it began, failed bundles included."""
    with _lock:
        return dict(_totals)


def gauge(name: str, value: float) -> None:
    """Set the gauge ``name`` of this process: ``memory_bytes``, or ``last_append/<table>`` in seconds since the epoch."""
    with _lock:
        _gauges[name] = value


def snapshot() -> dict[str, Any]:
    """Counters, gauges and drift examples of this process, under the names that they have in ``launch.PipelineStatus``."""
    return {"counters": totals(), "gauges": dict(_gauges), "drift_examples": drift_examples()}


def _drift_name(name: str) -> str:
    with _lock:
        known = [key for key in _totals if key.startswith("schema_drift/")]
    return name if name in known or len(known) < MAX_DRIFT_NAMES else OTHER_DRIFT
