"""The ``[[tables]]`` of a contract file in; tables with all of their columns, and what is wrong with them, out. Pure.

Names: https://cloud.google.com/bigquery/docs/schemas#column_names, clustering:
https://cloud.google.com/bigquery/docs/clustered-tables, columns a table: https://cloud.google.com/bigquery/quotas
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from ecomflow.contract.expressions import ExpressionError, parse_value
from ecomflow.contract.language import (
    Column,
    ColumnSource,
    ColumnType,
    Constant,
    Expression,
    Field,
    Operation,
    Path,
    Place,
    RecordType,
    Table,
    all_scalars,
    find,
    may_be_null,
    scalar_type,
)
from ecomflow.contract.mistakes import Mistakes, Section, nearest, shown
from ecomflow.contract.numbers import INT64_MAX, is_numeric
from ecomflow.contract.reading_fields import MAX_NAME, is_name

MAX_COLUMNS = 10_000
MAX_CLUSTER = 4
_TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_MAX_TABLE_NAME = 1024
# What a description in our DDL may not hold: it stands there between quotation marks.
_NOT_DESCRIBING = re.compile(r'["\\\n\r]')
_RESERVED_PREFIXES = ("_TABLE_", "_FILE_", "_PARTITION", "_ROW_TIMESTAMP", "__ROOT__", "_COLIDENTIFIER", "_CHANGE_")
RESERVED_TABLES = ("dead_letters",)

COLUMN_TYPES: dict[str, ColumnType] = {
    "string": "STRING",
    "integer": "INT64",
    "numeric": "NUMERIC",
    "boolean": "BOOL",
    "float": "FLOAT64",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
    "ip_address": "STRING",
    "json": "JSON",
}
CLUSTERABLE = ("STRING", "INT64", "NUMERIC", "BOOL", "DATE", "TIMESTAMP")

EVENT_ID = "The producer's own id of the event, else the Pub/Sub message id; the same in each repeat."
INGESTION = "When the pipeline wrote the row (UTC)."
UNKNOWN_FIELDS = "What the event holds beside the fields of its contract, as it came; null where there is nothing."
_HAPPENED = "When the event happened, as the producer stated it, in UTC."
_LINE_NUMBER = "The element's place in its list, from 1; with event_id it identifies the row."


class Declared(NamedTuple):
    """What the columns of a contract's tables are made from."""

    fields: tuple[Field, ...]
    records: dict[str, RecordType]
    time: str
    time_prefix: str
    keeps: bool


def read_tables(mistakes: Mistakes, sections: list[Section], declared: Declared) -> tuple[Table, ...]:
    """The tables in their order. The first one takes what is unknown."""
    if not sections:
        mistakes.say("", "expected one table or more, [[tables]], found none")
    tables = [_table(section, declared, is_first=index == 0) for index, section in enumerate(sections)]
    names = [table.name.lower() for table in tables]
    for index, table in enumerate(tables):
        if table.name.lower() in names[:index]:
            mistakes.say(f"tables[{index}].name", f"two tables are called {table.name}")
        elif table.name.lower() in [f"{name}_unique" for name in names]:
            mistakes.say(f"tables[{index}].name", f"{table.name} is the view of the table {table.name[:-7]}")
    return tuple(tables)


def _table(section: Section, declared: Declared, is_first: bool) -> Table:
    section.known_keys(("name", "description", "each", "cluster", "columns"))
    name = _table_name(section)
    each = _each(section, declared)
    if is_first and "each" in section.values:
        section.wrong("each", "a table with a row an event first: an event whose list is empty would leave nothing")
    columns = list(_columns(section, declared, each))
    columns = _completed(columns, declared, each, keeps=is_first and declared.keeps)
    _check_columns(section, columns, declared)
    cluster = _cluster(section, columns)
    return Table(name, _described(section) or f"One row for each {each[-1] if each else 'event'}.", each, cluster, tuple(columns))


def _table_name(section: Section) -> str:
    name = section.text("name", "the table's name")
    if name is None:
        if "name" not in section.values:
            section.mistakes.say(section.where, "a table needs a name")
        return section.where
    if not _TABLE_NAME.fullmatch(name) or len(name) > _MAX_TABLE_NAME:
        section.wrong("name", f"letters, digits and _, at most {_MAX_TABLE_NAME} of them, not beginning with a digit")
    elif name.lower() in RESERVED_TABLES:
        section.wrong("name", "another name: this one is ecomflow's own")
    return name


def _each(section: Section, declared: Declared) -> tuple[str, ...]:
    text = section.text("each", "the name of a list")
    if text is None:
        return ()
    place = find(tuple(text.split(".")), declared.fields, declared.records)
    if place is None or place.fields[-1].type != "list":
        lists = [one for one in declared.fields if one.type == "list"]
        found = shown(text) + (f", which is {place.fields[-1].type}" if place else nearest(text, [one.name for one in lists]))
        section.wrong("each", "the name of a list", found)
        return ()
    return place.names


def _columns(section: Section, declared: Declared, each: tuple[str, ...]) -> Iterator[Column]:
    entries = section.values.get("columns")
    if entries is None:
        yield from _default_columns(declared, each)
        return
    if not isinstance(entries, list):
        section.wrong("columns", "a list of fields and of tables with name and value")
        return
    for index, entry in enumerate(entries):
        where = f"{section.at('columns')}[{index}]"
        if isinstance(entry, str):
            entry = {"value": entry}
        if not isinstance(entry, dict):
            section.mistakes.add(where, "a field, or a table with name and value", shown(entry))
            continue
        yield from _entry(Section(section.mistakes, where, entry), declared, each)


def _entry(section: Section, declared: Declared, each: tuple[str, ...]) -> Iterator[Column]:
    section.known_keys(("name", "value", "description"))
    name, described = section.text("name"), _described(section)
    own = _own_columns(declared, each)
    value = section.values.get("value", name)
    if value is None:
        section.mistakes.say(section.where, "a column needs a value, or a name that is one")
    elif isinstance(value, str) and value in own and not _means_field(declared, value, name):
        if name not in (None, value):
            section.wrong("name", f"no other name for {value}")
        yield _with_description(own[value], described)
    elif (expression := _expression(section, value)) is not None:
        yield from _of_expression(section, declared, each, expression, name, described)


def _means_field(declared: Declared, value: str, name: str | None) -> bool:
    """Whether ``value``, the name of a column of every table, is here that of a field: of the time, or under another name."""
    return value == declared.time or (name not in (None, value) and value in [field.name for field in declared.fields])


def _expression(section: Section, value: Any) -> Expression | None:
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return Constant(value)
    if not isinstance(value, str):
        section.wrong("value", "a field, the product of two, or a constant")
        return None
    try:
        return parse_value(value)
    except ExpressionError as error:
        section.mistakes.say(section.at("value") if "value" in section.values else section.where, str(error))
        return None


def _of_expression(
    section: Section, declared: Declared, each: tuple[str, ...], value: Expression, name: str | None, described: str | None
) -> Iterator[Column]:
    match value:
        case Path():
            yield from _of_path(section, declared, each, value, name, described)
        case Constant():
            if (kind := _constant_type(section, value)) and _named(section, name):
                yield Column(str(name), kind, True, described or "The same on each row.", "value", value)
        case Operation(operator="*", left=Path(), right=Path()):
            if (column := _product(section, declared, each, value)) and _named(section, name):
                yield Column(str(name), column.type, column.required, described or column.description, "value", value)
        case _:
            section.wrong("value", "a field, the product of two fields, or a constant; what else is to be said, a view says")


def _named(section: Section, name: str | None) -> bool:
    if name is None:
        section.mistakes.say(section.where, "a column that is no field needs a name")
    return name is not None


def _constant_type(section: Section, value: Constant) -> ColumnType | None:
    if isinstance(value.value, str):
        return "STRING"
    if isinstance(value.value, int) and value.value <= INT64_MAX:
        return "INT64"
    if is_numeric(value.value):
        return "NUMERIC"
    section.wrong("value", "a number of at most 29 integer and 9 decimal digits")
    return None


def _place(section: Section, declared: Declared, each: tuple[str, ...], path: Path) -> Place | None:
    """Where ``path`` leads, for a table of ``each``; the list itself is an element of it."""
    text = ".".join(path.names)
    place = find(path.names, declared.fields, declared.records)
    if place is None:
        known = [".".join(one.names) for one in scalar_places(declared.fields, declared.records)]
        section.mistakes.add(section.where, "a field of the event", repr(text) + nearest(text, known))
        return None
    if place.list_index is not None and place.names[: place.list_index + 1] != each:
        where = f"in a table with each = '{'.'.join(place.names[: place.list_index + 1])}'"
        section.mistakes.add(section.where, f"a field of the event, or an element's {where}", repr(text))
        return None
    return place


def _of_path(
    section: Section, declared: Declared, each: tuple[str, ...], path: Path, name: str | None, described: str | None
) -> Iterator[Column]:
    place = _place(section, declared, each, path)
    if place is None:
        return
    if scalar_type(place) is not None:
        yield from _of_scalar(declared, place, name, described)
    elif name is not None or described is not None:
        section.mistakes.add(section.where, "a field with a value of its own", f"{'.'.join(path.names)!r}, which holds others")
    elif inner := _scalars_within(place, declared):
        for one in inner:
            yield from _of_scalar(declared, one, None, None)
    else:
        section.mistakes.add(section.where, "a field with a value of its own", f"{'.'.join(path.names)!r}, a list of lists")


def _of_scalar(declared: Declared, place: Place, name: str | None, described: str | None) -> Iterator[Column]:
    last = place.fields[-1]
    if place.names == (declared.time,):
        own = _own_columns(declared, ())
        yield own[f"{declared.time_prefix}_date"]
        yield _with_description(own[f"{declared.time_prefix}_timestamp"], described)
        return
    kind = COLUMN_TYPES[scalar_type(place) or "string"]
    description = described or last.description or f"The field {'.'.join(place.names)}."
    yield Column(name or column_name(place), kind, not may_be_null(place), description, "value", Path(place.names))


def column_name(place: Place) -> str:
    """The names on the way with ``_`` between them, without those of the list."""
    within = place.names if place.list_index is None else place.names[place.list_index + 1 :]
    return "_".join(within or place.names[-1:])


def _product(section: Section, declared: Declared, each: tuple[str, ...], value: Operation) -> Column | None:
    places = [_place(section, declared, each, side) for side in (value.left, value.right) if isinstance(side, Path)]
    found = [place for place in places if place is not None]
    if len(found) < 2:
        return None
    kinds = [scalar_type(place) for place in found]
    if "integer" not in kinds or not {*kinds} <= {"integer", "numeric"}:
        section.wrong("value", "an integer field times an integer or numeric one, whose product a column holds exactly")
        return None
    if [place.list_index is None for place in found] not in ([True, True], [False, False]):
        section.wrong("value", "two fields of the event, or two of the element")
        return None
    text = " x ".join(place.names[-1] for place in found)
    kind: ColumnType = "NUMERIC" if "numeric" in kinds else "INT64"
    return Column("", kind, not any(map(may_be_null, found)), f"{text}, exact.", "value", value)


def scalar_places(fields: tuple[Field, ...], records: dict[str, RecordType], each: tuple[str, ...] = ()) -> list[Place]:
    """Every scalar of the event in order, records opened; those of the list ``each`` behind them."""
    places = all_scalars(fields, records)
    own = [place for place in places if place.list_index is None]
    return own + [place for place in places if place.list_index is not None and each and place.names[: len(each)] == each]


def _scalars_within(place: Place, declared: Declared) -> list[Place]:
    size = len(place.names)
    within = [one for one in all_scalars(declared.fields, declared.records) if one.names[:size] == place.names]
    return [one for one in within if one.list_index == place.list_index]


def _default_columns(declared: Declared, each: tuple[str, ...]) -> Iterator[Column]:
    for place in scalar_places(declared.fields, declared.records, each):
        yield from _of_scalar(declared, place, None, None)


def _own_columns(declared: Declared, each: tuple[str, ...]) -> dict[str, Column]:
    """The columns that every table has by itself, by name."""
    date, timestamp = f"{declared.time_prefix}_date", f"{declared.time_prefix}_timestamp"
    happened = next((one.description for one in declared.fields if one.name == declared.time), "") or _HAPPENED

    def own(name: str, kind: ColumnType, description: str, source: ColumnSource) -> Column:
        return Column(name, kind, source != "unknown_fields", description, source)

    columns = [
        own("event_id", "STRING", EVENT_ID, "event_id"),
        *([own("line_number", "INT64", _LINE_NUMBER, "line_number")] if each else []),
        own(date, "DATE", f"UTC date of {timestamp}.", "date"),
        own(timestamp, "TIMESTAMP", happened, "timestamp"),
        own("unknown_fields", "JSON", UNKNOWN_FIELDS, "unknown_fields"),
        own("ingestion_timestamp", "TIMESTAMP", INGESTION, "ingestion"),
    ]
    return {column.name: column for column in columns if not (column.name == declared.time and column.source == "value")}


def _completed(columns: list[Column], declared: Declared, each: tuple[str, ...], keeps: bool) -> list[Column]:
    """``columns`` with those of every table: the id first, the time and what is unknown behind, the ingestion last."""
    own = _own_columns(declared, each)
    listed = {column.source for column in columns}
    if "line_number" not in listed and each:
        columns = [own["line_number"], *columns]
    first = [column for column in columns if column.source == "event_id"] or [own["event_id"]]
    missing = [column for column in own.values() if column.source in ("date", "timestamp") and column.source not in listed]
    last = [column for column in columns if column.source == "ingestion"] or [own["ingestion_timestamp"]]
    kept = [column for column in columns if column.source == "unknown_fields"] or [own["unknown_fields"]]
    middle = [column for column in columns if column.source not in ("event_id", "ingestion", "unknown_fields")]
    return [*first, *middle, *missing, *(kept if keeps else []), *last]


def _with_description(column: Column, described: str | None) -> Column:
    return Column(column.name, column.type, column.required, described or column.description, column.source)


def _described(section: Section) -> str | None:
    text = section.text("description")
    if text is not None and _NOT_DESCRIBING.search(text):
        section.wrong("description", "one line without quotation marks and backslashes")
        return None
    return text


def _check_columns(section: Section, columns: list[Column], declared: Declared) -> None:
    where = section.at("columns")
    if len(columns) > MAX_COLUMNS:
        section.mistakes.add(where, f"at most {MAX_COLUMNS} columns", str(len(columns)))
    seen: dict[str, str] = {}
    own = _own_columns(declared, ("",))
    for column in columns:
        lower = column.name.lower()
        if lower in seen:
            also = "" if seen[lower] == column.name else f", as {seen[lower]} is: BigQuery does not tell case apart"
            section.mistakes.say(where, f"two columns are called {shown(column.name)[1:-1]}{also}")
        elif column.source == "value" and lower in own:
            section.mistakes.add(
                where, f"another name: every table has {lower} by itself", f"{column.name!r}; give the column a name"
            )
        if not is_name(column.name):
            section.mistakes.add(where, f"a name of letters, digits and _, at most {MAX_NAME} of them", shown(column.name))
        elif is_reserved_column(column.name):
            section.mistakes.add(where, "a name without BigQuery's reserved prefixes", shown(column.name))
        if _NOT_DESCRIBING.search(column.description):
            section.mistakes.add(
                where, "descriptions of one line without quotation marks and backslashes", shown(column.description)
            )
        seen[lower] = column.name


def is_reserved_column(name: str) -> bool:
    """Whether BigQuery keeps such names for itself."""
    return name.upper().startswith(_RESERVED_PREFIXES)


def _cluster(section: Section, columns: list[Column]) -> tuple[str, ...]:
    names = section.texts("cluster")
    if len(names) > MAX_CLUSTER:
        section.wrong("cluster", f"at most {MAX_CLUSTER} columns", str(len(names)))
    types = {column.name: column.type for column in columns}
    for index, name in enumerate(names):
        if name not in types:
            section.wrong("cluster", "columns of this table", shown(name) + nearest(name, types))
        elif types[name] not in CLUSTERABLE:
            section.wrong("cluster", f"columns of the types {', '.join(CLUSTERABLE)}", f"{name}, which is {types[name]}")
        elif name in names[:index]:
            section.wrong("cluster", "different columns", f"{name} twice")
    return names
