"""The reference: rows made from published events once more, in plain json and Decimal, sharing nothing with the pipeline."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from operator import itemgetter
from typing import Any

from ecomflow.contract.dead_letter import original, stream_of
from ecomflow.contract.facts import SCHEMAS
from ecomflow.deadletters import store
from ecomflow.gcp.target import Target
from ecomflow.generator import rounds
from ecomflow.warehouse import queries


def rows_of(target: Target, table: str) -> list[dict[str, Any]]:
    """The rows of ``table`` without ``ingestion_timestamp``."""
    answer = queries.ask(target, f"SELECT * EXCEPT (ingestion_timestamp) FROM ecomflow.{table}", {})
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def expected_rows(events: list[rounds.GeneratedEvent]) -> dict[str, list[dict[str, Any]]]:
    """The rows of every table that the valid ones of ``events`` must make."""
    rows: dict[str, list[dict[str, Any]]] = {table: [] for table in SCHEMAS}
    for event in events:
        if event.fault is None:
            body = json.loads(event.data, parse_float=Decimal)
            {"order": add_order, "inventory": add_inventory, "user_activity": add_activity}[body["event_type"]](
                rows, body, event.attributes["event_id"]
            )
    return rows


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def add_order(rows: dict[str, list[dict[str, Any]]], body: dict[str, Any], event_id: str) -> None:
    when = moment(body["order_date"])
    key = {"event_id": event_id, "order_id": body["order_id"]}
    times = {"order_date": when.date(), "order_timestamp": when}
    address = {f"shipping_address_{name}": body["shipping_address"][name] for name in ("street", "city", "country")}
    header = {"customer_id": body["customer_id"], "customer_name": body.get("customer_name"), "status": body["status"], **address}
    total = Decimal(body["total_amount"])
    rows["fact_order_header"].append({**key, **times, **header, "total_amount": total})
    for number, item in enumerate(body["items"], start=1):
        price = Decimal(item["price"])
        line = {
            "line_number": number,
            "product_id": item["product_id"],
            "product_name": item["product_name"],
            "quantity": item["quantity"],
            "price": price,
            "total_amount": price * item["quantity"],
        }
        rows["fact_order_item"].append({**key, **times, **line})
        rows["fact_order"].append({**key, **times, **header, **line, "order_total_amount": total})


def add_inventory(rows: dict[str, list[dict[str, Any]]], body: dict[str, Any], event_id: str) -> None:
    when = moment(body["timestamp"])
    names = ("inventory_id", "product_id", "warehouse_id", "quantity_change", "reason")
    times = {"event_date": when.date(), "event_timestamp": when}
    rows["fact_inventory"].append({"event_id": event_id, **{name: body[name] for name in names}, **times})


def add_activity(rows: dict[str, list[dict[str, Any]]], body: dict[str, Any], event_id: str) -> None:
    when = moment(body["timestamp"])
    names = ("user_id", "activity_type", "ip_address", "user_agent")
    session = {name: body["metadata"][name] for name in ("session_id", "platform")}
    times = {"event_date": when.date(), "event_timestamp": when}
    rows["fact_user_activity"].append({"event_id": event_id, **{name: body.get(name) for name in names}, **session, **times})


def sort_key(row: dict[str, Any]) -> tuple[str, int]:
    return row["event_id"], row.get("line_number", 0)


def assert_landed(target: Target, events: list[rounds.GeneratedEvent]) -> None:
    """Every event of ``events`` is in its tables or its dead letter, value by value, and nothing else is."""
    for table, expected in expected_rows(events).items():
        assert sorted(rows_of(target, table), key=sort_key) == sorted(expected, key=sort_key), table
    letters = [stored.letter for stored in store.newest(target, limit=10_000)]
    found = [(letter.event_id, stream_of(letter), letter.reason, *original(letter)) for letter in letters]
    invalid = [event for event in events if event.fault is not None]
    wanted = [(e.attributes["event_id"], e.expected_stream, e.expected_reason, e.data, e.attributes) for e in invalid]
    assert sorted(found, key=itemgetter(0)) == sorted(wanted, key=itemgetter(0))
