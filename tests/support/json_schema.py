"""A JSON Schema and a parsed document in, whether it is valid out: as much of draft 2020-12 as the contract's schemas use.

Formats are asserted. Any other keyword raises, so that no schema passes by what is not looked at here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

Schema = dict[str, Any]

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def is_valid(schema: Schema, value: Any) -> bool:
    """Whether ``value``, its numbers parsed as int and Decimal, is valid under ``schema``."""
    return all(_KEYWORDS[name](argument, value) for name, argument in schema.items() if name not in _ANNOTATIONS) and _object(
        schema, value
    )


def _object(schema: Schema, value: Any) -> bool:
    if not isinstance(value, dict):
        return True
    known = schema.get("properties", {})
    return all(is_valid(known[name], part) for name, part in value.items() if name in known)


def _is_type(kind: str, value: Any) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, int | Decimal):
        return kind == "number" or (kind == "integer" and value == int(value))
    return isinstance(value, {"string": str, "array": list, "object": dict, "null": type(None)}.get(kind, ()))


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def _has_format(name: str, text: str) -> bool:
    try:
        if name == "date-time":
            return _MOMENT.fullmatch(text) is not None and datetime.fromisoformat(text) is not None
        {"ipv4": ipaddress.IPv4Address, "ipv6": ipaddress.IPv6Address}[name](text)
    except ValueError:
        return False
    return True


_ANNOTATIONS = {"$schema", "$id", "title", "description", "examples", "properties"}
_KEYWORDS: dict[str, Callable[[Any, Any], bool]] = {
    "type": lambda kinds, value: any(_is_type(kind, value) for kind in ([kinds] if isinstance(kinds, str) else kinds)),
    "const": _same,
    "enum": lambda values, value: any(_same(one, value) for one in values),
    "not": lambda schema, value: not is_valid(schema, value),
    "anyOf": lambda schemas, value: any(is_valid(schema, value) for schema in schemas),
    "oneOf": lambda schemas, value: sum(is_valid(schema, value) for schema in schemas) == 1,
    "format": lambda name, value: not isinstance(value, str) or _has_format(name, value),
    "minLength": lambda least, value: not isinstance(value, str) or len(value) >= least,
    "minItems": lambda least, value: not isinstance(value, list) or len(value) >= least,
    "items": lambda schema, value: not isinstance(value, list) or all(is_valid(schema, one) for one in value),
    "minimum": lambda least, value: not _is_number(value) or value >= least,
    "maximum": lambda most, value: not _is_number(value) or value <= most,
    "exclusiveMaximum": lambda end, value: not _is_number(value) or value < end,
    "required": lambda names, value: not isinstance(value, dict) or all(name in value for name in names),
    "additionalProperties": lambda allowed, value: allowed is True,
}
