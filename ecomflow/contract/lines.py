"""Lines of a file in; the messages on them out. Pure.

A line is the data of a message, as it would be published; or a whole message with its attributes, in one of three forms:

- as ``publish --dry-run`` prints it: ``data``, ``data_encoding`` and ``attributes``, among others;
- as ``dlq export`` writes it: ``payload``, ``payload_encoding`` and ``attributes``, among others;
- ``data`` and ``attributes``, and nothing else but what Pub/Sub names beside them. ``data`` is the event itself, or a text of it,
  in base64 or not: no JSON object begins as base64 does.

Attributes are an object of strings. Everything else is data, whatever its keys.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec
from msgspec import Raw

from ecomflow.contract.events import Message

Encoding = Literal["utf-8", "base64"]
Attributes = dict[str, str]


class _DryRun(msgspec.Struct):
    data: str
    data_encoding: Encoding
    attributes: Attributes


class _DeadLetter(msgspec.Struct):
    payload: str
    payload_encoding: Encoding
    attributes: Attributes


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    """The names of Pub/Sub's REST API; a push request has the id and the time in both spellings."""

    data: Raw
    attributes: Attributes
    messageId: str = ""  # noqa: N815
    message_id: str = ""
    publishTime: str = ""  # noqa: N815
    publish_time: str = ""
    orderingKey: str = ""  # noqa: N815


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
    if b'"attributes"' in data:
        for read in (_dry_run, _dead_letter, _message):
            try:
                found, attributes = read(data)
            except (msgspec.MsgspecError, ValueError, RecursionError):  # it has another form
                continue
            return Message(found, attributes, str(number), 0)
    return Message(data, {}, str(number), 0)


def _dry_run(line: bytes) -> tuple[bytes, Attributes]:
    read = _DRY_RUN(line)
    return _decoded(read.data, read.data_encoding), read.attributes


def _dead_letter(line: bytes) -> tuple[bytes, Attributes]:
    read = _DEAD_LETTER(line)
    return _decoded(read.payload, read.payload_encoding), read.attributes


def _message(line: bytes) -> tuple[bytes, Attributes]:
    read = _MESSAGE(line)
    if not bytes(read.data).startswith(b'"'):
        return bytes(read.data), read.attributes
    text = _TEXT(read.data)
    try:
        return base64.b64decode(text, validate=True), read.attributes
    except binascii.Error:
        return text.encode(), read.attributes


def _decoded(text: str, encoding: Encoding) -> bytes:
    """Raises ValueError if it is not base64."""
    return base64.b64decode(text, validate=True) if encoding == "base64" else text.encode()
