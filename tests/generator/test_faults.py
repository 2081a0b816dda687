"""The catalogue of faults of any contract: each is refused for what it names, and for that alone."""

from __future__ import annotations

import copy
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomflow.contract.codec import Codec
from ecomflow.contract.events import Message
from ecomflow.contract.language import Contract
from ecomflow.contract.loading import SHOP, load_text, shop_contracts
from ecomflow.contract.modelling import model
from ecomflow.generator.bodies import Bodies, Run, makers_of
from ecomflow.generator.editing import path_of, replaced, value_at, without
from ecomflow.generator.faults import Fault, expected_stream, faults_of
from ecomflow.generator.messages import encode
from ecomflow.generator.moments import window_before
from ecomflow.generator.rounds import faulty_message, generate, with_fault
from ecomflow.generator.shop import Shop, draw_vocabulary
from tests.contract.test_loading import REFUND
from tests.generator.samples import EVERYTHING, STRICT
from tests.support.any_contract import contracts
from tests.support.contract import property_test
from tests.support.faults import FAULTS, NAMES, spoiled
from tests.support.generator import Breach, find_breach

NOW = datetime(2025, 12, 3, 15, 30, tzinfo=UTC)
SAMPLES = {
    "refund": load_text(REFUND, "refund.toml"),
    "strict": load_text(STRICT, "strict.toml"),
    "everything": load_text(EVERYTHING, "everything.toml"),
    **{contract.event: contract for contract in shop_contracts()},
}
CASES = [
    pytest.param(contract, fault, id=f"{name}-{fault.name}")
    for name, contract in SAMPLES.items()
    for fault in faults_of(contract, [contract.event])
]


def maker_of(contract: Contract) -> Bodies:
    (maker,) = makers_of((contract,), Run(window_before(NOW), 7, "faults", "invalid"))
    return maker


MAKERS = {id(contract): maker_of(contract) for contract in SAMPLES.values()}


def refused(contract: Contract, fault: Fault, maker: Bodies) -> list[tuple[str, str, str]]:
    """Reason and stream of each dead letter that an event with ``fault`` becomes, and the beginning of its error that is as long
    as the path.
    """
    bodies = with_fault(fault, maker)
    assert bodies is not None
    data, attributes = faulty_message(fault, bodies[1], contract.event, "E-1", "2025-12-01T10:15:30Z")
    decoded = Codec([contract]).decode([Message(data, attributes, "M-1", 0)], NOW)
    return [
        (letter.reason, facts.stream, letter.error[: len(fault.path) + 2])
        for part in decoded.parts
        for facts in [model(part, NOW)]
        for letter in facts.refused
    ]


class TestEachFault:
    @pytest.mark.parametrize(("contract", "fault"), CASES)
    def test_it_is_refused_for_what_it_names(self, contract: Contract, fault: Fault) -> None:
        """Reason, stream and path of the dead letter are those that it promises, whatever body it is brought to."""
        for _ in range(5):
            found = refused(contract, fault, MAKERS[id(contract)])
            assert found == [(fault.reason, expected_stream(fault, contract.event), f"{fault.path}: ")]

    @pytest.mark.slow
    @property_test(100)
    @given(contracts(), st.integers(0, 2**63))
    def test_it_is_refused_for_what_it_names_under_any_contract(self, contract: Contract, seed: int) -> None:
        """Every fault of a contract of any make."""
        (maker,) = makers_of((contract,), Run(window_before(NOW), seed, "any", "invalid"))
        for fault in faults_of(contract, [contract.event]):
            found = refused(contract, fault, maker)
            assert found == [(fault.reason, expected_stream(fault, contract.event), f"{fault.path}: ")], fault.name

    @pytest.mark.parametrize(("contract", "fault"), CASES)
    def test_it_leaves_the_body_as_it_was(self, contract: Contract, fault: Fault) -> None:
        """Corrupting is pure: the body given is still the valid one, and the same body gives the same."""
        if fault.stage != "body":
            return
        body = MAKERS[id(contract)].make_full()
        before = copy.deepcopy(encode(body))
        assert encode(fault.corrupt(body)) == encode(fault.corrupt(body)) != encode(body)
        assert encode(body) == before

    @pytest.mark.parametrize(("fault", "event_type"), FAULTS, ids=NAMES)
    def test_of_the_shop_breaks_the_written_contract(self, fault: Fault, event_type: str) -> None:
        """An independent reading of the shop's contract gives the fault's reason and path for any event of the type."""
        shop = Shop(draw_vocabulary(), window_before(NOW), seed="faults", identity="faults")
        for _ in range(10):
            data = spoiled(fault, {**getattr(shop, event_type)(), "event_type": event_type})
            assert find_breach(data, NOW.date()) == Breach(fault.reason, fault.path)


class TestCatalogue:
    @pytest.mark.parametrize("contract", SAMPLES.values(), ids=SAMPLES)
    def test_names_are_unique(self, contract: Contract) -> None:
        """A fault is known by its name, made of letters, digits and _."""
        names = [fault.name for fault in faults_of(contract, [contract.event])]
        assert len(set(names)) == len(names) > 20
        assert all(name.isidentifier() for name in names)

    @pytest.mark.parametrize("contract", SAMPLES.values(), ids=SAMPLES)
    def test_every_reason_that_decoding_gives_is_there(self, contract: Contract) -> None:
        """The catalogue reaches all four reasons for which a message is refused on sight, for each type."""
        reasons = {"malformed_json", "unknown_event_type", "contract_violation", "out_of_range"}
        assert {fault.reason for fault in faults_of(contract, [contract.event])} == reasons

    @pytest.mark.parametrize(
        "name",
        [
            *("missing_code", "null_code", "code_as_number", "malformed_code", "code_too_short", "code_too_long"),
            *("bad_kind", "count_too_small", "count_too_large", "count_overflow", "fractional_count", "amount_too_precise"),
            *(
                "amount_too_wide",
                "amount_as_text",
                "negative_lines_price",
                "empty_lines",
                "lines_too_many",
                "bad_address",
                "bad_day",
            ),
            *("is_new_as_text", "weight_too_wide", "weight_too_large", "bad_at", "at_without_offset", "at_too_old"),
            *("at_in_leap_second", "at_in_far_future", "number_as_text", "reference_as_boolean", "quantity_x_price_too_large"),
            *("unknown_field", "unknown_field_in_lines_element", "unknown_field_in_customer", "missing_customer"),
            *("broken_total_is_the_sum", "broken_rule_2", "broken_bounds", "tags_element_as_number", "nan_count"),
        ],
    )
    def test_whatever_a_contract_says_has_its_fault(self, name: str) -> None:
        """By type, bound, length, pattern, list, record, path, rule and product."""
        assert name in [fault.name for fault in faults_of(SAMPLES["everything"], ["everything"])]

    def test_every_fault_comes_in_turn(self) -> None:
        """Each fault occurs with each type to which it applies within as many rounds as there are faults, whatever the seed."""
        catalogue = {contract.event: {fault.name for fault in faults_of(contract, SHOP)} for contract in shop_contracts()}
        for seed in range(3):
            seen = defaultdict(set)
            for event in generate(max(map(len, catalogue.values())), seed=seed, now=NOW):
                seen[event.event_type].add(event.fault)
            assert seen == {event_type: {None, *names} for event_type, names in catalogue.items()}

    def test_a_generated_event_carries_what_its_fault_expects(self) -> None:
        """Name, reason and stream of an invalid event are those of the catalogue, and its bytes are in breach of the contract."""
        catalogue = {(event_type, fault.name): fault for fault, event_type in FAULTS}
        for event in generate(60, seed=3, now=NOW):
            breach = find_breach(event.data, NOW.date())
            if event.fault is None:
                assert (breach, event.expected_reason, event.expected_stream) == (None, None, event.event_type)
                continue
            fault = catalogue[event.event_type, event.fault]
            assert breach == Breach(fault.reason, fault.path)
            assert (event.expected_reason, event.expected_stream) == (fault.reason, expected_stream(fault, event.event_type))

    def test_an_unknown_type_is_none_of_those_in_force(self) -> None:
        """Whatever events there are, the fault's type is another."""
        events = ["refund", "teleport", "teleport_2"]
        (fault,) = (one for one in faults_of(SAMPLES["refund"], events) if one.name == "unknown_event_type")
        assert fault.corrupt("refund") == "teleport_3"


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

    def test_value_at_reads_a_place(self) -> None:
        """None where there is nothing."""
        places = [("a", 1, "b"), (), ("a", 2), ("c", "d", "e"), ("a", "b"), ("c", 0)]
        assert [value_at(self.BODY, keys) for keys in places] == [2, self.BODY, None, None, None, None]

    def test_path_of_writes_keys_as_a_path(self) -> None:
        """Names are joined by dots, positions stand in brackets."""
        assert path_of(("items", 0, "price")) == "$.items[0].price"
        assert path_of(()) == "$"
