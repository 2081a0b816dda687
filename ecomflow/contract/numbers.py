"""Exact numbers as the columns hold them: NUMERIC (38 digits, 9 of them after the point) and INT64. Pure.

https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#decimal_types
"""

from __future__ import annotations

import re
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, DecimalException, Inexact
from typing import Any

from ecomflow.contract.events import plain_number

NUMERIC_SCALE = 9
NUMERIC_LIMIT = 10**29
BILLION = 10**NUMERIC_SCALE
INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)

# Wide enough for any NUMERIC; never rounds.
_EXACT = Context(prec=80, traps=[Inexact])
_WIDEST = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
# A JSON number, for those that are written in a string.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)", re.ASCII)
# No number of a column has as many characters, but for needless zeros.
_LONGEST = 4_000


def is_numeric(value: Any) -> bool:
    """Whether ``value`` is an exact number that fits a NUMERIC column without rounding."""
    if type(value) is int:
        return -NUMERIC_LIMIT < value < NUMERIC_LIMIT
    if type(value) is not Decimal or not value.is_finite() or not -NUMERIC_LIMIT < value < NUMERIC_LIMIT:
        return False
    digits, exponent = value.as_tuple()[1:]
    spare = -int(exponent) - NUMERIC_SCALE
    return spare <= 0 or not any(digits[-spare:])


def scaled(value: int | Decimal) -> int:
    """``value`` in billionths: the integer that decimal128(38, 9) stores. ``value`` must satisfy ``is_numeric``."""
    return value * BILLION if isinstance(value, int) else int(value.scaleb(NUMERIC_SCALE, _EXACT))


def amount(billionths: int) -> Decimal:
    """The number of so many billionths, without needless zeros."""
    return Decimal(billionths).scaleb(-NUMERIC_SCALE, _WIDEST).normalize(_WIDEST)


def exact_number(digits: str) -> Decimal:
    """The number that JSON's ``digits`` say: one that Arrow reads exactly if it fits a NUMERIC column.

    Trailing zeros of a wider one are removed. Infinity represents an exponent beyond any decimal.
    """
    try:
        return plain_number(digits)
    except DecimalException:
        pass
    try:
        wide = Decimal(digits)
        return plain_number(wide.normalize(_WIDEST)) if is_numeric(wide) else wide
    except DecimalException:
        return Decimal("Infinity")


def number_in(value: Any) -> Any:
    """``value``, or the number that it says where it is a string that says one."""
    if type(value) is not str or len(value) > _LONGEST or not _NUMBER.fullmatch(value):
        return value
    return int(value) if _INTEGER.fullmatch(value) else exact_number(value)


def integer_in(value: Any) -> Any:
    """``value``, or the integer of 64 bits that it says where it is a string that says one."""
    if type(value) is not str or len(value) > _LONGEST or not _INTEGER.fullmatch(value):
        return value
    whole = int(value)
    return whole if INT64_MIN <= whole <= INT64_MAX else value
