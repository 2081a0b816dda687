"""The catalogue of faults: each breaks the rule that it names, and only that."""

from __future__ import annotations

import copy
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import pytest

from ecomflow.generator.faults import CATALOGUE, Fault, encode, expected_stream, faults_of, path_of, replaced, without
from ecomflow.generator.rounds import generate
from ecomflow.generator.shop import Shop, draw_vocabulary, window_before
from tests.support.generator import Breach, find_breach

NOW = datetime(2025, 12, 3, 15, 30, tzinfo=UTC)
TYPES = ("order", "inventory", "user_activity")
CASES = [
    pytest.param(fault, event_type, id=f"{fault.name}-{event_type}") for fault in CATALOGUE for event_type in fault.applies_to
]


@pytest.fixture
def shop() -> Shop:
    return Shop(draw_vocabulary(), window_before(NOW), seed="faults", identity="faults")


@pytest.mark.parametrize(("fault", "event_type"), CASES)
class TestEachFault:
    def test_it_breaks_the_rule_that_it_names(self, shop: Shop, fault: Fault, event_type: str) -> None:
        """An independent reading of the contract gives the fault's reason and path for any event of the type."""
        for _ in range(20):
            data = fault.corrupt(getattr(shop, event_type)())
            assert find_breach(data, NOW.date()) == Breach(fault.reason, fault.path)

    def test_it_leaves_the_body_as_it_was(self, shop: Shop, fault: Fault, event_type: str) -> None:
        """Corrupting is pure: the body given is still the valid one, and the same body gives the same bytes."""
        body: dict[str, Any] = getattr(shop, event_type)()
        before = copy.deepcopy(body)
        assert fault.corrupt(body) == fault.corrupt(body) != encode(body)
        assert encode(body) == encode(before)

    def test_its_stream_is_the_type_that_is_still_known(self, shop: Shop, fault: Fault, event_type: str) -> None:
        """Malformed JSON and unknown types land in ``unknown``, anything else with its type."""
        readable = fault.reason in ("contract_violation", "out_of_range")
        assert expected_stream(fault, event_type) == (event_type if readable else "unknown")


class TestCatalogue:
    def test_names_are_unique(self) -> None:
        """A fault is known by its name."""
        assert len({fault.name for fault in CATALOGUE}) == len(CATALOGUE) >= 15

    def test_every_reason_that_decoding_gives_is_there(self) -> None:
        """The catalogue reaches all four reasons for which a message is refused on sight, for each type."""
        reasons = {"malformed_json", "unknown_event_type", "contract_violation", "out_of_range"}
        assert [{fault.reason for fault in faults_of(event_type)} for event_type in TYPES] == [reasons] * 3

    def test_thirty_rounds_show_every_fault(self) -> None:
        """Each fault occurs with each type to which it applies within 30 rounds, whatever the seed."""
        for seed in range(5):
            seen = defaultdict(set)
            for event in generate(30, seed=seed, now=NOW):
                seen[event.event_type].add(event.fault)
            expected = {event_type: {None, *(fault.name for fault in faults_of(event_type))} for event_type in TYPES}
            assert seen == expected

    def test_a_generated_event_carries_what_its_fault_expects(self) -> None:
        """Name, reason and stream of an invalid event are those of the catalogue, and its bytes are in breach of the contract."""
        for event in generate(60, seed=3, now=NOW):
            breach = find_breach(event.data, NOW.date())
            if event.fault is None:
                assert (breach, event.expected_reason, event.expected_stream) == (None, None, event.event_type)
                continue
            (fault,) = (fault for fault in CATALOGUE if fault.name == event.fault)
            assert breach == Breach(fault.reason, fault.path)
            assert (event.expected_reason, event.expected_stream) == (fault.reason, expected_stream(fault, event.event_type))


class TestEditing:
    BODY: dict[str, Any] = {"a": [{"b": 1}, {"b": 2}], "c": {"d": 3}}  # noqa: RUF012 (never changed: that is what the tests show)

    def test_replaced_changes_one_place(self) -> None:
        """The value at the path is another, all the rest is as before."""
        assert replaced(self.BODY, ("a", 1, "b"), 9) == {"a": [{"b": 1}, {"b": 9}], "c": {"d": 3}}
        assert self.BODY["a"][1] == {"b": 2}

    def test_without_removes_one_field(self) -> None:
        """The field at the path is gone, all the rest is as before."""
        assert without(self.BODY, ("c", "d")) == {"a": [{"b": 1}, {"b": 2}], "c": {}}
        assert self.BODY["c"] == {"d": 3}

    def test_path_of_writes_keys_as_a_path(self) -> None:
        """Names are joined by dots, positions stand in brackets."""
        assert path_of(("items", 0, "price")) == "$.items[0].price"
        assert path_of(()) == "$"
