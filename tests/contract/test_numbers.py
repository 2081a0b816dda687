"""Exact numbers, asked directly: what a NUMERIC column holds, in billionths, and which products it holds."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomflow.contract.numbers import amount, is_numeric, scaled
from ecomflow.contract.rule_code import product_fits
from tests.support.contract import property_test


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
            -1,
            1 - 10**29,
            Decimal("-" + "9" * 29 + "." + "9" * 9),
        ],
        ids=repr,
    )
    def test_what_a_column_holds_exactly(self, value: Any) -> None:
        """At most 29 integer and 9 decimal digits; zeros that change nothing may follow."""
        assert is_numeric(value)

    @pytest.mark.parametrize(
        "value",
        [
            10**29,
            -(10**29),
            10**4000,
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
        """Too large, too precise, or no JSON number at all (a binary float is none)."""
        assert not is_numeric(value)


class TestScaled:
    @property_test(200)
    @given(st.integers(1 - 10**38, 10**38 - 1), st.integers(0, 60))
    def test_it_is_exact_however_the_number_is_written(self, billionths: int, zeros: int) -> None:
        """Every NUMERIC comes back from its digits, whatever needless zeros follow them; and its digits from it."""
        whole, fraction = divmod(abs(billionths), 10**9)
        value = Decimal(f"{'-' if billionths < 0 else ''}{whole}.{fraction:09}{'0' * zeros}")
        assert scaled(value) == billionths
        assert amount(billionths) == value

    def test_whole_numbers_and_exponents(self) -> None:
        """Ints, and decimals with an exponent, zeros with any."""
        assert scaled(7) == scaled(Decimal("7E+0")) == scaled(Decimal("0.7E+1")) == 7 * 10**9
        assert scaled(Decimal("0E+999999999999")) == scaled(Decimal("-0E-999999999999")) == 0


class TestProducts:
    @property_test(200)
    @given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 10**38 - 1))
    def test_it_fits_just_where_it_is_below_the_limit(self, quantity: int, billionths: int) -> None:
        """quantity x price, whichever of them comes first, against plain fractions."""
        price = amount(billionths)
        fits = abs(Fraction(price) * quantity) < 10**29
        assert product_fits(quantity, price, True) == product_fits(price, quantity, True) == fits

    def test_the_last_product_that_fits(self) -> None:
        """One billionth below 1e29 is taken, 1e29 is not."""
        assert product_fits(1, Decimal("9" * 29 + "." + "9" * 9), True)
        assert not product_fits(10, Decimal("1E+28"), True)

    def test_a_product_of_integers_has_64_bits(self) -> None:
        """Both ends, and one beyond them."""
        for first, second, fits in [(2**62, 2, False), (-(2**62), 2, True), (2**32, 2**31 - 1, True), (2**63 - 1, -1, True)]:
            assert product_fits(first, second, False) == fits
