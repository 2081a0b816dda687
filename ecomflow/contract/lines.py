"""Lines of a file in; the messages on them out. Pure.

A line is the data of a message, as it would be published; or a whole message with its attributes and, if it has one, its ordering
key, in one of three forms:

- as ``publish --dry-run`` prints it: ``data``, ``data_encoding``, ``attributes`` and ``ordering_key``, among others;
- as ``dlq export`` writes it: ``payload``, ``payload_encoding``, ``attributes`` and ``ordering_key``, among others;
- ``data`` and ``attributes``, and nothing else but what Pub/Sub names beside them. ``data`` is the event itself, or a text of it,
  in base64 or not: no JSON object begins as base64 does.

Attributes are an object of strings. Everything else is data, whatever its keys.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import msgspec
from msgspec import Raw

from ecomflow.contract.events import Message
from ecomflow.contract.nesting import MAX_DEPTH, is_too_deep

Encoding = Literal["utf-8", "base64"]
Attributes = dict[str, str]


class _DryRun(msgspec.Struct):
    data: str
    data_encoding: Encoding
    attributes: Attributes
    ordering_key: str = ""


class _DeadLetter(msgspec.Struct):
    payload: str
    payload_encoding: Encoding
    attributes: Attributes
    ordering_key: str | None = None


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    """Pub/Sub's names, in the spelling of its REST API and in that of its clients; a push request has some in both."""

    data: Raw
    attributes: Attributes
    message_id: str = ""
    publish_time: str = ""
    ordering_key: str = ""
    rest_message_id: str = msgspec.field(default="", name="messageId")
    rest_publish_time: str = msgspec.field(default="", name="publishTime")
    rest_ordering_key: str = msgspec.field(default="", name="orderingKey")


class _Read(NamedTuple):
    data: bytes
    attributes: Attributes
    ordering_key: str


_DRY_RUN = msgspec.json.Decoder(_DryRun).decode
_DEAD_LETTER = msgspec.json.Decoder(_DeadLetter).decode
_MESSAGE = msgspec.json.Decoder(_Message).decode
_TEXT = msgspec.json.Decoder(str).decode


def read_lines(lines: Iterable[bytes]) -> Iterator[Message]:
    """The message on each of ``lines``, whose id is the line's number, from 1. Blank lines are passed over."""
    for number, line in enumerate(lines, start=1):
        if line and not line.isspace():
            yield message_on(line, number)


def message_on(line: bytes, number: int) -> Message:
    """The message on ``line``, whose id is the line's ``number``."""
    data = line.rstrip(b"\r\n")
    # The event in a message is a level further down. What is deeper than any event may be is data, whoever decodes it.
    if b'"attributes"' in data and not is_too_deep(data, MAX_DEPTH + 1):
        for read in (_dry_run, _dead_letter, _message):
            try:
                found = read(data)
            except (msgspec.MsgspecError, ValueError):  # it has another form
                continue
            return Message(found.data, found.attributes, str(number), 0, found.ordering_key)
    return Message(data, {}, str(number), 0)


def _dry_run(line: bytes) -> _Read:
    read = _DRY_RUN(line)
    return _Read(_decoded(read.data, read.data_encoding), read.attributes, read.ordering_key)


def _dead_letter(line: bytes) -> _Read:
    read = _DEAD_LETTER(line)
    return _Read(_decoded(read.payload, read.payload_encoding), read.attributes, read.ordering_key or "")


def _message(line: bytes) -> _Read:
    read = _MESSAGE(line)
    return _Read(_data(bytes(read.data)), read.attributes, read.ordering_key or read.rest_ordering_key)


def _data(json: bytes) -> bytes:
    if not json.startswith(b'"'):
        return json
    text = _TEXT(json)
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return text.encode()


def _decoded(text: str, encoding: Encoding) -> bytes:
    """Raises ValueError if it is not base64."""
    return base64.b64decode(text, validate=True) if encoding == "base64" else text.encode()
