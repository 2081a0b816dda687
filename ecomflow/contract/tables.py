"""Contracts in; what they write together out: streams, and tables with the versions of an event joined. Pure, without Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from ecomflow.contract.language import Column, Contract, Table


def versions_of(contracts: Iterable[Contract]) -> dict[str, tuple[Contract, ...]]:
    """The versions of each event, the lowest first; the events in their order."""
    found: dict[str, list[Contract]] = {}
    for contract in contracts:
        found.setdefault(contract.event, []).append(contract)
    return {event: tuple(sorted(versions, key=lambda one: one.version)) for event, versions in found.items()}


def event_streams(contracts: Iterable[Contract]) -> tuple[str, ...]:
    """The names of the events in their order, each once."""
    return tuple(versions_of(contracts))


def tables_of(contracts: Iterable[Contract]) -> tuple[Table, ...]:
    """Every table of ``contracts``, event by event."""
    return tuple(table for versions in versions_of(contracts).values() for table in joined_tables(versions))


def stream_tables(contracts: Iterable[Contract]) -> dict[str, tuple[str, ...]]:
    """The names of each event's tables; the first has a row an event."""
    return {event: tuple(table.name for table in joined_tables(versions)) for event, versions in versions_of(contracts).items()}


def joined_tables(versions: Iterable[Contract]) -> tuple[Table, ...]:
    """The tables of one event, whose ``versions`` come with the lowest first: those of the lowest, then what others add.

    A table of several versions has the columns of all of them. One that some version lacks, or may leave null, is nullable; its
    value and description are those of the lowest version that has it.
    """
    found: dict[str, Table] = {}
    for contract in versions:
        for table in contract.tables:
            found[table.name] = _joined(found[table.name], table) if table.name in found else table
    return tuple(found.values())


def _joined(table: Table, more: Table) -> Table:
    mine, theirs = ({column.name: column for column in one.columns} for one in (table, more))
    columns = {
        name: msgspec.structs.replace(
            mine.get(name) or theirs[name],
            required=name in mine and mine[name].required and name in theirs and theirs[name].required,
        )
        for name in (*mine, *theirs)
    }
    return msgspec.structs.replace(table, columns=tuple(sorted(columns.values(), key=_is_last)))


def _is_last(column: Column) -> bool:
    return column.source == "ingestion"


def disagreements(first: Contract, other: Contract) -> Iterator[str]:
    """What keeps ``other`` from writing the tables that ``first``, another version of the same event, writes: a sentence each."""
    if first.type != other.type:
        yield _differs(first, other, "type", repr(first.type), repr(other.type), "use the same one, or another event")
    if first.time_prefix != other.time_prefix:
        yield _differs(first, other, "time_prefix", repr(first.time_prefix), repr(other.time_prefix), "use the same one")
    tables = {table.name.lower(): table for table in first.tables}
    for table in other.tables:
        if mine := tables.get(table.name.lower()):
            yield from _table_disagreements(first, other, mine, table)


def _table_disagreements(first: Contract, other: Contract, mine: Table, table: Table) -> Iterator[str]:
    where = f"tables.{table.name}"
    if mine.name != table.name:
        yield _differs(first, other, where, mine.name, table.name, "spell it the same, or give the table a name of its own")
    if mine.each != table.each:
        before, now = (".".join(one.each) or "a row for each event" for one in (mine, table))
        yield _differs(first, other, f"{where}.each", before, now, "give the table a name of its own")
    if mine.cluster != table.cluster:
        before, now = (", ".join(one.cluster) or "none" for one in (mine, table))
        yield _differs(first, other, f"{where}.cluster", before, now, "use the same ones, or give the table a name of its own")
    columns = {column.name.lower(): column for column in mine.columns}
    for column in table.columns:
        known = columns.get(column.name.lower(), column)
        if known.type != column.type:
            at = f"{where}.{column.name}"
            yield _differs(first, other, at, known.type, column.type, "give the column a name of its own")
        elif known.name != column.name and first.time_prefix == other.time_prefix:
            yield _differs(first, other, where, known.name, column.name, "BigQuery ignores case: spell it the same")


def _differs(first: Contract, other: Contract, where: str, expected: str, found: str, remedy: str) -> str:
    return f"{other.file}: {where}: expected {expected}, as in {first.file}, found {found}; {remedy}"


def partition_of(table: Table) -> str:
    """The DATE column of the event, by which ``table`` is partitioned."""
    return next(column.name for column in table.columns if column.source == "date")
