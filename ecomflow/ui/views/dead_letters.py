"""Groups, dead letters and replays in; the view of the dead letters out. Pure: every value of a message is text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import msgspec

from ecomflow.contract.dead_letter import DeadLetter, path_and_rule
from ecomflow.deadletters.groups import Group
from ecomflow.deadletters.store import DeadLetterFilter, StoredDeadLetter
from ecomflow.terminal.amounts import UNKNOWN, clock_text, count_text, counted, moment_text
from ecomflow.ui.data.dead_letters import PAGE, REASONS, Found, Hits, Overview, Search
from ecomflow.ui.data.readings import Reading
from ecomflow.ui.data.replays import Replay
from ecomflow.ui.data.sampler import Sample
from ecomflow.ui.views.html import Exact, Html, join, lines, shown, table, tag
from ecomflow.ui.views.layout import button, command, notice, section, trouble
from ecomflow.ui.views.payload import MOST_CHARACTERS, shown_payload
from ecomflow.ui.views.state import state_line

if TYPE_CHECKING:
    from ecomflow.deadletters.replay import Unpublishable

_MOST_GROUPS = 200
_MOST_ATTRIBUTES = 100
_MOST_LETTERS = 200
_HEAD_CHARACTERS, _ID_CHARACTERS = 80, 14


def groups_view(sample: Sample, overview: Reading[Overview], form_token: str, search: Search, streams: Sequence[str]) -> Html:
    """The groups by cause that ``search`` matches, largest first. Reading them is expensive for the bucket, so automatic reads
    are rare.
    """
    again = button("Read again", form_token, "/dead-letters") if overview.read_at is not None else None
    note = None if overview.read_at is None else f"In the bucket as of {clock_text(overview.read_at)} UTC."
    if overview.is_reading and overview.value is not None:
        note = f"{note} Reading again: {counted(overview.progress, 'object')} so far."
    groups = section("Dead letters by cause", _groups(overview, search), note=note, beside=again)
    return join([state_line(sample), _search_form(search, streams), groups])


def _search_form(search: Search, streams: Sequence[str]) -> Html:
    """The fields of a search, as a form that works without a script."""
    fields = [
        _choice("stream", "Event type", search.stream, streams),
        _choice("reason", "Reason", search.reason, REASONS),
        _field("text", "Text in payload, error or attributes", search.text),
        _field("event_id", "Event id", search.event_id),
    ]
    clear = tag("a", "Clear", href="/dead-letters") if search != Search() else None
    buttons = tag("div", tag("button", "Search", type="submit"), clear, class_="buttons")
    return tag("form", fields, buttons, method="get", action="/dead-letters", role="search", class_="search")


def hits_view(sample: Sample, hits: Hits, search: Search, streams: Sequence[str]) -> Html:
    """The dead letters that a search by text or event id matches, newest first."""
    found = f"The newest {len(hits.letters)}, and there are more" if hits.more else f"{count_text(len(hits.letters))}"
    scope = f"of {counted(hits.searched, 'dead letter')}"
    if hits.back_to is not None:
        scope += f" back to {moment_text(hits.back_to)} UTC; for older ones: ecomflow dlq export"
    body: list[Html] = [_letter(one, number == 0, names_cause=True) for number, one in enumerate(hits.letters)]
    none = notice("No dead letter matches. Check the text and the filters, or clear them.") if not body else None
    matching = section("Matching dead letters", body, none, note=f"{found} {scope}.")
    return join([state_line(sample), _search_form(search, streams), matching])


def search_query(search: Search) -> str:
    """``search`` as the query of an address, with its question mark; empty if it matches all."""
    asked = {name: value for name, value in msgspec.structs.asdict(search).items() if value}
    return f"?{urlencode(asked)}" if asked else ""


def _choice(name: str, label: str, selected: str, values: Sequence[str]) -> Html:
    options = [tag("option", "any", value=""), *(tag("option", one, value=one, selected=one == selected) for one in values)]
    return tag("label", tag("span", label), tag("select", options, name=name))


def _field(name: str, label: str, value: str) -> Html:
    typed = tag("input", type="search", name=name, value=Exact(value), autocomplete="off", spellcheck="false")
    return tag("label", tag("span", label), typed)


def _groups(overview: Reading[Overview], search: Search) -> Html:
    if overview.value is None:
        if overview.error is not None:
            return trouble(overview.error)
        return notice(f"Reading the bucket: {counted(overview.progress, 'object')} so far.")
    found = overview.value
    parts = [trouble(overview.error) if overview.error else None]
    if not found.groups.total:
        return join([*parts, notice("There are no dead letters: no message was refused.")])
    chosen = [one for one in found.groups.groups if search.stream in ("", one.stream) and search.reason in ("", one.reason)]
    said = _total(found)
    if search != Search():
        said = (
            f"{counted(sum(one.count for one in chosen), 'dead letter')} in {counted(len(chosen), 'group')} match. In all: {said}"
        )
    parts.append(tag("p", said))
    return join([*parts, tag("ol", [_group(one) for one in chosen[:_MOST_GROUPS]], class_="groups") if chosen else None])


def _total(found: Overview) -> str:
    total = f"{counted(found.groups.total, 'dead letter')} in {counted(len(found.groups.groups), 'group')}"
    total += f", {counted(found.objects, 'object')}." if found.objects else "."
    if not found.is_whole:
        total = f"Only the newest {count_text(found.groups.total)} dead letters are grouped. To group all: ecomflow dlq stats."
    if found.unreadable:
        total += f" Unreadable under dlq/: {counted(found.unreadable, 'object')}. To list them: ecomflow dlq inspect."
    return total


def _group(one: Group) -> Html:
    cause = one.fingerprint
    link = tag("a", tag("code", shown(cause.path, 60)), " ", shown(cause.rule, 160), href=group_address(one))
    kind = [f"event type {shown(cause.event_type, 40)}"] if _is_other(one) else []
    facts = " \u00b7 ".join([one.stream, one.reason, *kind, f"last {moment_text(one.last_seen)} UTC"])
    return tag("li", tag("span", count_text(one.count), class_="count"), tag("p", link), tag("p", facts, class_="quiet"))


def _is_other(one: Group) -> bool:
    return one.fingerprint.event_type not in (None, one.stream)


def group_address(one: Group) -> str:
    """The address of a group."""
    return letters_address(DeadLetterFilter(streams=(one.stream,), reason=one.reason, fingerprint=one.fingerprint.id))


def letters_address(selected: DeadLetterFilter, limit: int | None = None) -> str:
    """The address of the newest ``limit`` dead letters of ``selected``."""
    asked = {"reason": selected.reason or ""} | ({} if limit is None else {"limit": str(limit)})
    return f"/dead-letters/{quote(selected.streams[0])}/{quote(selected.fingerprint or 'any')}?{urlencode(asked)}"


def dead_letters_view(selected: DeadLetterFilter, found: Found, replay_line: str, form_token: str | None) -> Html:
    """The newest dead letters of a group. ``form_token`` None: the page may not replay, and shows only the command."""
    title = f"{selected.streams[0]}: {selected.reason or 'any reason'}"
    parts: list[Html | None] = [tag("p", tag("a", "All groups", href="/dead-letters"), class_="back")]
    if not found.letters:
        return join([*parts, section(title, notice("There are no such dead letters anymore."))])
    parts.append(section(title, _cause(found.letters[0]), _way_back(selected, replay_line, form_token)))
    limit = len(found.letters) + PAGE
    more = (
        tag("p", tag("a", f"Show {PAGE} more", href=letters_address(selected, limit)))
        if found.more and limit <= _MOST_LETTERS
        else None
    )
    note = f"The newest {len(found.letters)}" + ("; there are more." if found.more else ".")
    parts.append(
        section("Dead letters", [_letter(one, number == 0) for number, one in enumerate(found.letters)], more, note=note)
    )
    return join(parts)


def _cause(stored: StoredDeadLetter) -> Html:
    return tag("p", shown(stored.letter.error, 400), class_="sentence")


def _way_back(selected: DeadLetterFilter, replay_line: str, form_token: str | None) -> Html:
    parts: list[Html | None] = [tag("h3", "Replay")]
    if form_token is None:
        parts.append(
            tag("p", "Once the cause is fixed, replay them with this command. With --dry-run it only says what would pass.")
        )
    else:
        fields = {"stream": selected.streams[0], "reason": selected.reason or "", "fingerprint": selected.fingerprint or ""}
        parts.append(tag("p", "See how many would pass now. Nothing is published before you confirm it."))
        parts.append(button("Preview the replay", form_token, "/replays", kind="primary", **fields))
        parts.append(tag("p", "Or in a terminal:"))
    return join([*parts, command(replay_line)])


def _letter(stored: StoredDeadLetter, is_open: bool, names_cause: bool = False) -> Html:
    """``names_cause``: its head says the stream and the reason too, because its neighbours have others."""
    letter = stored.letter
    who = letter.event_id or letter.message_id or "without an id"
    cause = f"{stored.stream}, {letter.reason}: {letter.error}" if names_cause else letter.error
    head = tag(
        "summary",
        tag("span", shown(cause, _HEAD_CHARACTERS), class_="cause"),
        " ",
        tag("span", moment_text(letter.failed_at), class_="when"),
        " ",
        tag("code", shown(who, _ID_CHARACTERS), title=shown(who, 200)),
    )
    facts = [
        ("error", shown(letter.error, 2000)),
        ("published", UNKNOWN if letter.publish_time is None else moment_text(letter.publish_time)),
        ("pipeline", shown(letter.pipeline_version, 40)),
        ("event id", shown(letter.event_id or UNKNOWN, 200)),
        ("message id", shown(letter.message_id, 80)),
        *([("ordering key", shown(letter.ordering_key, 80))] if letter.ordering_key else []),
        ("object", tag("code", shown(stored.object_name, 300))),
    ]
    fact_list = tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts], class_="facts")
    trace = [tag("h3", "Traceback"), tag("pre", lines(letter.traceback[:8000]), tabindex="0")] if letter.traceback else None
    return tag("details", head, fact_list, _payload(letter), _attributes(letter), trace, class_="letter", open=is_open)


def _payload(letter: DeadLetter) -> Html:
    path, _ = path_and_rule(letter.error)
    drawn = shown_payload(letter.payload, path)
    body = [tag("mark", lines(piece.text)) if piece.marked else lines(piece.text) for piece in drawn.pieces]
    remarks = []
    if letter.payload_encoding == "base64":
        remarks.append("The bytes are not valid UTF-8 and are shown as base64.")
    if drawn.is_cut:
        remarks.append(
            f"Only the first {count_text(MOST_CHARACTERS)} characters are shown. For all: ecomflow dlq inspect --full."
        )
    if path != "$" and not drawn.found:
        remarks.append(f"{shown(path, 120)} is not in the {'shown part' if drawn.is_cut else 'payload'}.")
    said = tag("p", " ".join(remarks), class_="quiet") if remarks else None
    return join([tag("h3", "Payload"), tag("pre", body, class_="payload", tabindex="0"), said])


def _attributes(letter: DeadLetter) -> Html:
    if not letter.attributes:
        return tag("p", "The message had no attributes.", class_="quiet")
    rows = [
        (tag("code", shown(name, 120)), shown(value, 400)) for name, value in list(letter.attributes.items())[:_MOST_ATTRIBUTES]
    ]
    return join([tag("h3", "Attributes"), table("Attributes of the message", ("attribute", "value"), rows, quiet=True)])


def replay_view(replay: Replay, form_token: str) -> Html:
    """A replay: its preview, the button that confirms it, and its result."""
    back = tag("p", tag("a", "Back to the dead letters", href=letters_address(replay.selected)), class_="back")
    sentences: dict[str, str] = {
        "planning": f"Checking each dead letter with the pipeline's own steps: {count_text(replay.count)} objects read.",
        "publishing": f"Publishing: {count_text(replay.count)} events so far.",
    }
    parts: list[Html | None] = [tag("p", sentences[replay.stage], role="status")] if replay.stage in sentences else []
    if replay.error is not None:
        parts.append(trouble(replay.error))
    if replay.plan is not None:
        parts.append(_plan(replay))
    if replay.stage == "planned" and replay.plan is not None and replay.plan.passing:
        label = f"Publish {count_text(replay.plan.passing)} again"
        parts.append(button(label, form_token, f"/replays/{replay.id}", kind="primary"))
    if replay.summary is not None:
        parts.append(_summary(replay))
    return join([back, section("Replay", parts)])


def _plan(replay: Replay) -> Html:
    plan = replay.plan
    assert plan is not None
    if not plan.chosen:
        return notice("There are no such dead letters.")
    failing = sum(plan.failing.values())
    sentence = f"{count_text(plan.passing)} of {count_text(plan.chosen)} now pass."
    if failing:
        sentence += f" {'The other' if plan.passing else 'All'} {count_text(failing)} would fail again; they stay in dlq/."
    if plan.too_recent:
        sentence += (
            f" {count_text(plan.too_recent)} were refused within the last 15 minutes: Dataflow would drop them as duplicates."
        )
    parts = [tag("p", sentence, class_="sentence", role="status")]
    if plan.failing:
        parts.append(_failing(list(plan.failing.items())[:20], plan.examples))
    if plan.unpublishable:
        parts.append(_unpublishable(plan.unpublishable))
    return join(parts)


def _unpublishable(refused: Sequence[Unpublishable]) -> Html:
    title = f"{counted(len(refused), 'dead letter')} that Pub/Sub does not take, and that stay in dlq/"
    rows = [(tag("code", shown(one.event_id, 80)), shown(one.error, 200)) for one in refused[:20]]
    return table(title, ("event id", "why"), rows, quiet=True)


def _failing(failing: Sequence[tuple[str, int]], examples: dict[str, str]) -> Html:
    rows = [(tag("code", shown(path, 80)), count_text(amount), shown(examples.get(path, ""), 200)) for path, amount in failing]
    return table("What still fails", ("path", "count", "example"), rows, right=("count",), quiet=True)


def _summary(replay: Replay) -> Html:
    summary = replay.summary
    assert summary is not None
    sentence = f"Published {count_text(summary.published)} again and moved {count_text(summary.moved)} to replayed/."
    sentence += f" {count_text(summary.left)} stay in dlq/: their objects changed meanwhile." if summary.left else ""
    said = tag("div", tag("p", sentence, class_="sentence"), class_="notice", data_tone="good", role="status")
    return join([said, _unpublishable(summary.unpublishable) if summary.unpublishable else None])
