"""Sample messages of one event type in; everything that occurs at each place in them, out. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from ecomflow.contract.documents import no_json
from ecomflow.contract.events import Message
from ecomflow.contract.language import TYPE_KEY
from ecomflow.contract.lines import read_lines
from ecomflow.contract.nesting import MAX_DEPTH, is_too_deep
from ecomflow.contract.numbers import exact_number
from ecomflow.errors import ConfigError

_parse = msgspec.json.Decoder(float_hook=exact_number).decode
_ATTRIBUTE = "attribute:"


class Sample(msgspec.Struct, frozen=True):
    """The line's number from 1, the message on it, and its body."""

    line: int
    message: Message
    body: dict[str, Any]


class Samples(msgspec.Struct, frozen=True):
    """Those of one event type. ``others``: how many lines are of another, by their type; ``have_type``: whether the type
    stands in the samples; ``type_key``: the key of the body that holds it, which is no field then.
    """

    samples: list[Sample]
    others: Counter[str]
    have_type: bool
    type_key: str | None


class Seen(msgspec.Struct):
    """What occurs at one place: scalars as parsed, arrays and objects opened.

    ``objects`` counts the objects whose ``members`` by key are seen here, ``arrays`` those whose elements are in ``element``.
    """

    scalars: list[Any] = msgspec.field(default_factory=list)
    nulls: int = 0
    objects: int = 0
    members: dict[str, Seen] = msgspec.field(default_factory=dict)
    arrays: int = 0
    element: Seen | None = None

    @property
    def times(self) -> int:
        """How often something occurs here, including null."""
        return len(self.scalars) + self.nulls + self.objects + self.arrays

    @property
    def is_empty(self) -> bool:
        """Whether there is never anything here that has a type: null, an empty object, an empty array."""
        has_members = any(not member.is_empty for member in self.members.values())
        has_elements = self.element is not None and self.element.times > 0
        return not (self.scalars or has_members or has_elements)


def read_samples(lines: Iterable[bytes], event: str, field: str) -> Samples:
    """The samples of ``event``: those whose ``field`` says so, or all of them where none has such a field.

    ``field`` is a key of the body, keys with dots between them, or ``attribute:NAME``. Raises ConfigError for a line that is no
    JSON object, and where there is no sample.
    """
    read = [_sample(message) for message in read_lines(lines)]
    types = [_type_of(sample, field) for sample in read]
    have_type = any(name is not None for name in types)
    chosen = [sample for sample, name in zip(read, types, strict=True) if not have_type or name == event]
    others = Counter(str(name) for name in types if have_type and name != event)
    if not chosen:
        found = f"found {', '.join(sorted(others))}" if others else "found no line"
        raise ConfigError(f"Expected samples whose {field} is {event}, {found}.", "Name another type, file or --field.")
    key = field.removeprefix("$.")
    return Samples(chosen, others, have_type, key if have_type and not field.startswith(_ATTRIBUTE) else None)


def _sample(message: Message) -> Sample:
    number = int(message.message_id)
    try:
        if is_too_deep(message.data):
            raise msgspec.DecodeError(f"more than {MAX_DEPTH} levels of objects and arrays")
        body = _parse(message.data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        sentence = f"Line {number}: expected a JSON object in UTF-8, got {no_json(message.data, error)}."
        raise ConfigError(sentence, "Put each sample on one line: jq -c . FILE") from error
    if not isinstance(body, dict):
        raise ConfigError(f"Line {number} is not a JSON object.", "A sample is an event, or a message with data and attributes.")
    return Sample(number, message, body)


def _type_of(sample: Sample, field: str) -> str | None:
    if field.startswith(_ATTRIBUTE):
        return sample.message.attributes.get(field.removeprefix(_ATTRIBUTE))
    value: Any = sample.body
    for key in field.removeprefix("$.").split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None


def typed_lines(samples: Samples, event: str) -> Iterator[bytes]:
    """The data of each sample on its own line number, with an ``event_type`` where it has none; blank lines between."""
    at = 0
    for sample in samples.samples:
        yield from [b"\n"] * (sample.line - at - 1)
        at = sample.line
        yield sample.message.data.replace(b"\n", b" ").replace(b"\r", b" ") if TYPE_KEY in sample.body else _typed(sample, event)


def _typed(sample: Sample, event: str) -> bytes:
    rest = sample.message.data.replace(b"\n", b" ").replace(b"\r", b" ").lstrip()[1:]
    tag = msgspec.json.encode({TYPE_KEY: event})[:-1]
    return tag + (b"," if sample.body else b"") + rest


def seen_in(samples: Samples) -> Seen:
    """Everything that occurs in ``samples``, except the type."""
    root = Seen()
    skip = {TYPE_KEY, *([samples.type_key] if samples.type_key else [])}
    for sample in samples.samples:
        _see({key: value for key, value in sample.body.items() if key not in skip}, root)
    return root


def _see(value: Any, seen: Seen) -> None:
    if value is None:
        seen.nulls += 1
    elif isinstance(value, dict):
        seen.objects += 1
        for key, part in value.items():
            _see(part, seen.members.setdefault(key, Seen()))
    elif isinstance(value, list):
        seen.arrays += 1
        seen.element = seen.element or Seen()
        for part in value:
            _see(part, seen.element)
    else:
        seen.scalars.append(value)
