"""What any event is held to, asked directly: the dates that can be written, and addresses."""

from __future__ import annotations

from datetime import date

import pytest

from ecomflow.contract.limits import DateRange, is_ip_address, streamable_dates


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
