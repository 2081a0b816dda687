"""The dead letter: what was refused, why, and the original, so that the very same message can be published again.

Which step creates which reason:

- decode: ``malformed_json`` (``{"event_type": "ord``), ``unknown_event_type`` (``{"event_type": "refund"}``),
  ``contract_violation`` of what the types say (``$.items[0].quantity: expected int >= 1``)
- model: ``contract_violation`` of the other rules (``$.ip_address``), ``out_of_range`` (a date that no partition takes)
- write: ``rejected_by_bigquery`` (the table, and BigQuery's own words)
- any: ``processing_error`` (a fault of the pipeline itself, not of the message; ``traceback`` says where)
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec

from ecomflow import __version__
from ecomflow.contract.events import EVENT_ID, Message

Reason = Literal[
    "malformed_json", "unknown_event_type", "contract_violation", "out_of_range", "rejected_by_bigquery", "processing_error"
]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
UNKNOWN_STREAM = "unknown"
# The folder of the bucket that holds them: dlq/<stream>/<YYYY>/<MM>/<DD>/<HH>/<mm>/<unique name>.jsonl
ROOT = "dlq"
# The folder of those that were published again.
REPLAYED = "replayed"


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True):
    """One refused message. Times are UTC; ``payload`` is the data as ``payload_encoding`` says. Only a message that was published
    with an ordering key has an ``ordering_key``, and only a ``processing_error`` has a ``traceback``; other lines lack these
    fields.
    """

    reason: Reason
    error: str
    event_type: str | None
    event_id: str | None
    message_id: str | None
    publish_time: Moment | None
    attributes: dict[str, str]
    payload: str
    payload_encoding: Literal["utf-8", "base64"]
    failed_at: Moment
    pipeline_version: str
    ordering_key: str | None = None
    traceback: str | None = None


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(DeadLetter)


def dead_letter(
    message: Message,
    reason: Reason,
    error: str,
    event_type: str | None,
    failed_at: datetime,
    traceback: str | None = None,
    event_id: str | None = None,
) -> DeadLetter:
    """The dead letter of ``message``. ``event_type`` is the event's name, or what else the message says of its type, None where
    it says nothing. ``event_id`` is the event's, as the codec reads it; without one, or where it is but the message's id, the
    letter has that of the attribute ``event_id``, if any.
    """
    own_id = event_id if event_id != message.message_id else None
    try:
        payload, encoding = message.data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        payload, encoding = base64.b64encode(message.data).decode("ascii"), "base64"
    return DeadLetter(
        reason=reason,
        error=error,
        event_type=event_type,
        event_id=own_id or message.attributes.get(EVENT_ID),
        message_id=message.message_id or None,
        publish_time=_moment(message.publish_time),
        attributes=message.attributes,
        payload=payload,
        payload_encoding=encoding,  # type: ignore[arg-type]  # one of the two literals above
        failed_at=failed_at,
        pipeline_version=__version__,
        ordering_key=message.ordering_key or None,
        traceback=traceback,
    )


def _moment(publish_time: int) -> datetime | None:
    """None if there is none, or if it is not a date of the calendar."""
    try:
        return datetime.fromtimestamp(publish_time / 1e6, UTC) if publish_time else None
    except (ValueError, OverflowError, OSError):
        return None


# A key may contain blanks and colons: then the path ends where the rule begins.
_PLACED = re.compile(r"(?P<path>\$(?:[^:\s]*|.*?(?=: (?:expected |required, )))): (?P<rule>.*)", re.DOTALL)


def path_and_rule(error: str) -> tuple[str, str]:
    """An error's parts: where in the event it lies, as ``$.items[1].quantity``, and what it says of it; ``$`` for the whole."""
    match = _PLACED.fullmatch(error)
    return (match["path"], match["rule"]) if match else ("$", error)


def original(letter: DeadLetter) -> tuple[bytes, dict[str, str]]:
    """The very bytes and attributes that were refused."""
    data = (
        base64.b64decode(letter.payload, validate=True) if letter.payload_encoding == "base64" else letter.payload.encode("utf-8")
    )
    return data, letter.attributes


def to_lines(letters: list[DeadLetter]) -> bytes:
    """``letters`` as JSON lines."""
    return _ENCODER.encode_lines(letters)


def from_line(line: bytes) -> DeadLetter:
    """The dead letter on ``line``. Raises msgspec.MsgspecError if it is not one."""
    return _DECODER.decode(line)
