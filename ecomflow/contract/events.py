"""A Pub/Sub message as the pipeline takes it, and the numbers that a decoder makes of its digits. Pure."""

from __future__ import annotations

from decimal import Context, Inexact, InvalidOperation, Overflow

import msgspec

# What Arrow converts to decimal128 faithfully: at most 38 digits, below 1e29, none of them finer than 1e-37, nothing rounded.
# Wider ones it converts wrongly (0.777... of 48 digits to 0) or dies of (of five million; pyarrow 25.0). No valid amount is
# wider, so such a number leaves the fast path here.
_PLAIN = Context(prec=38, Emin=0, Emax=28, traps=[Inexact, Overflow, InvalidOperation])
plain_number = _PLAIN.create_decimal


# The attribute by which a message without an id of its producer's in its envelope is known, if it has it: a replay sets it.
EVENT_ID = "event_id"


class Message(msgspec.Struct, frozen=True, gc=False):
    """A Pub/Sub message as received. ``publish_time`` is in microseconds since the epoch, UTC; ``ordering_key`` is empty if the
    message has none.
    """

    data: bytes
    attributes: dict[str, str]
    message_id: str
    publish_time: int
    ordering_key: str = ""
