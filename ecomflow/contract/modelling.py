"""A stream's typed events in; Arrow rows of its tables, and dead letters, out. Pure: no Beam, no cloud, the clock passed in."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

import msgspec
import pyarrow as pa

from ecomflow.contract.buffers import NUMERIC
from ecomflow.contract.codec import TypedBatch, violation_of_event
from ecomflow.contract.columns import Built, TableRows, small_column
from ecomflow.contract.compiling import EventType
from ecomflow.contract.converting import SuspectError
from ecomflow.contract.dead_letter import DeadLetter, dead_letter
from ecomflow.contract.documents import body_path, violation_within
from ecomflow.contract.events import Message
from ecomflow.contract.exact import TooWideError, Vector, broken
from ecomflow.contract.language import Path, Rule
from ecomflow.contract.limits import DateRange, streamable_dates
from ecomflow.contract.numbers import NUMERIC_SCALE
from ecomflow.contract.reasons import sentence


class Facts(msgspec.Struct, gc=False):
    """One stream's rows, the messages they came from, and the dead letters so far. ``rules_broken``: how many of its events break
    each rule that only counts them.
    """

    stream: str
    tables: list[TableRows]
    messages: list[Message]
    refused: list[DeadLetter]
    rules_broken: Counter[str]


def model(batch: TypedBatch, now: datetime) -> Facts:
    """The rows of ``batch``; an event that breaks a rule becomes a dead letter failed at ``now``.

    Raises TooManyRowsError where the batch must be halved first.
    """
    if batch.kind is None:
        return Facts(batch.stream, [], [], batch.refused, Counter())
    dates = streamable_dates(now.date())
    try:
        return _facts(batch, batch.kind, dates)
    except (SuspectError, pa.ArrowException, TypeError, OverflowError):
        return _facts(_without_violations(batch, batch.kind, dates, now), batch.kind, dates)


def _facts(batch: TypedBatch, kind: EventType, dates: DateRange) -> Facts:
    if not batch.events:
        return Facts(batch.stream, [], [], batch.refused, Counter())
    built = kind.builder.build(batch.events, batch.event_ids, batch.kept, dates)
    counted: Counter[str] = Counter()
    for rule, evaluator in kind.rules.of_fields:
        times = _times_broken(rule, evaluator, batch.events, built)
        if times and rule.otherwise == "refuse":
            raise SuspectError
        if times:
            counted[rule.name] = times
    return Facts(batch.stream, built.tables, batch.messages, batch.refused, counted)


def _times_broken(rule: Rule, evaluator: Any, events: list[Any], built: Built) -> int:
    """How many of ``events`` break ``rule``: by their columns where every number is small, else event by event."""

    def column(path: Path) -> Vector:
        small = small_column(built, path.names) if path.names in built.columns else None
        if small is None:
            raise TooWideError
        return Vector(small.values, NUMERIC_SCALE if built.columns[path.names].type == NUMERIC else 0, small.bound)

    def starts(path: Path) -> Any:
        found = next((start for each, start in built.starts.items() if path.names[: len(each)] == each), None)
        if found is None:
            raise TooWideError
        return found

    try:
        return broken(rule.check, column, starts)
    except TooWideError:
        return sum(evaluator(event) is not None for event in events)


def _without_violations(batch: TypedBatch, kind: EventType, dates: DateRange, now: datetime) -> TypedBatch:
    good = TypedBatch(batch.stream, kind, [], [], [], list(batch.refused), [])
    for index, (event, event_id, message) in enumerate(zip(batch.events, batch.event_ids, batch.messages, strict=True)):
        violation = violation_of_event(kind, event, event_id, dates)
        if violation is not None:
            error = sentence(violation_within(violation, body_path(message, kind.envelope)))
            good.refused.append(dead_letter(message, violation.reason, error, batch.stream, now, event_id=event_id))
            continue
        if batch.kept:
            good.kept.append(batch.kept[index])
        good.events.append(event)
        good.event_ids.append(event_id)
        good.messages.append(message)
    return good
