"""The rules of the contract that types can't say: an event in, its first violation or None out.

This is the one place where they stand, an event at a time. The model's columns refuse a batch that breaks any of them, and only
then is each event asked here (``pipeline/model.py``).
"""

from __future__ import annotations

import socket
from datetime import UTC, date, datetime
from decimal import Context, Decimal, Inexact
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from ecomflow.contract.events import Event, Inventory, Order

# BigQuery's NUMERIC: 38 digits, 9 of them after the point.
# https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#decimal_types
NUMERIC_SCALE = 9
NUMERIC_LIMIT = 10**29
_BILLIONTHS = 10**NUMERIC_SCALE

# What can be streamed into a daily partition by its column.
# https://cloud.google.com/bigquery/docs/streaming-data-into-bigquery#streaming_into_partitioned_tables
YEARS_BACK = 10
YEARS_AHEAD = 1

# fact_order repeats an order's header on each of its items, so that a message of 10 MB could become rows of many gigabytes. No
# order of a shop comes near this: 10,000 items with a header of 1.6 KB.
MAX_REPEATED_BYTES = 16 * 2**20

# The longest text of an address: six groups of four digits, and an IPv4 address in full.
_LONGEST_ADDRESS = 45

# Wide enough for any NUMERIC; never rounds.
_EXACT = Context(prec=80, traps=[Inexact])


# What is done with an order whose total is not the sum of its lines: nothing; it is counted; it is a dead letter. No rule for
# all, for a shop's total may hold shipping, discounts or taxes.
OrderTotals = Literal["ignore", "count", "refuse"]
DEFAULT_ORDER_TOTALS: OrderTotals = "count"


class Violation(NamedTuple):
    reason: Literal["contract_violation", "out_of_range"]
    error: str


class DateRange(NamedTuple):
    """The dates, both included, that can be streamed into a daily partition."""

    first: date
    last: date


def streamable_dates(today: date) -> DateRange:
    """10 years back to 1 year ahead of ``today``."""
    return DateRange(_shift_years(today, -YEARS_BACK), _shift_years(today, YEARS_AHEAD))


def first_violation(event: Event, dates: DateRange, event_id: str = "") -> Violation | None:
    """The first rule that ``event`` breaks, or None. Its ``event_id`` stands on each of its rows, as an order's header does."""
    if isinstance(event, Order):
        return _order_violation(event, dates) or _size_violation(event, event_id)
    if isinstance(event, Inventory):
        if event.quantity_change == 0:
            return _contract("$.quantity_change", "int other than 0", 0)
        return _date_violation("$.timestamp", event.timestamp, dates)
    if event.ip_address is not None and not is_ip_address(event.ip_address):
        return _contract("$.ip_address", "IPv4 or IPv6 address", event.ip_address)
    return _date_violation("$.timestamp", event.timestamp, dates)


def total_violation(order: Order) -> Violation | None:
    """Where ``total_amount`` is not the sum of quantity x price, exactly. ``order`` must satisfy all other rules."""
    total = sum(item.quantity * scaled_numeric(item.price) for item in order.items)
    if total == scaled_numeric(order.total_amount):
        return None
    found, lines = _shown(order.total_amount), _shown(_amount(total))
    return Violation("contract_violation", f"$.total_amount: expected the sum of its lines, got {found} instead of {lines}")


def _amount(scaled: int) -> Decimal:
    """Billionths as an amount, with two decimal places or as many as it needs."""
    amount = Decimal(scaled).scaleb(-NUMERIC_SCALE, _EXACT).normalize(_EXACT)
    return amount if int(amount.as_tuple().exponent) < -2 else amount.quantize(Decimal("0.01"), context=_EXACT)


def is_ip_address(text: str) -> bool:
    """Whether ``text`` is an IPv4 address in four decimal parts or an IPv6 address without a zone."""
    return len(text) <= _LONGEST_ADDRESS and _reads_as_address(text)


@lru_cache(maxsize=65_536)  # the same shoppers come again, and an address costs a third of a microsecond to read
def _reads_as_address(text: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return True
    return False


def is_numeric(value: Any) -> bool:
    """Whether ``value`` is an exact number, 0 or more, that a NUMERIC column holds without rounding."""
    if type(value) is int:
        return 0 <= value < NUMERIC_LIMIT
    if type(value) is not Decimal or not value.is_finite() or not 0 <= value < NUMERIC_LIMIT:
        return False
    digits, exponent = value.as_tuple()[1:]
    spare = -int(exponent) - NUMERIC_SCALE
    return spare <= 0 or not any(digits[-spare:])


def scaled_line_total(quantity: int, price: int | Decimal) -> int | None:
    """``quantity`` x ``price`` in billionths, both valid by themselves; None where it is too large for a NUMERIC column."""
    total = quantity * scaled_numeric(price)
    return total if total < NUMERIC_LIMIT * _BILLIONTHS else None


def scaled_numeric(value: int | Decimal) -> int:
    """``value`` in billionths: the integer that decimal128(38, 9) stores. ``value`` must satisfy ``is_numeric``."""
    return value * _BILLIONTHS if isinstance(value, int) else int(value.scaleb(NUMERIC_SCALE, _EXACT))


def money_violation(order: Order) -> Violation | None:
    """The first amount of ``order`` that no NUMERIC column holds, or None."""
    for index, item in enumerate(order.items):
        if not is_numeric(item.price):
            return _contract(f"$.items[{index}].price", _NUMERIC_RULE, item.price)
        if scaled_line_total(item.quantity, item.price) is None:
            shown = f"{_shown(item.quantity)} x {_shown(item.price)}"
            return Violation("out_of_range", f"$.items[{index}]: expected quantity x price below 1e29, got {shown}")
    return None if is_numeric(order.total_amount) else _contract("$.total_amount", _NUMERIC_RULE, order.total_amount)


def _order_violation(order: Order, dates: DateRange) -> Violation | None:
    return money_violation(order) or _date_violation("$.order_date", order.order_date, dates)


def _size_violation(order: Order, event_id: str) -> Violation | None:
    header = repeated_bytes(order, event_id)
    items = len(order.items)
    if header * items <= MAX_REPEATED_BYTES:
        return None
    most = MAX_REPEATED_BYTES // header
    return Violation("out_of_range", f"$.items: expected at most {most} items with a header of {header} bytes, got {items}")


def repeated_bytes(order: Order, event_id: str) -> int:
    """The bytes of text that stand on each row of ``order`` in fact_order."""
    address = order.shipping_address
    texts = (event_id, order.order_id, order.customer_id, order.customer_name or "", order.status)
    return sum(len(text.encode()) for text in (*texts, address.street, address.city, address.country))


def _date_violation(path: str, moment: datetime, dates: DateRange) -> Violation | None:
    day = utc_date(moment)
    if day is not None and dates.first <= day <= dates.last:
        return None
    return Violation("out_of_range", f"{path}: expected a UTC date from {dates.first} to {dates.last}, got {moment.isoformat()}")


def utc_date(moment: datetime) -> date | None:
    """The UTC date of ``moment``; None where it lies outside the years 1 to 9999."""
    try:
        return moment.astimezone(UTC).date()
    except OverflowError:
        return None


_NUMERIC_RULE = "number >= 0 with at most 29 integer and 9 decimal digits"


def _contract(path: str, expected: str, value: object) -> Violation:
    return Violation("contract_violation", f"{path}: expected {expected}, got {_shown(value)}")


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | dict):
        return "array" if isinstance(value, list) else "object"
    text = repr(value) if isinstance(value, str) else _number(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _number(value: object) -> str:
    return f"{value:E}" if isinstance(value, Decimal) and abs(value.adjusted()) > 60 else str(value)


def _shift_years(day: date, years: int) -> date:
    try:
        return day.replace(year=day.year + years)
    except ValueError:  # 29 February
        return day.replace(year=day.year + years, day=28)
