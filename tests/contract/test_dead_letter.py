"""The dead letter: a refused message in, one JSON line that holds all of it out, and the very same message back."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomflow import __version__
from ecomflow.contract.dead_letter import DeadLetter, dead_letter, from_line, original, to_lines
from ecomflow.contract.events import Message
from tests.support.contract import NOW, PUBLISHED, inventory, message, order, outcome_of, property_test

# The fields as specified, written out once more.
FIELDS = [
    "reason",
    "error",
    "event_type",
    "event_id",
    "message_id",
    "publish_time",
    "attributes",
    "payload",
    "payload_encoding",
    "failed_at",
    "pipeline_version",
]


def dead_letter_of(data: bytes, **attributes: str) -> DeadLetter:
    return dead_letter(message(data, **attributes), "malformed_json", "$: none", None, NOW)


class TestFields:
    def test_the_line_has_the_fields_of_the_contract(self) -> None:
        """What was received, why it was refused, when, and by which version."""
        (letter,) = outcome_of([message(inventory(quantity_change="0"), "M-9", event_id="E-9", tenant="é")]).letters
        line = json.loads(to_lines([letter]))
        assert list(line) == FIELDS
        assert line == {
            "reason": "contract_violation",
            "error": "$.quantity_change: expected int, got '0'",
            "event_type": "inventory",
            "event_id": "E-9",
            "message_id": "M-9",
            "publish_time": "2025-12-02T10:00:00.123456Z",
            "attributes": {"event_id": "E-9", "tenant": "é"},
            "payload": msgspec.json.encode(inventory(quantity_change="0")).decode(),
            "payload_encoding": "utf-8",
            "failed_at": "2025-12-10T12:00:00Z",
            "pipeline_version": __version__,
        }

    def test_an_ordering_key_is_kept(self) -> None:
        """The line of a message without one has no such field."""
        keyed = msgspec.structs.replace(message(inventory(quantity_change="0")), ordering_key="P-1")
        (letter,) = outcome_of([keyed]).letters
        line = json.loads(to_lines([letter]))
        assert (list(line), line["ordering_key"]) == ([*FIELDS, "ordering_key"], "P-1")
        assert from_line(to_lines([letter])).ordering_key == "P-1"

    def test_what_is_not_known_is_null(self) -> None:
        """No attribute, no type, no message id and no time: null, and an empty object for the attributes."""
        line = json.loads(to_lines([dead_letter(Message(b"{", {}, "", 0), "malformed_json", "$: none", None, NOW)]))
        assert [name for name in FIELDS if line[name] is None] == ["event_type", "event_id", "message_id", "publish_time"]
        assert line["attributes"] == {}

    @given(st.integers(1, 4_102_444_800_000_000))
    @property_test(200)
    def test_the_publish_time_keeps_its_microseconds(self, microseconds: int) -> None:
        """From the epoch to the year 2100, to the microsecond."""
        letter = dead_letter(Message(b"", {}, "M", microseconds), "malformed_json", "", None, NOW)
        assert letter.publish_time is not None
        elapsed = letter.publish_time - datetime(1970, 1, 1, tzinfo=UTC)
        assert (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds == microseconds

    @pytest.mark.parametrize("event_type", [None, "refund", "", "Order", "unknown", "../../order"])
    def test_its_stream_is_a_type_of_the_contract_or_unknown(self, event_type: str | None) -> None:
        """What a message calls itself is told, and never becomes a stream unless a contract knows it."""
        outcome = outcome_of([message({"event_type": event_type} if event_type is not None else {})])
        (letter,) = outcome.letters
        assert (letter.event_type, outcome.stream) == (event_type, "unknown")


class TestRoundTrip:
    @given(
        st.binary(max_size=60) | st.text(max_size=30).map(str.encode),
        st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
        st.text(max_size=40),
    )
    @property_test(200)
    def test_the_very_bytes_and_attributes_come_back(self, data: bytes, attributes: dict[str, str], error: str) -> None:
        """Whatever the payload, through the line in the bucket and back."""
        letter = dead_letter(Message(data, attributes, "M-1", PUBLISHED), "processing_error", error, "order", NOW)
        back = from_line(to_lines([letter]).rstrip(b"\n"))
        assert back == letter
        assert original(back) == (data, attributes)

    @pytest.mark.parametrize("data", [b"", b"{}", "é \u2028 \x00 \ufeff".encode(), b"\xef\xbb\xbf{}"])
    def test_text_is_kept_as_text(self, data: bytes) -> None:
        """What is UTF-8 stays readable, a BOM and NUL bytes with it."""
        letter = dead_letter_of(data)
        assert (letter.payload_encoding, letter.payload) == ("utf-8", data.decode())
        assert original(letter)[0] == data

    @pytest.mark.parametrize("data", [b"\xff", b'{"a":"\xfc"}', b"\xed\xa0\x80", b"\xc0\x80", "{}".encode("utf-16")])
    def test_bytes_that_are_no_text_are_kept_in_base64(self, data: bytes) -> None:
        """Other encodings, surrogates and overlong forms."""
        letter = dead_letter_of(data)
        assert (letter.payload_encoding, letter.payload) == ("base64", base64.b64encode(data).decode())
        assert original(letter)[0] == data


class TestLines:
    def test_one_letter_is_one_line(self) -> None:
        """Line breaks of any kind within a payload, an attribute or an error stay within the line."""
        breaks = "\n \r\n \r \x0b \x0c \x1c \x85 \u2028 \u2029"
        letters = [
            dead_letter(message(breaks.encode(), "M", **{breaks: breaks}), "unknown_event_type", breaks, breaks, NOW),
            dead_letter_of(b"\n\n"),
            dead_letter_of(b"\n\xff\n"),
        ]
        lines = to_lines(letters)
        assert lines.count(b"\n") == len(lines.splitlines()) == 3
        assert [from_line(line) for line in lines.splitlines()] == letters

    def test_no_letters_are_no_lines(self) -> None:
        """Nothing in, nothing out."""
        assert to_lines([]) == b""

    @pytest.mark.parametrize(
        "line", [b"", b"{}", b"[]", b'{"reason": "boredom"}', to_lines([dead_letter_of(b"x")])[:-9], b"\xff"]
    )
    def test_a_line_that_is_no_dead_letter_is_an_error(self, line: bytes) -> None:
        """Somebody else's file in the bucket is noticed."""
        with pytest.raises(msgspec.MsgspecError):
            from_line(line)

    def test_a_letter_of_another_version_is_read(self) -> None:
        """A later version may add a field; an unknown reason is refused."""
        line = json.loads(to_lines([dead_letter_of(b"x")]))
        assert from_line(json.dumps({**line, "new": 1, "pipeline_version": "99"}).encode()).pipeline_version == "99"
        with pytest.raises(msgspec.ValidationError):
            from_line(json.dumps({**line, "reason": "boredom"}).encode())


class TestReplayed:
    def test_a_replayed_letter_is_refused_for_the_same_reason(self) -> None:
        """The message that comes back is the one that was refused, its id with it."""
        bodies = [b"{", b"\xff", order(status="odd"), order(total_amount=None), inventory(timestamp="1999-01-01T00:00:00Z")]
        first = outcome_of([message(body, f"M-{n}", event_id=f"E-{n}") for n, body in enumerate(bodies)]).letters
        again = outcome_of([Message(*original(letter), "M-new", 0) for letter in first]).letters
        told = [(letter.reason, letter.error, letter.event_id) for letter in first]
        assert sorted((letter.reason, letter.error, letter.event_id) for letter in again) == sorted(told)
        assert len(told) == len(bodies)
