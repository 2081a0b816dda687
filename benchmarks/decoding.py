"""Question 1: bytes to Arrow batches for all five tables, on one core.

Subjects: ``ecomflow`` (the compiled contracts); ``limit`` (msgspec decoding the same bytes into the same types, nothing else);
``pydantic`` (json.loads, pydantic models, a dict a row).
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from benchmarks.core import modelled
from benchmarks.events import messages
from benchmarks.hand_written import DECODER
from ecomflow.contract.events import Message

BATCH = 10_000
# Long enough that a machine that is slow by turns shows each subject its best side.
SECONDS = 3.0


def ecomflow(batch: list[Message]) -> int:
    return sum(len(facts.messages) for facts in modelled(batch))


def limit(batch: list[Message]) -> int:
    decode = DECODER.decode
    return len([decode(message.data) for message in batch])


def pydantic_models() -> Callable[[list[Message]], int]:
    """json, a pydantic model an event, a dict a row: how such a pipeline is usually written."""
    from pydantic import BaseModel, Field

    class Item(BaseModel):
        product_id: str = Field(min_length=1)
        product_name: str = Field(min_length=1)
        quantity: int = Field(ge=1)
        price: Decimal = Field(ge=0)

    class Address(BaseModel):
        street: str = Field(min_length=1)
        city: str = Field(min_length=1)
        country: str = Field(min_length=1)

    class Order(BaseModel):
        event_type: Literal["order"]
        order_id: str = Field(min_length=1)
        customer_id: str = Field(min_length=1)
        customer_name: str | None = None
        order_date: datetime
        status: Literal["pending", "processing", "shipped", "delivered", "cancelled", "returned"]
        items: list[Item] = Field(min_length=1)
        shipping_address: Address
        total_amount: Decimal = Field(ge=0)

    class Inventory(BaseModel):
        event_type: Literal["inventory"]
        inventory_id: str = Field(min_length=1)
        product_id: str = Field(min_length=1)
        warehouse_id: str = Field(min_length=1)
        quantity_change: int
        reason: Literal["restock", "sale", "return", "damage"]
        timestamp: datetime

    class Session(BaseModel):
        session_id: str = Field(min_length=1)
        platform: Literal["web", "mobile", "tablet"]

    class UserActivity(BaseModel):
        event_type: Literal["user_activity"]
        user_id: str = Field(min_length=1)
        activity_type: Literal["login", "logout", "view_product", "add_to_cart", "remove_from_cart", "checkout"]
        ip_address: str | None = None
        user_agent: str | None = None
        timestamp: datetime
        metadata: Session

    kinds: dict[str, type[BaseModel]] = {"order": Order, "inventory": Inventory, "user_activity": UserActivity}

    def rows_of(event: Any, event_id: str) -> list[dict[str, Any]]:
        if isinstance(event, Order):
            address = event.shipping_address.model_dump()
            head = {**event.model_dump(exclude={"items", "shipping_address"}), **address, "event_id": event_id}
            lines = [
                {**item.model_dump(), "line_number": number, "line_total": item.price * item.quantity, "event_id": event_id}
                for number, item in enumerate(event.items, start=1)
            ]
            return [head, *lines, *({**head, **line} for line in lines)]
        return [{**event.model_dump(), "event_id": event_id}]

    def subject(batch: list[Message]) -> int:
        rows: list[dict[str, Any]] = []
        for message in batch:
            body = json.loads(message.data, parse_float=Decimal)
            rows += rows_of(kinds[body["event_type"]].model_validate(body), message.attributes["event_id"])
        return len(batch) if rows else 0

    return subject


def measure(subject: Callable[[list[Message]], int], batch: list[Message]) -> float:
    """Events a second, the best of ``SECONDS`` of repeats: what the code can do, the machine's noise aside."""
    subject(batch)
    gc.collect()
    best, until = float("inf"), time.perf_counter() + SECONDS
    while (began := time.perf_counter()) < until:
        done = subject(batch)
        best = min(best, time.perf_counter() - began)
        if done != len(batch):
            raise RuntimeError(f"{len(batch)} events went in, {done} came out")
    return len(batch) / best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--subject", choices=("ecomflow", "limit", "pydantic"), required=True)
    name = parser.parse_args().subject
    subject = {"ecomflow": lambda: ecomflow, "limit": lambda: limit, "pydantic": pydantic_models}[name]()
    print(json.dumps({"rate": measure(subject, messages(BATCH))}))


if __name__ == "__main__":
    main()
