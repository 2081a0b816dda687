"""The pipeline's counters: each count goes to Beam's metrics, and to totals of the process that can be read while it runs.

Names: ``received``, ``decoded/<stream>``, ``refused/<reason>``, ``rows/<table>``, ``schema_drift/<type>/<path>``,
``rules_broken/<type>/<rule>``, ``duplicates_seen``; ``in/<step>``, ``out/<step>``, ``refused_in/<step>`` and
``reason_in/<step>/<reason>`` by the labels of the graph; ``latency/<bucket>`` of ``snapshot.LATENCY_BOUNDS``, ``bundles``,
``retries``. docs/watching.md says what each counts. They are incremented once per batch, not per message.

Gauges, and what the pipeline waits for, exist only in the process: Beam has no such metric that Dataflow reports.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
from apache_beam.metrics import Metrics
from numpy.typing import NDArray

from ecomflow.metrics.moments import Moment, rebased
from ecomflow.metrics.snapshot import LAST_APPEND, LATENCY_BOUNDS

NAMESPACE = "ecomflow"
# Producers choose the names of unknown fields, so their number must be bounded; what comes after is counted under one name.
MAX_DRIFT_NAMES = 200
OTHER_DRIFT = "schema_drift/other"
NONE_REFUSED: Mapping[str, int] = MappingProxyType({})

_LATENCY_MICROS = np.array([round(bound * 1e6) for bound in LATENCY_BOUNDS])
# Making Beam's counter anew costs six times as much as counting; names are bounded.
_beam_counter = cache(lambda name: Metrics.counter(NAMESPACE, name))


def utc_now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


class Counters:
    """What the steps of a pipeline have counted in one process, failed bundles included. Safe for several threads."""

    def __init__(self, now: Callable[[], datetime] = utc_now, steady: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._steady = steady
        self._totals: Counter[str] = Counter()
        self._appends: dict[str, Moment] = {}
        self._waiting: dict[str, str] = {}
        self._lock = threading.Lock()

    def count(self, name: str, amount: int = 1) -> None:
        """Add ``amount`` to the counter ``name``."""
        if amount:
            _beam_counter(name).inc(amount)
            with self._lock:
                self._totals[name] += amount

    def count_step(
        self, step: str, *, messages_in: int = 0, messages_out: int = 0, refused: Mapping[str, int] = NONE_REFUSED
    ) -> None:
        """Count messages into, out of and, by reason, refused by the step with this label."""
        self.count(f"in/{step}", messages_in)
        self.count(f"out/{step}", messages_out)
        self.count(f"refused_in/{step}", sum(refused.values()))
        for reason, amount in refused.items():
            self.count(f"reason_in/{step}/{reason}", amount)

    def count_latency(self, published: NDArray[np.int64], confirmed: float) -> None:
        """Count messages by the time from their publication, in microseconds since the epoch (0: not known, left out), to
        ``confirmed``, in seconds since it.
        """
        taken = round(confirmed * 1e6) - published[published > 0]
        for bucket, amount in enumerate(np.bincount(np.searchsorted(_LATENCY_MICROS, taken)).tolist()):
            self.count(f"latency/{bucket}", amount)

    def count_drift(self, drift: Mapping[tuple[str, str], int]) -> None:
        """Count unknown fields by (event type, path). Their values reach neither a counter nor a log: they may be personal."""
        for (event_type, path), amount in drift.items():
            self.count(self._drift_name(f"schema_drift/{event_type}/{path}"), amount)

    def totals(self) -> dict[str, int]:
        with self._lock:
            return dict(self._totals)

    def appended(self, table: str, rows: int) -> None:
        """Count ``rows`` that BigQuery has confirmed just now."""
        self.count(f"rows/{table}", rows)
        if rows:
            with self._lock:
                self._appends[table] = self._moment()

    def waiting(self, place: str, sentence: str | None) -> None:
        """Report what ``place`` is waiting for: "BigQuery to accept rows of fact_order: 503 …"; None: it continues."""
        with self._lock:
            self._waiting.pop(place, None)  # the latest report comes last
            if sentence is not None:
                self._waiting[place] = sentence

    def snapshot(self) -> dict[str, Any]:
        """The counters, the gauges with the process's current memory, and what was last waited for, as fields of
        ``launch.PipelineStatus``.
        """
        now = self._moment()
        with self._lock:
            gauges = {f"{LAST_APPEND}{table}": rebased(noted, now).wall for table, noted in self._appends.items()}
            waits = list(self._waiting.values())
        return {
            "counters": self.totals(),
            "gauges": {**gauges, "memory_bytes": float(_memory_bytes())},
            "waiting_for": waits[-1] if waits else None,
        }

    def _moment(self) -> Moment:
        return Moment(self._now().timestamp(), self._steady())

    def _drift_name(self, name: str) -> str:
        with self._lock:
            known = [key for key in self._totals if key.startswith("schema_drift/")]
        return name if name in known or len(known) < MAX_DRIFT_NAMES else OTHER_DRIFT


def _memory_bytes() -> int:
    """What this process has in memory (resident set size)."""
    import psutil  # late: workers on Dataflow have none, and nobody asks them

    return int(psutil.Process().memory_info().rss)
