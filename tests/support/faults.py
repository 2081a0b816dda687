"""The shop's catalogue of faults, brought to bodies that tests write by hand."""

from __future__ import annotations

from typing import Any

from ecomflow.contract.loading import SHOP, shop_contracts
from ecomflow.generator.faults import Fault, faults_of
from ecomflow.generator.rounds import faulty_message

CATALOGUE = {contract.event: faults_of(contract, SHOP) for contract in shop_contracts()}
# Each of them, and the type whose events it spoils.
FAULTS = [(fault, event_type) for event_type, faults in CATALOGUE.items() for fault in faults]
NAMES = [f"{fault.name}-{event_type}" for fault, event_type in FAULTS]


def spoiled(fault: Fault, body: dict[str, Any]) -> bytes:
    """The data of the message of ``body``, which says its type, with ``fault``."""
    bare = {key: value for key, value in body.items() if key != "event_type"}
    changed = fault.corrupt(bare) if fault.stage == "body" else bare
    return faulty_message(fault, changed, body["event_type"], "", "")[0]
