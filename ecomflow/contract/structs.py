"""The shape of an event in; msgspec types that a decoder reads it into, out.

What a type can say is checked while decoding: names, JSON types, lengths, enumerations, 64 bits. What it can't is
``rule_code.py``'s: exact numbers, moments, addresses. Unknown fields raise, so that the rare event that has one takes the path
that keeps it; a learned one (``unknown.py``) is an optional ``msgspec.Raw``, its very JSON text.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Raw

from ecomflow.contract.language import Field
from ecomflow.contract.numbers import INT64_MAX, INT64_MIN
from ecomflow.contract.tree import Node

# By the keys of an object, the further keys that its struct takes as they come: attributes u0, u1, ... in this order.
Learned = Mapping[tuple[str, ...], tuple[str, ...]]


class Tag(NamedTuple):
    """The key of the body's object whose text says of which struct it is, and that text."""

    key: str
    value: str


def struct_of(root: Node, tag: Tag | None, learned: Learned) -> type[msgspec.Struct]:
    """The struct of the body at ``root``, for a union of structs with a ``tag``."""
    return _struct(root, learned, **({"tag": tag.value, "tag_field": tag.key} if tag else {}))


def _struct(node: Node, learned: Learned, **tag: str) -> type[msgspec.Struct]:
    children = [child for child in node.children if child.key != tag.get("tag_field")]
    fields = [_attribute(child, learned) for child in children]
    names = {child.attribute: child.key for child in children}
    for index, key in enumerate(learned.get(node.keys, ())):
        fields.append((f"u{index}", Raw, None))
        names[f"u{index}"] = key
    return msgspec.defstruct(
        "Record" if node.keys else "Event",
        fields,
        rename=names,
        frozen=True,
        gc=False,
        kw_only=True,
        forbid_unknown_fields=True,
        **tag,  # type: ignore[arg-type]  # defstruct's types have no place for a part of its options
    )


def _attribute(node: Node, learned: Learned) -> Any:
    kind = _type(node, learned)
    return (node.attribute, kind | None if _takes_none(kind) else kind, None) if node.optional else (node.attribute, kind)


def _takes_none(kind: Any) -> bool:
    return kind is not Any and kind is not Raw


def _type(node: Node, learned: Learned) -> Any:
    if node.kind == "object":
        return _struct(node, learned)
    if node.kind == "list":
        field = node.field
        assert field is not None  # a list is always a field
        bounds = _given(min_length=field.min_items or None, max_length=field.max_items)
        return _with(list[_type(node.children[0], learned)], bounds)  # type: ignore[misc]  # a type made at run time
    return Any if node.field is None else _scalar(node.field)


def _scalar(field: Field) -> Any:
    if field.written_as != ("string" if field.type == "string" else "number"):
        # Read as it comes: Any, and the rules say what is no number.
        return Any
    match field.type:
        case "string":
            if field.values:
                return Literal[field.values]
            pattern = rf"\A(?:{field.pattern})\Z" if field.pattern is not None else None
            return _with(str, _given(min_length=field.min_length or None, max_length=field.max_length, pattern=pattern))
        case "integer":
            low = INT64_MIN if field.min is None else max(int(field.min), INT64_MIN)
            return Annotated[int, Meta(ge=low, le=INT64_MAX if field.max is None else min(int(field.max), INT64_MAX))]
        case "float":
            return _with(float, _given(ge=_float(field.min), le=_float(field.max)))
        case "boolean":
            return bool
        case "date":
            return date
        case "timestamp" | "ip_address":
            return str
        case "json":
            return Raw
    # A NUMERIC: an int, or by the decoder's float_hook a Decimal of the very digits. Not msgspec's own Decimal, which takes
    # strings too and is nearly twice as slow.
    return Any


def _float(bound: Any) -> float | None:
    return None if bound is None else float(bound)


def _given(**bounds: Any) -> dict[str, Any]:
    return {name: bound for name, bound in bounds.items() if bound is not None}


def _with(kind: Any, bounds: dict[str, Any]) -> Any:
    return Annotated[kind, Meta(**bounds)] if bounds else kind
