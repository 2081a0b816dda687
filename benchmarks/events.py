"""The events of every benchmark: the generator's own, valid, from a fixed seed and date, as received messages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ecomflow.events import Message
from ecomflow.generator.rounds import generate

SEED = 7
NOW = datetime(2025, 12, 10, tzinfo=UTC)


# What a graph under measurement reads, by index: this module's list is shared with Beam's steps, one of theirs would be pickled.
HELD: list[Any] = []


def held(index: int) -> Any:
    return HELD[index]


def messages(count: int) -> list[Message]:
    """``count`` messages in equal parts of the three types, interleaved."""
    events = generate(-(-count // 3), seed=SEED, now=NOW, valid_only=True)
    published = 1_765_000_000_000_000
    return [Message(event.data, event.attributes, str(number), published) for number, event in enumerate(events)][:count]
