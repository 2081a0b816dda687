"""The check of a rule in; its two sides for an event, exact, out. And for a batch: how many break it. Pure.

Every number is a whole multiple of a power of ten that the contract determines (1 for integers, a billionth for a NUMERIC), so
that sums and products are sums and products of integers: of 64 bits if all of them fit, otherwise Python's own.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from ecomflow.contract.generated import getter
from ecomflow.contract.language import (
    Check,
    Constant,
    Contract,
    Expression,
    Operation,
    Path,
    Sum,
    find,
    paths_in,
    records_of,
    scalar_type,
)
from ecomflow.contract.numbers import NUMERIC_SCALE, number_in, scaled
from ecomflow.contract.tree import Node, nodes_to

COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
}
_MOST = 2**62

# An event in; both sides where they break the check, else None.
Evaluator = Callable[[Any], "tuple[Decimal, Decimal] | None"]


class _Missing(Exception):  # noqa: N818  # not an error: a value that an event does not have
    """A value that the check needs is missing: the check does not apply."""


class _Side(NamedTuple):
    """An event (or an element) in, an integer out: so many of ten to the minus ``scale``."""

    of: Callable[[Any], int]
    scale: int


def evaluator_of(check: Check, contract: Contract, root: Node) -> Evaluator:
    """The check for one event, whose values satisfy all that a column asks of them."""
    left, right = (_side(side, contract, root, 0) for side in (check.left, check.right))
    scale = max(left.scale, right.scale)
    compare = COMPARISONS[check.comparison]

    def evaluate(event: Any) -> tuple[Decimal, Decimal] | None:
        try:
            first, second = left.of(event), right.of(event)
        except _Missing:
            return None
        if compare(first * 10 ** (scale - left.scale), second * 10 ** (scale - right.scale)):
            return None
        return _amount(first, left.scale), _amount(second, right.scale)

    return evaluate


def _amount(value: int, scale: int) -> Decimal:
    """With two decimal places where it has no more, as money is written."""
    digits = f"{abs(value):0{scale + 1}}"
    whole, fraction = digits[: len(digits) - scale], digits[len(digits) - scale :].rstrip("0")
    fraction = fraction.ljust(2, "0") if scale else ""
    return Decimal(f"{'-' if value < 0 else ''}{whole}{'.' if fraction else ''}{fraction}")


def _side(expression: Expression, contract: Contract, root: Node, skip: int) -> _Side:
    """``skip`` nodes of each path are behind us: those to the element of the list that is summed over."""
    match expression:
        case Path():
            return _path(expression, contract, root, skip)
        case Constant():
            value = expression.value
            assert not isinstance(value, str)  # the loader has looked
            scale = max(0, -int(value.as_tuple().exponent)) if isinstance(value, Decimal) else 0
            whole = int(value.scaleb(scale)) if isinstance(value, Decimal) else value
            return _Side(lambda _: whole, scale)
        case Operation():
            left, right = (_side(side, contract, root, skip) for side in (expression.left, expression.right))
            return _combined(expression.operator, left, right)
        case Sum():
            return _sum(expression, contract, root)
    raise TypeError(expression)


def _path(path: Path, contract: Contract, root: Node, skip: int) -> _Side:
    place = find(path.names, contract.fields, records_of(contract.records))
    assert place is not None  # the loader has looked
    get = getter(nodes_to(root, place)[skip:], place.fields[-1].default)
    is_numeric = scalar_type(place) == "numeric"

    def of(event: Any) -> int:
        value: Any = number_in(get(event))
        if value is None:
            raise _Missing
        return scaled(value) if is_numeric else value

    return _Side(of, NUMERIC_SCALE if is_numeric else 0)


def _combined(sign: str, left: _Side, right: _Side) -> _Side:
    if sign == "*":
        return _Side(lambda event: left.of(event) * right.of(event), left.scale + right.scale)
    scale = max(left.scale, right.scale)
    first, second = 10 ** (scale - left.scale), 10 ** (scale - right.scale)
    if sign == "+":
        return _Side(lambda event: left.of(event) * first + right.of(event) * second, scale)
    return _Side(lambda event: left.of(event) * first - right.of(event) * second, scale)


def _sum(expression: Sum, contract: Contract, root: Node) -> _Side:
    place = find(paths_in(expression.of)[0].names, contract.fields, records_of(contract.records))
    assert place is not None  # the loader has looked
    assert place.list_index is not None
    each = find(place.names[: place.list_index + 1], contract.fields, records_of(contract.records))
    assert each is not None
    nodes = nodes_to(root, each)
    get, inner = getter(nodes[:-1]), _side(expression.of, contract, root, len(nodes))

    def of(event: Any) -> int:
        total = 0
        for element in get(event) or ():
            try:
                total += inner.of(element)
            except _Missing:  # as SQL's SUM passes over NULL
                continue
        return total

    return _Side(of, inner.scale)


class Vector(NamedTuple):
    """A number an event, or an element: ``values`` are int64, none beyond ``bound``, so many of ten to the minus ``scale``."""

    values: Any
    scale: int
    bound: int


class TooWideError(Exception):
    """Some value may leave 64 bits, or is missing: each event is to be asked by itself."""


def broken(check: Check, columns: Callable[[Path], Vector], starts: Callable[[Path], Any]) -> int:
    """How many events break ``check``. ``columns`` gives a path's values, ``starts`` the first element of each event in the
    path's list.

    Raises TooWideError.
    """
    left, right = _aligned(*(_vector(side, columns, starts) for side in (check.left, check.right)))
    return int(np.count_nonzero(~COMPARISONS[check.comparison](left.values, right.values)))


def _vector(expression: Expression, columns: Callable[[Path], Vector], starts: Callable[[Path], Any]) -> Vector:
    match expression:
        case Path():
            return columns(expression)
        case Constant(value=value):
            assert not isinstance(value, str)  # the loader has looked
            scale = max(0, -int(value.as_tuple().exponent)) if isinstance(value, Decimal) else 0
            whole = int(Decimal(value).scaleb(scale))
            return _bounded(np.int64(whole) if abs(whole) < _MOST else 0, scale, abs(whole))
        case Sum():
            inner = _vector(expression.of, columns, starts)
            first = starts(paths_in(expression.of)[0])
            _bounded(inner.values, inner.scale, inner.bound * len(inner.values))
            summed = np.add.reduceat(inner.values, first) if len(first) else inner.values
            return _bounded(summed, inner.scale, int(np.abs(summed).max(initial=0)))
        case Operation():
            left, right = (_vector(side, columns, starts) for side in (expression.left, expression.right))
            if expression.operator == "*":
                product = _bounded(None, 0, left.bound * right.bound)
                return Vector(left.values * right.values, left.scale + right.scale, product.bound)
            left, right = _aligned(left, right)
            both = _bounded(None, 0, left.bound + right.bound)
            values = left.values + right.values if expression.operator == "+" else left.values - right.values
            return Vector(values, left.scale, both.bound)
    raise TypeError(expression)


def _aligned(left: Vector, right: Vector) -> Sequence[Vector]:
    scale = max(left.scale, right.scale)
    return [_times(side, 10 ** (scale - side.scale), scale) for side in (left, right)]


def _times(side: Vector, factor: int, scale: int) -> Vector:
    return side if factor == 1 else _bounded(side.values * np.int64(_fitting(factor)), scale, side.bound * factor)


def _fitting(factor: int) -> int:
    if factor >= _MOST:
        raise TooWideError
    return factor


def _bounded(values: Any, scale: int, bound: int) -> Vector:
    if bound >= _MOST:
        raise TooWideError
    return Vector(values, scale, bound)
