"""``ecomflow contract diff``: what changes for producers and for the warehouse between two versions of contracts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecomflow.commands.shared import AsJson, example_lines
from ecomflow.contract.diff import compare, current_contract, read_contract
from ecomflow.errors import ContractError
from ecomflow.terminal.console import say, show_json, show_table

EPILOG = example_lines("ecomflow contract diff order.v1.json", "ecomflow contract diff old.json new.json --json")


def diff(
    old: Annotated[Path, typer.Argument(help="The old schema, as contract show prints it.")],
    new: Annotated[
        Path | None, typer.Argument(help="The new schema. Default: the contract of this version of ecomflow.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions of the contract, and find changes that would refuse messages which were valid before.

    Exits with 10 if a change is breaking.
    """
    changes = compare(read_contract(old), current_contract() if new is None else read_contract(new))
    breaking = sum(change.breaking for change in changes)
    if as_json:
        show_json({"compatible": not breaking, "changes": changes})
    elif changes:
        rows = [
            (change.event_type, change.path, "BREAKING" if change.breaking else "compatible", change.change) for change in changes
        ]
        show_table("Changes", ("event type", "path", "for producers", "change"), rows)
    else:
        say("No changes.")
    _end_diff(breaking, len(changes))


def _end_diff(breaking: int, changes: int) -> None:
    if breaking:
        raise ContractError(
            f"{breaking} of {changes} changes are breaking: messages that were valid may be refused.",
            "Keep accepting what was valid, or release a new version and tell the producers first.",
        )
