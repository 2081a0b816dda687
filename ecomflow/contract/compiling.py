"""A contract in; everything that follows from it for a message of its type, compiled, out. Pure.

Compiled once, at start; and again, but for the struct alone, when a decoder learns a field (``codec.py``).
"""

from __future__ import annotations

from typing import Any

import msgspec

from ecomflow.contract.columns import Builder
from ecomflow.contract.judging import Judge, judge_of
from ecomflow.contract.language import Contract
from ecomflow.contract.numbers import exact_number
from ecomflow.contract.rule_code import EventRules, rules_of
from ecomflow.contract.structs import Learned, struct_of
from ecomflow.contract.tree import Node, tree_of
from ecomflow.contract.unknown import Keeper, keeper_of


class EventType(msgspec.Struct, kw_only=True, frozen=True):
    """One event type, compiled.

    ``struct`` is what its messages are decoded into, with the ``learned`` fields; ``exact_decoder`` decodes one message of it,
    however wide its numbers are. ``judge`` names the first violation of a parsed document, ``rules`` those that types can't say,
    ``builder`` makes rows. ``keep`` reads the unknown parts of events, None where nothing is learned.
    """

    contract: Contract
    root: Node
    struct: type[msgspec.Struct]
    learned: Learned
    exact_decoder: msgspec.json.Decoder[Any]
    judge: Judge
    rules: EventRules
    builder: Builder
    keep: Keeper | None


def compile_contract(contract: Contract) -> EventType:
    """The event type of ``contract``, which ``loading.py`` has checked."""
    root = tree_of(contract)
    struct = struct_of(root, contract.event, {})
    return EventType(
        contract=contract,
        root=root,
        struct=struct,
        learned={},
        exact_decoder=_exact_decoder(struct),
        judge=judge_of(root, contract.unknown_fields == "refuse"),
        rules=rules_of(contract, root),
        builder=Builder(contract, root),
        keep=None,
    )


def with_learned(kind: EventType, learned: Learned) -> EventType:
    """``kind`` with a struct that has ``learned`` fields."""
    struct = struct_of(kind.root, kind.contract.event, learned)
    return msgspec.structs.replace(
        kind,
        struct=struct,
        learned=learned,
        exact_decoder=_exact_decoder(struct),
        keep=keeper_of(kind.root, learned),
    )


def _exact_decoder(struct: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(struct, float_hook=exact_number)
