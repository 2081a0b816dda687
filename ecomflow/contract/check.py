"""JSON lines flow in; the line, reason and error of each that the pipeline would refuse flow out, and a tally of the rest.

The judges are the pipeline's own: its decoder, and the rules that its model asks of a suspect event. Pure: no Beam, no cloud, no
Arrow, the clock passed in. Memory stays flat, however many lines come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

import msgspec

from ecomflow.contract.dead_letter import Reason
from ecomflow.contract.decode import MAX_UNKNOWN_PATHS, OTHER_PATHS, PORTION_BYTES, StreamBatch, decode_messages
from ecomflow.contract.events import Event, Message, Order, event_id_of
from ecomflow.contract.limits import (
    DEFAULT_ORDER_TOTALS,
    DateRange,
    OrderTotals,
    Violation,
    first_violation,
    streamable_dates,
    total_violation,
)

BATCH_LINES = 1_000


class RefusedLine(msgspec.Struct, frozen=True):
    """A line that would become a dead letter. ``line`` counts from 1; ``event_type`` is what it says of itself, or None."""

    file: str
    line: int
    reason: Reason
    error: str
    event_type: str | None


class Tally(msgspec.Struct):
    """What was checked: accepted events by type, refused ones by reason, unknown fields by (type, path), and how many accepted
    orders have another total than their lines, where that is counted.
    """

    accepted: Counter[str] = msgspec.field(default_factory=Counter)
    refused: Counter[str] = msgspec.field(default_factory=Counter)
    drift: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    totals_differ: int = 0


class _Rules(NamedTuple):
    dates: DateRange
    order_totals: OrderTotals


def check_lines(
    lines: Iterable[bytes], file: str, now: datetime, tally: Tally, order_totals: OrderTotals = DEFAULT_ORDER_TOTALS
) -> Iterator[RefusedLine]:
    """The refused ones of ``lines``, in their order, one event a line, as on the day of ``now``; adds all of them to ``tally``.

    Blank lines are passed over. An event without attributes is meant: ``file`` and the line are all that names it.
    """
    rules = _Rules(streamable_dates(now.date()), order_totals)
    for messages in _batches(lines):
        decoded = decode_messages(messages, now)
        _add_drift(tally, decoded.drift)
        refused = [line for part in decoded.streams.values() for line in _refused(part, file, rules, tally)]
        tally.refused.update(line.reason for line in refused)
        yield from sorted(refused, key=lambda line: line.line)


def _batches(lines: Iterable[bytes]) -> Iterator[list[Message]]:
    """Lines as messages whose id is the line's number, some thousand or some megabytes at a time."""
    batch: list[Message] = []
    size = 0
    for number, line in enumerate(lines, start=1):
        if line.isspace():
            continue
        batch.append(Message(line.rstrip(b"\r\n"), {}, str(number), 0))
        size += len(line)
        if len(batch) == BATCH_LINES or size > PORTION_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _refused(part: StreamBatch, file: str, rules: _Rules, tally: Tally) -> Iterator[RefusedLine]:
    for letter in part.refused:
        yield RefusedLine(file, int(letter.message_id or 0), letter.reason, letter.error, letter.event_type)
    for event, message in zip(part.events, part.messages, strict=True):
        violation = first_violation(event, rules.dates, event_id_of(message)) or _of_total(event, rules, tally)
        if violation is None:
            tally.accepted[part.stream] += 1
        else:
            yield RefusedLine(file, int(message.message_id), violation.reason, violation.error, part.stream)


def _of_total(event: Event, rules: _Rules, tally: Tally) -> Violation | None:
    """What is wrong with an order's total, where it is to be refused for that; else it is counted."""
    if rules.order_totals == "ignore" or not isinstance(event, Order):
        return None
    violation = total_violation(event)
    if violation is not None and rules.order_totals == "count":
        tally.totals_differ += 1
        return None
    return violation


def _add_drift(tally: Tally, drift: Counter[tuple[str, str]]) -> None:
    """Producers choose the names, so their number is bounded, as in the pipeline."""
    for (event_type, path), amount in drift.items():
        known = (event_type, path) in tally.drift or len(tally.drift) < MAX_UNKNOWN_PATHS
        tally.drift[(event_type, path if known else OTHER_PATHS)] += amount
