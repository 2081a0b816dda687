"""A contract in; everything that follows from it for a message of its type, compiled, out. Pure.

Compiled once, at start; and again, but for the struct alone, when a decoder learns a field (``codec.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ecomflow.contract.columns import Builder
from ecomflow.contract.envelope import ECOMFLOW, Envelope, Keys, places_in_body
from ecomflow.contract.judging import Judge, judge_of
from ecomflow.contract.language import Contract
from ecomflow.contract.numbers import exact_number
from ecomflow.contract.rule_code import EventRules, rules_of
from ecomflow.contract.structs import Learned, Tag, struct_of
from ecomflow.contract.tables import joined_tables
from ecomflow.contract.tree import Node, tree_of
from ecomflow.contract.unknown import Keeper, keeper_of


class EventType(msgspec.Struct, kw_only=True, frozen=True):
    """One version of an event type, compiled.

    ``envelope`` is where its body stands. ``struct`` is what the body is decoded into, with the ``learned`` fields and, where
    one decoder reads all types, a ``tag``; ``exact_decoder`` decodes one body, however wide its numbers are. ``judge`` names the
    first violation of a parsed body, ``rules`` those that types can't say, ``builder`` makes rows. ``keep`` reads the unknown
    parts of events, None where nothing is learned.
    """

    contract: Contract
    envelope: Envelope
    root: Node
    tag: Tag | None
    struct: type[msgspec.Struct]
    learned: Learned
    exact_decoder: msgspec.json.Decoder[Any]
    judge: Judge
    rules: EventRules
    builder: Builder
    keep: Keeper | None


def compile_contract(
    contract: Contract, versions: Sequence[Contract] = (), envelope: Envelope = ECOMFLOW, tag: Tag | None = None
) -> EventType:
    """The event type of ``contract``, which ``loading.py`` has checked. ``versions`` are all of its event, the lowest first,
    which share its tables; without any, it is the only one.
    """
    root = tree_of(contract, _of_envelope(envelope, len(versions) > 1))
    struct = struct_of(root, tag, {})
    return EventType(
        contract=contract,
        envelope=envelope,
        root=root,
        tag=tag,
        struct=struct,
        learned={},
        exact_decoder=_exact_decoder(struct),
        judge=judge_of(root, contract.unknown_fields == "refuse"),
        rules=rules_of(contract, root),
        builder=Builder(contract, root, joined_tables(versions or [contract])),
        keep=None,
    )


def _of_envelope(envelope: Envelope, has_versions: bool) -> tuple[Keys, ...]:
    """What the envelope says within the body. To an event with one version, our own ``event_version`` is a field as any other."""
    if envelope == ECOMFLOW and not has_versions:
        envelope = msgspec.structs.replace(envelope, versions=())
    return places_in_body(envelope)


def with_learned(kind: EventType, learned: Learned) -> EventType:
    """``kind`` with a struct that has ``learned`` fields."""
    struct = struct_of(kind.root, kind.tag, learned)
    return msgspec.structs.replace(
        kind,
        struct=struct,
        learned=learned,
        exact_decoder=_exact_decoder(struct),
        keep=keeper_of(kind.root, learned),
    )


def _exact_decoder(struct: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(struct, float_hook=exact_number)
