# ruff: noqa: E501  # declarations stand on a line
"""Single behaviours of compiled contracts: unknown fields and how they are learned, other spellings of values, defaults, bounds."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomflow.contract.codec import MAX_UNKNOWN_PATHS, OTHER_PATHS, Codec, Read
from ecomflow.contract.generated import compiled as compiled_source
from ecomflow.contract.nesting import MAX_DEPTH
from ecomflow.contract.times import Unreadable, moments, read_moment
from ecomflow.contract.unknown import MAX_LEARNED
from tests.support.compiled import compiled, contract_of, only_letter
from tests.support.contract import NOW, SHOP, Body, encoded, inventory, item, message, number, order, property_test


def refund(**changes: Any) -> Body:
    return {"event_type": "refund", "at": "2025-12-01T10:15:30Z", **changes}


def row_of(contract: Any, **changes: Any) -> Body:
    """The row of the first table that a refund becomes."""
    outcome = compiled([message(refund(**changes))], contracts=[contract])
    assert [letter.error for letter in outcome.letters] == []
    return outcome.rows["fact_refund"][0]


def error_of(contract: Any, **changes: Any) -> str:
    return str(only_letter(compiled([message(refund(**changes))], contracts=[contract])).error)


AT = '[fields]\nat = "timestamp"\n'


class TestUnknownFields:
    def test_a_field_is_learned_once(self) -> None:
        """The struct has it from then on, wherever it stands, and what is kept is the same."""
        codec = Codec(SHOP)
        body = order(new=1, items=[item(colour="red"), item()], shipping_address={**order()["shipping_address"], "zip": "75001"})
        first = compiled([message(body)], codec).rows["fact_order_header"][0]["unknown_fields"]
        assert codec.kinds["order"][1].learned == {(): ("new",), ("items", "[]"): ("colour",), ("shipping_address",): ("zip",)}
        struct = codec.kinds["order"][1].struct
        again = compiled([message(body)], codec).rows["fact_order_header"][0]["unknown_fields"]
        assert (
            json.loads(first)
            == json.loads(again)
            == {
                "new": 1,
                "items": [{"colour": "red"}, {}],
                "shipping_address": {"zip": "75001"},
            }
        )
        assert codec.kinds["order"][1].struct is struct

    def test_events_without_it_keep_nothing(self) -> None:
        """By one codec, before and after."""
        codec = Codec(SHOP)
        bodies = [inventory(), inventory(zip=1), inventory(), inventory(zip=None)]
        rows = compiled([message(body) for body in bodies], codec).rows["fact_inventory"]
        assert [row["unknown_fields"] for row in rows] == [None, '{"zip":1}', None, '{"zip":null}']

    def test_the_very_text_is_kept(self) -> None:
        """Digits, escapes and spaces as they came."""
        text = '{ "a" : 1.500, "b":[1e3 , "\\u00e9"] }'
        for codec in (Codec(SHOP),) * 2:
            (row,) = compiled([message(inventory(new=number(text)))], codec).rows["fact_inventory"]
            assert row["unknown_fields"] == f'{{"new":{text}}}'

    def test_no_more_is_learned_than_is_bounded(self) -> None:
        """What is beyond takes the slow path and is kept all the same."""
        codec = Codec(SHOP)
        many = {f"x{n}": n for n in range(MAX_LEARNED + 10)}
        for _ in range(2):
            outcome = compiled([message(inventory(**many))], codec)
            assert json.loads(outcome.rows["fact_inventory"][0]["unknown_fields"]) == many
            assert len(outcome.drift) == len(many)
        assert len(codec.kinds["inventory"][1].learned[()]) == MAX_LEARNED

    def test_their_paths_are_bounded(self) -> None:
        """A message of a million names fills no counter."""
        many = {f"x{n}": n for n in range(MAX_UNKNOWN_PATHS + 7)}
        drift = compiled([message(inventory(**many))]).drift
        assert (len(drift), drift["inventory", OTHER_PATHS]) == (MAX_UNKNOWN_PATHS + 1, 7)

    @pytest.mark.parametrize("name", ["100%b", 'a"b', "a\\b", "a\nb", "", "é", "x" * 1000])
    def test_a_name_of_any_kind(self, name: str) -> None:
        """Those that a decoder can't learn are kept as well."""
        codec = Codec(SHOP)
        for _ in range(2):
            outcome = compiled([message(inventory(**{name: 1}))], codec)
            assert json.loads(outcome.rows["fact_inventory"][0]["unknown_fields"]) == {name: 1}
            assert outcome.drift == {("inventory", f"$.{name[:64]}".replace("\n", "\\n")): 1}

    def test_text_that_is_no_utf8_is_refused_where_it_was_learned(self) -> None:
        """A decoder passes over raw values without looking: such an event is refused as any other, the rest of the batch stays."""
        codec = Codec(SHOP)
        compiled([message(inventory(new="x"))], codec)
        bad = encoded(inventory(new="x")).replace(b'"x"', b'"\xff"')
        messages = [message(inventory(new="a"), "M-0"), message(bad, "M-1"), message(inventory(new="b"), "M-2")]
        outcome = compiled(messages, codec)
        assert [(one.message_id, one.reason) for one in outcome.letters] == [("M-1", "malformed_json")]
        assert [row["unknown_fields"] for row in outcome.rows["fact_inventory"]] == ['{"new":"a"}', '{"new":"b"}']

    @pytest.mark.parametrize("learned", [False, True])
    def test_nesting_has_one_bound(self, learned: bool) -> None:
        """500 levels, the same whether the field was learned or not."""
        codec = Codec(SHOP)
        if learned:
            compiled([message(inventory(new=1))], codec)
        deep = MAX_DEPTH - 1
        assert compiled([message(inventory(new=number("[" * deep + "]" * deep)))], codec).letters == []
        letter = only_letter(compiled([message(inventory(new=number("[" * MAX_DEPTH + "]" * MAX_DEPTH)))], codec))
        assert letter.reason == "malformed_json"

    def test_refused_or_dropped_where_the_contract_says_so(self) -> None:
        """A refusal names the field; what is dropped is counted."""
        refusing = contract_of('event = "refund"\ntime = "at"\nunknown_fields = "refuse"\n' + AT)
        assert error_of(refusing, new=1) == "$.new: expected no field that the contract does not name, got a number"
        dropping = contract_of('event = "refund"\ntime = "at"\nunknown_fields = "drop"\n' + AT)
        assert "unknown_fields" not in row_of(dropping, new=1)
        assert compiled([message(refund(new=1))], contracts=[dropping]).drift == {("refund", "$.new"): 1}


class TestValues:
    def test_numbers_in_strings_and_ids_as_numbers(self) -> None:
        """Where written_as says so, exact in either form."""
        contract = contract_of(
            AT + 'id = { type = "string", written_as = "number or string" }\n'
            'money = { type = "numeric", min = 0, written_as = "string" }\n'
            'n = { type = "integer", max = 5, written_as = "number or string" }\n'
        )
        row = row_of(contract, id=2**60, money="19.9000", n="5")
        assert (row["id"], row["money"], row["n"]) == (str(2**60), Decimal("19.9"), 5)
        assert row_of(contract, id="A", money="1e2", n=-5)["money"] == 100
        good = {"id": "A", "money": "1", "n": 1}
        assert error_of(contract, **{**good, "id": 1.5}) == "$.id: expected int or str, got 1.5"
        assert error_of(contract, **{**good, "money": 1}) == "$.money: expected number in a string, got 1"
        assert error_of(contract, **{**good, "money": "1,5"}) == "$.money: expected number in a string, got '1,5'"
        assert error_of(contract, **{**good, "money": "-1"}) == (
            "$.money: expected number >= 0 with at most 29 integer and 9 decimal digits, got '-1'"
        )
        assert error_of(contract, **{**good, "n": "6"}) == "$.n: expected int or int in a string, <= 5, got '6'"

    def test_defaults_stand_for_what_is_missing_or_null(self) -> None:
        """Of each type that has one."""
        contract = contract_of(
            AT + 'a = { type = "string", default = "EUR" }\nb = { type = "integer", default = 7 }\n'
            'c = { type = "numeric", default = 0.10 }\nd = { type = "boolean", default = true }\ne = { type = "float", default = 1 }\n'
        )
        for changes in ({}, dict.fromkeys("abcde")):
            row = row_of(contract, **changes)
            assert [row[name] for name in "abcde"] == ["EUR", 7, Decimal("0.1"), True, 1.0]

    def test_a_record_that_is_missing_has_no_defaults(self) -> None:
        """An object that is only on a field's path has."""
        contract = contract_of(
            AT + 'r = { type = "record", of = "r", optional = true }\nb = { type = "integer", default = 7, path = "o.b" }\n'
            '[records.r]\na = { type = "string", default = "EUR" }\n'
        )
        found = [
            (row["r_a"], row["b"])
            for row in (row_of(contract), row_of(contract, r={}), row_of(contract, r={"a": "x"}, o={"b": 1}))
        ]
        assert found == [(None, 7), ("EUR", 7), ("x", 1)]

    def test_patterns_and_lengths(self) -> None:
        """A pattern is of the whole text; lengths count characters."""
        contract = contract_of(AT + 'c = { type = "string", pattern = "[A-Z]{3}" }\nd = { type = "string", max_length = 2 }\n')
        assert row_of(contract, c="EUR", d="éé")["c"] == "EUR"
        for text in ("EURO", "EUR\n", "eur"):
            assert error_of(contract, c=text, d="x").startswith("$.c: expected str that matches [A-Z]{3}, got ")
        assert error_of(contract, c="EUR", d="xyz") == "$.d: expected str of length <= 2, got 'xyz'"

    def test_negative_amounts_and_their_products(self) -> None:
        """A numeric without a least may be negative; its product is exact."""
        contract = contract_of(
            AT + 'n = "integer"\nm = "numeric"\n'
            '[[tables]]\nname = "fact_refund"\ncolumns = ["n", "m", { name = "p", value = "n * m" }, { name = "q", value = "n * n" }]\n'
        )
        row = row_of(contract, n=-3, m=number("-0.100000001"))
        assert (row["m"], row["p"], row["q"]) == (Decimal("-0.100000001"), Decimal("0.300000003"), 9)
        wide = row_of(contract, n=-(2**31), m=number("12345678901.5"))
        assert wide["p"] == -(2**31) * Decimal("12345678901.5")
        assert error_of(contract, n=2**40, m=1) == "$: expected n x n in 64 bits, got 1099511627776 x 1099511627776"

    def test_a_rule_over_optional_fields(self) -> None:
        """It says nothing where a value is missing."""
        contract = contract_of(
            AT
            + 'a = { type = "numeric", optional = true }\nb = "integer"\n[[rules]]\ncheck = "a + 1 <= b * 2"\notherwise = "refuse"\n'
        )
        assert row_of(contract, b=1)["a"] is None
        assert row_of(contract, a=1, b=1)["a"] == 1
        assert error_of(contract, a=number("1.01"), b=1) == "$.a: expected a + 1 <= b * 2, got 2.01 and 2"

    def test_generated_code_has_words_of_its_own_only(self) -> None:
        """Whatever else comes is refused."""
        for source in (
            "__import__('os')",
            "lambda event: event.__class__",
            "lambda events: open(events)",
            "lambda event: event.f0; 1",
        ):
            with pytest.raises(ValueError, match="not of our own words"):
                compiled_source(source)


class TestMoments:
    @pytest.mark.parametrize(
        ("text", "zone", "expected"),
        [
            ("2025-12-01T10:15:30", "UTC", "2025-12-01T10:15:30+00:00"),
            ("2025-12-01 10:15:30.5", "UTC", "2025-12-01T10:15:30.500000+00:00"),
            ("2025-07-01T10:15:30", "Europe/Berlin", "2025-07-01T08:15:30+00:00"),
            ("2025-12-01T10:15:30", "Europe/Berlin", "2025-12-01T09:15:30+00:00"),
            ("2025-10-26T02:30:00", "Europe/Berlin", "2025-10-26T00:30:00+00:00"),
            ("2025-12-01T10:15:30+05:00", "Europe/Berlin", "2025-12-01T05:15:30+00:00"),
        ],
    )
    def test_without_an_offset(self, text: str, zone: str, expected: str) -> None:
        """In the zone that the contract names; of an hour that comes twice, the first. An offset that is there counts."""
        contract = contract_of(f'[fields]\nat = {{ type = "timestamp", without_offset = "{zone}" }}\n')
        assert row_of(contract, at=text)["event_timestamp"].isoformat() == expected

    @pytest.mark.parametrize(
        "text",
        [
            *("", "2025-12-01", "2025-12-01T10:15Z", "2025-12-01T10Z", "2025-12-01T10:15+05:30", "2025-12-01T10:15:30"),
            *("0000-01-01T00:00:00Z", "2025-12-01T24:00:00Z", "2025-12-01T10:15:30+24:00", "2025-12-01T10:15:30+05:60"),
            *("2025-12-01T10:15:30.Z", "x" * 2000),
        ],
    )
    def test_no_moment(self, text: str) -> None:
        """Neither alone nor in a column."""
        assert isinstance(read_moment(text, "refuse"), Unreadable)
        assert moments([text, "2025-12-01T10:15:30Z"], "refuse") is None

    @property_test(300)
    @given(
        st.lists(
            st.builds(
                "{}{}{}".format,
                st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)).map(lambda one: one.isoformat()),
                st.sampled_from(["", ".5", ".123456789"]),
                st.sampled_from(["Z", "z", "+01", "-0730", "+14:00", "", "+25:00"]),
            )
            | st.text("0123456789-:TZ+. ", max_size=30),
            max_size=3,
        ),
        st.sampled_from(["refuse", "UTC", "Asia/Tokyo"]),
    )
    def test_a_column_reads_as_each_by_itself(self, texts: list[str], zone: str) -> None:
        """Arrow's way and ours agree on every text."""
        alone = [read_moment(text, zone) for text in texts]
        column = moments(texts, zone)
        if any(isinstance(one, Unreadable) for one in alone):
            assert column is None
        else:
            assert column is not None
            assert np.array(column.view("int64")).tolist() == alone


class TestTypes:
    def test_the_type_must_be_said(self) -> None:
        """Also where there is but one."""
        contract = contract_of(AT)
        for body in ({"at": refund()["at"]}, refund(event_type="")):
            error = only_letter(compiled([message(body)], contracts=[contract])).error
            assert error.startswith("$.event_type: expected one of refund, ")


class TestReadDocument:
    def test_an_event_by_itself(self) -> None:
        """What a check or a replay's preview asks."""
        read = Codec(SHOP).read_document(encoded(inventory(new=1)))
        assert isinstance(read, Read)
        assert (read.kind.contract.event, read.unknown, read.paths) == ("inventory", b'{"new":1}', ["$.new"])

    @pytest.mark.parametrize("count", [1, 3])
    def test_a_message_must_say_its_type(self, count: int) -> None:
        """Also where there is only one that it can be of."""
        body = {key: value for key, value in order().items() if key != "event_type"}
        letter = only_letter(compiled([message(body)], contracts=SHOP[:count]))
        assert (letter.reason, letter.event_type) == ("unknown_event_type", None)
        names = ", ".join(contract.event for contract in SHOP[:count])
        assert letter.error == f"$.event_type: expected one of {names}, but it is missing"

    def test_no_messages(self) -> None:
        """Nothing in is nothing out."""
        assert Codec(SHOP).decode([], datetime.now(UTC)).parts == []

    def test_streams(self) -> None:
        """The event types, and what is of none."""
        assert Codec(SHOP).streams == ("order", "inventory", "user_activity", "unknown")
        assert Codec(SHOP[1:2]).decode([message(order())], NOW).parts[0].refused[0].error == (
            "$.event_type: expected one of inventory, got 'order'"
        )
