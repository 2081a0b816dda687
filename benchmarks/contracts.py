"""What a contract as data costs: bytes to Arrow batches for all five tables, on one core, compiled and hand-written in one run.

Ratios of processor time, the best of many turns, the machine's noise being the same for both. Each but the first and the last
is to the compiled shop with valid events:

- ``hand_written``: the compiled shop, to ``hand_written.py`` (target: 1.10)
- ``unknown``: with two fields in each event that no contract names, kept (1.2)
- ``refused``: with a violation in each event (3); ``refused_5_percent`` and ``refused_half``: in so many, evenly spread (their
  share of that: 1.1 and 2)
- ``thirty_types``: 30 event types, of which each event is one, to three of the same making (1)
- ``attribute``, ``structured``, ``binary``: with the type in an attribute, as CloudEvents in either mode (1.3)
- ``versions``: with a second version of each type, every other event being of it (1.3)
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from benchmarks import hand_written
from benchmarks.core import SHOP
from benchmarks.events import NOW, messages
from ecomflow.contract.codec import Codec
from ecomflow.contract.envelope import CLOUDEVENTS, Envelope, EnvelopeSettings, read_envelope, to_message
from ecomflow.contract.events import Message
from ecomflow.contract.language import Contract
from ecomflow.contract.modelling import model
from ecomflow.generator.faults import faults_of
from ecomflow.generator.messages import encode_typed

BATCH = 9_999
SECONDS = 20.0
# Of each type, one event in so many is refused.
EVERY = {"refused_5_percent": 20, "refused_half": 2, "refused": 1}
# What is decoded in two stages: its type, its version or its body stand apart.
TWO_STAGES = ("attribute", "structured", "binary", "versions")
TARGETS = {
    "hand_written": 1.1,
    "unknown": 1.2,
    "refused_5_percent": 1.1,
    "refused_half": 2.0,
    "refused": 3.0,
    "thirty_types": 1.0,
    **dict.fromkeys(TWO_STAGES, 1.3),
}
# What no decoder can read further than to its first bytes says nothing about contracts.
_JUDGED = ("contract_violation", "out_of_range")


def by_hand(batch: list[Message]) -> int:
    """How many rows."""
    return sum(rows.num_rows for rows in hand_written.model(hand_written.decode(batch), NOW).values())


def compiled(codec: Codec, batch: list[Message]) -> tuple[int, int]:
    """How many events are rows and how many dead letters."""
    facts = [model(part, NOW) for part in codec.decode(batch, NOW).parts]
    return sum(len(part.messages) for part in facts), sum(len(part.refused) for part in facts)


def with_unknown(batch: Sequence[Message]) -> list[Message]:
    """Each event with a text and an object that its contract does not name."""
    more = b',"coupon":"WELCOME-10","client":{"version":"3.1.4","beta":false}}'
    return [msgspec.structs.replace(one, data=one.data.rstrip()[:-1] + more) for one in batch]


def with_faults(batch: Sequence[Message], every: int = 1) -> list[Message]:
    """Of each type, one event in ``every`` with one of the catalogue's faults, in turn."""
    catalogue = {
        contract.event: [
            fault
            for fault in faults_of(contract, [one.event for one in SHOP])
            if fault.stage == "body" and fault.reason in _JUDGED
        ]
        for contract in SHOP
    }
    made = list(batch)
    for number, one in enumerate(batch):
        turn, rest = divmod(number // 3, every)
        if rest == 0:
            body = msgspec.json.decode(one.data)
            event = body.pop("event_type")
            fault = catalogue[event][turn % len(catalogue[event])]
            made[number] = msgspec.structs.replace(one, data=encode_typed(fault.corrupt(body), event))
    return made


def many_types(copies: int) -> tuple[list[Contract], dict[str, list[str]]]:
    """The shop's contracts, ``copies`` of each under names of their own; and these names by the shop's."""
    contracts, names = [], {}
    for one in SHOP:
        names[one.event] = [f"{one.event}_{number}" for number in range(copies)]
        for number, event in enumerate(names[one.event]):
            tables = tuple(msgspec.structs.replace(table, name=f"{table.name}_{number}") for table in one.tables)
            contracts.append(msgspec.structs.replace(one, event=event, type=event, tables=tables))
    return contracts, names


def spread(batch: Sequence[Message], names: dict[str, list[str]]) -> list[Message]:
    """``batch`` with its events' types spread over ``names``."""
    made = []
    for number, one in enumerate(batch):
        kind = json.loads(one.data)["event_type"]
        mine = names[kind][number // 3 % len(names[kind])]
        data = one.data.replace(f'"event_type":"{kind}"'.encode(), f'"event_type":"{mine}"'.encode(), 1)
        made.append(msgspec.structs.replace(one, data=data))
    return made


def subjects() -> dict[str, Callable[[], Any]]:
    """What is measured, each a call over one batch."""
    plain = messages(BATCH)
    few, few_names = many_types(1)
    many, many_names = many_types(10)
    shop, learning, three, thirty = Codec(SHOP), Codec(SHOP), Codec(few), Codec(many)
    unknown, of_three, of_thirty = with_unknown(plain), spread(plain, few_names), spread(plain, many_names)
    refused = {name: with_faults(plain, every) for name, every in EVERY.items()}
    for name, batch in refused.items():
        faulty = sum(one.data != other.data for one, other in zip(batch, plain, strict=True))
        _expect(name, compiled(shop, batch), (BATCH - faulty, faulty))
    _expect("plain", compiled(shop, plain), (BATCH, 0))
    _expect("unknown", compiled(learning, unknown), (BATCH, 0))
    _expect("thirty_types", compiled(thirty, of_thirty), (BATCH, 0))
    return {
        "hand_written": lambda: by_hand(plain),
        "compiled": lambda: compiled(shop, plain),
        "unknown": lambda: compiled(learning, unknown),
        **{name: partial(compiled, shop, batch) for name, batch in refused.items()},
        "three_types": lambda: compiled(three, of_three),
        "thirty_types": lambda: compiled(thirty, of_thirty),
        **envelopes(plain),
    }


def enveloped(batch: Sequence[Message], envelope: Envelope) -> list[Message]:
    """The events of ``batch`` in ``envelope``."""
    made = []
    for one in batch:
        body = msgspec.json.decode(one.data)
        kind = body.pop("event_type")
        written = to_message(envelope, kind, one.message_id, None, msgspec.json.encode(body))
        made.append(msgspec.structs.replace(one, data=written[0], attributes=written[1]))
    return made


def with_second_versions(batch: Sequence[Message]) -> tuple[list[Contract], list[Message]]:
    """The shop's contracts twice, and ``batch`` with every other event of the second version."""
    second = [msgspec.structs.replace(one, version=2) for one in SHOP]
    versions = [
        msgspec.structs.replace(one, attributes={**one.attributes, "event_version": str(1 + number % 2)})
        for number, one in enumerate(batch)
    ]
    return [*SHOP, *second], versions


def envelopes(batch: Sequence[Message]) -> dict[str, Callable[[], Any]]:
    """Decoding in two stages: by an envelope, and by versions."""
    assert CLOUDEVENTS.binary is not None
    written = {
        "attribute": read_envelope(EnvelopeSettings(type="attribute:eventType")),
        "structured": CLOUDEVENTS,
        "binary": CLOUDEVENTS.binary,
    }
    contracts, versions = with_second_versions(batch)
    sent = {name: enveloped(batch, envelope) for name, envelope in written.items()} | {"versions": versions}
    codecs = {name: Codec(SHOP, CLOUDEVENTS) for name in ("structured", "binary")}
    codecs |= {"attribute": Codec(SHOP, written["attribute"]), "versions": Codec(contracts)}
    for name, codec in codecs.items():
        _expect(name, compiled(codec, sent[name]), (BATCH, 0))
    return {name: lambda codec=codec, batch=sent[name]: compiled(codec, batch) for name, codec in codecs.items()}  # type: ignore[misc]


def _expect(name: str, found: tuple[int, int], expected: tuple[int, int]) -> None:
    if found != expected:
        raise RuntimeError(f"{name}: {expected} rows and dead letters were to come of {BATCH} events, {found} did")


def measure(seconds: float) -> dict[str, float]:
    """Microseconds of processor time an event of each subject: the best of its turns."""
    made = subjects()
    best = dict.fromkeys(made, float("inf"))
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for name, subject in made.items():
            gc.collect()
            began = time.process_time()
            subject()
            best[name] = min(best[name], time.process_time() - began)
    return {name: took / BATCH * 1e6 for name, took in best.items()}


def ratios(took: dict[str, float]) -> dict[str, float]:
    return {
        "hand_written": took["compiled"] / took["hand_written"],
        "unknown": took["unknown"] / took["compiled"],
        **{name: took[name] / took["compiled"] for name in EVERY},
        "thirty_types": took["thirty_types"] / took["three_types"],
        **{name: took[name] / took["compiled"] for name in TWO_STAGES},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=SECONDS)
    took = measure(parser.parse_args().seconds)
    found = {name: {"ratio": ratio, "target": TARGETS[name]} for name, ratio in ratios(took).items()}
    print(json.dumps({"microseconds": took, "ratios": found, "measured_at": datetime.now(UTC).isoformat()}, indent=2))


if __name__ == "__main__":
    main()
