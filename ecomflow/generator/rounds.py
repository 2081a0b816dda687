"""Rounds of events: a seed, a time and a number in; a lazy stream of messages ready to publish out.

A round is one valid and one invalid event of each type. The expected result of each is known, so that it can be checked.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime
from itertools import cycle
from random import Random

import msgspec

from ecomflow.errors import ConfigError
from ecomflow.generator.faults import EVENT_TYPES, Fault, encode, expected_stream, faults_of
from ecomflow.generator.shop import Body, Shop, Window, draw_vocabulary, window_before, window_of


class GeneratedEvent(msgspec.Struct, frozen=True, gc=False):
    """A message and the expected result of the pipeline.

    ``event_type`` is the type of the slot in the round, which the body of an invalid event may contradict. ``lists``: the number
    of elements of each list that has a table of its own, by the list's path (``items``). Valid events have no ``fault`` and
    ``expected_reason``.
    """

    data: bytes
    attributes: dict[str, str]
    event_type: str
    lists: dict[str, int]
    fault: str | None
    expected_reason: str | None
    expected_stream: str


def fresh_seed() -> int:
    """A random seed of 63 bits."""
    return secrets.randbits(63)


def generate(
    rounds: int,
    *,
    seed: int,
    now: datetime,
    types: Iterable[str] = EVENT_TYPES,
    valid_only: bool = False,
    event_date: date | None = None,
) -> Iterator[GeneratedEvent]:
    """``rounds`` rounds of events of ``types``, generated lazily.

    Their times are in the days before ``now`` or, if ``event_date`` is given, on that UTC date. The same arguments give the same
    bytes; fewer rounds give a prefix of more. Ids depend on the seed and the time: with a fixed ``event_date`` a second run
    repeats the events of the first with their ids, without one it generates new events. Raises ConfigError for an unknown type.
    """
    chosen = _checked_types(types)
    window = window_of(event_date) if event_date is not None else window_before(now)
    identity = f"{seed} {window.end.isoformat()} {window.days} {','.join(chosen)}"
    valid = _valid_slots(chosen, window, seed, identity)
    invalid = [] if valid_only else _invalid_slots(chosen, window, seed, identity)
    # A slot's valid event comes right before its invalid one.
    slots = [slot for pair in zip(valid, invalid, strict=True) for slot in pair] if invalid else valid
    return (next(slot) for _ in range(rounds) for slot in slots)


def dry_run_line(event: GeneratedEvent) -> str:
    """The event as one JSON object: the data as text if it is UTF-8, else in base64, according to ``data_encoding``."""
    try:
        data, encoding = event.data.decode(), "utf-8"
    except UnicodeDecodeError:
        data, encoding = base64.b64encode(event.data).decode(), "base64"
    line = {"data": data, "data_encoding": encoding, "attributes": event.attributes, "event_type": event.event_type}
    return encode(line | {"fault": event.fault, "expected_reason": event.expected_reason}).decode()


def _checked_types(types: Iterable[str]) -> list[str]:
    wanted = list(types)
    strangers = [name for name in wanted if name not in EVENT_TYPES]
    if strangers or not wanted:
        found = f"found '{strangers[0]}'" if strangers else "found none"
        raise ConfigError(f"Expected event types among {', '.join(EVENT_TYPES)}; {found}.", "Correct --types.")
    return [name for name in EVENT_TYPES if name in wanted]


def _valid_slots(types: list[str], window: Window, seed: int, identity: str) -> list[Iterator[GeneratedEvent]]:
    shop = Shop(draw_vocabulary(), window, seed=f"{seed} valid", identity=f"{identity} valid")
    ids = Random(f"event ids {identity} valid")
    return [_valid_events(name, _maker(shop, name), ids) for name in types]


def _invalid_slots(types: list[str], window: Window, seed: int, identity: str) -> list[Iterator[GeneratedEvent]]:
    """Invalid events come from a separate shop, so that the valid ones stay consistent and don't depend on them."""
    shop = Shop(draw_vocabulary(), window, seed=f"{seed} invalid", identity=f"{identity} invalid")
    ids = Random(f"event ids {identity} invalid")
    return [_invalid_events(name, _maker(shop, name), ids, _shuffled(faults_of(name), seed)) for name in types]


def _valid_events(event_type: str, make: Callable[[], Body], ids: Random) -> Iterator[GeneratedEvent]:
    while True:
        body = make()
        lists = {"items": len(body["items"])} if event_type == "order" else {}
        yield GeneratedEvent(encode(body), _attributes(body, ids), event_type, lists, None, None, event_type)


def _invalid_events(event_type: str, make: Callable[[], Body], ids: Random, faults: Iterable[Fault]) -> Iterator[GeneratedEvent]:
    for fault in cycle(faults):
        body = make()
        attributes = _attributes(body, ids)
        stream = expected_stream(fault, event_type)
        yield GeneratedEvent(fault.corrupt(body), attributes, event_type, {}, fault.name, fault.reason, stream)


def _maker(shop: Shop, event_type: str) -> Callable[[], Body]:
    return {"order": shop.order, "inventory": shop.inventory, "user_activity": shop.user_activity}[event_type]


def _shuffled(faults: tuple[Fault, ...], seed: int) -> list[Fault]:
    return Random(f"faults {seed}").sample(faults, len(faults))


def _attributes(body: Body, ids: Random) -> dict[str, str]:
    return {"event_id": _uuid4(ids), "event_timestamp": body["order_date"] if "order_date" in body else body["timestamp"]}


def _uuid4(ids: Random) -> str:
    """A version 4 UUID (RFC 9562) from a seeded source, several times faster than ``uuid.UUID``."""
    bits = f"{ids.getrandbits(128):032x}"
    return f"{bits[:8]}-{bits[8:12]}-4{bits[13:16]}-{'89ab'[int(bits[16], 16) & 3]}{bits[17:20]}-{bits[20:]}"
