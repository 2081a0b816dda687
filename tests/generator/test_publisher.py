"""The publisher: what arrives at Pub/Sub, what the summary says of it, and what happens when something is in the way."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import grpc
import msgspec
import pytest
from google.pubsub_v1 import PublishRequest, PublishResponse

from ecomflow.config import Endpoints, Settings
from ecomflow.contract.loading import shop_contracts
from ecomflow.errors import AccessError, EcomflowError, NotFoundError, UnavailableError
from ecomflow.gcp.clients import publisher_client, subscriber_client
from ecomflow.gcp.target import Target
from ecomflow.generator.publisher import BATCH_EVENTS, PublishSummary, publish
from ecomflow.generator.recorded import recorded_events
from ecomflow.generator.rounds import GeneratedEvent, generate
from ecomflow.reconciliation.ledger import read_ledger

NOW = datetime(2025, 12, 3, 15, 30, tzinfo=UTC)
SETTINGS = Settings()


@dataclass
class Recorder:
    """Takes publish requests and keeps them; answers request number n with ``codes[n]`` instead where there is one."""

    codes: dict[int, grpc.StatusCode] = field(default_factory=dict)
    requests: list[Any] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)
    calls: int = 0

    def publish(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self.lock:
            self.calls += 1
            code = self.codes.get(self.calls, self.codes.get(-1))
            if code is None:
                first = sum(len(earlier.messages) for earlier in self.requests)
                self.requests.append(request)
        if code is not None:
            context.abort(code, "so it was asked")
        return PublishResponse.pb()(message_ids=[str(first + offset) for offset in range(len(request.messages))])

    @property
    def messages(self) -> list[Any]:
        return [message for request in self.requests for message in request.messages]


@contextmanager
def listening(recorder: Recorder) -> Iterator[Endpoints]:
    method = grpc.unary_unary_rpc_method_handler(
        recorder.publish,
        request_deserializer=PublishRequest.pb().FromString,
        response_serializer=PublishResponse.pb().SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 10**7)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("google.pubsub.v1.Publisher", {"Publish": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield Endpoints(pubsub=f"127.0.0.1:{port}")
    finally:
        server.stop(None).wait()


def run(recorder: Recorder, events: Any, **options: Any) -> PublishSummary:
    with listening(recorder) as endpoints:
        return publish(Target(SETTINGS, endpoints), events, **options)


@contextmanager
def embedded(data_dir: Path, *options: str) -> Iterator[Endpoints]:
    """The embedded Pub/Sub in a process of its own."""
    command = [sys.executable, "-m", "ecomflow.local.pubsub", "--port", "0", "--data-dir", str(data_dir), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Endpoints(pubsub=process.stdout.readline().removeprefix("listening on ").strip())
        finally:
            process.terminate()


def some(rounds: int, **options: Any) -> Iterator[GeneratedEvent]:
    return generate(rounds, seed=7, now=NOW, **options)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


class TestDelivery:
    def test_every_event_arrives_with_its_bytes_and_attributes(self, recorder: Recorder) -> None:
        """What Pub/Sub holds afterwards is what was generated, each once, on the topic of the settings."""
        run(recorder, some(500))
        sent = Counter((event.data, tuple(sorted(event.attributes.items()))) for event in some(500))
        assert Counter((message.data, tuple(sorted(message.attributes.items()))) for message in recorder.messages) == sent
        assert {request.topic for request in recorder.requests} == {"projects/ecomflow-local/topics/ecomflow-events"}

    def test_requests_are_full(self, recorder: Recorder) -> None:
        """Events travel a thousand a request."""
        run(recorder, some(500))
        assert sorted(len(request.messages) for request in recorder.requests) == [BATCH_EVENTS] * 3

    def test_no_events_make_an_empty_summary(self, recorder: Recorder) -> None:
        """Nothing to publish is no failure."""
        summary = run(recorder, iter(()))
        assert (summary.total, summary.valid, summary.invalid, recorder.calls) == (0, {}, {}, 0)

    def test_the_summary_counts_what_was_published(self, recorder: Recorder) -> None:
        """Types, faults, reasons, streams and order items add up to the events generated."""
        summary = run(recorder, some(300))
        events = list(some(300))
        invalid = [event for event in events if event.fault]
        assert summary.total == 1800
        assert summary.valid == summary.invalid == {"order": 300, "inventory": 300, "user_activity": 300}
        assert summary.faults == Counter(event.fault for event in invalid)
        assert summary.reasons == Counter(event.expected_reason for event in invalid)
        assert summary.streams == Counter(event.expected_stream for event in invalid)
        assert summary.items == sum(sum(event.lists.values()) for event in events)
        assert not summary.interrupted

    def test_progress_grows_to_the_total(self, recorder: Recorder) -> None:
        """on_progress gets only confirmed events, never fewer than before, all of them at the end."""
        counts: list[int] = []
        run(recorder, some(1000), on_progress=counts.append)
        assert counts == sorted(counts)
        assert counts[-1] == 6000

    def test_large_messages_share_no_request_that_is_too_large(self, recorder: Recorder) -> None:
        """Pub/Sub takes 10 MB a request; their order stays."""
        lines = [b'{"event_type":"order","n":%d,"text":"%b"}' % (number, b"x" * 1_000_000) for number in range(20)]
        summary = run(recorder, recorded_events(lines, shop_contracts()))
        assert (summary.total, summary.valid) == (20, {"order": 20})
        assert max(request.ByteSize() for request in recorder.requests) < 10**7
        is_the_same = sorted(message.data for message in recorder.messages) == sorted(lines)
        assert is_the_same  # so that no failure prints 20 MB
        assert len(recorder.requests) == 3


class TestOrderingKeys:
    def test_each_key_arrives_in_its_order(self, recorder: Recorder) -> None:
        """Although several requests are in flight: never two of one key. Those without a key share requests of their own."""
        keys = ("a", "", "b")
        events = [msgspec.structs.replace(event, ordering_key=keys[n % 3]) for n, event in enumerate(some(1500))]
        assert run(recorder, events).total == 9000
        assert all(len({message.ordering_key for message in request.messages}) == 1 for request in recorder.requests)
        for key in ("a", "b"):
            sent = [event.event_id for event in events if event.ordering_key == key]
            assert [one.attributes["event_id"] for one in recorder.messages if one.ordering_key == key] == sent


class TestLedger:
    def test_events_of_a_file_are_in_the_ledger(self, recorder: Recorder, tmp_path: Path) -> None:
        """By the event id of their attributes or the one they were given, with type and items, and no fault."""
        lines = [b'{"event_type":"order","items":[{},{}]}', b'{"data":{},"attributes":{"event_id":"E-1"}}']
        run(recorder, recorded_events(lines, shop_contracts()), ledger=tmp_path / "ledger.jsonl")
        entries = read_ledger(tmp_path / "ledger.jsonl")
        assert {message.attributes["event_id"] for message in recorder.messages} == entries.keys()
        found = {entry.event_type: (entry.lists, entry.fault, entry.message_id is None) for entry in entries.values()}
        assert found == {"order": ({"items": 2}, None, False), "unknown": ({}, None, False)}
        assert entries["E-1"].event_type == "unknown"

    def test_each_confirmed_event_has_a_line(self, recorder: Recorder, tmp_path: Path) -> None:
        """The ledger pairs event ids with message ids, and says what must become of each event."""
        path = tmp_path / "new" / "ledger.jsonl"
        run(recorder, some(300), ledger=path)
        entries = read_ledger(path)
        expected = {event.attributes["event_id"]: event for event in some(300)}
        arrived = [message.attributes["event_id"] for message in recorder.messages]
        assert len(entries) == 1800
        for event_id, entry in entries.items():
            event = expected[event_id]
            assert (entry.event_type, entry.fault, entry.lists) == (event.event_type, event.fault, event.lists)
            assert entry.expected_reason == event.expected_reason
            assert arrived[int(entry.message_id or "")] == entry.event_id == event_id

    def test_a_second_run_appends(self, recorder: Recorder, tmp_path: Path) -> None:
        """A ledger is never overwritten."""
        path = tmp_path / "ledger.jsonl"
        for seed in range(2):
            run(recorder, generate(1, seed=seed, now=NOW), ledger=path)
        assert len(read_ledger(path)) == 12

    def test_a_ledger_that_cannot_be_written_is_reported_before_publishing(self, recorder: Recorder, tmp_path: Path) -> None:
        """A folder in the ledger's place is an AccessError, and nothing is published."""
        with pytest.raises(AccessError, match="can't be written: Is a directory"):
            run(recorder, some(1), ledger=tmp_path)
        assert recorder.calls == 0

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
    def test_the_error_of_a_full_disk_has_the_count(self, recorder: Recorder) -> None:
        """When the ledger can't grow, nothing more is sent: an event is never published that no ledger knows."""
        with pytest.raises(AccessError, match=r"The ledger /dev/full can't be written: No space left on device\.\n"):
            run(recorder, some(1), ledger=Path("/dev/full"))
        assert recorder.messages == []


class FakeClock:
    """A clock that only moves when someone sleeps."""

    def __init__(self) -> None:
        self.now, self.sleeps = 100.0, [0.0]

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.sleeps.append(seconds)


class TestRate:
    @pytest.mark.parametrize(
        ("rate", "rounds", "request_size", "seconds"), [(60.0, 10, 6, 0.9), (2.0, 1, 1, 2.5), (1e6, 500, 1000, 0.002)]
    )
    def test_events_are_paced_smoothly(
        self, recorder: Recorder, rate: float, rounds: int, request_size: int, seconds: float
    ) -> None:
        """Small requests at even distances: the last one leaves when all before it are due."""
        clock = FakeClock()
        summary = run(recorder, some(rounds), rate=rate, clock=clock, sleep=clock.sleep)
        assert {len(request.messages) for request in recorder.requests} == {request_size}
        assert summary.elapsed_seconds == pytest.approx(seconds)
        assert max(clock.sleeps) == pytest.approx(request_size / rate)

    def test_a_slow_consumer_of_time_is_caught_up(self, recorder: Recorder) -> None:
        """Events that are due already wait for nothing: the rate holds on average."""
        clock = FakeClock()

        def late() -> Iterator[GeneratedEvent]:
            yield from some(1)
            clock.now += 60.0
            yield from some(1)

        run(recorder, late(), rate=60.0, clock=clock, sleep=clock.sleep)
        assert clock.sleeps == [0.0]


class TestInterrupt:
    def test_ctrl_c_returns_what_was_confirmed(self, recorder: Recorder, tmp_path: Path) -> None:
        """Requests under way arrive, others are not begun; summary, ledger and Pub/Sub agree on how many events there were."""

        def interrupted() -> Iterator[GeneratedEvent]:
            for number, event in enumerate(some(10_000)):
                if number == 4500:
                    os.kill(os.getpid(), signal.SIGINT)
                yield event

        summary = run(recorder, interrupted(), ledger=tmp_path / "ledger.jsonl")
        assert (summary.interrupted, summary.unanswered) == (True, 0)
        assert summary.total == len(recorder.messages) == len(read_ledger(tmp_path / "ledger.jsonl"))
        assert sum(summary.valid.values()) + sum(summary.invalid.values()) == summary.total
        assert summary.total in (2000, 3000, 4000)  # of four batches two had been waited for

    def test_ctrl_c_while_waiting_ends_a_slow_run(self, recorder: Recorder) -> None:
        """A run that is paced stops in its pause."""

        def interrupting_sleep(_: float) -> None:
            raise KeyboardInterrupt

        summary = run(recorder, some(10), rate=10.0, sleep=interrupting_sleep)
        assert (summary.interrupted, summary.total) == (True, 1)


class TestFailures:
    def test_a_pubsub_without_room_is_reported(self, tmp_path: Path) -> None:
        """How many messages it has, how many events were published, and what to do: it is not said to be down."""
        with (
            embedded(tmp_path, "--max-messages", "3000") as endpoints,
            publisher_client(endpoints) as topics,
            subscriber_client(endpoints) as reader,
        ):
            topics.create_topic(name=SETTINGS.topic_path)
            reader.create_subscription(name=SETTINGS.subscription_path, topic=SETTINGS.topic_path)
            expected = r"accepts no more for now: .* has 3,000 unacknowledged messages .* 3,000 events were published before\."
            with pytest.raises(UnavailableError, match=expected) as caught:
                publish(Target(SETTINGS, endpoints), some(1000))
        assert caught.value.remedy == "Run the command again later."

    def test_a_missing_topic_is_named(self) -> None:
        """NOT_FOUND becomes a NotFoundError with the topic's path and what to run."""
        recorder = Recorder(codes={-1: grpc.StatusCode.NOT_FOUND})
        with pytest.raises(NotFoundError) as caught:
            run(recorder, some(1))
        assert caught.value.message == "Topic projects/ecomflow-local/topics/ecomflow-events does not exist."
        assert caught.value.remedy == "Run: ecomflow infra up"

    @pytest.mark.parametrize(
        ("code", "remedy"),
        [
            (
                grpc.StatusCode.PERMISSION_DENIED,
                "Grant this account roles/pubsub.publisher on project ecomflow-local. Google says: so it was asked.",
            ),
            (grpc.StatusCode.UNAUTHENTICATED, "Log in again: gcloud auth application-default login"),
        ],
    )
    def test_a_refused_account_is_an_access_error(self, code: grpc.StatusCode, remedy: str) -> None:
        """The error says what is not allowed and which role is needed, or that the login is what is wrong."""
        with pytest.raises(AccessError, match="so it was asked") as caught:
            run(Recorder(codes={-1: code}), some(1))
        assert caught.value.remedy == remedy

    def test_the_error_of_a_refused_request_has_its_message(self) -> None:
        """Any other refusal ends the run with the service's reason."""
        with pytest.raises(EcomflowError, match=r"refused the events: .*so it was asked"):
            run(Recorder(codes={-1: grpc.StatusCode.INVALID_ARGUMENT}), some(1))

    def test_a_failure_in_the_middle_says_how_many_were_published(self) -> None:
        """The message has the count of confirmed events, and only what was in flight follows a failed request."""
        recorder = Recorder(codes=dict.fromkeys(range(4, 1000), grpc.StatusCode.NOT_FOUND))
        with pytest.raises(NotFoundError, match=r"does not exist\. 3,000 events were published before\."):
            run(recorder, some(10_000))
        assert recorder.calls <= 7

    @pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED])
    def test_a_transient_error_is_tried_again(self, code: grpc.StatusCode) -> None:
        """A request that failed for a moment is sent again; every event counts once."""
        recorder = Recorder(codes={1: code})
        summary = run(recorder, some(100))
        assert (summary.total, len(recorder.messages), recorder.calls) == (600, 600, 2)

    @pytest.mark.slow
    def test_an_unreachable_server_is_reported_within_seconds(self) -> None:
        """Where nothing listens, the error names the address and comes soon."""
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            started = time.monotonic()
            with pytest.raises(UnavailableError, match=rf"Pub/Sub at 127\.0\.0\.1:{port} does not answer") as caught:
                publish(Target(SETTINGS, Endpoints(pubsub=f"127.0.0.1:{port}")), some(1))
        assert caught.value.remedy == "Start the local stack with: ecomflow infra up"
        assert time.monotonic() - started < 10

    def test_without_credentials_google_is_not_asked(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Credentials that don't work are an AccessError with the command that fixes them."""
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
        with pytest.raises(AccessError) as caught:
            publish(Target(Settings(project="my-project"), Endpoints()), some(1))
        assert caught.value.remedy == "Run: gcloud auth application-default login"


def test_an_error_of_the_callers_own_comes_out_as_it_is(recorder: Recorder) -> None:
    """What on_progress raises is not taken for a failure of Pub/Sub."""

    def failing(_: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(recorder, some(1), on_progress=failing)


@pytest.mark.stack
class TestEmbeddedPubSub:
    def test_a_subscription_gets_what_the_ledger_says(self, tmp_path: Path) -> None:
        """Every line of the ledger is a message of the subscription, under its id, with the bytes that were generated."""
        ledger = tmp_path / "ledger.jsonl"
        with (
            embedded(tmp_path / "data") as endpoints,
            publisher_client(endpoints) as topics,
            subscriber_client(endpoints) as reader,
        ):
            topics.create_topic(name=SETTINGS.topic_path)
            reader.create_subscription(name=SETTINGS.subscription_path, topic=SETTINGS.topic_path)
            summary = publish(Target(SETTINGS, endpoints), some(200), ledger=ledger)
            pulled: dict[str, bytes] = {}
            while len(pulled) < summary.total:
                response = reader.pull(subscription=SETTINGS.subscription_path, max_messages=1000)
                pulled |= {received.message.message_id: received.message.data for received in response.received_messages}
        expected = {event.attributes["event_id"]: event.data for event in some(200)}
        assert summary.total == 1200
        assert pulled == {entry.message_id: expected[event_id] for event_id, entry in read_ledger(ledger).items()}

    def test_a_missing_topic_is_named(self, tmp_path: Path) -> None:
        """Before ``infra up`` has made the topic, publishing says so."""
        with embedded(tmp_path) as endpoints, pytest.raises(NotFoundError, match=f"Topic {SETTINGS.topic_path} does not exist"):
            publish(Target(SETTINGS, endpoints), some(1))
