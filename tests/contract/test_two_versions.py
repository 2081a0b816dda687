"""Two versions of an event at once: which one decodes a message, and rows of both in the same tables."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from apache_beam.internal import pickler
from hypothesis import given, note
from hypothesis import strategies as st

from ecomflow.contract.codec import Codec
from ecomflow.contract.ddl import modelled_schema
from ecomflow.contract.events import Message
from ecomflow.contract.language import Contract
from ecomflow.contract.loading import load_text, mistakes_between
from ecomflow.contract.modelling import model
from ecomflow.contract.tables import tables_of
from tests.support.any_contract import field_specs, objects
from tests.support.compiled import SHOP, compiled, contract_of, only_letter, to_toml
from tests.support.contract import NOW, Body, inventory, message, number, property_test
from tests.support.rebuilding import canonical, encode, rebuilt
from tests.support.two_versions import first, second

VERSIONS = [first(), second()]


def refund(**changes: Any) -> Body:
    return {"event_type": "refund", "at": "2025-12-01T10:15:30Z", "id": "R-1", "amount": number("1.50"), **changes}


def refund_2(**changes: Any) -> Body:
    body = {"event_type": "refund", "at": "2025-12-02T10:15:30Z", "id": "R-2", "currency": "EUR", "note": "x"}
    return {**body, "lines": [{"sku": "A"}, {"sku": "B"}], **changes}


def sent(body: Body, message_id: str = "M-1", **attributes: str) -> Message:
    return message(body, message_id, **attributes)


class TestWhichVersion:
    @pytest.mark.parametrize(
        ("one", "version"),
        [
            (sent(refund()), 1),
            (sent(refund(), event_version=""), 1),
            (sent(refund(event_version=None)), 1),
            (sent(refund(event_version=1)), 1),
            (sent(refund(event_version="1"), event_version="1"), 1),
            (sent(refund_2(event_version=2)), 2),
            (sent(refund_2(event_version="2")), 2),
            (sent(refund_2(), event_version="2"), 2),
            (sent(refund_2(event_version=1), event_version="2"), 2),
        ],
    )
    def test_where_it_stands(self, one: Message, version: int) -> None:
        """The attribute before the field, a number or a text; absent is the lowest. It is no unknown field."""
        decoded = Codec(VERSIONS).decode([one], NOW)
        (part,) = decoded.parts
        assert part.kind is not None
        assert (part.kind.contract.version, part.refused, decoded.drift) == (version, [], {})

    @pytest.mark.parametrize(
        ("one", "error"),
        [
            (sent(refund(event_version=3)), "$.event_version: expected one of 1, 2, got 3"),
            (sent(refund(event_version="v2")), "$.event_version: expected one of 1, 2, got 'v2'"),
            (sent(refund(event_version=True)), "$.event_version: expected one of 1, 2, got true"),
            (sent(refund(event_version=number("2.0"))), "$.event_version: expected one of 1, 2, got 2.0"),
            (sent(refund(event_version={"a": 1})), "$.event_version: expected one of 1, 2, got object"),
            (sent(refund(event_version="")), "$.event_version: expected one of 1, 2, got ''"),
            (sent(refund(), event_version="02"), "$: expected the attribute event_version to be one of 1, 2, got '02'"),
        ],
    )
    def test_an_unknown_one_is_refused(self, one: Message, error: str) -> None:
        """In the event's stream."""
        (part,) = Codec(VERSIONS).decode([one], NOW).parts
        (letter,) = part.refused
        assert (part.stream, letter.reason, letter.error, letter.event_type) == ("refund", "contract_violation", error, "refund")

    def test_each_is_judged_by_its_own_contract(self) -> None:
        """What the one requires, the other does not know."""
        outcome = compiled([sent(refund_2()), sent(refund(), event_version="2")], Codec(VERSIONS))
        assert [one.error for one in outcome.letters] == ["$.amount: required, but missing", "$.currency: required, but missing"]

    def test_an_event_with_one_version_says_what_it_likes(self) -> None:
        """Also beside one with two: its event_version is a field as any other."""
        codec = Codec([*VERSIONS, *SHOP])
        for _ in range(2):
            outcome = compiled(
                [message(inventory(event_version={"a": 9}), event_version="7"), sent(refund_2(), event_version="2")], codec
            )
            assert outcome.letters == []
            assert outcome.rows["fact_inventory"][0]["unknown_fields"] == '{"event_version":{"a":9}}'

    def test_the_lowest_version_need_not_be_one(self) -> None:
        """Versions are compared as numbers."""
        texts = [f'event = "e"\ntime = "at"\nversion = {version}\n[fields]\nat = "timestamp"\n' for version in (10, 9)]
        codec = Codec([load_text(f'{text}[[tables]]\nname = "fact_e"\n', "e.toml") for text in texts])
        body = {"event_type": "e", "at": "2025-12-01T10:15:30Z"}
        assert [part.kind and part.kind.contract.version for part in codec.decode([message(body)], NOW).parts] == [9]
        assert list(codec.kinds["e"]) == [9, 10]
        assert only_letter(compiled([message({**body, "event_version": 1})], codec)).error == (
            "$.event_version: expected one of 9, 10, got 1"
        )


class TestRows:
    def test_both_write_the_same_tables(self) -> None:
        """Null is what a version lacks; a table of one version has rows of that alone."""
        messages = [sent(refund(), "M-1"), sent(refund_2(event_version=2), "M-2"), sent(refund(note="n", colour=1), "M-3")]
        outcome = compiled(messages, Codec(VERSIONS))
        assert outcome.letters == []
        found = [
            [row[name] for name in ("event_id", "id", "amount", "note", "currency", "unknown_fields")]
            for row in outcome.rows["fact_refund"]
        ]
        assert [[str(value) for value in row] for row in found] == [
            ["M-1", "R-1", "1.500000000", "None", "None", "None"],
            ["M-3", "R-1", "1.500000000", "n", "None", '{"colour":1}'],
            ["M-2", "R-2", "None", "x", "EUR", "None"],
        ]
        assert [(row["event_id"], row["sku"]) for row in outcome.rows["fact_refund_line"]] == [("M-2", "A"), ("M-2", "B")]

    def test_rows_have_the_joined_schema(self) -> None:
        """Of either version, so that one writer takes both."""
        joined = {table.name: modelled_schema(table) for table in tables_of(VERSIONS)}
        parts = Codec(VERSIONS).decode([sent(refund(), "M-1"), sent(refund_2(), "M-2", event_version="2")], NOW).parts
        tables = [table for part in parts for table in model(part, NOW).tables]
        assert [table.table for table in tables] == ["fact_refund", "fact_refund", "fact_refund_line"]
        assert all(table.rows.schema == joined[table.table] for table in tables)

    def test_each_learns_its_own_fields(self) -> None:
        """And keeps them."""
        codec = Codec(VERSIONS)
        for _ in range(2):
            rows = compiled([sent(refund(a=1), "M-1"), sent(refund_2(b=2), "M-2", event_version="2")], codec).rows["fact_refund"]
            assert [row["unknown_fields"] for row in rows] == ['{"a":1}', '{"b":2}']
        assert [kind.learned for kind in codec.kinds["refund"].values()] == [{(): ("a",)}, {(): ("b",)}]


@st.composite
def two_versions(draw: st.DrawFn) -> list[Contract]:
    """Two contracts of one event that share fields; each has some of its own, and may require what is optional in the other."""
    records = {"rec": {f"r{n}": draw(field_specs(f"r{n}", False, {})) for n in range(2)}}
    pool = {f"f{n}": draw(field_specs(f"f{n}", True, records)) for n in range(6)}
    made = []
    for version in (1, 2):
        names = draw(st.lists(st.sampled_from(sorted(pool)), unique=True))
        fields = {name: {**pool[name], "optional": draw(st.booleans()) or "default" in pool[name]} for name in names}
        fields["at"] = {"type": "timestamp"}
        used = {name: record for name, record in records.items() if any(spec.get("of") == name for spec in fields.values())}
        lists = [name for name, spec in fields.items() if spec["type"] == "list"]
        tables = [{"name": "fact_any"}, *({"name": f"fact_{name}", "each": name} for name in lists)]
        parts: dict[str, Any] = {
            "event": "any",
            "version": version,
            "time": "at",
            "fields": fields,
            "records": used,
            "tables": tables,
        }
        text = "\n".join(f"{key} = {to_toml(part)}" for key, part in parts.items())
        note(text)
        made.append(load_text(text, f"any.v{version}.toml"))
    assert mistakes_between(made) == []
    return made


class TestNothingIsLost:
    @pytest.mark.slow
    @property_test(150)
    @given(st.data())
    def test_documents_of_mixed_versions_are_rebuilt_from_their_rows(self, data: st.DataObject) -> None:
        """Of either version, in one batch, by a codec that has met their unknown fields and by one that has not."""
        versions = data.draw(two_versions())
        events = data.draw(
            st.lists(st.sampled_from(versions).flatmap(lambda one: st.tuples(st.just(one), objects(one, one.fields))), max_size=4)
        )
        messages = []
        for index, (contract, event) in enumerate(events):
            event["event_type"] = "any"
            if data.draw(st.booleans()):
                event["zz"] = index
            messages.append(message(encode(event), f"M-{index}", event_version=str(contract.version)))
        codec = Codec(versions)
        for _ in range(2):
            outcome = compiled(messages, codec)
            assert [letter.error for letter in outcome.letters] == []
            for index, (contract, event) in enumerate(events):
                assert rebuilt(outcome, contract, f"M-{index}") == canonical(event, contract.fields, contract)


class TestLeavingTheProcess:
    @pytest.mark.parametrize("pickled", [pickle, pickler], ids=["pickle", "beam"])
    def test_a_batch_survives_pickling(self, pickled: Any) -> None:
        """It travels as messages; the other process decodes them again, and makes the same rows and dead letters of them."""
        bodies = [refund(new=1), refund(id=5), refund_2(event_version=2), inventory()]
        codec = Codec([*VERSIONS, *SHOP])
        parts = codec.decode([sent(body, f"M-{n}") for n, body in enumerate(bodies)], NOW).parts
        other = Codec([*VERSIONS, *SHOP])
        for part in parts:
            restored = other.restored(pickled.loads(pickled.dumps(part)))
            assert [table.rows for table in model(restored, NOW).tables] == [table.rows for table in model(part, NOW).tables]
            assert (restored.stream, restored.event_ids, restored.refused) == (part.stream, part.event_ids, part.refused)

    def test_what_is_whole_is_left_as_it_is(self) -> None:
        """A batch with events, and one of refused messages alone."""
        codec = Codec([contract_of('[fields]\nat = "timestamp"\n')])
        parts = codec.decode([message({"event_type": "refund", "at": "2025-12-01T10:15:30Z"}), message({})], NOW).parts
        assert [part.stream for part in parts] == ["refund", "unknown"]
        assert all(codec.restored(part) is part for part in parts)
