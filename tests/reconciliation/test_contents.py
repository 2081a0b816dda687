"""Events that came with several contents under one id, on the local warehouse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from ecomflow import infra
from ecomflow.config import Endpoints, Settings
from ecomflow.contract.codec import Codec
from ecomflow.contract.modelling import model
from ecomflow.gcp.target import Target
from ecomflow.pipeline.config import pipeline_config
from ecomflow.pipeline.counters import Counters
from ecomflow.pipeline.ingestion import IngestionTimes
from ecomflow.pipeline.sinks.bigquery import TableWriters, with_ingestion_time
from ecomflow.reconciliation.contents import differing_ids
from ecomflow.reconciliation.reconcile import reconcile
from tests.support.contract import SHOP
from tests.support.pipeline import activity, inventory, message, order

pytestmark = pytest.mark.stack

NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
ITEM = {"product_id": "p-1", "product_name": "Blue chair", "quantity": 2, "price": 19.99}
# By event id: the contents in which it came, and the table that the first delivery did not reach.
DELIVERIES: dict[str, tuple[list[dict[str, Any]], str | None]] = {
    "once": ([order(1)], None),
    "again": ([order(2), order(2), order(2)], None),
    "killed": ([order(3), order(3)], "fact_order_item"),
    "other-header": ([order(4), order(4, customer_name="Ann")], None),
    "other-lines": ([order(5), order(5, items=[ITEM])], None),
    "unknown-field": ([inventory(6), inventory(6, coupon="X"), inventory(6)], None),
    "other-date": ([inventory(7), inventory(7, timestamp="2026-01-30T10:00:00Z")], None),
    "stock-again": ([inventory(8), inventory(8)], None),
    "seen": ([activity(9), activity(9, activity_type="logout")], None),
}


@pytest.fixture(scope="module")
def target(stack: Endpoints) -> Target:
    target = Target(Settings(topic="contents", subscription="contents", bucket="contents", dataset="contents"), stack)
    infra.apply(target, infra.plan(target))
    return target


def write(target: Target) -> None:
    codec, times, counters = Codec(SHOP), IngestionTimes(), Counters()
    config = msgspec.structs.replace(pipeline_config(target.settings), endpoints=target.endpoints)
    writers = TableWriters(config, counters)
    for turn in range(3):
        now = NOW + timedelta(minutes=turn)
        messages, missed = [], {}
        for event_id, (contents, misses) in DELIVERIES.items():
            if turn < len(contents):
                messages.append(message(contents[turn], event_id, f"{event_id}-{turn}"))
                missed[event_id] = misses if turn == 0 else None
        for part in codec.decode(messages, NOW).parts:
            facts = model(part, NOW)
            ingested = times.of(facts.event_ids, now)
            for rows in facts.tables:
                keep = [missed[event_id] != rows.table for event_id in rows.rows.column("event_id").to_pylist()]
                writer = writers.writer(rows.table)
                writer.finish(writer.start(with_ingestion_time(rows.rows, ingested).filter(keep)))
    writers.close()


def test_only_those_with_other_rows_are_named(target: Target) -> None:
    """Not what was only delivered again, nor what was killed between two tables."""
    assert differing_ids(target) == ()
    write(target)
    assert differing_ids(target) == ("other-date", "other-header", "other-lines", "seen", "unknown-field")
    assert reconcile(target).differing == differing_ids(target)
