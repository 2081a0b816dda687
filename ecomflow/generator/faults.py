"""The catalogue of faults of a contract: a valid event in; one that the pipeline must refuse out.

Each fault says what the dead letter must contain: the reason, the stream, and the path with which the error begins. It follows
from the contract: what the types of the fields refuse (``field_faults.py``) and what its rules refuse (``rule_faults.py``). What
is wrong with a message of any type stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal

import msgspec

from ecomflow.contract.dead_letter import UNKNOWN_STREAM, Reason
from ecomflow.contract.language import Contract
from ecomflow.contract.tree import tree_of
from ecomflow.generator.editing import path_of, replaced
from ecomflow.generator.field_faults import FieldFault, field_faults, first_number
from ecomflow.generator.messages import Body, encode
from ecomflow.generator.rule_faults import product_faults, rule_faults

# What a fault spoils: the body, the type that the message says (None out: it says none), or the bytes of the whole message.
Stage = Literal["body", "type", "data"]


class Fault(msgspec.Struct, frozen=True):
    """One way for an event to be wrong.

    ``corrupt`` takes and gives what ``stage`` says, and doesn't modify it; a body in which every list has an element and every
    object is there. After an ``unreadable`` fault the type can't be recognised: its stream is ``unknown``.
    """

    name: str
    reason: Reason
    path: str
    stage: Stage
    corrupt: Callable[[Any], Any]
    is_unreadable: bool = False


def faults_of(contract: Contract, events: Collection[str]) -> tuple[Fault, ...]:
    """The faults that an event of ``contract`` can have. ``events`` are the types in force."""
    named: dict[str, Fault] = {}
    for fault in (*_of_any_message(contract, events), *_of_the_contract(contract)):
        name = next(one for one in _names(fault.name) if one not in named)
        named[name] = msgspec.structs.replace(fault, name=name)
    return tuple(named.values())


def expected_stream(fault: Fault, event_type: str) -> str:
    """The folder of the dead letter: the event type, or unknown."""
    return UNKNOWN_STREAM if fault.is_unreadable else event_type


def _names(name: str) -> Iterator[str]:
    """``name``, and further ones for further faults of that name."""
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def _of_the_contract(contract: Contract) -> Iterator[Fault]:
    found = [*field_faults(contract), *product_faults(contract)]
    for name, reason, keys, corrupt in found:
        yield Fault(name, reason, path_of(keys), "body", corrupt)
    for name, path, corrupt in rule_faults(contract):
        yield Fault(name, "contract_violation", path, "body", corrupt)


def _of_any_message(contract: Contract, events: Collection[str]) -> Iterator[Fault]:
    unknown = next(name for name in _names("teleport") if name not in events)
    yield Fault("malformed_json", "malformed_json", "$", "data", _truncated, is_unreadable=True)
    yield Fault("invalid_utf8", "malformed_json", "$", "data", _latin1, is_unreadable=True)
    yield Fault("encoded_twice", "unknown_event_type", "$", "data", _encoded_twice, is_unreadable=True)
    yield Fault("unknown_event_type", "unknown_event_type", "$.event_type", "type", lambda _: unknown, is_unreadable=True)
    yield Fault("missing_event_type", "unknown_event_type", "$.event_type", "type", lambda _: None, is_unreadable=True)
    if number := first_number(tree_of(contract)):
        yield Fault(f"nan_{number.name}", "malformed_json", "$", "body", _nan(number), is_unreadable=True)


def _truncated(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def _latin1(data: bytes) -> bytes:
    """A text in ISO 8859-1, as from a producer that doesn't use UTF-8: the first one, for no decoder passes over that."""
    before, quotes, after = data.partition(b'":"')
    return before + quotes + b"\xfc" + after


def _encoded_twice(data: bytes) -> bytes:
    """The object as a JSON string that contains JSON."""
    return encode(data.decode())


def _nan(number: FieldFault) -> Callable[[Body], Body]:
    return lambda body: replaced(body, number.keys, msgspec.Raw(b"NaN"))
