"""A contract in; the rules that types can't say, compiled, out: an event in, its first violation out. Pure.

In this order: how values are written (moments, numbers in strings), the values themselves (exact numbers, products, addresses),
the UTC date, the size, and the contract's own ``[[rules]]``. The columns refuse a batch in which any event breaks one of these,
and only then is each event asked here; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ecomflow.contract.exact import Evaluator, evaluator_of
from ecomflow.contract.generated import getter
from ecomflow.contract.language import Contract, Field, Operation, Path, Place, Rule, find, is_personal, paths_in, records_of
from ecomflow.contract.language import json_path as place_path
from ecomflow.contract.limits import MAX_REPEATED_BYTES, DateRange
from ecomflow.contract.numbers import INT64_MAX, INT64_MIN, NUMERIC_LIMIT, number_in, scaled
from ecomflow.contract.reasons import Violation, fault_violation, shown
from ecomflow.contract.times import DAY, EPOCH, Unreadable, read_moment
from ecomflow.contract.tree import Node, json_path, nodes_to, walk
from ecomflow.contract.values import Fault, value_fault, written_fault

_FaultOf = Callable[[Field, bool], "Fault | None"]
# An event in; its first violation of some rule out.
Rules = Callable[[Any], Violation | None]
_EPOCH_ORDINAL = EPOCH.toordinal()


class EventRules(NamedTuple):
    """``of_values`` needs the event alone; ``of_date`` the dates that can be written; ``of_size`` its id; ``of_fields`` says
    which of the contract's own rules an event breaks, the first that refuses as a violation.
    """

    of_values: Rules
    of_date: Callable[[Any, DateRange], Violation | None]
    of_size: Callable[[Any, str], Violation | None]
    of_fields: tuple[tuple[Rule, Evaluator], ...]


def rules_of(contract: Contract, root: Node) -> EventRules:
    written = list(_checks(root, written_fault))
    values = [*_checks(root, value_fault, products_of(contract))]
    own = tuple((rule, evaluator_of(rule.check, contract, root)) for rule in contract.rules)
    return EventRules(_first([*written, *values]), _date_rule(contract, root), _size_rule(contract, root), own)


def field_violation(rule: Rule, contract: Contract, evaluator: Evaluator, event: Any) -> Violation | None:
    """The violation of ``rule`` by an event that satisfies all that ``of_values`` says; None where it holds or a value is
    missing.
    """
    sides = evaluator(event)
    if sides is None:
        return None
    places = [find(path.names, contract.fields, records_of(contract.records)) for path in _paths(rule)]
    path = place_path(places[0]) if places and places[0] else "$"
    hidden = any(place is not None and is_personal(place) for place in places)
    found = "personal values that are not shown" if hidden else " and ".join(shown(side) for side in sides)
    return Violation("contract_violation", path, rule.check.text, found)


def _paths(rule: Rule) -> tuple[Path, ...]:
    return (*paths_in(rule.check.left), *paths_in(rule.check.right))


def _first(checks: Sequence[Rules]) -> Rules:
    if len(checks) == 1:
        return checks[0]

    def of_values(event: Any) -> Violation | None:
        for check in checks:
            if (found := check(event)) is not None:
                return found
        return None

    return of_values


def _checks(root: Node, fault_of: _FaultOf, products: Sequence[Product] = ()) -> Iterator[Rules]:
    """The checks of every value outside lists in its place, and of a list element by element in the list's place."""
    of_event = [product for product in products if product.each is None]

    def visit(nodes: list[Node]) -> Iterator[Rules]:
        node = nodes[-1]
        if node.kind == "list":
            inner = [one for one in products if one.each is not None and nodes_to(root, one.each)[:-1] == nodes]
            if check := _list_check(nodes, fault_of, inner, root):
                yield check
        elif node.kind == "object":
            for child in node.children:
                yield from visit([*nodes, child])
        elif node.field is not None and (fault := fault_of(node.field, node.optional)):
            yield _value_check(nodes, fault, json_path(node.keys), node.field.personal)

    for child in root.children:
        yield from visit([child])
    for product in of_event:
        yield _product_check(product, [nodes_to(root, place) for place in product.places], "$")


def _value_check(nodes: Sequence[Node], fault: Fault, path: str, personal: bool) -> Rules:
    """The check of the value at ``nodes``, which is passed over where an object on the way to it is missing."""
    get = getter(nodes)
    holder = getter(nodes[:-1]) if any(node.optional for node in nodes[:-1]) else None

    def check(event: Any) -> Violation | None:
        value = get(event)
        if value is None and holder is not None and holder(event) is None:
            return None
        wrong = fault(value)
        return None if wrong is None else fault_violation(path, wrong, value, personal)

    return check


def _list_check(nodes: list[Node], fault_of: _FaultOf, products: Sequence[Product], root: Node) -> Rules | None:
    element = nodes[-1].children[0]
    checks = list(_element_checks(element, fault_of))
    for product in products:
        size = len(nodes) + 1
        checks.append((_product_check(product, [nodes_to(root, place)[size:] for place in product.places], ""), ""))
    if not checks:
        return None
    get, start = getter(nodes), json_path(nodes[-1].keys)

    def check(event: Any) -> Violation | None:
        for index, line in enumerate(get(event) or ()):
            for of_line, path in checks:
                if (found := of_line(line)) is not None:
                    return found._replace(path=f"{start}[{index}]{path}{found.path}")
        return None

    return check


def _element_checks(element: Node, fault_of: _FaultOf) -> Iterator[tuple[Rules, str]]:
    def visit(nodes: list[Node]) -> Iterator[tuple[Rules, str]]:
        node = nodes[-1]
        if node.kind == "object":
            for child in node.children:
                yield from visit([*nodes, child])
        elif node.field is not None and (fault := fault_of(node.field, node.optional)):
            path = "".join(f".{one.key}" for one in nodes[1:])
            yield _value_check(nodes[1:], fault, "", node.field.personal), path

    return visit([element])


class Product(NamedTuple):
    """A column that holds the product of two. ``each`` is the list whose elements both stand in, or None."""

    places: tuple[Place, Place]
    each: Place | None
    is_numeric: bool


def products_of(contract: Contract) -> list[Product]:
    """The products that the columns of ``contract`` hold, each once."""
    records = records_of(contract.records)
    found: dict[Any, Product] = {}
    for table in contract.tables:
        for column in table.columns:
            match column.value:
                case Operation(left=Path(names=left), right=Path(names=right)):
                    places = find(left, contract.fields, records), find(right, contract.fields, records)
                    assert places[0]  # the loader has looked
                    assert places[1]
                    index = places[0].list_index
                    each = None if index is None else find(left[: index + 1], contract.fields, records)
                    found[left, right] = Product((places[0], places[1]), each, column.type == "NUMERIC")
    return list(found.values())


def _product_check(product: Product, nodes: Sequence[list[Node]], path: str) -> Rules:
    left, right = (getter(way, place.fields[-1].default) for way, place in zip(nodes, product.places, strict=True))
    names = " x ".join(place.names[-1] for place in product.places)
    personal = any(map(is_personal, product.places))
    limit = "below 1e29" if product.is_numeric else "in 64 bits"

    def check(event: Any) -> Violation | None:
        first, second = number_in(left(event)), number_in(right(event))
        if first is None or second is None or product_fits(first, second, product.is_numeric):
            return None
        found = "personal values" if personal else f"{shown(first)} x {shown(second)}"
        return Violation("out_of_range", path, f"{names} {limit}", found)

    return check


def product_fits(first: Any, second: Any, to_numeric: bool) -> bool:
    if not to_numeric:
        return bool(INT64_MIN <= first * second <= INT64_MAX)
    whole, number = (first, second) if type(first) is int else (second, first)
    return bool(abs(whole * scaled(number)) < NUMERIC_LIMIT * 10**9)


def _date_rule(contract: Contract, root: Node) -> Callable[[Any, DateRange], Violation | None]:
    node = next(
        one for one in walk(root) if one.field is not None and one.field.name == contract.time and one.keys == one.field.path
    )
    place = find((contract.time,), contract.fields, {})
    assert place is not None  # the loader has looked
    assert node.field is not None
    get, path, zone = getter(nodes_to(root, place)), json_path(node.keys), node.field.without_offset
    personal = node.field.personal

    def of_date(event: Any, dates: DateRange) -> Violation | None:
        text = get(event)
        moment = read_moment(text, zone)
        if isinstance(moment, Unreadable):
            return None
        day = moment // DAY + _EPOCH_ORDINAL
        if dates.first.toordinal() <= day <= dates.last.toordinal():
            return None
        expected = f"a UTC date from {dates.first} to {dates.last}"
        return Violation("out_of_range", path, expected, shown(text, personal))

    return of_date


def repeated_texts(contract: Contract, each: tuple[str, ...]) -> tuple[Place, ...]:
    """The texts of the event that stand on each row of the tables of ``each``, the event's id left out."""
    records = records_of(contract.records)
    names = {
        column.value.names: None
        for table in contract.tables
        for column in table.columns
        if table.each == each and column.type in ("STRING", "JSON") and isinstance(column.value, Path)
    }
    places = [place for one in names if (place := find(one, contract.fields, records))]
    return tuple(place for place in places if place.list_index is None)


def lists_of(contract: Contract) -> tuple[tuple[str, ...], ...]:
    """The lists that have a table."""
    return tuple(dict.fromkeys(table.each for table in contract.tables if table.each))


def _size_rule(contract: Contract, root: Node) -> Callable[[Any, str], Violation | None]:
    parts = []
    for each in lists_of(contract):
        place = find(each, contract.fields, records_of(contract.records))
        assert place is not None  # the loader has looked
        texts = [getter(nodes_to(root, text), text.fields[-1].default) for text in repeated_texts(contract, each)]
        parts.append((getter(nodes_to(root, place)[:-1]), texts, place_path(place).removesuffix("[]"), each[-1]))

    def of_size(event: Any, event_id: str) -> Violation | None:
        for lines, texts, path, name in parts:
            header = len(event_id.encode()) + sum(_size(text(event)) for text in texts)
            count = len(lines(event) or ())
            if header * count > MAX_REPEATED_BYTES:
                most = MAX_REPEATED_BYTES // header
                return Violation("out_of_range", path, f"at most {most} {name} with a header of {header} bytes", str(count))
        return None

    return of_size


def _size(value: Any) -> int:
    """The bytes of a text; of JSON as it came, of an id that was written as a number."""
    if value is None:
        return 0
    if isinstance(value, str):
        return len(value.encode())
    return len(str(value)) if isinstance(value, int) else memoryview(value).nbytes
