"""The typed events and the rules flow in; a JSON Schema of each event type, and an example of it, flow out.

``events.py`` and ``rules.py`` stay the single source: names, types, bounds and enumerations are read from the structs, limits
from the rules' constants. What JSON Schema can't say (exact decimals, the range of dates, the size of an order) stands in a
description; ``ecomflow contract check`` knows it all.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from ecomflow.contract.events import EVENT_TYPES, Address, Event, Inventory, Item, Order, Session, UserActivity
from ecomflow.contract.limits import MAX_REPEATED_BYTES, NUMERIC_LIMIT, NUMERIC_SCALE, YEARS_AHEAD, YEARS_BACK

# Raised with a change that ``diff`` calls breaking. The version stands in the id alone: strict validators (Ajv) refuse a schema
# with keywords of its author's own.
VERSION = 1
DRAFT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


class Rule(NamedTuple):
    """What ``rules.py`` adds to the type of a field: as keywords where JSON Schema has them, and in words."""

    keywords: Schema
    words: str


_INTEGER_DIGITS = len(str(NUMERIC_LIMIT - 1))
_MONEY = Rule(
    {"type": "number", "minimum": 0, "exclusiveMaximum": float(NUMERIC_LIMIT)},
    f"Exact, as a NUMERIC: at most {_INTEGER_DIGITS} integer and {NUMERIC_SCALE} decimal digits.",
)
_MOMENT = Rule({}, f"RFC 3339 with an offset or Z; its UTC date at most {YEARS_BACK} years back and {YEARS_AHEAD} year ahead.")
_RULES: dict[tuple[str, str], Rule] = {
    ("order", "$.items"): Rule({}, f"The order's header, repeated on each of them, may take {MAX_REPEATED_BYTES // 2**20} MiB."),
    ("order", "$.items[].quantity"): Rule({}, "Written without a decimal point; quantity x price below 1e29."),
    ("inventory", "$.quantity_change"): Rule(
        {"not": {"const": 0}}, "Written without a decimal point; not 0; negative takes stock out."
    ),
    ("user_activity", "$.ip_address"): Rule({"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}, "IPv4 or IPv6, without a zone."),
}

EXAMPLES: Mapping[str, Event] = {
    "order": Order(
        order_id="O-1001",
        customer_id="C-17",
        customer_name="Jane Doe",
        order_date=datetime(2025, 12, 1, 10, 15, 30, tzinfo=UTC),
        status="processing",
        items=[
            Item(product_id="P-7", product_name="Blue chair", quantity=2, price=Decimal("49.90")),
            Item(product_id="P-9", product_name="Lamp", quantity=1, price=Decimal("19.60")),
        ],
        shipping_address=Address(street="1 Main Street", city="Paris", country="FR"),
        total_amount=Decimal("119.40"),
    ),
    "inventory": Inventory(
        inventory_id="I-2001",
        product_id="P-7",
        warehouse_id="W-1",
        quantity_change=-2,
        reason="sale",
        timestamp=datetime(2025, 12, 1, 10, 15, 31, tzinfo=UTC),
    ),
    "user_activity": UserActivity(
        user_id="C-17",
        activity_type="checkout",
        ip_address="192.0.2.17",
        user_agent="Mozilla/5.0",
        timestamp=datetime(2025, 12, 1, 10, 15, 29, tzinfo=UTC),
        metadata=Session(session_id="S-31", platform="web"),
    ),
}

_ENCODER = msgspec.json.Encoder(decimal_format="number")


def schema_of(event_type: str) -> Schema:
    """The JSON Schema (2020-12) of ``event_type``. KeyError for a type that the contract does not know."""
    info = inspect.type_info(EVENT_TYPES[event_type])
    assert isinstance(info, inspect.StructType)
    return {
        "$schema": DRAFT,
        "$id": f"urn:ecomflow:contract:{event_type}:v{VERSION}",
        "title": event_type,
        "description": f"One JSON object in UTF-8 a message. Version {VERSION} of the contract.",
        **_object(info, event_type, "$"),
        "examples": [msgspec.json.decode(example_of(event_type))],
    }


def whole_schema() -> Schema:
    """One schema for a message of any type."""
    return {
        "$schema": DRAFT,
        "$id": f"urn:ecomflow:contract:v{VERSION}",
        "title": "event",
        "description": f"Any event of the topic. Version {VERSION} of the contract.",
        "oneOf": [schema_of(name) for name in EVENT_TYPES],
    }


def to_text(schema: Schema) -> str:
    """``schema`` as it is published: indented, with an end of line."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


def example_of(event_type: str) -> bytes:
    """A valid event as one line of JSON, its decimals exact."""
    return _ENCODER.encode(EXAMPLES[event_type])


def _object(info: inspect.StructType, event_type: str, path: str) -> Schema:
    tag = {info.tag_field: {"const": info.tag}} if info.tag_field else {}
    fields = {field.encode_name: _field(field.type, event_type, f"{path}.{field.encode_name}") for field in info.fields}
    return {
        "type": "object",
        "properties": {**tag, **fields},
        "required": [*tag, *(field.encode_name for field in info.fields if field.required)],
        "additionalProperties": True,  # unknown fields pass: a producer may add one first
    }


def _field(info: inspect.Type, event_type: str, path: str) -> Schema:
    schema = _typed(info, event_type, path)
    rule = _RULES.get((event_type, path))
    return {**schema, **rule.keywords, "description": rule.words} if rule else schema


def _typed(info: inspect.Type, event_type: str, path: str) -> Schema:
    match info:
        case inspect.Metadata(type=inspect.AnyType()):  # Money is the only one
            return {**_MONEY.keywords, "description": _MONEY.words}
        case inspect.StrType():
            return _with_bounds({"type": "string"}, minLength=info.min_length, maxLength=info.max_length)
        case inspect.IntType():
            return _with_bounds({"type": "integer"}, minimum=info.ge, maximum=info.le)
        case inspect.DateTimeType():
            return {"type": "string", "format": "date-time", "description": _MOMENT.words}
        case inspect.LiteralType():
            return {"type": "string", "enum": list(info.values)}
        case inspect.UnionType(types=(one, inspect.NoneType())):
            inner = _typed(one, event_type, path)
            return {**inner, "type": [inner["type"], "null"]}
        case inspect.ListType():
            items = _typed(info.item_type, event_type, f"{path}[]")
            return _with_bounds({"type": "array", "items": items}, minItems=info.min_length, maxItems=info.max_length)
        case inspect.StructType():
            return _object(info, event_type, path)
    raise TypeError(f"{event_type} {path}: expected a type that the contract uses, got {info}")


def _with_bounds(schema: Schema, **bounds: int | None) -> Schema:
    return {**schema, **{name: bound for name, bound in bounds.items() if bound is not None}}
