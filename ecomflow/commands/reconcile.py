"""``ecomflow reconcile``: check that every published event is a fact, a dead letter or in the backlog."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ecomflow.commands.setting_options import RESOURCES, TARGET, with_settings
from ecomflow.commands.shared import AsJson, examples
from ecomflow.config import Settings
from ecomflow.gcp.target import Target, open_target
from ecomflow.jobs.backlog import Waiting, count_waiting, wait_until_empty
from ecomflow.jobs.metrics import condition_of
from ecomflow.terminal.console import note, say, show_json, show_table
from ecomflow.terminal.progress import Progress, interruptible, progress

Ledger = Annotated[
    Path | None,
    typer.Option(
        help="Ledger written by ecomflow publish --ledger; only its events are checked. Default: the local stack's own ledger.",
        show_default=False,
    ),
]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait at most for the subscription to become empty.")]
AllowWaiting = Annotated[bool, typer.Option("--allow-waiting", help="Exit with 0 although events wait in the subscription.")]

# Why the number of messages in the subscription may be unknown.
_NO_SAMPLE = "Cloud Monitoring has no sample of the last ten minutes"
_NO_COUNT = "this Pub/Sub emulator does not report it"


@examples(
    "ecomflow reconcile",
    "ecomflow reconcile --ledger published.jsonl --wait 60",
)
@with_settings(*TARGET, *RESOURCES)
def reconcile(
    settings: Settings,
    ledger: Ledger = None,
    wait: Wait = 0,
    allow_waiting: AllowWaiting = False,
    as_json: AsJson = False,
) -> None:
    """Check that published = facts + dead letters + backlog. Lists the ids of events that don't add up.

    Exits with 7 if they don't, and with 4 if some events still wait in the subscription. Without a ledger, the stores are only
    compared with each other.
    """
    from ecomflow.reconciliation import reconcile as equation

    only_asked = "Interrupted: the stores were only read, nothing was changed."
    with (
        open_target(settings) as target,
        interruptible(only_asked),
        progress("Waiting until the subscription is empty") as shown,
    ):
        if wait:
            if (before := condition_of(target)) is not None and before.trouble:
                note(before.trouble)
            wait_until_empty(_counting(target, shown), wait)
        shown.begin("Reading Pub/Sub, BigQuery and the bucket")
        outcome = equation.reconcile(target, ledger, on_count=shown.count)
        condition = condition_of(target) if equation.still_waiting(outcome) else None
    if as_json:
        show_json(outcome)
    else:
        _show(outcome, _NO_COUNT if target.endpoints.pubsub else _NO_SAMPLE)
    equation.check(outcome, allow_waiting=allow_waiting, pipeline=condition)
    if not as_json:
        say(_verdict(outcome))


def _counting(target: Target, shown: Progress) -> Callable[[], Waiting | None]:
    """Counts the backlog, and shows how much of the initial backlog is processed."""
    first: list[int] = []

    def read() -> Waiting | None:
        waiting = count_waiting(target)
        if waiting is not None:
            first.append(waiting.messages)
            shown.count("messages", max(0, first[0] - waiting.messages), first[0])
        return waiting

    return read


def show_equation(outcome: Any) -> None:
    """Print the equation as a table with a row per event type."""
    rows = [
        (
            line.event_type,
            *(_number(amount) for amount in (line.published, line.facts, line.dead_letters, line.waiting)),
            {True: "yes", False: "NO", None: ""}[line.adds_up],
        )
        for line in outcome.lines
    ]
    numbers = ("published", "facts", "dead letters", "backlog")
    show_table("Distinct events", ("event type", *numbers, "adds up"), rows, right=numbers)


def _show(outcome: Any, unknown: str) -> None:
    from ecomflow.reconciliation.reconcile import named

    show_equation(outcome)
    if outcome.ledger is None:
        say("There is no ledger of published events, so the stores are only compared with each other.")
    else:
        say(f"Published events are from the ledger {outcome.ledger}")
    if outcome.not_in_ledger:
        others = "Another producer has published them, or ecomflow publish with another --ledger."
        say(f"Not in the ledger: {outcome.not_in_ledger:,} of the stored events. {others}")
    if outcome.differing:
        ids = named(outcome.differing)
        say(f"{len(outcome.differing):,} event ids came with different contents; the _unique views show the last one: {ids}.")
    if outcome.unconfirmed:
        say(
            f"{outcome.unconfirmed:,} events of the ledger were never confirmed: their publisher was killed or got no answer. "
            "They are in the subscription, or were never published."
        )
    say(_backlog(outcome.waiting, datetime.now(UTC), unknown))


def _number(amount: int | None) -> str:
    return "" if amount is None else f"{amount:,}"


def _backlog(waiting: Any, now: datetime, unknown: str) -> str:
    if waiting is None:
        return f"The number of messages in the subscription is not known: {unknown}."
    sentence = f"Messages in the subscription: {waiting.messages:,}"
    if waiting.sampled_at is None:
        return f"{sentence}."
    minutes = round((now - waiting.sampled_at).total_seconds() / 60)
    return f"{sentence}, {minutes} min ago. Cloud Monitoring samples it once a minute and publishes it minutes later."


def _verdict(outcome: Any) -> str:
    if outcome.missing or outcome.incomplete:
        late = len(outcome.missing) + len(outcome.incomplete)
        return f"It adds up if all {late:,} events that were not found are among those messages."
    if outcome.ledger is None:
        return "No event is incomplete, and none is both a fact and a dead letter."
    return "It adds up: every event is accounted for exactly once."
