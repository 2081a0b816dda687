"""The old and the new contracts of event types in; what changes in the warehouse, and who can carry it out, out. Pure.

``differences.py`` judges, as it does for ``infra up``: the old contracts stand for the tables that are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from ecomflow.contract.language import Contract
from ecomflow.contract.language import Table as ContractTable
from ecomflow.contract.tables import joined_tables, versions_of
from ecomflow.infra.differences import Difference, plan_step
from ecomflow.infra.resources import Table
from ecomflow.sql import definition_of


class WarehouseChange(msgspec.Struct, frozen=True):
    """One difference. ``breaking``: ``infra up`` can't carry it out, and ``remedy`` says what to do instead."""

    event_type: str
    table: str
    breaking: bool
    change: str
    remedy: str | None = None


def warehouse_changes(
    old: Sequence[Contract], new: Sequence[Contract], events: Sequence[str], dataset_id: str
) -> list[WarehouseChange]:
    """Every change in the tables of ``events``, in the dataset ``dataset_id``, from ``old`` to ``new``."""
    before, after = versions_of(old), versions_of(new)
    return [
        change for event in events for change in _event_changes(event, before.get(event, ()), after.get(event, ()), dataset_id)
    ]


def _event_changes(event: str, old: Sequence[Contract], new: Sequence[Contract], dataset_id: str) -> Iterator[WarehouseChange]:
    times = [{one.time for one in side} for side in (old, new)]
    tables = [{table.name: table for table in joined_tables(side)} for side in (old, new)]
    for name in dict.fromkeys((*tables[0], *tables[1])):
        before, after = (side.get(name) for side in tables)
        if before is None:
            yield WarehouseChange(event, name, False, "table added: infra up creates it")
        elif after is None:
            yield WarehouseChange(event, name, False, "table no longer written: infra up leaves it as it is")
        else:
            yield from _table_changes(event, before, after, dataset_id)
    if old and new and times[0] != times[1]:
        change = f"time changed from {', '.join(sorted(times[0]))} to {', '.join(sorted(times[1]))}"
        remedy = "Rows that are there keep their dates: write the tables again, or give the tables other names."
        yield WarehouseChange(event, "all", True, change, remedy)


def _table_changes(event: str, old: ContractTable, new: ContractTable, dataset_id: str) -> Iterator[WarehouseChange]:
    if old.each != new.each:
        rows = [".".join(table.each) or "event" for table in (old, new)]
        remedy = "Give the table another name."
        yield WarehouseChange(event, new.name, True, f"a row for each {rows[1]}, before for each {rows[0]}", remedy)
    step = plan_step(_as_resource(new, dataset_id), _as_resource(old, dataset_id))
    for difference in step.differences:
        yield WarehouseChange(event, new.name, difference.how == "refuse", _said(difference), difference.remedy)


def _as_resource(table: ContractTable, dataset_id: str) -> Table:
    wanted = definition_of(table)
    return Table(f"{dataset_id}.{table.name}", wanted.columns, wanted.partition, wanted.clustering)


def _said(difference: Difference) -> str:
    """``column coupon added (STRING): infra up adds it``."""
    name, live, wanted = difference.attribute, difference.live, difference.wanted
    if difference.how == "accept" and live is not None and wanted is not None:
        return f"{name} changed from {live} to {wanted}: infra up leaves it as it is"
    if live is None:
        change, who = f"{name} added ({wanted})", "infra up adds it"
    elif wanted is None:
        change, who = f"{name} removed ({live})", "infra up leaves it, and its new rows have NULL"
    else:
        change, who = f"{name} changed from {live} to {wanted}", "infra up changes it"
    return f"{change}: {'infra up refuses it' if difference.how == 'refuse' else who}"
