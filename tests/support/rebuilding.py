"""A document rebuilt from its rows, and the same document in the form that rows can tell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec

from ecomflow.contract.language import Contract, Field, find, records_of
from ecomflow.contract.numbers import number_in
from ecomflow.contract.reading_tables import column_name
from ecomflow.contract.times import EPOCH, read_moment
from tests.support.contract import Outcome

Json = Any

encode = msgspec.json.Encoder(decimal_format="number").encode


def canonical(value: dict[str, Json], fields: tuple[Field, ...], contract: Contract) -> dict[str, Json]:
    """``value`` as its rows tell it: null is missing, a moment is a moment however it is written."""
    found = json.loads(encode(value), parse_float=Decimal)
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
