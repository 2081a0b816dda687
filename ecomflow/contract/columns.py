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
import pyarrow.compute as pc

from ecomflow.contract.buffers import NUMERIC, decimals, integers, lengths, words
from ecomflow.contract.ddl import ARROW_TYPES, modelled_schema
from ecomflow.contract.generated import access, compiled, reader
from ecomflow.contract.language import (
    Column,
    Constant,
    Contract,
    Field,
    Operation,
    Path,
    Place,
    Table,
    find,
    may_be_null,
    paths_in,
    records_of,
    scalar_type,
)
from ecomflow.contract.limits import MAX_REPEATED_BYTES, DateRange, is_ip_address
from ecomflow.contract.numbers import integer_in, is_numeric, number_in, scaled
from ecomflow.contract.reading_tables import COLUMN_TYPES
from ecomflow.contract.rule_code import lists_of, product_fits, repeated_texts
from ecomflow.contract.times import DAY, EPOCH, moments
from ecomflow.contract.tree import Node, nodes_to
from ecomflow.contract.values import is_written_otherwise, written_fault

# Four of the largest events: more than any batch of a shop, and little beside a worker's memory.
MAX_REPEATED_BATCH_BYTES = 4 * MAX_REPEATED_BYTES
_EPOCH_ORDINAL = EPOCH.toordinal()


class SuspectError(Exception):
    """Some event of the batch breaks a rule; which one is not known."""


class TooManyRowsError(Exception):
    """The rows of a batch would exceed ``MAX_REPEATED_BATCH_BYTES``. A batch of one event never does."""


class TableRows(msgspec.Struct, gc=False):
    """Rows for one table, without ``ingestion_timestamp``; ``sources[i]`` is the index of row i's event in the batch."""

    table: str
    rows: pa.RecordBatch
    sources: Any  # numpy int64 array of len(rows)


# The values of a column in, the column out. Raises SuspectError and ArrowException.
_ToArrow = Callable[[list[Any]], pa.Array]


# A path's names, or one of the keys below: they stand for the columns that no path leads to.
_Key = tuple[str, ...]
_EVENT_ID, _DATE, _TIMESTAMP, _UNKNOWN, _LINE_NUMBER = (
    (f"/{source}",) for source in ("event_id", "date", "timestamp", "unknown_fields", "line_number")
)


class _Value(NamedTuple):
    """A path's column: ``read`` takes events, or the elements of the path's list."""

    read: Callable[[list[Any]], list[Any]]
    to_arrow: _ToArrow


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
    """The tables of a batch; the columns that they are made of and their values, by path; where each event's elements begin in
    each list, None where one has none.
    """

    tables: list[TableRows]
    columns: dict[_Key, pa.Array]
    values: dict[_Key, list[Any]]
    starts: dict[_Key, Any]


class _Rows(NamedTuple):
    """The rows of the tables of one list (or of none): each row's event, and the columns that are not the elements' own."""

    sources: Any
    columns: dict[_Key, pa.Array]


# A column of a table: out of what the rows share, and what is built.
_Fill = Callable[[_Rows, Built], pa.Array]


class Builder:
    """Builds the tables of one contract. Reads no clock and holds no state."""

    def __init__(self, contract: Contract, root: Node) -> None:
        self._records = records_of(contract.records)
        self._contract = contract
        self._root = root
        self._time = self._value(self._place((contract.time,)))
        self._zone = self._place((contract.time,)).fields[-1].without_offset
        paths = _paths(contract)
        self._of_event = {names: self._value(place) for names in paths if (place := self._place(names)).list_index is None}
        self._lists = {each: self._list(each, paths) for each in lists_of(contract)}
        self._products = self._planned_products()
        self._tables = [self._planned(table) for table in contract.tables]

    def build(self, events: list[Any], event_ids: list[str], kept: list[bytes | None], dates: DateRange) -> Built:
        """The rows of ``events``, one or more. ``kept`` is the unknown part of each, or empty.

        Raises SuspectError, TooManyRowsError and pa.ArrowException.
        """
        built = Built([], {}, {}, {})
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

    def _planned(self, table: Table) -> _Table:
        columns = tuple(self._fill(column, table) for column in table.columns if column.source != "ingestion")
        return _Table(table.name, table.each, modelled_schema(table), columns)

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
            return _Value(reader(nodes, False), _to_arrow(field, place, optional))
        return _Value(reader(nodes, None if is_list else field.default), _to_arrow(field, place, optional))

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


def _kept_column(kept: list[bytes | None], count: int) -> pa.Array:
    return pa.array(kept, pa.string()) if kept else pa.nulls(count, pa.string())


def _check_repeated(counts: Any, texts: list[pa.Array]) -> None:
    """Refuse what its header, repeated on each of its lines, would make too large: an event, or the batch."""
    repeated = counts * sum(lengths(column) for column in texts)
    if repeated.max() > MAX_REPEATED_BYTES:
        raise SuspectError
    if repeated.sum() > MAX_REPEATED_BATCH_BYTES:
        raise TooManyRowsError


def _product(left: _Key, right: _Key, to_numeric: bool, built: Built) -> pa.Array:
    """The product of two columns, exact: in 64 bits where each fits there, as it does for any shop; else in Python's integers."""
    first, second = built.columns[left], built.columns[right]
    if to_numeric and len(first) and first.null_count == second.null_count == 0:
        counts, number = (first, words(second)) if first.type == pa.int64() else (second, words(first))
        times, low = integers(counts, np.int64), number[:, 0]
        if (low >> 63 == number[:, 1]).all() and _magnitude(low) * _magnitude(times) < 2**62:
            totals = np.empty_like(number)
            totals[:, 0] = low * times
            totals[:, 1] = totals[:, 0] >> 63
            return pa.Array.from_buffers(NUMERIC, len(totals), [None, pa.py_buffer(totals)])
    return _exact_product(built.values[left], built.values[right], to_numeric)


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


def _magnitude(values: Any) -> int:
    """The largest absolute value."""
    return max(int(values.max()), -int(values.min()))


def small_numbers(column: pa.Array) -> tuple[Any, int] | None:
    """An INT64 or NUMERIC column as int64 numbers, and the largest absolute one; None where some are null or wider."""
    if column.null_count or not len(column):
        return None
    if column.type == NUMERIC:
        billionths = words(column)
        values = billionths[:, 0]
        if not (values >> 63 == billionths[:, 1]).all():
            return None
    else:
        values = integers(column, np.int64)
    return values, _magnitude(values)


def _exact_product(first: Sequence[Any], second: Sequence[Any], to_numeric: bool) -> pa.Array:
    found: list[int | None] = []
    for left, right in zip(first, second, strict=True):
        left, right = number_in(left), number_in(right)
        if left is None or right is None:
            found.append(None)
        elif not product_fits(left, right, to_numeric):
            raise SuspectError
        elif to_numeric:
            whole, number = (left, right) if type(left) is int else (right, left)
            found.append(whole * scaled(number))
        else:
            found.append(left * right)
    return decimals(found) if to_numeric else pa.array(found, pa.int64())


def _to_arrow(field: Field, place: Place, optional: bool) -> _ToArrow:
    """``optional``: the value itself may be null. One that may not can be null for want of an object on the way to it."""
    kind = scalar_type(place) or "string"
    match kind:
        case _ if field.type != "list" and is_written_otherwise(field):
            return _written(field, may_be_null(place))
        case "numeric":
            return _numeric(field, may_be_null(place))
        case "timestamp":
            return lambda values: _moments(values, field.without_offset)
        case "ip_address":
            return _addresses
        case "json":
            return lambda values: _texts_of_json(values, optional)
    arrow = ARROW_TYPES[COLUMN_TYPES[kind]]
    return lambda values: pa.array(values, arrow)


def _written(field: Field, nullable: bool) -> _ToArrow:
    """Numbers that may stand in strings, and texts that may be numbers: looked at one by one."""
    fault = written_fault(field, nullable)
    assert fault is not None  # the caller has looked
    readers: dict[str, Callable[[Any], Any]] = {"integer": integer_in, "numeric": number_in, "string": _text_in}
    read = readers[field.type]
    numeric, arrow = _numeric(field, nullable=True), ARROW_TYPES[COLUMN_TYPES[field.type]]

    def to_arrow(values: list[Any]) -> pa.Array:
        if any(value is not field.default and fault(value) for value in values) or (None in values and not nullable):
            raise SuspectError
        found = [read(value) for value in values]
        return numeric(found) if field.type == "numeric" else pa.array(found, arrow)

    return to_arrow


def _text_in(value: Any) -> Any:
    return str(value) if type(value) is int else value


def _numeric(field: Field, nullable: bool) -> _ToArrow:
    """Exact decimals within the field's bounds."""
    least, most = field.min, field.max

    def to_arrow(values: list[Any]) -> pa.Array:
        column = _decimals(values)
        if column.null_count and not nullable:
            raise SuspectError
        if least is not None or most is not None:
            _check_bounds(column, least, most)
        return column

    return to_arrow


def _check_bounds(column: pa.Array, least: Any, most: Any) -> None:
    """Raise SuspectError where a value of a NUMERIC column is less than ``least`` or more than ``most``."""
    if least == 0 and most is None and not column.null_count:
        if len(column) and words(column)[:, 1].min() < 0:  # the sign is in the high word
            raise SuspectError
        return
    bounds = pc.min_max(column).as_py()
    low, high = bounds["min"], bounds["max"]
    if low is not None and ((least is not None and low < least) or (most is not None and high > most)):
        raise SuspectError


def _decimals(values: list[Any]) -> pa.Array:
    """Arrow raises for what is no number, does not fit, or would be rounded, and for ``1.0000000000``, whose zeros it can't leave
    out.
    """
    try:
        return pa.array(values, NUMERIC)
    except (pa.ArrowException, TypeError):
        if not all(value is None or is_numeric(value) for value in values):
            raise SuspectError from None
    return decimals([None if value is None else scaled(value) for value in values])


def _moments(values: list[Any], without_offset: str) -> pa.Array:
    column = moments(values, without_offset)
    if column is None:
        raise SuspectError
    return column


def _addresses(values: list[Any]) -> pa.Array:
    if not all(address is None or is_ip_address(address) for address in set(values)):
        raise SuspectError
    return pa.array(values, pa.string())


def _texts_of_json(values: list[Any], optional: bool) -> pa.Array:
    try:
        texts = [None if one is None else str(one, "utf-8") for one in values]
    except UnicodeDecodeError as error:
        raise SuspectError from error
    if "null" in texts:
        if not optional:
            raise SuspectError
        texts = [None if text == "null" else text for text in texts]
    return pa.array(texts, pa.string())
