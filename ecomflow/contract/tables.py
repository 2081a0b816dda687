"""Contracts in; the tables that they write, by event and all together, out. Pure.

Versions of one event write the same tables.
"""

from __future__ import annotations

from collections.abc import Sequence

from ecomflow.contract.language import Contract, Table


def event_streams(contracts: Sequence[Contract]) -> tuple[str, ...]:
    """The events of ``contracts``, each once: a stream of the pipeline each."""
    return tuple(dict.fromkeys(contract.event for contract in contracts))


def stream_tables(contracts: Sequence[Contract]) -> dict[str, tuple[str, ...]]:
    """The names of the tables of each event, the first of them with a row an event."""
    return {contract.event: tuple(table.name for table in contract.tables) for contract in contracts}


def tables_of(contracts: Sequence[Contract]) -> tuple[Table, ...]:
    """Every table of ``contracts``, each once."""
    return tuple(table for contract in contracts for table in contract.tables)
