"""What a contract as data costs: bytes to Arrow batches for all five tables, on one core, compiled and hand-written in one run.

Ratios to the compiled shop with valid events, the best of many turns, the machine's noise being the same for both:

- ``hand_written``: how much longer the compiled shop takes than decode_messages and model_facts (target: 1.10)
- ``unknown``: with two fields in each event that no contract names, kept (target: 1.2)
- ``refused``: with a violation in each event (target: 3)
- ``thirty_types``: 30 event types, of which each event is one, to three of the same making (target: 1)
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from benchmarks.events import NOW, messages
from ecomflow.contract.codec import Codec
from ecomflow.contract.decode import decode_messages
from ecomflow.contract.events import Message
from ecomflow.contract.language import Contract
from ecomflow.contract.loading import SHOP, shop_contracts
from ecomflow.contract.modelling import model
from ecomflow.generator.faults import faults_of
from ecomflow.generator.messages import encode_typed
from ecomflow.pipeline.model import model_facts

BATCH = 9_999
SECONDS = 20.0
# What no decoder can read further than to its first bytes says nothing about contracts.
_JUDGED = ("contract_violation", "out_of_range")


def hand_written(batch: list[Message]) -> int:
    decoded = decode_messages(batch, NOW)
    facts = [model_facts(part, NOW, "count") for part in decoded.streams.values()]
    return sum(len(part.messages) for part in facts)


def compiled(codec: Codec, batch: list[Message]) -> tuple[int, int]:
    """How many events are rows and how many dead letters."""
    facts = [model(part, NOW) for part in codec.decode(batch, NOW).streams.values()]
    return sum(len(part.messages) for part in facts), sum(len(part.refused) for part in facts)


def with_unknown(batch: Sequence[Message]) -> list[Message]:
    """Each event with a text and an object that its contract does not name."""
    more = b',"coupon":"WELCOME-10","client":{"version":"3.1.4","beta":false}}'
    return [msgspec.structs.replace(one, data=one.data.rstrip()[:-1] + more) for one in batch]


def with_faults(batch: Sequence[Message]) -> list[Message]:
    """Each event with one of the catalogue's faults, in turn."""
    catalogue = {
        contract.event: [fault for fault in faults_of(contract, SHOP) if fault.stage == "body" and fault.reason in _JUDGED]
        for contract in shop_contracts()
    }
    made = []
    for number, one in enumerate(batch):
        body = msgspec.json.decode(one.data)
        event = body.pop("event_type")
        fault = catalogue[event][number % len(catalogue[event])]
        made.append(msgspec.structs.replace(one, data=encode_typed(fault.corrupt(body), event)))
    return made


def many_types(copies: int) -> tuple[list[Contract], dict[str, list[str]]]:
    """The shop's contracts, ``copies`` of each under names of their own; and these names by the shop's."""
    contracts, names = [], {}
    for one in shop_contracts():
        names[one.event] = [f"{one.event}_{number}" for number in range(copies)]
        for number, event in enumerate(names[one.event]):
            tables = tuple(msgspec.structs.replace(table, name=f"{table.name}_{number}") for table in one.tables)
            contracts.append(msgspec.structs.replace(one, event=event, tables=tables))
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
    shop, learning, refusing = Codec(shop_contracts()), Codec(shop_contracts()), Codec(shop_contracts())
    three, thirty = Codec(few), Codec(many)
    unknown, faulty = with_unknown(plain), with_faults(plain)
    of_three, of_thirty = spread(plain, few_names), spread(plain, many_names)
    _expect(compiled(shop, plain), (BATCH, 0))
    _expect(compiled(learning, unknown), (BATCH, 0))
    _expect(compiled(refusing, faulty), (0, BATCH))
    _expect(compiled(thirty, of_thirty), (BATCH, 0))
    return {
        "hand_written": lambda: hand_written(plain),
        "compiled": lambda: compiled(shop, plain),
        "unknown": lambda: compiled(learning, unknown),
        "refused": lambda: compiled(refusing, faulty),
        "three_types": lambda: compiled(three, of_three),
        "thirty_types": lambda: compiled(thirty, of_thirty),
    }


def _expect(found: tuple[int, int], expected: tuple[int, int]) -> None:
    if found != expected:
        raise RuntimeError(f"{expected} rows and dead letters were to come of {BATCH} events, {found} did")


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
        "refused": took["refused"] / took["compiled"],
        "thirty_types": took["thirty_types"] / took["three_types"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=SECONDS)
    took = measure(parser.parse_args().seconds)
    print(json.dumps({"microseconds": took, "ratios": ratios(took), "measured_at": datetime.now(UTC).isoformat()}, indent=2))


if __name__ == "__main__":
    main()
