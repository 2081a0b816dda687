"""A body that may break its contract's rules in; one that keeps those that can be kept, out.

A rule such as ``amount <= sum(lines.quantity * lines.price)`` has a field that stands alone on one side: it is given the value
that satisfies the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from ecomflow.contract.compiling import EventType
from ecomflow.contract.exact import evaluator_of
from ecomflow.contract.language import (
    Check,
    Comparison,
    Contract,
    Expression,
    Path,
    Rule,
    find,
    paths_in,
    records_of,
    scalar_type,
)
from ecomflow.generator.messages import Body

_STEPS = {"integer": Decimal(1), "numeric": Decimal("0.01")}
_BEYOND = {"<": -1, ">": 1, "!=": 1}
_OPPOSITES: dict[str, Comparison] = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


class Alone(NamedTuple):
    """A field alone on one side of a check. ``keys`` lead to it in a body, ``comparison`` is seen from its side; ``other``: which
    of an evaluator's two values is that of the other side.
    """

    keys: tuple[str, ...]
    is_integer: bool
    comparison: str
    other: int


class Mender:
    """Computes the fields that stand alone in the rules of an event type, ``but`` for one rule."""

    def __init__(self, kind: EventType, but: Rule | None = None) -> None:
        rules = [(rule, evaluator) for rule, evaluator in kind.rules.of_fields if rule != but]
        self._rules = [(evaluator, alone_in(rule.check, kind.contract)) for rule, evaluator in rules]

    def mended(self, body: Body, read: Callable[[Body], Any]) -> tuple[Body, Any]:
        """``body`` with those fields so that the rules hold, as far as possible, and its event.

        ``read`` gives the event of a body, None where it is none.
        """
        event = read(body)
        for attempt in range(2 * len(self._rules)):
            broken = None if event is None else self._first_broken(event)
            if broken is None:
                break
            sides, alone = broken
            place = alone[attempt % len(alone)]
            body = with_value(body, place.keys, _satisfying(place, sides[place.other]))
            event = read(body)
        return body, event

    def _first_broken(self, event: Any) -> tuple[tuple[Decimal, Decimal], list[Alone]] | None:
        """The sides of the first rule that ``event`` breaks and that can be mended."""
        for evaluator, alone in self._rules:
            if alone and (sides := evaluator(event)) is not None:
                return sides, alone
        return None


class Opposite:
    """Gives the fields that stand alone in a rule the values that break it."""

    def __init__(self, kind: EventType, rule: Rule) -> None:
        check = msgspec.structs.replace(rule.check, comparison=_OPPOSITES[rule.check.comparison])
        # A check's evaluator tells both sides where it is broken: this one's where the rule holds.
        self._evaluator = evaluator_of(check, kind.contract, kind.root)
        self._alone = alone_in(check, kind.contract)

    def bodies(self, body: Body, read: Callable[[Body], Any]) -> Iterator[Body]:
        """``body``, in which the rule holds, with one of those fields changed; whether it is valid else is not looked at."""
        sides = self._evaluator(read(body))
        if sides is not None:
            yield from (with_value(body, place.keys, _satisfying(place, sides[place.other])) for place in self._alone)


def alone_in(check: Check, contract: Contract) -> list[Alone]:
    """The fields of the event that stand alone on a side of ``check``, and not on the other side too."""
    sides = [(check.left, check.right, str(check.comparison), 1), (check.right, check.left, _FLIPPED[check.comparison], 0)]
    return [found for side in sides if (found := _alone(*side, contract)) is not None]


def _alone(side: Expression, other: Expression, comparison: str, index: int, contract: Contract) -> Alone | None:
    if not isinstance(side, Path) or side in paths_in(other):
        return None
    place = find(side.names, contract.fields, records_of(contract.records))
    assert place is not None  # the loader has looked
    keys = tuple(key for field in place.fields for key in field.path)
    return Alone(keys, scalar_type(place) == "integer", comparison, index)


def _satisfying(place: Alone, other: Decimal) -> int | Decimal:
    """The value nearest to ``other`` that compares with it as it should."""
    step = _STEPS["integer" if place.is_integer else "numeric"]
    value = other + _BEYOND.get(place.comparison, 0) * step
    return int(value) if place.is_integer and value == int(value) else value


def with_value(body: Body, keys: tuple[str, ...], value: Any) -> Body:
    """``body`` with ``value`` at ``keys``, written as the one before: in a string where that is one."""
    head, *rest = keys
    before = body.get(head)
    if rest:
        return {**body, head: with_value(before or {}, tuple(rest), value)}
    return {**body, head: str(value) if isinstance(before, str) else value}
