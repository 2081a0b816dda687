"""The catalogue of faults: a valid event body in; the bytes of an event that the pipeline must refuse out.

Each fault says what the dead letter must contain: the reason, the stream, and the path with which the error begins (None: the
bytes are not JSON, so there is no path). A message without a recognisable type belongs to the stream ``unknown``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ecomflow.generator.shop import Body

EVENT_TYPES = ("order", "inventory", "user_activity")
UNKNOWN_STREAM = "unknown"

_ENCODER = msgspec.json.Encoder()
encode = _ENCODER.encode

_Key = str | int
_TIMED = ("inventory", "user_activity")


class Fault(msgspec.Struct, frozen=True):
    """One way for an event to be wrong.

    ``applies_to`` are the event types whose bodies ``corrupt`` accepts; it doesn't modify the body. After an ``unreadable`` fault
    the type can't be recognised: its stream is ``unknown``.
    """

    name: str
    applies_to: tuple[str, ...]
    reason: str
    path: str | None
    corrupt: Callable[[Body], bytes]
    unreadable: bool = False


def expected_stream(fault: Fault, event_type: str) -> str:
    """The folder of the dead letter: order, inventory, user_activity or unknown."""
    return UNKNOWN_STREAM if fault.unreadable else event_type


def replaced(body: Any, keys: tuple[_Key, ...], value: object) -> Any:
    """``body`` with another value at ``keys``; only the containers along the path are copied."""
    head, *rest = keys
    changed = body.copy()
    changed[head] = replaced(body[head], tuple(rest), value) if rest else value
    return changed


def without(body: Any, keys: tuple[_Key, ...]) -> Any:
    """``body`` without the field at ``keys``; only the containers along the path are copied."""
    head, *rest = keys
    changed = body.copy()
    if rest:
        changed[head] = without(body[head], tuple(rest))
    else:
        del changed[head]
    return changed


def path_of(keys: tuple[_Key, ...]) -> str:
    """``("items", 0, "price")`` as ``$.items[0].price``."""
    return "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)


def _missing(name: str, applies_to: tuple[str, ...], *keys: _Key, reason: str = "contract_violation") -> Fault:
    def corrupt(body: Body) -> bytes:
        return encode(without(body, keys))

    return Fault(name, applies_to, reason, path_of(keys), corrupt, unreadable=keys == ("event_type",))


def _wrong(name: str, applies_to: tuple[str, ...], value: object, *keys: _Key, reason: str = "contract_violation") -> Fault:
    def corrupt(body: Body) -> bytes:
        return encode(replaced(body, keys, value))

    return Fault(name, applies_to, reason, path_of(keys), corrupt, unreadable=keys == ("event_type",))


def _malformed(name: str, corrupt: Callable[[Body], bytes], applies_to: tuple[str, ...] = EVENT_TYPES) -> Fault:
    return Fault(name, applies_to, "malformed_json", None, corrupt, unreadable=True)


def _truncated(body: Body) -> bytes:
    data = encode(body)
    return data[: len(data) * 2 // 3]


def _latin1(body: Body) -> bytes:
    """The text in ISO 8859-1, as from a producer that doesn't use UTF-8."""
    before, quotes, after = encode(body).rpartition(b'":"')
    return before + quotes + b"\xfc" + after


def _encoded_twice(body: Body) -> bytes:
    """The object as a JSON string that contains JSON."""
    return encode(encode(body).decode())


def _digits(text: str) -> msgspec.Raw:
    """A JSON number with exactly these digits."""
    return msgspec.Raw(text.encode())


_ORDER = ("order",)
_INVENTORY = ("inventory",)
_ACTIVITY = ("user_activity",)

# fmt: off
CATALOGUE: tuple[Fault, ...] = (
    _malformed("malformed_json", _truncated),
    _malformed("invalid_utf8", _latin1),
    _malformed("nan_price", lambda body: encode(replaced(body, ("items", 0, "price"), _digits("NaN"))), _ORDER),
    Fault("encoded_twice", EVENT_TYPES, "unknown_event_type", "$", _encoded_twice, unreadable=True),
    _wrong("unknown_event_type", EVENT_TYPES, "refund", "event_type", reason="unknown_event_type"),
    _missing("missing_event_type", EVENT_TYPES, "event_type", reason="unknown_event_type"),

    _missing("missing_customer_id", _ORDER, "customer_id"),
    _missing("missing_shipping_address", _ORDER, "shipping_address"),
    _missing("missing_item_price", _ORDER, "items", 0, "price"),
    _wrong("null_total_amount", _ORDER, None, "total_amount"),
    _wrong("empty_order_id", _ORDER, "", "order_id"),
    _wrong("empty_city", _ORDER, "", "shipping_address", "city"),
    _wrong("empty_items", _ORDER, [], "items"),
    _wrong("bad_status", _ORDER, "teleported", "status"),
    _wrong("price_as_text", _ORDER, "19.99", "items", 0, "price"),
    _wrong("negative_price", _ORDER, _digits("-19.99"), "items", 0, "price"),
    _wrong("price_too_precise", _ORDER, _digits("19.9900000001"), "items", 0, "price"),
    _wrong("total_too_large", _ORDER, _digits("1" + "0" * 29 + ".00"), "total_amount"),
    _wrong("negative_quantity", _ORDER, -2, "items", 0, "quantity"),
    _wrong("fractional_quantity", _ORDER, _digits("2.0"), "items", 0, "quantity"),
    _wrong("quantity_overflow", _ORDER, 2**63, "items", 0, "quantity"),
    _wrong("bad_order_date", _ORDER, "2025-13-45T25:61:00Z", "order_date"),
    _wrong("order_date_without_offset", _ORDER, "2025-12-01T10:15:00", "order_date"),
    _wrong("order_date_too_old", _ORDER, "2009-03-14T09:26:53Z", "order_date", reason="out_of_range"),
    _wrong("order_date_in_far_future", _ORDER, "2999-12-31T23:59:59Z", "order_date", reason="out_of_range"),

    _missing("missing_warehouse_id", _INVENTORY, "warehouse_id"),
    _wrong("null_product_id", _INVENTORY, None, "product_id"),
    _wrong("empty_inventory_id", _INVENTORY, "", "inventory_id"),
    _wrong("bad_reason", _INVENTORY, "evaporated", "reason"),
    _wrong("zero_quantity_change", _INVENTORY, 0, "quantity_change"),
    _wrong("quantity_change_as_text", _INVENTORY, "-3", "quantity_change"),
    _wrong("quantity_change_overflow", _INVENTORY, -(2**63) - 1, "quantity_change"),

    _missing("missing_user_id", _ACTIVITY, "user_id"),
    _missing("missing_metadata", _ACTIVITY, "metadata"),
    _missing("missing_session_id", _ACTIVITY, "metadata", "session_id"),
    _wrong("empty_session_id", _ACTIVITY, "", "metadata", "session_id"),
    _wrong("bad_platform", _ACTIVITY, "smart_fridge", "metadata", "platform"),
    _wrong("bad_activity_type", _ACTIVITY, "teleport", "activity_type"),
    _wrong("bad_ip_address", _ACTIVITY, "999.10.20.30", "ip_address"),
    _wrong("user_agent_as_number", _ACTIVITY, 42, "user_agent"),

    _wrong("bad_timestamp", _TIMED, "yesterday at noon", "timestamp"),
    _wrong("timestamp_without_offset", _TIMED, "2025-12-01T10:15:00", "timestamp"),
    _wrong("timestamp_too_old", _TIMED, "2009-03-14T09:26:53+02:00", "timestamp", reason="out_of_range"),
    _wrong("timestamp_in_far_future", _TIMED, "2999-12-31T23:59:59Z", "timestamp", reason="out_of_range"),
)
# fmt: on


def faults_of(event_type: str) -> tuple[Fault, ...]:
    """The faults that an event of ``event_type`` can have, in the order of the catalogue."""
    return tuple(fault for fault in CATALOGUE if event_type in fault.applies_to)
