"""The rules that types can't say, asked of one event: its first violation, in their order."""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec
import pytest

from ecomflow.contract.codec import Codec, violation_of_event
from ecomflow.contract.limits import DateRange
from ecomflow.contract.reasons import Violation
from tests.support.contract import (
    MONEY_RULE,
    SHOP,
    TIME_RULE,
    activity,
    inventory,
    item,
    message,
    number,
    order,
    refusing_totals,
)

DATES = DateRange(date(2015, 12, 10), date(2026, 12, 10))


class Typed(msgspec.Struct):
    event_type: str


def first_violation(body: Any, dates: DateRange = DATES, codec: Codec | None = None) -> Violation | None:
    """The event with its very digits, also those that the decoder of the fast path refuses, asked by itself."""
    data = message(body).data
    kind = (codec or Codec(SHOP)).kinds[msgspec.json.decode(data, type=Typed).event_type]
    return violation_of_event(kind, kind.exact_decoder.decode(data), "E-1", dates)


@pytest.mark.parametrize("body", [order(), inventory(), activity(), activity(ip_address=None)])
def test_a_good_event_has_none(body: Any) -> None:
    """Valid events of each type pass."""
    assert first_violation(body) is None


@pytest.mark.parametrize(
    ("body", "reason", "path", "expected", "actual"),
    [
        (
            order(items=[item(), item(price=None)], total_amount=None),
            *("contract_violation", "$.items[1].price", MONEY_RULE, "null"),
        ),
        (order(total_amount=number("1E+400")), "contract_violation", "$.total_amount", MONEY_RULE, "1E+400"),
        (
            order(total_amount=number("1" + "0" * 4000)),
            *("contract_violation", "$.total_amount", MONEY_RULE, f"1{'0' * 56}..."),
        ),
        (
            order(total_amount=number("0." + "3" * 100)),
            *("contract_violation", "$.total_amount", MONEY_RULE, f"0.{'3' * 55}..."),
        ),
        (
            order(items=[item(), item(quantity=2, price=number("5e28"))]),
            *("out_of_range", "$.items[1]", "expected quantity x price below 1e29", "2 x 5E+28"),
        ),
        (
            activity(ip_address="x\n"),
            *("contract_violation", "$.ip_address", "expected IPv4 or IPv6 address", "a string that is personal and not shown"),
        ),
        (activity(timestamp="x\n"), "contract_violation", "$.timestamp", TIME_RULE, "'x\\n'"),
        (
            inventory(timestamp="1999-01-01T00:00:00Z"),
            *("out_of_range", "$.timestamp", "expected a UTC date from 2015-12-10 to 2026-12-10", "'1999-01-01T00:00:00Z'"),
        ),
        (
            order(customer_name="x" * 2**24),
            *("out_of_range", "$.items", "expected at most 0 items with a header of 16777254 bytes", "2"),
        ),
        # How values are written, the values, the date, the size: in this order, wherever each stands.
        (order(order_date="x", items=[item(price=-1)]), "contract_violation", "$.order_date", TIME_RULE, "'x'"),
        (
            order(customer_name="x" * 2**24, order_date="1999-01-01T00:00:00Z", total_amount=-1),
            *("contract_violation", "$.total_amount", MONEY_RULE, "-1"),
        ),
    ],
)
def test_the_first_rule_that_is_broken(body: Any, reason: Any, path: str, expected: str, actual: str) -> None:
    """The path, what was expected, and what stood there, shortened where it is long and inert where it is not text."""
    assert first_violation(body) == Violation(reason, path, expected.removeprefix("expected "), actual)


def test_a_contracts_own_rule_comes_last() -> None:
    """And only where it refuses: one that counts is no violation."""
    body = order(total_amount=1)
    assert first_violation(body) is None
    codec = Codec(refusing_totals())
    assert first_violation(body, codec=codec) == Violation(
        "contract_violation", "$.total_amount", "total_amount == sum(items.quantity * items.price)", "1.00 and 44.80"
    )
    late = first_violation(order(total_amount=1, order_date="1999-01-01T00:00:00Z"), codec=codec)
    assert late is not None
    assert late.path == "$.order_date"


def test_an_empty_range_refuses_all() -> None:
    """The dates are the caller's: no clock is read here."""
    yesterday = DateRange(date(2025, 11, 30), date(2025, 11, 30))
    found = [first_violation(body, yesterday) for body in (order(), inventory(), activity())]
    assert [one.reason for one in found if one] == ["out_of_range"] * 3
