"""The shape of an event in; a judge of parsed documents, which names the first violation, out. Pure.

A decoder stops at the first thing that it does not know, be it a violation or merely a new field. This judge tells them apart,
and says what msgspec's words leave out: the value that was found. It looks where the decoder does, in its order: the message's
own, then what is missing. A test holds the two equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import msgspec

from ecomflow.contract.language import TYPE_KEY, Field
from ecomflow.contract.numbers import INT64_MAX, INT64_MIN
from ecomflow.contract.reasons import Violation, violation_of, within
from ecomflow.contract.tree import Node

Judge = Callable[[Any], Violation | None]

MAX_NAME_SHOWN = 64


def judge_of(root: Node, refuses_unknown: bool) -> Judge:
    """The judge of a whole document of this type, whose type key it passes over. Paths begin with ``$``."""
    judge = _object(root, refuses_unknown)

    def of_document(document: Any) -> Violation | None:
        found = judge(document)
        return None if found is None else within(found, "$")

    return of_document


def _judge(node: Node, refuses_unknown: bool) -> Judge:
    if node.kind == "object":
        judge = _object(node, refuses_unknown)
    elif node.kind == "list":
        judge = _list(node, refuses_unknown)
    else:
        assert node.field is not None  # a value is always a field
        judge = value_judge(node.field, node.optional)
    if not node.optional:
        return judge
    return lambda value: None if value is None else judge(value)


def _object(node: Node, refuses_unknown: bool) -> Judge:
    judges = {child.key: _judge(child, refuses_unknown) for child in node.children}
    if not node.keys:
        judges[TYPE_KEY] = lambda _: None
    required = [child.key for child in node.children if not child.optional]
    expected, is_personal = _or_null("object", node.optional), node.field is not None and node.field.personal

    def judge(value: Any) -> Violation | None:
        if type(value) is not dict:
            return violation_of("", expected, value, is_personal)
        for key, part in value.items():
            of_part = judges.get(key)
            if of_part is None:
                if refuses_unknown:
                    return Violation(
                        "contract_violation", f".{key[:MAX_NAME_SHOWN]}", "no field that the contract does not name", "one"
                    )
            elif (found := of_part(part)) is not None:
                return within(found, f".{key}")
        for key in required:
            if key not in value:
                return Violation("contract_violation", f".{key}", "", None)
        return None

    return judge


def _list(node: Node, refuses_unknown: bool) -> Judge:
    field = node.field
    assert field is not None  # a list is always a field
    of_element = _judge(node.children[0], refuses_unknown)
    least, most = field.min_items, field.max_items
    expected = _or_null("array", node.optional)

    def judge(value: Any) -> Violation | None:
        if type(value) is not list:
            return violation_of("", expected, value, field.personal)
        for index, element in enumerate(value):
            if (found := of_element(element)) is not None:
                return within(found, f"[{index}]")
        if len(value) < least:
            return Violation("contract_violation", "", f"array of length >= {least}", f"length {len(value)}")
        if most is not None and len(value) > most:
            return Violation("contract_violation", "", f"array of length <= {most}", f"length {len(value)}")
        return None

    return judge


def value_judge(field: Field, optional: bool) -> Judge:
    """The judge of one value, as far as types say it: numbers, moments and addresses are ``rule_code.py``'s."""
    if field.written_as != ("string" if field.type == "string" else "number") or field.type in ("numeric", "timestamp"):
        return lambda _: None  # all of it is a rule's
    expected = _or_null(_NAMES.get(field.type, field.type), optional)
    fault = _FAULTS[field.type](field)

    def judge(value: Any) -> Violation | None:
        wrong = fault(value)
        return None if wrong is None else violation_of("", wrong or expected, value, field.personal)

    return judge


_NAMES = {"string": "str", "integer": "int", "boolean": "bool", "ip_address": "str", "date": "RFC 3339 date", "json": "any value"}


def _or_null(name: str, optional: bool) -> str:
    return f"{name} | null" if optional else name


# What is expected of a value of a field: None where it is there, "" where its very type is wrong.
_Fault = Callable[[Any], str | None]


def _string_fault(field: Field) -> _Fault:
    if field.values:
        values, words = frozenset(field.values), f"one of {', '.join(field.values)}"
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


def _integer_fault(field: Field) -> _Fault:
    least = INT64_MIN if field.min is None else int(field.min)
    most = INT64_MAX if field.max is None else int(field.max)

    def fault(value: Any) -> str | None:
        if type(value) is not int:
            return ""
        return f"int >= {least}" if value < least else f"int <= {most}" if value > most else None

    return fault


def _float_fault(field: Field) -> _Fault:
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


def _date_fault(_: Field) -> _Fault:
    def fault(value: Any) -> str | None:
        if type(value) is not str:
            return ""
        try:
            msgspec.convert(value, date)
        except msgspec.ValidationError:
            return ""
        return None

    return fault


_FAULTS: dict[str, Callable[[Field], _Fault]] = {
    "string": _string_fault,
    "integer": _integer_fault,
    "float": _float_fault,
    "boolean": lambda _: lambda value: None if type(value) is bool else "",
    "date": _date_fault,
    "ip_address": lambda _: lambda value: None if type(value) is str else "",
    "json": lambda _: lambda value: "" if value is None else None,
}
