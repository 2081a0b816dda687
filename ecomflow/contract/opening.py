"""Messages in an envelope in; what makes each one's event, out of what, and the producer's own id, out: in a few passes for all.

Where the type stands in the document, beside the body, one decoder reads the envelope with the event in it. Else decoding has two
stages: a small struct takes from the document what the envelope names and the body as it stands, and the body is decoded as what
its type and version say. A message that is not of this shape is given to ``refuse``, which sends it to the slow path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import attrgetter, or_
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Raw

from ecomflow.contract.compiling import EventType
from ecomflow.contract.documents import DECODE_ERRORS, Types
from ecomflow.contract.envelope import Envelope, Keys, Location, is_structured
from ecomflow.contract.events import Message, plain_number
from ecomflow.contract.structs import Tag

Decode = Callable[[Any], Any]


class Opened(NamedTuple):
    """Parallel to the messages: a function, what it makes the event of, and the producer's own id or None. The function raises
    one of DECODE_ERRORS where the slow path must look.
    """

    decoders: list[Decode]
    bodies: list[Any]
    ids: list[Any]


# Messages and their data in; the data apart, for what is nested too deeply is left out there.
Open = Callable[[Sequence[Message], list[bytes]], Opened]


def opener_of(envelope: Envelope, types: Types) -> Open:
    """How the messages of ``envelope`` are opened."""
    plain = _one_way(envelope, types)
    return plain if envelope.binary is None else _either_way(plain, _one_way(envelope.binary, types))


def _one_way(envelope: Envelope, types: Types) -> Open:
    size = len(envelope.body)
    is_beside = envelope.body and len(envelope.type.keys) == 1 and all(one.keys[:size] != envelope.body for one in envelope.ids)
    return _in_one_stage(envelope, types) if is_beside and not _have_versions(types) else _in_two_stages(envelope, types)


def _have_versions(types: Types) -> bool:
    return any(len(versions) > 1 for versions in types.values())


def _either_way(structured: Open, binary: Open) -> Open:
    def open_messages(messages: Sequence[Message], data: list[bytes]) -> Opened:
        flags = list(map(is_structured, messages))
        if all(flags) or not any(flags):
            return (structured if all(flags) else binary)(messages, data)
        opened = Opened([refuse] * len(data), [b""] * len(data), [None] * len(data))
        for open_part, mode in ((structured, True), (binary, False)):
            places = [place for place, flag in enumerate(flags) if flag is mode]
            part = open_part([messages[place] for place in places], [data[place] for place in places])
            for whole, some in zip(opened, part, strict=True):
                for place, value in zip(places, some, strict=True):
                    whole[place] = value
        return opened

    return open_messages


def refuse(_: Any) -> Any:
    """The decoder of what is not of the envelope's shape."""
    raise msgspec.ValidationError


class _Refused:
    """In place of a document that is not of the shape: whatever is read of it sends it to the slow path."""

    def __getattr__(self, _: str) -> Any:
        raise msgspec.ValidationError


def _in_one_stage(envelope: Envelope, types: Types) -> Open:
    """For a document whose type is a key of its own: a union of envelopes, each with its event in it."""
    wrappers = []
    attributes: dict[Keys, str] = {}
    ids = {place.keys: int | str | None for place in envelope.ids if place.attribute is None}
    for name, versions in types.items():
        kinds = {**ids, envelope.body: next(iter(versions.values())).struct}
        wrapper, attributes = _head(kinds, envelope.body, Tag(envelope.type.keys[0], name))
        wrappers.append(wrapper)
    decode = union_decoder(wrappers, envelope.type.keys[0])
    event_of = attrgetter(attributes[envelope.body])

    def open_messages(messages: Sequence[Message], data: list[bytes]) -> Opened:
        found = _each(decode, _in_utf8(data), _Refused())
        good = [one if type(one) is not _Refused else None for one in found]
        values = {keys: [one and attribute(one) for one in good] for keys, attribute in of_ids.items()}
        return Opened([event_of] * len(found), found, _values(messages, values, envelope.ids, as_text=True))

    of_ids = {keys: attrgetter(attributes[keys]) for keys in ids}
    return open_messages


def _in_two_stages(envelope: Envelope, types: Types) -> Open:
    """``outer`` reads the places outside of the body from the document, ``inner`` those within it from the body."""
    body, size = envelope.body, len(envelope.body)
    kinds: dict[Location, Any] = dict.fromkeys((*envelope.ids, *envelope.versions), int | str | None)
    kinds[envelope.type] = str | None
    values = {place.keys: kind for place, kind in kinds.items() if place.attribute is None}
    inside = {keys[size:]: kind for keys, kind in values.items() if keys[:size] == body}
    outside = {keys: kind for keys, kind in values.items() if keys[:size] != body}
    inner = _reader(inside) if inside else None
    outer = _reader({**outside, body: Raw}) if body else None
    decoders_of = _decoders(types)

    def open_messages(messages: Sequence[Message], data: list[bytes]) -> Opened:
        found: dict[Keys, list[Any]] = {}
        bodies: list[Any] = data
        if outer is not None:
            found = outer(_in_utf8(data))
            bodies = found[body]
        if inner is not None:
            found |= {(*body, *keys): values for keys, values in inner(bodies).items()}
        versions = _values(messages, found, envelope.versions) if _have_versions(types) else None
        decoders = decoders_of(_values(messages, found, (envelope.type,)), versions)
        return Opened(decoders, bodies, _values(messages, found, envelope.ids, as_text=True))

    return open_messages


def _decoders(types: Types) -> Callable[[list[Any], list[Any] | None], list[Decode]]:
    """The types and versions of messages in, the versions None where no type has several; a decoder of each body out."""
    of_types = {name: _Versions(versions) for name, versions in types.items()}
    lowest: dict[Any, Decode] = {name: decoders[None] for name, decoders in of_types.items()}
    of_type, nothing = of_types.get, _Versions({})

    def decoders(names: list[Any], versions: list[Any] | None) -> list[Decode]:
        if versions is None:
            return [lowest.get(name, refuse) for name in names]
        return [of_type(name, nothing)[version] for name, version in zip(names, versions, strict=True)]

    return decoders


class _Versions(dict[Any, Decode]):
    """The decoders of one type by the version as it may be written, None where it is not."""

    def __init__(self, kinds: Mapping[int, EventType]) -> None:
        super().__init__({None: refuse})
        for version, kind in list(kinds.items())[::-1]:
            self[version] = self[str(version)] = self[None] = _decoder(kind)
        self._otherwise = self[None] if len(kinds) == 1 else refuse

    def __missing__(self, _: Any) -> Decode:
        return self._otherwise


def _decoder(kind: EventType) -> Decode:
    return msgspec.json.Decoder(kind.struct, float_hook=plain_number).decode


def union_decoder(structs: Sequence[Any], tag_key: str) -> Decode:
    """The decoder of documents that are one of ``structs``, as the value at ``tag_key`` says."""
    # By itself, a struct would be taken to be meant where the tag is missing.
    impossible = [("f0", Annotated[int, msgspec.Meta(ge=1, le=0)])]
    none = msgspec.defstruct("None", impossible, tag="", tag_field=tag_key)
    return msgspec.json.Decoder(reduce(or_, structs, none), float_hook=plain_number).decode


def _values(
    messages: Sequence[Message], found: Mapping[Keys, list[Any]], places: Iterable[Location], as_text: bool = False
) -> list[Any]:
    """What stands at the first of ``places`` that is there: an attribute, or what was ``found`` in the document."""
    each = [
        [message.attributes.get(place.attribute) or None for message in messages] if place.attribute else found[place.keys]
        for place in places
    ]
    values = reduce(_filled, each)
    return [one if type(one) is not int else str(one) for one in values] if as_text else values


def _filled(values: list[Any], others: list[Any]) -> list[Any]:
    return [other if value is None else value for value, other in zip(values, others, strict=True)]


def _reader(kinds: Mapping[Keys, Any]) -> Callable[[Sequence[Any]], dict[Keys, list[Any]]]:
    """What reads the values at ``kinds``' keys from documents; where a document is not of this shape, all of them are missing."""
    head, attributes = _head(kinds)
    decode, nothing = msgspec.json.Decoder(head).decode, head()

    def read(documents: Sequence[Any]) -> dict[Keys, list[Any]]:
        heads = _each(decode, documents, nothing)
        return {keys: list(map(attrgetter(attribute), heads)) for keys, attribute in attributes.items()}

    return read


def _each(decode: Decode, documents: Sequence[Any], otherwise: Any) -> list[Any]:
    """Each document decoded; ``otherwise`` where that raises."""
    found: list[Any] = []
    decoded = map(decode, documents)
    while len(found) < len(documents):
        try:
            found.extend(decoded)
        except DECODE_ERRORS:
            found.append(otherwise)
    return found


def _head(kinds: Mapping[Keys, Any], required: Keys = (), tag: Tag | None = None) -> tuple[type[msgspec.Struct], dict[Keys, str]]:
    """The struct with the values at these keys, and the attribute of each: ``f0.f1``. All but ``required`` may be missing."""
    fields: list[Any] = []
    names: dict[str, str] = {}
    attributes: dict[Keys, str] = {}
    for index, key in enumerate(dict.fromkeys(keys[0] for keys in kinds)):
        name, inner = f"f{index}", {keys[1:]: kind for keys, kind in kinds.items() if keys[0] == key}
        kind, within = (inner[()], {(): ""}) if () in inner else _head(inner, required[1:] if required[:1] == (key,) else ())
        otherwise = Raw() if kind is Raw else None if () in inner else msgspec.field(default_factory=kind)
        fields.append((name, kind) if required[:1] == (key,) else (name, kind, otherwise))
        names[name] = key
        attributes |= {(key, *keys): f"{name}.{attribute}".rstrip(".") for keys, attribute in within.items()}
    tagged: Any = {"tag": tag.value, "tag_field": tag.key} if tag else {}
    return msgspec.defstruct("Head", fields, rename=names, frozen=True, gc=False, kw_only=True, **tagged), attributes


def _in_utf8(data: list[bytes]) -> list[bytes]:
    """``data``, empty where it is no UTF-8: what a decoder passes over, it does not look at."""
    if is_utf8(b"".join([one for one in data if not one.isascii()])):
        return data
    return [one if is_utf8(one) else b"" for one in data]


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
