"""The shape of an event in; a judge of parsed documents, which names the first violation, out. Pure.

A decoder stops at the first thing that it does not know, whether that is a violation or merely a new field. This judge
distinguishes the two, and adds what msgspec's errors lack: the value that was found. It checks in the
decoder's order: first what is in the message, then what is missing. A test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ecomflow.contract.language import Field
from ecomflow.contract.reasons import Violation, fault_violation, json_type, shown_name, violation_of, within
from ecomflow.contract.tree import Node
from ecomflow.contract.values import is_written_otherwise, type_fault, written_fault

Judge = Callable[[Any], Violation | None]

_NO_UNKNOWN_FIELD = "no field that the contract does not name"
# How the error of an event with an unknown field goes on behind its path, where the contract refuses those.
UNKNOWN_FIELD_RULE = f"expected {_NO_UNKNOWN_FIELD}"


def judge_of(root: Node, refuses_unknown: bool) -> Judge:
    """The judge of a whole body. Paths begin with ``$``."""
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
    elif node.field is None:
        return lambda _: None  # the envelope's
    else:
        judge = _value(node.field, node.optional)
    if not node.optional:
        return judge
    return lambda value: None if value is None else judge(value)


def _object(node: Node, refuses_unknown: bool) -> Judge:
    judges = {child.key: _judge(child, refuses_unknown) for child in node.children}
    required = [child.key for child in node.children if not child.optional]
    expected, is_personal = _or_null("object", node.optional), node.field is not None and node.field.personal

    def judge(value: Any) -> Violation | None:
        if type(value) is not dict:
            return violation_of("", expected, value, is_personal)
        for key, part in value.items():
            of_part = judges.get(key)
            if of_part is None:
                if refuses_unknown:
                    return Violation("contract_violation", f".{shown_name(key)}", _NO_UNKNOWN_FIELD, json_type(part))
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


def _value(field: Field, optional: bool) -> Judge:
    """The judge of one value. How large and how exact a number is, and what an address is, the rules say."""
    if field.type == "numeric" and field.written_as == "number":
        return lambda _: None
    if field.type == "timestamp" or is_written_otherwise(field):
        return _written(field)
    expected = _or_null(_NAMES.get(field.type, field.type), optional)
    fault = type_fault(field)

    def judge(value: Any) -> Violation | None:
        wrong = fault(value)
        return None if wrong is None else violation_of("", wrong or expected, value, field.personal)

    return judge


def _written(field: Field) -> Judge:
    fault = written_fault(field, optional=False)
    assert fault is not None  # the caller has looked

    def judge(value: Any) -> Violation | None:
        wrong = fault(value)
        return None if wrong is None else fault_violation("", wrong, value, field.personal)

    return judge


_NAMES = {"string": "str", "integer": "int", "boolean": "bool", "ip_address": "str", "date": "RFC 3339 date", "json": "any value"}


def _or_null(name: str, optional: bool) -> str:
    return f"{name} | null" if optional else name
