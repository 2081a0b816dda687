"""Messages in; typed events by stream, and dead letters, out; and of a stream's events, rows. Pure: no Beam, no cloud, the clock
passed in.

The fast path is one call of a typed decoder a message. A message that it refuses takes the slow path, which says whether it is
malformed, unknown, in breach of its contract, or merely carries fields that the contract does not name. Those are learned: from
then on the decoder takes them as raw text, so that a producer that adds a field slows nobody. What is learned is forgotten with
the process, and nobody depends on it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import DecimalException
from operator import attrgetter
from typing import Annotated, Any

import msgspec

from ecomflow.contract.compiling import EventType, compile_contract, with_learned
from ecomflow.contract.dead_letter import UNKNOWN_STREAM, DeadLetter, Reason, dead_letter
from ecomflow.contract.events import Message, event_ids_of, plain_number
from ecomflow.contract.language import TYPE_KEY, Contract
from ecomflow.contract.limits import DateRange
from ecomflow.contract.nesting import MAX_DEPTH, is_too_deep
from ecomflow.contract.numbers import exact_number
from ecomflow.contract.reasons import Violation, sentence, shown
from ecomflow.contract.rule_code import field_violation
from ecomflow.contract.unknown import Keeper, learn, split

# How much is decoded at a time: the events of a message can take twenty times its bytes while they wait to become rows.
PORTION_BYTES = 8 * 2**20

# Distinct unknown fields that a batch names; a message of 10 MB has room for a million. The rest is counted as one of its type.
MAX_UNKNOWN_PATHS = 1_000
OTHER_PATHS = "other"
# A document nested more deeply than is allowed has at least so many bytes.
_SHALLOW_BYTES = 2 * MAX_DEPTH

# What decoding bytes raises, all of it: syntax and types, UTF-8, nesting, numbers that no amount can be.
_DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, DecimalException)


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


class TypedBatch(msgspec.Struct, gc=False):
    """One stream's part of a batch: parallel lists of events, their ids and their messages; and what was refused.

    ``kind`` is what the events were decoded by, None for the stream of what is of no known type. ``kept`` is the unknown part of
    each event, as JSON, or None; empty where no event has one, or the contract does not keep it.
    """

    stream: str
    kind: EventType | None
    events: list[Any]
    event_ids: list[str]
    messages: list[Message]
    refused: list[DeadLetter]
    kept: list[bytes | None]


class DecodedBatch(msgspec.Struct):
    """A batch by stream (every one that occurs), and its unknown fields, counted by (type, path)."""

    streams: dict[str, TypedBatch]
    drift: Counter[tuple[str, str]]


class Refusal(msgspec.Struct, frozen=True):
    """Why a document is no event. ``event_type`` is what it says of itself, None where it says nothing."""

    reason: Reason
    error: str
    event_type: str | None


class Read(msgspec.Struct, frozen=True):
    """An event that the slow path has read: its unknown part as JSON, or None, the paths of that, and their keys in full."""

    stream: str
    event: Any
    unknown: bytes | None
    paths: list[str]
    keys: list[tuple[tuple[str, ...], str]]


class Codec:
    """Decodes the messages of a set of contracts.

    Threads may share one: what it has learned is replaced as a whole.
    """

    def __init__(self, contracts: Iterable[Contract]) -> None:
        kinds = {contract.event: compile_contract(contract) for contract in contracts}
        self._current = _Decoding(kinds)

    @property
    def kinds(self) -> dict[str, EventType]:
        """The event types by name, as they are decoded now."""
        return self._current.kinds

    @property
    def streams(self) -> tuple[str, ...]:
        """The event types and the stream of what is of none."""
        return (*self._current.kinds, UNKNOWN_STREAM)

    def decode(self, messages: Sequence[Message], now: datetime) -> DecodedBatch:
        """Each message as an event of its stream, or as a dead letter failed at ``now``."""
        while True:
            decoding = self._current
            decoded = _Pass(decoding, messages, now)
            learned = decoded.learned
            if learned is None:
                return decoded.batch
            self._current = learned

    def read_document(self, data: bytes) -> Read | Refusal:
        """The event in ``data`` as the slow path reads it, or why it is none."""
        return self._current.read(data)


class _Never(msgspec.Struct, tag="", tag_field=TYPE_KEY):
    """What no message is."""

    never: Annotated[int, msgspec.Meta(ge=1, le=0)]


class _Decoding:
    """The event types as they are now, and the decoder of their union."""

    def __init__(self, kinds: dict[str, EventType]) -> None:
        self.kinds = kinds
        self.names = ", ".join(kinds)
        union: Any = None
        for kind in kinds.values():
            union = kind.struct if union is None else union | kind.struct
        if len(kinds) == 1:
            union |= _Never  # the decoder of one struct takes a message that does not say its type
        self.decode = msgspec.json.Decoder(union, float_hook=plain_number).decode

    def learning(self, stream: str, keys: list[tuple[tuple[str, ...], str]]) -> _Decoding | None:
        """The same with ``keys`` learned; None where there is nothing new to learn."""
        kind = self.kinds[stream]
        if kind.contract.unknown_fields == "refuse":
            return None
        learned = learn(kind.learned, keys)
        return None if learned == kind.learned else _Decoding({**self.kinds, stream: with_learned(kind, learned)})

    def read(self, data: bytes) -> Read | Refusal:
        if is_too_deep(data):
            return Refusal("malformed_json", f"$: expected at most {MAX_DEPTH} levels of objects and arrays, got more", None)
        try:
            document, readable = _parse(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            found = str(error).splitlines()[0]
            return Refusal("malformed_json", f"$: expected a JSON object in UTF-8, got bytes that are none: {found}", None)
        if not isinstance(document, dict):
            return Refusal("unknown_event_type", f"$: expected an object, got {_json_type(document)}", None)
        name = document.get(TYPE_KEY)
        kind = self.kinds.get(name) if isinstance(name, str) else None
        if kind is None:
            return self._unknown_type(document)
        violation = kind.judge(document)
        return _refusal(violation, str(name)) if violation else self._read_known(kind, data, readable)

    def _read_known(self, kind: EventType, data: bytes, readable: bytes) -> Read | Refusal:
        name = kind.contract.event
        parts = split(readable, kind.root)
        try:
            event = kind.exact_decoder.decode(parts.known)
        except _DECODE_ERRORS as error:  # what the judge would have to see; its words are better, but these are true
            return Refusal("contract_violation", f"$: {str(error).splitlines()[0]}", name)
        violation = kind.rules.of_values(event)
        if violation is not None:
            return _refusal(violation, name)  # here, so that no number too wide for Arrow goes on
        unknown = parts.unknown if readable is data else split(data, kind.root).unknown
        return Read(name, event, unknown, parts.paths, parts.keys)

    def _unknown_type(self, document: dict[str, Any]) -> Refusal:
        expected = f"$.{TYPE_KEY}: expected one of {self.names}"
        if TYPE_KEY not in document:
            return Refusal("unknown_event_type", f"{expected}, but it is missing", None)
        name = document[TYPE_KEY]
        if not isinstance(name, str):
            return Refusal("unknown_event_type", f"{expected}, got {_json_type(name)}", None)
        return Refusal("unknown_event_type", f"{expected}, got {shown(name)}", name)


def _refusal(violation: Violation, name: str) -> Refusal:
    return Refusal(violation.reason, sentence(violation), name)


class _Pass:
    """One go over a batch. ``learned`` is what is to be decoded by instead, where the batch has a field that can be learned."""

    def __init__(self, decoding: _Decoding, messages: Sequence[Message], now: datetime) -> None:
        self.batch = DecodedBatch({}, Counter())
        self.learned: _Decoding | None = None
        self._decoding = decoding
        self._messages = messages
        self._now = now
        # Where in the batch the slow path has read an event with an unknown part, and the part.
        self._unknown: dict[int, bytes] = {}
        events = self._events()
        if self.learned is None:
            self._sort(events)

    def _events(self) -> list[Any]:
        """The event of each message, None for a refused one.

        ``extend`` keeps what was decoded before one that raises, and ``map`` goes on behind it: no loop of ours for the many.
        """
        events: list[Any] = []
        data = list(map(_data_of, self._messages))
        if data and max(map(len, data)) > _SHALLOW_BYTES:
            data = [b"" if is_too_deep(one) else one for one in data]  # no decoder's bound is ours: let it refuse these
        decoded = map(self._decoding.decode, data)
        while len(events) < len(data) and self.learned is None:
            try:
                events.extend(decoded)
            except _DECODE_ERRORS:
                events.append(self._decode_slowly(len(events)))
        return events

    def _decode_slowly(self, index: int) -> Any:
        message = self._messages[index]
        outcome = self._decoding.read(message.data)
        if isinstance(outcome, Refusal):
            self._refuse(message, outcome)
            return None
        if outcome.paths:
            self.learned = self._decoding.learning(outcome.stream, outcome.keys)
            for path in outcome.paths:
                self._count(outcome.stream, path)
            if outcome.unknown is not None:
                self._unknown[index] = outcome.unknown
        return outcome.event

    def _refuse(self, message: Message, refusal: Refusal) -> None:
        letter = dead_letter(message, refusal.reason, refusal.error, refusal.event_type, self._now)
        stream = refusal.event_type if refusal.event_type in self._decoding.kinds else UNKNOWN_STREAM
        self._stream(str(stream)).refused.append(letter)

    def _stream(self, name: str) -> TypedBatch:
        if name not in self.batch.streams:
            self.batch.streams[name] = TypedBatch(name, self._decoding.kinds.get(name), [], [], [], [], [])
        return self.batch.streams[name]

    def _count(self, stream: str, path: str, times: int = 1) -> None:
        key = (stream, path)
        if key not in self.batch.drift and len(self.batch.drift) >= MAX_UNKNOWN_PATHS:
            key = (stream, OTHER_PATHS)
        self.batch.drift[key] += times

    def _sort(self, events: list[Any]) -> None:
        """File each event under its stream, in their order."""
        by_type: dict[type, Any] = {}
        for event, event_id, message in zip(events, event_ids_of(self._messages), self._messages, strict=True):
            if event is not None:
                try:
                    add_event, add_id, add_message = by_type[type(event)]
                except KeyError:
                    add_event, add_id, add_message = by_type[type(event)] = self._appends(event)
                add_event(event)
                add_id(event_id)
                add_message(message)
        self._keep(events)
        order = {name: index for index, name in enumerate((*self._decoding.kinds, UNKNOWN_STREAM))}
        self.batch.streams = dict(sorted(self.batch.streams.items(), key=lambda item: order[item[0]]))

    def _appends(self, event: Any) -> Any:
        part = self._stream(str(type(event).__struct_config__.tag))
        return part.events.append, part.event_ids.append, part.messages.append

    def _keep(self, events: list[Any]) -> None:
        for part in list(self.batch.streams.values()):
            if part.kind is not None and part.kind.keep is not None:
                self._keep_learned(part, part.kind.keep)
        if self._unknown:
            self._keep_slow(events)
        for part in self.batch.streams.values():
            if part.kind is not None and part.kind.contract.unknown_fields != "keep":
                part.kept = []

    def _keep_slow(self, events: list[Any]) -> None:
        """What the slow path found, at its event's place in its stream."""
        found = {id(events[index]): unknown for index, unknown in self._unknown.items()}
        for part in self.batch.streams.values():
            for at, event in enumerate(part.events):
                if (unknown := found.get(id(event))) is not None:
                    part.kept = part.kept or [None] * len(part.events)
                    part.kept[at] = unknown

    def _keep_learned(self, part: TypedBatch, keep: Keeper) -> None:
        found = keep(part.events)
        part.kept = found.parts
        for path, times in found.counts.items():
            if times:
                self._count(part.stream, path, times)
        if not _is_utf8(b"".join(filter(None, found.parts))):
            self._without(part, {index for index, text in enumerate(found.parts) if text and not _is_utf8(text)})

    def _without(self, part: TypedBatch, broken: set[int]) -> None:
        for index in sorted(broken):
            outcome = self._decoding.read(part.messages[index].data)
            assert isinstance(outcome, Refusal)  # its bytes are no UTF-8
            self._refuse(part.messages[index], outcome)
        good = [index for index in range(len(part.events)) if index not in broken]
        for name in ("events", "event_ids", "messages", "kept"):
            values = getattr(part, name)
            setattr(part, name, [values[index] for index in good])


_data_of = attrgetter("data")


def _is_utf8(text: bytes) -> bool:
    """A decoder passes over a raw value without looking at its text."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def halves(batch: TypedBatch) -> Iterator[TypedBatch]:
    """``batch``, of two events or more, in two; what was refused goes with the first."""
    middle = len(batch.events) // 2
    for part, refused in ((slice(0, middle), batch.refused), (slice(middle, None), [])):
        lists = batch.events[part], batch.event_ids[part], batch.messages[part]
        yield TypedBatch(batch.stream, batch.kind, *lists, refused, batch.kept[part])


def violation_of_event(kind: EventType, event: Any, event_id: str, dates: DateRange) -> Violation | None:
    """The first rule that ``event`` breaks, the contract's own that refuse included, or None."""
    rules = kind.rules
    found = rules.of_values(event) or rules.of_date(event, dates) or rules.of_size(event, event_id)
    if found is not None:
        return found
    for rule, evaluator in rules.of_fields:
        if rule.otherwise == "refuse" and (broken := field_violation(rule, kind.contract, evaluator, event)):
            return broken
    return None


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


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    names: dict[type, str] = {bool: "bool", str: "str", list: "array", dict: "object"}
    return names.get(type(value), "number")
