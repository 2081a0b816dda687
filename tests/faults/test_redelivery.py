"""Pub/Sub delivers again and again: however often an event comes, the unique views show it once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from google.pubsub_v1.types import AcknowledgeRequest, ModifyAckDeadlineRequest

from ecomflow.config import Endpoints, Settings
from ecomflow.gcp.target import Target
from ecomflow.warehouse.queries import select
from tests.support.fronts import Answer, Fault, Instead
from tests.support.running import Fronts, Pipeline, equation_holds, events, publish, running, settings_in
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.stack]

_Acknowledge, _ModifyAckDeadline = AcknowledgeRequest.pb(), ModifyAckDeadlineRequest.pb()
_MODIFY = "/google.pubsub.v1.Subscriber/ModifyAckDeadline"


def given_back(request: bytes) -> Instead:
    """In the place of an acknowledgement: its messages come again at once."""
    acknowledged = _Acknowledge.FromString(request)
    again = _ModifyAckDeadline(subscription=acknowledged.subscription, ack_ids=acknowledged.ack_ids, ack_deadline_seconds=0)
    return Instead(_MODIFY, again.SerializeToString())


def copies(target: Target, event_id: str) -> tuple[int, int]:
    """How often an inventory event is in its table, and in its view."""
    counted = "SELECT COUNT(*) FROM ecomflow.fact_inventory{} WHERE event_id IN UNNEST(@ids)"
    ((rows,),), ((seen,),) = (select(target, counted.format(view), ids=[event_id]) for view in ("", "_unique"))
    return rows, seen


def test_the_same_messages_many_times(shop: Settings, stack: Endpoints, fronts: Fronts, pipeline: Pipeline, ledger: Path) -> None:
    """Messages whose acknowledgements never arrive come again and again; each event is seen once."""
    batch = events(5, seed=41)
    event_id = next(e.attributes["event_id"] for e in batch if e.event_type == "inventory" and e.fault is None)
    fronts.pubsub.plan = lambda method, request: given_back(request) if method == "Acknowledge" else None
    target = Target(shop, stack)
    publish(target, batch, ledger)
    wait_until(lambda: copies(target, event_id)[0] >= 3, "the event is written three times")
    assert copies(target, event_id)[1] == 1
    fronts.heal()
    equation_holds(target, ledger)


def test_the_same_event_under_different_message_ids(
    shop: Settings, stack: Endpoints, fronts: Fronts, pipeline: Pipeline, ledger: Path
) -> None:
    """Events published eight times over, four at once, by producers that repeat themselves, are seen once."""
    batch = events(10, seed=42)
    event_id = next(e.attributes["event_id"] for e in batch if e.event_type == "inventory" and e.fault is None)
    target = Target(shop, stack)
    with ThreadPoolExecutor(4) as pool:
        for call in [pool.submit(publish, target, batch, ledger) for _ in range(8)]:
            call.result()
    equation_holds(target, ledger)
    assert copies(target, event_id) == (8, 1)


@pytest.mark.faults
def test_two_pipelines_whose_deadlines_pass(own_shop: Settings, stack: Endpoints, tmp_path: Path, ledger: Path) -> None:
    """Where neither acknowledgement nor extension arrives, two pipelines at once get every message anew after its deadline."""
    fronts = Fronts(stack)
    deaf: list[str] = []

    def plan(method: str, request: bytes) -> Fault | None:
        if method not in ("Acknowledge", "ModifyAckDeadline"):
            return None
        deaf.append(method)
        return Answer(b"")

    fronts.pubsub.plan = plan
    one, two = (settings_in(tmp_path / name, own_shop, fronts.endpoints) for name in ("one", "two"))
    batch = events(50, seed=43)
    event_id = next(e.attributes["event_id"] for e in batch if e.event_type == "inventory" and e.fault is None)
    try:
        with running(one), running(two):
            target = Target(own_shop, stack)
            publish(target, batch, ledger)
            wait_until(lambda: copies(target, event_id)[0] >= 4, "the event is written four times")
            assert "Acknowledge" in deaf
            fronts.heal()
            equation_holds(target, ledger)
    finally:
        fronts.close()
