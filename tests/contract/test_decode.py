"""Bytes in; events of their streams, counted unknown fields, and dead letters with reason, path and stream, out."""

from __future__ import annotations

import contextlib
import itertools
from decimal import Decimal, DecimalException
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomflow.contract.codec import Codec
from ecomflow.contract.events import Message, plain_number
from ecomflow.contract.numbers import is_numeric
from tests.support.contract import (
    MONEY_RULE,
    NOW,
    SHOP,
    STREAMS,
    TYPES,
    VALID,
    activity,
    encoded,
    inventory,
    item,
    message,
    number,
    order,
    outcome_of,
    property_test,
    refusal_of,
    rows_of,
)
from tests.support.documents import ANY_BYTES

NONE_SUCH = "$: expected a JSON object in UTF-8, got invalid JSON: "
TOO_DEEP = "$: expected at most 500 levels of objects and arrays, got more"
UNKNOWN = "$.event_type: expected one of order, inventory, user_activity"


def with_field(kind: str, field: bytes) -> bytes:
    """A valid event of ``kind`` with ``field`` at its end."""
    return encoded(VALID[kind]())[:-1] + b"," + field + b"}"


def summary(body: Any) -> tuple[str, str, str | None, str]:
    """Reason, sentence, type and stream of one event that must be refused."""
    outcome = outcome_of([message(body)])
    assert outcome.rows == {}
    (letter,) = outcome.letters
    return letter.reason, letter.error, letter.event_type, outcome.stream


class TestMalformedBytes:
    @pytest.mark.parametrize(
        ("data", "what"),
        [
            (b'{"event_type": "ord', "Input data was truncated"),
            (encoded(order())[:-1], "Input data was truncated"),
            (b"\x00", "JSON is malformed: invalid character (byte 0)"),
            (b"{'event_type': 'order'}", "JSON is malformed: object keys must be strings (byte 1)"),
            (b'{"event_type":"order",}', "JSON is malformed: trailing comma in object (byte 22)"),
            (encoded(order()) + b"{}", f"JSON is malformed: trailing characters (byte {len(encoded(order())) + 1})"),
            (b'{"event_type":"order","a":NaN}', "JSON is malformed: invalid character (byte 26)"),
            (b'{"event_type":"order","a":-Infinity}', "JSON is malformed: invalid character (byte 27)"),
            (b'{"event_type":"order","a":01}', "JSON is malformed: invalid number (byte 27)"),
            (b'{"event_type":"order","a":1.}', "JSON is malformed: invalid number (byte 28)"),
            (b'{"event_type":"order","a":"\xff"}', "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
            (b'{"event_type":"order","a":"\xed\xa0\x80"}', "'utf-8' codec can't decode byte 0xed in position 0"),
            (b'{"event_type":"order","a":"\\ud800"}', "Input data was truncated"),
            (
                b'{"event_type":"order","a":"\\ud800 and more"}',
                "JSON is malformed: unexpected end of escaped utf-16 surrogate pair",
            ),
            (b'{"event_type":"order","a":"\n"}', "JSON is malformed: invalid character (byte 27)"),
        ],
    )
    def test_what_is_no_json_is_malformed(self, data: bytes, what: str) -> None:
        """A piece, trailing bytes, NaN, lone surrogates: of no stream and of no type."""
        reason, error, event_type, stream = summary(data)
        assert (reason, event_type, stream) == ("malformed_json", None, "unknown")
        assert error.startswith(NONE_SUCH + what)
        assert "\n" not in error

    @pytest.mark.parametrize(
        "data",
        [
            b"[" * 200_000,
            b'{"a":' * 200_000,
            with_field("order", b'"a":' + b"[" * 200_000 + b"]" * 200_000),
            encoded(order(total_amount=number("[" * 200_000 + "]" * 200_000))),
        ],
        ids=["arrays", "objects", "an unknown field", "a known field"],
    )
    def test_what_is_nested_too_deeply_is_malformed(self, data: bytes) -> None:
        """Two hundred thousand brackets are refused, not followed."""
        assert summary(data) == ("malformed_json", TOO_DEEP, None, "unknown")

    @pytest.mark.parametrize("depth", [2, 100, 400, 498])
    def test_nesting_that_can_still_be_read_is_judged_by_the_contract(self, depth: int) -> None:
        """Arrays where items belong are refused with their path however deep they go; in a new field they are kept."""
        nested = "[" * depth + "]" * depth
        found = "an empty array" if depth == 2 else "array"
        error = f"$.items[0]: expected object, got {found}"
        assert summary(order(items=number(nested))) == ("contract_violation", error, "order", "order")
        assert rows_of(order(new=number(nested)))["fact_order_header"][0]["unknown_fields"] == f'{{"new":{nested}}}'
        assert refusal_of(order(total_amount=number(nested))).error == f"$.total_amount: {MONEY_RULE}, got array"


class TestUnknownEventType:
    @pytest.mark.parametrize(
        ("data", "error", "event_type"),
        [
            (b"[]", "$: expected an object, got an empty array", None),
            (b'[{"event_type":"order"}]', "$: expected an object, got array", None),
            (b'"{}"', "$: expected an object, got a string that holds one", None),
            (b"7", "$: expected an object, got 7", None),
            (b"7.5", "$: expected an object, got 7.5", None),
            (b"7" * 5000, f"$: expected an object, got {'7' * 57}...", None),
            (b"7e99999999999999999999", "$: expected an object, got a number beyond any decimal", None),
            (b"null", "$: expected an object, got null", None),
            (b"true", "$: expected an object, got true", None),
            (b"{}", f"{UNKNOWN}, but it is missing", None),
            (b'{"Event_Type":"order"}', f"{UNKNOWN}, but it is missing", None),
            (b'{"x":' + b"7" * 5000 + b"}", f"{UNKNOWN}, but it is missing", None),
            (b'{"event_type":null}', f"{UNKNOWN}, got null", None),
            (b'{"event_type":7}', f"{UNKNOWN}, got 7", None),
            (b'{"event_type":false}', f"{UNKNOWN}, got false", None),
            (b'{"event_type":["order"]}', f"{UNKNOWN}, got array", None),
            (b'{"event_type":{"order":1}}', f"{UNKNOWN}, got object", None),
            (b'{"event_type":""}', f"{UNKNOWN}, got ''", ""),
            (b'{"event_type":"Order"}', f"{UNKNOWN}, got 'Order'", "Order"),
            (b'{"event_type":"unknown"}', f"{UNKNOWN}, got 'unknown'", "unknown"),
            (b'{"event_type":"../order"}', f"{UNKNOWN}, got '../order'", "../order"),
            (b'{"event_type":"\\u001b[31m\\n"}', f"{UNKNOWN}, got '\\x1b[31m\\n'", "\x1b[31m\n"),
            (b'{"event_type":"refund","x":' + b"7" * 5000 + b"}", f"{UNKNOWN}, got 'refund'", "refund"),
            (b'{"event_type":"' + b"x" * 99 + b'"}', f"{UNKNOWN}, got '{'x' * 56}... (99 characters)", "x" * 99),
        ],
        ids=lambda value: repr(value)[:40],
    )
    def test_what_is_no_event_of_ours(self, data: bytes, error: str, event_type: str | None) -> None:
        """Well-formed JSON that names none of the three types: of stream unknown, with the type that it claims."""
        assert summary(data) == ("unknown_event_type", error, event_type, "unknown")


def cut(digits: str) -> str:
    return f"{digits[:57]}..."


class TestNumbersBeyondReach:
    @pytest.mark.parametrize("length", [4299, 4300, 4301, 9_000_000])
    @pytest.mark.parametrize("sign", ["", "-"])
    def test_an_integer_of_any_length_is_judged_by_its_field(self, length: int, sign: str) -> None:
        """Python reads integers of 4,300 digits; a longer one is still refused by its path, or kept where nobody names it."""
        digits = number(sign + "7" * length)
        assert refusal_of(order(total_amount=digits)).error == f"$.total_amount: {MONEY_RULE}, got {cut(sign + '7' * length)}"
        assert refusal_of(order(order_id=digits)).error == f"$.order_id: expected str, got {cut(sign + '7' * length)}"
        assert outcome_of([message(order(x=digits))]).drift == {("order", "$.x"): 1}

    def test_faults_after_such_an_integer_keep_their_place(self) -> None:
        """The rest of the message is read as it stands: a fault behind it is found, at its byte; digits in texts stay."""
        long = b"7" * 5000
        start = b'{"event_type":"order","x":' + long
        for rest, what in [
            (b"", "Input data was truncated"),
            (b",]", f"JSON is malformed: object keys must be strings (byte {len(start) + 1})"),
            (b',"y":"\\ud800"}', "Input data was truncated"),
            (b".}", f"JSON is malformed: invalid number (byte {len(start) + 1})"),
        ]:
            letter = refusal_of(start + rest)
            assert (letter.reason, letter.payload) == ("malformed_json", (start + rest).decode())
            assert letter.error.startswith(NONE_SUCH + what)
        tricky = f'\\"{long.decode()}\\\\'
        rows = rows_of(order(customer_name=number(f'"{tricky}"'), x=number(long.decode())))
        assert rows["fact_order_header"][0]["customer_name"] == f'"{long.decode()}\\'

    @pytest.mark.parametrize("digits", ["1e99999999999999999999", "-1e99999999999999999999"])
    def test_an_exponent_that_no_decimal_holds_is_refused_by_its_path(self, digits: str) -> None:
        """In a field that nobody names it is kept. A zero is a zero with any exponent."""
        zero = rows_of(order(total_amount=number("0e99999999999999999999")))
        assert zero["fact_order_header"][0]["total_amount"] == 0
        error = f"$.items[0].price: {MONEY_RULE}, got a number beyond any decimal"
        assert summary(order(items=[item(price=number(digits))])) == ("contract_violation", error, "order", "order")
        assert rows_of(order(x=number(digits)))["fact_order_header"][0]["unknown_fields"] == f'{{"x":{digits}}}'

    @pytest.mark.parametrize("digits", ["7" * 5000 + ".5", "7" * 5000 + "e1", "0." + "7" * 5000, "1e-99999", "1E+99999"])
    def test_a_long_decimal_is_refused_by_its_path(self, digits: str) -> None:
        """However many digits, before or after the point."""
        assert refusal_of(order(total_amount=number(digits))).error.startswith(f"$.total_amount: {MONEY_RULE}, got ")


class TestUnknownFields:
    @pytest.mark.parametrize("kind", TYPES)
    def test_they_are_kept_and_counted(self, kind: str) -> None:
        """The event's rows are those without the field but for what the first table keeps; its type and path are counted."""
        outcome = outcome_of([message(VALID[kind](new={"deep": [1]}))])
        plain = rows_of(VALID[kind]())
        plain[next(iter(plain))][0]["unknown_fields"] = '{"new":{"deep":[1]}}'
        assert outcome.rows == plain
        assert outcome.drift == {(kind, "$.new"): 1}

    def test_each_place_is_counted_once_an_occurrence(self) -> None:
        """Nested objects and items have paths of their own, an item's index left out."""
        address = {**order()["shipping_address"], "zip": "75001", "event_type": "x"}
        first = order(items=[item(colour="red"), item(), item(colour="blue", size=3)], shipping_address=address)
        second = activity(metadata={"session_id": "S", "platform": "web", "app": {"version": 3}}, zip=None)
        outcome = outcome_of([message(first), message(second), message(inventory(zip=1)), message(inventory(zip=2))])
        assert outcome.letters == []
        assert outcome.drift == {
            ("order", "$.items[].colour"): 2,
            ("order", "$.items[].size"): 1,
            ("order", "$.shipping_address.zip"): 1,
            ("order", "$.shipping_address.event_type"): 1,
            ("user_activity", "$.metadata.app"): 1,
            ("user_activity", "$.zip"): 1,
            ("inventory", "$.zip"): 2,
        }

    def test_their_names_are_cut(self) -> None:
        """A field's name is the producer's, and may be a megabyte long."""
        assert outcome_of([message(order(**{"x" * 1000: 1}))]).drift == {("order", f"$.{'x' * 64}"): 1}

    def test_they_do_not_hide_a_violation(self) -> None:
        """A refused event is refused for what is wrong with it, and its new fields are not counted."""
        outcome = outcome_of([message(order(new=1, status="odd"))])
        assert [letter.error.partition(",")[0] for letter in outcome.letters] == ["$.status: expected one of pending"]
        assert outcome.drift == {}

    def test_a_name_given_twice_means_its_last_value(self) -> None:
        """As JSON readers do; the first value's type does not matter."""
        for first in (b"5", b'"x"', b"null"):
            data = encoded(inventory()).replace(b'"quantity_change":', b'"quantity_change":' + first + b',"quantity_change":')
            assert rows_of(data)["fact_inventory"][0]["quantity_change"] == -3
        assert refusal_of(with_field("inventory", b'"event_type":"order"')).event_type == "order"


class TestBatches:
    def test_each_message_goes_to_the_stream_of_its_type(self) -> None:
        """Events, ids and messages stay parallel and in the order in which they came; only streams that occur are there."""
        bodies = [inventory(), order(order_id="O-2"), b"{", inventory(inventory_id="I-2"), order(status="odd"), activity()]
        messages = [message(body, f"M-{index}", event_id=f"E-{index}") for index, body in enumerate(bodies)]
        streams = {part.stream: part for part in Codec(SHOP).decode(messages, NOW).parts}
        assert {name: part.event_ids for name, part in streams.items()} == {
            "order": ["E-1"],
            "inventory": ["E-0", "E-3"],
            "user_activity": ["E-5"],
            "unknown": [],
        }
        assert {name: [letter.message_id for letter in part.refused] for name, part in streams.items()} == {
            "order": ["M-4"],
            "inventory": [],
            "user_activity": [],
            "unknown": ["M-2"],
        }
        assert [one.message_id for one in streams["inventory"].messages] == ["M-0", "M-3"]
        kinds = {name: part.kind.contract.event if part.kind else None for name, part in streams.items()}
        assert kinds == {**{name: name for name in TYPES}, "unknown": None}


class TestAnyBytes:
    @pytest.mark.slow
    @property_test(250)
    @given(st.lists(ANY_BYTES, min_size=1, max_size=6))
    def test_each_message_has_one_outcome(self, payloads: list[bytes]) -> None:
        """Whatever the bytes, a message becomes the rows of one event or one dead letter, never both, never an exception."""
        messages = [Message(data, {}, f"M-{index}", 0) for index, data in enumerate(payloads)]
        outcome = outcome_of(messages)
        of_facts = {table: set(sources) for table, sources in outcome.sources.items()}
        assert of_facts.get("fact_order_header") == of_facts.get("fact_order_item") == of_facts.get("fact_order")
        accepted = sorted(set().union(*of_facts.values()))
        refused = [str(letter.message_id) for letter in outcome.letters]
        assert sorted(accepted + refused) == [one.message_id for one in messages]
        assert set(outcome.facts) <= set(STREAMS)


class TestNumbersThatArrowCannotRead:
    """Arrow turns decimals of many digits into others, or dies of them: none may reach it."""

    @pytest.mark.parametrize("digits", [10, 39, 48, 106, 112, 282, 1000, 100_000, 5_000_000])
    def test_too_many_decimal_places_are_refused_however_many(self, digits: int) -> None:
        """0.777... is refused whatever its length, with the rule and no other number in its place."""
        outcome = outcome_of([message(order(total_amount=number("0." + "7" * digits)))])
        assert [(letter.reason, letter.error.split(",")[0]) for letter in outcome.letters] == [
            ("contract_violation", "$.total_amount: expected number >= 0 with at most 29 integer and 9 decimal digits")
        ]

    def test_what_the_fast_path_reads_arrow_stores_exactly(self) -> None:
        """Every number that the decoder lets through is refused by Arrow or stored as it is, up to its last digit."""
        column = pa.decimal128(38, 9)
        for digits, scale, fill in itertools.product(range(1, 45), range(-35, 60), ("7", "1", "9", "10")):
            text = f"{(fill * 45)[:digits]}E{-scale}"
            try:
                value = plain_number(text)
            except DecimalException:
                assert not is_numeric(Decimal(text)), text
                continue
            with contextlib.suppress(pa.ArrowInvalid):
                assert pa.array([value], column)[0].as_py() == Decimal(text), text
