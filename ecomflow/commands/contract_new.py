"""``ecomflow contract new``: a contract file drafted from samples."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import typer

from ecomflow.commands.contract_check import show_sums
from ecomflow.commands.contract_copy import Folder, Force, check_free, write_contract
from ecomflow.commands.setting_options import with_settings
from ecomflow.commands.shared import example_lines, lines_of
from ecomflow.config import Settings
from ecomflow.contract.check import RefusedLine, Tally, check_lines
from ecomflow.contract.codec import Codec
from ecomflow.contract.draft import draft_of
from ecomflow.contract.draft_text import toml_of
from ecomflow.contract.language import TYPE_KEY, Contract
from ecomflow.contract.limits import DateRange
from ecomflow.contract.loading import load_text, other_contracts
from ecomflow.contract.samples import Samples, read_samples, seen_in, typed_lines
from ecomflow.errors import ContractError
from ecomflow.terminal.console import plain, say

EPILOG = example_lines(
    "ecomflow contract new refund --from samples.jsonl",
    "ecomflow contract new orders_create --from webhooks.jsonl --field attribute:X-Shopify-Topic",
)


@with_settings("builtin_events")
def new(
    settings: Settings,
    event: Annotated[str, typer.Argument(help="The event type.")],
    samples: Annotated[
        Path,
        typer.Option(
            "--from", help="File of JSON lines; - for standard input. A line is an event, or a message with attributes."
        ),
    ],
    field: Annotated[
        str,
        typer.Option(help="Where the type is: a key, keys with dots between them, or attribute:NAME. Picks the samples."),
    ] = TYPE_KEY,
    to: Folder = None,
    force: Force = False,
) -> None:
    """Draft a contract from samples, and say what was assumed. Then checks the samples against it.

    Exits with 10 if a sample does not pass.
    """
    folder = to or Path(settings.contracts)
    path = folder / f"{event}.toml"
    check_free(folder, event, path, force)
    read = read_samples(lines_of(samples), event, field)
    taken = [table.name for one in other_contracts(folder, settings.builtin_events, event) for table in one.tables]
    draft = draft_of(event, seen_in(read), taken)
    name = "standard input" if str(samples) == "-" else str(samples)
    text = toml_of(draft, f"{_count(len(read.samples))} in {name}")
    contract = load_text(text, str(path))
    write_contract(path, text)
    for sentence in (*_about(read, event, field), *draft.assumptions, *_about_required(read)):
        say(f"- {sentence}")
    say(f"Wrote {path}.")
    _check_samples(contract, read, name)


def _about(read: Samples, event: str, field: str) -> list[str]:
    sentences = [f"{_count(len(read.samples))} read."]
    if others := ", ".join(f"{name} {count:,}" for name, count in sorted(read.others.items())):
        sentences.append(f"Lines of other types left out: {others}.")
    if not read.have_type:
        sentences.append(
            f"The samples have no {field}: all of them are taken to be {event}. The pipeline needs {TYPE_KEY} in each message, or"
            " [envelope] in ecomflow.toml, to tell the type."
        )
    elif field != TYPE_KEY:
        sentences.append(f"The type is in {field}: say so in [envelope] in ecomflow.toml, or have producers send {TYPE_KEY}.")
    return sentences


def _about_required(read: Samples) -> list[str]:
    return ["All other fields are required: " + ("the sample has them." if len(read.samples) == 1 else "each sample has them.")]


def _count(samples: int) -> str:
    return "1 sample" if samples == 1 else f"{samples:,} samples"


def _check_samples(contract: Contract, read: Samples, file: str) -> None:
    """All must pass. Those that are only too old or too new to be written today are counted separately."""
    codec, now, tally, today = Codec([contract]), datetime.now(UTC), Tally(), Tally()
    lines = list(typed_lines(read, contract.event))
    refused = list(check_lines(lines, file, now, codec, tally, DateRange(date.min, date.max)))
    outdated: list[RefusedLine] = list(check_lines(lines, file, now, codec, today))
    for line in refused:
        typer.echo(plain(f"{line.file}:{line.line}: {line.reason} {line.error}").plain)
    show_sums(tally)
    if old := len(outdated) - len(refused):
        say(f"{_count(old)} would be refused today because of the date, which must be at most 10 years back and 1 year ahead.")
    if refused:
        raise ContractError(
            f"{_count(len(refused))} would become dead letters.", f"Correct {contract.file}, and see: ecomflow contract check"
        )
