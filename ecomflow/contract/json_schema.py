"""A contract in; the JSON Schema (2020-12) of its messages, for their producers, out. Pure.

What JSON Schema can't express (exact decimals, the range of dates, the size of an event, the contract's rules) is in a
description.
"""

from __future__ import annotations

from typing import Any

from ecomflow.contract.language import TYPE_KEY, Contract, Field, find, records_of
from ecomflow.contract.limits import MAX_REPEATED_BYTES, YEARS_AHEAD, YEARS_BACK
from ecomflow.contract.numbers import INT64_MAX, INT64_MIN, NUMERIC_LIMIT, NUMERIC_SCALE
from ecomflow.contract.rule_code import lists_of, products_of
from ecomflow.contract.tree import Node, nodes_to, tree_of
from ecomflow.contract.values import is_written_otherwise

DRAFT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]

_INTEGER_DIGITS = len(str(NUMERIC_LIMIT - 1))
_EXACT = f"Exact, as a NUMERIC: at most {_INTEGER_DIGITS} integer and {NUMERIC_SCALE} decimal digits."
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_INTEGER = r"^-?(0|[1-9][0-9]*)$"


def schema_of(contract: Contract) -> Schema:
    """The JSON Schema of ``contract``."""
    root = tree_of(contract)
    words = _words(contract, root)
    rules = "".join(f" {rule.check.text}." for rule in contract.rules if rule.otherwise == "refuse")
    return {
        "$schema": DRAFT,
        "$id": f"urn:ecomflow:contract:{contract.event}:v{contract.version}",
        "title": contract.event,
        "description": f"One JSON object in UTF-8 a message. Version {contract.version} of the contract.{rules}",
        **_object(root, contract, words),
    }


def whole_schema(contracts: tuple[Contract, ...]) -> Schema:
    """One schema for a message of any type."""
    return {
        "$schema": DRAFT,
        "$id": "urn:ecomflow:contract:v1",
        "title": "event",
        "description": "Any event of the topic. Version 1 of the contract.",
        "oneOf": [schema_of(contract) for contract in contracts],
    }


def _words(contract: Contract, root: Node) -> dict[tuple[str, ...], list[str]]:
    """What is to be said of the places that products and sizes bind, by their keys."""
    found: dict[tuple[str, ...], list[str]] = {}
    for product in products_of(contract):
        names = " x ".join(place.names[-1] for place in product.places)
        keys = nodes_to(root, product.places[0])[-1].keys
        found.setdefault(keys, []).append(f"{names} {'below 1e29' if product.is_numeric else 'in 64 bits'}")
    for table in contract.tables:
        if table.each in lists_of(contract):
            node = _list_node(root, contract, table.each)
            size = f"The {contract.event}'s header, repeated on each of them, may take {MAX_REPEATED_BYTES // 2**20} MiB."
            found[node.keys] = [size]
    return found


def _list_node(root: Node, contract: Contract, each: tuple[str, ...]) -> Node:
    place = find(each, contract.fields, records_of(contract.records))
    assert place is not None  # the loader has looked
    return nodes_to(root, place)[-2]


def _object(node: Node, contract: Contract, words: dict[tuple[str, ...], list[str]]) -> Schema:
    tag: Schema = {} if node.keys else {TYPE_KEY: {"const": contract.type}}
    return {
        "type": "object",
        "properties": {**tag, **{child.key: _of(child, contract, words) for child in node.children}},
        "required": [*tag, *(child.key for child in node.children if not child.optional)],
        "additionalProperties": contract.unknown_fields != "refuse",
    }


def _of(node: Node, contract: Contract, words: dict[tuple[str, ...], list[str]]) -> Schema:
    more = words.get(node.keys, [])
    if node.kind == "object":
        schema = _object(node, contract, words)
    elif node.kind == "list":
        assert node.field is not None  # a list is always a field
        bounds = {"minItems": node.field.min_items or None, "maxItems": node.field.max_items}
        schema = {"type": "array", "items": _of(node.children[0], contract, words), **_given(bounds)}
    else:
        assert node.field is not None  # so is a value
        schema = _value(node.field, is_time=node.keys == _time_keys(contract))
    if more:
        said = schema.pop("description", "").removesuffix(".")
        schema["description"] = f"{said}; {'; '.join(more)}." if said else " ".join(more)
    return _or_null(schema) if node.optional else schema


def _time_keys(contract: Contract) -> tuple[str, ...]:
    return next(field.path for field in contract.fields if field.name == contract.time)


def _or_null(schema: Schema) -> Schema:
    kind = schema.get("type")
    if "enum" in schema:
        schema = {**schema, "enum": [*schema["enum"], None]}
    return schema if kind is None else {**schema, "type": [*(kind if isinstance(kind, list) else [kind]), "null"]}


def _given(bounds: dict[str, Any]) -> Schema:
    return {name: bound for name, bound in bounds.items() if bound is not None}


def _value(field: Field, is_time: bool) -> Schema:
    if is_written_otherwise(field):
        return _otherwise(field)
    least, most = field.min, field.max
    match field.type:
        case "string" if field.values:
            return {"type": "string", "enum": sorted(field.values)}
        case "string":
            pattern = f"^(?:{field.pattern})$" if field.pattern is not None else None
            return {
                "type": "string",
                **_given({"minLength": field.min_length or None, "maxLength": field.max_length, "pattern": pattern}),
            }
        case "integer":
            low, high = INT64_MIN if least is None else int(least), INT64_MAX if most is None else int(most)
            return {"type": "integer", "minimum": low, "maximum": high, "description": "Written without a decimal point."}
        case "numeric":
            low_bound = {"exclusiveMinimum": -float(NUMERIC_LIMIT)} if least is None else {"minimum": _plain(least)}
            high_bound = {"exclusiveMaximum": float(NUMERIC_LIMIT)} if most is None else {"maximum": _plain(most)}
            return {"type": "number", **low_bound, **high_bound, "description": _EXACT}
        case "float":
            return {"type": "number", **_given({"minimum": _plain(least), "maximum": _plain(most)})}
        case "boolean":
            return {"type": "boolean"}
        case "date":
            return {"type": "string", "format": "date"}
        case "ip_address":
            kinds = [{"format": "ipv4"}, {"format": "ipv6"}]
            return {"type": "string", "anyOf": kinds, "description": "IPv4 or IPv6, without a zone."}
        case "timestamp":
            return _moment(field, is_time)
    return {"not": {"type": "null"}, "description": "Any JSON, kept as it is."} if not field.optional else {}


def _moment(field: Field, is_time: bool) -> Schema:
    bounds = f"; its UTC date at most {YEARS_BACK} years back and {YEARS_AHEAD} year ahead" if is_time else ""
    if field.without_offset == "refuse":
        return {"type": "string", "format": "date-time", "description": f"RFC 3339 with an offset or Z{bounds}."}
    return {"type": "string", "description": f"RFC 3339, in {field.without_offset} where it has no offset{bounds}."}


def _plain(bound: Any) -> Any:
    return bound if bound is None or isinstance(bound, int) else float(bound)


def _otherwise(field: Field) -> Schema:
    """A value that may, or must, be written as the other of number and string."""
    if field.type == "string":
        if "string" not in field.written_as:
            return {"type": "integer"}
        lengths = _given({"minLength": field.min_length or None, "maxLength": field.max_length})
        return {"type": ["string", "integer"], **lengths}  # lengths are of strings alone
    number = "integer" if field.type == "integer" else "number"
    pattern = _INTEGER if field.type == "integer" else _NUMBER
    kinds = ["string"] if field.written_as == "string" else [number, "string"]
    bounds = f" From {field.min}." if field.min is not None else ""
    words = f"A {number}, also in a string.{bounds}{f' At most {field.max}.' if field.max is not None else ''}"
    return {"type": kinds if len(kinds) > 1 else kinds[0], "pattern": pattern, "description": words}
