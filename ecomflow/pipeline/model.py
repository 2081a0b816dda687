"""Typed events of one stream in; Arrow columns of its fact tables, and dead letters, out. Pure: no Beam, no cloud, the clock
passed in.

A column is built straight from the events, and Arrow refuses what no column holds. Only a batch that is refused so, or whose
dates or amounts lie outside, is asked event by event (``rules.py``) which of them it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecomflow.contract.dead_letter import DeadLetter, dead_letter
from ecomflow.contract.decode import StreamBatch
from ecomflow.contract.events import Inventory, Message, Order, UserActivity
from ecomflow.contract.facts import NUMERIC, STREAM_TABLES, TIMESTAMP, modelled_schema
from ecomflow.contract.rules import (
    DEFAULT_ORDER_TOTALS,
    MAX_REPEATED_BYTES,
    DateRange,
    OrderTotals,
    first_violation,
    is_ip_address,
    scaled_line_total,
    scaled_numeric,
    streamable_dates,
    total_violation,
)

_SCHEMAS = {table: modelled_schema(table) for tables in STREAM_TABLES.values() for table in tables}


class TableRows(msgspec.Struct, gc=False):
    """Rows for one table, without ``ingestion_timestamp``; ``sources[i]`` is the index of row i's message in the batch."""

    table: str
    rows: pa.RecordBatch
    sources: Any  # numpy int64 array of len(rows)


class FactBatch(msgspec.Struct, gc=False):
    """One stream's rows, the messages they came from, and the dead letters so far. ``totals_differ``: how many of its orders
    have another total than their lines, where that is counted.
    """

    stream: str
    tables: list[TableRows]
    messages: list[Message]
    refused: list[DeadLetter]
    totals_differ: int = 0


class _SuspectError(Exception):
    """Some event of the batch breaks a rule; which one is not known."""


class TooManyRowsError(Exception):
    """The rows of a batch would exceed ``MAX_REPEATED_BATCH_BYTES``. A batch of one event never does."""


# Four of the largest orders: more than any batch of a shop, and little beside a worker's memory.
MAX_REPEATED_BATCH_BYTES = 4 * MAX_REPEATED_BYTES


def model_facts(batch: StreamBatch, now: datetime, order_totals: OrderTotals = DEFAULT_ORDER_TOTALS) -> FactBatch:
    """The fact rows of ``batch``; an event that breaks a rule becomes a dead letter failed at ``now``.

    Raises TooManyRowsError where the batch must be halved first.
    """
    dates = streamable_dates(now.date())
    if batch.stream not in _BUILDERS:
        return FactBatch(batch.stream, [], [], batch.refused)
    try:
        return _facts(batch, dates, _fast_numeric, order_totals)
    except (_SuspectError, pa.ArrowException):
        return _facts(_without_violations(batch, dates, now, order_totals), dates, _checked_numeric, order_totals)


def _facts(batch: StreamBatch, dates: DateRange, numeric: _Numeric, order_totals: OrderTotals) -> FactBatch:
    if not batch.events:
        return FactBatch(batch.stream, [], [], batch.refused)
    tables = _BUILDERS[batch.stream](batch.events, batch.event_ids, dates, numeric)
    checked = batch.stream == "order" and order_totals != "ignore"
    differing = _differing_totals(batch.events, *tables[:2]) if checked else 0
    if differing and order_totals == "refuse":
        raise _SuspectError
    return FactBatch(batch.stream, tables, batch.messages, batch.refused, differing)


def _differing_totals(orders: list[Order], headers: TableRows, items: TableRows) -> int:
    """How many orders have another total than their lines. Exact: in 64 bits where every sum fits there, else order by order."""
    totals, lines = (_words(part.rows.column("total_amount")) for part in (headers, items))
    first = np.searchsorted(items.sources, np.arange(len(orders)))
    small = not totals[:, 1].any() and not lines[:, 1].any() and min(totals[:, 0].min(), lines[:, 0].min()) >= 0
    if small and float(lines[:, 0].max()) * len(lines) < 2**62:
        return int(np.count_nonzero(np.add.reduceat(lines[:, 0], first) != totals[:, 0]))
    return sum(total_violation(order) is not None for order in orders)


def _without_violations(batch: StreamBatch, dates: DateRange, now: datetime, order_totals: OrderTotals) -> StreamBatch:
    good = StreamBatch(batch.stream, [], [], [], list(batch.refused))
    for event, event_id, message in zip(batch.events, batch.event_ids, batch.messages, strict=True):
        violation = first_violation(event, dates, event_id)
        if violation is None and order_totals == "refuse" and isinstance(event, Order):
            violation = total_violation(event)
        if violation is None:
            good.events.append(event)
            good.event_ids.append(event_id)
            good.messages.append(message)
        else:
            good.refused.append(dead_letter(message, violation.reason, violation.error, batch.stream, now))
    return good


_Numeric = Callable[[list[Any]], pa.Array]


def _build_orders(orders: list[Order], event_ids: list[str], dates: DateRange, numeric: _Numeric) -> list[TableRows]:
    """Three tables: a header row an order, and a row an item in the other two, ``line_number`` from 1."""
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
        "total_amount": numeric([order.total_amount for order in orders]),
    }
    lines = np.array([len(order.items) for order in orders])
    _check_repeated(header, lines)
    sources = np.repeat(np.arange(len(orders)), lines)
    item = _item_columns([item for order in orders for item in order.items], sources, numeric)
    repeated = {name: column.take(pa.array(sources)) for name, column in header.items()}
    line = {**repeated, **item, "order_total_amount": repeated["total_amount"]}
    return [
        _rows("fact_order_header", header, np.arange(len(orders))),
        _rows("fact_order_item", line, sources),
        _rows("fact_order", line, sources),
    ]


def _check_repeated(header: dict[str, pa.Array], lines: Any) -> None:
    """Refuse what its header, repeated on each of its lines, would make too large: an order, or the batch."""
    texts = [column for column in header.values() if pa.types.is_string(column.type)]
    repeated = lines * sum(pc.fill_null(pc.binary_length(column), 0).to_numpy().astype(np.int64) for column in texts)
    if repeated.max() > MAX_REPEATED_BYTES:
        raise _SuspectError
    if repeated.sum() > MAX_REPEATED_BATCH_BYTES:
        raise TooManyRowsError


def _item_columns(items: list[Any], sources: Any, numeric: _Numeric) -> dict[str, pa.Array]:
    quantities = [item.quantity for item in items]
    prices = [item.price for item in items]
    first_line = np.searchsorted(sources, sources, side="left")
    price = numeric(prices)
    return {
        "line_number": pa.array(np.arange(len(items)) - first_line + 1),
        "product_id": _strings([item.product_id for item in items]),
        "product_name": _strings([item.product_name for item in items]),
        "quantity": pa.array(quantities, pa.int64()),
        "price": price,
        "total_amount": _line_totals(quantities, prices, price),
    }


def _line_totals(quantities: list[int], prices: list[Any], price: pa.Array) -> pa.Array:
    """quantity x price, exact. In 64 bits where every product fits there, as it does for any shop; else in Python's integers."""
    words = _words(price)
    low, high = words[:, 0], words[:, 1]
    counts = np.array(quantities, dtype=np.int64)
    if not high.any() and low.min() >= 0 and float(low.max()) * float(counts.max()) < 2**62:
        totals = np.zeros_like(words)
        totals[:, 0] = low * counts
        return pa.Array.from_buffers(NUMERIC, len(totals), [None, pa.py_buffer(totals)])
    exact = [scaled_line_total(quantity, value) for quantity, value in zip(quantities, prices, strict=True)]
    fitting = [total for total in exact if total is not None]
    if len(fitting) < len(exact):
        raise _SuspectError
    return _decimals(fitting)


def _words(decimals: pa.Array) -> Any:
    """Billionths as two 64-bit words a value, the low one first: an int64 array of (len, 2)."""
    return np.frombuffer(decimals.buffers()[1], dtype=np.int64, count=2 * len(decimals)).reshape(-1, 2)


def _build_inventory(events: list[Inventory], event_ids: list[str], dates: DateRange, _: _Numeric) -> list[TableRows]:
    event_date, event_timestamp = _time_columns([event.timestamp for event in events], dates)
    changes = [event.quantity_change for event in events]
    if 0 in changes:
        raise _SuspectError
    columns = {
        "event_id": _strings(event_ids),
        "inventory_id": _strings([event.inventory_id for event in events]),
        "product_id": _strings([event.product_id for event in events]),
        "warehouse_id": _strings([event.warehouse_id for event in events]),
        "quantity_change": pa.array(changes, pa.int64()),
        "reason": _strings([event.reason for event in events]),
        "event_date": event_date,
        "event_timestamp": event_timestamp,
    }
    return [_rows("fact_inventory", columns, np.arange(len(events)))]


def _build_activity(events: list[UserActivity], event_ids: list[str], dates: DateRange, _: _Numeric) -> list[TableRows]:
    event_date, event_timestamp = _time_columns([event.timestamp for event in events], dates)
    addresses = [event.ip_address for event in events]
    if not all(address is None or is_ip_address(address) for address in set(addresses)):
        raise _SuspectError
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
    return [_rows("fact_user_activity", columns, np.arange(len(events)))]


_BUILDERS: dict[str, Callable[[list[Any], list[str], DateRange, _Numeric], list[TableRows]]] = {
    "order": _build_orders,
    "inventory": _build_inventory,
    "user_activity": _build_activity,
}


def _rows(table: str, columns: dict[str, pa.Array], sources: Any) -> TableRows:
    schema = _SCHEMAS[table]
    return TableRows(table, pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema), sources)


def _strings(values: Sequence[str | None]) -> pa.Array:
    return pa.array(values, pa.string())


def _time_columns(moments: list[datetime], dates: DateRange) -> tuple[pa.Array, pa.Array]:
    """The UTC date and the UTC timestamp of ``moments``, all of them within ``dates``.

    By their distance from the epoch: Arrow asks each moment for its offset in Python, which takes three times as long.
    """
    timestamps = pa.array([moment - _EPOCH for moment in moments], pa.duration(TIMESTAMP.unit)).view(TIMESTAMP)
    days = timestamps.cast(pa.date32(), safe=False)
    bounds = pc.min_max(days.view(pa.int32())).as_py()
    first, last = (day.toordinal() - _EPOCH_ORDINAL for day in dates)
    if bounds["min"] < first or bounds["max"] > last:
        raise _SuspectError
    return days, timestamps


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL = _EPOCH.toordinal()


def _fast_numeric(values: list[Any]) -> pa.Array:
    """Exact decimals; Arrow raises for what is no number, does not fit, or would be rounded, but takes a JSON null."""
    column = pa.array(values, NUMERIC)
    if column.null_count or pc.min(column).as_py() < 0:
        raise _SuspectError
    return column


def _checked_numeric(values: list[Any]) -> pa.Array:
    """The same for values that satisfy the rule, however they are written: ``1.0000000000`` has ten decimal places, none
    needed.
    """
    return _decimals([scaled_numeric(value) for value in values])


def _decimals(scaled: Sequence[int]) -> pa.Array:
    """Decimals from their billionths: 16 bytes each, the low ones first."""
    words = b"".join([value.to_bytes(16, "little") for value in scaled])
    return pa.Array.from_buffers(NUMERIC, len(scaled), [None, pa.py_buffer(words)])
