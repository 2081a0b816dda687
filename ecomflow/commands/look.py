"""``ecomflow dlq`` and ``ecomflow query``: what was refused, and what landed."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import typer

from ecomflow.commands.shared import AsJson, Project, settings_of
from ecomflow.config import running_endpoints

dead_letters = typer.Typer(no_args_is_help=True, help="The messages that were refused, and why.")

Stream = Annotated[str | None, typer.Option(help="order, inventory, user_activity or unknown.", show_default=False)]
Reason = Annotated[str | None, typer.Option(help="Such as contract_violation.", show_default=False)]
Since = Annotated[str | None, typer.Option(help="Not older than: 10m, 2h, 3d.", show_default=False)]
Limit = Annotated[int, typer.Option(min=1, help="How many.")]

_MOST_UNREADABLE = 10

_EXAMPLES = "Examples:\n\n  ecomflow dlq inspect\n\n  ecomflow dlq inspect --stream order --reason out_of_range --since 2h --full"


@dead_letters.command(epilog=_EXAMPLES)
def inspect(
    stream: Stream = None,
    reason: Reason = None,
    since: Since = None,
    limit: Limit = 20,
    full: Annotated[bool, typer.Option("--full", help="Whole payloads.")] = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Show dead letters, newest first: when, which stream, why, and the payload. Fails, after showing the others, where an
    object in their place can't be read.
    """
    from ecomflow import deadletters
    from ecomflow.console import err, say, show_json
    from ecomflow.errors import EcomflowError

    settings = settings_of(project)
    streams, chosen, earliest = _streams(stream), _reason(reason), _moment(since)
    endpoints = running_endpoints(settings)
    unreadable: list[deadletters.Unreadable] = []
    with err.status("Reading dead letters…"):
        found = deadletters.newest(
            settings, endpoints, limit=limit, streams=streams, reason=chosen, since=earliest, unreadable=unreadable
        )
    if as_json:
        show_json([{"object_name": item.object_name, "letter": item.letter} for item in found])
    elif not found:
        say("There are no dead letters of that kind.")
    else:
        _show_letters(found, full)
    if unreadable:
        named = [f"{item.object_name}: {item.error}" for item in unreadable[:_MOST_UNREADABLE]]
        sentence = (
            f"Not dead letters, but foreign or damaged, and not shown: {len(unreadable)} objects under dlq/, the newest being"
        )
        raise EcomflowError("\n".join((sentence, *named)), "Move them out of dlq/.")


def query(
    question: Annotated[str | None, typer.Argument(help="A question's name, or GoogleSQL in quotes.", show_default=False)] = None,
    date: Annotated[str | None, typer.Option(help="The date that the question asks for.", show_default=False)] = None,
    list_them: Annotated[bool, typer.Option("--list", help="Show the questions there are.")] = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Ask the warehouse one of the analysts' questions, or anything in GoogleSQL (tables under the dataset ecomflow)."""
    from ecomflow.answers import ask
    from ecomflow.console import err, show_json
    from ecomflow.errors import ConfigError

    if list_them:
        _show_questions(as_json)
        return
    if question is None:
        raise ConfigError("There is no question to ask.", "See: ecomflow query --list")
    settings = settings_of(project)
    endpoints = running_endpoints(settings)
    with err.status("Asking the warehouse…"):
        answer = ask(settings, endpoints, question, {} if date is None else {"date": date})
    if as_json:
        show_json([dict(zip(answer.columns, row, strict=True)) for row in answer.rows])
    else:
        show_answer(answer)


def show_answer(answer: Any, most: int | None = None) -> None:
    """An answer as a table, numbers to the right; its first ``most`` rows where given."""
    from ecomflow.console import say, show_table

    first = answer.rows[0] if answer.rows else ()
    numbers = [name for name, value in zip(answer.columns, first, strict=False) if isinstance(value, int | float | Decimal)]
    show_table(answer.title, answer.columns, [[_cell(value) for value in row] for row in answer.rows[:most]], right=numbers)
    count = f"{len(answer.rows):,} row{'' if len(answer.rows) == 1 else 's'}"
    say(f"{count}, of which the first {most}." if most is not None and len(answer.rows) > most else f"{count}.")


def _cell(value: Any) -> Any:
    if isinstance(value, Decimal):
        cents = value.normalize()
        return f"{cents:,.2f}" if int(cents.as_tuple().exponent) > -2 else f"{cents:,f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value


def _show_letters(found: list[Any], full: bool) -> None:
    from ecomflow.console import out, plain, say, show_table

    if not full:
        columns = ("failed at", "stream", "reason, error, payload", "event id")
        show_table("Dead letters, newest first", columns, [_letter_row(item) for item in found])
        say("Whole payloads: --full. As JSON, with attributes: --json.")
        return
    for item in found:
        letter = item.letter
        out.rule(plain(f"{letter.failed_at:%Y-%m-%d %H:%M:%S} {letter.reason}"), align="left")
        for name, value in (("error", letter.error), ("event id", letter.event_id), ("attributes", letter.attributes)):
            out.print(plain(f"{name}: {value}"), soft_wrap=True)
        out.print(plain(f"payload ({letter.payload_encoding}): {letter.payload}"), soft_wrap=True)
        out.print(plain(f"object: {item.object_name}"), soft_wrap=True)
        for line in (letter.traceback or "").splitlines():
            out.print(plain(line), soft_wrap=True)


def _letter_row(item: Any) -> tuple[Any, ...]:
    from rich.text import Text

    from ecomflow.console import plain
    from ecomflow.rejected import stream_of

    letter = item.letter
    why = Text("\n").join([plain(letter.reason), plain(letter.error, 200), plain(letter.payload, 70)])
    return f"{letter.failed_at:%m-%d %H:%M:%S}", stream_of(letter), why, plain(letter.event_id or letter.message_id, 13)


def _streams(stream: str | None) -> tuple[str, ...]:
    from ecomflow.errors import ConfigError
    from ecomflow.rejected import STREAMS

    if stream is not None and stream not in STREAMS:
        raise ConfigError(f"There is no stream '{stream}'.", f"Choose one of: {', '.join(STREAMS)}.")
    return STREAMS if stream is None else (stream,)


def _reason(reason: str | None) -> str | None:
    from typing import get_args

    from ecomflow.errors import ConfigError
    from ecomflow.rejected import Reason as Known

    if reason is not None and reason not in get_args(Known):
        raise ConfigError(f"There is no reason '{reason}'.", f"Choose one of: {', '.join(get_args(Known))}.")
    return reason


def _moment(since: str | None) -> datetime | None:
    from ecomflow.errors import ConfigError

    if since is None:
        return None
    match = re.fullmatch(r"(\d{1,6})([smhd])", since)
    if match is None:
        raise ConfigError(f"'{since}' is no length of time.", "Write it as 30s, 10m, 2h or 3d.")
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[match[2]]
    now, epoch = datetime.now(UTC), datetime.fromtimestamp(0, UTC)
    return now - min(timedelta(**{unit: int(match[1])}), now - epoch)


def _show_questions(as_json: bool) -> None:
    from ecomflow.console import show_json, show_table
    from ecomflow.sql import questions

    if as_json:
        show_json([{"name": item.name, "asks": item.asks, "counts": item.counts, "reads": item.reads} for item in questions()])
        return
    rows = [
        (item.name, item.asks, " ".join(f"--{parameter.name}" for parameter in item.parameters), item.reads)
        for item in questions()
    ]
    show_table("Questions", ("name", "what it answers", "options", "what it reads"), rows)
