"""``ecomflow contract``: show the contract, check events against it, and compare versions."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from ecomflow.commands.shared import STDIN, AsJson, example_lines, group_of_commands, lines_of, settings_of
from ecomflow.contract.check import Tally, check_lines
from ecomflow.contract.diff import compare, current_contract, read_contract
from ecomflow.contract.markdown import markdown
from ecomflow.contract.schema import EXAMPLES, example_of, schema_of, to_text, whole_schema
from ecomflow.errors import ContractError
from ecomflow.terminal.console import plain, say, show_json, show_table

contract = group_of_commands("Show the contract for producers, check events against it, compare versions.")


class EventType(StrEnum):
    ORDER = "order"
    INVENTORY = "inventory"
    USER_ACTIVITY = "user_activity"


class Format(StrEnum):
    JSON_SCHEMA = "json-schema"
    MARKDOWN = "markdown"
    EXAMPLE = "example"


@contract.command(epilog=example_lines("ecomflow contract show", "ecomflow contract show order --format markdown"))
def show(
    event_type: Annotated[
        EventType | None, typer.Argument(help="The event type. Default: all types.", show_default=False)
    ] = None,
    form: Annotated[
        Format, typer.Option("--format", help="JSON Schema (2020-12), Markdown, or a valid event.")
    ] = Format.JSON_SCHEMA,
) -> None:
    """Show the contract: the type and rules of each field of an event."""
    names = list(EXAMPLES) if event_type is None else [event_type.value]
    if form is Format.JSON_SCHEMA:
        typer.echo(to_text(whole_schema() if event_type is None else schema_of(event_type.value)), nl=False)
    elif form is Format.MARKDOWN:
        typer.echo("\n".join(markdown(schema_of(name), example_of(name)) for name in names), nl=False)
    else:
        typer.echo("\n".join(example_of(name).decode() for name in names))


@contract.command(
    epilog=example_lines(
        "ecomflow contract check events.jsonl",
        "ecomflow publish --n 10 --valid-only --dry-run | jq -r .data | ecomflow contract check -",
    )
)
def check(
    files: Annotated[list[Path], typer.Argument(help="Files of JSON lines, one event per line; - for standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines: one per refused event, then a summary.")] = False,
) -> None:
    """Check events before you publish them, with the pipeline's own decoder and rules. Prints a line for each refused event.

    Exits with 10 if an event is refused, or if there are no events.
    """
    now, tally, order_totals = datetime.now(UTC), Tally(), settings_of(None).order_totals
    for file in files:
        name = "stdin" if str(file) == STDIN else str(file)
        for refused in check_lines(lines_of(file), name, now, tally, order_totals):
            line = f"{refused.file}:{refused.line}: {refused.reason} {refused.error}"
            typer.echo(_json_line(refused) if as_json else plain(line).plain)
    _show_tally(tally, as_json)
    _end_check(tally)


@contract.command(
    epilog=example_lines(
        "ecomflow contract diff order.v1.json",
        "ecomflow contract diff old.json new.json --json",
    )
)
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


def _show_tally(tally: Any, as_json: bool) -> None:
    drift = [(event_type, path, count) for (event_type, path), count in sorted(tally.drift.items())]
    if as_json:
        summary = {
            "accepted": tally.accepted,
            "refused": tally.refused,
            "order_totals_differ": tally.totals_differ,
            "unknown_fields": [{"event_type": kind, "path": path, "count": count} for kind, path, count in drift],
        }
        typer.echo(_json_line({"summary": summary}))
        return
    for kind, path, count in drift:
        note = f"note: {kind} {path}: not in the contract; the event passes, the field is dropped ({count:,} times)"
        typer.echo(plain(note).plain)
    if tally.totals_differ:
        typer.echo(f"note: order $.total_amount: differs from the sum of the lines; passes ({tally.totals_differ:,} times)")
    accepted, refused = tally.accepted.total(), tally.refused.total()
    sums = f"{accepted:,} pass{_parts(tally.accepted)}, {refused:,} refused{_parts(tally.refused)}"
    typer.echo(f"{accepted + refused:,} events: {sums}.")


def _parts(counts: Any) -> str:
    return f" ({', '.join(f'{name} {count:,}' for name, count in sorted(counts.items()))})" if counts else ""


def _json_line(value: Any) -> str:
    """In ASCII: names of unknown fields come from the producer and may contain terminal control characters."""

    return json.dumps(msgspec.to_builtins(value))


def _end_check(tally: Any) -> None:
    if tally.refused:
        raise ContractError(
            f"{tally.refused.total():,} events would become dead letters.",
            "See what is expected: ecomflow contract show --format markdown. Put each event on one line: jq -c . FILE",
        )
    if not tally.accepted:
        raise ContractError("There are no events to check.", "Provide at least one line of JSON.")


def _end_diff(breaking: int, changes: int) -> None:
    if breaking:
        raise ContractError(
            f"{breaking} of {changes} changes are breaking: messages that were valid may be refused.",
            "Keep accepting what was valid, or release a new version and tell the producers first.",
        )
