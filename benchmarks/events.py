"""The events of every benchmark: the generator's own, valid, from a fixed seed and date, as received or as published messages."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count as counted
from itertools import cycle, islice
from typing import Any

import msgspec

from ecomflow.contract.events import Message
from ecomflow.generator.rounds import GeneratedEvent, generate

SEED = 7
NOW = datetime(2025, 12, 10, tzinfo=UTC)
# Of a larger number the first so many are generated, and come again under other event ids: a million would take a minute to make.
POOL = 30_000


# What a graph under measurement reads, by index: this module's list is shared with Beam's steps, one of theirs would be pickled.
HELD: list[Any] = []

_decode = msgspec.json.Decoder(float_hook=Decimal).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode


def held(index: int) -> Any:
    return HELD[index]


def messages(count: int) -> list[Message]:
    """``count`` messages in equal parts of the three types, interleaved."""
    events = generate(-(-count // 3), seed=SEED, now=NOW, valid_only=True)
    published = 1_765_000_000_000_000
    return [Message(event.data, event.attributes, str(number), published) for number, event in enumerate(events)][:count]


def to_publish(count: int, items: int | None = None) -> Iterator[GeneratedEvent]:
    """``count`` events in equal parts of the three types, interleaved, each with an event id of its own; with ``items``, every
    order has so many lines.
    """
    pool = list(islice(generate(-(-min(count, POOL) // 3), seed=SEED, now=NOW, valid_only=True), count))
    if items is not None:
        pool = [with_items(event, items) for event in pool]
    for number, event in zip(range(count), cycle(pool), strict=False):
        event_id = f"{number:08x}-0000-4000-8000-{SEED:012x}"
        yield msgspec.structs.replace(event, attributes={**event.attributes, "event_id": event_id})


def with_items(event: GeneratedEvent, items: int) -> GeneratedEvent:
    """``event``, if an order, with ``items`` lines: its own in turn, each with its own product id; the total is corrected."""
    if event.event_type != "order":
        return event
    body = _decode(event.data)
    lines = list(islice(cycle(body["items"]), items))
    body["items"] = [
        {**line, "product_id": f"{line['product_id']}-{number}"} for number, line in zip(counted(1), lines, strict=False)
    ]
    body["total_amount"] = sum((line["quantity"] * line["price"] for line in lines), Decimal())
    return msgspec.structs.replace(event, data=_encode(body), lists={"items": items})
