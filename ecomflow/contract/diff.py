"""Two versions of the published schemas flow in; every change between them, compatible or breaking, flows out.

The view is the producer's: a change is breaking where a message that is valid under the old schema may be refused under the new
one. Where a keyword can't be judged (foreign schemas may hold any), a change of it counts as breaking.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from ecomflow.contract.json_schema import Schema, whole_schema
from ecomflow.contract.loading import shop_contracts
from ecomflow.errors import ConfigError


class Change(msgspec.Struct, frozen=True):
    """One difference. ``path`` as in dead letters, an item's index left out: ``$.items[].price``."""

    event_type: str
    path: str
    breaking: bool
    change: str


class Contract(msgspec.Struct, frozen=True):
    """Schemas by event type. ``whole``: of all types, so that a type that is not there does not exist."""

    schemas: dict[str, Schema]
    whole: bool


class _Form(msgspec.Struct):
    """The form of the keywords that are judged here, to be held against a foreign schema before it is read."""

    type: str | list[str] = ""
    enum: list[Any] = []
    minimum: int | float = 0
    exclusiveMinimum: int | float = 0  # noqa: N815  # JSON Schema's name, as all of these
    maximum: int | float = 0
    exclusiveMaximum: int | float = 0  # noqa: N815
    minLength: int = 0  # noqa: N815
    maxLength: int = 0  # noqa: N815
    minItems: int = 0  # noqa: N815
    maxItems: int = 0  # noqa: N815
    anyOf: list[Any] = []  # noqa: N815
    oneOf: list[_Form] = []  # noqa: N815
    properties: dict[str, _Form | bool] = {}
    required: list[str] = []
    items: _Form | bool = True


def current_contract() -> Contract:
    """What this version of the package accepts."""
    return contract_in(whole_schema(shop_contracts()))


def read_contract(path: Path) -> Contract:
    """The contract in a file that ``ecomflow contract show`` wrote. Raises ConfigError where it can't be read or is none."""
    try:
        return contract_in(msgspec.json.decode(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.", "Name a file of JSON Schema.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not the JSON Schema of an event: {error}.", "Write one with: ecomflow contract show order > order.json"
        ) from error


def contract_in(document: Any) -> Contract:
    """The contract in a schema of one event type, or of all (``oneOf``). Raises msgspec.ValidationError where it is neither."""
    msgspec.convert(document, _Form)
    whole = "oneOf" in document
    return Contract({_event_type(part): part for part in (document["oneOf"] if whole else [document])}, whole)


def _event_type(schema: Schema) -> str:
    field = schema.get("properties", {}).get("event_type")
    name = field.get("const") if isinstance(field, dict) else None
    if isinstance(name, str):
        return name
    raise msgspec.ValidationError("expected a property event_type with a const")


def compare(old: Contract, new: Contract) -> list[Change]:
    """Every change from ``old`` to ``new``, type by type, in the order of the fields. Where either is of one type, only that one
    is compared; ConfigError where the other does not have it.
    """
    partial = [contract for contract in (old, new) if not contract.whole]
    types = list({name: None for contract in partial or (old, new) for name in contract.schemas})
    strangers = [name for name in types if name not in old.schemas or name not in new.schemas]
    if partial and strangers:
        raise ConfigError(f"Only one of the two has the event type '{strangers[0]}'.", "Compare schemas of the same event type.")
    return [change for name in types for change in _type_changes(name, old.schemas.get(name), new.schemas.get(name))]


def _type_changes(name: str, old: Schema | None, new: Schema | None) -> Iterator[Change]:
    if old is None:
        yield Change(name, "$", False, "event type added")
    elif new is None:
        yield Change(name, "$", True, "event type removed: its messages become dead letters")
    else:
        for path, breaking, change in _changes(old, new, "$"):
            yield Change(name, path, breaking, change)


_Found = tuple[str, bool, str]


def _changes(old: Schema | bool, new: Schema | bool, path: str) -> Iterator[_Found]:
    for judge in (_type, _values, _bounds, _alternatives, _fields, _items, _others):
        yield from judge(_spelt_out(old), _spelt_out(new), path)


def _spelt_out(schema: Schema | bool) -> Schema:
    """The schemas ``true``, that takes anything, and ``false``, that takes nothing, in keywords."""
    if isinstance(schema, dict):
        return schema
    return {} if schema else {"not": {}}


_ANY_TYPE = ("null", "boolean", "object", "array", "number", "string")


def _type(old: Schema, new: Schema, path: str) -> Iterator[_Found]:
    before, after = _types(old), _types(new)
    if before != after:
        fit = after | ({"integer"} if "number" in after else set())
        shown = ("any" if "type" not in schema else _listed(_types(schema)) for schema in (old, new))
        yield path, not before <= fit, f"type changed from {' to '.join(shown)}"


def _types(schema: Schema) -> set[str]:
    kind = schema.get("type", _ANY_TYPE)
    return {kind} if isinstance(kind, str) else set(kind)


def _values(old: Schema, new: Schema, path: str) -> Iterator[_Found]:
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


def _bounds(old: Schema, new: Schema, path: str) -> Iterator[_Found]:
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


def _alternatives(old: Schema, new: Schema, path: str) -> Iterator[_Found]:
    before, after = old.get("anyOf"), new.get("anyOf")
    if before == after:
        return
    if after is None:
        yield path, False, f"anyOf {_shown(before)} dropped"
    else:
        breaking = before is None or any(one not in after for one in before)
        yield path, breaking, f"anyOf changed from {_shown(before)} to {_shown(after)}"


def _fields(old: Schema, new: Schema, path: str) -> Iterator[_Found]:
    before, after = old.get("properties", {}), new.get("properties", {})
    was_required, is_required = set(old.get("required", ())), set(new.get("required", ()))
    closed = new.get("additionalProperties", True) is False
    for name in {**before, **after, **dict.fromkeys(sorted(was_required | is_required))}:
        place = f"{path}.{name}"
        if name in before and name in after:
            yield from _changes(before[name], after[name], place)
        elif name in after:
            yield place, name in is_required - was_required, f"{'required' if name in is_required else 'optional'} field added"
            continue
        elif name in before:
            fate = "refused" if closed else "let through, no longer stored"
            yield place, closed, f"field removed: {fate}"
            continue
        if (name in was_required) != (name in is_required):
            yield place, name in is_required, "required now" if name in is_required else "optional now"


def _items(old: Schema, new: Schema, path: str) -> Iterator[_Found]:
    yield from _changes(old.get("items", {}), new.get("items", {}), f"{path}[]") if "items" in old or "items" in new else ()


_ANNOTATIONS = {"$schema", "$id", "$comment"}
_ANNOTATIONS |= {"title", "description", "examples", "default", "deprecated", "readOnly", "writeOnly"}
_JUDGED = {"type", "const", "enum", "anyOf", "properties", "required", "items"}
_JUDGED |= {name for names in (*_LOWER, *_UPPER) for name in names}


def _others(old: Schema, new: Schema, path: str) -> Iterator[_Found]:
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
