"""The shop's contracts as somebody would write them by hand, for valid events: the yardstick of ``contracts.py``.

Messages in, Arrow batches of the five tables out. msgspec structs, a comprehension a column, and every check that a batch needs
which is not valid; but where one fails, this raises, and knows of no dead letter. It is what ecomflow's own decoder and model
were before contracts became data, less the paths that no valid event takes, and is not to be made faster or slower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Context, Inexact, InvalidOperation, Overflow
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Meta

from benchmarks.core import SCHEMAS
from ecomflow.contract.events import Message
from ecomflow.contract.limits import MAX_REPEATED_BYTES, DateRange, is_ip_address, streamable_dates

NUMERIC = pa.decimal128(38, 9)
TIMESTAMP = pa.timestamp("us", "UTC")

NonEmpty = Annotated[str, Meta(min_length=1)]
Timestamp = Annotated[datetime, Meta(tz=True)]
INT64_MAX = 2**63 - 1


class Record(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    pass


class Item(Record, frozen=True):
    product_id: NonEmpty
    product_name: NonEmpty
    quantity: Annotated[int, Meta(ge=1, le=INT64_MAX)]
    price: Any


class Address(Record, frozen=True):
    street: NonEmpty
    city: NonEmpty
    country: NonEmpty


class Session(Record, frozen=True):
    session_id: NonEmpty
    platform: Literal["web", "mobile", "tablet"]


class Order(Record, frozen=True, tag="order", tag_field="event_type", kw_only=True):
    order_id: NonEmpty
    customer_id: NonEmpty
    customer_name: str | None = None
    order_date: Timestamp
    status: Literal["pending", "processing", "shipped", "delivered", "cancelled", "returned"]
    items: Annotated[list[Item], Meta(min_length=1)]
    shipping_address: Address
    total_amount: Any


class Inventory(Record, frozen=True, tag="inventory", tag_field="event_type", kw_only=True):
    inventory_id: NonEmpty
    product_id: NonEmpty
    warehouse_id: NonEmpty
    quantity_change: Annotated[int, Meta(ge=-INT64_MAX - 1, le=INT64_MAX)]
    reason: Literal["restock", "sale", "return", "damage"]
    timestamp: Timestamp


class UserActivity(Record, frozen=True, tag="user_activity", tag_field="event_type", kw_only=True):
    user_id: NonEmpty
    activity_type: Literal["login", "logout", "view_product", "add_to_cart", "remove_from_cart", "checkout"]
    ip_address: str | None = None
    user_agent: str | None = None
    timestamp: Timestamp
    metadata: Session


Event = Order | Inventory | UserActivity
Columns = dict[str, pa.Array]

_PLAIN = Context(prec=38, Emin=0, Emax=28, traps=[Inexact, Overflow, InvalidOperation])
DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event, float_hook=_PLAIN.create_decimal)

# The tables of the compiled shop, without what it keeps of fields that no contract names, and without the sink's own column.
_SCHEMAS = {
    table: pa.schema([field for field in schema if field.name not in ("unknown_fields", "ingestion_timestamp")])
    for table, schema in SCHEMAS.items()
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


class Part(msgspec.Struct, gc=False):
    """One event type's part of a batch: parallel lists."""

    events: list[Any]
    event_ids: list[str]
    messages: list[Message]


def decode(messages: Sequence[Message]) -> dict[type, Part]:
    """The events by their type."""
    parts: dict[type, Part] = {kind: Part([], [], []) for kind in (Order, Inventory, UserActivity)}
    appends = {kind: (part.events.append, part.event_ids.append, part.messages.append) for kind, part in parts.items()}
    event_ids = [message.attributes.get("event_id") or message.message_id for message in messages]
    events = map(DECODER.decode, map(attrgetter("data"), messages))
    for event, event_id, message in zip(events, event_ids, messages, strict=True):
        add_event, add_id, add_message = appends[type(event)]
        add_event(event)
        add_id(event_id)
        add_message(message)
    return {kind: part for kind, part in parts.items() if part.events}


def model(parts: dict[type, Part], now: datetime) -> dict[str, pa.RecordBatch]:
    """The rows of each table."""
    dates = streamable_dates(now.date())
    rows: dict[str, pa.RecordBatch] = {}
    for kind, part in parts.items():
        rows |= _BUILDERS[kind](part.events, part.event_ids, dates)
    return rows


def _orders(orders: list[Order], event_ids: list[str], dates: DateRange) -> dict[str, pa.RecordBatch]:
    order_date, order_timestamp = _time_columns([order.order_date for order in orders], dates)
    header = {
        "event_id": _strings(event_ids),
        "order_id": _strings([order.order_id for order in orders]),
        "customer_id": _strings([order.customer_id for order in orders]),
        "customer_name": _strings([order.customer_name for order in orders]),
        "order_date": order_date,
        "order_timestamp": order_timestamp,
        "status": _strings([order.status for order in orders]),
        "shipping_address_street": _strings([order.shipping_address.street for order in orders]),
        "shipping_address_city": _strings([order.shipping_address.city for order in orders]),
        "shipping_address_country": _strings([order.shipping_address.country for order in orders]),
        "total_amount": _numeric([order.total_amount for order in orders]),
    }
    lines = np.array([len(order.items) for order in orders])
    _check_repeated(header, lines)
    sources = np.repeat(np.arange(len(orders)), lines)
    item = _item_columns([item for order in orders for item in order.items], sources)
    repeated = {name: column.take(pa.array(sources)) for name, column in header.items()}
    line = {**repeated, **item, "order_total_amount": repeated["total_amount"]}
    _differing_totals(header["total_amount"], item["total_amount"], sources)
    tables = {"fact_order_header": header, "fact_order_item": line, "fact_order": line}
    return {table: _rows(table, columns) for table, columns in tables.items()}


def _check_repeated(header: Columns, lines: Any) -> None:
    texts = [column for column in header.values() if pa.types.is_string(column.type)]
    repeated = lines * sum(pc.fill_null(pc.binary_length(column), 0).to_numpy().astype(np.int64) for column in texts)
    _check(repeated.max() <= MAX_REPEATED_BYTES and repeated.sum() <= 4 * MAX_REPEATED_BYTES)


def _item_columns(items: list[Item], sources: Any) -> Columns:
    quantities = [item.quantity for item in items]
    price = _numeric([item.price for item in items])
    first_line = np.searchsorted(sources, sources, side="left")
    return {
        "line_number": pa.array(np.arange(len(items)) - first_line + 1),
        "product_id": _strings([item.product_id for item in items]),
        "product_name": _strings([item.product_name for item in items]),
        "quantity": pa.array(quantities, pa.int64()),
        "price": price,
        "total_amount": _line_totals(quantities, price),
    }


def _line_totals(quantities: list[int], price: pa.Array) -> pa.Array:
    words = _words(price)
    low, high = words[:, 0], words[:, 1]
    counts = np.array(quantities, dtype=np.int64)
    _check(not high.any() and low.min() >= 0 and float(low.max()) * float(counts.max()) < 2**62)
    totals = np.zeros_like(words)
    totals[:, 0] = low * counts
    return pa.Array.from_buffers(NUMERIC, len(totals), [None, pa.py_buffer(totals)])


def _differing_totals(total: pa.Array, line: pa.Array, sources: Any) -> int:
    """How many orders have another total than their lines."""
    totals, lines = _words(total), _words(line)
    first = np.searchsorted(sources, np.arange(len(total)))
    _check(not totals[:, 1].any() and not lines[:, 1].any() and min(totals[:, 0].min(), lines[:, 0].min()) >= 0)
    _check(float(lines[:, 0].max()) * len(lines) < 2**62)
    return int(np.count_nonzero(np.add.reduceat(lines[:, 0], first) != totals[:, 0]))


def _words(column: pa.Array) -> Any:
    """Billionths as two 64-bit words a value, the low one first."""
    return np.frombuffer(column.buffers()[1], dtype=np.int64, count=2 * len(column)).reshape(-1, 2)


def _inventory(events: list[Inventory], event_ids: list[str], dates: DateRange) -> dict[str, pa.RecordBatch]:
    event_date, event_timestamp = _time_columns([event.timestamp for event in events], dates)
    columns = {
        "event_id": _strings(event_ids),
        "inventory_id": _strings([event.inventory_id for event in events]),
        "product_id": _strings([event.product_id for event in events]),
        "warehouse_id": _strings([event.warehouse_id for event in events]),
        "quantity_change": pa.array([event.quantity_change for event in events], pa.int64()),
        "reason": _strings([event.reason for event in events]),
        "event_date": event_date,
        "event_timestamp": event_timestamp,
    }
    return {"fact_inventory": _rows("fact_inventory", columns)}


def _activity(events: list[UserActivity], event_ids: list[str], dates: DateRange) -> dict[str, pa.RecordBatch]:
    event_date, event_timestamp = _time_columns([event.timestamp for event in events], dates)
    addresses = [event.ip_address for event in events]
    _check(all(address is None or is_ip_address(address) for address in set(addresses)))
    columns = {
        "event_id": _strings(event_ids),
        "user_id": _strings([event.user_id for event in events]),
        "activity_type": _strings([event.activity_type for event in events]),
        "ip_address": _strings(addresses),
        "user_agent": _strings([event.user_agent for event in events]),
        "session_id": _strings([event.metadata.session_id for event in events]),
        "platform": _strings([event.metadata.platform for event in events]),
        "event_date": event_date,
        "event_timestamp": event_timestamp,
    }
    return {"fact_user_activity": _rows("fact_user_activity", columns)}


_BUILDERS: dict[type, Callable[[list[Any], list[str], DateRange], dict[str, pa.RecordBatch]]] = {
    Order: _orders,
    Inventory: _inventory,
    UserActivity: _activity,
}


def _rows(table: str, columns: Columns) -> pa.RecordBatch:
    schema = _SCHEMAS[table]
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _strings(values: Sequence[str | None]) -> pa.Array:
    return pa.array(values, pa.string())


def _time_columns(moments: list[datetime], dates: DateRange) -> tuple[pa.Array, pa.Array]:
    timestamps = pa.array([moment - _EPOCH for moment in moments], pa.duration("us")).view(TIMESTAMP)
    days = timestamps.cast(pa.date32(), safe=False)
    bounds = pc.min_max(days.view(pa.int32())).as_py()
    first, last = (day.toordinal() - _EPOCH_ORDINAL for day in dates)
    _check(first <= bounds["min"] and bounds["max"] <= last)
    return days, timestamps


def _numeric(values: list[Any]) -> pa.Array:
    column = pa.array(values, NUMERIC)
    _check(not column.null_count and pc.min(column).as_py() >= 0)
    return column


def _check(holds: Any) -> None:
    if not holds:
        raise ValueError("the events were to be valid, and small enough for 64 bits")
