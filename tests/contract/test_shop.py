"""The shop's contracts as a whole: the catalogue of faults, what learning changes, and what a reason shows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomflow.contract.codec import Codec
from ecomflow.contract.events import Message
from ecomflow.generator.faults import expected_stream
from tests.support.contract import (
    SHOP,
    VALID,
    Body,
    Outcome,
    encoded,
    inventory,
    item,
    message,
    number,
    order,
    outcome_of,
    property_test,
)
from tests.support.documents import ANY_BYTES, EVENTS
from tests.support.faults import FAULTS, NAMES, spoiled


@pytest.mark.parametrize(("fault", "kind"), FAULTS, ids=NAMES)
def test_the_catalogue_of_faults(fault: Any, kind: str) -> None:
    """Each is refused with its reason, at its path, in its event's stream, and leaves the events beside it alone."""
    data = spoiled(fault, json.loads(encoded(VALID[kind]())))
    outcome = outcome_of([message(VALID[kind](), "M-0"), message(data, "M-1"), message(VALID[kind](), "M-2")])
    (letter,) = outcome.letters
    assert (letter.message_id, letter.reason) == ("M-1", fault.reason)
    assert letter.error.startswith(f"{fault.path}: ")
    assert [name for name, facts in outcome.facts.items() if facts.refused] == [expected_stream(fault, kind)]
    assert {source for sources in outcome.sources.values() for source in sources} == {"M-0", "M-2"}


def told(outcome: Outcome) -> tuple[Any, ...]:
    """What an outcome tells, the order of keys in what is kept left out."""
    rows = {
        table: [{**row, "unknown_fields": json.loads(row.get("unknown_fields") or "{}")} for row in found]
        for table, found in outcome.rows.items()
    }
    letters = {one.message_id: (one.reason, one.error, one.event_type) for one in outcome.letters}
    return rows, letters, outcome.sources, outcome.drift


class TestLearning:
    @pytest.mark.slow
    @property_test(250)
    @given(st.lists(ANY_BYTES | EVENTS.map(encoded), min_size=1, max_size=6))
    def test_it_changes_nothing(self, payloads: list[bytes]) -> None:
        """Whatever the bytes: the same of a codec that has met their unknown fields, and of one a message."""
        messages = [Message(data, {}, f"M-{index}", 0) for index, data in enumerate(payloads)]
        codec = Codec(SHOP)
        first = told(outcome_of(messages, codec=codec))
        assert told(outcome_of(messages, codec=codec)) == first
        alone = [outcome_of([one], codec=Codec(SHOP)) for one in messages]
        assert first[1] == {name: letter for one in alone for name, letter in told(one)[1].items()}
        assert first[3] == sum((one.drift for one in alone), start=type(first[3])())

    def test_of_events_that_have_one_and_others_that_do_not(self) -> None:
        """At the top, in an item, in a refused event: three times the same."""
        bodies = [
            order(new=1),
            inventory(zip=None),
            order(items=[item(colour="red"), item()]),
            order(new=1, status="odd"),
            order(),
        ]
        messages = [message(body, f"M-{index}") for index, body in enumerate(bodies)]
        codec = Codec(SHOP)
        found = [told(outcome_of(messages, codec=codec)) for _ in range(3)]
        assert found[0] == found[1] == found[2] == told(outcome_of(messages))
        kept = [row["unknown_fields"] for row in found[0][0]["fact_order_header"]]
        assert kept == [{"new": 1}, {"items": [{"colour": "red"}, {}]}, {}]


def test_values_stand_in_reasons_unless_personal() -> None:
    """Cut, on one line; of what is personal only its type."""
    bodies: list[Body] = [
        order(order_id=number("7" * 500)),
        order(status="x\n" * 100),
        order(customer_name=5),
        order(shipping_address={"street": "", "city": "Paris", "country": "FR"}),
    ]
    assert [one.error for one in outcome_of([message(body) for body in bodies]).letters] == [
        f"$.order_id: expected str, got {'7' * 57}...",
        "$.status: expected one of pending, processing, shipped, delivered, cancelled, returned, got "
        + repr("x\n" * 30)[:57]
        + "... (200 characters)",
        "$.customer_name: expected str | null, got a number that is personal and not shown",
        "$.shipping_address.street: expected str of length >= 1, got a string that is personal and not shown",
    ]
