"""Strategies of the shop's events: valid and invalid values of every kind, overwritten documents, strange values anywhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
from hypothesis import strategies as st

from tests.support.contract import activity, encoded, inventory, item, number, order

DIGITS = st.text("0123456789", min_size=1, max_size=31).map(lambda digits: digits.lstrip("0") or "0")
MONEY = st.one_of(
    st.integers(0, 10_000).map(lambda cents: f"{cents // 100}.{cents % 100:02}"),
    st.builds("{}.{}".format, DIGITS, st.text("0123456789", min_size=1, max_size=12)),
    st.builds("{}e{}".format, st.integers(0, 99), st.integers(-12, 30)),
    DIGITS,
    st.sampled_from(["-0", "-0.0", "-1", "null", "true", '"1"', "[]", "0e999999999999", "1e999999999999999999999"]),
).map(number)
QUANTITIES = st.integers(1, 9) | st.integers(1, 2**63 - 1)
TEXTS = st.text(min_size=1, max_size=5)
OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIMES = st.one_of(
    st.datetimes(datetime(2015, 12, 11), datetime(2026, 12, 9), timezones=st.just(UTC)),
    st.datetimes(datetime(2015, 12, 8), datetime(2015, 12, 12), timezones=OFFSETS),
    st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=OFFSETS),
).map(lambda moment: moment.isoformat())
ITEMS = st.lists(st.builds(item, product_id=TEXTS, product_name=TEXTS, quantity=QUANTITIES, price=MONEY), min_size=1, max_size=3)
ORDERS = st.builds(order, order_id=TEXTS, customer_name=st.none() | st.text(), order_date=TIMES, items=ITEMS, total_amount=MONEY)
CHANGES = st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1)
INVENTORIES = st.builds(inventory, product_id=TEXTS, quantity_change=CHANGES, timestamp=TIMES)
ADDRESSES = st.none() | st.ip_addresses().map(str) | st.text(max_size=5)
ACTIVITIES = st.builds(activity, ip_address=ADDRESSES, user_agent=st.none() | st.text(), timestamp=TIMES)
EVENTS = ORDERS | INVENTORIES | ACTIVITIES

# Pieces that are dear to parsers, put anywhere into a valid document.
PIECES = st.sampled_from(
    [
        *(b"", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\x00", b"\xff", b"\n", b"null", b"true", b"-", b"NaN"),
        *(b"0.1", b"2.0", b"1e999", b"9" * 30, b"1" * 4400, b"[" * 1200, b'"event_type":"order",', b'"x":1,', b"\\ud800"),
        "\u2028".encode(),
    ]
)


@st.composite
def mutated_documents(draw: st.DrawFn) -> bytes:
    """A valid document with up to three places overwritten."""
    data = encoded(draw(st.sampled_from([order(), inventory(), activity()])))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        data = data[:start] + draw(PIECES | st.binary(max_size=4)) + data[start + draw(st.integers(0, 12)) :]
    return data


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@st.composite
def documents_with_strange_values(draw: st.DrawFn) -> bytes:
    """A valid document with one field, at any depth, holding any JSON value."""
    body: Any = msgspec.json.decode(encoded(draw(st.sampled_from([order(), inventory(), activity()]))))
    place = body
    while True:
        key = draw(st.sampled_from(sorted(place))) if isinstance(place, dict) else 0
        if not isinstance(place[key], dict | list) or draw(st.booleans()):
            place[key] = draw(VALUES)
            return encoded(body)
        place = place[key]


ANY_BYTES = st.binary(max_size=40) | mutated_documents() | documents_with_strange_values()
