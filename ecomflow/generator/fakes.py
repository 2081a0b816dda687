"""A contract in; a maker of valid bodies of its events, deterministic from a seed, out.

Values come from the types of the fields (``values.py``). Whatever is made is read by the contract's own decoder and rules. A rule
between fields is satisfied by computing the field that stands alone on one of its sides; else bodies are drawn until it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import Any

import msgspec

from ecomflow.contract.language import Contract
from ecomflow.contract.tree import Node, json_path, tree_of
from ecomflow.errors import ConfigError
from ecomflow.generator.ids import Ids
from ecomflow.generator.judge import Judge
from ecomflow.generator.mending import Mender
from ecomflow.generator.messages import Body
from ecomflow.generator.moments import Window
from ecomflow.generator.values import Sources, value_maker

# A part of a body; with True, with everything in it that may be missing.
_MakePart = Callable[[bool], Any]

_DRAWS = 200
_MOST_ITEMS = 10_000
_MORE_ITEMS = 3
_MISSING, _NULL = 0.15, 0.02


class BodyMaker:
    """Makes valid bodies of one contract."""

    def __init__(self, contract: Contract, window: Window, *, seed: str, identity: str, ids: Ids) -> None:
        """The same arguments give the same bodies. Raises ConfigError where a field has no value that could be made."""
        self.judge = Judge(contract)
        self._sources = Sources(Random(f"{seed} {contract.event} {contract.version}"), ids, window, identity)
        self._make = _object(tree_of(contract), contract, self._sources)
        self._mender = Mender(self.judge.kind)

    def make(self) -> Body:
        """A valid body, in which optional fields may be missing. Raises ConfigError where none could be drawn."""
        return self._valid(is_full=False)

    def make_full(self) -> Body:
        """A valid body with every optional field, and an element at least in each list."""
        return self._valid(is_full=True)

    def _valid(self, is_full: bool) -> Body:
        body: Body = {}
        for _ in range(_DRAWS):
            body = self._make(is_full)
            mended, event = self._mender.mended(body, self.judge.event)
            if event is not None and self.judge.violation(event) is None:
                return mended
        contract = self.judge.kind.contract
        raise ConfigError(
            f"{contract.file}: none of {_DRAWS} events drawn is valid; the last one: {self.judge.error(body)}.",
            "Choose other event types with --types, or publish events of your own with --file.",
        )


def part_maker(contract: Contract, root: Node, sources: Sources, without: Collection[str]) -> Callable[[bool], Body]:
    """Makes the part of a body whose keys are none of ``without``."""
    rest = msgspec.structs.replace(root, children=[child for child in root.children if child.key not in without])
    return _object(rest, contract, sources)


def own_id(contract: Contract) -> str | None:
    """The field that no two events share."""
    if contract.key:
        return contract.key[0] if len(contract.key) == 1 else None
    names = [field.name for field in contract.fields]
    return next((name for name in (f"{contract.event}_id", "id") if name in names), None)


def _object(node: Node, contract: Contract, sources: Sources) -> Callable[[bool], Body]:
    parts = [(child.key, _part(child, contract, sources), child.optional) for child in node.children]
    draw = sources.random.random

    def make(is_full: bool) -> Body:
        body: Body = {}
        for key, make_part, is_optional in parts:
            if is_optional and not is_full and (chance := draw()) < _MISSING:
                if chance < _NULL:
                    body[key] = None
            else:
                body[key] = make_part(is_full)
        return body

    return make


def _part(node: Node, contract: Contract, sources: Sources) -> _MakePart:
    if node.kind == "object":
        return _object(node, contract, sources)
    if node.kind == "list":
        return _list(node, contract, sources)
    field = node.field
    assert field is not None  # a value is always a field
    is_of_event = node.keys == field.path and field in contract.fields
    make = value_maker(
        field,
        f"{contract.file}: {json_path(node.keys)}",
        sources,
        is_time=is_of_event and field.name == contract.time,
        is_own_id=is_of_event and field.name == own_id(contract),
    )
    return lambda _: make()


def _list(node: Node, contract: Contract, sources: Sources) -> _MakePart:
    field, random = node.field, sources.random
    assert field is not None  # a list is always a field
    least, most = field.min_items, field.max_items
    if least > _MOST_ITEMS:
        raise ConfigError(f"{contract.file}: {json_path(node.keys)}: no event has {least} elements.", "Correct min_items.")
    make_element = _part(node.children[0], contract, sources)
    usual = max(least, 1)
    longest = usual + _MORE_ITEMS if most is None else min(most, usual + _MORE_ITEMS)

    def make(is_full: bool) -> Sequence[Any]:
        return [make_element(is_full) for _ in range(random.randint(usual if is_full else least, longest))]

    return make
