"""The pipeline's counters: each count goes to Beam's metrics, and to totals of this process that can be read while it runs.

Names: ``received``, ``decoded/<stream>``, ``refused/<reason>``, ``rows/<table>``, ``schema_drift/<type>/<path>``,
``duplicates_seen``, ``order_totals_differ``.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

from apache_beam.metrics import Metrics

NAMESPACE = "ecomflow"
# Producers choose the names of unknown fields, so their number must be bounded; what comes after is counted under one name.
MAX_DRIFT_NAMES = 200
OTHER_DRIFT = "schema_drift/other"

_totals: Counter[str] = Counter()
_lock = threading.Lock()


def count(name: str, amount: int = 1) -> None:
    """Add ``amount`` to the counter ``name``."""
    if amount:
        Metrics.counter(NAMESPACE, name).inc(amount)
        with _lock:
            _totals[name] += amount


def count_drift(drift: Mapping[tuple[str, str], int]) -> None:
    """Count unknown fields by (event type, path)."""
    for (event_type, path), amount in drift.items():
        count(_drift_name(f"schema_drift/{event_type}/{path}"), amount)


def totals() -> dict[str, int]:
    """What this process has counted since it began, failed bundles included."""
    with _lock:
        return dict(_totals)


def _drift_name(name: str) -> str:
    with _lock:
        known = [key for key in _totals if key.startswith("schema_drift/")]
    return name if name in known or len(known) < MAX_DRIFT_NAMES else OTHER_DRIFT
