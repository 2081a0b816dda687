"""``ecomflow publish``: publish events to the topic: generated ones, valid and invalid, or those of a file."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecomflow.commands.shared import AsJson, Project, examples, lines_of, settings_of, target_line
from ecomflow.config import Settings, contracts_of, envelope_of
from ecomflow.errors import ConfigError, EcomflowError
from ecomflow.gcp.target import open_target
from ecomflow.reconciliation.ledger import default_ledger
from ecomflow.terminal.amounts import counted
from ecomflow.terminal.console import note, say, show_json, show_table
from ecomflow.terminal.progress import INTERRUPTED, interruptible, leave, progress

if TYPE_CHECKING:
    from ecomflow.generator.publisher import PublishSummary
    from ecomflow.generator.recorded import PassedOver
    from ecomflow.generator.rounds import GeneratedEvent

Rounds = Annotated[int, typer.Option("--n", "-n", min=1, help="Number of rounds: one valid and one invalid event of each type.")]
Types = Annotated[str | None, typer.Option(help="Event types, comma-separated. Default: all.", show_default=False)]
Seed = Annotated[
    int | None, typer.Option(help="Seed of the events: the same seed gives the same events. Default: random.", show_default=False)
]
Rate = Annotated[
    float | None, typer.Option(min=0.001, help="Events per second. Default: as fast as possible.", show_default=False)
]
Day = Annotated[str | None, typer.Option("--date", help="UTC date of all events.", show_default=False)]
File = Annotated[
    Path | None,
    typer.Option(
        help="Publish the messages of this file instead: JSON lines, each an event, or a message as --dry-run or dlq export "
        "writes it; - for standard input.",
        show_default=False,
    ),
]
Ledger = Annotated[
    Path | None,
    typer.Option(
        help="File to which every event is appended, for ecomflow reconcile. Default: the local stack's own ledger.",
        show_default=False,
    ),
]


_MOST_LINES = 10
# What says which events are generated.
_OF_GENERATED = {"n": "--n", "types": "--types", "seed": "--seed", "valid_only": "--valid-only", "date": "--date"}


@examples(
    "ecomflow publish --n 100",
    "ecomflow publish --n 1000 --seed 7 --rate 200",
    "ecomflow publish --file events.jsonl",
)
def publish(
    context: typer.Context,
    n: Rounds = 100,
    types: Types = None,
    seed: Seed = None,
    rate: Rate = None,
    valid_only: Annotated[bool, typer.Option("--valid-only", help="Publish no invalid events.")] = False,
    date: Day = None,
    file: File = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the events as JSON lines without publishing them.")] = False,
    ledger: Ledger = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Publish generated events of each type, valid and invalid, or the events of a file.

    The built-in types tell of a simulated shop; events of other types are made from their contracts. Customers, products and
    other ids recur. Invalid events have faults from a catalogue.
    """
    from ecomflow.generator import rounds
    from ecomflow.generator.recorded import recorded_events

    settings = settings_of(project)
    contracts = contracts_of(settings)
    total = None
    passed_over: list[PassedOver] = []
    if file is not None:
        _refuse_beside_file(context)
        events = recorded_events(lines_of(file), contracts, envelope_of(settings), passed_over=passed_over)
    else:
        chosen = None if types is None else [name.strip() for name in types.split(",") if name.strip()]
        seed = rounds.fresh_seed() if seed is None else seed
        total = n * len(rounds.slots_of(contracts, chosen)) * (1 if valid_only else 2)
        events = rounds.generate(
            n,
            seed=seed,
            now=datetime.now(UTC),
            contracts=contracts,
            envelope=envelope_of(settings),
            types=chosen,
            valid_only=valid_only,
            event_date=_day(date),
        )
    if dry_run:
        for event in events:
            typer.echo(rounds.dry_run_line(event))
        _refuse_lines(passed_over, file)
        return
    with interruptible("Interrupted while starting: nothing was published."):
        summary = _with_progress(settings, events, total, rate, ledger, quiet=as_json)
    _show(summary, seed, as_json)
    if summary.interrupted:
        leave(INTERRUPTED)
    _refuse_lines(passed_over, file)


def _refuse_lines(passed_over: list[PassedOver], file: Path | None) -> None:
    """Raises EcomflowError if there are messages that Pub/Sub would not take."""
    if passed_over:
        lines = [f"line {one.line}: {one.error}" for one in passed_over[:_MOST_LINES]]
        sentence = f"Pub/Sub does not take {counted(len(passed_over), 'message')} of {file}:"
        raise EcomflowError("\n".join((sentence, *lines)), "Correct them, and publish those lines alone.")


def _refuse_beside_file(context: typer.Context) -> None:
    sources = {flag: context.get_parameter_source(name) for name, flag in _OF_GENERATED.items()}
    given = next((flag for flag, source in sources.items() if source is not None and source.name == "COMMANDLINE"), None)
    if given is not None:
        raise ConfigError(
            f"{given} is for generated events, and --file publishes those of a file.", f"Leave out {given} or --file."
        )


def _day(text: str | None) -> Any:

    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"'{text}' is not a valid date.", "Write it as --date 2025-12-01.") from error


def _with_progress(
    settings: Settings, events: Iterable[GeneratedEvent], total: int | None, rate: float | None, ledger: Path | None, quiet: bool
) -> PublishSummary:
    from ecomflow.generator import publisher

    with open_target(settings) as target:
        (note if quiet else say)(target_line(settings))
        with progress("Publishing") as shown:
            return publisher.publish(
                target,
                events,
                rate=rate,
                ledger=ledger or default_ledger(target),
                on_progress=lambda confirmed: shown.count("events", confirmed, total),
            )


def _show(summary: PublishSummary, seed: int | None, as_json: bool) -> None:
    """``seed`` is that of generated events; None for those of a file."""
    if as_json:
        show_json({"seed": seed, "summary": summary})
        return
    if seed is None:
        rows = [(kind, f"{count:,}") for kind, count in sorted(summary.valid.items())]
        show_table("Published", ("event type", "events"), rows, right=("events",))
    else:
        _show_generated(summary)
    pace = summary.total / summary.elapsed_seconds if summary.elapsed_seconds else 0
    of_seed = "" if seed is None else f", seed {seed}"
    say(f"{summary.total:,} events confirmed in {summary.elapsed_seconds:.1f} s ({pace:,.0f}/s){of_seed}.")
    if summary.interrupted:
        say("Interrupted. The counts above are of confirmed events." + _fate_of(summary.unanswered))


def _show_generated(summary: PublishSummary) -> None:
    kinds = sorted({*summary.valid, *summary.invalid})
    rows = [(kind, f"{summary.valid.get(kind, 0):,}", f"{summary.invalid.get(kind, 0):,}") for kind in kinds]
    show_table("Published", ("event type", "valid", "invalid"), rows, right=("valid", "invalid"))
    if summary.faults:
        reasons = [(reason, f"{count:,}") for reason, count in sorted(summary.reasons.items())]
        show_table("Dead letters to expect", ("reason", "count"), reasons, right=("count",))
        say(f"The invalid events have {len(summary.faults):,} different faults; --json names them.")


def _fate_of(unanswered: int) -> str:
    if not unanswered:
        return " Nothing else was sent."
    return f" {unanswered:,} more were in flight: they may or may not be published, and are unconfirmed in the ledger."
