"""``ecomflow publish``: publish events to the topic: generated ones, valid and invalid, or those of a file."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecomflow.commands.setting_options import EVENTS, TARGET, with_settings
from ecomflow.commands.shared import AsJson, examples, lines_of, options_given, target_line
from ecomflow.config import Settings, contracts_of, envelope_of
from ecomflow.errors import ConfigError, EcomflowError
from ecomflow.gcp.target import open_target
from ecomflow.generator.seeds import MAX_SEED, SEEDED_UNTIL, fresh_seed
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
    int | None,
    typer.Option(
        min=0,
        max=MAX_SEED,
        help="Seed of the events: the same seed gives the same bytes, with the same ids and times. Default: new events.",
        show_default=False,
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        help="The events lie in the seven days before this time. "
        f"Default: now, but {SEEDED_UNTIL:%Y-%m-%dT%H:%M:%SZ} with --seed.",
        show_default=False,
    ),
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
_OF_GENERATED = {
    "n": "--n",
    "types": "--types",
    "seed": "--seed",
    "valid_only": "--valid-only",
    "date": "--date",
    "until": "--until",
}


@examples(
    "ecomflow publish --n 100",
    "ecomflow publish --n 1000 --seed 7 --rate 200",
    "ecomflow publish --file events.jsonl",
)
@with_settings(*TARGET, "topic", *EVENTS)
def publish(
    settings: Settings,
    context: typer.Context,
    n: Rounds = 100,
    types: Types = None,
    seed: Seed = None,
    rate: Rate = None,
    valid_only: Annotated[bool, typer.Option("--valid-only", help="Publish no invalid events.")] = False,
    date: Day = None,
    until: Until = None,
    file: File = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the events as JSON lines without publishing them.")] = False,
    ledger: Ledger = None,
    as_json: AsJson = False,
) -> None:
    """Publish generated events of each type, valid and invalid, or the events of a file.

    The built-in types tell of a simulated shop; events of other types are made from their contracts. Customers, products and
    other ids recur. Invalid events have faults from a catalogue. Each run has new events with new ids, unless --seed is given.
    """
    from ecomflow.generator import rounds
    from ecomflow.generator.recorded import recorded_events

    contracts = contracts_of(settings)
    total = end = None
    passed_over: list[PassedOver] = []
    if file is not None:
        _refuse_beside_file(context)
        events = recorded_events(lines_of(file), contracts, envelope_of(settings), passed_over=passed_over)
    else:
        chosen = None if types is None else [name.strip() for name in types.split(",") if name.strip()]
        end = _end(until, date, is_seeded=seed is not None)
        seed = fresh_seed() if seed is None else seed
        total = n * len(rounds.slots_of(contracts, chosen)) * (1 if valid_only else 2)
        events = rounds.generate(
            n,
            seed=seed,
            now=end,
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
    _show(summary, seed, end if date is None else None, as_json)
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
    if given := options_given(context, _OF_GENERATED):
        flag = _OF_GENERATED[given[0]]
        raise ConfigError(
            f"{flag} is for generated events, and --file publishes those of a file.", f"Leave out {flag} or --file."
        )


def _day(text: str | None) -> Any:

    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"'{text}' is not a valid date.", "Write it as --date 2025-12-01.") from error


def _end(until: str | None, day: str | None, *, is_seeded: bool) -> datetime:
    """Where the times of the events end, to the second."""
    if until is None:
        return SEEDED_UNTIL if is_seeded else datetime.now(UTC).replace(microsecond=0)
    if day is not None:
        raise ConfigError("--date and --until both say when the events are.", "Leave out one of them.")
    try:
        found = datetime.fromisoformat(until)
    except ValueError as error:
        raise ConfigError(f"'{until}' is not a valid time.", "Write it as --until 2025-12-02T00:00:00Z.") from error
    return found.replace(microsecond=0, tzinfo=found.tzinfo or UTC)


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


def _show(summary: PublishSummary, seed: int | None, until: datetime | None, as_json: bool) -> None:
    """``seed`` and ``until`` are those of generated events; None for those of a file, and ``until`` for those of a date."""
    if as_json:
        show_json({"seed": seed, "until": until, "summary": summary})
        return
    if seed is None:
        rows = [(kind, f"{count:,}") for kind, count in sorted(summary.valid.items())]
        show_table("Published", ("event type", "events"), rows, right=("events",))
    else:
        _show_generated(summary)
    pace = summary.total / summary.elapsed_seconds if summary.elapsed_seconds else 0
    say(f"{summary.total:,} events confirmed in {summary.elapsed_seconds:.1f} s ({pace:,.0f}/s).")
    if seed is not None:
        end = "" if until is None or until == SEEDED_UNTIL else f" --until {until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        say(f"The same events again, with their ids: add --seed {seed}{end}")
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
