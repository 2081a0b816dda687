"""The versions of one event type in; the tables that they share, or what keeps them from sharing them, out. Pure.

All versions write the same tables. A table's columns are those of any version; what one of them lacks is NULL in its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import msgspec

from ecomflow.contract.language import Column, Contract, Table


def by_event(contracts: Iterable[Contract]) -> dict[str, list[Contract]]:
    """The versions of each event type, the lowest first."""
    found: dict[str, list[Contract]] = {}
    for contract in contracts:
        found.setdefault(contract.event, []).append(contract)
    return {event: sorted(versions, key=lambda one: one.version) for event, versions in found.items()}


def shared_tables(versions: Sequence[Contract]) -> tuple[Table, ...]:
    """The tables of all ``versions`` of one event type, which can stand together."""
    found: dict[str, Table] = {}
    for contract in versions:
        for table in contract.tables:
            found[table.name] = _merged(found[table.name], table) if table.name in found else table
    return tuple(found.values())


def _merged(one: Table, other: Table) -> Table:
    """The columns of both; those of ``other`` alone come before the last of ``one``, the ingestion."""
    theirs = {column.name: column for column in other.columns}
    both = [_either(column, theirs.get(column.name)) for column in one.columns]
    more = [_either(column, None) for column in other.columns if column.name not in {mine.name for mine in one.columns}]
    return msgspec.structs.replace(one, columns=(*both[:-1], *more, both[-1]))


def _either(column: Column, other: Column | None) -> Column:
    return msgspec.structs.replace(column, required=column.required and other is not None and other.required)


def conflicts(contracts: Iterable[Contract]) -> list[str]:
    """What keeps versions of one event type from writing the same tables, and what to do, a sentence each."""
    return [
        f"{new.file}: tables.{table.name}: {sentence}"
        for versions in by_event(contracts).values()
        for old, new in combinations(versions, 2)
        for other in old.tables
        for table in new.tables
        if table.name == other.name and old.version != new.version
        for sentence in _table_conflicts(other, table, f"version {old.version} ({old.file})", f"version {new.version}")
    ]


def _table_conflicts(old: Table, new: Table, old_name: str, new_name: str) -> Iterator[str]:
    if old.each != new.each:
        before, after = (".".join(table.each) or "event" for table in (old, new))
        yield f"a row for each {after}, in {old_name} for each {before}: give the table another name"
        return
    if partition_of(old) != partition_of(new):
        yield f"partitioned by {partition_of(new)}, in {old_name} by {partition_of(old)}: give both the same time_prefix"
        return
    if old.cluster != new.cluster:
        one, other = (", ".join(table.cluster) or "nothing" for table in (old, new))
        yield f"clustered by {other}, in {old_name} by {one}: give both the same cluster"
    mine, theirs = ({column.name: column for column in table.columns} for table in (old, new))
    for name in dict.fromkeys((*mine, *theirs)):
        yield from _column_conflicts(name, mine.get(name), theirs.get(name), old_name, new_name)


def _column_conflicts(name: str, old: Column | None, new: Column | None, old_name: str, new_name: str) -> Iterator[str]:
    if old is None or new is None:
        column, missing = (new, old_name) if old is None else (old, new_name)
        if column is not None and column.required:
            yield f"{name} is required, and {missing} lacks it: make the field optional, or add it there"
    elif old.type != new.type:
        yield f"{name} is {new.type}, in {old_name} {old.type}: give the column another name"


def partition_of(table: Table) -> str:
    """The DATE column of the event."""
    return next(column.name for column in table.columns if column.source == "date")
