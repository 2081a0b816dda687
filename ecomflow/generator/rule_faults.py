"""A contract in; what its rules between fields refuse, as faults, out: a rule that is broken, a product that no column holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Context, Decimal
from typing import Any, NamedTuple

from ecomflow.contract.language import Contract, Field, Place, Rule, find, json_path, paths_in, records_of
from ecomflow.contract.numbers import INT64_MAX, NUMERIC_LIMIT, number_in
from ecomflow.contract.rule_code import product_fits, products_of
from ecomflow.generator.editing import Keys, replaced, value_at
from ecomflow.generator.field_faults import FieldFault
from ecomflow.generator.judge import Judge
from ecomflow.generator.mending import Mender, Opposite
from ecomflow.generator.messages import Body

_EXACT = Context(prec=80)


class UnbreakableError(Exception):
    """A body can't be made to break a rule, and nothing else, by another value of one of its fields."""


class RuleFault(NamedTuple):
    """``corrupt`` raises UnbreakableError."""

    name: str
    path: str
    corrupt: Callable[[Body], Body]


def rule_faults(contract: Contract) -> Iterator[RuleFault]:
    """One for each rule of ``contract`` that refuses. The path is that of the rule's first field."""
    rules = [rule for rule in contract.rules if rule.otherwise == "refuse"]
    if not rules:
        return
    judge = Judge(contract)
    for rule in rules:
        places = _places(rule, contract)
        yield RuleFault(f"broken_{rule.name}", json_path(places[0]) if places else "$", _Breaking(judge, rule, places).corrupt)


def product_faults(contract: Contract) -> Iterator[FieldFault]:
    """One for each product of two fields in a column that the largest values of both exceed."""
    for product in products_of(contract):
        first, second = (place.fields[-1] for place in product.places)
        if product_fits(_largest(first), _largest(second), product.is_numeric):
            continue
        keys = () if product.each is None else _keys(product.each)
        yield FieldFault(f"{first.name}_x_{second.name}_too_large", "out_of_range", keys, _enlarging(product.places))


def _enlarging(places: tuple[Place, Place]) -> Callable[[Body], Body]:
    def corrupt(body: Body) -> Body:
        for place in places:
            body = _with_numbers(body, [_keys(place)], _largest(place.fields[-1]))
        return body

    return corrupt


def _largest(field: Field) -> int | Decimal:
    most = INT64_MAX if field.type == "integer" else NUMERIC_LIMIT - 1
    return most if field.max is None else min(field.max, most)


def _places(rule: Rule, contract: Contract) -> list[Place]:
    """The fields of ``rule``, left to right."""
    paths = (*paths_in(rule.check.left), *paths_in(rule.check.right))
    records = records_of(contract.records)
    return [place for path in dict.fromkeys(paths) if (place := find(path.names, contract.fields, records)) is not None]


def _keys(place: Place) -> Keys:
    """Where ``place`` is found in a body: in the first element of a list."""
    keys: Keys = ()
    for index, field in enumerate(place.fields):
        keys = (*keys, *field.path, 0) if index == place.list_index else (*keys, *field.path)
    return keys


def _alternatives(place: Place, body: Body) -> Iterator[list[Keys]]:
    """Where ``place`` is found in ``body``: in the first element of a list alone, then in all of them."""
    first = _keys(place)
    yield [first]
    if place.list_index is not None:
        at = first.index(0)
        yield [(*first[:at], index, *first[at + 1 :]) for index in range(len(value_at(body, first[:at]) or (None,)))]


def _others(number: int | Decimal, field: Field) -> list[int | Decimal]:
    """Values that may break a rule which ``number`` keeps."""
    others = [_EXACT.add(number, 1), _EXACT.subtract(number, 1), _EXACT.multiply(number, 1000), Decimal(0), Decimal(-10_000)]
    found = [*others, *(Decimal(bound) for bound in (field.min, field.max) if bound is not None)]
    return [int(other) for other in found] if field.type == "integer" else [*found]


def _with_numbers(body: Body, places: list[Keys], number: int | Decimal) -> Body:
    """``body`` with ``number`` at each of ``places``, in a string where one stands there."""
    for keys in places:
        body = replaced(body, keys, str(number) if isinstance(value_at(body, keys), str) else number)
    return body


class _Breaking:
    """Breaks ``rule`` in a body, and no other. ``places`` are the rule's fields."""

    def __init__(self, judge: Judge, rule: Rule, places: list[Place]) -> None:
        self._judge, self._rule = judge, rule
        self._opposite = Opposite(judge.kind, rule)
        self._mender = Mender(judge.kind, but=rule)
        self._places = places
        self._path = json_path(places[0]) if places else "$"

    def corrupt(self, body: Body) -> Body:
        """``body`` with another value of one of the rule's fields, and of those that other rules compute.

        Raises UnbreakableError.
        """
        for changed in self._candidates(body):
            mended, event = self._mender.mended(changed, self._judge.event)
            if self._is_broken(event):
                return mended
        raise UnbreakableError(self._rule.name)

    def _candidates(self, body: Body) -> Iterator[Body]:
        yield from self._opposite.bodies(body, self._judge.event)
        for place in self._places:
            for keys in _alternatives(place, body):
                number = number_in(value_at(body, keys[0]))
                if isinstance(number, int | Decimal):
                    yield from (_with_numbers(body, keys, other) for other in _others(number, place.fields[-1]))

    def _is_broken(self, event: Any | None) -> bool:
        found = None if event is None else self._judge.violation(event)
        return found is not None and (found.path, found.expected) == (self._path, self._rule.check.text)
