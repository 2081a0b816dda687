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
    records_of,
    scalar_type,
)
from ecomflow.contract.numbers import NUMERIC, decimals, integer_in, is_numeric, number_in, scaled
from ecomflow.contract.reading_tables import COLUMN_TYPES
from ecomflow.contract.rule_code import lists_of, product_fits, repeated_texts
from ecomflow.contract.times import EPOCH, moments
from ecomflow.contract.tree import Node, nodes_to
from ecomflow.rules import MAX_REPEATED_BYTES, DateRange, is_ip_address

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


class _Value(NamedTuple):
    """A path's column: ``read`` takes events, or the elements of the path's list."""

    read: Callable[[list[Any]], list[Any]]
    to_arrow: _ToArrow


class _List(NamedTuple):
    """A list with tables: its elements of all events in one list, how many each event has, and what its tables repeat."""

    elements: Callable[[list[Any]], list[Any]]
    lengths: Callable[[list[Any]], list[int]]
    texts: tuple[tuple[str, ...], ...]


class Built(msgspec.Struct):
    """The tables of a batch, the columns by path that they are made of, and where each event's elements begin in each list."""

    tables: list[TableRows]
    columns: dict[tuple[str, ...], pa.Array]
    values: dict[tuple[str, ...], list[Any]]
    starts: dict[tuple[str, ...], Any]


class Builder:
    """Builds the tables of one contract. Reads no clock and holds no state."""

    def __init__(self, contract: Contract, root: Node) -> None:
        self._records = records_of(contract.records)
        self._contract = contract
        self._root = root
        self._time = self._value(self._place((contract.time,)))
        self._zone = self._place((contract.time,)).fields[-1].without_offset
        self._lists = {each: self._list(each) for each in lists_of(contract)}
        paths = _paths(contract)
        self._of_event = {names: self._value(place) for names in paths if (place := self._place(names)).list_index is None}
        self._of_list = {
            each: {
                names: self._value(place)
                for names in paths
                if (place := self._place(names)).list_index is not None and names[: len(each)] == each
            }
            for each in self._lists
        }
        self._schemas = {table.name: modelled_schema(table) for table in contract.tables}

    def build(self, events: list[Any], event_ids: list[str], kept: dict[int, str], dates: DateRange) -> Built:
        """The rows of ``events``, one or more. ``kept`` is the unknown part of those that have one, by index.

        Raises SuspectError, TooManyRowsError and pa.ArrowException.
        """
        built = Built([], {}, {}, {})
        own = {"event_id": pa.array(event_ids, pa.string())}
        own["date"], own["timestamp"] = self._times(events, dates)
        self._read(self._of_event, events, built)
        every = np.arange(len(events))
        repeated: dict[tuple[str, ...], _Rows] = {(): _Rows(every, own, {})}
        for each, part in self._lists.items():
            repeated[each] = self._rows_of(each, part, events, own, built)
        products: dict[Any, pa.Array] = {}
        for table in self._contract.tables:
            rows = repeated[table.each]
            built.tables.append(self._table(table, rows, built, products, kept))
        return built

    def _table(self, table: Table, rows: _Rows, built: Built, products: dict[Any, pa.Array], kept: dict[int, str]) -> TableRows:
        columns = [
            self._column(column, table, rows, built, products, kept) for column in table.columns if column.source != "ingestion"
        ]
        return TableRows(table.name, pa.RecordBatch.from_arrays(columns, schema=self._schemas[table.name]), rows.sources)

    def _column(
        self, column: Column, table: Table, rows: _Rows, built: Built, products: dict[Any, pa.Array], kept: dict[int, str]
    ) -> pa.Array:
        if column.source == "unknown_fields":
            count = len(rows.sources)
            return pa.array([kept.get(index) for index in range(count)], pa.string()) if kept else pa.nulls(count, pa.string())
        if column.source != "value":
            return rows.own[column.source]
        match column.value:
            case Path(names=names):
                place = self._place(names)
                return built.columns[names] if place.list_index is not None else self._of_header(names, rows, built)
            case Constant(value=value):
                return pa.repeat(pa.scalar(value, ARROW_TYPES[column.type]), len(rows.sources))
            case Operation(left=Path(names=left), right=Path(names=right)):
                if (left, right) not in products:
                    products[left, right] = self._product(left, right, column.type == "NUMERIC", built)
                product = products[left, right]
                in_list = self._place(left).list_index is not None
                return product if in_list or not table.each else product.take(pa.array(rows.sources))
        raise TypeError(column.value)

    def _of_header(self, names: tuple[str, ...], rows: _Rows, built: Built) -> pa.Array:
        """A column of the event, for the rows of a list repeated: once, however many tables show it."""
        if "line_number" not in rows.own:
            return built.columns[names]
        if names not in rows.header:
            rows.header[names] = built.columns[names].take(rows.indices)
        return rows.header[names]

    def _rows_of(self, each: tuple[str, ...], part: _List, events: list[Any], own: dict[str, pa.Array], built: Built) -> _Rows:
        lengths = np.array(part.lengths(events))
        self._check_repeated(part, lengths, own["event_id"], built)
        elements = part.elements(events)
        sources = np.repeat(np.arange(len(events)), lengths)
        starts = np.cumsum(lengths) - lengths
        built.starts[each] = starts if lengths.min() else None
        self._read(self._of_list[each], elements, built)
        indices = pa.array(sources)
        repeated = {name: column.take(indices) for name, column in own.items()}
        repeated["line_number"] = pa.array(np.arange(len(elements)) - starts[sources] + 1)
        return _Rows(sources, repeated, {}, indices)

    def _read(self, parts: dict[tuple[str, ...], _Value], objects: list[Any], built: Built) -> None:
        for names, part in parts.items():
            built.values[names] = values = part.read(objects)
            built.columns[names] = part.to_arrow(values)

    def _times(self, events: list[Any], dates: DateRange) -> tuple[pa.Array, pa.Array]:
        """The UTC date and the UTC timestamp of each event, all of them within ``dates``."""
        timestamps = moments(self._time.read(events), self._zone)
        if timestamps is None:
            raise SuspectError
        days = timestamps.cast(pa.date32(), safe=False)
        bounds = pc.min_max(days.view(pa.int32())).as_py()
        first, last = (day.toordinal() - _EPOCH_ORDINAL for day in dates)
        if bounds["min"] < first or bounds["max"] > last:
            raise SuspectError
        return days, timestamps

    def _check_repeated(self, part: _List, lengths: Any, event_ids: pa.Array, built: Built) -> None:
        """Refuse what its header, repeated on each of its lines, would make too large: an event, or the batch."""
        columns = [event_ids, *(built.columns[names] for names in part.texts)]
        repeated = lengths * sum(pc.fill_null(pc.binary_length(column), 0).to_numpy().astype(np.int64) for column in columns)
        if repeated.max() > MAX_REPEATED_BYTES:
            raise SuspectError
        if repeated.sum() > MAX_REPEATED_BATCH_BYTES:
            raise TooManyRowsError

    def _product(self, left: tuple[str, ...], right: tuple[str, ...], to_numeric: bool, built: Built) -> pa.Array:
        """The product of two columns, exact. In 64 bits where each fits there, as it does for any shop; else in Python's
        integers.
        """
        first, second = built.columns[left], built.columns[right]
        if to_numeric and len(first) and first.null_count == second.null_count == 0:
            counts, words = (_int64(first), _words(second)) if first.type == pa.int64() else (_int64(second), _words(first))
            low = words[:, 0]
            if (low >> 63 == words[:, 1]).all() and _magnitude(low) * _magnitude(counts) < 2**62:
                totals = np.empty_like(words)
                totals[:, 0] = low * counts
                totals[:, 1] = totals[:, 0] >> 63
                return pa.Array.from_buffers(NUMERIC, len(totals), [None, pa.py_buffer(totals)])
        return _exact_product(built.values[left], built.values[right], to_numeric)

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
        in_list_of_scalars = field.type == "list"
        expression = access("event", nodes)
        nullable = may_be_null(place)
        return _Value(reader(expression, None if in_list_of_scalars else field.default), _to_arrow(field, place, nullable))

    def _list(self, each: tuple[str, ...]) -> _List:
        nodes = nodes_to(self._root, self._place(each))[:-1]
        lines = access("event", nodes)
        if any(node.optional for node in nodes):
            lines = f"({lines} or ())"
        texts = tuple(place.names for place in repeated_texts(self._contract, each))
        return _List(
            compiled(f"lambda events: [line for event in events for line in {lines}]"),
            _lengths(compiled(f"lambda events: [{lines} for event in events]")),
            texts,
        )


class _Rows(NamedTuple):
    """What the tables of one list (or of none) share: each row's event, the columns of their own, and the event's repeated ones."""

    sources: Any
    own: dict[str, pa.Array]
    header: dict[tuple[str, ...], pa.Array]
    indices: Any = None


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


def _words(column: pa.Array) -> Any:
    """Billionths as two 64-bit words a value, the low one first: an int64 array of (len, 2)."""
    start = column.offset * 2
    return np.frombuffer(column.buffers()[1], dtype=np.int64)[start : start + 2 * len(column)].reshape(-1, 2)


def _int64(column: pa.Array) -> Any:
    return column.to_numpy(zero_copy_only=False)


def _magnitude(values: Any) -> int:
    """The largest absolute value."""
    return max(int(values.max()), -int(values.min()))


def small_numbers(column: pa.Array) -> tuple[Any, int] | None:
    """An INT64 or NUMERIC column as int64 numbers, and the largest absolute one; None where some are null or wider."""
    if column.null_count or not len(column):
        return None
    if column.type == NUMERIC:
        words = _words(column)
        values = words[:, 0]
        if not (values >> 63 == words[:, 1]).all():
            return None
    else:
        values = _int64(column)
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


def _to_arrow(field: Field, place: Place, nullable: bool) -> _ToArrow:
    kind = scalar_type(place) or "string"
    as_it_is = ("string" if kind == "string" else "number") == field.written_as or field.type == "list"
    match kind:
        case "string" if not as_it_is:
            return lambda values: pa.array([str(one) if type(one) is int else one for one in values], pa.string())
        case "numeric":
            return _numeric(field, nullable, as_it_is)
        case "integer" if not as_it_is:
            return lambda values: pa.array([integer_in(one) for one in values], pa.int64())
        case "timestamp":
            return lambda values: _moments(values, field.without_offset)
        case "ip_address":
            return _addresses
        case "json":
            return _texts_of_json
    arrow = ARROW_TYPES[COLUMN_TYPES[kind]]
    return lambda values: pa.array(values, arrow)


def _numeric(field: Field, nullable: bool, as_it_is: bool) -> _ToArrow:
    """Exact decimals within the field's bounds."""
    least, most = field.min, field.max

    def to_arrow(values: list[Any]) -> pa.Array:
        if not as_it_is:
            values = [number_in(one) for one in values]
        column = _decimals(values)
        if column.null_count and not nullable:
            raise SuspectError
        if least is not None or most is not None:
            bounds = pc.min_max(column).as_py()
            low, high = bounds["min"], bounds["max"]
            if low is not None and ((least is not None and low < least) or (most is not None and high > most)):
                raise SuspectError
        return column

    return to_arrow


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


def _texts_of_json(values: list[Any]) -> pa.Array:
    try:
        texts = [None if one is None else str(one, "utf-8") for one in values]
    except UnicodeDecodeError as error:
        raise SuspectError from error
    return pa.array([None if text == "null" else text for text in texts], pa.string())
