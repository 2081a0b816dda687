"""Two sets of contracts in; every change between them from the view of their producers out.

A side is contract files, with all that they say, or JSON Schemas as they were published. What changes for the warehouse stands in
``infra/contract_changes.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ecomflow.contract.json_schema import Schema, schema_of
from ecomflow.contract.language import TYPE_KEY, Contract, Rule
from ecomflow.contract.loading import contracts_in_force, load_file
from ecomflow.contract.schema_changes import schema_changes
from ecomflow.contract.tree import Node, json_path, tree_of, walk
from ecomflow.contract.values import is_written_otherwise
from ecomflow.errors import ConfigError

_VERSION = re.compile(r"urn:ecomflow:contract:.*:v([0-9]{1,18})")


class Change(msgspec.Struct, frozen=True):
    """One difference. ``path`` as in dead letters, an item's index left out: ``$.items[].price``."""

    event_type: str
    path: str
    breaking: bool
    change: str


class Described(msgspec.Struct, frozen=True):
    """One version of an event type: its schema, and its contract where there is one."""

    event: str
    version: int
    schema: Schema
    contract: Contract | None


class Side(msgspec.Struct, frozen=True):
    """``whole``: of all types, so that a type that is not there does not exist."""

    described: tuple[Described, ...]
    whole: bool

    @property
    def contracts(self) -> tuple[Contract, ...] | None:
        """None where one of them is a JSON Schema alone."""
        found = tuple(one.contract for one in self.described if one.contract is not None)
        return found if len(found) == len(self.described) else None


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


def side_of(contracts: Iterable[Contract], whole: bool) -> Side:
    return Side(tuple(Described(one.event, one.version, schema_of(one), one) for one in contracts), whole)


def read_side(path: Path, builtin_events: Sequence[str]) -> Side:
    """A contract file, a JSON Schema as ``contract show`` prints it, or the contracts in force with the folder ``path``.

    Raises ConfigError and NotFoundError where it is none of them.
    """
    if path.is_dir():
        return side_of(contracts_in_force(path, builtin_events), whole=True)
    if path.suffix == ".toml":
        return side_of([load_file(path)], whole=False)
    try:
        return side_in(msgspec.json.decode(path.read_bytes()))
    except OSError as error:
        raise ConfigError(
            f"{path} can't be read: {error.strerror}.", "Name a contract file, a folder or a JSON Schema."
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not the JSON Schema of an event: {error}.", "Write one with: ecomflow contract show order > order.json"
        ) from error


def side_in(document: Any) -> Side:
    """The schema of one event type, or of all (``oneOf``). Raises msgspec.ValidationError where it is neither."""
    msgspec.convert(document, _Form)
    whole = "oneOf" in document
    return Side(tuple(_described(part) for part in (document["oneOf"] if whole else [document])), whole)


def _described(schema: Schema) -> Described:
    match = _VERSION.fullmatch(str(schema.get("$id")))
    field = schema.get("properties", {}).get(TYPE_KEY)
    name = field.get("const") if isinstance(field, dict) else None
    if isinstance(name, str):
        return Described(name, int(match[1]) if match else 1, schema, None)
    raise msgspec.ValidationError(f"expected a property {TYPE_KEY} with a const")


def events_of(old: Side, new: Side) -> list[str]:
    """The event types that are compared: all, or those of the side that is of one type, which the other must have.

    Raises ConfigError where it has not.
    """
    partial = [side for side in (old, new) if not side.whole]
    events = list(dict.fromkeys(one.event for side in partial or (old, new) for one in side.described))
    names = [{one.event for one in side.described} for side in (old, new)]
    strangers = [event for event in events if not all(event in known for known in names)]
    if partial and strangers:
        raise ConfigError(
            f"Only one of the two has the event type '{strangers[0]}'.", "Compare contracts of the same event type."
        )
    return events


def compare(old: Side, new: Side) -> list[Change]:
    """Every change from ``old`` to ``new``, type by type, in the order of the fields."""
    return [
        change
        for event in events_of(old, new)
        for before, after in pairs(*([one for one in side.described if one.event == event] for side in (old, new)))
        for change in _type_changes(before, after)
    ]


def pairs(old: list[Described], new: list[Described]) -> Iterator[tuple[Described | None, Described | None]]:
    """The versions of one event type: each with the same one, or a single one with a single one."""
    if len(old) == len(new) == 1:
        yield old[0], new[0]
        return
    before, after = ({one.version: one for one in side} for side in (old, new))
    for version in sorted({*before, *after}):
        yield before.get(version), after.get(version)


def _type_changes(old: Described | None, new: Described | None) -> Iterator[Change]:
    named = new or old
    assert named is not None  # one of them is there
    name = named.event if named.version == 1 else f"{named.event} v{named.version}"
    if old is None:
        yield Change(name, "$", False, "event type added")
    elif new is None:
        yield Change(name, "$", True, "event type removed: its messages become dead letters")
    else:
        found = [*schema_changes(old.schema, new.schema)]
        if old.contract is not None and new.contract is not None:
            found += [*_bounds_in_strings(old.contract, new.contract), *_rule_changes(old.contract.rules, new.contract.rules)]
        for path, breaking, change in found:
            yield Change(name, path, breaking, change)


def _bounds_in_strings(old: Contract, new: Contract) -> Iterator[tuple[str, bool, str]]:
    """Of numbers that stand in strings, whose bounds no JSON Schema says; and of the zone of moments without an offset."""
    before = {node.keys: node for node in walk(tree_of(old)) if node.field is not None}
    for node in walk(tree_of(new)):
        was, field = before.get(node.keys), node.field
        if was is None or was.field is None or field is None:
            continue
        if is_written_otherwise(field) and is_written_otherwise(was.field):
            yield from _tightened(was, node)
        zones = was.field.without_offset, field.without_offset
        if zones[0] != zones[1] and "refuse" not in zones:
            yield json_path(node.keys), False, f"without an offset in {zones[1]} now, not in {zones[0]}"


def _tightened(was: Node, node: Node) -> Iterator[tuple[str, bool, str]]:
    assert was.field is not None  # the caller has looked
    assert node.field is not None
    for name, sign in (("min", 1), ("max", -1)):
        before, after = getattr(was.field, name), getattr(node.field, name)
        if before != after:
            tighter = before is None or (after is not None and sign * after > sign * before)
            word = "tightened" if tighter else "loosened"
            yield json_path(node.keys), tighter, f"{name} {word} from {_or_none(before)} to {_or_none(after)}"


def _or_none(bound: Any) -> str:
    return "none" if bound is None else str(bound)


def _rule_changes(old: tuple[Rule, ...], new: tuple[Rule, ...]) -> Iterator[tuple[str, bool, str]]:
    """Rules by what they check: a name is what a counter calls it."""
    before, after = ({rule.check.text: rule.otherwise for rule in side} for side in (old, new))
    for text in dict.fromkeys((*before, *after)):
        was, now = before.get(text), after.get(text)
        if was != now:
            words = {None: "not a rule", "count": "counted", "refuse": "refused"}
            yield "$", now == "refuse", f"events that break '{text}': {words[now]} now, before {words[was]}"
