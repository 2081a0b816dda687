"""The scalar values that samples have at one place in; the narrowest type of the language that takes all of them out. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import msgspec

from ecomflow.contract.guesses import is_count, is_money, is_version, may_be_enumeration
from ecomflow.contract.limits import is_ip_address
from ecomflow.contract.numbers import INT64_MAX, INT64_MIN, is_numeric, number_in
from ecomflow.contract.times import Unreadable, read_moment

MAX_ENUMERATED = 10
# An enumeration is a guess where each of its values was seen so often, on average.
_TIMES_EACH = 3
_ENUMERATED = re.compile(r"[A-Za-z][A-Za-z0-9_. -]{0,39}", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_LARGEST = Decimal("1.7976931348623157e308")


class Scalars(msgspec.Struct, frozen=True):
    """``spec`` is what a contract says of the field, the type first; ``because`` is why, where that is a guess."""

    spec: dict[str, Any]
    because: str = ""


def scalars_of(name: str, values: Sequence[Any]) -> Scalars:
    """The type of ``values``, one or more, of a field called ``name``."""
    kinds = {_kind(value) for value in values}
    if kinds == {"string"}:
        return _of_strings(name, values)
    if kinds == {"boolean"}:
        return Scalars({"type": "boolean"})
    if kinds <= {"integer", "number"}:
        return _of_numbers(name, values)
    if kinds <= {"integer", "number", "string"}:
        return _of_both(name, values)
    return Scalars({"type": "json"}, f"it is of several types ({', '.join(sorted(kinds))})")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return {int: "integer", Decimal: "number"}.get(type(value), "string")


def _of_strings(name: str, values: Sequence[str]) -> Scalars:
    if zone := _zone_of_moments(values):
        if zone == "refuse":
            return Scalars({"type": "timestamp"})
        return Scalars({"type": "timestamp", "without_offset": "UTC"}, "it has no offset, and is taken to be in UTC")
    if all(_is_date(value) for value in values):
        return Scalars({"type": "date"})
    if all(is_ip_address(value) for value in values):
        return Scalars({"type": "ip_address"})
    if written := _number_in_strings(name, values):
        return Scalars({"type": written, "written_as": "string"}, "its strings are numbers")
    if enumerated := _enumeration(name, values):
        return Scalars({"type": "string", "values": enumerated}, "the samples have no other value")
    return Scalars({"type": "string"} | _length(values))


def _length(values: Sequence[Any]) -> dict[str, int]:
    return {"min_length": 0} if "" in values else {}


def _zone_of_moments(values: Sequence[str]) -> str | None:
    """``refuse`` for moments with an offset each, ``UTC`` where one lacks it, None for what are no moments."""
    for zone in ("refuse", "UTC"):
        if not any(isinstance(read_moment(value, zone), Unreadable) for value in values):
            return zone
    return None


def _is_date(value: str) -> bool:
    try:
        return _DATE.fullmatch(value) is not None and date.fromisoformat(value) is not None
    except ValueError:
        return False


def _number_in_strings(name: str, values: Sequence[str]) -> str | None:
    """The digits alone of a string are as often an id, a phone number or a postal code: those need a name that says more."""
    numbers = [number_in(value) for value in values]
    if not all(map(is_numeric, numbers)):
        return None
    if is_money(name) or (not is_version(name) and any("." in value for value in values)):
        return "numeric"
    whole = all(isinstance(number, int) and INT64_MIN <= number <= INT64_MAX for number in numbers)
    return "integer" if whole and is_count(name) else None


def _enumeration(name: str, values: Sequence[str]) -> list[str] | None:
    counts = Counter(values)
    is_few = 2 <= len(counts) <= MAX_ENUMERATED and len(values) >= _TIMES_EACH * len(counts)
    if not is_few or not may_be_enumeration(name) or not all(map(_ENUMERATED.fullmatch, counts)):
        return None
    return sorted(counts)


def _of_numbers(name: str, values: Sequence[Any]) -> Scalars:
    if all(isinstance(value, int) for value in values):
        if is_money(name) and all(map(is_numeric, values)):
            return Scalars({"type": "numeric"}, "its values are integers, but its name is that of an amount")
        if all(INT64_MIN <= value <= INT64_MAX for value in values):
            return Scalars({"type": "integer"})
    if all(map(is_numeric, values)):
        return Scalars({"type": "numeric"})
    if all(abs(value) <= _LARGEST for value in values):
        return Scalars({"type": "float"}, "its digits are more than an exact number has")
    return Scalars({"type": "json"}, "its numbers are larger than any column takes")


def _of_both(name: str, values: Sequence[Any]) -> Scalars:
    numbers = [number_in(value) for value in values]
    if all(map(is_numeric, numbers)) and (is_money(name) or any(isinstance(number, Decimal) for number in numbers)):
        return Scalars(
            {"type": "numeric", "written_as": "number or string"}, "it is a number in some samples, in others a string of one"
        )
    if any(isinstance(value, Decimal) for value in values):
        return Scalars({"type": "json"}, "it is of several types (number, string)")
    spec = {"type": "string", "written_as": "number or string"} | _length(values)
    return Scalars(spec, "it is a string in some samples, in others an integer")
