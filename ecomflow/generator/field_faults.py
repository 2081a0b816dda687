"""A contract in; what the types of its fields refuse, as faults, out: missing, null, of another type, out of bounds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from decimal import Context, Decimal
from typing import Any, NamedTuple

from msgspec import Raw

from ecomflow.contract.dead_letter import Reason
from ecomflow.contract.language import Contract, Field
from ecomflow.contract.numbers import INT64_MAX, INT64_MIN
from ecomflow.contract.tree import Node, tree_of
from ecomflow.generator.editing import Keys, replaced, value_at, without
from ecomflow.generator.messages import Body
from ecomflow.generator.values import fits

_VIOLATION: Reason = "contract_violation"
_OUT_OF_RANGE: Reason = "out_of_range"
# Texts one of which nearly any pattern refuses.
_STRANGE = ("!", "", "no such text", "~" * 40, "\n")
_EXACT = Context(prec=80)
# Longer texts and lists are not made for a fault.
_LONGEST_TEXT, _MOST_ITEMS = 100_000, 1_000


class FieldFault(NamedTuple):
    """A fault of the value at ``keys``."""

    name: str
    reason: Reason
    keys: Keys
    corrupt: Callable[[Body], Body]


class _Wrong(NamedTuple):
    """A value that a field refuses. ``name`` has the place of the field's name in braces."""

    name: str
    value: Any
    reason: Reason = _VIOLATION


class _Place(NamedTuple):
    """A node of an event's shape, as it is found in a body: the first element stands for all of a list."""

    node: Node
    keys: Keys
    name: str


def field_faults(contract: Contract) -> Iterator[FieldFault]:
    """Every fault of a field of ``contract``, in its order."""
    root = tree_of(contract)
    refuses_unknown = contract.unknown_fields == "refuse"
    if refuses_unknown:
        yield _unknown(_Place(root, (), ""))
    for place in _places(root):
        yield from _of_presence(place)
        yield from _of_value(place, contract)
        if refuses_unknown and place.node.kind == "object":
            yield _unknown(place)


def first_number(root: Node) -> FieldFault | None:
    """Where a number stands that is written as one."""
    for place in _places(root):
        field = place.node.field
        if field is not None and field.type in ("numeric", "integer", "float") and field.written_as == "number":
            return FieldFault(place.name, _VIOLATION, place.keys, lambda body: body)
    return None


def _places(root: Node) -> Iterator[_Place]:
    """The places within ``root``, outer before inner."""

    def visit(node: Node, keys: Keys, name: str, outer: str) -> Iterator[_Place]:
        yield _Place(node, keys, name)
        for child in node.children:
            if node.kind == "list":
                yield from visit(child, (*keys, 0), f"{name}_element", name)
            else:
                inner = _name(child, outer)
                yield from visit(child, (*keys, child.key), inner, inner if child.field is not None else outer)

    for child in root.children:
        inner = _name(child, "")
        yield from visit(child, (child.key,), inner, inner if child.field is not None else "")


def _name(node: Node, outer: str) -> str:
    own = node.field.name if node.field is not None else re.sub(r"\W+", "_", node.key, flags=re.ASCII)
    return f"{outer}_{own}" if outer else own


def _of_presence(place: _Place) -> Iterator[FieldFault]:
    name, keys = place.name, place.keys
    if place.node.optional:
        return
    if isinstance(keys[-1], str):
        yield FieldFault(f"missing_{name}", _VIOLATION, keys, lambda body: without(body, keys))
    yield _replacing(place, _Wrong("null_{}", None))


def _replacing(place: _Place, wrong: _Wrong) -> FieldFault:
    keys, value = place.keys, wrong.value
    return FieldFault(wrong.name.format(place.name), wrong.reason, keys, lambda body: replaced(body, keys, value))


def _unknown(place: _Place) -> FieldFault:
    known = {child.key for child in place.node.children}
    key = next(
        name for name in ("unexpected_field", *(f"unexpected_field_{n}" for n in range(len(known) + 1))) if name not in known
    )
    keys = (*place.keys, key)
    name = f"unknown_field_in_{place.name}" if place.name else "unknown_field"
    return FieldFault(name, _VIOLATION, keys, lambda body: replaced(body, keys, "unexpected"))


def _of_value(place: _Place, contract: Contract) -> Iterator[FieldFault]:
    node, keys = place.node, place.keys
    if node.kind == "object":
        yield _replacing(place, _Wrong("{}_as_text", "text"))
    elif node.kind == "list":
        yield _replacing(place, _Wrong("{}_as_object", {}))
        yield from _of_length(place)
    elif node.field is not None:
        yield from (_replacing(place, wrong) for wrong in _WRONGS[node.field.type](node.field))
        if keys == node.field.path and node.field.name == contract.time:
            yield _replacing(place, _Wrong("{}_too_old", "2009-03-14T09:26:53+02:00", _OUT_OF_RANGE))
            yield _replacing(place, _Wrong("{}_in_far_future", "2999-12-31T23:59:59Z", _OUT_OF_RANGE))


def _of_length(place: _Place) -> Iterator[FieldFault]:
    field, keys = place.node.field, place.keys
    assert field is not None  # a list is always a field
    least, most = field.min_items, field.max_items
    if least:
        name = f"empty_{place.name}" if least == 1 else f"{place.name}_too_few"
        yield FieldFault(name, _VIOLATION, keys, lambda body: replaced(body, keys, value_at(body, keys)[: least - 1]))
    if most is not None and most <= _MOST_ITEMS:
        more = most + 1
        repeat = lambda body: replaced(body, keys, (value_at(body, keys) * more)[:more])  # noqa: E731
        yield FieldFault(f"{place.name}_too_many", _VIOLATION, keys, repeat)


def _written(field: Field, digits: object) -> Any:
    """A number with these digits, in a string where the field has its numbers so."""
    return str(digits) if field.written_as == "string" else Raw(str(digits).encode())


def _string(field: Field) -> Iterator[_Wrong]:
    if field.written_as == "number":
        yield _Wrong("{}_as_text", "text")
        return
    yield _Wrong("{}_as_number", 42) if field.written_as == "string" else _Wrong("{}_as_boolean", True)
    if field.values:
        yield _Wrong(
            "bad_{}", next(text for n in range(len(field.values) + 1) if (text := "none" + "_such" * n) not in field.values)
        )
        return
    least, most = field.min_length, field.max_length
    if least == 1:
        yield _Wrong("empty_{}", "")
    elif least:
        yield _Wrong("{}_too_short", "x" * min(least - 1, _LONGEST_TEXT))
    if most is not None and most < _LONGEST_TEXT:
        yield _Wrong("{}_too_long", "x" * (most + 1))
    if field.pattern is not None:
        yield from [_Wrong("malformed_{}", text) for text in _STRANGE if not fits(field)(text)][:1]


def _integer(field: Field) -> Iterator[_Wrong]:
    yield _Wrong("{}_as_text", "three")
    yield _Wrong("fractional_{}", _written(field, "2.5"))
    if field.written_as == "string":
        yield _Wrong("{}_as_number", 2)
    yield from _beyond_bounds(field)
    yield _Wrong("{}_overflow", _written(field, INT64_MAX + 1))
    yield _Wrong("{}_underflow", _written(field, INT64_MIN - 1))


def _numeric(field: Field) -> Iterator[_Wrong]:
    yield _Wrong("{}_as_text", "19.99" if field.written_as == "number" else "much")
    if field.written_as == "string":
        yield _Wrong("{}_as_number", 19)
    yield from _beyond_bounds(field)
    yield _Wrong("{}_too_precise", _written(field, "19.9900000001"))
    yield _Wrong("{}_too_wide", _written(field, "1" + "0" * 29 + ".00"))


def _beyond_bounds(field: Field) -> Iterator[_Wrong]:
    if field.min is not None:
        below = _EXACT.subtract(Decimal(field.min), 1)
        yield _Wrong("negative_{}" if below < 0 <= field.min else "{}_too_small", _written(field, below))
    if field.max is not None:
        yield _Wrong("{}_too_large", _written(field, _EXACT.add(Decimal(field.max), 1)))


def _float(field: Field) -> Iterator[_Wrong]:
    yield _Wrong("{}_as_text", "19.99")
    if field.min is not None:
        yield _Wrong("{}_too_small", math.nextafter(float(field.min), -math.inf))
    if field.max is not None:
        yield _Wrong("{}_too_large", math.nextafter(float(field.max), math.inf))
    yield _Wrong("{}_too_wide", Raw(b"1e999"))


def _timestamp(field: Field) -> Iterator[_Wrong]:
    yield _Wrong("bad_{}", "2025-13-45T25:61:00Z")
    yield _Wrong("{}_as_number", 1_764_669_600)
    yield _Wrong("{}_as_date", "2025-12-01")
    if field.without_offset == "refuse":
        yield _Wrong("{}_without_offset", "2025-12-01T10:15:00")
    yield _Wrong("{}_in_leap_second", "2025-06-30T23:59:60Z", _OUT_OF_RANGE)


_WRONGS: dict[str, Callable[[Field], Iterator[_Wrong]]] = {
    "string": _string,
    "integer": _integer,
    "numeric": _numeric,
    "float": _float,
    "timestamp": _timestamp,
    "boolean": lambda _: iter([_Wrong("{}_as_text", "yes")]),
    "date": lambda _: iter([_Wrong("bad_{}", "2025-13-45"), _Wrong("{}_as_number", 20_251_201)]),
    "ip_address": lambda _: iter([_Wrong("bad_{}", "999.10.20.30"), _Wrong("{}_as_number", 42)]),
    "json": lambda _: iter([]),
}
