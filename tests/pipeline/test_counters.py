"""What the pipeline counts and tells of itself: totals, gauges, latency, and what it waits for."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import grpc
import numpy as np
import pytest
from google.api_core import exceptions

from ecomflow.gcp.clients import bigquery_write_client
from ecomflow.metrics.snapshot import LATENCY_BOUNDS
from ecomflow.pipeline import counters
from ecomflow.pipeline.sinks import dead_letters
from ecomflow.pipeline.sinks.bigquery import TableWriter
from tests.pipeline.sinks.test_bigquery import TABLE, rows
from tests.support.pipeline import EndsStream, FakeBigQuery, config_for

NOW = 1_764_547_200.0


@pytest.fixture(autouse=True)
def _nothing_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "_totals", Counter())
    monkeypatch.setattr(counters, "_gauges", {})
    monkeypatch.setattr(counters, "_waiting", {})


class TestCounting:
    def test_a_step_counts_what_it_is_told(self) -> None:
        """What is 0 makes no counter."""
        counters.count_step("Decode events", messages_in=3, messages_out=2)
        counters.count_step("Decode events", messages_in=1, refused=1)
        assert counters.totals() == {"in/Decode events": 4, "out/Decode events": 2, "refused_in/Decode events": 1}

    def test_latency_is_counted_by_bucket(self) -> None:
        """Up to a bound and with it; beyond the last one more bucket; a clock that runs ahead counts as no time; 0 is unknown."""
        ages = [-1.0, LATENCY_BOUNDS[0], 0.011, LATENCY_BOUNDS[-1], LATENCY_BOUNDS[-1] + 1]
        counters.count_latency(np.array([0, *(round((NOW - age) * 1e6) for age in ages)]), NOW)
        last = len(LATENCY_BOUNDS) - 1
        assert counters.totals() == {"latency/0": 2, "latency/1": 1, f"latency/{last}": 1, f"latency/{last + 1}": 1}
        counters.count_latency(np.array([], np.int64), NOW)

    def test_an_append_of_no_rows_is_none(self) -> None:
        """Rows that BigQuery refused altogether leave the time of the last append as it was."""
        counters.appended("fact_order", 0)
        assert "last_append/fact_order" not in counters.snapshot()["gauges"]
        counters.appended("fact_order", 2)
        assert counters.snapshot()["gauges"]["last_append/fact_order"] > NOW
        assert counters.totals() == {"rows/fact_order": 2}

    def test_a_snapshot_has_the_process_memory(self) -> None:
        """Some tens of megabytes, at least."""
        assert counters.snapshot()["gauges"]["memory_bytes"] > 10 * 2**20


class TestWaiting:
    def test_the_last_that_began_to_wait_is_told(self) -> None:
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

    def test_an_append_that_is_tried_again(self) -> None:
        """While the sink waits it says for what; each further try is counted; then it waits for nothing."""
        bigquery = FakeBigQuery()
        bigquery.faults += [EndsStream(code) for code in 2 * (grpc.StatusCode.UNAVAILABLE,)]
        said: list[Any] = []
        with bigquery.serve() as host:
            config = config_for(bigquery_storage=host)
            client = bigquery_write_client(config.endpoints)
            writer = TableWriter(config, TABLE, client, sleep=lambda _: said.append(counters.snapshot()["waiting_for"]))
            assert writer.finish(writer.start(rows(1))) == []
            client.transport.close()
            writer.close()
        assert [sentence.startswith(f"BigQuery to take rows of {TABLE}: ") for sentence in said] == [True, True]
        assert (counters.totals()["retries"], counters.snapshot()["waiting_for"]) == (2, None)

    def test_an_upload_that_is_tried_again(self, caplog: pytest.LogCaptureFixture) -> None:
        """The bucket is waited for until its answer."""
        with caplog.at_level(logging.ERROR):
            dead_letters._say_that_it_waits(exceptions.ServiceUnavailable("busy"))
        assert counters.snapshot()["waiting_for"] == "the bucket to take dead letters: 503 busy"
        assert counters.totals() == {"retries": 1}
