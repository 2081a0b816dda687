"""Rounds of events: contracts, a seed, a time and a number in; a lazy stream of messages ready to publish out.

A round is one valid and one invalid event of each type. The expected result of each is known, so that it can be checked.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from functools import cache
from itertools import cycle
from random import Random
from typing import NamedTuple

import msgspec

from ecomflow.contract.envelope import ECOMFLOW, Envelope
from ecomflow.contract.events import EVENT_ID
from ecomflow.contract.language import Contract, find, records_of
from ecomflow.contract.loading import shop_contracts
from ecomflow.contract.mistakes import nearest
from ecomflow.contract.rule_code import lists_of
from ecomflow.errors import ConfigError
from ecomflow.generator.bodies import Bodies, Run, makers_of
from ecomflow.generator.editing import value_at
from ecomflow.generator.faults import Fault, expected_stream, faults_of
from ecomflow.generator.hints import check_hints
from ecomflow.generator.messages import Body, encode, to_message, uuid4
from ecomflow.generator.moments import window_before, window_of
from ecomflow.generator.rule_faults import UnbreakableError

# Bodies that are drawn for one fault before the next fault's turn comes.
_TRIES = 20


class GeneratedEvent(msgspec.Struct, frozen=True, gc=False):
    """A message and the expected result of the pipeline.

    ``event_type`` is the type of the slot in the round, which the message of an invalid event may contradict. ``lists``: the
    number of elements of each list of a valid event that has a table of its own, by the list's path (``items``). Valid events
    have no ``fault`` and ``expected_reason``. ``envelope_id``: the id in the envelope, where the event has another one than its
    attribute ``event_id``. ``ordering_key`` is empty but for messages of a file that have one.
    """

    data: bytes
    attributes: dict[str, str]
    event_type: str
    lists: dict[str, int]
    fault: str | None
    expected_reason: str | None
    expected_stream: str
    envelope_id: str | None = None
    ordering_key: str = ""

    @property
    def event_id(self) -> str:
        """The id that the fact tables know it by."""
        return self.envelope_id or self.attributes[EVENT_ID]


class Slot(NamedTuple):
    """A place in each round: a contract, and the version that its messages say, where it is not the lowest."""

    contract: Contract
    version: int | None


def generate(
    rounds: int,
    *,
    seed: int,
    now: datetime,
    contracts: Sequence[Contract] | None = None,
    types: Iterable[str] | None = None,
    valid_only: bool = False,
    event_date: date | None = None,
    envelope: Envelope = ECOMFLOW,
) -> Iterator[GeneratedEvent]:
    """``rounds`` rounds of events of ``types`` among ``contracts`` (all of the shop's) in ``envelope``, generated lazily.

    Their times are in the seven days before ``now`` or, if ``event_date`` is given, on that UTC date. The same arguments give the
    same bytes, ids included; fewer rounds give a prefix of more. With another seed, ``now`` or ``event_date`` all ids are new.
    Raises ConfigError for an unknown type, and where a contract has no event that could be made.
    """
    in_force = _shop() if contracts is None else tuple(contracts)
    envelope = ECOMFLOW if envelope == ECOMFLOW else envelope  # compared once, then by identity
    chosen = slots_of(in_force, types)
    check_hints([slot.contract for slot in chosen])
    window = window_of(event_date) if event_date is not None else window_before(now)
    identity = f"{seed} {window.end.isoformat()} {window.days} {','.join(slot.contract.event for slot in chosen)}"
    valid = _valid_slots(chosen, Run(window, seed, identity, "valid"), envelope)
    invalid = [] if valid_only else _invalid_slots(chosen, Run(window, seed, identity, "invalid"), in_force, envelope)
    # A slot's valid event comes right before its invalid one.
    slots = [slot for pair in zip(valid, invalid, strict=True) for slot in pair] if invalid else valid
    return (next(slot) for _ in range(rounds) for slot in slots)


def slots_of(contracts: Sequence[Contract], types: Iterable[str] | None = None) -> list[Slot]:
    """The valid events of a round of ``types``, in the order of ``contracts``. Raises ConfigError for an unknown type."""
    events = list(dict.fromkeys(contract.event for contract in contracts))
    wanted = events if types is None else list(types)
    strangers = [name for name in wanted if name not in events]
    if strangers or not wanted:
        found = f"found '{strangers[0]}'{nearest(strangers[0], events) or '.'}" if strangers else "found none."
        raise ConfigError(f"Expected event types among {', '.join(events)}; {found}", "Correct --types.")
    lowest = {contract.event: contract.version for contract in sorted(contracts, key=lambda one: -one.version)}
    return [
        Slot(contract, None if contract.version == lowest[contract.event] else contract.version)
        for contract in contracts
        if contract.event in wanted
    ]


def dry_run_line(event: GeneratedEvent) -> str:
    """The event as one JSON object: the data as text if it is UTF-8, else in base64, according to ``data_encoding``; with an
    ``ordering_key`` if it has one.
    """
    try:
        data, encoding = event.data.decode(), "utf-8"
    except UnicodeDecodeError:
        data, encoding = base64.b64encode(event.data).decode(), "base64"
    line = {"data": data, "data_encoding": encoding, "attributes": event.attributes, "event_type": event.event_type}
    line |= {"ordering_key": event.ordering_key} if event.ordering_key else {}
    return encode(line | {"fault": event.fault, "expected_reason": event.expected_reason}).decode()


@cache
def _shop() -> tuple[Contract, ...]:
    return shop_contracts()


def _valid_slots(slots: list[Slot], run: Run, envelope: Envelope) -> list[Iterator[GeneratedEvent]]:
    ids = Random(f"event ids {run.identity} {run.kind}")
    makers = makers_of(tuple(slot.contract for slot in slots), run)
    return [_valid_events(slot, maker, ids, envelope) for slot, maker in zip(slots, makers, strict=True)]


def _invalid_slots(
    slots: list[Slot], run: Run, in_force: tuple[Contract, ...], envelope: Envelope
) -> list[Iterator[GeneratedEvent]]:
    """Invalid events have makers of their own, so that the valid ones stay consistent and don't depend on them."""
    ids = Random(f"event ids {run.identity} {run.kind}")
    makers = makers_of(tuple(slot.contract for slot in slots), run)
    types = [contract.type for contract in in_force]
    return [
        _invalid_events(slot, maker, ids, _shuffled(_expressible(faults_of(slot.contract, types), envelope), run.seed), envelope)
        for slot, maker in zip(slots, makers, strict=True)
    ]


def _valid_events(slot: Slot, maker: Bodies, ids: Random, envelope: Envelope) -> Iterator[GeneratedEvent]:
    event, kind, version, make = slot.contract.event, slot.contract.type, slot.version, maker.make
    time_of, count_lists = time_reader(slot.contract), lists_counter(slot.contract)
    while True:
        body = make()
        data, attributes = to_message(body, kind, uuid4(ids), time_of(body), version, envelope)
        yield GeneratedEvent(data, attributes, event, count_lists(body), None, None, event)


def _invalid_events(
    slot: Slot, maker: Bodies, ids: Random, faults: Sequence[Fault], envelope: Envelope
) -> Iterator[GeneratedEvent]:
    event, kind, version, time_of = slot.contract.event, slot.contract.type, slot.version, time_reader(slot.contract)
    expected = [(fault, expected_stream(fault, event)) for fault in faults]
    for fault, stream in cycle(expected):
        bodies = with_fault(fault, maker)
        if bodies is None:
            continue
        body, spoiled = bodies
        data, attributes = faulty_message(fault, spoiled, kind, uuid4(ids), time_of(body), version, envelope)
        yield GeneratedEvent(data, attributes, event, {}, fault.name, fault.reason, stream)


def with_fault(fault: Fault, maker: Bodies) -> tuple[Body, Body] | None:
    """A valid body, and what ``fault`` makes of it, the same where it is no fault of the body; None where no body takes it."""
    for _ in range(_TRIES):
        body = maker.make_full()
        try:
            return body, (fault.corrupt(body) if fault.stage == "body" else body)
        except UnbreakableError:
            continue
    return None


def _expressible(faults: Sequence[Fault], envelope: Envelope) -> tuple[Fault, ...]:
    """Without the faults that spoil how the default envelope says the type: in another, they would be no fault, or another."""
    if envelope is ECOMFLOW:
        return tuple(faults)
    return tuple(fault for fault in faults if fault.stage == "body" and not fault.is_unreadable)


def faulty_message(
    fault: Fault,
    body: Body,
    event_type: str,
    event_id: str,
    time: str,
    version: int | None = None,
    envelope: Envelope = ECOMFLOW,
) -> tuple[bytes, dict[str, str]]:
    """The message of an event whose ``body`` has been spoiled already, where the fault is one of the body."""
    if fault.stage == "body":
        return to_message(body, event_type, event_id, time, version, envelope)
    data, attributes = to_message(
        body, fault.corrupt(event_type) if fault.stage == "type" else event_type, event_id, time, version, envelope
    )
    return (fault.corrupt(data) if fault.stage == "data" else data), attributes


def time_reader(contract: Contract) -> Callable[[Body], str]:
    """Reads the time of an event from its body."""
    keys = next(field.path for field in contract.fields if field.name == contract.time)
    first = keys[0]
    return (lambda body: body[first]) if len(keys) == 1 else (lambda body: value_at(body, keys))


def lists_counter(contract: Contract) -> Callable[[Body], dict[str, int]]:
    """Counts the elements of each list that has a table of its own."""
    records = records_of(contract.records)
    places = [place for each in lists_of(contract) if (place := find(each, contract.fields, records)) is not None]
    lists = [(".".join(place.names), tuple(key for field in place.fields for key in field.path)) for place in places]
    if len(lists) != 1:
        return lambda body: {name: _length(value_at(body, keys)) for name, keys in lists}
    name, keys = lists[0]
    return lambda body: {name: _length(value_at(body, keys))}


def _length(elements: object) -> int:
    return len(elements) if isinstance(elements, list) else 0


def _shuffled(faults: tuple[Fault, ...], seed: int) -> list[Fault]:
    return Random(f"faults {seed}").sample(faults, len(faults))
