"""A stream's typed events in; Arrow rows of its tables, and dead letters, out. Pure: no Beam, no cloud, the clock passed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator
from datetime import datetime
from itertools import compress
from typing import Any

import msgspec
import pyarrow as pa

from ecomflow.contract.buffers import NUMERIC, at_most_row_bytes
from ecomflow.contract.codec import TypedBatch, halves, violation_of_event
from ecomflow.contract.columns import Built, TableRows, TooManyRowsError, small_column
from ecomflow.contract.compiling import EventType
from ecomflow.contract.converting import SuspectError
from ecomflow.contract.dead_letter import DeadLetter, dead_letter
from ecomflow.contract.documents import body_path, violation_within
from ecomflow.contract.events import Message
from ecomflow.contract.exact import TooWideError, Vector, broken
from ecomflow.contract.language import Path, Rule
from ecomflow.contract.limits import MAX_ROW_BYTES, DateRange, streamable_dates
from ecomflow.contract.numbers import NUMERIC_SCALE
from ecomflow.contract.reasons import Violation, sentence


class Facts(msgspec.Struct, gc=False):
    """One stream's rows, the messages they came from with their events' ids, and the dead letters so far. ``rules_broken``: how
    many of its events break each rule that only counts them.
    """

    stream: str
    tables: list[TableRows]
    messages: list[Message]
    event_ids: list[str]
    refused: list[DeadLetter]
    rules_broken: Counter[str]


def model(batch: TypedBatch, now: datetime) -> Facts:
    """The rows of ``batch``; an event that breaks a rule becomes a dead letter failed at ``now``.

    Raises TooManyRowsError where the batch must be halved first.
    """
    if batch.kind is None:
        return Facts(batch.stream, [], [], [], batch.refused, Counter())
    kind, dates = batch.kind, streamable_dates(now.date())
    try:
        facts = _facts(batch, kind, dates)
    except (SuspectError, pa.ArrowException, TypeError, OverflowError):
        batch = _refuse(batch, kind, _broken_rules(batch, kind, dates), now)
        facts = _facts(batch, kind, dates)
    if any(at_most_row_bytes(part.rows) > MAX_ROW_BYTES for part in facts.tables) and (large := _large_events_in(facts.tables)):
        facts = _facts(_refuse(batch, kind, large, now), kind, dates)
    return facts


def _facts(batch: TypedBatch, kind: EventType, dates: DateRange) -> Facts:
    if not batch.events:
        return Facts(batch.stream, [], [], [], batch.refused, Counter())
    built = kind.builder.build(batch.events, batch.event_ids, batch.kept, dates)
    counted: Counter[str] = Counter()
    for rule, evaluator in kind.rules.of_fields:
        times = _times_broken(rule, evaluator, batch.events, built)
        if times and rule.otherwise == "refuse":
            raise SuspectError
        if times:
            counted[rule.name] = times
    return Facts(batch.stream, built.tables, batch.messages, batch.event_ids, batch.refused, counted)


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


def violations_of(batch: TypedBatch, kind: EventType, dates: DateRange) -> dict[int, Violation]:
    """The first rule that each event of ``batch`` breaks, by its index in it; of those that break none there is nothing."""
    found = _broken_rules(batch, kind, dates)
    whole = [index for index in range(len(batch.events)) if index not in found]
    return found | {whole[index]: large for index, large in _large_events(_without(batch, kind, found, []), kind, dates).items()}


def _broken_rules(batch: TypedBatch, kind: EventType, dates: DateRange) -> dict[int, Violation]:
    return {
        index: violation
        for index, (event, event_id) in enumerate(zip(batch.events, batch.event_ids, strict=True))
        if (violation := violation_of_event(kind, event, event_id, dates)) is not None
    }


def _large_events(batch: TypedBatch, kind: EventType, dates: DateRange) -> dict[int, Violation]:
    """The events, all of them valid otherwise, of which a row fits no request."""
    try:
        return _large_events_in(_facts(batch, kind, dates).tables)
    except TooManyRowsError:
        left, right = halves(batch)
        later = _large_events(right, kind, dates)
        return _large_events(left, kind, dates) | {len(left.events) + index: large for index, large in later.items()}


def _large_events_in(tables: list[TableRows]) -> dict[int, Violation]:
    found: dict[int, Violation] = {}
    for part in tables:
        for row, size in _large_rows(part.rows, 0):
            expected = f"at most {MAX_ROW_BYTES} bytes in a row of {part.table}"
            found.setdefault(int(part.sources[row]), Violation("out_of_range", "$", expected, str(size)))
    return found


def _large_rows(rows: pa.RecordBatch, first: int) -> Iterator[tuple[int, int]]:
    """The rows that have more than ``MAX_ROW_BYTES``, by their number from ``first``, with their bytes."""
    if rows.nbytes <= MAX_ROW_BYTES:
        return
    if rows.num_rows == 1:
        yield first, rows.nbytes
        return
    middle = rows.num_rows // 2
    yield from _large_rows(rows.slice(0, middle), first)
    yield from _large_rows(rows.slice(middle), first + middle)


def _refuse(batch: TypedBatch, kind: EventType, violations: dict[int, Violation], now: datetime) -> TypedBatch:
    """``batch`` with dead letters in the place of the events at the keys of ``violations``."""
    return _without(batch, kind, violations, _letters(batch, kind, violations, now))


def _letters(batch: TypedBatch, kind: EventType, violations: dict[int, Violation], now: datetime) -> Iterator[DeadLetter]:
    for index, violation in violations.items():
        message = batch.messages[index]
        error = sentence(violation_within(violation, body_path(message, kind.envelope)))
        yield dead_letter(message, violation.reason, error, batch.stream, now, event_id=batch.event_ids[index])


def _without(batch: TypedBatch, kind: EventType, events: Container[int], letters: Iterable[DeadLetter]) -> TypedBatch:
    """``batch`` without ``events``, by their index in it, and with ``letters`` besides what was refused before."""
    keep = [index not in events for index in range(len(batch.events))]

    def kept(items: list[Any]) -> list[Any]:
        return list(compress(items, keep))

    lists = kept(batch.events), kept(batch.event_ids), kept(batch.messages)
    return TypedBatch(batch.stream, kind, *lists, [*batch.refused, *letters], kept(batch.kept))
