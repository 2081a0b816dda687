"""Messages in; typed events by stream, and dead letters, out. Pure: no Beam, no cloud, the clock passed in.

The fast path is one call of the typed decoder a message. A message that it refuses takes the slow path, which says whether the
message is malformed, unknown, in breach of the contract, or merely carries fields that the contract does not name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal, DecimalException
from operator import attrgetter
from typing import Any, Literal, get_args, get_origin

import msgspec

from ecomflow.contract.dead_letter import DeadLetter, Reason, dead_letter, stream_of
from ecomflow.contract.events import EVENT_DECODER, EVENT_TYPES, Event, Message, Order, event_ids_of, plain_number
from ecomflow.contract.nesting import MAX_DEPTH, is_too_deep
from ecomflow.contract.rules import money_violation


class StreamBatch(msgspec.Struct, gc=False):
    """One stream's part of a batch: parallel lists of events, their ids and their messages; and what was refused."""

    stream: str
    events: list[Any]
    event_ids: list[str]
    messages: list[Message]
    refused: list[DeadLetter]


class DecodedBatch(msgspec.Struct):
    """A batch by stream (every stream of ``rejected.STREAMS`` that occurs), and its unknown fields, counted by (type, path)."""

    streams: dict[str, StreamBatch]
    drift: Counter[tuple[str, str]]


# What decoding bytes raises, all of it: syntax and types, UTF-8, nesting, numbers that no amount can be.
_DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, DecimalException)


# How much is decoded at a time: the events of a message can take twenty times its bytes while they wait to become rows.
PORTION_BYTES = 8 * 2**20

# Distinct unknown fields that a batch names; a message of 10 MB has room for a million. The rest is counted as one of its type.
MAX_UNKNOWN_PATHS = 1_000
OTHER_PATHS = "other"


def portions(messages: list[Message]) -> Iterator[list[Message]]:
    """``messages`` in their order, in lists of ``PORTION_BYTES`` of data, or of a single larger message."""
    first = size = 0
    for index, message in enumerate(messages):
        size += len(message.data)
        if size > PORTION_BYTES and index > first:
            yield messages[first:index]
            first, size = index, len(message.data)
    if first < len(messages):
        yield messages[first:]


def decode_messages(messages: Sequence[Message], now: datetime) -> DecodedBatch:
    """Each message as an event of its stream, or as a dead letter failed at ``now``."""
    batch = DecodedBatch({}, Counter())
    by_type = {kind: _appends(_stream(batch, name)) for name, kind in EVENT_TYPES.items()}
    for event, event_id, message in zip(_events(messages, now, batch), event_ids_of(messages), messages, strict=True):
        if event is not None:
            add_event, add_id, add_message = by_type[type(event)]
            add_event(event)
            add_id(event_id)
            add_message(message)
    batch.streams = {name: part for name, part in batch.streams.items() if part.events or part.refused}
    return batch


def _events(messages: Sequence[Message], now: datetime, batch: DecodedBatch) -> list[Event | None]:
    """The event of each message, None for a refused one, whose dead letter is filed in ``batch``.

    ``extend`` keeps what was decoded before one that raises, and ``map`` goes on behind it: no loop of ours for the many.
    """
    events: list[Event | None] = []
    decoded = map(EVENT_DECODER.decode, map(_data_of, messages))
    while len(events) < len(messages):
        try:
            events.extend(decoded)
        except _DECODE_ERRORS:
            events.append(_decode_slowly(messages[len(events)], now, batch))
    return events


_data_of = attrgetter("data")


def _appends(part: StreamBatch) -> tuple[Callable[[Any], None], ...]:
    """How an event, its id and its message are added: looked up once, not for each of them."""
    return part.events.append, part.event_ids.append, part.messages.append


def _stream(batch: DecodedBatch, name: str) -> StreamBatch:
    return batch.streams.setdefault(name, StreamBatch(name, [], [], [], []))


def _decode_slowly(message: Message, now: datetime, batch: DecodedBatch) -> Event | None:
    """The event of a message that only has unknown fields, which are counted; else None, with the dead letter filed."""
    outcome = read_document(message.data)
    if isinstance(outcome, Refusal):
        letter = dead_letter(message, outcome.reason, outcome.error, outcome.event_type, now)
        _stream(batch, stream_of(letter)).refused.append(letter)
        return None
    event, unknown = outcome
    name = str(type(event).__struct_config__.tag)
    for path in unknown:
        key = (name, path)
        if key not in batch.drift:
            key = key if len(batch.drift) < MAX_UNKNOWN_PATHS else (name, OTHER_PATHS)
        batch.drift[key] += 1
    return event


# The path of a field that the contract does not name, array indices left out.
UnknownPath = str


class Refusal(msgspec.Struct, frozen=True):
    """Why a document is no event. ``event_type`` is what it says of itself, None where it says nothing."""

    reason: Reason
    error: str
    event_type: str | None


def read_document(data: bytes) -> tuple[Event, list[UnknownPath]] | Refusal:
    """The event in ``data`` and the path of each field that the contract does not name; or the refusal."""
    if is_too_deep(data):
        return Refusal("malformed_json", f"$: expected at most {MAX_DEPTH} levels of objects and arrays, got more", None)
    try:
        document = _parse(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        found = str(error).splitlines()[0]
        return Refusal("malformed_json", f"$: expected a JSON object in UTF-8, got bytes that are none: {found}", None)
    if not isinstance(document, dict):
        return Refusal("unknown_event_type", f"$: expected an object, got {_json_type(document)}", None)
    name = document.get("event_type")
    if not isinstance(name, str) or name not in EVENT_TYPES:
        return _unknown_type(document)
    unknown: list[UnknownPath] = []
    try:
        event = msgspec.convert(_known_part(document, EVENT_TYPES[name], "$", unknown), Event)
    except msgspec.ValidationError as error:
        return Refusal("contract_violation", _sentence(error), name)
    if isinstance(event, Order) and (violation := money_violation(event)):
        return Refusal(violation.reason, violation.error, name)  # here, so that no number too wide for Arrow goes on
    return event, unknown


def _unknown_type(document: dict[str, Any]) -> Refusal:
    expected = f"$.event_type: expected one of {', '.join(EVENT_TYPES)}"
    if "event_type" not in document:
        return Refusal("unknown_event_type", f"{expected}, but it is missing", None)
    name = document["event_type"]
    if not isinstance(name, str):
        return Refusal("unknown_event_type", f"{expected}, got {_json_type(name)}", None)
    return Refusal("unknown_event_type", f"{expected}, got {_clipped(repr(name))}", name)


def _parse(data: bytes) -> Any:
    """The JSON document, every number exact; where an integer is too long for Python to read, those of its kind are cut short."""
    try:
        return _DOCUMENT_DECODER.decode(data)
    except msgspec.ValidationError:  # an integer of more than 4,300 digits
        return _DOCUMENT_DECODER.decode(_LONG_INTEGER.sub(_shortened, data))


def exact_number(digits: str) -> Decimal:
    for read in (plain_number, Decimal):
        try:
            return read(digits)
        except DecimalException:
            continue
    return Decimal("Infinity")  # an exponent beyond any decimal: refused wherever the contract names a number


_DOCUMENT_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=exact_number)

# A whole string, closed or not, so that digits within one stay; or an integer of more than 4,000 digits, its rest as a group.
_LONG_INTEGER = re.compile(rb'"(?:[^"\\]|\\.)*+"?|(-?[0-9]{4000})([0-9]++)(?![.eE])', re.DOTALL)


def _shortened(match: re.Match[bytes]) -> bytes:
    """The first 4,000 digits, out of every column's range as the whole is; and blanks, so that later faults keep their place."""
    kept, rest = match.groups()
    return match[0] if kept is None else kept + b" " * len(rest)


# The fields of each struct, and the struct that a field holds or lists: {"items": Item, "order_id": None, ...}.
def _shape(kind: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct] | None]:
    return {field.encode_name: _struct_within(msgspec.inspect.type_info(field.type)) for field in msgspec.structs.fields(kind)}


def _struct_within(info: msgspec.inspect.Type) -> type[msgspec.Struct] | None:
    if isinstance(info, msgspec.inspect.ListType):
        info = info.item_type
    return info.cls if isinstance(info, msgspec.inspect.StructType) else None


def _all_structs(kind: type[msgspec.Struct]) -> set[type[msgspec.Struct]]:
    return {kind}.union(*(_all_structs(inner) for inner in _shape(kind).values() if inner is not None))


_SHAPES = {kind: _shape(kind) for event in EVENT_TYPES.values() for kind in _all_structs(event)}


def _known_part(value: dict[str, Any], kind: type[msgspec.Struct], path: str, unknown: list[UnknownPath]) -> dict[str, Any]:
    """``value`` without the fields that ``kind`` does not name, whose paths are added to ``unknown``."""
    shape = _SHAPES[kind]
    known = {}
    for name, part in value.items():
        if name in shape:
            known[name] = _known_field(part, shape[name], f"{path}.{name}", unknown)
        elif name == "event_type" and path == "$":
            known[name] = part
        else:
            unknown.append(f"{path}.{name[:64]}")
    return known


def _known_field(value: Any, kind: type[msgspec.Struct] | None, path: str, unknown: list[UnknownPath]) -> Any:
    """No deeper than the contract itself, however deeply ``value`` is nested."""
    if kind is None:
        return value
    if isinstance(value, list):
        return [_known_part(one, kind, f"{path}[]", unknown) if isinstance(one, dict) else one for one in value]
    return _known_part(value, kind, path, unknown) if isinstance(value, dict) else value


_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_ENUM = re.compile(r"Invalid enum value (.*)", re.DOTALL)
_EXPECTED_VALUES = {
    field.encode_name: ", ".join(get_args(field.type))
    for kind in _SHAPES
    for field in msgspec.structs.fields(kind)
    if get_origin(field.type) is Literal
}
_TIMESTAMP_FAULTS = ("Invalid RFC3339 encoded datetime", "Expected `datetime` with a timezone component")


def _sentence(error: msgspec.ValidationError) -> str:
    """msgspec's words with the path first: ``$.items[1].quantity: expected int >= 1``."""
    match = _AT.match(str(error))
    assert match is not None  # the pattern takes any text
    what, path = match["what"], match["path"] or "$"
    if missing := _MISSING.fullmatch(what):
        return f"{path}.{missing[1]}: required, but missing"
    if wrong := _ENUM.fullmatch(what):
        return f"{path}: expected one of {_EXPECTED_VALUES[path.rpartition('.')[2]]}, got {_clipped(wrong[1])}"
    if what in _TIMESTAMP_FAULTS:
        return f"{path}: expected RFC 3339 date-time with an offset or Z"
    plain = what.replace("`decimal`", "number").replace("`", "")
    return f"{path}: {plain[:1].lower()}{plain[1:]}"


def _clipped(quoted: str) -> str:
    return quoted if len(quoted) <= 60 else f"{quoted[:56]}...{quoted[0]}"


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    names: dict[type, str] = {bool: "bool", str: "str", list: "array", dict: "object"}
    return names.get(type(value), "number")
