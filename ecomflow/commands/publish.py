"""``ecomflow publish``: publish generated events, valid and invalid, to the topic."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ecomflow.commands.shared import AsJson, Project, examples, settings_of, target_line
from ecomflow.errors import ConfigError
from ecomflow.gcp.target import open_target
from ecomflow.generator import publisher, rounds
from ecomflow.reconciliation.ledger import default_ledger
from ecomflow.terminal.console import note, say, show_json, show_table
from ecomflow.terminal.progress import INTERRUPTED, interruptible, leave, progress

Rounds = Annotated[int, typer.Option("--n", "-n", min=1, help="Number of rounds: one valid and one invalid event of each type.")]
Types = Annotated[str, typer.Option(help="Event types, comma-separated.")]
Seed = Annotated[
    int | None, typer.Option(help="Seed of the shop: the same seed gives the same shop. Default: random.", show_default=False)
]
Rate = Annotated[
    float | None, typer.Option(min=0.001, help="Events per second. Default: as fast as possible.", show_default=False)
]
Day = Annotated[str | None, typer.Option("--date", help="UTC date of all events.", show_default=False)]

Ledger = Annotated[
    Path | None,
    typer.Option(
        help="File to which every event is appended, for ecomflow reconcile. Default: the local stack's own ledger.",
        show_default=False,
    ),
]


@examples(
    "ecomflow publish --n 100",
    "ecomflow publish --n 1000 --seed 7 --rate 200",
)
def publish(
    n: Rounds = 100,
    types: Types = "order,inventory,user_activity",
    seed: Seed = None,
    rate: Rate = None,
    valid_only: Annotated[bool, typer.Option("--valid-only", help="Publish no invalid events.")] = False,
    date: Day = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the events as JSON lines without publishing them.")] = False,
    ledger: Ledger = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Publish generated events of a simulated shop, valid and invalid.

    Customers, products and sessions recur. Invalid events have faults from a catalogue.
    """
    chosen = [name.strip() for name in types.split(",") if name.strip()]
    now, shop_seed = datetime.now(UTC), rounds.fresh_seed() if seed is None else seed
    events = rounds.generate(n, seed=shop_seed, now=now, types=chosen, valid_only=valid_only, event_date=_day(date))
    if dry_run:
        for event in events:
            typer.echo(rounds.dry_run_line(event))
        return
    settings = settings_of(project)
    total = n * len(set(chosen)) * (1 if valid_only else 2)
    with interruptible("Interrupted while starting: nothing was published."):
        summary = _with_progress(settings, events, total, rate, ledger, quiet=as_json)
    _show(summary, shop_seed, as_json)
    if summary.interrupted:
        leave(INTERRUPTED)


def _day(text: str | None) -> Any:

    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"'{text}' is not a valid date.", "Write it as --date 2025-12-01.") from error


def _with_progress(settings: Any, events: Any, total: int, rate: float | None, ledger: Path | None, quiet: bool) -> Any:
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


def _show(summary: Any, seed: int, as_json: bool) -> None:
    if as_json:
        show_json({"seed": seed, "summary": summary})
        return
    kinds = sorted({*summary.valid, *summary.invalid})
    rows = [(kind, f"{summary.valid.get(kind, 0):,}", f"{summary.invalid.get(kind, 0):,}") for kind in kinds]
    show_table("Published", ("event type", "valid", "invalid"), rows, right=("valid", "invalid"))
    if summary.faults:
        faults = [(name, f"{count:,}") for name, count in sorted(summary.faults.items())]
        show_table("Faults of the invalid events", ("fault", "count"), faults, right=("count",))
    pace = summary.total / summary.elapsed_seconds if summary.elapsed_seconds else 0
    say(f"{summary.total:,} events confirmed in {summary.elapsed_seconds:.1f} s ({pace:,.0f}/s), seed {seed}.")
    if summary.interrupted:
        say("Interrupted. The counts above are of confirmed events." + _fate_of(summary.unanswered))


def _fate_of(unanswered: int) -> str:
    if not unanswered:
        return " Nothing else was sent."
    return f" {unanswered:,} more were in flight: they may or may not be published, and are unconfirmed in the ledger."
