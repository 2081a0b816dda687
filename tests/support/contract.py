"""Hand-written events of each type, and what the pure core makes of them: bytes in, rows as dicts and dead letters out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from hypothesis import HealthCheck, settings

from ecomflow.contract.codec import Codec, DecodedBatch, TypedBatch
from ecomflow.contract.dead_letter import DeadLetter
from ecomflow.contract.events import Message
from ecomflow.contract.language import Contract
from ecomflow.contract.loading import shop_contracts
from ecomflow.contract.modelling import Facts, model
from ecomflow.contract.tables import tables_of

NOW = datetime(2025, 12, 10, 12, 0, tzinfo=UTC)
PUBLISHED = 1_764_669_600_123_456  # 2025-12-02T10:00:00.123456Z
SHOP = shop_contracts()
FACT_TABLES = {table.name: table for table in tables_of(SHOP)}
TYPES = ("order", "inventory", "user_activity")
STREAMS = (*TYPES, "unknown")
MONEY_RULE = "expected number >= 0 with at most 29 integer and 9 decimal digits"
TIME_RULE = "expected RFC 3339 date-time with an offset or Z"
DATE_RULE = "expected a UTC date from 2015-12-10 to 2026-12-10"

Body = dict[str, Any]


def written_columns(table: str) -> str:
    """The columns of a built-in table in their order, but for what is kept of unknown fields, as INSERT lists them."""
    return ", ".join(column.name for column in FACT_TABLES[table].columns if column.name != "unknown_fields")


def refusing_totals() -> tuple[Contract, ...]:
    """The shop's contracts, where an order whose total is not the sum of its items is refused."""
    return tuple(
        msgspec.structs.replace(one, rules=tuple(msgspec.structs.replace(rule, otherwise="refuse") for rule in one.rules))
        for one in SHOP
    )


def property_test(examples: int) -> settings:
    """The same examples in every run: a failure is the code's, not the day's. ``make check`` tries a fifth of them, ``make test``
    half, and ``make test PROPERTY_EXAMPLES=all`` all.
    """
    part = {"all": 1, "half": 2}.get(os.environ.get("PROPERTY_EXAMPLES", ""), 5)
    tried = max(20, examples // part)
    return settings(
        max_examples=tried, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
    )


def item(**changes: Any) -> Body:
    return {"product_id": "P-1", "product_name": "Blue chair", "quantity": 2, "price": number("19.90"), **changes}


def order(**changes: Any) -> Body:
    return {
        "event_type": "order",
        "order_id": "O-1",
        "customer_id": "C-1",
        "customer_name": "Jane Doe",
        "order_date": "2025-12-01T10:15:30.123456Z",
        "status": "delivered",
        "items": [item(), item(product_id="P-2", product_name="Lamp", quantity=1, price=5)],
        "shipping_address": {"street": "1 Main Street", "city": "Paris", "country": "FR"},
        "total_amount": number("44.80"),
        **changes,
    }


def inventory(**changes: Any) -> Body:
    return {
        "event_type": "inventory",
        "inventory_id": "I-1",
        "product_id": "P-1",
        "warehouse_id": "W-1",
        "quantity_change": -3,
        "reason": "sale",
        "timestamp": "2025-12-01T10:15:30Z",
        **changes,
    }


def activity(**changes: Any) -> Body:
    return {
        "event_type": "user_activity",
        "user_id": "U-1",
        "activity_type": "login",
        "ip_address": "192.0.2.1",
        "user_agent": "Mozilla/5.0",
        "timestamp": "2025-12-01T10:15:30Z",
        "metadata": {"session_id": "S-1", "platform": "web"},
        **changes,
    }


VALID: dict[str, Callable[..., Body]] = {"order": order, "inventory": inventory, "user_activity": activity}


def number(digits: str) -> msgspec.Raw:
    """A JSON number written with exactly these characters."""
    return msgspec.Raw(digits.encode())


def encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else msgspec.json.encode(body)


def message(body: Any, message_id: str = "M-1", **attributes: str) -> Message:
    """``body`` as published at ``PUBLISHED``: bytes as they are, anything else as JSON."""
    return Message(encoded(body), attributes, message_id, PUBLISHED)


class Outcome(NamedTuple):
    """``rows`` by table, ``letters`` in the order of the streams, ``sources`` the message ids of each table's rows, ``facts`` by
    stream.
    """

    rows: dict[str, list[Body]]
    letters: list[DeadLetter]
    sources: dict[str, list[str]]
    drift: Counter[tuple[str, str]]
    facts: dict[str, Facts]

    @property
    def stream(self) -> str:
        """The one stream that there is."""
        (name,) = self.facts
        return name


def part_of(decoded: DecodedBatch, stream: str) -> TypedBatch:
    """The one part of ``decoded`` that is of ``stream``."""
    (part,) = (part for part in decoded.parts if part.stream == stream)
    return part


def outcome_of(
    messages: Iterable[Message], now: datetime = NOW, codec: Codec | None = None, contracts: Sequence[Contract] = SHOP
) -> Outcome:
    """What ``messages`` become: decoded in one batch, modelled stream by stream."""
    decoded = (codec or Codec(contracts)).decode(list(messages), now)
    outcome = Outcome({}, [], {}, decoded.drift, {})
    for batch in decoded.parts:
        facts = model(batch, now)
        outcome.facts[batch.stream] = facts
        outcome.letters.extend(facts.refused)
        for part in facts.tables:
            part.rows.validate(full=True)
            outcome.rows.setdefault(part.table, []).extend(part.rows.to_pylist())
            outcome.sources.setdefault(part.table, []).extend(facts.messages[source].message_id for source in part.sources)
    return outcome


def rows_of(body: Any, now: datetime = NOW) -> dict[str, list[Body]]:
    """The rows of one event that must be accepted, by table."""
    outcome = outcome_of([message(body)], now)
    assert [letter.error for letter in outcome.letters] == []
    return outcome.rows


def refusal_of(body: Any, now: datetime = NOW) -> DeadLetter:
    """The dead letter of one event that must be refused."""
    outcome = outcome_of([message(body)], now)
    assert outcome.rows == {}
    (letter,) = outcome.letters
    return letter
