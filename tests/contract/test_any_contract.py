"""For contracts of any make: what passes can be rebuilt from its rows, what is refused is refused for the right place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ecomflow.contract.codec import Codec
from ecomflow.contract.language import Contract, Field, find, records_of
from ecomflow.contract.numbers import number_in
from ecomflow.contract.reading_tables import column_name
from ecomflow.contract.times import EPOCH, read_moment
from tests.support.any_contract import ANY_JSON, contracts, objects
from tests.support.compiled import compiled
from tests.support.contract import Outcome, message, property_test

Json = Any

_encode = msgspec.json.Encoder(decimal_format="number").encode


def places(value: Json, fields: tuple[Field, ...], contract: Contract) -> Iterator[dict[str, Json]]:
    """The objects of ``value`` that the contract names: where unknown fields may stand."""
    yield value
    records = records_of(contract.records)
    for field in fields:
        at = value
        for key in field.path[:-1]:
            at = at.get(key) if isinstance(at, dict) else None
            if isinstance(at, dict):
                yield at
        part = at.get(field.path[-1]) if isinstance(at, dict) else None
        if field.of in records and isinstance(part, dict):
            yield from places(part, records[field.of].fields, contract)
        elif field.of in records and isinstance(part, list):
            for one in part:
                yield from places(one, records[field.of].fields, contract)


def canonical(value: dict[str, Json], fields: tuple[Field, ...], contract: Contract) -> dict[str, Json]:
    """``value`` as its rows tell it: null is missing, a moment is a moment however it is written."""
    found = json.loads(_encode(value), parse_float=Decimal)
    records = records_of(contract.records)
    for field in fields:
        at, way = found, [found]
        for key in field.path[:-1]:
            at = at.get(key) if isinstance(at, dict) else None
            way.append(at)
        part = at.pop(field.path[-1], None) if isinstance(at, dict) else None
        part = field.default if part is None else part  # a record that is missing has none
        told = None if part is None else told_value(part, field, contract, records)
        if told not in (None, {}, []):
            put_over(found, field.path, told)
    return without_empty(found, fields)


def told_value(part: Json, field: Field, contract: Contract, records: dict[str, Any]) -> Json:
    kind = field.of if field.type == "list" else field.type
    if field.of in records:
        of = records[field.of].fields
        return [canonical(one, of, contract) for one in part] if isinstance(part, list) else canonical(part, of, contract)
    if field.type == "list":
        return [told_scalar(one, str(kind)) for one in part]
    return told_scalar(part, str(kind))


def told_scalar(value: Json, kind: str) -> Json:
    match kind:
        case "timestamp":
            return ("moment", read_moment(value, "refuse"))
        case "float":
            return float(value)
        case "integer" | "numeric":
            return number_in(value)
        case "json":
            return ("json", value)
    return value


def put_over(target: dict[str, Json], path: tuple[str, ...], value: Json) -> None:
    for key in path[:-1]:
        if not isinstance(target.get(key), dict):
            target[key] = {}
        target = target[key]
    target[path[-1]] = value


def without_empty(found: dict[str, Json], fields: tuple[Field, ...]) -> dict[str, Json]:
    """Without the objects on the fields' paths that hold nothing."""
    for field in sorted(fields, key=lambda one: -len(one.path)):
        for size in range(len(field.path) - 1, 0, -1):
            at: Json = found
            for key in field.path[: size - 1]:
                at = at.get(key) if isinstance(at, dict) else None
            if isinstance(at, dict) and at.get(field.path[size - 1], 1) in (None, {}):
                del at[field.path[size - 1]]
    return found


def rebuilt(outcome: Outcome, contract: Contract, event_id: str) -> dict[str, Json]:
    """The document of ``event_id`` from its rows alone, the unknown part laid over it."""
    rows = {table: [row for row in found if row["event_id"] == event_id] for table, found in outcome.rows.items()}
    (row,) = rows["fact_any"]
    found: dict[str, Json] = {"event_type": contract.event}
    of_object(found, (), contract.fields, contract, row)
    for field in contract.fields:
        if field.type == "list" and (elements := list(of_list(field, contract, rows[f"fact_{field.name}"]))):
            put_over(found, field.path, elements)
    if row["unknown_fields"] is not None:
        lay_over(found, json.loads(row["unknown_fields"], parse_float=Decimal))
    return found


def of_object(
    found: dict[str, Json], names: tuple[str, ...], fields: tuple[Field, ...], contract: Contract, row: dict[str, Json]
) -> None:
    records = records_of(contract.records)
    for field in fields:
        place = find((*names, field.name), contract.fields, records)
        assert place is not None
        if field.type == "record":
            inner: dict[str, Json] = {}
            of_object(inner, place.names, records[str(field.of)].fields, contract, row)
            if inner:
                put_over(found, field.path, inner)
        elif field.type != "list":
            name = "event_timestamp" if place.names == (contract.time,) else column_name(place)
            if row[name] is not None:
                put_over(found, field.path, from_column(row[name], field.type))


def of_list(field: Field, contract: Contract, rows: list[dict[str, Json]]) -> Iterator[Json]:
    records = records_of(contract.records)
    assert [row["line_number"] for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        if field.of in records:
            element: dict[str, Json] = {}
            of_object(element, (field.name,), records[field.of].fields, contract, row)
            yield element
        else:
            yield from_column(row[field.name], str(field.of))


def from_column(value: Json, kind: str) -> Json:
    match kind:
        case "timestamp":
            return ("moment", int((value - EPOCH).total_seconds()) * 10**6 + value.microsecond)
        case "date":
            return str(value)
        case "json":
            return ("json", json.loads(value, parse_float=Decimal))
    return value


def lay_over(found: Json, unknown: Json) -> None:
    for key, part in unknown.items():
        if key in found and isinstance(found[key], dict) and isinstance(part, dict):
            lay_over(found[key], part)
        elif key in found and isinstance(found[key], list) and isinstance(part, list):
            for one, more in zip(found[key], part, strict=True):
                lay_over(one, more)
        else:
            found[key] = part


@st.composite
def contracts_with_events(draw: st.DrawFn) -> tuple[Contract, list[dict[str, Json]]]:
    """A contract and valid events of it, with unknown fields at any place."""
    contract = draw(contracts())
    events = draw(st.lists(objects(contract, contract.fields), min_size=1, max_size=3))
    for event in events:
        known = {key for field in all_fields(contract) for key in field.path}
        for place in places(event, contract.fields, contract):
            new = draw(st.dictionaries(st.text(st.characters(blacklist_categories=("Cs",)), max_size=3), ANY_JSON, max_size=2))
            place.update({key: part for key, part in new.items() if key not in known and key != "event_type"})
        event["event_type"] = contract.event
    return contract, events


def all_fields(contract: Contract) -> Iterator[Field]:
    yield from contract.fields
    for record in contract.records:
        yield from record.fields


class TestNothingIsLost:
    @property_test(250)
    @given(contracts_with_events())
    def test_a_valid_document_is_rebuilt_from_its_rows(self, made: tuple[Contract, list[dict[str, Json]]]) -> None:
        """Every known and every unknown field, by a codec that has not met it and by one that has."""
        contract, events = made
        codec = Codec([contract])
        messages = [message(_encode(event), f"M-{n}") for n, event in enumerate(events)]
        for _ in range(2):
            outcome = compiled(messages, codec)
            assert [letter.error for letter in outcome.letters] == []
            for number, event in enumerate(events):
                assert rebuilt(outcome, contract, f"M-{number}") == canonical(event, contract.fields, contract)


WRONG: dict[str, Json] = {"json": None}


@st.composite
def contracts_with_a_fault(draw: st.DrawFn) -> tuple[Contract, dict[str, Json], str]:
    """A contract, an event of it in which one value is wrong, and the path of that."""
    contract = draw(contracts())
    event = draw(objects(contract, contract.fields))
    event["event_type"] = contract.event
    ways = list(faults(event, contract.fields, contract, "$"))
    path, spoil = draw(st.sampled_from(ways))
    spoil()
    return contract, event, path


def faults(
    value: dict[str, Json], fields: tuple[Field, ...], contract: Contract, start: str
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every place of ``value`` that can be made wrong, and how."""
    records = records_of(contract.records)
    for field in fields:
        at: Json = value
        for key in field.path[:-1]:
            at = at.get(key) if isinstance(at, dict) else None
        if not isinstance(at, dict) or at.get(field.path[-1]) is None:
            continue
        key, path = field.path[-1], start + "".join(f".{key}" for key in field.path)
        if not field.optional:
            yield path, lambda at=at, key=key: at.pop(key)  # type: ignore[misc]
            yield path, lambda at=at, key=key: at.update({key: None})  # type: ignore[misc]
        if field.type not in ("json", "record"):
            yield path, lambda at=at, key=key: at.update({key: {"wrong": 1}})  # type: ignore[misc]
        if field.of in records:
            for index, one in enumerate(at[key] if isinstance(at[key], list) else [at[key]]):
                step = f"[{index}]" if isinstance(at[key], list) else ""
                yield from faults(one, records[field.of].fields, contract, path + step)


class TestReasons:
    @property_test(250)
    @given(contracts_with_a_fault())
    def test_the_reason_names_the_place(self, made: tuple[Contract, dict[str, Json], str]) -> None:
        """The path of what is wrong, and a contract_violation of the event's own stream."""
        contract, event, path = made
        outcome = compiled([message(_encode(event))], contracts=[contract])
        assert outcome.rows == {}
        (letter,) = outcome.letters
        assert (letter.reason, letter.event_type) == ("contract_violation", "any")
        assert letter.error.startswith(f"{path}: ")
