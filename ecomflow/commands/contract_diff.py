"""``ecomflow contract diff``: what changes for producers and for the warehouse between two versions of contracts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecomflow.commands.setting_options import EVENTS, with_settings
from ecomflow.commands.shared import AsJson, example_lines
from ecomflow.config import Settings, contracts_of
from ecomflow.contract.diff import Change, Side, compare, events_of, read_side, side_of
from ecomflow.contract.loading import mistakes_between
from ecomflow.errors import ContractError
from ecomflow.infra.contract_changes import WarehouseChange, warehouse_changes
from ecomflow.terminal.console import note, say, show_json, show_table

EPILOG = example_lines(
    "ecomflow contract diff order.v1.json",
    "ecomflow contract diff old/order.toml contracts/order.toml",
    "ecomflow contract diff old/ contracts/ --json",
)


@with_settings("project", "dataset", *EVENTS)
def diff(
    settings: Settings,
    old: Annotated[Path, typer.Argument(help="A contract file, a folder of them, or a JSON Schema that contract show printed.")],
    new: Annotated[Path | None, typer.Argument(help="Likewise. Default: the contracts in force.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions of contracts: which messages that were valid would be refused, and what changes in the tables.

    Exits with 10 if a change is breaking, or if infra up can't carry it out.
    """
    before = read_side(old, settings.builtin_events)
    after = side_of(contracts_of(settings), whole=True) if new is None else read_side(new, settings.builtin_events)
    changes = compare(before, after)
    tables = _tables(before, after, settings.dataset_id)
    apart = _apart(before, after)
    if as_json:
        breaking = any(one.breaking for one in changes) or any(one.breaking for one in tables or []) or bool(apart)
        show_json({"compatible": not breaking, "changes": changes, "tables": tables, "versions": apart})
    else:
        _show(changes, tables, apart)
    _end(changes, tables or [], apart)


def _tables(old: Side, new: Side, dataset_id: str) -> list[WarehouseChange] | None:
    """None where one of the two says nothing of tables."""
    if old.contracts is None or new.contracts is None:
        return None
    return warehouse_changes(old.contracts, new.contracts, events_of(old, new), dataset_id)


def _apart(old: Side, new: Side) -> list[str]:
    """What keeps two versions of an event type that are compared from standing side by side."""
    events = events_of(old, new)
    both = {
        (one.event, one.version): one.contract
        for side in (old, new)
        for one in side.described
        if one.event in events and one.contract is not None
    }
    return mistakes_between(both.values())


def _show(changes: list[Change], tables: list[WarehouseChange] | None, apart: list[str]) -> None:
    if changes:
        rows = [(one.event_type, one.path, _word(one.breaking), one.change) for one in changes]
        show_table("Changes for producers", ("event type", "path", "for producers", "change"), rows)
    if tables:
        found = [(one.event_type, one.table, _word(one.breaking), one.change, one.remedy) for one in tables]
        show_table("Changes in the warehouse", ("event type", "table", "for infra up", "change", "instead"), found)
    for sentence in apart:
        say(f"These versions can't stand side by side: {sentence}.")
    if not (changes or tables or apart):
        say("No changes.")
    if tables is None:
        note("A JSON Schema says nothing of tables: they were not compared.")


def _word(breaking: bool) -> str:
    return "BREAKING" if breaking else "compatible"


def _end(changes: list[Change], tables: list[WarehouseChange], apart: list[str]) -> None:
    if refused := sum(change.breaking for change in changes):
        raise ContractError(
            f"{refused} of {len(changes)} changes are breaking: messages that were valid may be refused.",
            "Keep accepting what was valid, or release a new version and tell the producers first.",
        )
    if stuck := sum(change.breaking for change in tables):
        raise ContractError(
            f"{stuck} of {len(tables)} changes in the warehouse can't be carried out by infra up.",
            "Do instead what each of them says, or keep the column, and add another one that is optional.",
        )
    if apart:
        raise ContractError("The two versions of an event type can't write the same tables.", "Correct what each sentence names.")
