"""For contracts of any make: what passes can be rebuilt from its rows, what is refused is refused for the right place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomflow.contract.codec import Codec
from ecomflow.contract.language import Contract, Field, records_of
from tests.support.any_contract import ANY_JSON, contracts, objects
from tests.support.compiled import compiled
from tests.support.contract import message, property_test
from tests.support.rebuilding import canonical, encode, rebuilt

Json = Any


def places(value: Json, fields: tuple[Field, ...], contract: Contract) -> Iterator[dict[str, Json]]:
    """The objects of ``value`` that the contract names: where unknown fields may stand."""
    yield value
    records = records_of(contract.records)
    for field in fields:
        at = value
        for key in field.path[:-1]:
            at = at.get(key) if isinstance(at, dict) else None
            if isinstance(at, dict):
                yield at
        part = at.get(field.path[-1]) if isinstance(at, dict) else None
        if field.of in records and isinstance(part, dict):
            yield from places(part, records[field.of].fields, contract)
        elif field.of in records and isinstance(part, list):
            for one in part:
                yield from places(one, records[field.of].fields, contract)


@st.composite
def contracts_with_events(draw: st.DrawFn) -> tuple[Contract, list[dict[str, Json]]]:
    """A contract and valid events of it, with unknown fields at any place."""
    contract = draw(contracts())
    events = draw(st.lists(objects(contract, contract.fields), min_size=1, max_size=3))
    for event in events:
        known = {key for field in all_fields(contract) for key in field.path}
        for place in places(event, contract.fields, contract):
            new = draw(st.dictionaries(st.text(st.characters(blacklist_categories=("Cs",)), max_size=3), ANY_JSON, max_size=2))
            place.update({key: part for key, part in new.items() if key not in known and key != "event_type"})
        event["event_type"] = contract.event
    return contract, events


def all_fields(contract: Contract) -> Iterator[Field]:
    yield from contract.fields
    for record in contract.records:
        yield from record.fields


class TestNothingIsLost:
    @pytest.mark.slow
    @property_test(250)
    @given(contracts_with_events())
    def test_a_valid_document_is_rebuilt_from_its_rows(self, made: tuple[Contract, list[dict[str, Json]]]) -> None:
        """Every known and every unknown field, by a codec that has not met it and by one that has."""
        contract, events = made
        codec = Codec([contract])
        messages = [message(encode(event), f"M-{n}") for n, event in enumerate(events)]
        for _ in range(2):
            outcome = compiled(messages, codec)
            assert [letter.error for letter in outcome.letters] == []
            for number, event in enumerate(events):
                assert rebuilt(outcome, contract, f"M-{number}") == canonical(event, contract.fields, contract)


WRONG: dict[str, Json] = {"json": None}


@st.composite
def contracts_with_a_fault(draw: st.DrawFn) -> tuple[Contract, dict[str, Json], str]:
    """A contract, an event of it in which one value is wrong, and the path of that."""
    contract = draw(contracts())
    event = draw(objects(contract, contract.fields))
    event["event_type"] = contract.event
    ways = list(faults(event, contract.fields, contract, "$"))
    path, spoil = draw(st.sampled_from(ways))
    spoil()
    return contract, event, path


def faults(
    value: dict[str, Json], fields: tuple[Field, ...], contract: Contract, start: str
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every place of ``value`` that can be made wrong, and how."""
    records = records_of(contract.records)
    for field in fields:
        at: Json = value
        for key in field.path[:-1]:
            at = at.get(key) if isinstance(at, dict) else None
        if not isinstance(at, dict) or at.get(field.path[-1]) is None:
            continue
        key, path = field.path[-1], start + "".join(f".{key}" for key in field.path)
        if not field.optional:
            yield path, lambda at=at, key=key: at.pop(key)  # type: ignore[misc]
            yield path, lambda at=at, key=key: at.update({key: None})  # type: ignore[misc]
        if field.type not in ("json", "record"):
            yield path, lambda at=at, key=key: at.update({key: {"wrong": 1}})  # type: ignore[misc]
        if field.of in records:
            for index, one in enumerate(at[key] if isinstance(at[key], list) else [at[key]]):
                step = f"[{index}]" if isinstance(at[key], list) else ""
                yield from faults(one, records[field.of].fields, contract, path + step)


class TestReasons:
    @pytest.mark.slow
    @property_test(250)
    @given(contracts_with_a_fault())
    def test_the_reason_names_the_place(self, made: tuple[Contract, dict[str, Json], str]) -> None:
        """The path of what is wrong, and a contract_violation of the event's own stream."""
        contract, event, path = made
        outcome = compiled([message(encode(event))], contracts=[contract])
        assert outcome.rows == {}
        (letter,) = outcome.letters
        assert (letter.reason, letter.event_type) == ("contract_violation", "any")
        assert letter.error.startswith(f"{path}: ")
