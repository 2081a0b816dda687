"""Lines in; the line, reason and error of each that the pipeline would refuse, and a tally of the rest, out.

The judges are the pipeline's own: its codec, and the rules that are asked of a suspect event. Pure: no Beam, no cloud, the clock
passed in. Memory stays flat, however many lines come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Literal

import msgspec

from ecomflow.contract.codec import MAX_UNKNOWN_PATHS, OTHER_PATHS, Codec, TypedBatch
from ecomflow.contract.compiling import EventType
from ecomflow.contract.dead_letter import Reason, path_and_rule
from ecomflow.contract.events import Message
from ecomflow.contract.judging import UNKNOWN_FIELD_RULE
from ecomflow.contract.limits import DateRange, streamable_dates
from ecomflow.contract.lines import read_lines
from ecomflow.contract.modelling import violations_of
from ecomflow.contract.reasons import sentence

BATCH_LINES = 1_000
_BATCH_BYTES = 4 * 2**20

Fate = Literal["kept", "dropped", "refused"]


class RefusedLine(msgspec.Struct, frozen=True):
    """A line that would become a dead letter. ``line`` counts from 1; ``event_type`` is what it says of itself, or None."""

    file: str
    line: int
    reason: Reason
    error: str
    event_type: str | None


class Tally(msgspec.Struct):
    """What was checked: accepted events by type, refused ones by reason, unknown fields by (type, path), and how many accepted
    events break a rule that only counts them, by (type, rule).

    Of an event that is refused for a field that is unknown, only that field is counted.
    """

    accepted: Counter[str] = msgspec.field(default_factory=Counter)
    refused: Counter[str] = msgspec.field(default_factory=Counter)
    unknown_fields: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    rules_broken: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)


def fate_of_unknown(kind: EventType) -> Fate:
    """What happens to a field that the contract of ``kind`` does not name."""
    fates: dict[str, Fate] = {"keep": "kept", "drop": "dropped", "refuse": "refused"}
    return fates[kind.contract.unknown_fields]


def check_lines(
    lines: Iterable[bytes], file: str, now: datetime, codec: Codec, tally: Tally, dates: DateRange | None = None
) -> Iterator[RefusedLine]:
    """The refused ones of ``lines``, in their order, one message a line, as on the day of ``now``; adds all to ``tally``.
    ``dates`` are the dates that events may have, by default those that can be written on that day.

    Blank lines are passed over. ``lines.py`` says which forms a line may have.
    """
    dates = streamable_dates(now.date()) if dates is None else dates
    for messages in _batches(lines):
        decoded = codec.decode(messages, now)
        for (event_type, path), times in decoded.drift.items():
            _add_unknown(tally, event_type, path, times)
        refused = [line for part in decoded.parts for line in _refused(part, file, dates, tally)]
        tally.refused.update(line.reason for line in refused)
        yield from sorted(refused, key=lambda line: line.line)


def _batches(lines: Iterable[bytes]) -> Iterator[list[Message]]:
    """The messages on ``lines``, some thousand or some megabytes at a time."""
    batch: list[Message] = []
    size = 0
    for message in read_lines(lines):
        batch.append(message)
        size += len(message.data)
        if len(batch) == BATCH_LINES or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _refused(part: TypedBatch, file: str, dates: DateRange, tally: Tally) -> Iterator[RefusedLine]:
    for letter in part.refused:
        path, rule = path_and_rule(letter.error)
        if rule.startswith(UNKNOWN_FIELD_RULE):
            _add_unknown(tally, part.stream, path, 1)
        yield RefusedLine(file, int(letter.message_id or 0), letter.reason, letter.error, letter.event_type)
    if part.kind is None:
        return
    violations = violations_of(part, part.kind, dates)
    for index, (event, message) in enumerate(zip(part.events, part.messages, strict=True)):
        violation = violations.get(index)
        if violation is None:
            tally.accepted[part.stream] += 1
            _count_rules(part.kind, event, tally)
        else:
            yield RefusedLine(file, int(message.message_id), violation.reason, sentence(violation), part.stream)


def _count_rules(kind: EventType, event: Any, tally: Tally) -> None:
    for rule, evaluator in kind.rules.of_fields:
        if rule.otherwise == "count" and evaluator(event) is not None:
            tally.rules_broken[kind.contract.event, rule.name] += 1


def _add_unknown(tally: Tally, event_type: str, path: str, times: int) -> None:
    """Producers choose the names, so their number is bounded, as in the pipeline."""
    known = (event_type, path) in tally.unknown_fields or len(tally.unknown_fields) < MAX_UNKNOWN_PATHS
    tally.unknown_fields[event_type, path if known else OTHER_PATHS] += times
