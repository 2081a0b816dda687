"""What one contract file says, as frozen records: an event type, its fields, its rules and its tables. Pure data, picklable.

``loading.py`` makes them from TOML and nothing else does: code that gets a ``Contract`` can rely on everything that is checked
there (names, types, paths that lead to a field, columns that BigQuery takes).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import msgspec

ScalarType = Literal["string", "integer", "numeric", "boolean", "float", "date", "timestamp", "ip_address", "json"]
FieldType = Literal[ScalarType, "record", "list"]
SCALAR_TYPES: tuple[ScalarType, ...] = (
    *("string", "integer", "numeric", "boolean", "float", "date", "timestamp", "ip_address", "json"),
)
FIELD_TYPES: tuple[FieldType, ...] = (*SCALAR_TYPES, "record", "list")

# The key with the type of an event. No field may have this name.
TYPE_KEY = "event_type"

UnknownFields = Literal["keep", "refuse", "drop"]
Otherwise = Literal["count", "refuse"]
WrittenAs = Literal["number", "string", "number or string"]
Comparison = Literal["<", "<=", "==", "!=", ">=", ">"]
Scalar = str | int | bool | float | Decimal


class Path(msgspec.Struct, frozen=True, tag=True):
    """A field by its names from the event down, through records and at most one list: ``("items", "price")``."""

    names: tuple[str, ...]


class Constant(msgspec.Struct, frozen=True, tag=True):
    """A number, written in the file with exactly these digits, or a text."""

    value: str | int | Decimal


class Operation(msgspec.Struct, frozen=True, tag=True):
    """``left`` ``operator`` ``right``, exact."""

    operator: Literal["+", "-", "*"]
    left: Expression
    right: Expression


class Sum(msgspec.Struct, frozen=True, tag=True):
    """The sum of ``of`` over the elements of the one list that its paths lead through."""

    of: Expression


Expression = Path | Constant | Operation | Sum


class Check(msgspec.Struct, frozen=True):
    """A comparison that a good event satisfies. ``text`` is how the file has it."""

    comparison: Comparison
    left: Expression
    right: Expression
    text: str


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One value of an event or of a record.

    ``path`` are the JSON keys that lead to it from the object that it belongs to (its own name, where the file says nothing).
    An ``optional`` field may be missing or null; it then has its ``default``, else none. A string that is not optional has a
    ``min_length`` of 1 unless the file says 0: an id or a name that is there but empty is a fault of its producer.
    ``without_offset`` is ``refuse`` or the zone that a timestamp without one is taken to be in. ``of`` is what a list lists
    (a scalar type or a record) or the record that a record is. Values of ``personal`` fields appear in no error and no log.
    """

    name: str
    type: FieldType
    path: tuple[str, ...]
    description: str = ""
    optional: bool = False
    default: Scalar | None = None
    min: int | Decimal | None = None
    max: int | Decimal | None = None
    min_length: int = 0
    max_length: int | None = None
    values: tuple[str, ...] = ()
    pattern: str | None = None
    without_offset: str = "refuse"
    written_as: WrittenAs = "number"
    personal: bool = False
    fake: str | None = None
    of: str | None = None
    min_items: int = 0
    max_items: int | None = None


class RecordType(msgspec.Struct, frozen=True):
    """A JSON object's fields, in the order of the file."""

    name: str
    fields: tuple[Field, ...]


class Rule(msgspec.Struct, frozen=True):
    """A check across fields. ``name`` is what a counter calls it; ``otherwise`` is what happens to an event that breaks it."""

    name: str
    check: Check
    otherwise: Otherwise


ColumnType = Literal["STRING", "INT64", "NUMERIC", "BOOL", "FLOAT64", "DATE", "TIMESTAMP", "JSON"]
ColumnSource = Literal["value", "event_id", "date", "timestamp", "line_number", "unknown_fields", "ingestion"]


class Column(msgspec.Struct, frozen=True):
    """A column of a table. ``value`` is its value if its ``source`` is ``value``; the other sources have none.

    A value is a path, the product of two, or a constant.
    """

    name: str
    type: ColumnType
    required: bool
    description: str
    source: ColumnSource = "value"
    value: Expression | None = None


class Table(msgspec.Struct, frozen=True):
    """A fact table: a row an event, or a row an element of the list ``each``. ``columns`` are all of them, in the DDL's order."""

    name: str
    description: str
    each: tuple[str, ...]
    cluster: tuple[str, ...]
    columns: tuple[Column, ...]


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """One version of an event type. ``type`` is what the envelope of its messages says, ``event`` what all else calls it.

    ``time`` names the timestamp field whose UTC date partitions every table; the two columns that hold it are
    ``<time_prefix>_date`` and ``<time_prefix>_timestamp``. ``key`` are the fields that identify what the event is about.
    ``tables`` begins with one that has a row an event.
    """

    event: str
    type: str
    version: int
    description: str
    time: str
    time_prefix: str
    unknown_fields: UnknownFields
    key: tuple[str, ...]
    fields: tuple[Field, ...]
    records: tuple[RecordType, ...]
    rules: tuple[Rule, ...]
    tables: tuple[Table, ...]
    file: str


class Place(msgspec.Struct, frozen=True):
    """Where a path of names leads: the fields on the way; the last one is the one it leads to. ``list_index`` is the index of
    the list among them, or None.
    """

    names: tuple[str, ...]
    fields: tuple[Field, ...]
    list_index: int | None


def records_of(contract_records: tuple[RecordType, ...]) -> dict[str, RecordType]:
    return {record.name: record for record in contract_records}


def find(names: tuple[str, ...], fields: tuple[Field, ...], records: dict[str, RecordType]) -> Place | None:
    """The place that ``names`` lead to from the event's ``fields``; None if there is none, or only inside a second list."""
    found: list[Field] = []
    list_index = None
    inner: tuple[Field, ...] = fields
    for name in names:
        field = next((one for one in inner if one.name == name), None)
        if field is None or (field.type == "list" and list_index is not None):
            return None
        if field.type == "list":
            list_index = len(found)
        found.append(field)
        inner = records[field.of].fields if field.of in records else ()
    return Place(names, tuple(found), list_index) if found else None


def all_scalars(fields: tuple[Field, ...], records: dict[str, RecordType]) -> list[Place]:
    """Every place with a value of its own, in order, records and lists opened."""
    found: list[Place] = []

    def open_fields(names: tuple[str, ...], inner: tuple[Field, ...]) -> None:
        for field in inner:
            here = (*names, field.name)
            if field.of in records:
                open_fields(here, records[field.of].fields)
            elif place := find(here, fields, records):
                found.append(place)

    open_fields((), fields)
    return found


def scalar_type(place: Place) -> ScalarType | None:
    """The type of the value at ``place``, that of the elements for a list of scalars; None for records and lists of records."""
    last = place.fields[-1]
    kind = last.of if last.type == "list" else last.type
    return kind if kind in SCALAR_TYPES else None


def may_be_null(place: Place) -> bool:
    """Whether the value at ``place`` may be missing from a row: something on the way is optional and has no default."""
    within = place.fields if place.list_index is None else place.fields[place.list_index + 1 :]
    return any(field.optional and field.default is None for field in within)


def json_path(place: Place) -> str:
    """``$.items[].price``."""
    pieces = ["$"]
    for index, field in enumerate(place.fields):
        pieces += [f".{key}" for key in field.path]
        if index == place.list_index:
            pieces.append("[]")
    return "".join(pieces)


def paths_in(expression: Expression) -> tuple[Path, ...]:
    """Every path of ``expression``, left to right."""
    match expression:
        case Path():
            return (expression,)
        case Operation():
            return (*paths_in(expression.left), *paths_in(expression.right))
        case Sum():
            return paths_in(expression.of)
        case _:
            return ()


def is_personal(place: Place) -> bool:
    return any(field.personal for field in place.fields)
