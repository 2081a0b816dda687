"""The reference: rows made from published events once more, in plain json and Decimal, sharing nothing with the pipeline."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Context, Decimal
from operator import itemgetter
from typing import Any

from ecomflow.contract.dead_letter import original
from ecomflow.deadletters import store
from ecomflow.gcp.target import Target
from ecomflow.generator import rounds
from ecomflow.warehouse import queries

TABLES = ("fact_order_header", "fact_order_item", "fact_order", "fact_inventory", "fact_user_activity")
EXACT = Context(prec=100)

Row = dict[str, Any]


def rows_of(target: Target, table: str) -> list[Row]:
    """The rows of ``table`` without ``ingestion_timestamp``."""
    answer = queries.ask(target, f"SELECT * EXCEPT (ingestion_timestamp) FROM ecomflow.{table}", {})
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def expected_rows(events: list[rounds.GeneratedEvent]) -> dict[str, list[Row]]:
    """The rows of every table that the valid ones of ``events`` must make."""
    rows: dict[str, list[Row]] = {table: [] for table in TABLES}
    for event in events:
        if event.fault is None:
            for table, found in reference_rows(event.data, event.attributes["event_id"]).items():
                rows[table] += found
    return rows


def reference_rows(data: bytes, event_id: str) -> dict[str, list[Row]]:
    """The rows of one valid event of the shop that has no unknown fields, by table."""
    body = json.loads(data, parse_float=Decimal)
    rows_of_type = {"order": order_rows, "inventory": inventory_rows, "user_activity": activity_rows}
    return rows_of_type[body["event_type"]](body, event_id)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def order_rows(body: Row, event_id: str) -> dict[str, list[Row]]:
    when = moment(body["order_date"])
    key = {"event_id": event_id, "order_id": body["order_id"]}
    times = {"order_date": when.date(), "order_timestamp": when}
    address = {f"shipping_address_{name}": body["shipping_address"][name] for name in ("street", "city", "country")}
    header = {"customer_id": body["customer_id"], "customer_name": body.get("customer_name"), "status": body["status"], **address}
    total = Decimal(body["total_amount"])
    lines = [
        {
            "line_number": number,
            "product_id": item["product_id"],
            "product_name": item["product_name"],
            "quantity": item["quantity"],
            "price": Decimal(item["price"]),
            "total_amount": EXACT.multiply(Decimal(item["quantity"]), Decimal(item["price"])),
        }
        for number, item in enumerate(body["items"], start=1)
    ]
    return {
        "fact_order_header": [{**key, **times, **header, "total_amount": total, "unknown_fields": None}],
        "fact_order_item": [{**key, **times, **line} for line in lines],
        "fact_order": [{**key, **times, **header, **line, "order_total_amount": total} for line in lines],
    }


def inventory_rows(body: Row, event_id: str) -> dict[str, list[Row]]:
    names = ("inventory_id", "product_id", "warehouse_id", "quantity_change", "reason")
    return {"fact_inventory": [{"event_id": event_id, **{name: body[name] for name in names}, **event_columns(body)}]}


def activity_rows(body: Row, event_id: str) -> dict[str, list[Row]]:
    names = ("user_id", "activity_type", "ip_address", "user_agent")
    session = {name: body["metadata"][name] for name in ("session_id", "platform")}
    row = {"event_id": event_id, **{name: body.get(name) for name in names}, **session, **event_columns(body)}
    return {"fact_user_activity": [row]}


def event_columns(body: Row) -> Row:
    when = moment(body["timestamp"])
    return {"event_date": when.date(), "event_timestamp": when, "unknown_fields": None}


def sort_key(row: Row) -> tuple[str, int]:
    return row["event_id"], row.get("line_number", 0)


def assert_landed(target: Target, events: list[rounds.GeneratedEvent]) -> None:
    """Every event of ``events`` is in its tables or its dead letter, value by value, and nothing else is."""
    for table, expected in expected_rows(events).items():
        assert sorted(rows_of(target, table), key=sort_key) == sorted(expected, key=sort_key), table
    letters = [(stored.stream, stored.letter) for stored in store.newest(target, limit=10_000)]
    found = [(letter.event_id, stream, letter.reason, *original(letter)) for stream, letter in letters]
    invalid = [event for event in events if event.fault is not None]
    wanted = [(e.attributes["event_id"], e.expected_stream, e.expected_reason, e.data, e.attributes) for e in invalid]
    assert sorted(found, key=itemgetter(0)) == sorted(wanted, key=itemgetter(0))
