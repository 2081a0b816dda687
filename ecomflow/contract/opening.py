"""Messages in an envelope in; what decodes each one's body, the body, and the id, out: for all messages in a few passes.

Decoding has two stages then: a small struct takes from the document what the envelope names and the body as it stands, and the
body is decoded as what its type says. A message that the first stage does not take is given to ``refuse``, which sends it to the
slow path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from ecomflow.contract.compiling import EventType
from ecomflow.contract.documents import DECODE_ERRORS, Types
from ecomflow.contract.envelope import Envelope, Keys, Location, is_structured
from ecomflow.contract.events import Message, plain_number

Decode = Callable[[Any], Any]


class Opened(NamedTuple):
    """Parallel to the messages: what decodes the body, the body, and the producer's own id or None."""

    decoders: list[Decode]
    bodies: list[Any]
    ids: list[Any]


def refuse(_: Any) -> Any:
    """The decoder of what the first stage does not take."""
    raise msgspec.ValidationError


class Decoders:
    """The decoders of all event types, by what a message says of its type and version."""

    def __init__(self, types: Types) -> None:
        self._lowest = {name: _decoder(next(iter(versions.values()))) for name, versions in types.items()}
        self._versions = {
            name: {str(version): _decoder(kind) for version, kind in versions.items()}
            for name, versions in types.items()
            if len(versions) > 1
        }
        self.has_versions = bool(self._versions)

    def of(self, types: Sequence[Any], versions: Sequence[Any] | None) -> list[Decode]:
        """A decoder for each; ``refuse`` where there is none. ``versions`` may be None unless some event has several."""
        lowest = self._lowest.get
        if versions is None:
            return [lowest(name, refuse) for name in types]
        several = self._versions
        return [
            lowest(name, refuse) if version is None or name not in several else several[name].get(str(version), refuse)
            for name, version in zip(types, versions, strict=True)
        ]


def _decoder(kind: EventType) -> Decode:
    return msgspec.json.Decoder(kind.struct, float_hook=plain_number).decode


class Opener:
    """Opens the messages of one envelope. Holds no state."""

    def __init__(self, envelope: Envelope) -> None:
        self._plain = _Mode(envelope)
        self._binary = _Mode(envelope.binary) if envelope.binary else None

    def open(self, messages: Sequence[Message], data: list[bytes], decoders: Decoders) -> Opened:
        """``messages``, whose ``data`` is given apart, for what is nested too deeply is left out there."""
        if self._binary is None:
            return self._plain.open(messages, data, decoders)
        ways: dict[_Mode, list[int]] = {self._plain: [], self._binary: []}
        for index, message in enumerate(messages):
            ways[self._plain if is_structured(message) else self._binary].append(index)
        opened = Opened([refuse] * len(data), [b""] * len(data), [None] * len(data))
        for mode, places in ways.items():
            if len(places) == len(data):
                return mode.open(messages, data, decoders)
            part = mode.open([messages[place] for place in places], [data[place] for place in places], decoders)
            for whole, some in zip(opened, part, strict=True):
                for place, value in zip(places, some, strict=True):
                    whole[place] = value
        return opened


class _Mode:
    """An envelope whose messages are all read alike.

    ``outer`` reads the places outside of the body from the document, ``inner`` those within it from the body.
    """

    def __init__(self, envelope: Envelope) -> None:
        body, size = envelope.body, len(envelope.body)
        kinds: dict[Location, Any] = dict.fromkeys((*envelope.ids, *envelope.versions), int | str | None)
        kinds[envelope.type] = str | None
        values = {place.keys: kind for place, kind in kinds.items() if place.attribute is None}
        inside = {keys[size:]: kind for keys, kind in values.items() if keys[:size] == body}
        outside = {keys: kind for keys, kind in values.items() if keys[:size] != body}
        self._envelope = envelope
        self._inner = _head_reader(inside) if inside else None
        self._outer = _head_reader({**outside, body: Raw}) if body else None

    def open(self, messages: Sequence[Message], data: list[bytes], decoders: Decoders) -> Opened:
        envelope, bodies = self._envelope, data
        found: dict[Keys, list[Any]] = {}
        if self._outer is not None:
            found = self._outer(_in_utf8(data))
            bodies = found[envelope.body]
        if self._inner is not None:
            found |= {(*envelope.body, *keys): values for keys, values in self._inner(bodies).items()}

        def values(places: tuple[Location, ...]) -> list[Any]:
            each = [_attributes(messages, one.attribute) if one.attribute else found[one.keys] for one in places]
            return reduce(_filled, each)

        versions = values(envelope.versions) if decoders.has_versions else None
        ids = [one if type(one) is not int else str(one) for one in values(envelope.ids)]
        return Opened(decoders.of(values((envelope.type,)), versions), bodies, ids)


def _attributes(messages: Sequence[Message], name: str) -> list[Any]:
    return [message.attributes.get(name) or None for message in messages]


def _filled(values: list[Any], others: list[Any]) -> list[Any]:
    return [other if value is None else value for value, other in zip(values, others, strict=True)]


def _head_reader(kinds: Mapping[Keys, Any]) -> Callable[[Sequence[Any]], dict[Keys, list[Any]]]:
    """What reads the values at ``kinds``' keys from documents; where a document is not of this shape, all of them are missing."""
    head, attributes = _head(kinds)
    decode, nothing = msgspec.json.Decoder(head).decode, head()

    def read(documents: Sequence[Any]) -> dict[Keys, list[Any]]:
        heads: list[Any] = []
        decoded = map(decode, documents)
        while len(heads) < len(documents):
            try:
                heads.extend(decoded)
            except DECODE_ERRORS:
                heads.append(nothing)
        return {keys: list(map(attrgetter(attribute), heads)) for keys, attribute in attributes.items()}

    return read


def _head(kinds: Mapping[Keys, Any]) -> tuple[type[msgspec.Struct], dict[Keys, str]]:
    """The struct with the values at these keys, and the attribute of each: ``f0.f1``."""
    fields: list[Any] = []
    names: dict[str, str] = {}
    attributes: dict[Keys, str] = {}
    for index, key in enumerate(dict.fromkeys(keys[0] for keys in kinds)):
        inner = {keys[1:]: kind for keys, kind in kinds.items() if keys[0] == key}
        name = names.setdefault(f"f{index}", key) and f"f{index}"
        if () in inner:
            kind = inner[()]
            fields.append((name, kind, Raw() if kind is Raw else None))
            attributes[(key,)] = name
        else:
            part, within = _head(inner)
            fields.append((name, part, msgspec.field(default_factory=part)))
            attributes |= {(key, *keys): f"{name}.{attribute}" for keys, attribute in within.items()}
    return msgspec.defstruct("Head", fields, rename=names, frozen=True, gc=False), attributes


def _in_utf8(data: list[bytes]) -> list[bytes]:
    """``data``, empty where it is no UTF-8: what is passed over, a decoder does not look at."""
    return data if is_utf8(b"".join(data)) else [one if is_utf8(one) else b"" for one in data]


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
