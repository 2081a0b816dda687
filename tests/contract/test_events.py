"""The shop's contracts, field by field: which values of an event are taken, and with which words the others are refused."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from ecomflow.contract.codec import Codec
from ecomflow.generator.editing import path_of, replaced, without
from tests.support.compiled import SHOP
from tests.support.contract import (
    DATE_RULE,
    MONEY_RULE,
    NOW,
    TIME_RULE,
    TYPES,
    VALID,
    activity,
    inventory,
    item,
    message,
    number,
    order,
    refusal_of,
    rows_of,
)

Keys = tuple[str | int, ...]

# A value of each JSON type, and how it is shown in an error.
OTHERS: dict[str, Any] = {"null": None, "bool": True, "int": 7, "number": number("7.5"), "str": "7", "array": [], "object": {}}
SHOWN = {"null": "null", "bool": "true", "int": "7", "number": "7.5", "str": "'7'", "array": "an empty array", "object": "object"}
# The same of a personal field.
HIDDEN = {**SHOWN, **dict.fromkeys(("int", "number"), "a number that is personal and not shown")}
HIDDEN |= {"str": "a string that is personal and not shown", "bool": "a boolean that is personal and not shown"}
PERSONAL = {"customer_name", "street", "ip_address", "user_agent"}

# Every required field by its place, and how an error names what it must be.
REQUIRED: dict[str, dict[Keys, str]] = {
    "order": {
        ("order_id",): "str",
        ("customer_id",): "str",
        ("order_date",): "datetime",
        ("status",): "str",
        ("items",): "array",
        ("items", 0): "object",
        ("items", 1, "product_id"): "str",
        ("items", 1, "product_name"): "str",
        ("items", 1, "quantity"): "int",
        ("items", 1, "price"): "money",
        ("shipping_address",): "object",
        ("shipping_address", "street"): "str",
        ("shipping_address", "city"): "str",
        ("shipping_address", "country"): "str",
        ("total_amount",): "money",
    },
    "inventory": {
        ("inventory_id",): "str",
        ("product_id",): "str",
        ("warehouse_id",): "str",
        ("quantity_change",): "int",
        ("reason",): "str",
        ("timestamp",): "datetime",
    },
    "user_activity": {
        ("user_id",): "str",
        ("activity_type",): "str",
        ("timestamp",): "datetime",
        ("metadata",): "object",
        ("metadata", "session_id"): "str",
        ("metadata", "platform"): "str",
    },
}
OPTIONAL: dict[str, tuple[str, ...]] = {"order": ("customer_name",), "user_activity": ("ip_address", "user_agent")}
ENUMS: dict[str, dict[Keys, str]] = {
    "order": {("status",): "pending, processing, shipped, delivered, cancelled, returned"},
    "inventory": {("reason",): "restock, sale, return, damage"},
    "user_activity": {
        ("activity_type",): "login, logout, view_product, add_to_cart, remove_from_cart, checkout",
        ("metadata", "platform"): "web, mobile, tablet",
    },
}
REQUIRED_FIELDS = [(kind, keys) for kind in TYPES for keys in REQUIRED[kind]]
# An array has no missing elements.
NAMED_FIELDS = [(kind, keys) for kind, keys in REQUIRED_FIELDS if keys != ("items", 0)]
TEXT_FIELDS = [(kind, keys) for kind, keys in REQUIRED_FIELDS if REQUIRED[kind][keys] == "str"]
ENUM_FIELDS = [(kind, keys, names) for kind in TYPES for keys, names in ENUMS[kind].items()]


def shown_id(value: Any) -> str | None:
    return path_of(value) if isinstance(value, tuple) else None


def shown_at(keys: Keys) -> dict[str, str]:
    """How ``OTHERS`` are shown at this place."""
    return HIDDEN if keys[-1] in PERSONAL else SHOWN


def errors_of(kind: str, keys: Keys, values: dict[str, Any]) -> dict[str, str]:
    """The error for each of ``values`` at ``keys``, by the value's name."""
    return {name: refusal_of(replaced(VALID[kind](), keys, value)).error for name, value in values.items()}


def rejection(body: Any) -> tuple[str, str]:
    letter = refusal_of(body)
    return letter.reason, letter.error


class TestRequiredFields:
    @pytest.mark.parametrize(("kind", "keys"), NAMED_FIELDS, ids=shown_id)
    def test_a_missing_field_is_refused_by_its_path(self, kind: str, keys: Keys) -> None:
        """Without the field the event is a contract violation of its own stream, and the error names the path."""
        letter = refusal_of(without(VALID[kind](), keys))
        assert (letter.reason, letter.event_type) == ("contract_violation", kind)
        assert letter.error == f"{path_of(keys)}: required, but missing"

    @pytest.mark.parametrize(("kind", "keys"), REQUIRED_FIELDS, ids=shown_id)
    def test_every_other_json_type_is_refused(self, kind: str, keys: Keys) -> None:
        """Null and each JSON type but the right one are refused, and the error says what stood there."""
        expected = REQUIRED[kind][keys]
        right = {"money": {"int", "number"}, "datetime": {"str"}}.get(expected, {expected})
        wrong = {name: value for name, value in OTHERS.items() if name not in right}
        enum = ENUMS[kind].get(keys)
        plain = f"expected one of {enum}" if enum else f"expected {expected}"
        rule = {"money": MONEY_RULE, "datetime": TIME_RULE}.get(expected, plain)
        assert errors_of(kind, keys, wrong) == {name: f"{path_of(keys)}: {rule}, got {shown_at(keys)[name]}" for name in wrong}

    @pytest.mark.parametrize(("kind", "keys"), TEXT_FIELDS, ids=shown_id)
    def test_an_empty_text_is_refused(self, kind: str, keys: Keys) -> None:
        """A required text is not empty; where the text must be one of a list, that is what the error says."""
        enum = ENUMS[kind].get(keys)
        rule = f"expected one of {enum}" if enum else "expected str of length >= 1"
        shown = HIDDEN["str"] if keys[-1] in PERSONAL else "''"
        assert rejection(replaced(VALID[kind](), keys, "")) == ("contract_violation", f"{path_of(keys)}: {rule}, got {shown}")


@pytest.mark.parametrize(("kind", "keys", "names"), ENUM_FIELDS, ids=shown_id)
class TestEnumerations:
    def test_each_name_of_the_list_is_taken(self, kind: str, keys: Keys, names: str) -> None:
        """All of the contract's names make rows that hold them."""
        for name in names.split(", "):
            for row in rows_of(replaced(VALID[kind](), keys, name)).values():
                assert row[0].get(str(keys[-1]), name) == name

    def test_any_other_name_is_refused(self, kind: str, keys: Keys, names: str) -> None:
        """Another word, another case and a blank around it are refused with the list and the word."""
        first = names.split(", ")[0]
        wrong = {value: value for value in ("teleported", first.upper(), f"{first} ", "it's - at `$.x`")}
        expected = {value: f"{path_of(keys)}: expected one of {names}, got {value!r}" for value in wrong}
        assert errors_of(kind, keys, wrong) == expected

    def test_a_long_name_is_cut_in_the_error(self, kind: str, keys: Keys, names: str) -> None:
        """The error stays readable; the payload still holds the whole."""
        letter = refusal_of(replaced(VALID[kind](), keys, "x" * 10_000))
        assert letter.error == f"{path_of(keys)}: expected one of {names}, got '{'x' * 56}... (10,000 characters)"
        assert "x" * 10_000 in letter.payload


@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind, fields in OPTIONAL.items() for field in fields])
class TestOptionalFields:
    def test_absent_and_null_are_the_same(self, kind: str, field: str) -> None:
        """Without the field, or with null, the column is NULL."""
        table = {"order": "fact_order_header", "user_activity": "fact_user_activity"}[kind]
        assert rows_of(without(VALID[kind](), (field,)))[table][0][field] is None
        assert rows_of(VALID[kind](**{field: None}))[table][0][field] is None

    def test_a_value_that_is_no_text_is_refused(self, kind: str, field: str) -> None:
        """Optional is not arbitrary."""
        wrong = {name: value for name, value in OTHERS.items() if name not in ("str", "null")}
        assert errors_of(kind, (field,), wrong) == {name: f"$.{field}: expected str | null, got {HIDDEN[name]}" for name in wrong}


TIMES = [pytest.param(kind, "order_date" if kind == "order" else "timestamp", id=kind) for kind in TYPES]


@pytest.mark.parametrize(("kind", "field"), TIMES)
class TestTimes:
    @pytest.mark.parametrize(
        ("text", "utc"),
        [
            ("2025-12-01T10:15:30Z", datetime(2025, 12, 1, 10, 15, 30, tzinfo=UTC)),
            ("2025-12-01T10:15:30.5Z", datetime(2025, 12, 1, 10, 15, 30, 500_000, tzinfo=UTC)),
            ("2025-12-01T10:15:30.123456Z", datetime(2025, 12, 1, 10, 15, 30, 123_456, tzinfo=UTC)),
            ("2025-12-01T00:30:00+02:00", datetime(2025, 11, 30, 22, 30, tzinfo=UTC)),
            ("2025-12-01T23:30:00-05:30", datetime(2025, 12, 2, 5, 0, tzinfo=UTC)),
            ("2025-12-01T10:15:30-00:00", datetime(2025, 12, 1, 10, 15, 30, tzinfo=UTC)),
            ("2025-12-01T10:15:30+23:59", datetime(2025, 11, 30, 10, 16, 30, tzinfo=UTC)),
            ("2024-02-29T12:00:00Z", datetime(2024, 2, 29, 12, 0, tzinfo=UTC)),
            # RFC 3339 lets a small t and z, and a blank for the T.
            ("2025-12-01t10:15:30z", datetime(2025, 12, 1, 10, 15, 30, tzinfo=UTC)),
            ("2025-12-01 10:15:30Z", datetime(2025, 12, 1, 10, 15, 30, tzinfo=UTC)),
            # ISO 8601 lets an offset without a colon, and one of whole hours.
            ("2025-12-01T10:15:30+0130", datetime(2025, 12, 1, 8, 45, 30, tzinfo=UTC)),
            ("2025-12-01T10:15:30-02", datetime(2025, 12, 1, 12, 15, 30, tzinfo=UTC)),
            # Finer than a microsecond is cut: the end of a day stays in its day.
            ("2025-12-01T10:15:30.1234564Z", datetime(2025, 12, 1, 10, 15, 30, 123_456, tzinfo=UTC)),
            ("2025-12-01T10:15:30.1234566Z", datetime(2025, 12, 1, 10, 15, 30, 123_456, tzinfo=UTC)),
            ("2025-12-01T23:59:59.9999999Z", datetime(2025, 12, 1, 23, 59, 59, 999_999, tzinfo=UTC)),
        ],
    )
    def test_it_is_stored_in_utc(self, kind: str, field: str, text: str, utc: datetime) -> None:
        """Whatever the offset, the TIMESTAMP is UTC and the DATE is the UTC date, in every table of the event."""
        day, moment = ("order_date", "order_timestamp") if kind == "order" else ("event_date", "event_timestamp")
        for rows in rows_of(VALID[kind](**{field: text})).values():
            assert {(row[day], row[moment]) for row in rows} == {(utc.date(), utc)}

    @pytest.mark.parametrize(
        "text",
        [
            "2025-12-01T10:15:30",
            "2025-12-01T10:15:30.5",
            "2025-12-01",
            "2025-12-01T10:15Z",
            "2025-12-01T10:15:30+2",
            "2025-12-01T10:15:30+24:00",
            "2025-12-01T10:15:30,5Z",
            "2025-12-01T10:15:30.Z",
            "20251201T101530Z",
            "2025-12-01T10:15:30Z ",
            "2025-12-01T24:00:00Z",
            "2025-02-29T10:00:00Z",
            "2025-13-01T10:00:00Z",
            "0000-01-01T00:00:00Z",
            "10000-01-01T00:00:00Z",
            "1764584130",
            "yesterday at noon",
            "",
        ],
    )
    def test_anything_else_is_refused(self, kind: str, field: str, text: str) -> None:
        """No offset, no time, a day that is not in the calendar: each is a contract violation."""
        assert rejection(VALID[kind](**{field: text})) == ("contract_violation", f"$.{field}: {TIME_RULE}, got {text!r}")

    def test_a_leap_second_is_out_of_range(self, kind: str, field: str) -> None:
        """A moment by RFC 3339 that no TIMESTAMP holds."""
        assert rejection(VALID[kind](**{field: "2025-12-01T23:59:60Z"})) == (
            "out_of_range",
            f"$.{field}: expected a second from 0 to 59, for a TIMESTAMP has no leap seconds, got '2025-12-01T23:59:60Z'",
        )

    @pytest.mark.parametrize(
        "text",
        [
            "2015-12-09T23:59:59.999999Z",
            "2015-12-10T00:00:00+00:01",
            "2026-12-11T00:00:00Z",
            "2026-12-10T23:59:59-00:01",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
            "9999-12-31T23:59:59.9999999Z",
        ],
    )
    def test_a_date_that_no_partition_takes_is_out_of_range(self, kind: str, field: str, text: str) -> None:
        """The day before ten years back, the day after a year ahead, and the ends of the calendar."""
        assert rejection(VALID[kind](**{field: text})) == ("out_of_range", f"$.{field}: {DATE_RULE}, got {text!r}")

    @pytest.mark.parametrize("text", ["0001-01-01T00:00:00+02:00", "9999-12-31T23:59:59-02:00"])
    def test_a_utc_date_outside_the_calendar_is_out_of_range(self, kind: str, field: str, text: str) -> None:
        """The first and last hours of the calendar, moved out of it by their offset."""
        assert rejection(VALID[kind](**{field: text})) == (
            "out_of_range",
            f"$.{field}: expected a UTC date of the years 1 to 9999, got {text!r}",
        )

    @pytest.mark.parametrize(
        ("text", "day"),
        [
            ("2015-12-10T00:00:00Z", date(2015, 12, 10)),
            ("2015-12-09T23:59:00-00:01", date(2015, 12, 10)),
            ("2026-12-10T23:59:59.999999Z", date(2026, 12, 10)),
            ("2026-12-11T00:00:00+00:01", date(2026, 12, 10)),
        ],
    )
    def test_the_first_and_the_last_date_are_taken(self, kind: str, field: str, text: str, day: date) -> None:
        """Ten years back and one year ahead of the UTC day of processing, both included."""
        for rows in rows_of(VALID[kind](**{field: text}), NOW).values():
            assert {row["order_date" if kind == "order" else "event_date"] for row in rows} == {day}


class TestOrder:
    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"items": []}, "$.items: expected array of length >= 1, got length 0"),
            ({"items": {}}, "$.items: expected array, got object"),
            ({"items": [item(), item(), item(quantity=0)]}, "$.items[2].quantity: expected int >= 1, got 0"),
            ({"items": [item(quantity=-2)]}, "$.items[0].quantity: expected int >= 1, got -2"),
            (
                {"items": [item(quantity=2**63)]},
                "$.items[0].quantity: expected int <= 9223372036854775807, got 9223372036854775808",
            ),
            ({"items": [item(quantity=-(2**64))]}, "$.items[0].quantity: expected int >= 1, got -18446744073709551616"),
            ({"items": [item(quantity=number("2.0"))]}, "$.items[0].quantity: expected int, got 2.0"),
            ({"items": [item(quantity=number("1e2"))]}, "$.items[0].quantity: expected int, got 1E+2"),
            ({"items": [item(quantity="2")]}, "$.items[0].quantity: expected int, got '2'"),
            (
                {"items": [item(quantity=number("1" * 5000))]},
                f"$.items[0].quantity: expected int <= 9223372036854775807, got {'1' * 57}...",
            ),
            ({"items": [item(quantity=number("-" + "1" * 5000))]}, f"$.items[0].quantity: expected int >= 1, got -{'1' * 56}..."),
            ({"items": [item(), item(price=number("-0.01"))]}, f"$.items[1].price: {MONEY_RULE}, got -0.01"),
            ({"total_amount": number("-1")}, f"$.total_amount: {MONEY_RULE}, got -1"),
        ],
    )
    def test_values_out_of_bounds_are_refused(self, changes: dict[str, Any], error: str) -> None:
        """No items, quantities that are no whole number from 1 to 2^63-1, amounts below nothing."""
        assert rejection(order(**changes)) == ("contract_violation", error)

    def test_the_bounds_themselves_are_taken(self) -> None:
        """One item, a quantity of 1 or of 2^63-1, prices and totals of 0."""
        for quantity in (1, 2**63 - 1):
            rows = rows_of(order(items=[item(quantity=quantity, price=0)], total_amount=number("0.00")))
            assert [row["quantity"] for row in rows["fact_order"]] == [quantity]
            assert rows["fact_order"][0]["order_total_amount"] == rows["fact_order"][0]["price"] == 0

    @pytest.mark.parametrize("digits", ["9" * 29 + "." + "9" * 9, "0", "-0", "-0.0", "1e2", "1E+28", "1e-9", "0.300000004"])
    def test_money_is_stored_digit_for_digit(self, digits: str) -> None:
        """Up to 29 integer and 9 decimal digits, with an exponent or without."""
        (row,) = rows_of(order(total_amount=number(digits)))["fact_order_header"]
        assert row["total_amount"] == Decimal(digits)


class TestInventory:
    @pytest.mark.parametrize(
        ("change", "error"),
        [
            (number("-3.0"), "expected int, got -3.0"),
            (number("1e1"), "expected int, got 1E+1"),
            (2**63, "expected int <= 9223372036854775807, got 9223372036854775808"),
            (-(2**63) - 1, "expected int >= -9223372036854775808, got -9223372036854775809"),
            (number("9" * 100), f"expected int <= 9223372036854775807, got {'9' * 57}..."),
            (number("-" + "9" * 5000), f"expected int >= -9223372036854775808, got -{'9' * 56}..."),
        ],
    )
    def test_a_change_beyond_64_bits_is_refused(self, change: Any, error: str) -> None:
        """The quantity is a whole number that an INT64 column holds."""
        assert rejection(inventory(quantity_change=change)) == ("contract_violation", f"$.quantity_change: {error}")

    @pytest.mark.parametrize("change", [0, number("-0"), 1, -1, 2**63 - 1, -(2**63)])
    def test_any_other_change_is_taken(self, change: Any) -> None:
        """Stock goes in, out, or nowhere, up to the bounds of 64 bits."""
        moved = 0 if isinstance(change, msgspec.Raw) else change
        assert rows_of(inventory(quantity_change=change))["fact_inventory"][0]["quantity_change"] == moved


class TestUserActivity:
    @pytest.mark.parametrize("address", ["192.0.2.1", "255.255.255.255", "::", "2001:db8::8a2e:370:7334", "::ffff:192.0.2.1"])
    def test_both_kinds_of_address_are_taken_as_written(self, address: str) -> None:
        """IPv4 and IPv6 addresses are stored as the producer wrote them."""
        assert rows_of(activity(ip_address=address))["fact_user_activity"][0]["ip_address"] == address

    @pytest.mark.parametrize("address", ["", "1.2.3", "999.10.20.30", "192.0.2.1/24", "fe80::1%eth0", "localhost", "1.2.3.4\0"])
    def test_any_other_text_is_refused(self, address: str) -> None:
        """A name, a network, a zone, a missing part, a NUL byte: none is an address."""
        error = f"$.ip_address: expected IPv4 or IPv6 address, got {HIDDEN['str']}"
        assert rejection(activity(ip_address=address)) == ("contract_violation", error)

    def test_a_user_agent_may_be_empty(self) -> None:
        """Optional texts may be empty, and stay distinct from NULL."""
        assert rows_of(activity(user_agent=""))["fact_user_activity"][0]["user_agent"] == ""


class TestEventId:
    def test_the_attribute_stands_before_the_message_id(self) -> None:
        """The producer's own id where it is present and not empty, else the id that Pub/Sub gave."""
        sent = [
            message(order(), "M-7", event_id="E-7"),
            message(order(), "M-8", event_id=""),
            message(order(), "M-9", other="x"),
        ]
        (part,) = Codec(SHOP).decode(sent, NOW).parts
        assert part.event_ids == ["E-7", "M-8", "M-9"]
