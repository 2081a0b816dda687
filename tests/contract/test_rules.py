"""The rules that types can't say, asked directly: exact money, line totals, dates in range, addresses."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomflow.contract.events import Event
from ecomflow.contract.rules import (
    DateRange,
    Violation,
    first_violation,
    is_ip_address,
    is_numeric,
    scaled_line_total,
    scaled_numeric,
    streamable_dates,
    utc_date,
)
from tests.support.contract import MONEY_RULE, activity, inventory, item, message, number, order, property_test

DATES = DateRange(date(2015, 12, 10), date(2026, 12, 10))


EXACT_DECODER = msgspec.json.Decoder(Event, float_hook=Decimal)


def event(body: Any) -> Event:
    """The event with its very digits, also those that the decoder of the fast path refuses."""
    return EXACT_DECODER.decode(message(body).data)


class TestIsNumeric:
    @pytest.mark.parametrize(
        "value",
        [
            0,
            10**29 - 1,
            Decimal("0.1"),
            Decimal("0.123456789"),
            Decimal("9" * 29 + "." + "9" * 9),
            Decimal("1E+28"),
            Decimal("-0"),
            Decimal("-0.000"),
            Decimal("1.0000000000"),
            Decimal("1." + "0" * 5000),
            Decimal("0.1234567890000"),
            Decimal("0E-999999999999"),
            Decimal("0E+999999999999"),
        ],
        ids=repr,
    )
    def test_what_a_column_holds_exactly(self, value: Any) -> None:
        """At most 29 integer and 9 decimal digits; zeros that change nothing may follow."""
        assert is_numeric(value)

    @pytest.mark.parametrize(
        "value",
        [
            -1,
            10**29,
            10**4000,
            Decimal("-0.000000001"),
            Decimal("1E+29"),
            Decimal("1" + "0" * 29 + ".0"),
            Decimal("0.1234567891"),
            Decimal("1.00000000010"),
            Decimal("1E-10"),
            Decimal("1E+999999999999"),
            Decimal("1E-999999999999"),
            Decimal("Infinity"),
            Decimal("-Infinity"),
            Decimal("NaN"),
            Decimal("sNaN"),
            True,
            False,
            None,
            "12.5",
            12.5,
            [],
            {},
        ],
        ids=repr,
    )
    def test_what_a_column_would_round_or_refuse(self, value: Any) -> None:
        """Below 0, too large, too precise, or no JSON number at all (a binary float is none)."""
        assert not is_numeric(value)


class TestScaledNumeric:
    @property_test(200)
    @given(st.integers(0, 10**38 - 1), st.integers(0, 60))
    def test_it_is_exact_however_the_number_is_written(self, billionths: int, zeros: int) -> None:
        """Every NUMERIC comes back from its digits, whatever needless zeros follow them."""
        whole, fraction = divmod(billionths, 10**9)
        assert scaled_numeric(Decimal(f"{whole}.{fraction:09}{'0' * zeros}")) == billionths

    def test_whole_numbers_and_exponents(self) -> None:
        """Ints, and decimals with an exponent, zeros with any."""
        assert scaled_numeric(7) == scaled_numeric(Decimal("7E+0")) == scaled_numeric(Decimal("0.7E+1")) == 7 * 10**9
        assert scaled_numeric(Decimal("0E+999999999999")) == scaled_numeric(Decimal("-0E-999999999999")) == 0


class TestLineTotal:
    @property_test(200)
    @given(st.integers(1, 2**63 - 1), st.integers(0, 10**38 - 1))
    def test_it_is_exact_or_none(self, quantity: int, billionths: int) -> None:
        """quantity x price to the last digit; None just where that is 1e29 or more."""
        price = (
            Decimal(billionths).scaleb(-9) if billionths < 10**28 else Decimal(f"{billionths // 10**9}.{billionths % 10**9:09}")
        )
        exact = Fraction(price) * quantity
        assert scaled_line_total(quantity, price) == (exact * 10**9 if exact < 10**29 else None)

    def test_a_tenth_three_times_is_three_tenths(self) -> None:
        """The sum that a binary float gets wrong."""
        assert scaled_line_total(3, Decimal("0.1")) == 300_000_000

    def test_the_last_product_that_fits(self) -> None:
        """One billionth below 1e29 is taken, 1e29 is not."""
        assert scaled_line_total(1, Decimal("9" * 29 + "." + "9" * 9)) == 10**38 - 1
        assert scaled_line_total(10, Decimal("1E+28")) is None


class TestIsIpAddress:
    @pytest.mark.parametrize(
        "text",
        [
            "0.0.0.0",
            "192.0.2.255",
            "::",
            "::1",
            "2001:DB8::1",
            "::ffff:192.0.2.1",
            "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255",
        ],
    )
    def test_an_address(self, text: str) -> None:
        """Four decimal parts, or IPv6 in any of its spellings, up to the longest."""
        assert is_ip_address(text)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "192.0.2.256",
            "192.0.2",
            "192.0.2.1.1",
            "192.0.2.01",
            "0xc0.0.2.1",
            "3221225985",
            "192.0.2.1:80",
            "192.0.2.1\n",
            "192.0.2.1\0",
            "\0",
            ":::",
            "12345::",
            "[::1]",
            "fe80::1%eth0",
            "::/0",
            "localhost",
            "é",
            "١٩٢.0.2.1",
            "1" * 10_000_000,
        ],
        ids=lambda text: repr(text[:20]),
    )
    def test_no_address(self, text: str) -> None:
        """Other spellings, ports, masks, zones, names, NUL bytes, other scripts' digits, megabytes of text."""
        assert not is_ip_address(text)


class TestDates:
    @pytest.mark.parametrize(
        ("today", "first", "last"),
        [
            (date(2025, 12, 10), date(2015, 12, 10), date(2026, 12, 10)),
            (date(2024, 2, 29), date(2014, 2, 28), date(2025, 2, 28)),
            (date(2023, 2, 28), date(2013, 2, 28), date(2024, 2, 28)),
            (date(2025, 12, 31), date(2015, 12, 31), date(2026, 12, 31)),
            (date(2026, 1, 1), date(2016, 1, 1), date(2027, 1, 1)),
        ],
    )
    def test_ten_years_back_and_one_ahead(self, today: date, first: date, last: date) -> None:
        """The same day of the year; 28 February where there is no 29th."""
        assert streamable_dates(today) == DateRange(first, last)

    def test_a_utc_date_outside_the_calendar_is_none(self) -> None:
        """The first and last hours of the calendar, moved out of it by their offset."""
        plus_two, minus_two = timezone(timedelta(hours=2)), timezone(timedelta(hours=-2))
        assert utc_date(datetime(1, 1, 1, 1, tzinfo=plus_two)) is None
        assert utc_date(datetime(9999, 12, 31, 23, tzinfo=minus_two)) is None
        assert utc_date(datetime(1, 1, 1, 2, tzinfo=plus_two)) == date(1, 1, 1)
        assert utc_date(datetime(9999, 12, 31, 23, tzinfo=UTC)) == date(9999, 12, 31)


class TestFirstViolation:
    @pytest.mark.parametrize("body", [order(), inventory(), activity(), activity(ip_address=None)])
    def test_a_good_event_has_none(self, body: Any) -> None:
        """Valid events of each type pass."""
        assert first_violation(event(body), DATES) is None

    @pytest.mark.parametrize(
        ("body", "violation"),
        [
            (
                order(items=[item(), item(price=None)], total_amount=None),
                Violation("contract_violation", f"$.items[1].price: {MONEY_RULE}, got null"),
            ),
            (order(total_amount=number("1E+400")), Violation("contract_violation", f"$.total_amount: {MONEY_RULE}, got 1E+400")),
            (
                order(total_amount=number("1" + "0" * 4000)),
                Violation("contract_violation", f"$.total_amount: {MONEY_RULE}, got 1{'0' * 56}..."),
            ),
            (
                order(total_amount=number("0." + "3" * 100)),
                Violation("contract_violation", f"$.total_amount: {MONEY_RULE}, got 0.{'3' * 55}..."),
            ),
            (
                order(items=[item(), item(quantity=2, price=number("5e28"))]),
                Violation("out_of_range", "$.items[1]: expected quantity x price below 1e29, got 2 x 5E+28"),
            ),
            (
                inventory(quantity_change=0),
                Violation("contract_violation", "$.quantity_change: expected int other than 0, got 0"),
            ),
            (
                activity(ip_address="x\n"),
                Violation("contract_violation", "$.ip_address: expected IPv4 or IPv6 address, got 'x\\n'"),
            ),
            (
                inventory(timestamp="1999-01-01T00:00:00Z"),
                Violation(
                    "out_of_range",
                    "$.timestamp: expected a UTC date from 2015-12-10 to 2026-12-10, got 1999-01-01T00:00:00+00:00",
                ),
            ),
        ],
    )
    def test_the_first_rule_that_is_broken(self, body: Any, violation: Violation) -> None:
        """The path, what was expected, and what stood there, shortened where it is long and inert where it is not text."""
        assert first_violation(event(body), DATES) == violation

    def test_an_empty_range_refuses_all(self) -> None:
        """The dates are the caller's: no clock is read here."""
        yesterday = DateRange(date(2025, 11, 30), date(2025, 11, 30))
        assert [
            getattr(first_violation(event(body), yesterday), "reason", None) for body in (order(), inventory(), activity())
        ] == ["out_of_range"] * 3
