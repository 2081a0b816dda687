"""The compiled shop and the hand-written decoder and model make the same of every message, but for the changes that are named
here.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomflow.contract.codec import Codec, halves, violation_of_event
from ecomflow.contract.dead_letter import DeadLetter
from ecomflow.contract.decode import decode_messages
from ecomflow.contract.events import Message
from ecomflow.contract.modelling import model
from ecomflow.contract.rules import streamable_dates
from ecomflow.generator.rounds import generate
from ecomflow.pipeline.model import model_facts
from tests.contract.test_decode import documents_with_strange_values, mutated_documents
from tests.pipeline.test_model import ACTIVITIES, INVENTORIES, ORDERS
from tests.pipeline.test_order_totals import BAD, GOOD, LARGE
from tests.support.compiled import SHOP, compiled, without_unknown
from tests.support.contract import NOW, VALID, Body, encoded, inventory, item, message, number, order, outcome_of, property_test
from tests.support.faults import FAULTS, NAMES, spoiled

# Words of the hand-written reasons that differ on purpose: what was found stands in every reason now, or only that it is
# personal.
FOUND = re.compile(r", got .*$", re.DOTALL)


def reason_of(letter: DeadLetter) -> tuple[str, str, str | None]:
    """Reason, path and type: what both must say."""
    return letter.reason, letter.error.partition(": ")[0], letter.event_type


def assert_same(messages: list[Message], codec: Codec | None = None) -> None:
    mine, theirs = compiled(messages, codec), outcome_of(messages)
    assert without_unknown(mine.rows) == theirs.rows
    assert mine.sources == theirs.sources
    assert {one.message_id: reason_of(one) for one in mine.letters} == {one.message_id: reason_of(one) for one in theirs.letters}
    assert sum(mine.drift.values()) == sum(theirs.drift.values())


def has_a_change(data: bytes) -> bool:
    """Whether ``data`` is of a kind that EVENTS.md changed: a move of 0, digits past microseconds, an offset as +hh or +hhmm."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return False
    times = [body.get(name) for name in ("timestamp", "order_date")] if isinstance(body, dict) else []
    odd = re.compile(r"\.\d{7,}|:60(\D|$)|[+-]\d\d(\d\d)?$")
    return (isinstance(body, dict) and body.get("quantity_change") == 0) or any(
        isinstance(text, str) and odd.search(text) for text in times
    )


class TestEveryEvent:
    def test_the_generators_rounds(self) -> None:
        """Valid and invalid events of the generator: the same rows, dead letters and order."""
        events = [event for event in generate(300, seed=7, now=NOW) if not str(event.fault).endswith("_in_leap_second")]
        assert_same([Message(event.data, event.attributes, str(n), 0) for n, event in enumerate(events)])

    @pytest.mark.parametrize(("fault", "kind"), FAULTS, ids=NAMES)
    def test_the_catalogue_of_faults(self, fault: Any, kind: str) -> None:
        """Reason and path of each, and where the value is of the right type the words up to what was found."""
        if not fault.name.endswith("_in_leap_second"):
            messages = [message(spoiled(fault, json.loads(encoded(VALID[kind]()))))]
            assert_same(messages)
            if fault.name.startswith("null_") or fault.name.endswith("_as_number"):
                return
            (mine,), (theirs,) = compiled(messages).letters, outcome_of(messages).letters
            assert FOUND.sub("", mine.error) == FOUND.sub("", theirs.error)

    @property_test(250)
    @given(st.lists(ORDERS | INVENTORIES | ACTIVITIES, min_size=1, max_size=8))
    def test_any_values(self, bodies: list[Body]) -> None:
        """Amounts, quantities, texts, moments and addresses of any kind, several in a batch, several wrong at once."""
        assert_same([message(body, f"M-{n}") for n, body in enumerate(bodies) if not has_a_change(encoded(body))])

    @property_test(400)
    @given(st.lists(st.binary(max_size=40) | mutated_documents() | documents_with_strange_values(), min_size=1, max_size=6))
    def test_any_bytes(self, payloads: list[bytes]) -> None:
        """Bytes of any kind, also overwritten documents and strange values at any place."""
        assert_same([Message(data, {}, f"M-{n}", 0) for n, data in enumerate(payloads) if not has_a_change(data)])

    def test_what_was_learned_changes_nothing(self) -> None:
        """The same messages again, by a codec that has met their unknown fields."""
        codec = Codec(SHOP)
        bodies: list[Any] = [
            order(new=1),
            inventory(zip=None),
            order(items=[item(colour="red"), item()]),
            order(new=1, status="odd"),
        ]
        messages = [message(body, f"M-{n}") for n, body in enumerate(bodies)]
        for _ in range(3):
            assert_same(messages, codec)

    @pytest.mark.parametrize("size", [1, 100, 20_000])
    def test_an_order_whose_header_is_too_large_to_repeat(self, size: int) -> None:
        """The same bound, told with the same figures."""
        messages = [message(order(customer_name="x" * 1500, items=[item()] * size))]
        assert_same(messages)
        assert [one.error for one in compiled(messages).letters] == [one.error for one in outcome_of(messages).letters]


class TestTheRulesAgree:
    @property_test(150)
    @given(st.lists(ORDERS | INVENTORIES | ACTIVITIES, min_size=1, max_size=5))
    def test_columns_refuse_what_the_rules_refuse(self, bodies: list[Body]) -> None:
        """An event has rows just where no rule, asked of it alone, finds a violation; and the reason is that violation's."""
        codec = Codec(SHOP)
        dates = streamable_dates(NOW.date())
        for batch in codec.decode([message(body, f"M-{n}") for n, body in enumerate(bodies)], NOW).streams.values():
            assert batch.kind is not None
            facts = model(batch, NOW)
            refused = {letter.message_id: letter.error.partition(": ")[0] for letter in facts.refused}
            for event, event_id, one in zip(batch.events, batch.event_ids, batch.messages, strict=True):
                violation = violation_of_event(batch.kind, event, event_id, dates)
                assert (one in facts.messages) == (violation is None)
                assert violation is None or refused[one.message_id] == violation.path

    def test_a_batch_in_halves_is_the_batch(self) -> None:
        """Rows, dead letters and unknown fields of the halves are those of the whole."""
        bodies = [order(order_id=f"O-{n}", **({"new": n} if n % 2 else {})) for n in range(5)] + [order(total_amount=-1)]
        (batch,) = Codec(SHOP).decode([message(body, f"M-{n}") for n, body in enumerate(bodies)], NOW).streams.values()
        whole = model(batch, NOW)
        parts = [model(part, NOW) for part in halves(batch)]
        for index, table in enumerate(whole.tables):
            assert table.rows.to_pylist() == [row for part in parts for row in part.tables[index].rows.to_pylist()]
        assert [one.message_id for part in parts for one in part.refused] == [one.message_id for one in whole.refused]


class TestTotals:
    @pytest.mark.parametrize(
        "body", [*GOOD, *LARGE, *(body for body, _, _ in BAD)], ids=lambda body: bytes(body["total_amount"]).decode()
    )
    def test_the_rule_counts_what_order_totals_counts(self, body: Body) -> None:
        """In 64 bits and beyond them."""
        facts = compiled([message(body)]).facts["order"]
        theirs = model_facts(decode_messages([message(body)], NOW).streams["order"], NOW, "count")
        assert facts.rules_broken["order_totals"] == theirs.totals_differ
        assert len(facts.messages) == 1

    def test_refused_with_both_sides(self) -> None:
        """``otherwise = "refuse"`` makes it a violation; the others of the batch pass."""
        import msgspec

        refusing = [
            msgspec.structs.replace(one, rules=tuple(msgspec.structs.replace(rule, otherwise="refuse") for rule in one.rules))
            for one in SHOP
        ]
        bodies = [GOOD[0], BAD[0][0], *GOOD[1:]]
        outcome = compiled([message(body, f"M-{n}") for n, body in enumerate(bodies)], contracts=refusing)
        assert [(one.message_id, one.reason, one.error) for one in outcome.letters] == [
            (
                "M-1",
                "contract_violation",
                "$.total_amount: expected total_amount == sum(items.quantity * items.price), got 120.00 and 119.40",
            )
        ]
        assert len(outcome.rows["fact_order_header"]) == len(GOOD)


class TestNamedChanges:
    def test_a_move_of_nothing_passes(self) -> None:
        """quantity_change may be 0."""
        assert compiled([message(inventory(quantity_change=0))]).rows["fact_inventory"][0]["quantity_change"] == 0

    @pytest.mark.parametrize(
        ("text", "kept"),
        [
            ("2025-11-20T23:59:59.999999999Z", "2025-11-20T23:59:59.999999+00:00"),
            ("2025-12-31T23:59:59.9999999Z", "2025-12-31T23:59:59.999999+00:00"),
            ("2025-12-01T10:15:30.1234569+02:00", "2025-12-01T08:15:30.123456+00:00"),
            ("2025-12-01t10:15:30z", "2025-12-01T10:15:30+00:00"),
            ("2025-12-01T10:15:30+0100", "2025-12-01T09:15:30+00:00"),
            ("2025-12-01T10:15:30+01", "2025-12-01T09:15:30+00:00"),
        ],
    )
    def test_digits_past_microseconds_are_cut(self, text: str, kept: str) -> None:
        """Never carried: the end of a day stays in its day. Offsets are read in their three forms."""
        row = compiled([message(inventory(timestamp=text))]).rows["fact_inventory"][0]
        assert row["event_timestamp"].isoformat() == kept
        assert row["event_date"] == row["event_timestamp"].date()

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("9999-12-31T23:59:59.999999999Z", "a UTC date from 2015-12-10 to 2026-12-10"),
            ("2025-12-01T23:59:60Z", "a second from 0 to 59, for a TIMESTAMP has no leap seconds"),
        ],
    )
    def test_a_moment_that_no_column_holds_is_out_of_range(self, text: str, what: str) -> None:
        """A valid moment by RFC 3339, and it is said what is the matter with it."""
        (letter,) = compiled([message(inventory(timestamp=text))]).letters
        assert (letter.reason, letter.error) == ("out_of_range", f"$.timestamp: expected {what}, got '{text}'")

    def test_values_stand_in_reasons_unless_personal(self) -> None:
        """Cut, on one line; of what is personal only its type."""
        bodies: list[Body] = [
            order(order_id=number("7" * 500)),
            order(status="x\n" * 100),
            order(customer_name=5),
            order(shipping_address={"street": "", "city": "Paris", "country": "FR"}),
        ]
        assert [one.error for one in compiled([message(body) for body in bodies]).letters] == [
            f"$.order_id: expected str, got {'7' * 57}...",
            "$.status: expected one of pending, processing, shipped, delivered, cancelled, returned, got "
            + repr("x\n" * 30)[:57]
            + "...",
            "$.customer_name: expected str | null, got a number that is personal and not shown",
            "$.shipping_address.street: expected str of length >= 1, got a string that is personal and not shown",
        ]

    def test_unknown_fields_are_kept(self) -> None:
        """In the first table, as they came."""
        outcome = compiled([message(order(new=number("1.50"), items=[item(), item(colour="red")]))])
        assert outcome.rows["fact_order_header"][0]["unknown_fields"] == '{"new":1.50,"items":[{},{"colour":"red"}]}'
        assert outcome.drift == {("order", "$.new"): 1, ("order", "$.items[].colour"): 1}
