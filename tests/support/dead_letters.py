"""Dead letters of our own in a real bucket, and the events that they were."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from ecomflow.contract.dead_letter import UNKNOWN_STREAM, DeadLetter, Reason, dead_letter, to_lines
from ecomflow.contract.events import Message
from ecomflow.gcp.target import Target
from ecomflow.generator.rounds import GeneratedEvent
from ecomflow.pipeline.sinks.dead_letters import object_name
from tests.support.contract import TYPES, encoded, inventory, order

STATUS_ERROR = "$.status: expected one of pending, processing, shipped, delivered, cancelled, returned, got 'on_hold'"


def today(hour: str = "10:15:30Z") -> str:
    """A moment of yesterday, as an event writes it."""
    return f"{datetime.now(UTC).date() - timedelta(days=1)}T{hour}"


def letter(
    body: Any,
    error: str,
    reason: Reason = "contract_violation",
    at: datetime | None = None,
    message_id: str = "M-1",
    **attributes: str,
) -> DeadLetter:
    """The letter of ``body`` refused at ``at``, by default a moment ago."""
    event_type = body.get("event_type") if isinstance(body, dict) else None
    message = Message(encoded(body), attributes, message_id, 1_764_669_600_123_456)
    return dead_letter(message, reason, error, event_type, at or datetime.now(UTC) - timedelta(seconds=5))


def held(number: int, at: datetime | None = None) -> DeadLetter:
    """A valid order but for its status, with an ``event_id`` of its own."""
    return letter(order(status="on_hold", order_date=today()), STATUS_ERROR, at=at, event_id=f"E-{number}")


def still(number: int, at: datetime | None = None) -> DeadLetter:
    """An inventory event that moves half a piece."""
    error = "$.quantity_change: expected int, got 0.5"
    return letter(inventory(quantity_change=0.5, timestamp=today()), error, at=at, event_id=f"I-{number}")


def store(target: Target, letters: list[DeadLetter], unique: str = "x") -> str:
    """One object of the letters, which are of one stream and minute; its name."""
    stream = letters[0].event_type if letters[0].event_type in TYPES else UNKNOWN_STREAM
    name = object_name(str(stream), letters[0].failed_at, unique)
    target.bucket.blob(name).upload_from_string(to_lines(letters))
    return name


def names(target: Target, prefix: str) -> list[str]:
    """The objects of the bucket under ``prefix``."""
    return [blob.name for blob in target.bucket.list_blobs(prefix=prefix)]


def published_order(number: int, items: int = 2, fault: str | None = None, **changes: Any) -> GeneratedEvent:
    """An order to publish, valid unless ``fault`` names what ``changes`` make wrong."""
    body = order(order_id=f"O-{number}", order_date=today(), **changes)
    return GeneratedEvent(
        encoded(body),
        {"event_id": f"E-{number}"},
        "order",
        {} if fault else {"items": items},
        fault,
        "contract_violation" if fault else None,
        "order",
    )
