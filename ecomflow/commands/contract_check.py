"""``ecomflow contract check``: what the pipeline would refuse, line by line."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ecomflow.commands.setting_options import EVENTS, with_settings
from ecomflow.commands.shared import STDIN, example_lines, lines_of
from ecomflow.config import Settings, contracts_of, envelope_of
from ecomflow.contract.check import Tally, check_lines, fate_of_unknown
from ecomflow.contract.codec import Codec
from ecomflow.errors import ContractError
from ecomflow.terminal.console import json_line, plain

EPILOG = example_lines(
    "ecomflow contract check events.jsonl",
    "ecomflow publish --n 10 --valid-only --dry-run | ecomflow contract check -",
    "ecomflow dlq export - | ecomflow contract check -",
)


@with_settings(*EVENTS)
def check(
    settings: Settings,
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Files of JSON lines; - for standard input. A line is an event, or a message with data and attributes."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines: one per refused event, then a summary.")] = False,
) -> None:
    """Check events before you publish them, with the pipeline's own decoder and rules. Prints a line for each refused event.

    Exits with 10 if an event is refused, or if there are no events.
    """
    now, tally = datetime.now(UTC), Tally()
    codec = Codec(contracts_of(settings), envelope_of(settings))
    for file in files:
        name = "stdin" if str(file) == STDIN else str(file)
        for refused in check_lines(lines_of(file), name, now, codec, tally):
            line = f"{refused.file}:{refused.line}: {refused.reason} {refused.error}"
            typer.echo(json_line(refused) if as_json else plain(line).plain)
    if as_json:
        typer.echo(json_line({"summary": _summary(tally, codec)}))
    else:
        show_tally(tally, codec)
    _end(tally)


def show_tally(tally: Tally, codec: Codec) -> None:
    """The unknown fields, the rules that are only counted, and the sums, a line each."""
    for (event, path), count in sorted(tally.unknown_fields.items()):
        typer.echo(plain(f"note: {event} {path}: not in the contract; {_fate(event, codec)} ({_times(count)})").plain)
    for (event, rule), count in sorted(tally.rules_broken.items()):
        text = next(one.check.text for kind in codec.kinds[event].values() for one in kind.contract.rules if one.name == rule)
        typer.echo(plain(f"note: {event}: the rule {rule}, {text}, does not hold; the event passes ({_times(count)})").plain)
    show_sums(tally)


def show_sums(tally: Tally) -> None:
    """How many events pass and are refused, by type and reason."""
    accepted, refused = tally.accepted.total(), tally.refused.total()
    sums = f"{accepted:,} pass{_parts(tally.accepted)}, {refused:,} refused{_parts(tally.refused)}"
    typer.echo(f"{_events(accepted + refused)}: {sums}.")


def _fate(event: str, codec: Codec) -> str:
    contract = next(iter(codec.kinds[event].values())).contract
    return {
        "keep": f"the event passes, the field is kept in {contract.tables[0].name}.unknown_fields",
        "drop": "the event passes, the field is dropped",
        "refuse": "the event is refused",
    }[contract.unknown_fields]


def _summary(tally: Tally, codec: Codec) -> dict[str, Any]:
    return {
        "accepted": tally.accepted,
        "refused": tally.refused,
        "rules_broken": [
            {"event_type": event, "rule": rule, "count": count} for (event, rule), count in sorted(tally.rules_broken.items())
        ],
        "unknown_fields": [
            {"event_type": event, "path": path, "fate": fate_of_unknown(next(iter(codec.kinds[event].values()))), "count": count}
            for (event, path), count in sorted(tally.unknown_fields.items())
        ],
    }


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count:,} events"


def _parts(counts: Counter[str]) -> str:
    return f" ({', '.join(f'{name} {count:,}' for name, count in sorted(counts.items()))})" if counts else ""


def _end(tally: Tally) -> None:
    if refused := tally.refused.total():
        raise ContractError(
            f"{_events(refused)} would become {'a dead letter' if refused == 1 else 'dead letters'}.",
            "See what is expected: ecomflow contract show --format markdown. Put each event on one line: jq -c . FILE",
        )
    if not tally.accepted:
        raise ContractError("There are no events to check.", "Provide at least one line of JSON.")
