"""``ecomflow dlq``: inspect, group, replay and export dead letters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Annotated, Any, get_args

import typer
from rich.padding import Padding
from rich.text import Text

from ecomflow.commands.setting_options import DEAD_LETTERS, TARGET, with_settings
from ecomflow.commands.shared import AsJson, example_lines, group_of_commands, moment_of, target_line
from ecomflow.config import Settings, contracts_of
from ecomflow.contract.dead_letter import UNKNOWN_STREAM, to_lines
from ecomflow.contract.dead_letter import Reason as Known
from ecomflow.contract.tables import event_streams
from ecomflow.deadletters import store
from ecomflow.deadletters.fingerprints import fingerprint
from ecomflow.deadletters.groups import Group, Groups, group, unknown_fields
from ecomflow.deadletters.merge_patch import read_patch
from ecomflow.deadletters.replay import ReplayPlan, ReplaySummary, plan_replay
from ecomflow.deadletters.replay import replay as publish_again
from ecomflow.deadletters.store import DeadLetterFilter, StoredDeadLetter, Unreadable
from ecomflow.errors import AccessError, ConfigError, EcomflowError
from ecomflow.gcp.target import Target, open_target
from ecomflow.pipeline.direct.launch import read_status
from ecomflow.terminal.amounts import counted
from ecomflow.terminal.console import json_line, note, out, plain, say, show_json, show_table
from ecomflow.terminal.progress import INTERRUPTED, interruptible, leave, progress

dlq = group_of_commands("Inspect, group, replay and export dead letters: the messages that were refused.")

Stream = Annotated[str | None, typer.Option(help="An event type, or unknown.", show_default=False)]
Reason = Annotated[str | None, typer.Option(help="Reason of the refusal, such as contract_violation.", show_default=False)]
Since = Annotated[str | None, typer.Option(help="Maximum age, such as 10m, 2h, 3d.", show_default=False)]
EventId = Annotated[str | None, typer.Option(help="The event's id, as in the fact tables.", show_default=False)]
FingerprintId = Annotated[
    str | None, typer.Option("--fingerprint", help="Fingerprint of a group, from dlq stats.", show_default=False)
]

_MOST_UNREADABLE = 10
_MOST_UNPUBLISHABLE = 10
_MOST_FIELDS = 50


@dlq.command(
    epilog=example_lines(
        "ecomflow dlq inspect",
        "ecomflow dlq inspect --follow",
        "ecomflow dlq inspect --stream order --reason out_of_range --since 2h --full",
    )
)
@with_settings(*TARGET, *DEAD_LETTERS)
def inspect(
    settings: Settings,
    stream: Stream = None,
    reason: Reason = None,
    since: Since = None,
    event_id: EventId = None,
    fingerprint: FingerprintId = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of dead letters.")] = 20,
    full: Annotated[bool, typer.Option("--full", help="Show whole payloads.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep showing new ones until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; with --follow one object per line.")] = False,
) -> None:
    """Show dead letters, newest first: time, stream, reason, error and payload. If an object under dlq/ can't be read, the
    command shows the others, then fails.
    """
    selected = _filter(settings, stream, reason, since, event_id, fingerprint)
    unreadable: list[store.Unreadable] = []
    with open_target(settings) as target:
        if follow:
            _follow(store.follow(target, selected, limit=limit, unreadable=unreadable), full, as_json)
            return
        with _reading() as report:
            found = store.newest(target, limit=limit, selected=selected, unreadable=unreadable, on_progress=report)
    if as_json:
        show_json([_as_object(item) for item in found])
    elif not found:
        say("No dead letters match.")
    else:
        _show_letters(found, full)
    _refuse_unreadable(unreadable)


@dlq.command(epilog=example_lines("ecomflow dlq stats", "ecomflow dlq stats --stream order --since 1d --commands"))
@with_settings(*TARGET, *DEAD_LETTERS, "region", "dataflow.job_name")
def stats(
    settings: Settings,
    stream: Stream = None,
    reason: Reason = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of groups, largest first.")] = 10,
    commands: Annotated[bool, typer.Option("--commands", help="Show the command that replays each group.")] = False,
    as_json: AsJson = False,
) -> None:
    """Group dead letters by stream, reason and fingerprint (event type, path, rule). Also counts fields of valid events that are
    not in the contract.
    """
    selected = _filter(settings, stream, reason, since, None, None)
    unreadable: list[store.Unreadable] = []
    with open_target(settings) as target, _reading() as report:
        found = store.letters(target, selected, unreadable=unreadable, on_progress=report)
        groups = group(found, settings)
        fields = unknown_fields(_counters(target))
    if as_json:
        show_json({"groups": groups, "unknown_fields": fields})
    else:
        _show_groups(groups, limit, commands)
        _show_unknown_fields(fields, settings)
    _refuse_unreadable(unreadable)


@dlq.command(
    epilog=example_lines(
        "ecomflow dlq replay --dry-run",
        "ecomflow dlq replay --stream order --reason contract_violation",
        "ecomflow dlq replay --fingerprint 0b6ff4c86e --patch returned.json",
    )
)
@with_settings(*TARGET, "topic", *DEAD_LETTERS)
def replay(
    settings: Settings,
    stream: Stream = None,
    reason: Reason = None,
    since: Since = None,
    event_id: EventId = None,
    fingerprint: FingerprintId = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number, newest first.", show_default=False)] = None,
    patch: Annotated[
        Path | None,
        typer.Option(help="File with a JSON Merge Patch (RFC 7396) to apply to each payload first.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would pass.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish again the dead letters that pass the contract now, with their bytes, attributes and event_id, and move them to
    replayed/. The others stay where they are.
    """
    selected = _filter(settings, stream, reason, since, event_id, fingerprint)
    change = None if patch is None else read_patch(patch)
    with open_target(settings) as target:
        if not as_json:
            say(target_line(settings))
        with _reading() as report:
            plan = plan_replay(target, selected, patch=change, limit=limit, on_progress=report)
        if not as_json:
            _show_plan(plan)
        summary = None
        if plan.passing and not dry_run:
            summary = _publish_again(target, plan, change)
    if as_json:
        kept = ("chosen", "passing", "failing", "examples", "too_recent", "unpublishable", "unreadable")
        show_json({"plan": {name: getattr(plan, name) for name in kept}, "replay": summary})
    elif summary is not None:
        say(f"{summary.published:,} published, {summary.moved:,} moved to gs://{settings.bucket_name}/replayed/.")
        if summary.left:
            say(f"{summary.left:,} are in objects that someone else has changed meanwhile. Run the same command again.")
        if summary.interrupted:
            say("Interrupted: the others were not moved, but some are already published. Run the same command again.")
    else:
        say("Nothing was published." if plan.chosen else "No dead letters match.")
    if summary is not None and summary.interrupted:
        leave(INTERRUPTED)
    _refuse_rest(plan, summary)


@dlq.command(epilog=example_lines("ecomflow dlq export refused.jsonl", "ecomflow dlq export - --stream order --since 1d"))
@with_settings(*TARGET, *DEAD_LETTERS)
def export(
    settings: Settings,
    file: Annotated[str, typer.Argument(help="The file to write, which is overwritten if it exists; - for standard output.")],
    stream: Stream = None,
    reason: Reason = None,
    since: Since = None,
    event_id: EventId = None,
    fingerprint: FingerprintId = None,
) -> None:
    """Write dead letters to a file as stored in the bucket: one JSON object per line, newest first."""
    selected = _filter(settings, stream, reason, since, event_id, fingerprint)
    unreadable: list[store.Unreadable] = []
    with open_target(settings) as target, _reading() as report:
        found = store.letters(target, selected, unreadable=unreadable, on_progress=report)
        count = _write_lines(found, file)
    note(f"{count:,} dead letters written{'' if file == '-' else f' to {file}'}.")
    _refuse_unreadable(unreadable)


def _publish_again(target: Target, plan: ReplayPlan, patch: Any) -> ReplaySummary:
    with interruptible("Interrupted while starting: nothing was published."), progress("Publishing") as shown:
        return publish_again(
            target,
            plan,
            patch=patch,
            on_progress=lambda published: shown.count("dead letters", published, plan.passing),
        )


def _refuse_rest(plan: ReplayPlan, summary: ReplaySummary | None) -> None:
    """Raises EcomflowError for dead letters that Pub/Sub does not take, and for what is none."""
    refused = [*plan.unpublishable, *(summary.unpublishable if summary else ())]
    if not refused:
        _refuse_unreadable(plan.unreadable)
        return
    named = [f"{one.event_id} in {one.object_name}: {one.error}" for one in refused[:_MOST_UNPUBLISHABLE]]
    if plan.unreadable:
        named.append(f"{len(plan.unreadable):,} objects are unreadable, too: ecomflow dlq inspect names them.")
    sentence = f"Pub/Sub does not take {counted(len(refused), 'dead letter')}; still in dlq/:"
    commands = f"ecomflow dlq export FILE --event-id {refused[0].event_id}, and ecomflow publish --file FILE"
    raise EcomflowError("\n".join((sentence, *named)), f"Correct a copy, and publish that: {commands}")


def _filter(
    settings: Settings, stream: str | None, reason: str | None, since: str | None, event_id: str | None, fingerprint: str | None
) -> DeadLetterFilter:
    if stream is not None:
        _check_stream(settings, stream)
    if reason is not None and reason not in get_args(Known):
        raise ConfigError(f"'{reason}' is not a valid reason.", f"Use one of: {', '.join(get_args(Known))}.")
    return DeadLetterFilter(() if stream is None else (stream,), reason, moment_of(since), event_id, fingerprint)


def _check_stream(settings: Settings, stream: str) -> None:
    """A stream is an event type in force, ``unknown``, or a type that has dead letters from when it was in force."""
    known = (*event_streams(contracts_of(settings)), UNKNOWN_STREAM)
    if stream in known:
        return
    stored: tuple[str, ...] = ()
    with suppress(EcomflowError), open_target(settings) as target:  # what can't be read now has no streams to choose from
        stored = store.streams(target)
    if stream not in stored:
        raise ConfigError(f"'{stream}' is not a valid stream.", f"Use one of: {', '.join(dict.fromkeys((*known, *stored)))}.")


@contextmanager
def _reading() -> Iterator[Callable[[int], None]]:
    """Shows the number and rate of objects read, on a terminal."""
    only_read = "Interrupted: dead letters were only read, nothing was changed."
    with interruptible(only_read), progress("Reading dead letters") as shown:
        yield lambda count: shown.count("objects", count)


def _refuse_unreadable(unreadable: list[Unreadable]) -> None:
    if unreadable:
        named = [f"{item.object_name}: {item.error}" for item in unreadable[:_MOST_UNREADABLE]]
        sentence = f"{len(unreadable)} objects under dlq/ are not dead letters, or are damaged, and are not shown. The newest:"
        raise EcomflowError("\n".join((sentence, *named)), "Move them out of dlq/.")


def _follow(found: Iterator[StoredDeadLetter], full: bool, as_json: bool) -> None:
    """Each dead letter as it arrives, until Ctrl-C, which is not an error here."""
    try:
        for item in found:
            if as_json:
                _print_line(item)
            else:
                (_show_whole if full else _show_letter)(item)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return


def _print_line(item: StoredDeadLetter) -> None:
    sys.stdout.write(json_line(_as_object(item)) + "\n")


def _as_object(item: StoredDeadLetter) -> dict[str, Any]:
    cause = fingerprint(item.letter)
    return {"object_name": item.object_name, "path": cause.path, "fingerprint": cause.id, "letter": item.letter}


def _show_letters(found: list[StoredDeadLetter], full: bool) -> None:
    for item in found:
        (_show_whole if full else _show_letter)(item)
    if not full:
        say("For whole payloads: --full. For JSON with attributes: --json. To group them: ecomflow dlq stats")


def _show_whole(item: StoredDeadLetter) -> None:
    letter, cause = item.letter, fingerprint(item.letter)
    out.rule(plain(f"{letter.failed_at:%Y-%m-%d %H:%M:%S} {letter.reason}"), align="left")
    facts = (
        ("error", letter.error),
        ("path", cause.path),
        ("fingerprint", cause.id),
        ("event id", letter.event_id),
        ("attributes", letter.attributes),
        *([("ordering key", letter.ordering_key)] if letter.ordering_key else []),
        (f"payload ({letter.payload_encoding})", letter.payload),
        ("object", item.object_name),
    )
    for name, value in facts:
        out.print(plain(f"{name}: {value}"), soft_wrap=True)
    for line in (letter.traceback or "").splitlines():
        out.print(plain(line), soft_wrap=True)


def _show_letter(item: StoredDeadLetter) -> None:
    """Three lines or four: when, the whole id and the stream; what is wrong; the beginning of the payload."""
    letter = item.letter
    head = f"{letter.failed_at:%m-%d %H:%M:%S}  {letter.event_id or letter.message_id}  {item.stream}"
    out.print(plain(head), style="bold", soft_wrap=True)
    out.print(Padding(plain(f"{letter.reason} {letter.error}", 2 * out.width - 8), (0, 0, 0, 2), expand=False))
    out.print(_cut(f"  {letter.payload}"))


def _cut(line: str) -> Text:
    """``line``, at most as wide as the terminal."""
    text = plain(line, out.width)
    text.truncate(out.width, overflow="ellipsis")
    return text


def _counters(target: Target) -> dict[str, int]:
    """The counters of the current or last pipeline: the local one, or the project's job. If they can't be read, prints why and
    returns none, because an account that may read the bucket may lack access to jobs.
    """
    from ecomflow.jobs import service
    from ecomflow.jobs.client import JobsApi

    try:
        if target.settings.is_local:
            return read_status(target.settings.state_path).counters
        api = JobsApi(target)
        return service.metrics(api, service.find(api, target.settings.dataflow.job_name)).own
    except EcomflowError as error:
        note(f"Fields that are not in the contract can't be shown: {error.message}")
        return {}


def _show_groups(groups: Groups, limit: int, commands: bool) -> None:
    if not groups.total:
        say("No dead letters match.")
        return
    shown = groups.groups[:limit]
    for one in shown:
        _show_group(one)
        if commands:
            out.print(plain(f"{_INDENT}{one.replay}"), soft_wrap=True)
    say(f"{counted(groups.total, 'dead letter')} in {counted(len(groups.groups), 'group')}{_not_shown(groups, len(shown))}.")
    say("To see or replay a group: ecomflow dlq inspect, or replay, with --fingerprint and its id. With all commands: --commands")


# Below the count of a group.
_INDENT = " " * 9


def _show_group(one: Group) -> None:
    """Two lines: how many, where and when, then what is wrong."""
    cause = one.fingerprint
    head = f"{one.count:>7,}  {cause.id}  {one.stream}  {one.reason}  last {one.last_seen:%m-%d %H:%M}"
    event = "" if cause.event_type in (None, one.stream) else f"event type {cause.event_type}, "
    out.print(_cut(head), style="bold")
    out.print(_cut(f"{_INDENT}{event}{cause.path}: {cause.rule}"))


def _not_shown(groups: Groups, shown: int) -> str:
    others = groups.groups[shown:]
    if not (others or groups.other):
        return ""
    rest = sum(one.count for one in others) + groups.other
    return f", {rest:,} of them in smaller groups: --limit or --json"


def _show_unknown_fields(fields: Any, settings: Settings) -> None:
    if not fields:
        return
    whose = "this pipeline's last run" if settings.is_local else f"job {settings.dataflow.job_name}"
    rows = [(one.event_type, one.path, f"{one.count:,}") for one in fields[:_MOST_FIELDS]]
    columns = ("type", "path", "count")
    show_table("Fields of valid events that are not in the contract", columns, rows, right=("count",))
    more = f" {len(fields) - _MOST_FIELDS:,} more: --json." if len(fields) > _MOST_FIELDS else ""
    say(f"Counted by {whose}.{more} To add one to its contract: ecomflow contract promote TYPE PATH")


def _show_plan(plan: ReplayPlan) -> None:
    if not plan.chosen:
        return
    fails = sum(plan.failing.values())
    sentence = f"{plan.passing:,} of {plan.chosen:,} now pass"
    if fails:
        by_path = list(plan.failing.items())
        places = f"on {by_path[0][0]}" if len(by_path) == 1 else ", ".join(f"{count:,} on {path}" for path, count in by_path[:10])
        sentence += f", {fails:,} fail {places}" if len(by_path) == 1 else f", {fails:,} fail: {places}"
    if plan.unpublishable:
        sentence += f", {len(plan.unpublishable):,} can't be published"
    say(sentence + ".")
    for path in list(plan.failing)[:10]:
        say(f"  such as {plan.examples[path]}")
    if plan.too_recent:
        say(
            f"{plan.too_recent:,} were refused in the last 15 minutes and must wait: Dataflow would drop them as duplicates of "
            "the refused messages."
        )


def _write_lines(found: Iterator[StoredDeadLetter], file: str) -> int:
    """Writes ``file`` completely or not at all; returns the number of dead letters."""
    if file == "-":
        return _write_all(found, sys.stdout.buffer)
    target = Path(file)
    draft = target.with_name(f"{target.name}.part")
    try:
        with draft.open("wb") as output:
            count = _write_all(found, output)
        draft.replace(target)
    except OSError as error:
        raise AccessError(f"{file} can't be written: {error.strerror or error}.", "Choose another path.") from error
    finally:
        draft.unlink(missing_ok=True)
    return count


def _write_all(found: Iterator[StoredDeadLetter], output: IO[bytes]) -> int:
    count = 0
    for item in found:
        output.write(to_lines([item.letter]))
        count += 1
    return count
