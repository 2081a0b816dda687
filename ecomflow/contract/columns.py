"""A contract in; the builder of its tables' Arrow columns out: typed events in, record batches out.

A column is built straight from the events, once, however many tables show it, and Arrow refuses what no column holds. A batch
with anything suspect raises SuspectError, whichever event it is: ``model.py`` then asks each (``rule_code.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from ecomflow.contract.buffers import at_most_bytes, integers, lengths
from ecomflow.contract.converting import SuspectError, ToArrow, to_arrow_of
from ecomflow.contract.ddl import ARROW_TYPES, modelled_schema
from ecomflow.contract.generated import access, compiled, reader
from ecomflow.contract.language import (
    Column,
    Constant,
    Contract,
    Operation,
    Path,
    Place,
    Table,
    find,
    may_be_null,
    paths_in,
    records_of,
)
from ecomflow.contract.limits import MAX_REPEATED_BYTES, DateRange
from ecomflow.contract.products import Small, exact_product, small_numbers, small_product
from ecomflow.contract.rule_code import lists_of, repeated_texts
from ecomflow.contract.times import DAY, EPOCH, moments
from ecomflow.contract.tree import Node, nodes_to

# Four of the largest events: more than any batch of a shop, and little beside a worker's memory.
MAX_REPEATED_BATCH_BYTES = 4 * MAX_REPEATED_BYTES
_EPOCH_ORDINAL = EPOCH.toordinal()


class TooManyRowsError(Exception):
    """The rows of a batch would exceed ``MAX_REPEATED_BATCH_BYTES``. A batch of one event never does."""


class TableRows(msgspec.Struct, gc=False):
    """Rows for one table, without ``ingestion_timestamp``; ``sources[i]`` is the index of row i's event in the batch."""

    table: str
    rows: pa.RecordBatch
    sources: Any  # numpy int64 array of len(rows)


# A path's names, or one of the keys below: they stand for the columns that no path leads to.
_Key = tuple[str, ...]
_EVENT_ID, _DATE, _TIMESTAMP, _UNKNOWN, _LINE_NUMBER = (
    (f"/{source}",) for source in ("event_id", "date", "timestamp", "unknown_fields", "line_number")
)


class _Value(NamedTuple):
    """A path's column: ``read`` takes events, or the elements of the path's list."""

    read: Callable[[list[Any]], list[Any]]
    to_arrow: ToArrow


class _Table(NamedTuple):
    """A table: its name, its rows' schema, and how each of its columns is had."""

    name: str
    each: tuple[str, ...]
    schema: pa.Schema
    columns: tuple[_Fill, ...]


class _List(NamedTuple):
    """A list with tables. ``elements`` of all events in one list, ``lengths`` how many each event has, ``values`` the columns of
    the elements by path; ``repeated`` is what stands on each element's row of its event, and ``texts`` which of that are texts.
    """

    elements: Callable[[list[Any]], list[Any]]
    lengths: Callable[[list[Any]], list[int]]
    values: dict[_Key, _Value]
    repeated: tuple[_Key, ...]
    texts: tuple[_Key, ...]


class Built(msgspec.Struct):
    """The tables of a batch; the columns that they are made of, their values and, once asked for, their small numbers, by path;
    where each event's elements begin in each list, None where one has none.
    """

    tables: list[TableRows]
    columns: dict[_Key, pa.Array]
    values: dict[_Key, list[Any]]
    small: dict[_Key, Small | None]
    starts: dict[_Key, Any]


class _Rows(NamedTuple):
    """The rows of the tables of one list (or of none): each row's event, and the columns that are not the elements' own."""

    sources: Any
    columns: dict[_Key, pa.Array]


# A column of a table: out of what the rows share, and what is built.
_Fill = Callable[[_Rows, Built], pa.Array]


class Builder:
    """Builds the tables of one contract. Their rows have the columns of ``joined``, the tables of all versions of the event: null
    where this one lacks them. Reads no clock and holds no state.
    """

    def __init__(self, contract: Contract, root: Node, joined: Sequence[Table]) -> None:
        self._records = records_of(contract.records)
        self._contract = contract
        self._root = root
        self._time = self._value(self._place((contract.time,)))
        self._zone = self._place((contract.time,)).fields[-1].without_offset
        paths = _paths(contract)
        self._of_event = {names: self._value(place) for names in paths if (place := self._place(names)).list_index is None}
        self._lists = {each: self._list(each, paths) for each in lists_of(contract)}
        self._products = self._planned_products()
        by_name = {table.name: table for table in joined}
        self._tables = [self._planned(table, by_name[table.name]) for table in contract.tables]

    def build(self, events: list[Any], event_ids: list[str], kept: list[bytes | None], dates: DateRange) -> Built:
        """The rows of ``events``, one or more. ``kept`` is the unknown part of each, or empty.

        Raises SuspectError, TooManyRowsError and pa.ArrowException.
        """
        built = Built([], {}, {}, {}, {})
        built.columns[_EVENT_ID] = pa.array(event_ids, pa.string())
        built.columns[_DATE], built.columns[_TIMESTAMP] = self._times(events, dates)
        built.columns[_UNKNOWN] = _kept_column(kept, len(events))
        self._read(self._of_event, events, built)
        rows: dict[_Key, _Rows] = {(): _Rows(np.arange(len(events)), built.columns)}
        for each, part in self._lists.items():
            rows[each] = self._rows_of(each, part, events, built)
        for key, product in self._products.items():
            built.columns[key] = _product(*product, built)
        for table in self._tables:
            of_table = rows[table.each]
            columns = [fill(of_table, built) for fill in table.columns]
            batch = pa.RecordBatch.from_arrays(columns, schema=table.schema)
            built.tables.append(TableRows(table.name, batch, of_table.sources))
        return built

    def _rows_of(self, each: _Key, part: _List, events: list[Any], built: Built) -> _Rows:
        counts = np.array(part.lengths(events))
        _check_repeated(counts, [built.columns[name] for name in part.texts])
        elements = part.elements(events)
        sources = np.repeat(np.arange(len(events)), counts)
        starts = np.cumsum(counts) - counts
        built.starts[each] = starts if counts.min() else None
        self._read(part.values, elements, built)
        event = pa.RecordBatch.from_arrays([built.columns[name] for name in part.repeated], names=[""] * len(part.repeated))
        repeated = dict(zip(part.repeated, event.take(pa.array(sources)).columns, strict=True))
        repeated[_LINE_NUMBER] = pa.array(np.arange(1, len(elements) + 1) - starts[sources])
        return _Rows(sources, repeated)

    def _read(self, parts: dict[_Key, _Value], objects: list[Any], built: Built) -> None:
        for names, part in parts.items():
            built.values[names] = values = part.read(objects)
            built.columns[names] = part.to_arrow(values)

    def _planned(self, table: Table, joined: Table) -> _Table:
        mine = {column.name: column for column in table.columns}
        columns = tuple(
            self._fill(mine[column.name], table) if column.name in mine else _nulls(column)
            for column in joined.columns
            if column.source != "ingestion"
        )
        return _Table(table.name, table.each, modelled_schema(joined), columns)

    def _fill(self, column: Column, table: Table) -> _Fill:
        key = self._key(column)
        if key is None:
            assert isinstance(column.value, Constant)  # nothing else is left
            constant = pa.scalar(column.value.value, ARROW_TYPES[column.type])
            return lambda rows, _: pa.repeat(constant, len(rows.sources))
        if table.each and self._is_of_element(column):
            return lambda _, built: built.columns[key]
        return lambda rows, _: rows.columns[key]

    def _key(self, column: Column) -> _Key | None:
        """What ``Built`` calls the column; None for a constant."""
        match column.value:
            case Path(names=names):
                return names
            case Operation(left=Path(names=left), right=Path(names=right)):
                return (*left, "*", *right)
            case Constant():
                return None
        return (f"/{column.source}",)

    def _is_of_element(self, column: Column) -> bool:
        return column.value is not None and any(self._place(path.names).list_index is not None for path in paths_in(column.value))

    def _planned_products(self) -> dict[_Key, tuple[_Key, _Key, bool]]:
        """The products of two paths that columns show, each once."""
        found: dict[_Key, tuple[_Key, _Key, bool]] = {}
        for table in self._contract.tables:
            for column in table.columns:
                match column.value:
                    case Operation(left=Path(names=left), right=Path(names=right)):
                        found[(*left, "*", *right)] = left, right, column.type == "NUMERIC"
        return found

    def _times(self, events: list[Any], dates: DateRange) -> tuple[pa.Array, pa.Array]:
        """The UTC date and the UTC timestamp of each event, all of them within ``dates``."""
        timestamps = moments(self._time.read(events), self._zone)
        if timestamps is None:
            raise SuspectError
        days = np.floor_divide(integers(timestamps, np.int64), DAY).astype(np.int32)
        first, last = (day.toordinal() - _EPOCH_ORDINAL for day in dates)
        if days.min() < first or days.max() > last:
            raise SuspectError
        return pa.array(days).view(pa.date32()), timestamps

    def _place(self, names: tuple[str, ...]) -> Place:
        place = find(names, self._contract.fields, self._records)
        assert place is not None  # the loader has looked
        return place

    def _value(self, place: Place) -> _Value:
        nodes = nodes_to(self._root, place)
        if place.list_index is not None:
            each = self._place(place.names[: place.list_index + 1])
            nodes = nodes[len(nodes_to(self._root, each)) :]
        field = place.fields[-1]
        is_list = field.type == "list"  # of scalars: the element is the value
        optional = field.optional and not is_list
        if not optional and may_be_null(place):
            # Decoded as it comes, a null would pass for a missing object.
            return _Value(reader(nodes, False), to_arrow_of(field, place, optional))
        return _Value(reader(nodes, None if is_list else field.default), to_arrow_of(field, place, optional))

    def _list(self, each: _Key, paths: list[_Key]) -> _List:
        nodes = nodes_to(self._root, self._place(each))[:-1]
        lines = access("event", nodes)
        if any(node.optional for node in nodes):
            lines = f"({lines} or ())"
        columns = [column for table in self._contract.tables if table.each == each for column in table.columns]
        of_event = [key for column in columns if not self._is_of_element(column) and (key := self._key(column)) is not None]
        repeated = dict.fromkeys(key for key in of_event if key not in (_LINE_NUMBER, ("/ingestion",)))
        inner = {names: self._place(names) for names in paths if names[: len(each)] == each}
        return _List(
            compiled(f"lambda events: [line for event in events for line in {lines}]"),
            _lengths(compiled(f"lambda events: [{lines} for event in events]")),
            {names: self._value(place) for names, place in inner.items()},
            tuple(repeated),
            (_EVENT_ID, *(place.names for place in repeated_texts(self._contract, each))),
        )


def _nulls(column: Column) -> _Fill:
    return lambda rows, _: pa.nulls(len(rows.sources), ARROW_TYPES[column.type])


def _kept_column(kept: list[bytes | None], count: int) -> pa.Array:
    return pa.array(kept, pa.string()) if kept else pa.nulls(count, pa.string())


def _check_repeated(counts: Any, texts: list[pa.Array]) -> None:
    """Refuse what its header, repeated on each of its lines, would make too large: an event, or the batch."""
    if int(counts.max()) * sum(map(at_most_bytes, texts)) <= MAX_REPEATED_BYTES:
        return  # not even all headers on as many lines as the longest event has
    repeated = counts * sum(lengths(column) for column in texts)
    if repeated.max() > MAX_REPEATED_BYTES:
        raise SuspectError
    if repeated.sum() > MAX_REPEATED_BATCH_BYTES:
        raise TooManyRowsError


def _lengths(lists: Callable[[list[Any]], list[Any]]) -> Callable[[list[Any]], list[int]]:
    return lambda events: list(map(len, lists(events)))


def _paths(contract: Contract) -> list[tuple[str, ...]]:
    """Every path that a column shows, each once."""
    found: dict[tuple[str, ...], None] = {}
    for table in contract.tables:
        for column in table.columns:
            match column.value:
                case Path(names=names):
                    found[names] = None
                case Operation(left=Path(names=left), right=Path(names=right)):
                    found[left] = found[right] = None
    return list(found)


def small_column(built: Built, names: _Key) -> Small | None:
    """The column of a path as small numbers, looked at once."""
    if names not in built.small:
        built.small[names] = small_numbers(built.columns[names])
    return built.small[names]


def _product(left: _Key, right: _Key, to_numeric: bool, built: Built) -> pa.Array:
    small = small_product(small_column(built, left), small_column(built, right)) if to_numeric else None
    return exact_product(built.values[left], built.values[right], to_numeric) if small is None else small
