"""Lines of a file: which of them are data, and which are whole messages."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from ecomflow.contract.dead_letter import dead_letter, to_lines
from ecomflow.contract.events import Message
from ecomflow.contract.lines import message_on, read_lines
from ecomflow.contract.nesting import MAX_DEPTH
from ecomflow.generator.rounds import dry_run_line, generate

NOW = datetime(2025, 12, 3, 15, 30, tzinfo=UTC)
BODY = b'{"event_type":"order","order_id":"O-1"}'
ATTRIBUTES = {"event_id": "E-1"}
DATA = [BODY, b"[]", b"no JSON", b'{"attributes":{"a":"b"}}', b"\xff\xfe", b'{"attributes":{},"data":{},"event_type":"order"}']


def line(**parts: Any) -> bytes:
    return json.dumps(parts).encode()


class TestData:
    @pytest.mark.parametrize("data", DATA)
    @pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
    def test_a_line_without_attributes_of_its_own_is_data(self, data: bytes, end: bytes) -> None:
        """Its very bytes, without the end of line, whatever they are."""
        assert message_on(data + end, 7) == Message(data, {}, "7", 0)

    @pytest.mark.parametrize("attributes", [{"a": 1}, [], None, "x"])
    def test_attributes_that_are_no_object_of_strings_are_data(self, attributes: Any) -> None:
        """Such a line is an event that has a field of this name."""
        data = line(data={}, attributes=attributes)
        assert message_on(data, 1) == Message(data, {}, "1", 0)


class TestMessages:
    def test_every_form_has_its_ordering_key(self) -> None:
        """As ``publish --dry-run`` and ``dlq export`` write it, and as Pub/Sub's API and its clients do."""
        event = next(generate(1, seed=7, now=NOW))
        refused = dead_letter(Message(BODY, ATTRIBUTES, "M-1", 0, "K-1"), "malformed_json", "$: expected", None, NOW)
        lines = [
            dry_run_line(msgspec.structs.replace(event, ordering_key="K-1")).encode(),
            to_lines([refused]),
            line(data=BODY.decode(), attributes=ATTRIBUTES, orderingKey="K-1"),
            line(data=BODY.decode(), attributes=ATTRIBUTES, ordering_key="K-1"),
        ]
        assert [message.ordering_key for message in read_lines(lines)] == ["K-1"] * 4

    def test_what_has_no_ordering_key_does_not_say_so(self) -> None:
        """A dead letter's line, and that of a dry run, are as they were before messages had keys."""
        refused = dead_letter(Message(BODY, ATTRIBUTES, "M-1", 0), "malformed_json", "$: expected", None, NOW)
        written = (to_lines([refused]), dry_run_line(next(generate(1, seed=7, now=NOW))).encode())
        assert all(b"ordering_key" not in one for one in written)
        assert [message.ordering_key for message in read_lines(written)] == ["", ""]

    @pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1])
    def test_an_event_may_be_as_deep_as_anywhere(self, depth: int) -> None:
        """The message around it is a level of its own; what is deeper is data, on every version of Python."""
        data = b"[" * depth + b"]" * depth
        found = message_on(b'{"data":' + data + b',"attributes":{"a":"b"}}', 1)
        assert (found.data == data, found.attributes == {"a": "b"}) == (depth == MAX_DEPTH,) * 2

    def test_every_line_of_a_dry_run_is_its_message(self) -> None:
        """Data and attributes of valid and invalid events, UTF-8 or not, byte by byte."""
        events = list(generate(60, seed=7, now=NOW))
        lines = [dry_run_line(event).encode() + b"\n" for event in events]
        found = [(message.data, message.attributes) for message in read_lines(lines)]
        assert found == [(event.data, event.attributes) for event in events]

    @pytest.mark.parametrize("data", DATA)
    def test_a_dead_letter_is_the_message_that_was_refused(self, data: bytes) -> None:
        """As ``dlq export`` writes it, in UTF-8 or in base64."""
        letter = dead_letter(Message(data, ATTRIBUTES, "M-1", 0), "malformed_json", "$: expected", None, NOW)
        assert message_on(to_lines([letter]), 3) == Message(data, ATTRIBUTES, "3", 0)

    @pytest.mark.parametrize(
        "data", [{"event_type": "order", "order_id": "O-1"}, BODY.decode(), base64.b64encode(BODY).decode()], ids=str
    )
    def test_data_and_attributes_are_a_message(self, data: Any) -> None:
        """The data as the event itself, as its text or in base64, as Pub/Sub's own tools show it."""
        (found,) = read_lines([line(data=data, attributes=ATTRIBUTES, messageId="17")])
        assert json.loads(found.data) == json.loads(BODY)
        assert found.attributes == ATTRIBUTES


def test_blank_lines_are_passed_over() -> None:
    """A message is named by the number of its line in the file."""
    assert [message.message_id for message in read_lines([b"\n", BODY, b"", b"  \r\n", BODY])] == ["2", "5"]
