"""The data contract as types: one struct an event type, one tagged union, decoders built once.

``event_type`` is the tag. What a type can say is checked while decoding (names, JSON types, lengths, enumerations, 64-bit
integers, offsets of timestamps); what it can't (exact money, dates in range, addresses) is in ``rules.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Context, Inexact, InvalidOperation, Overflow
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

NonEmpty = Annotated[str, Meta(min_length=1)]
Timestamp = Annotated[datetime, Meta(tz=True)]
INT64_MAX = 2**63 - 1

# An exact JSON number: int, or Decimal of its very digits. Any with a float hook, because msgspec's own Decimal also takes a JSON
# string, which the contract refuses, and is nearly twice as slow; rules.py refuses whatever is not a number. See also _PLAIN.
Money = Annotated[Any, Meta(description="a JSON number, 0 or more, at most 29 integer and 9 decimal digits")]

OrderStatus = Literal["pending", "processing", "shipped", "delivered", "cancelled", "returned"]
StockReason = Literal["restock", "sale", "return", "damage"]
ActivityType = Literal["login", "logout", "view_product", "add_to_cart", "remove_from_cart", "checkout"]
Platform = Literal["web", "mobile", "tablet"]


class Record(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A part of an event. Unknown fields raise here, so that the rare event that has one takes the path that counts it."""


class Item(Record, frozen=True):
    product_id: NonEmpty
    product_name: NonEmpty
    quantity: Annotated[int, Meta(ge=1, le=INT64_MAX)]
    price: Money


class Address(Record, frozen=True):
    street: NonEmpty
    city: NonEmpty
    country: NonEmpty


class Session(Record, frozen=True):
    session_id: NonEmpty
    platform: Platform


class Order(Record, frozen=True, tag="order", tag_field="event_type", kw_only=True):
    order_id: NonEmpty
    customer_id: NonEmpty
    customer_name: str | None = None
    order_date: Timestamp
    status: OrderStatus
    items: Annotated[list[Item], Meta(min_length=1)]
    shipping_address: Address
    total_amount: Money


class Inventory(Record, frozen=True, tag="inventory", tag_field="event_type", kw_only=True):
    inventory_id: NonEmpty
    product_id: NonEmpty
    warehouse_id: NonEmpty
    quantity_change: Annotated[int, Meta(ge=-INT64_MAX - 1, le=INT64_MAX)]
    reason: StockReason
    timestamp: Timestamp


class UserActivity(Record, frozen=True, tag="user_activity", tag_field="event_type", kw_only=True):
    user_id: NonEmpty
    activity_type: ActivityType
    ip_address: str | None = None
    user_agent: str | None = None
    timestamp: Timestamp
    metadata: Session


Event = Order | Inventory | UserActivity

EVENT_TYPES: dict[str, type[Order] | type[Inventory] | type[UserActivity]] = {
    "order": Order,
    "inventory": Inventory,
    "user_activity": UserActivity,
}

# What Arrow converts to decimal128 faithfully: at most 38 digits, below 1e29, none of them finer than 1e-37, nothing rounded.
# Wider ones it converts wrongly (0.777... of 48 digits to 0) or dies of (of five million; pyarrow 25.0). No valid amount is
# wider, so such a number leaves the fast path here.
_PLAIN = Context(prec=38, Emin=0, Emax=28, traps=[Inexact, Overflow, InvalidOperation])
plain_number = _PLAIN.create_decimal

# Decoding a message's bytes raises msgspec.MsgspecError, UnicodeDecodeError, RecursionError or decimal.DecimalException.
EVENT_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event, float_hook=plain_number)


class Message(msgspec.Struct, frozen=True, gc=False):
    """A Pub/Sub message as received. ``publish_time`` is in microseconds since the epoch, UTC."""

    data: bytes
    attributes: dict[str, str]
    message_id: str
    publish_time: int


def event_id_of(message: Message) -> str:
    """The producer's own ``event_id`` attribute where it is present, else the Pub/Sub message id."""
    return event_ids_of([message])[0]


def event_ids_of(messages: Sequence[Message]) -> list[str]:
    """``event_id_of`` each message: in one go, for a call a message would cost as much again."""
    return [message.attributes.get("event_id") or message.message_id for message in messages]
