"""What compiled contracts make of messages: bytes in, rows as dicts and dead letters out, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ecomflow.contract.codec import Codec
from ecomflow.contract.events import Message
from ecomflow.contract.language import Contract
from ecomflow.contract.loading import load_text
from tests.support.contract import NOW, SHOP, Body, Outcome, outcome_of


def compiled(messages: Sequence[Message], codec: Codec | None = None, contracts: Sequence[Contract] = SHOP) -> Outcome:
    """What ``messages`` become, decoded in one batch and modelled stream by stream."""
    return outcome_of(messages, NOW, codec, contracts)


def without_unknown(rows: dict[str, list[Body]]) -> dict[str, list[Body]]:
    """``rows`` without the column of unknown fields."""
    return {
        table: [{name: value for name, value in row.items() if name != "unknown_fields"} for row in found]
        for table, found in rows.items()
    }


def contract_of(body: str, event: str = "refund") -> Contract:
    """The contract in ``body``, to which event, time and a table are added where it has none."""
    head = f'event = "{event}"\ntime = "at"\n' if "event =" not in body else ""
    tables = "" if "[[tables]]" in body else f'\n[[tables]]\nname = "fact_{event}"\n'
    return load_text(f"{head}{body}{tables}", f"{event}.toml")


def only_letter(outcome: Outcome) -> Any:
    assert outcome.rows == {}
    (letter,) = outcome.letters
    return letter


def to_toml(value: Any) -> str:
    """``value`` as a TOML value, tables inline."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{to_toml(str(key))} = {to_toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(c if c.isalnum() or c in " .*()<=_" else f"\\U{ord(c):08x}" for c in value) + '"'
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
