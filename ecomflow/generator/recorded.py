"""Lines of a file in; the messages on them, as events to publish, out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec

from ecomflow.contract.codec import Codec
from ecomflow.contract.dead_letter import UNKNOWN_STREAM
from ecomflow.contract.documents import Read
from ecomflow.contract.envelope import ECOMFLOW, Envelope
from ecomflow.contract.events import EVENT_ID, Message
from ecomflow.contract.language import TYPE_KEY, Contract
from ecomflow.contract.lines import read_lines
from ecomflow.contract.nesting import is_too_deep
from ecomflow.errors import EcomflowError
from ecomflow.gcp.publishing import unpublishable, without_tracing
from ecomflow.generator.messages import VERSION_ATTRIBUTE
from ecomflow.generator.rounds import GeneratedEvent, lists_counter, slots_of

_Counter = Callable[[dict[str, Any]], dict[str, int]]
_decode = msgspec.json.Decoder().decode


class PassedOver(NamedTuple):
    """A line whose message Pub/Sub would refuse, by its number from 1, and why."""

    line: int
    error: str


def recorded_events(
    lines: Iterable[bytes],
    contracts: Sequence[Contract],
    envelope: Envelope = ECOMFLOW,
    *,
    passed_over: list[PassedOver] | None = None,
) -> Iterator[GeneratedEvent]:
    """The message on each of ``lines``: its bytes, ordering key and attributes as they are, but for those of a trace.
    ``contract/lines.py``: which forms a line may have.

    A message without the attribute ``event_id`` is given one: the id in its envelope, or else a new one. Whether the pipeline
    takes it is not looked at: it has no ``fault``, and its type is what it says of itself, where that is in force. A message that
    Pub/Sub would refuse, and with it the others of its request, is added to ``passed_over``; without that it is an EcomflowError.
    """
    counters = {(slot.contract.event, _version(slot.version)): lists_counter(slot.contract) for slot in slots_of(contracts)}
    codec = None if envelope == ECOMFLOW else Codec(contracts, envelope)
    for message in read_lines(lines):
        attributes = without_tracing(message.attributes)
        envelope_id = None if codec is None else codec.event_id_of(message)
        if not attributes.get(EVENT_ID):
            attributes = {**attributes, EVENT_ID: envelope_id or str(uuid4())}
        if codec is None:
            event_type, lists = _type_and_lists(message.data, attributes.get(VERSION_ATTRIBUTE), counters)
        else:
            event_type, lists = _stream_of(codec, message), {}
        key = message.ordering_key
        event = GeneratedEvent(message.data, attributes, event_type, lists, None, None, event_type, envelope_id, key)
        if (error := unpublishable(event)) is None:
            yield event
        elif passed_over is None:
            raise EcomflowError(f"Line {message.message_id} can't be published: {error}.", "Correct it.")
        else:
            passed_over.append(PassedOver(int(message.message_id), error))


def _stream_of(codec: Codec, message: Message) -> str:
    """The stream of a message in an envelope of the user's."""
    outcome = codec.read(message)
    if isinstance(outcome, Read):
        return outcome.kind.contract.event
    return outcome.event_type if outcome.event_type in codec.kinds else UNKNOWN_STREAM


def _version(version: int | None) -> str | None:
    return None if version is None else str(version)


def _type_and_lists(
    data: bytes, version: str | None, counters: dict[tuple[str, str | None], _Counter]
) -> tuple[str, dict[str, int]]:
    if is_too_deep(data):  # the pipeline will refuse it
        return UNKNOWN_STREAM, {}
    try:
        body = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # and this
        return UNKNOWN_STREAM, {}
    event_type = body.get(TYPE_KEY) if isinstance(body, dict) else None
    if not isinstance(event_type, str) or (event_type, None) not in counters:
        return UNKNOWN_STREAM, {}
    return event_type, counters.get((event_type, version), counters[event_type, None])(body)
