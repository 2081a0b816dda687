"""Events of a file: their very messages, and what the ledger must know of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest

from ecomflow.contract.dead_letter import dead_letter, to_lines
from ecomflow.contract.envelope import CLOUDEVENTS
from ecomflow.contract.events import Message
from ecomflow.contract.loading import load_text, shop_contracts
from ecomflow.errors import EcomflowError
from ecomflow.generator.recorded import PassedOver, recorded_events
from ecomflow.generator.rounds import dry_run_line, generate
from tests.contract.test_loading import REFUND
from tests.support.contract import encoded, order

NOW = datetime(2025, 12, 3, 15, 30, tzinfo=UTC)
REFUNDS = load_text(REFUND, "refund.toml")
IN_FORCE = [*shop_contracts(), REFUNDS]


class TestMessages:
    def test_a_dry_run_is_published_as_it_was_printed(self) -> None:
        """Data and attributes of each event, and the type and items of the valid ones."""
        events = list(generate(80, seed=7, now=NOW, contracts=IN_FORCE))
        found = list(recorded_events([dry_run_line(event).encode() for event in events], IN_FORCE))
        assert [(one.data, one.attributes) for one in found] == [(one.data, one.attributes) for one in events]
        assert [one for one, event in zip(found, events, strict=True) if event.fault is None] == [
            event for event in events if event.fault is None
        ]
        assert {one.fault for one in found} == {None}

    def test_a_dead_letter_is_published_as_it_was_refused(self) -> None:
        """As ``dlq export`` writes it, with the attributes of the message."""
        letter = dead_letter(Message(b"\xff", {"event_id": "E-1", "a": "b"}, "M-1", 0), "malformed_json", "$: x", None, NOW)
        (found,) = recorded_events([to_lines([letter])], IN_FORCE)
        assert (found.data, found.attributes, found.event_type) == (b"\xff", {"event_id": "E-1", "a": "b"}, "unknown")

    def test_the_ordering_key_goes_along(self) -> None:
        """From a dead letter to the message, and to the line of a dry run."""
        letter = dead_letter(Message(b"{}", {"event_id": "E-1"}, "M-1", 0, "K-1"), "malformed_json", "$: x", None, NOW)
        (found,) = recorded_events([to_lines([letter])], IN_FORCE)
        (again,) = recorded_events([dry_run_line(found).encode()], IN_FORCE)
        assert found.ordering_key == again.ordering_key == "K-1"

    def test_attributes_of_a_trace_stay_behind(self) -> None:
        """They are of the publication that a line was read from."""
        attributes = {"event_id": "E-1", "googclient_traceparent": "00-1", "googclient_x-cloud-trace-context": "1"}
        (found,) = recorded_events([json.dumps({"data": {}, "attributes": attributes}).encode()], IN_FORCE)
        assert found.attributes == {"event_id": "E-1"}

    def test_what_pubsub_would_refuse_is_passed_over(self) -> None:
        """By the number of its line; the others are published. A caller that does not ask is told by an error."""
        lines = [b"{}\n", b"\n", json.dumps({"data": {}, "attributes": {"Google-Id": "1"}}).encode(), b"{}\n"]
        passed_over: list[PassedOver] = []
        assert len(list(recorded_events(lines, IN_FORCE, passed_over=passed_over))) == 2
        reserved = "expected no attribute whose name begins with goog, which Pub/Sub reserves, got 'Google-Id'"
        assert passed_over == [PassedOver(3, reserved)]
        with pytest.raises(EcomflowError, match="Line 3 can't be published: expected no attribute"):
            list(recorded_events(lines, IN_FORCE))

    def test_bodies_are_given_an_id_each(self) -> None:
        """A new one, a version 4 UUID; an empty one is none."""
        lines = [
            encoded(order()),
            encoded(order()),
            json.dumps({"data": order.__name__, "attributes": {"event_id": ""}}).encode(),
        ]
        ids = [event.attributes["event_id"] for event in recorded_events(lines, IN_FORCE)]
        assert len(set(ids)) == 3
        assert {UUID(one).version for one in ids} == {4}

    def test_an_event_in_an_envelope_keeps_its_id(self) -> None:
        """The ledger names it as the fact tables do: by the id in its envelope, whatever its attribute says."""
        body = b'{"specversion":"1.0","source":"/shop","type":"refund","id":"E-1","data":{}}'
        other = json.dumps({"data": body.decode(), "attributes": {"event_id": "A-1"}}).encode()
        found = list(recorded_events([body, other], IN_FORCE, CLOUDEVENTS))
        assert [(one.event_id, one.attributes["event_id"]) for one in found] == [("E-1", "E-1"), ("E-1", "A-1")]


class TestTypeAndLists:
    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (encoded(order()), ("order", {"items": 2})),
            (b'{"event_type":"inventory"}', ("inventory", {})),
            (b'{"event_type":"order","items":5}', ("order", {"items": 0})),
            (b'{"event_type":"refund","lines":[{}]}', ("refund", {"lines": 1})),
            (b'{"event_type":"quote"}', ("unknown", {})),
            (b'{"event_type":[]}', ("unknown", {})),
            (b"{}", ("unknown", {})),
            (b"[1]", ("unknown", {})),
            (b"no JSON", ("unknown", {})),
            (b'{"event_type":"order","items":[' + b"9" * 5_000 + b"]}", ("unknown", {})),
        ],
    )
    def test_they_are_what_the_message_says(self, data: bytes, expected: tuple[str, dict[str, int]]) -> None:
        """Whatever the message is."""
        (event,) = recorded_events([data], IN_FORCE)
        assert (event.event_type, event.lists) == expected

    def test_the_version_decides_where_the_list_stands(self) -> None:
        """The lowest one where the message says none, or one that is not in force."""
        newer = load_text(
            REFUND.replace("version = 1", "version = 2").replace('of = "line" }', 'of = "line", path = "rows" }'), "2"
        )
        body = {"event_type": "refund", "lines": [{}], "rows": [{}, {}, {}]}
        versions = [{}, {"event_version": "1"}, {"event_version": "2"}, {"event_version": "9"}]
        lines = [json.dumps({"data": body, "attributes": attributes}).encode() for attributes in versions]
        assert [event.lists["lines"] for event in recorded_events(lines, [newer, REFUNDS])] == [1, 1, 3, 1]
