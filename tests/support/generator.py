"""The data contract once more, in plain json and decimal, so that the generator is judged by rules that it does not share."""

from __future__ import annotations

import ipaddress
import json
import re
from datetime import UTC, date, datetime
from decimal import Context, Decimal
from typing import Any, NamedTuple, NoReturn

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
ENUMS = {
    "status": {"pending", "processing", "shipped", "delivered", "cancelled", "returned"},
    "reason": {"restock", "sale", "return", "damage"},
    "activity_type": {"login", "logout", "view_product", "add_to_cart", "remove_from_cart", "checkout"},
    "platform": {"web", "mobile", "tablet"},
}
REQUIRED = object()
EXACT = Context(prec=100)


class Breach(NamedTuple):
    """What is wrong with a message: the dead letter's reason, and the path of the error."""

    reason: str
    path: str


class _BreachError(Exception):
    def __init__(self, reason: str, path: str) -> None:
        super().__init__(reason, path)
        self.breach = Breach(reason, path)


def parse(data: bytes) -> Any:
    """The JSON document with every number exact."""
    return json.loads(data.decode("utf-8"), parse_float=Decimal, parse_constant=_not_json)


def moment_of(text: str) -> datetime:
    """An RFC 3339 time in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def find_breach(data: bytes, today: date) -> Breach | None:
    """The first rule of the contract that ``data`` breaks, or None."""
    try:
        body = parse(data)
    except ValueError:
        return Breach("malformed_json", "$")
    try:
        _check_event(body, today)
    except _BreachError as error:
        return error.breach
    return None


def _check_event(body: Any, today: date) -> None:
    if not isinstance(body, dict):
        raise _BreachError("unknown_event_type", "$")
    checks = {"order": _check_order, "inventory": _check_inventory, "user_activity": _check_activity}
    if body.get("event_type") not in checks:
        raise _BreachError("unknown_event_type", "$.event_type")
    checks[body["event_type"]](body, today)


def _check_order(body: dict[str, Any], today: date) -> None:
    _texts(body, "$", "order_id", "customer_id")
    _optional_text(body, "customer_name")
    _enum(body, "$", "status")
    items = _field(body, "$", "items", list)
    _require(len(items) > 0, "$.items")
    for index, item in enumerate(items):
        path = f"$.items[{index}]"
        _require(isinstance(item, dict), path)
        _texts(item, path, "product_id", "product_name")
        _require(1 <= _field(item, path, "quantity", int) < 2**63, f"{path}.quantity")
        _money(item, path, "price")
        if EXACT.multiply(item["quantity"], Decimal(item["price"])) >= 10**29:
            raise _BreachError("out_of_range", path)
    _texts(_field(body, "$", "shipping_address", dict), "$.shipping_address", "street", "city", "country")
    _money(body, "$", "total_amount")
    _time(body, "order_date", today)


def _check_inventory(body: dict[str, Any], today: date) -> None:
    _texts(body, "$", "inventory_id", "product_id", "warehouse_id")
    change = _field(body, "$", "quantity_change", int)
    _require(-(2**63) <= change < 2**63, "$.quantity_change")
    _enum(body, "$", "reason")
    _time(body, "timestamp", today)


def _check_activity(body: dict[str, Any], today: date) -> None:
    _texts(body, "$", "user_id")
    _enum(body, "$", "activity_type")
    _optional_text(body, "user_agent")
    _optional_text(body, "ip_address")
    if "ip_address" in body:
        _require(_is_address(body["ip_address"]), "$.ip_address")
    metadata = _field(body, "$", "metadata", dict)
    _texts(metadata, "$.metadata", "session_id")
    _enum(metadata, "$.metadata", "platform")
    _time(body, "timestamp", today)


def _field(holder: dict[str, Any], path: str, name: str, *kinds: type) -> Any:
    value = holder.get(name, REQUIRED)
    _require(type(value) in kinds, f"{path}.{name}")
    return value


def _texts(holder: dict[str, Any], path: str, *names: str) -> None:
    for name in names:
        _require(_field(holder, path, name, str) != "", f"{path}.{name}")


def _optional_text(body: dict[str, Any], name: str) -> None:
    _require(isinstance(body.get(name, ""), str), f"$.{name}")


def _enum(holder: dict[str, Any], path: str, name: str) -> None:
    _require(_field(holder, path, name, str) in ENUMS[name], f"{path}.{name}")


def _money(holder: dict[str, Any], path: str, name: str) -> None:
    amount = Decimal(_field(holder, path, name, int, Decimal))
    fits = amount >= 0 and amount < 10**29 and amount == amount.quantize(Decimal("1e-9"), context=EXACT)
    _require(fits, f"{path}.{name}")


def _time(body: dict[str, Any], name: str, today: date) -> None:
    text = _field(body, "$", name, str)
    _require(RFC_3339.fullmatch(text) is not None, f"$.{name}")
    if text[17:19] == "60":
        raise _BreachError("out_of_range", f"$.{name}")
    try:
        day = moment_of(text).date()
    except ValueError:
        _require(False, f"$.{name}")
    if not today.replace(year=today.year - 10) <= day <= today.replace(year=today.year + 1):
        raise _BreachError("out_of_range", f"$.{name}")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _require(kept: bool, path: str) -> None:
    if not kept:
        raise _BreachError("contract_violation", path)


def _not_json(name: str) -> NoReturn:
    raise ValueError(name)
