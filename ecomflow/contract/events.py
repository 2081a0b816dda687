"""A Pub/Sub message as the pipeline takes it, the id of its event, and the numbers that a decoder makes of its digits. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Inexact, InvalidOperation, Overflow

import msgspec

# What Arrow converts to decimal128 faithfully: at most 38 digits, below 1e29, none of them finer than 1e-37, nothing rounded.
# Wider ones it converts wrongly (0.777... of 48 digits to 0) or dies of (of five million; pyarrow 25.0). No valid amount is
# wider, so such a number leaves the fast path here.
_PLAIN = Context(prec=38, Emin=0, Emax=28, traps=[Inexact, Overflow, InvalidOperation])
plain_number = _PLAIN.create_decimal


class Message(msgspec.Struct, frozen=True, gc=False):
    """A Pub/Sub message as received. ``publish_time`` is in microseconds since the epoch, UTC."""

    data: bytes
    attributes: dict[str, str]
    message_id: str
    publish_time: int


def event_id_of(message: Message) -> str:
    """The producer's own ``event_id`` attribute where it is present, else the Pub/Sub message id."""
    return event_ids_of([message])[0]


def event_ids_of(messages: Sequence[Message]) -> list[str]:
    """``event_id_of`` each message: in one go, for a call a message would cost as much again."""
    return [message.attributes.get("event_id") or message.message_id for message in messages]
