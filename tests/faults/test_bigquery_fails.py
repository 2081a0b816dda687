"""BigQuery fails in every way that it documents, before a pipeline that runs: nothing is lost, nothing is written off."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import types

from ecomflow.config import Endpoints, Settings
from ecomflow.deadletters import store
from ecomflow.gcp.clients import bigquery_client
from ecomflow.gcp.target import Target
from ecomflow.generator.rounds import GeneratedEvent
from ecomflow.warehouse.queries import select
from tests.support.cli import ecomflow
from tests.support.fronts import Answer, Close, Fault, LoseAnswer, Refuse
from tests.support.pipeline import rows_of
from tests.support.running import Fronts, Pipeline, count_waiting, equation_holds, events, publish
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.stack]

_Request, _Response = types.AppendRowsRequest.pb(), types.AppendRowsResponse.pb()


def fail_next(fronts: Fronts, *faults: Fault) -> deque[Fault]:
    """The next appends meet ``faults``, one each; what is left of them is returned, and changes as they are met."""
    left = deque(faults)
    fronts.bigquery.plan = lambda method, request: left.popleft() if method == "AppendRows" and left else None
    return left


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Refuse(grpc.StatusCode.UNAVAILABLE), id="unavailable"),
        pytest.param(Refuse(grpc.StatusCode.RESOURCE_EXHAUSTED), id="resource_exhausted", marks=pytest.mark.faults),
        pytest.param(Refuse(grpc.StatusCode.ABORTED), id="aborted", marks=pytest.mark.faults),
        pytest.param(Refuse(grpc.StatusCode.DEADLINE_EXCEEDED), id="deadline_exceeded", marks=pytest.mark.faults),
        pytest.param(Close(), id="closed_stream", marks=pytest.mark.faults),
        pytest.param(LoseAnswer(), id="answer_lost"),
    ],
)
def test_a_passing_fault_is_waited_for(
    fault: Fault, shop: Settings, stack: Endpoints, fronts: Fronts, pipeline: Pipeline, ledger: Path
) -> None:
    """The pipeline says that it waits, sends the rows again, and does not restart; every event is seen once."""
    said, restarts = len(pipeline.said()), pipeline.status().restarts
    left = fail_next(fronts, *[fault] * 8)
    target = Target(shop, stack)
    publish(target, events(5, seed=1), ledger)
    equation_holds(target, ledger)
    assert not left
    pipeline.says("Waiting for BigQuery to accept rows of", since=said)
    assert pipeline.status().restarts == restarts


def test_rows_whose_answer_was_lost_are_there_twice_but_seen_once(
    shop: Settings, stack: Endpoints, fronts: Fronts, pipeline: Pipeline, ledger: Path
) -> None:
    """A table that was written and did not say so is written again: the view alone shows each event once."""
    fail_next(fronts, LoseAnswer())
    batch = events(5, seed=77, types=["inventory"], valid_only=True)
    target = Target(shop, stack)
    publish(target, batch, ledger)
    equation_holds(target, ledger)
    ids = [event.attributes["event_id"] for event in batch]
    counted = "SELECT COUNT(*) FROM ecomflow.fact_inventory{} WHERE event_id IN UNNEST(@ids)"
    ((rows,),) = select(target, counted.format(""), ids=ids)
    ((seen,),) = select(target, counted.format("_unique"), ids=ids)
    assert (rows, seen) == (10, 5)


def refusing(ids: set[str]) -> Any:
    """A plan that answers, like the service, with row errors for the rows of ``ids``, and writes nothing of their request."""

    def plan(method: str, request: bytes) -> Fault | None:
        if method != "AppendRows":
            return None
        rows = rows_of(_Request.FromString(request))
        found = [index for index, row in enumerate(rows) if row["event_id"] in ids]
        if not found:
            return None
        response = _Response()
        response.error.code, response.error.message = 3, "Errors found while processing rows."
        for index in found:
            response.row_errors.add(index=index, message="refused by the test")
        return Answer(response.SerializeToString())

    return plan


def test_rows_refused_inside_a_batch(shop: Settings, stack: Endpoints, fronts: Fronts, pipeline: Pipeline, ledger: Path) -> None:
    """The refused become dead letters with the table and BigQuery's words; the rest of their request is written."""
    batch = events(20, seed=5, types=["inventory"], valid_only=True)
    refused = {event.attributes["event_id"] for event in batch[3::7]}
    fronts.bigquery.plan = refusing(refused)
    target = Target(shop, stack)
    publish(target, [_as_refused(event, refused) for event in batch], ledger)
    equation_holds(target, ledger)
    letters = {stored.letter.event_id: stored.letter for stored in store.letters(target)}
    found = {(letters[event_id].reason, letters[event_id].error) for event_id in refused}
    assert found == {("rejected_by_bigquery", "$: fact_inventory: refused by the test")}


@pytest.mark.faults
@pytest.mark.parametrize("ends_stream", [False, True])
def test_a_request_refused_as_a_whole(
    ends_stream: bool, shop: Settings, stack: Endpoints, fronts: Fronts, pipeline: Pipeline, ledger: Path
) -> None:
    """Where BigQuery names no row, the event at fault is found; the others are written, and the pipeline does not restart."""
    batch = events(20, seed=6, types=["inventory"], valid_only=True)
    refused = {event.attributes["event_id"] for event in batch[3::7]}
    restarts = pipeline.status().restarts

    def plan(method: str, request: bytes) -> Fault | None:
        if method != "AppendRows" or not any(row["event_id"] in refused for row in rows_of(_Request.FromString(request))):
            return None
        if ends_stream:
            return Refuse(grpc.StatusCode.INVALID_ARGUMENT)
        response = _Response()
        response.error.code, response.error.message = 3, "refused by the test"
        return Answer(response.SerializeToString())

    fronts.bigquery.plan = plan
    target = Target(shop, stack)
    publish(target, [_as_refused(event, refused) for event in batch], ledger)
    equation_holds(target, ledger)
    letters = {stored.letter.event_id: stored.letter for stored in store.letters(target)}
    assert {letters[event_id].reason for event_id in refused} == {"rejected_by_bigquery"}
    assert pipeline.status().restarts == restarts


def _as_refused(event: GeneratedEvent, refused: set[str]) -> GeneratedEvent:
    """The ledger then expects a dead letter."""
    if event.attributes["event_id"] not in refused:
        return event
    return msgspec.structs.replace(event, fault="refused", expected_reason="rejected_by_bigquery")


def test_a_table_dropped_and_made_again(
    shop: Settings, stack: Endpoints, fronts: Fronts, pipeline: Pipeline, ledger: Path
) -> None:
    """The pipeline names the table and what to run, keeps everything unacknowledged, and goes on when the table is there."""
    bigquery_client(shop.project_id, stack).delete_table(f"{shop.dataset_id}.fact_inventory")
    said = len(pipeline.said())
    target = Target(shop, stack)
    publish(target, events(5, seed=21), ledger)
    pipeline.says(f"Table {shop.dataset_id}.fact_inventory does not exist", since=said)
    pipeline.says("Run: ecomflow infra up", since=said)
    assert count_waiting(target) == 30
    wait_until(lambda: "fact_inventory does not exist" in str(pipeline.status().last_failure), "job status says it too")
    made = ecomflow("infra", "up", settings=shop)
    assert made.returncode == 0, made.stderr
    equation_holds(target, ledger)


@pytest.mark.faults
def test_a_column_that_is_missing(shop: Settings, stack: Endpoints, fronts: Fronts, pipeline: Pipeline, ledger: Path) -> None:
    """The sentence names the table and the column that it lacks; once the table is whole the rows are written."""
    client, name = bigquery_client(shop.project_id, stack), f"{shop.dataset_id}.fact_user_activity"
    columns = client.get_table(name).schema
    client.delete_table(name)
    client.create_table(bigquery.Table(name, [column for column in columns if column.name != "user_agent"]))
    said = len(pipeline.said())
    target = Target(shop, stack)
    publish(target, events(5, seed=22), ledger)
    pipeline.says(f"BigQuery refuses the rows of {name}", since=said)
    pipeline.says("'user_agent'", since=said)
    assert count_waiting(target) == 30
    client.delete_table(name)  # its partitions are gone, too, which no added column can restore
    made = ecomflow("infra", "up", settings=shop)
    assert made.returncode == 0, made.stderr
    equation_holds(target, ledger)
