"""What Pub/Sub takes of a message, and messages in as many requests as it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from google.api_core.exceptions import InvalidArgument

from ecomflow.config import Endpoints, Settings
from ecomflow.contract.events import Message
from ecomflow.gcp.publishing import requests_of, topic_sender, unpublishable, without_tracing
from ecomflow.gcp.target import Target
from tests.support.local_pubsub import Clients, clients_of_server


def sent(data: bytes = b"{}", attributes: dict[str, str] | None = None, key: str = "", number: int = 0) -> Message:
    return Message(data, {} if attributes is None else attributes, str(number), 0, key)


REFUSED: list[tuple[Message, str]] = [
    (sent(b""), "expected data or an attribute, got neither"),
    (sent(attributes={f"a{n}": "" for n in range(101)}), "expected at most 100 attributes, got 101"),
    (sent(attributes={"": "x"}), "expected names of attributes of 1 to 256 bytes, got ''"),
    (
        sent(attributes={"é" * 129: "x"}),
        f"expected names of attributes of 1 to 256 bytes, got '{'é' * 56}... (129 characters)",
    ),
    (sent(attributes={"a": "é" * 513}), "expected values of attributes of at most 1,024 bytes, got 1,026 in 'a'"),
    (
        sent(attributes={"GooGle": "x"}),
        "expected no attribute whose name begins with goog, which Pub/Sub reserves, got 'GooGle'",
    ),
    (sent(key="é" * 513), "expected an ordering key of at most 1,024 bytes, got 1,026"),
]
TAKEN = [
    sent(b"", {"a": ""}),
    sent(attributes={f"a{n}": "" for n in range(100)}),
    sent(attributes={"x" * 256: "y" * 1024, "goo": "", "xgoog": ""}),
    sent(key="x" * 1024),
]


class TestUnpublishable:
    @pytest.mark.parametrize(("message", "error"), REFUSED)
    def test_each_limit_has_its_sentence(self, message: Message, error: str) -> None:
        """What was expected, and what it has."""
        assert unpublishable(message) == error

    @pytest.mark.parametrize("message", TAKEN)
    def test_the_limits_themselves_are_taken(self, message: Message) -> None:
        """Each of them in full."""
        assert unpublishable(message) is None

    def test_ten_megabytes_are_the_most(self) -> None:
        """With attributes, and what the encoding adds."""
        assert unpublishable(sent(b"x" * 9_999_000)) is None
        error = unpublishable(sent(b"x" * 9_999_000, {"a": "x" * 1000}))
        assert error is not None
        assert error.startswith("expected at most 10,000,000 bytes with attributes, got 10,000,0")

    def test_traces_are_told_apart_from_what_is_reserved(self) -> None:
        """The clients' own names, and only those."""
        attributes = {"googclient_traceparent": "00-1", "Googclient_x": "1", "a": "b"}
        assert without_tracing(attributes) == {"Googclient_x": "1", "a": "b"}
        assert without_tracing({"a": "b"}) == {"a": "b"}


class TestRequestsOf:
    def test_a_request_has_one_ordering_key(self) -> None:
        """Those of a key in their order, those without one together."""
        messages = [sent(key=key, number=number) for number, key in enumerate(["a", "", "b", "a", "", "a"])]
        found = [[message.message_id for message in request] for request in requests_of(messages)]
        assert found == [["0", "3", "5"], ["1", "4"], ["2"]]

    def test_no_more_messages_and_bytes_than_are_taken(self) -> None:
        """1,000 messages; 9 MB with their attributes, of which a message may have 100 KB."""
        assert [len(request) for request in requests_of([sent()] * 2500)] == [1000, 1000, 500]
        heavy = sent(attributes={f"a{n}": "x" * 1024 for n in range(90)})
        assert [len(request) for request in requests_of([heavy] * 200)] == [95, 95, 10]
        assert [len(request) for request in requests_of([sent(b"x" * 8_000_000)] * 2)] == [1, 1]

    def test_nothing_makes_no_request(self) -> None:
        """Pub/Sub would refuse an empty one."""
        assert list(requests_of([])) == []


class TestEmbeddedPubSub:
    """The embedded service takes what is said to be taken, and refuses the rest."""

    @pytest.fixture
    def clients(self, tmp_path: Path) -> Iterator[Clients]:
        with clients_of_server(tmp_path) as found:
            yield found

    def test_it_agrees(self, clients: Clients) -> None:
        """Message by message; each that it takes arrives as it was sent."""
        settings = Settings()
        clients.create(settings.topic_path, settings.subscription_path)
        with topic_sender(Target(settings, Endpoints(pubsub=clients.host))) as sender:
            for message, _ in REFUSED:
                with pytest.raises(InvalidArgument):
                    sender.send([message])
            for message in TAKEN:
                assert len(sender.send([message])) == 1
        arrived = [one.message for one in clients.pull(subscription=settings.subscription_path)]
        found = [(one.data, dict(one.attributes), one.ordering_key) for one in arrived]
        expected = [(one.data, one.attributes, one.ordering_key) for one in TAKEN]
        assert sorted(found, key=str) == sorted(expected, key=str)
