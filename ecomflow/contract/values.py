"""A field in; what is wrong with a value of it, as a function, out. Pure.

Three kinds: what a type says (``type_fault``), how a value is written where its type leaves that open (``written_fault``:
moments, numbers in strings, raw JSON), and what else it must be (``value_fault``: exact numbers in their bounds, addresses).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import msgspec

from ecomflow.contract.language import Field
from ecomflow.contract.limits import is_ip_address
from ecomflow.contract.numbers import INT64_MAX, INT64_MIN, integer_in, is_numeric, number_in
from ecomflow.contract.reasons import one_of
from ecomflow.contract.times import Unreadable, read_moment, time_rule

# A value in; what is expected of it, and whether it is out of every column's range, out. None: nothing is wrong.
Fault = Callable[[Any], "tuple[str, bool] | None"]


def _or_missing(fault: Fault, optional: bool) -> Fault:
    return (lambda value: None if value is None else fault(value)) if optional else fault


def written_fault(field: Field, optional: bool) -> Fault | None:
    """How a value must be written, where its type does not say it."""
    if field.type == "timestamp":
        return _or_missing(_moment_fault(field), optional)
    if field.type == "json":
        return _json_fault(optional)
    if is_written_otherwise(field):
        faults = {"string": _text_fault, "integer": _written_integer_fault, "numeric": _written_number_fault}
        return _or_missing(faults[field.type](field), optional)
    return None


def _moment_fault(field: Field) -> Fault:
    zone = field.without_offset

    def fault(value: Any) -> tuple[str, bool] | None:
        if type(value) is not str:
            return time_rule(zone), False
        moment = read_moment(value, zone)
        return (moment.expected, not moment.in_range) if isinstance(moment, Unreadable) else None

    return fault


def _json_fault(optional: bool) -> Fault:
    """Of raw JSON, which a decoder has passed over without looking at its text."""

    def fault(value: Any) -> tuple[str, bool] | None:
        if value is None:
            return None
        try:
            is_null = str(value, "utf-8") == "null"
        except UnicodeDecodeError:
            return "JSON in UTF-8", False
        return ("any value", False) if is_null and not optional else None

    return fault


def _text_fault(field: Field) -> Fault:
    of_text = type_fault(msgspec.structs.replace(field, written_as="string"))
    numbers = "number" in field.written_as
    strings = "string" in field.written_as

    def fault(value: Any) -> tuple[str, bool] | None:
        if type(value) is int and numbers:
            value = str(value)
        elif type(value) is not str or not strings:
            return ("int or str" if strings else "int"), False
        wrong = of_text(value)
        return None if wrong is None else (wrong or "str", False)

    return fault


def _written_integer_fault(field: Field) -> Fault:
    least = INT64_MIN if field.min is None else int(field.min)
    most = INT64_MAX if field.max is None else int(field.max)
    takes_numbers = field.written_as != "string"
    words = "int or int in a string" if takes_numbers else "int in a string"

    def fault(value: Any) -> tuple[str, bool] | None:
        whole = integer_in(value)
        if type(whole) is not int or (type(value) is int and not takes_numbers) or not INT64_MIN <= whole <= INT64_MAX:
            return words, False
        return (f"{words}, >= {least}", False) if whole < least else (f"{words}, <= {most}", False) if whole > most else None

    return fault


def _written_number_fault(field: Field) -> Fault:
    takes_numbers = field.written_as != "string"
    words = f"{'number or number' if takes_numbers else 'number'} in a string"

    def fault(value: Any) -> tuple[str, bool] | None:
        number = number_in(value)
        is_number = type(number) in (int, Decimal) and (takes_numbers or type(value) is str)
        return None if is_number else (words, False)

    return fault


def value_fault(field: Field, optional: bool) -> Fault | None:
    """What a value must be, where its type does not say it."""
    if field.type == "numeric":
        return _or_missing(_numeric_fault(field), optional)
    return _or_missing(_address_fault, optional) if field.type == "ip_address" else None


def _numeric_fault(field: Field) -> Fault:
    bounds = [f" >= {field.min}" if field.min is not None else "", f" <= {field.max}" if field.max is not None else ""]
    words = f"number{' and'.join(bound for bound in bounds if bound)} with at most 29 integer and 9 decimal digits"
    least, most = field.min, field.max
    in_strings = field.written_as != "number"

    def fault(value: Any) -> tuple[str, bool] | None:
        if in_strings:
            value = number_in(value)
        if not is_numeric(value) or (least is not None and value < least) or (most is not None and value > most):
            return words, False
        return None

    return fault


def _address_fault(value: Any) -> tuple[str, bool] | None:
    return None if is_ip_address(value) else ("IPv4 or IPv6 address", False)


# What is expected of a value of a field: None where it is there, "" where its very type is wrong.
_TypeFault = Callable[[Any], str | None]


def _string_fault(field: Field) -> _TypeFault:
    if field.values:
        values, words = frozenset(field.values), one_of(field.values)
        return lambda value: None if type(value) is str and value in values else words
    least, most = field.min_length, field.max_length
    if field.pattern is None and most is None and least <= 1:
        empty = "str of length >= 1" if least else None
        return lambda value: (None if value else empty) if type(value) is str else ""
    pattern = re.compile(rf"\A(?:{field.pattern})\Z") if field.pattern is not None else None

    def fault(value: Any) -> str | None:
        if type(value) is not str:
            return ""
        if len(value) < least:
            return f"str of length >= {least}"
        if most is not None and len(value) > most:
            return f"str of length <= {most}"
        return None if pattern is None or pattern.search(value) else f"str that matches {field.pattern}"

    return fault


def _integer_fault(field: Field) -> _TypeFault:
    least = INT64_MIN if field.min is None else int(field.min)
    most = INT64_MAX if field.max is None else int(field.max)

    def fault(value: Any) -> str | None:
        if type(value) is not int:
            return ""
        return f"int >= {least}" if value < least else f"int <= {most}" if value > most else None

    return fault


def _float_fault(field: Field) -> _TypeFault:
    def fault(value: Any) -> str | None:
        if type(value) not in (int, Decimal):
            return ""
        if abs(value) > _LARGEST:
            return "a float of 64 bits"
        number = float(value)
        if field.min is not None and number < float(field.min):
            return f"float >= {field.min}"
        return f"float <= {field.max}" if field.max is not None and number > float(field.max) else None

    return fault


_LARGEST = Decimal("1.7976931348623157e308")


def _date_fault(_: Field) -> _TypeFault:
    def fault(value: Any) -> str | None:
        if type(value) is not str:
            return ""
        try:
            msgspec.convert(value, date)
        except msgspec.ValidationError:
            return ""
        return None

    return fault


_TYPE_FAULTS: dict[str, Callable[[Field], _TypeFault]] = {
    "string": _string_fault,
    "integer": _integer_fault,
    "float": _float_fault,
    "boolean": lambda _: lambda value: None if type(value) is bool else "",
    "date": _date_fault,
    "ip_address": lambda _: lambda value: None if type(value) is str else "",
    "json": lambda _: lambda value: "" if value is None else None,
}


def type_fault(field: Field) -> _TypeFault:
    """What the type of ``field`` says of a parsed JSON value."""
    return _TYPE_FAULTS[field.type](field)


def is_written_otherwise(field: Field) -> bool:
    """Whether a string may be written as a number, or a number as a string."""
    return field.written_as != ("string" if field.type == "string" else "number")
