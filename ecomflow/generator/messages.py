"""The body of an event in; the message that carries it, data and attributes, out. Every generated event goes through here."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any

import msgspec

from ecomflow.contract.envelope import ECOMFLOW, Envelope
from ecomflow.contract.envelope import to_message as enveloped
from ecomflow.contract.events import EVENT_ID
from ecomflow.contract.language import TYPE_KEY

# An event's body before encoding, without its type. Exact numbers are msgspec.Raw, the very digits, or decimals.
Body = dict[str, Any]

VERSION_ATTRIBUTE = "event_version"

# The bits of a UUID that say version 4 and variant 2, and all the others.
_VERSION = 0x4000_8000_0000_0000_0000
_NOT_VERSION = ~0xF000_C000_0000_0000_0000

_ENCODER = msgspec.json.Encoder(decimal_format="number")
encode = _ENCODER.encode


def to_message(
    body: Body, event_type: str | None, event_id: str, time: str, version: int | None = None, envelope: Envelope = ECOMFLOW
) -> tuple[bytes, dict[str, str]]:
    """Data and attributes of the message of an event.

    ``event_type`` is None for an event that does not say its type, which only the default envelope allows; ``version`` for one
    that does not say its version.
    """
    if envelope is not ECOMFLOW and event_type is not None:
        data, attributes = enveloped(envelope, event_type, event_id, version, encode(body))
        return data, {**attributes, EVENT_ID: event_id, "event_timestamp": time}
    attributes = {EVENT_ID: event_id, "event_timestamp": time}
    if version is not None:
        attributes[VERSION_ATTRIBUTE] = str(version)
    return (encode(body) if event_type is None else encode_typed(body, event_type)), attributes


def encode_typed(body: Body, event_type: str) -> bytes:
    """``body`` as JSON that says its type."""
    return _start(event_type) + encode(body)[1:] if body else encode({TYPE_KEY: event_type})


@cache
def _start(event_type: str) -> bytes:
    """The beginning of an object, its type and a comma."""
    return encode({TYPE_KEY: event_type})[:-1] + b","


def uuid4(ids: Random) -> str:
    """A version 4 UUID (RFC 9562) from a seeded source, several times faster than ``uuid.UUID``."""
    digits = "%032x" % (ids.getrandbits(128) & _NOT_VERSION | _VERSION)  # a third faster than a format string
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
