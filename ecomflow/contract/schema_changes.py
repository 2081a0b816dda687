"""Two JSON Schemas of one event type in; every change between them, compatible or breaking for its producers, out. Pure.

A change is breaking where a message that is valid under the old schema may be refused under the new one. Where a keyword can't be
judged (foreign schemas may hold any), a change of it counts as breaking. Paths are as in dead letters, an item's index left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec

from ecomflow.contract.json_schema import Schema

# The path, whether it is breaking, and the change in words.
Found = tuple[str, bool, str]


def schema_changes(old: Schema | bool, new: Schema | bool, path: str = "$") -> Iterator[Found]:
    """Every change from ``old`` to ``new``, in the order of the fields."""
    for judge in (_type, _values, _bounds, _alternatives, _fields, _items, _others):
        yield from judge(_spelt_out(old), _spelt_out(new), path)


def _spelt_out(schema: Schema | bool) -> Schema:
    """The schemas ``true``, that takes anything, and ``false``, that takes nothing, in keywords."""
    if isinstance(schema, dict):
        return schema
    return {} if schema else {"not": {}}


_ANY_TYPE = ("null", "boolean", "object", "array", "number", "string")


def _type(old: Schema, new: Schema, path: str) -> Iterator[Found]:
    before, after = _types(old), _types(new)
    if before != after:
        fit = after | ({"integer"} if "number" in after else set())
        shown = ("any" if "type" not in schema else _listed(_types(schema)) for schema in (old, new))
        yield path, not before <= fit, f"type changed from {' to '.join(shown)}"


def _types(schema: Schema) -> set[str]:
    kind = schema.get("type", _ANY_TYPE)
    return {kind} if isinstance(kind, str) else set(kind)


def _values(old: Schema, new: Schema, path: str) -> Iterator[Found]:
    before, after = _allowed(old), _allowed(new)
    if before is None and after is not None:
        yield path, True, f"only {_listed(after)} allowed now"
    elif before is not None and after is None:
        yield path, False, "any value allowed now"
    else:
        yield from ((path, True, f"value {_shown(one)} removed") for one in before or () if one not in (after or ()))
        yield from ((path, False, f"value {_shown(one)} added") for one in after or () if one not in (before or ()))


def _allowed(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return list(values) if values is not None else None


# Lower and upper bounds: the keyword, and its exclusive twin where it has one.
_LOWER = (("minimum", "exclusiveMinimum"), ("minLength", ""), ("minItems", ""))
_UPPER = (("maximum", "exclusiveMaximum"), ("maxLength", ""), ("maxItems", ""))


def _bounds(old: Schema, new: Schema, path: str) -> Iterator[Found]:
    for sign, pairs in ((1, _LOWER), (-1, _UPPER)):
        for names in pairs:
            before, after = (_bound(schema, names, sign) for schema in (old, new))
            if before != after:
                word = "tightened" if after > before else "loosened"
                yield path, after > before, f"{names[0]} {word} from {_spelt(old, names)} to {_spelt(new, names)}"


def _bound(schema: Schema, names: tuple[str, str], sign: int) -> tuple[float, int]:
    """Comparable: the greater, the tighter. An exclusive bound is tighter than an inclusive one of the same number."""
    found = [(sign * schema[name], exclusive) for exclusive, name in enumerate(names) if name in schema]
    return max(found, default=(-math.inf, 0))


def _spelt(schema: Schema, names: tuple[str, str]) -> str:
    return " and ".join(f"{schema[name]}{' (excluded)' * place}" for place, name in enumerate(names) if name in schema) or "none"


def _alternatives(old: Schema, new: Schema, path: str) -> Iterator[Found]:
    before, after = old.get("anyOf"), new.get("anyOf")
    if before == after:
        return
    if after is None:
        yield path, False, f"anyOf {_shown(before)} dropped"
    else:
        breaking = before is None or any(one not in after for one in before)
        yield path, breaking, f"anyOf changed from {_shown(before)} to {_shown(after)}"


def _fields(old: Schema, new: Schema, path: str) -> Iterator[Found]:
    before, after = old.get("properties", {}), new.get("properties", {})
    was_required, is_required = set(old.get("required", ())), set(new.get("required", ()))
    closed = new.get("additionalProperties", True) is False
    for name in {**before, **after, **dict.fromkeys(sorted(was_required | is_required))}:
        place = f"{path}.{name}"
        if name in before and name in after:
            yield from schema_changes(before[name], after[name], place)
        elif name in after:
            yield place, name in is_required - was_required, f"{'required' if name in is_required else 'optional'} field added"
            continue
        elif name in before:
            fate = "refused" if closed else "let through, no longer stored"
            yield place, closed, f"field removed: {fate}"
            continue
        if (name in was_required) != (name in is_required):
            yield place, name in is_required, "required now" if name in is_required else "optional now"


def _items(old: Schema, new: Schema, path: str) -> Iterator[Found]:
    yield from schema_changes(old.get("items", {}), new.get("items", {}), f"{path}[]") if "items" in old or "items" in new else ()


_ANNOTATIONS = {"$schema", "$id", "$comment"}
_ANNOTATIONS |= {"title", "description", "examples", "default", "deprecated", "readOnly", "writeOnly"}
_JUDGED = {"type", "const", "enum", "anyOf", "properties", "required", "items"}
_JUDGED |= {name for names in (*_LOWER, *_UPPER) for name in names}


def _others(old: Schema, new: Schema, path: str) -> Iterator[Found]:
    """Keywords that are only the same or not: ``format``, ``not``, ``additionalProperties``, whatever a foreign schema has."""
    for name in {**old, **new}:
        before, after = (schema.get(name, _UNSET) for schema in (old, new))
        if name in _ANNOTATIONS | _JUDGED or before == after or (_is_open(before) and _is_open(after)):
            continue
        if _is_open(after):
            yield path, False, f"{name} {_shown(before)} dropped"
        else:
            yield path, True, f"{name} changed from {'none' if before is _UNSET else _shown(before)} to {_shown(after)}"


_UNSET: Any = None


def _is_open(value: Any) -> bool:
    """A keyword that is not there, or a schema that takes anything."""
    return value is _UNSET or value is True


def _listed(values: Any) -> str:
    return ", ".join(sorted(str(value) for value in values))


def _shown(value: Any) -> str:
    return msgspec.json.encode(value).decode()
