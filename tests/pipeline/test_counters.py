"""What the pipeline counts and reports: totals, gauges, latency, and what it waits for."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from ecomflow.metrics.snapshot import LATENCY_BOUNDS
from ecomflow.pipeline.counters import Counters

NOW = 1_764_547_200.0


@pytest.fixture
def counters() -> Counters:
    return Counters(lambda: datetime.fromtimestamp(NOW, UTC), lambda: 0.0)


class TestCounting:
    def test_a_step_counts_its_messages(self, counters: Counters) -> None:
        """What is 0 makes no counter."""
        counters.count_step("Decode events", messages_in=3, messages_out=2)
        counters.count_step("Decode events", messages_in=3, refused={"malformed_json": 2, "processing_error": 1})
        assert counters.totals() == {
            "in/Decode events": 6,
            "out/Decode events": 2,
            "refused_in/Decode events": 3,
            "reason_in/Decode events/malformed_json": 2,
            "reason_in/Decode events/processing_error": 1,
        }

    def test_latency_is_counted_by_bucket(self, counters: Counters) -> None:
        """Up to a bound and with it; beyond the last one more bucket; a clock that runs ahead counts as no time; 0 is unknown."""
        ages = [-1.0, LATENCY_BOUNDS[0], 0.011, LATENCY_BOUNDS[-1], LATENCY_BOUNDS[-1] + 1]
        counters.count_latency(np.array([0, *(round((NOW - age) * 1e6) for age in ages)]), NOW)
        last = len(LATENCY_BOUNDS) - 1
        assert counters.totals() == {"latency/0": 2, "latency/1": 1, f"latency/{last}": 1, f"latency/{last + 1}": 1}
        counters.count_latency(np.array([], np.int64), NOW)

    def test_an_append_of_no_rows_is_none(self, counters: Counters) -> None:
        """Rows that BigQuery refused altogether leave the time of the last append as it was."""
        counters.appended("fact_order", 0)
        assert "last_append/fact_order" not in counters.snapshot()["gauges"]
        counters.appended("fact_order", 2)
        assert counters.snapshot()["gauges"]["last_append/fact_order"] == NOW
        assert counters.totals() == {"rows/fact_order": 2}

    @pytest.mark.parametrize("step", [86_400.0, -86_400.0], ids=["forward", "back"])
    def test_the_time_of_an_append_follows_a_step_of_the_wall_clock(self, step: float) -> None:
        """It is reported by the clock as it is set then, however much later."""
        wall, steady = [NOW], [1000.0]
        counters = Counters(lambda: datetime.fromtimestamp(wall[0], UTC), lambda: steady[0])
        counters.appended("fact_order", 1)
        wall[0], steady[0] = NOW + step + 30, 1030.0
        assert counters.snapshot()["gauges"]["last_append/fact_order"] == NOW + step

    def test_a_snapshot_has_the_process_memory(self, counters: Counters) -> None:
        """Some tens of megabytes, at least."""
        assert counters.snapshot()["gauges"]["memory_bytes"] > 10 * 2**20


class TestWaiting:
    def test_the_last_that_began_to_wait_is_reported(self, counters: Counters) -> None:
        """Until it goes on; then those that still wait."""
        assert counters.snapshot()["waiting_for"] is None
        counters.waiting("pull", "Pub/Sub: busy")
        counters.waiting("fact_order", "BigQuery: busy")
        assert counters.snapshot()["waiting_for"] == "BigQuery: busy"
        counters.waiting("fact_order", None)
        assert counters.snapshot()["waiting_for"] == "Pub/Sub: busy"
        counters.waiting("pull", None)
        counters.waiting("pull", None)
        assert counters.snapshot()["waiting_for"] is None
