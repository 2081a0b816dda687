"""How many rows an event has in each table: contracts in; the query that counts them, and the event type that a count means, out.

Pure. An event has one row in each table of its type, and in a table with a row for each element of a list, one for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ecomflow.contract.language import Contract
from ecomflow.contract.tables import event_streams, stream_tables, tables_of

# The number of rows of an event in each table of a Layout.
Shape = tuple[int, ...]


class Layout(msgspec.Struct, frozen=True):
    """The tables of the contracts in force. ``lists``: the list of which each table has a row an element, as ``items``; "" for
    a table with a row an event. ``can_be_empty``: the lists that may have no element. ``events``: the places of each event's
    tables.
    """

    tables: tuple[str, ...]
    lists: tuple[str, ...]
    can_be_empty: frozenset[str]
    events: dict[str, tuple[int, ...]]


def layout_of(contracts: Sequence[Contract]) -> Layout:
    """The layout of the tables of ``contracts``."""
    tables = tables_of(contracts)
    places = {table.name: place for place, table in enumerate(tables)}
    by_event = stream_tables(contracts)
    empty = {
        field.name
        for contract in contracts
        for field in contract.fields
        if field.type == "list" and (field.optional or not field.min_items)
    }
    return Layout(
        tables=tuple(places),
        lists=tuple(".".join(table.each) for table in tables),
        can_be_empty=frozenset(empty),
        events={event: tuple(places[name] for name in by_event[event]) for event in event_streams(contracts)},
    )


def type_of(shape: Shape, layout: Layout, lists: Mapping[str, int] | None = None) -> str | None:
    """The event type of which these are exactly all rows; None if there is none.

    ``lists``: how many elements each list of the event has, if that is known; otherwise tables of one list have the same number.
    """
    filled = types_in(shape, layout)
    if len(filled) != 1:
        return None
    (event,) = filled
    return event if _is_whole(shape, layout, layout.events[event], lists or {}) else None


def types_in(shape: Shape, layout: Layout) -> list[str]:
    """The event types in whose tables there are rows."""
    return [event for event, places in layout.events.items() if any(shape[place] for place in places if place < len(shape))]


def _is_whole(shape: Shape, layout: Layout, places: tuple[int, ...], known: Mapping[str, int]) -> bool:
    counts = {"": 1, **known}
    for place in places:
        of = layout.lists[place]
        expected = counts.setdefault(of, shape[place])
        if shape[place] != expected or (not expected and of not in layout.can_be_empty):
            return False
    return True


def shapes_sql(layout: Layout, wanted: str, inner: str = "", outer: str = "") -> str:
    """``wanted`` for the events of each shape, filtered by id with ``inner`` and by shape with ``outer``.

    A single query over all tables, so that it sees one consistent snapshot.
    """
    rows = " UNION ALL ".join(
        f"SELECT event_id, {place} AS place FROM ecomflow.{table}_unique"  # noqa: S608  # names from the contracts
        for place, table in enumerate(layout.tables)
    )
    counts = ", ".join(f"COUNTIF(place = {place}) AS n{place}" for place in range(len(layout.tables)))
    shape = ", ".join(f"n{place}" for place in range(len(layout.tables)))
    events = f"SELECT event_id, {counts} FROM ({rows}) {inner} GROUP BY event_id"  # noqa: S608
    return f"SELECT {shape}, {wanted} FROM ({events}) {outer} GROUP BY {shape}"  # noqa: S608
