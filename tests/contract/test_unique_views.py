"""The ``_unique`` views over random histories: an event is shown as one delivery wrote it, in all of its tables alike.

The views' own SQL runs in DuckDB, translated as the local warehouse translates it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st

from ecomflow.contract.codec import Codec
from ecomflow.contract.ddl import table_schema, view_ddl
from ecomflow.contract.modelling import model
from ecomflow.pipeline.ingestion import IngestionTimes
from ecomflow.pipeline.sinks.bigquery import with_ingestion_time
from ecomflow.sql.ddl import qualify
from tests.support.contract import SHOP, part_of, property_test
from tests.support.pipeline import message, order

NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
(ORDER,) = (contract for contract in SHOP if contract.event == "order")
TABLES = [table.name for table in ORDER.tables]


class Body(NamedTuple):
    """An order event's content: so many lines, all of this name."""

    event_id: str
    name: str
    lines: int


class Write(NamedTuple):
    """Bodies that one batch writes, each to these tables."""

    bodies: list[Body]
    tables: list[list[str]]


BODIES = st.builds(Body, st.sampled_from(["e-1", "e-2"]), st.sampled_from("ABC"), st.integers(1, 3))
SOME_TABLES = st.sets(st.sampled_from(TABLES), max_size=len(TABLES) - 1).map(sorted)


class Message(NamedTuple):
    """A message's deliveries: those that were killed, each with the tables that it wrote, and the last one, which wrote all.
    Where BigQuery ``refused`` it for some table, a replay with another body follows.
    """

    body: Body
    killed: list[list[str]]
    refused: list[str] | None
    patched: Body


MESSAGES = st.builds(Message, BODIES, st.lists(SOME_TABLES, max_size=2), st.none() | SOME_TABLES, BODIES)


def deliveries(sent: Message) -> Iterator[tuple[Body, list[str]]]:
    for tables in sent.killed:
        yield sent.body, tables
    if sent.refused is None:
        yield sent.body, TABLES
        return
    yield sent.body, sent.refused
    yield sent.patched._replace(event_id=sent.body.event_id), TABLES


@st.composite
def histories(draw: st.DrawFn) -> list[Write]:
    """The deliveries of some messages, mixed, some of them in one batch."""
    waiting = [list(deliveries(sent)) for sent in draw(st.lists(MESSAGES, min_size=1, max_size=4))]
    writes: list[Write] = []
    while waiting:
        chosen = draw(st.lists(st.sampled_from(range(len(waiting))), min_size=1, unique=True))
        batch = [waiting[index].pop(0) for index in chosen]
        writes.append(Write([body for body, _ in batch], [tables for _, tables in batch]))
        waiting = [rest for rest in waiting if rest]
    return writes


@pytest.fixture(scope="module")
def warehouse() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("CREATE SCHEMA ecomflow")
        for table in ORDER.tables:
            empty = table_schema(table).empty_table()
            connection.register("empty", empty)
            connection.execute(f"CREATE TABLE ecomflow.{table.name} AS SELECT * FROM empty")
            (view,) = sqlglot.transpile(view_ddl(table), read="bigquery", write="duckdb")
            connection.execute(view)
        yield connection


def write(warehouse: duckdb.DuckDBPyConnection, history: list[Write]) -> None:
    for table in TABLES:
        warehouse.execute(f"DELETE FROM ecomflow.{table}")
    times, codec = IngestionTimes(), Codec(SHOP)
    for number, batch in enumerate(history):
        messages = [message(content(body), body.event_id, f"m-{number}-{place}") for place, body in enumerate(batch.bodies)]
        facts = model(part_of(codec.decode(messages, NOW), "order"), NOW)
        ingested = times.of(facts.event_ids, NOW + timedelta(seconds=number // 2))
        for part in facts.tables:
            moments = ingested if isinstance(ingested, int) else ingested[part.sources]
            keep = pa.array([part.table in batch.tables[source] for source in part.sources])
            rows = with_ingestion_time(part.rows, moments).filter(keep)
            warehouse.register("rows_written", pa.Table.from_batches([rows]))
            warehouse.execute(f"INSERT INTO ecomflow.{part.table} SELECT * FROM rows_written")


def content(body: Body) -> dict[str, Any]:
    line = {"product_id": "p", "product_name": body.name, "quantity": 1, "price": 1}
    return order(1, customer_name=body.name, items=[line] * body.lines)


def shown(warehouse: duckdb.DuckDBPyConnection, table: str, column: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for event_id, name in warehouse.execute(f"SELECT event_id, {column} FROM ecomflow.{table}_unique ORDER BY ALL").fetchall():
        found.setdefault(event_id, []).append(name)
    return found


@property_test(examples=100)
@given(history=histories())
def test_an_event_is_one_body(warehouse: duckdb.DuckDBPyConnection, history: list[Write]) -> None:
    """That of the last delivery, with exactly its lines, whatever was repeated, killed half-way, refused or patched before."""
    write(warehouse, history)
    last = {body.event_id: body for batch in history for body in batch.bodies}
    lines = {event_id: [body.name] * body.lines for event_id, body in last.items()}
    assert shown(warehouse, "fact_order_header", "customer_name") == {event_id: [body.name] for event_id, body in last.items()}
    assert shown(warehouse, "fact_order_item", "product_name") == lines
    assert shown(warehouse, "fact_order", "customer_name") == lines
    assert shown(warehouse, "fact_order", "product_name") == lines


def test_a_filter_on_the_date_is_pushed_below_the_windows() -> None:
    """Every window of a view is partitioned by the date: a condition on it does not change what a window sees."""
    for contract in SHOP:
        for table in contract.tables:
            view = qualify(view_ddl(table), "p.d")
            windows = list(sqlglot.parse_one(view, read="bigquery").find_all(sqlglot.exp.Window))
            dates = {window.args["partition_by"][0].name for window in windows}
            assert len(windows) == (2 if table.each else 1)
            assert dates == {"order_date" if contract.event == "order" else "event_date"}
