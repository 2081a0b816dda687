"""One message in; its event, or why it is none, out: the slow path of decoding, which looks at everything. Pure."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from decimal import DecimalException
from typing import Any

import msgspec
from msgspec import Raw

from ecomflow.contract.compiling import EventType
from ecomflow.contract.dead_letter import Reason
from ecomflow.contract.encodings import encoding_of
from ecomflow.contract.envelope import Envelope, Keys, Location, json_path, mode_of
from ecomflow.contract.events import Message, plain_number
from ecomflow.contract.nesting import MAX_DEPTH, is_too_deep
from ecomflow.contract.numbers import exact_number
from ecomflow.contract.reasons import Violation, json_type, one_of, sentence, shown
from ecomflow.contract.unknown import split

# What decoding bytes raises, all of it: syntax and types, UTF-8, nesting, numbers that no amount can be.
DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, DecimalException)

# The versions of one event, the lowest first; and those of each, by its type in the envelope.
Versions = Mapping[int, EventType]
Types = Mapping[str, Versions]

_members = msgspec.json.Decoder(dict[str, Raw]).decode


class Refusal(msgspec.Struct, frozen=True):
    """Why a message is no event. ``event_type`` is the name of the event, where the type that it says is known, else that type,
    else None.
    """

    reason: Reason
    error: str
    event_type: str | None


class Read(msgspec.Struct, frozen=True):
    """An event that the slow path has read: its unknown part as JSON, or None, the paths of that, and their keys in full."""

    kind: EventType
    event: Any
    event_id: str | None
    unknown: bytes | None
    paths: list[str]
    keys: list[tuple[tuple[str, ...], str]]


class _Document(msgspec.Struct, gc=False):
    """A JSON document: parsed, as it can be read (``_parse``), and as it came; and the path of the message that leads to it."""

    value: Any
    readable: bytes
    data: bytes
    path: str


def read(message: Message, envelope: Envelope, types: Types) -> Read | Refusal:
    """The event of ``message``, or the first reason why it has none."""
    envelope = envelope if envelope.binary is None else mode_of(envelope, message)
    attribute = envelope.type.attribute
    said = _name(types.get(message.attributes.get(attribute, ""))) if attribute else None
    document = _parsed(message.data, "$", said)
    if isinstance(document, Refusal):
        return document
    if type(document.value) is not dict and (envelope.body or not attribute):
        return Refusal("unknown_event_type", f"$: expected an object, got {_no_object(document.value)}", said)
    found = _found(message, document.value, envelope.type)
    versions = types.get(found) if type(found) is str else None
    return _unknown_type(found, envelope.type, types) if versions is None else _read(message, document, envelope, versions)


def _read(message: Message, document: _Document, envelope: Envelope, versions: Versions) -> Read | Refusal:
    kind = _version(message, document.value, envelope, versions)
    if isinstance(kind, Refusal):
        return kind
    body = _body(document, envelope, kind) if envelope.body else document
    if isinstance(body, Refusal):
        return body
    violation = kind.judge(body.value)
    if violation is not None:
        return _refusal(violation, body.path, kind)
    event_id = _event_id(message, document.value, envelope.ids, kind)
    return event_id if isinstance(event_id, Refusal) else _event_of(kind, body, event_id)


def _parsed(data: bytes, path: str, name: str | None) -> _Document | Refusal:
    if is_too_deep(data):
        error = f"{path}: expected at most {MAX_DEPTH} levels of objects and arrays, got more"
        return Refusal("malformed_json", error, name)
    try:
        value, readable = _parse(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Refusal("malformed_json", f"{path}: expected a JSON object in UTF-8, got {no_json(data, error)}", name)
    return _Document(value, readable, data, path)


def _name(versions: Versions | None) -> str | None:
    return next(iter(versions.values())).contract.event if versions else None


def _unknown_type(found: Any, place: Location, types: Types) -> Refusal:
    expected = _expected(place, types)
    if found is _MISSING:
        return Refusal("unknown_event_type", f"{expected}, but it is missing", None)
    return Refusal("unknown_event_type", f"{expected}, got {shown(found)}", found if isinstance(found, str) else None)


def _version(message: Message, document: Any, envelope: Envelope, versions: Versions) -> EventType | Refusal:
    lowest = next(iter(versions.values()))
    if len(versions) == 1:
        return lowest
    for place in envelope.versions:
        found = _found(message, document, place)
        if found is _MISSING or found is None:
            continue
        by_text = {str(version): kind for version, kind in versions.items()}
        if type(found) in (str, int) and str(found) in by_text:
            return by_text[str(found)]
        error = f"{_expected(place, by_text)}, got {shown(found)}"
        return Refusal("contract_violation", error, lowest.contract.event)
    return lowest


def _event_id(message: Message, document: Any, places: tuple[Location, ...], kind: EventType) -> str | Refusal | None:
    for place in places:
        found = _found(message, document, place)
        if type(found) in (str, int):
            return str(found)
        if found is not _MISSING and found is not None:
            error = f"{json_path(place.keys)}: expected str | int | null, got {shown(found)}"
            return Refusal("contract_violation", error, kind.contract.event)
    return None


def event_id_of(message: Message, envelope: Envelope) -> str | None:
    """The producer's own id of any message, None where none can be read."""
    for place in mode_of(envelope, message).ids:
        try:
            found = message.attributes.get(place.attribute) if place.attribute else _value(_raw_at(message.data, place.keys))
        except (*DECODE_ERRORS, KeyError):
            continue
        if found is not None:
            return str(found) or None
    return None


_value = msgspec.json.Decoder(str | int | None).decode
_MISSING: Any = object()


def _found(message: Message, document: Any, place: Location) -> Any:
    """What stands there; an attribute that is empty is missing."""
    if place.attribute is not None:
        return message.attributes.get(place.attribute) or _MISSING
    return _at(document, place.keys)


def _at(document: Any, keys: Keys) -> Any:
    for key in keys:
        document = document.get(key, _MISSING) if type(document) is dict else _MISSING
    return document


def _expected(place: Location, names: Iterable[str]) -> str:
    if place.attribute is not None:
        return f"$: expected the attribute {place.attribute} to be {one_of(tuple(names))}"
    return f"{json_path(place.keys)}: expected {one_of(tuple(names))}"


def _body(document: _Document, envelope: Envelope, kind: EventType) -> _Document | Refusal:
    """The body within the document."""
    path, name = json_path(envelope.body), kind.contract.event
    value = _at(document.value, envelope.body)
    if value is not _MISSING:
        readable = _raw_at(document.readable, envelope.body)
        as_it_came = readable if document.readable is document.data else _raw_at(document.data, envelope.body)
        return _Document(value, readable, as_it_came, path)
    text = _MISSING if envelope.body_base64 is None else _at(document.value, envelope.body_base64)
    if text is _MISSING or text is None:
        return Refusal("contract_violation", f"{path}: required, but missing", name)
    path = json_path(envelope.body_base64 or ())
    try:
        return _parsed(b64decode(text, validate=True), path, name)
    except (binascii.Error, ValueError, TypeError):
        found = "a string that is no base64" if isinstance(text, str) else shown(text)
        return Refusal("contract_violation", f"{path}: expected JSON in base64, got {found}", name)


def _raw_at(data: bytes, keys: Keys) -> bytes:
    """The text of the value at ``keys`` of a document that has it."""
    for key in keys:
        data = bytes(_members(data)[key])
    return data


def _event_of(kind: EventType, body: _Document, event_id: str | None) -> Read | Refusal:
    parts = split(body.readable, kind.root)
    try:
        event = kind.exact_decoder.decode(parts.known)
    except DECODE_ERRORS as error:  # what the judge would have to see; its words are better, but these are true
        found = str(error).splitlines()[0]
        return Refusal("contract_violation", f"{body.path}: {found}", kind.contract.event)
    violation = kind.rules.of_values(event)
    if violation is not None:
        return _refusal(violation, body.path, kind)  # here, so that no number too wide for Arrow goes on
    unknown = parts.unknown if body.readable is body.data else split(body.data, kind.root).unknown
    return Read(kind, event, event_id, unknown, parts.paths, parts.keys)


def _refusal(violation: Violation, start: str, kind: EventType) -> Refusal:
    return Refusal(violation.reason, sentence(violation_within(violation, start)), kind.contract.event)


def violation_within(violation: Violation, start: str) -> Violation:
    """A violation of the body, whose path is ``start`` in the message."""
    return violation if start == "$" else violation._replace(path=start + violation.path[1:])


def body_path(message: Message, envelope: Envelope) -> str:
    """Where the body of ``message``, which is an event, stands in its data: ``$.data``."""
    mode = mode_of(envelope, message)
    if (
        mode.body_base64 is not None
        and mode.body_base64[-1] in _members(message.data)
        and mode.body[-1] not in _members(message.data)
    ):
        return json_path(mode.body_base64)
    return json_path(mode.body)


def _parse(data: bytes) -> tuple[Any, bytes]:
    """The JSON document, every number exact, and the bytes it was read from: ``data``, or where an integer is too long for Python
    to read, the same with those of its kind cut short.
    """
    try:
        try:
            return _QUICK_DECODER.decode(data), data
        except DecimalException:
            return _DOCUMENT_DECODER.decode(data), data
    except msgspec.ValidationError:  # an integer of more than 4,300 digits
        readable = _LONG_INTEGER.sub(_shortened, data)
        return _DOCUMENT_DECODER.decode(readable), readable


_QUICK_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=plain_number)
_DOCUMENT_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=exact_number)

# A whole string, closed or not, so that digits within one stay; or an integer of more than 4,000 digits, its rest as a group.
_LONG_INTEGER = re.compile(rb'"(?:[^"\\]|\\.)*+"?|(-?[0-9]{4000})([0-9]++)(?![.eE])', re.DOTALL)


def _shortened(match: re.Match[bytes]) -> bytes:
    """The first 4,000 digits, out of every column's range as the whole is; and blanks, so that later faults keep their place."""
    kept, rest = match.groups()
    return match[0] if kept is None else kept + b" " * len(rest)


def no_json(data: bytes, error: Exception) -> str:
    """What ``data`` is, which raises ``error`` when it is parsed. Not an excerpt: who could say whether that is personal?"""
    encoding = encoding_of(data)
    if encoding is not None:
        return encoding.name
    return f"invalid JSON: {str(error).splitlines()[0]}" if data.strip() else "nothing"


def _no_object(value: Any) -> str:
    """A document that is no object. A text may be the event itself, of which any part may be personal."""
    if not isinstance(value, str):
        return shown(value)
    return "a string that holds one" if value.lstrip().startswith("{") else json_type(value)
