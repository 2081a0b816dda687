"""Messages in; typed events by stream, and dead letters, out. Pure: no Beam, no cloud, the clock passed in.

The fast path is one call of a typed decoder a message; two where the message is in an envelope (``opening.py``). A message that
it refuses takes the slow path (``documents.py``), which says whether it is malformed, unknown, in breach of its contract, or
merely carries fields that the contract does not name. Those are learned: from then on the decoder takes them as raw text, so
that a producer that adds a field slows nobody. What is learned is forgotten with the process, and nobody depends on it.
"""

from __future__ import annotations

import copyreg
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from operator import attrgetter, call
from typing import Any

import msgspec

from ecomflow.contract.compiling import EventType, compile_contract, with_learned
from ecomflow.contract.dead_letter import UNKNOWN_STREAM, DeadLetter, dead_letter
from ecomflow.contract.documents import DECODE_ERRORS, Read, Refusal, event_id_of, read
from ecomflow.contract.envelope import ECOMFLOW, Envelope
from ecomflow.contract.events import EVENT_ID, Message
from ecomflow.contract.language import Contract
from ecomflow.contract.limits import DateRange
from ecomflow.contract.nesting import MAX_DEPTH, is_too_deep
from ecomflow.contract.opening import is_utf8, opener_of, union_decoder
from ecomflow.contract.reasons import Violation
from ecomflow.contract.rule_code import field_violation
from ecomflow.contract.structs import Tag
from ecomflow.contract.tables import versions_of
from ecomflow.contract.times import EPOCH
from ecomflow.contract.unknown import Keeper, learn

# How much is decoded at a time: the events of a message can take twenty times its bytes while they wait to become rows.
PORTION_BYTES = 8 * 2**20

# Distinct unknown fields that a batch names; a message of 10 MB has room for a million. The rest is counted as one of its type.
MAX_UNKNOWN_PATHS = 1_000
OTHER_PATHS = "other"
# A document nested more deeply than is allowed has at least so many bytes.
_SHALLOW_BYTES = 2 * MAX_DEPTH


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
    """The events of one version of one stream in a batch: parallel lists of events, their ids and their messages; and what was
    refused of the stream, which goes with its lowest version.

    ``kind`` is what the events were decoded by, None for the stream of what is of no known type. ``kept`` is the unknown part of
    each event, as JSON, or None; empty where no event has one, or the contract does not keep it. What leaves its process has
    neither: ``Codec.restored`` decodes it again.
    """

    stream: str
    kind: EventType | None
    events: list[Any]
    event_ids: list[str]
    messages: list[Message]
    refused: list[DeadLetter]
    kept: list[bytes | None]


def _packed(batch: TypedBatch) -> tuple[Any, ...]:
    """What is pickled: no events, for their classes are made at start in each process."""
    return TypedBatch, (batch.stream, None, [], batch.event_ids, batch.messages, batch.refused, [])


copyreg.pickle(TypedBatch, _packed)


class DecodedBatch(msgspec.Struct):
    """A batch by stream and version (every one that occurs), and its unknown fields, counted by (stream, path)."""

    parts: list[TypedBatch]
    drift: Counter[tuple[str, str]]


class Codec:
    """Decodes the messages of a set of contracts, which stand in ``envelope``.

    Threads may share one: what it has learned is replaced as a whole.
    """

    def __init__(self, contracts: Iterable[Contract], envelope: Envelope = ECOMFLOW) -> None:
        versions = versions_of(contracts)
        tag_key = _tag_key(versions, envelope)
        kinds = {
            event: {
                one.version: compile_contract(one, each, envelope, Tag(tag_key, one.type) if tag_key else None) for one in each
            }
            for event, each in versions.items()
        }
        self._current = _Decoding(kinds, envelope, is_plain=tag_key is not None)

    @property
    def kinds(self) -> dict[str, dict[int, EventType]]:
        """The versions of each event by its name, the lowest first, as they are decoded now."""
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

    def restored(self, batch: TypedBatch) -> TypedBatch:
        """``batch`` with its events, which it lacks where it comes from another process."""
        if batch.events or not batch.messages:
            return batch
        (part,) = self.decode(batch.messages, EPOCH).parts  # none is refused: each was decoded before
        part.refused = batch.refused
        return part

    def read(self, message: Message) -> Read | Refusal:
        """The event of ``message`` as the slow path reads it, or why it is none."""
        return self._current.read(message)

    def read_document(self, data: bytes) -> Read | Refusal:
        """The same of a message without attributes."""
        return self.read(Message(data, {}, "", 0))

    def event_id_of(self, message: Message) -> str | None:
        """The producer's own id of ``message``, else its attribute ``event_id``, if any."""
        return self._current.id_of(message)


def _tag_key(versions: dict[str, tuple[Contract, ...]], envelope: Envelope) -> str | None:
    """The key of the body by which one decoder can read all types in one stage; None where it takes two."""
    keys = envelope.type.keys
    is_flat = not envelope.body and len(keys) == 1 and all(place.attribute is not None for place in envelope.ids)
    named = {field.path[0] for each in versions.values() for contract in each for field in contract.fields}
    return keys[0] if is_flat and keys[0] not in named and all(len(each) == 1 for each in versions.values()) else None


class _Decoding:
    """The event types as they are now, and their decoders: where ``is_plain``, one of their union; else what opens envelopes."""

    def __init__(self, kinds: dict[str, dict[int, EventType]], envelope: Envelope, is_plain: bool) -> None:
        self.kinds = kinds
        self.envelope = envelope
        self.types = {next(iter(versions.values())).contract.type: versions for versions in kinds.values()}
        self.lowest: dict[str | None, EventType] = {event: next(iter(versions.values())) for event, versions in kinds.items()}
        self.by_struct = {kind.struct: kind for versions in kinds.values() for kind in versions.values()}
        self._id_attribute = envelope.ids[0].attribute or ""
        self._open = None if is_plain else opener_of(envelope, self.types)
        if is_plain:
            self._decode = union_decoder(list(self.by_struct), envelope.type.keys[0])

    def decoded(self, messages: Sequence[Message], data: list[bytes]) -> tuple[Iterator[Any], list[str | None] | None]:
        """The event of each message, raising one of DECODE_ERRORS where the slow path must look; and the producer's own ids,
        where they stand in an envelope.
        """
        if self._open is None:
            return map(self._decode, data), None
        opened = self._open(messages, data)
        return map(call, opened.decoders, opened.bodies), opened.ids

    def event_ids(self, messages: Sequence[Message], found: list[str | None] | None) -> list[str]:
        """The id of each event: the producer's own, else that of its attribute ``event_id``, else that of its message."""
        if found is None:
            name = self._id_attribute
            return [one.attributes.get(name) or one.attributes.get(EVENT_ID) or one.message_id for one in messages]
        pairs = zip(found, messages, strict=True)
        return [own or message.attributes.get(EVENT_ID) or message.message_id for own, message in pairs]

    def id_of(self, message: Message) -> str | None:
        """The producer's own id, else that of the attribute ``event_id``."""
        own_id = message.attributes.get(self._id_attribute) if self._open is None else event_id_of(message, self.envelope)
        return own_id or message.attributes.get(EVENT_ID)

    def learning(self, kind: EventType, keys: list[tuple[tuple[str, ...], str]]) -> _Decoding | None:
        """The same with ``keys`` learned; None where there is nothing new to learn."""
        if kind.contract.unknown_fields == "refuse":
            return None
        learned = learn(kind.learned, keys)
        if learned == kind.learned:
            return None
        event, version = kind.contract.event, kind.contract.version
        kinds = {**self.kinds, event: {**self.kinds[event], version: with_learned(kind, learned)}}
        return _Decoding(kinds, self.envelope, is_plain=self._open is None)

    def read(self, message: Message) -> Read | Refusal:
        return read(message, self.envelope, self.types)


class _Pass:
    """One go over a batch. ``learned`` is what is to be decoded by instead, where the batch has a field that can be learned."""

    def __init__(self, decoding: _Decoding, messages: Sequence[Message], now: datetime) -> None:
        self.batch = DecodedBatch([], Counter())
        self.learned: _Decoding | None = None
        self._decoding = decoding
        self._messages = messages
        self._now = now
        self._parts: dict[tuple[str, int], TypedBatch] = {}
        # Where in the batch the slow path has read an event with an unknown part, and the part.
        self._unknown: dict[int, bytes] = {}
        self._ids: list[str | None] | None = None
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
        decoded, self._ids = self._decoding.decoded(self._messages, data)
        while len(events) < len(data) and self.learned is None:
            try:
                events.extend(decoded)
            except DECODE_ERRORS:
                events.append(self._decode_slowly(len(events)))
        return events

    def _decode_slowly(self, index: int) -> Any:
        message = self._messages[index]
        outcome = self._decoding.read(message)
        if isinstance(outcome, Refusal):
            self._refuse(message, outcome)
            return None
        if self._ids is not None:
            self._ids[index] = outcome.event_id
        if outcome.paths:
            self.learned = self._decoding.learning(outcome.kind, outcome.keys)
            for path in outcome.paths:
                self._count(outcome.kind.contract.event, path)
            if outcome.unknown is not None:
                self._unknown[index] = outcome.unknown
        return outcome.event

    def _refuse(self, message: Message, refusal: Refusal) -> None:
        event_id = self._decoding.id_of(message)
        letter = dead_letter(message, refusal.reason, refusal.error, refusal.event_type, self._now, event_id=event_id)
        self._part(self._decoding.lowest.get(refusal.event_type)).refused.append(letter)

    def _part(self, kind: EventType | None) -> TypedBatch:
        key = (UNKNOWN_STREAM, 0) if kind is None else (kind.contract.event, kind.contract.version)
        if key not in self._parts:
            self._parts[key] = TypedBatch(key[0], kind, [], [], [], [], [])
        return self._parts[key]

    def _count(self, stream: str, path: str, times: int = 1) -> None:
        key = (stream, path)
        if key not in self.batch.drift and len(self.batch.drift) >= MAX_UNKNOWN_PATHS:
            key = (stream, OTHER_PATHS)
        self.batch.drift[key] += times

    def _sort(self, events: list[Any]) -> None:
        """File each event under its stream and version, in their order."""
        by_type: dict[type, Any] = {}
        ids = self._decoding.event_ids(self._messages, self._ids)
        for event, event_id, message in zip(events, ids, self._messages, strict=True):
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
        self.batch.parts = [part for _, part in sorted(self._parts.items(), key=lambda item: (order[item[0][0]], item[0][1]))]

    def _appends(self, event: Any) -> Any:
        part = self._part(self._decoding.by_struct[type(event)])
        return part.events.append, part.event_ids.append, part.messages.append

    def _keep(self, events: list[Any]) -> None:
        parts = list(self._parts.values())
        for part in parts:
            if part.kind is not None and part.kind.keep is not None:
                self._keep_learned(part, part.kind.keep)
        if self._unknown:
            self._keep_slow(events)
        for part in parts:
            if part.kind is not None and part.kind.contract.unknown_fields != "keep":
                part.kept = []

    def _keep_slow(self, events: list[Any]) -> None:
        """What the slow path found, at its event's place in its stream."""
        found = {id(events[index]): unknown for index, unknown in self._unknown.items()}
        for part in self._parts.values():
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
        if not is_utf8(b"".join(filter(None, found.parts))):
            self._without(part, {index for index, text in enumerate(found.parts) if text and not is_utf8(text)})

    def _without(self, part: TypedBatch, broken: set[int]) -> None:
        for index in sorted(broken):
            message = part.messages[index]
            outcome = self._decoding.read(message)
            assert isinstance(outcome, Refusal)  # its bytes are no UTF-8
            self._refuse(message, outcome)
        good = [index for index in range(len(part.events)) if index not in broken]
        for name in ("events", "event_ids", "messages", "kept"):
            values = getattr(part, name)
            setattr(part, name, [values[index] for index in good])


_data_of = attrgetter("data")


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
