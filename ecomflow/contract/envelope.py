"""Where type, id, version and body of an event stand in a Pub/Sub message: settings in, an ``Envelope`` out. Pure.

A place is a Pub/Sub attribute, ``attribute:eventType``, or a value of the JSON document in the message's data, ``$.data.type``.

CloudEvents: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md and
https://github.com/googleapis/google-cloudevents/blob/main/docs/spec/pubsub.md
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from ecomflow.contract.events import EVENT_ID, Message
from ecomflow.errors import ConfigError

# The keys that lead to a value of a document; none are the document itself.
Keys = tuple[str, ...]

_ATTRIBUTE = "attribute:"
# What msgspec takes for a key: its decoder compares keys as they stand in the message, before escapes are read.
_PATH = re.compile(r'\$(?:\.[^".\\\x00-\x1f\ud800-\udfff]+)*')
_MAX_ATTRIBUTE_BYTES = 256
_STRUCTURED = "application/cloudevents"

_encode = msgspec.json.Encoder(decimal_format="number").encode
_members = msgspec.json.Decoder(dict[str, Raw]).decode


class EnvelopeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The envelope as [envelope] in ecomflow.toml says it; what is None is as in the preset."""

    preset: str = "ecomflow"
    type: str | None = None
    id: str | None = None
    version: str | None = None
    body: str | None = None


class Location(msgspec.Struct, frozen=True):
    """An attribute by its name; or, where ``attribute`` is None, a value of the document."""

    attribute: str | None
    keys: Keys = ()


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything stands. Of ``ids`` and of ``versions`` the first that is there counts.

    ``body_base64`` is where the body stands instead, in base64. ``constants`` are what a writer adds. ``binary`` is how those
    messages are read that say by their attributes that they are in CloudEvents' binary mode.
    """

    type: Location
    ids: tuple[Location, ...]
    versions: tuple[Location, ...]
    body: Keys = ()
    body_base64: Keys | None = None
    constants: tuple[tuple[Location, str], ...] = ()
    binary: Envelope | None = None


def _attribute(name: str) -> Location:
    return Location(name)


def _value(*keys: str) -> Location:
    return Location(None, keys)


ECOMFLOW = Envelope(
    type=_value("event_type"),
    ids=(_attribute(EVENT_ID),),
    versions=(_attribute("event_version"), _value("event_version")),
)
# The names of extension attributes have no underscores: eventversion, ours.
CLOUDEVENTS = Envelope(
    type=_value("type"),
    ids=(_value("id"),),
    versions=(_value("eventversion"),),
    body=("data",),
    body_base64=("data_base64",),
    constants=(
        (_attribute("content-type"), f"{_STRUCTURED}+json; charset=utf-8"),
        (_value("specversion"), "1.0"),
        (_value("source"), "/ecomflow"),
    ),
    binary=Envelope(
        type=_attribute("ce-type"),
        ids=(_attribute("ce-id"),),
        versions=(_attribute("ce-eventversion"),),
        constants=(
            (_attribute("content-type"), "application/json"),
            (_attribute("ce-specversion"), "1.0"),
            (_attribute("ce-source"), "/ecomflow"),
        ),
    ),
)
PRESETS: Mapping[str, Envelope] = {"ecomflow": ECOMFLOW, "cloudevents": CLOUDEVENTS}


def read_envelope(settings: EnvelopeSettings) -> Envelope:
    """The preset, with other places where some are given. Raises ConfigError with all mistakes, a line each."""
    given = {name: text for name, text in msgspec.structs.asdict(settings).items() if name != "preset" and text is not None}
    _check(_mistakes(settings.preset, given))
    places = {name: _location(text) for name, text in given.items()}
    envelope = msgspec.structs.replace(
        PRESETS[settings.preset],
        **{name: place for name, place in places.items() if name == "type"},
        **{f"{name}s": (place,) for name, place in places.items() if name in ("id", "version")},
        **{name: place.keys for name, place in places.items() if name == "body"},
    )
    _check(_overlaps(envelope))
    return envelope


def _check(mistakes: Iterable[str]) -> None:
    if sentences := list(mistakes):
        raise ConfigError("\n".join(sentences), "Correct [envelope] in ecomflow.toml.")


def _mistakes(preset: str, given: Mapping[str, str]) -> Iterator[str]:
    if preset not in PRESETS:
        yield f"envelope.preset is {preset!r}: expected one of {', '.join(PRESETS)}."
    elif given and preset == "cloudevents":
        yield f"envelope.{next(iter(given))} is set: preset cloudevents says itself where everything stands."
    for name, text in given.items():
        if name == "body" and not _PATH.fullmatch(text):
            yield f"envelope.body is {text!r}: expected a path such as $.data, or $ for the whole message."
        elif name != "body" and (text == "$" or not _is_location(text)):
            yield f"envelope.{name} is {text!r}: expected attribute:<name>, or a path such as $.{name}."


def _is_location(text: str) -> bool:
    name = text.removeprefix(_ATTRIBUTE)
    return 0 < len(name.encode(errors="replace")) <= _MAX_ATTRIBUTE_BYTES if name != text else bool(_PATH.fullmatch(text))


def _location(text: str) -> Location:
    if text.startswith(_ATTRIBUTE):
        return _attribute(text.removeprefix(_ATTRIBUTE))
    return _value(*text.split(".")[1:])


def _overlaps(envelope: Envelope) -> Iterator[str]:
    """Each place holds one value, and no other place within it; the body alone may."""
    places = {"type": (envelope.type,), "id": envelope.ids, "version": envelope.versions, "body": (_value(*envelope.body),)}
    values = [(name, place.keys) for name, found in places.items() for place in found if place.attribute is None]
    for name, keys in values:
        for other, theirs in values:
            if (
                name not in (other, "body")
                and theirs[: len(keys)] == keys
                and (keys != theirs or name > other or other == "body")
            ):
                found = "there too" if keys == theirs else f"within it, at {json_path(theirs)}"
                yield f"envelope.{name} is {json_path(keys)}: expected a place of its own, but envelope.{other} is {found}."


def json_path(keys: Keys) -> str:
    """``$.data.type``."""
    return "".join(("$", *(f".{key}" for key in keys)))


def mode_of(envelope: Envelope, message: Message) -> Envelope:
    """How ``message`` is read: as ``envelope.binary`` says, where its attributes say so."""
    if envelope.binary is None or is_structured(message):
        return envelope
    return envelope.binary


def is_structured(message: Message) -> bool:
    """Whether a CloudEvent is in structured mode: it has no ``ce-type``, or its content type says so."""
    attributes = message.attributes
    if "ce-type" not in attributes:
        return True
    return (attributes.get("content-type") or attributes.get("Content-Type") or "").startswith(_STRUCTURED)


def places_in_body(envelope: Envelope) -> tuple[Keys, ...]:
    """Where the type, ids and versions stand within the body."""
    size = len(envelope.body)
    return tuple(
        place.keys[size:]
        for place in (envelope.type, *envelope.ids, *envelope.versions)
        if place.attribute is None and place.keys[:size] == envelope.body
    )


def to_message(
    envelope: Envelope, event_type: str, event_id: str, version: int | None, body: bytes
) -> tuple[bytes, dict[str, str]]:
    """The data and the attributes of the message that says all this. ``body`` is a JSON object; ``version`` None is not said."""
    values = [*envelope.constants, (envelope.type, event_type), (envelope.ids[0], event_id)]
    if version is not None:
        values.append((envelope.versions[0], str(version)))
    attributes = {place.attribute: value for place, value in values if place.attribute is not None}
    inside = [(place.keys, value) for place, value in values if place.attribute is None]
    document: dict[str, Any] = {}
    if not envelope.body:
        if not inside:
            return body, attributes
        document = {**{keys[0]: Raw(b"{}") for keys, _ in inside}, **_members(body)}
    size = len(envelope.body)
    for keys, value in sorted([(envelope.body, Raw(body)), *inside], key=lambda one: one[0][:size] == envelope.body):
        if keys:
            _put(document, keys, value)
    return _encode(document), attributes


def _put(document: dict[str, Any], keys: Keys, value: Any) -> None:
    for key in keys[:-1]:
        inner = document.get(key, {})
        document[key] = dict(_members(inner)) if isinstance(inner, Raw) else inner
        document = document[key]
    document[keys[-1]] = value
