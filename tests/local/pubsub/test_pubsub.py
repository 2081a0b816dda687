"""The local Pub/Sub as Google's own clients see it: what is published comes, when, how often, and what is refused."""

from __future__ import annotations

import errno
import functools
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import pubsub_v1
from google.protobuf import field_mask_pb2
from google.pubsub_v1 import types

from ecomflow.config import Endpoints
from ecomflow.errors import NotFoundError, UnavailableError
from ecomflow.gcp.clients import publisher_client
from ecomflow.local.pubsub import broker
from ecomflow.local.pubsub.queue import Backlog, Options
from ecomflow.local.pubsub.server import read_backlog
from tests.support.local_pubsub import SUBSCRIPTION, TOPIC, Clients, ManualClock, StreamUser, clients_of_server
from tests.support.waiting import wait_until

# The flag asks for what is there now, which is what most tests want to know.
pytestmark = pytest.mark.filterwarnings("ignore:The return_immediately flag is deprecated:DeprecationWarning")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def clients(tmp_path: Path, clock: ManualClock) -> Iterator[Clients]:
    """Clients of a server with one topic and one subscription, and time that stands still."""
    with clients_of_server(tmp_path, clock) as clients:
        clients.create()
        yield clients


def data_of(received: list[Any]) -> list[bytes]:
    return [one.message.data for one in received]


class TestPublishAndPull:
    def test_a_message_comes_as_it_was_published(self, clients: Clients, clock: ManualClock) -> None:
        """Data and attributes are unchanged, and the id that the publisher got and the time of publishing are added."""
        message_id = clients.publisher.publish(TOPIC, "größe".encode(), event_id="e-1", empty="").result(10)
        (received,) = clients.pull()
        assert received.message.data == "größe".encode()
        assert dict(received.message.attributes) == {"event_id": "e-1", "empty": ""}
        assert received.message.message_id == message_id
        assert received.message.publish_time == datetime.fromtimestamp(clock.now(), UTC)
        assert received.delivery_attempt == 0

    def test_a_batching_publisher_gets_an_id_for_every_message(self, clients: Clients) -> None:
        """Futures of messages that travel in batches resolve to ids that are all different."""
        settings = pubsub_v1.types.BatchSettings(max_messages=100)
        publisher = publisher_client(Endpoints(pubsub=clients.host), batch_settings=settings)
        futures = [publisher.publish(TOPIC, b"%d" % n) for n in range(1000)]
        ids = [future.result(10) for future in futures]
        publisher.stop()
        assert len(set(ids)) == 1000
        assert {one.message.message_id for one in clients.pull()} == set(ids)

    def test_an_acknowledged_message_never_comes_again(self, clients: Clients, clock: ManualClock) -> None:
        """Of two messages only the one that was not acknowledged comes after the deadline."""
        clients.publish(b"done", b"open")
        done, _ = clients.pull()
        clients.acknowledge(done)
        clock.advance(10)
        assert clients.pull_data() == [b"open"]

    def test_every_subscription_gets_what_came_after_it(self, clients: Clients) -> None:
        """A message goes to each subscription of its topic, but not to one that is created later."""
        other = SUBSCRIPTION + "-2"
        clients.publish(b"early")
        clients.subscriber.create_subscription(name=other, topic=TOPIC)
        clients.publish(b"late")
        clients.acknowledge(*clients.pull())
        assert clients.pull_data(subscription=other) == [b"late"]

    def test_a_pull_gives_no_more_than_asked_for_and_no_more_than_a_thousand(self, clients: Clients) -> None:
        """The count is bounded by max_messages, and by the limit of the service."""
        for _ in range(2):
            clients.publish(*[b"x"] * 1000)
        assert len(clients.pull(3)) == 3
        assert len(clients.pull(5000)) == 1000

    def test_a_pull_is_bounded_in_bytes_yet_gives_at_least_one(self, clients: Clients) -> None:
        """A client with default options refuses a response of 4 MiB: one message at most is larger, and comes alone."""
        for size in (1, 2, 5, 1):
            clients.publish(bytes(size * 10**6))
        assert [len(clients.pull()) for _ in range(4)] == [2, 1, 1, 0]

    def test_a_waiting_pull_is_answered_when_a_message_comes(self, clients: Clients) -> None:
        """A pull on an empty subscription waits, and returns with the message that is published meanwhile."""
        publish = threading.Timer(0.1, clients.publish, [b"now"])
        publish.start()
        response = clients.subscriber.pull(subscription=SUBSCRIPTION, max_messages=10, timeout=20)
        assert data_of(response.received_messages) == [b"now"]

    def test_a_client_that_gives_up_before_the_server_loses_the_next_message(self, clients: Clients, clock: ManualClock) -> None:
        """As with the service, which waits on its own clock: the message is leased to nobody until its deadline, and counted."""
        with pytest.raises(exceptions.DeadlineExceeded):
            clients.subscriber.pull(subscription=SUBSCRIPTION, max_messages=10, timeout=0.3, retry=None)
        clients.publish(b"late")
        wait_until(lambda: read_backlog(clients.host, SUBSCRIPTION).num_leased_to_departed == 1)
        assert clients.pull() == []
        clock.advance(10)
        assert clients.pull_data() == [b"late"]

    def test_a_cancelled_pull_loses_nothing(self, clients: Clients) -> None:
        """A client that closes its channel cancels the pull, and the server stops waiting for it."""
        other = Clients(clients.host)
        with ThreadPoolExecutor() as pool:
            pull = pool.submit(other.subscriber.pull, subscription=SUBSCRIPTION, max_messages=10, timeout=90, retry=None)
            wait_until(lambda: read_backlog(clients.host, SUBSCRIPTION).num_waiting_pulls == 1)
            other.close()
            assert isinstance(pull.exception(10), Exception)
        wait_until(lambda: read_backlog(clients.host, SUBSCRIPTION).num_waiting_pulls == 0)
        clients.publish(b"x")
        assert clients.pull_data() == [b"x"]

    def test_a_waiting_pull_ends_empty(self, tmp_path: Path) -> None:
        """The server waits for its own time, which the client outwaits."""
        with clients_of_server(tmp_path, options=Options(hold_seconds=0.05)) as clients:
            clients.create()
            response = clients.subscriber.pull(subscription=SUBSCRIPTION, max_messages=10, timeout=20)
            assert list(response.received_messages) == []


def test_clients_find_the_server_by_the_emulator_variable(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's clients as anyone makes them, Beam included, need PUBSUB_EMULATOR_HOST and nothing else."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", clients.host)
    publisher, subscriber = pubsub_v1.PublisherClient(), pubsub_v1.SubscriberClient()
    publisher.publish(TOPIC, b"x").result(10)
    assert data_of(subscriber.pull(subscription=SUBSCRIPTION, max_messages=1).received_messages) == [b"x"]
    publisher.stop()
    subscriber.close()


class TestDeadlines:
    def test_what_is_not_acknowledged_in_time_comes_again(self, clients: Clients, clock: ManualClock) -> None:
        """A leased message is out of sight until its deadline, and then comes with a new ack id."""
        clients.publish(b"x")
        (first,) = clients.pull()
        clock.advance(9.9)
        assert clients.pull() == []
        clock.advance(0.1)
        (second,) = clients.pull()
        assert second.message == first.message
        assert second.ack_id != first.ack_id

    def test_a_stale_ack_does_not_remove_the_redelivered_message(self, clients: Clients, clock: ManualClock) -> None:
        """Once a message is given out again, the earlier ack id means nothing."""
        clients.publish(b"x")
        (stale,) = clients.pull()
        clock.advance(10)
        clients.pull()
        clients.acknowledge(stale)
        clock.advance(10)
        assert clients.pull_data() == [b"x"]

    def test_an_extended_deadline_holds_and_a_shortened_one_too(self, clients: Clients, clock: ManualClock) -> None:
        """modify_ack_deadline counts from now, in both directions."""
        clients.publish(b"longer", b"shorter")
        longer, shorter = clients.pull()
        clients.modify_deadline(60, longer)
        clients.modify_deadline(5, shorter)
        clock.advance(5)
        assert clients.pull_data() == [b"shorter"]
        clock.advance(54)
        assert clients.pull_data() == [b"shorter"]
        clock.advance(1)
        assert clients.pull_data() == [b"longer"]

    def test_a_deadline_of_zero_gives_a_message_back_at_once(self, clients: Clients) -> None:
        """A nack makes the messages available again, before those that came later, in their order."""
        clients.publish(b"1", b"2", b"3")
        clients.modify_deadline(0, *clients.pull(2))
        assert clients.pull_data() == [b"1", b"2", b"3"]

    def test_a_lease_lapses_in_time_among_thousands_that_were_settled(self, clients: Clients, clock: ManualClock) -> None:
        """The server drops what it noted of settled leases before their deadline comes, and forgets none that is in force."""
        clients.publish(b"open")
        clients.pull()
        for _ in range(15):
            clients.publish(*[b"x"] * 1000)
            clients.acknowledge(*clients.pull())
        assert read_backlog(clients.host, SUBSCRIPTION).num_outstanding_messages == 1
        clock.advance(9.9)
        assert clients.pull() == []
        clock.advance(0.1)
        assert clients.pull_data() == [b"open"]

    def test_a_retry_policy_delays_what_failed_ever_longer(self, tmp_path: Path, clock: ManualClock) -> None:
        """After the first failure a message waits for the minimum, after each further one twice as long, up to the maximum."""
        policy = {"minimum_backoff": timedelta(seconds=2), "maximum_backoff": timedelta(seconds=5)}
        with clients_of_server(tmp_path, clock) as clients:
            clients.create(retry_policy=policy)
            clients.publish(b"x")
            for delay in (2, 4, 5, 5):
                clients.modify_deadline(0, *clients.pull())
                clock.advance(delay - 0.1)
                assert clients.pull() == []
                clock.advance(0.1)
            assert clients.pull_data() == [b"x"]


@pytest.mark.parametrize("step", [86_400, -86_400], ids=["forward", "back"])
class TestStepsOfTheWallClock:
    """The first NTP answer after a boot sets the clock by hours: a day here, either way."""

    def test_a_lease_holds_until_its_deadline(self, step: int, clients: Clients, clock: ManualClock) -> None:
        """Not a moment less, also where it was extended after the step, and not a moment more."""
        clients.publish(b"leased", b"extended")
        _, extended = clients.pull()
        clock.step(step)
        assert clients.pull() == []
        clients.modify_deadline(60, extended)
        clock.advance(9.9)
        assert clients.pull() == []
        clock.advance(0.1)
        assert clients.pull_data() == [b"leased"]
        clock.advance(49.9)
        assert clients.pull_data() == [b"leased"]
        clock.advance(0.1)
        assert clients.pull_data() == [b"extended"]

    def test_a_waiting_stream_gets_what_lapses(self, step: int, clients: Clients, clock: ManualClock) -> None:
        """The alarm that was set before the step rings in its time."""
        clients.publish(b"x")
        clients.pull()
        stream = StreamUser(clients)
        clock.step(step)
        clock.advance(10)
        assert data_of(stream.receive()) == [b"x"]
        stream.close()

    @pytest.mark.parametrize("key", ["", "a"])
    def test_a_delayed_message_comes_when_its_delay_is_over(
        self, step: int, key: str, tmp_path: Path, clock: ManualClock
    ) -> None:
        """The delay of a retry policy, with and without an ordering key."""
        with clients_of_server(tmp_path, clock) as clients:
            clients.create(enable_message_ordering=bool(key), retry_policy={"minimum_backoff": timedelta(seconds=5)})
            clients.publish(b"x", key=key)
            clients.modify_deadline(0, *clients.pull())
            clock.step(step)
            clock.advance(4.9)
            assert clients.pull() == []
            clock.advance(0.1)
            assert clients.pull_data() == [b"x"]

    def test_what_waits_is_delivered_however_old_it_looks(self, step: int, tmp_path: Path, clock: ManualClock) -> None:
        """Publish times are those of the wall clock then, ids go on, and a restart brings all back in order."""
        with clients_of_server(tmp_path, clock) as clients:
            clients.create()
            ids = clients.publish(b"before")
            clock.step(step)
            ids += clients.publish(b"after")
        with clients_of_server(tmp_path, clock) as clients:
            ids += clients.publish(b"restarted")
            before, after, restarted = (received.message for received in clients.pull())
            assert [before.data, after.data, restarted.data] == [b"before", b"after", b"restarted"]
            assert after.publish_time - before.publish_time == timedelta(seconds=step)
            assert restarted.publish_time == after.publish_time
            assert [int(number) for number in ids] == sorted({int(number) for number in ids})

    @pytest.mark.slow
    def test_the_servers_own_clock_is_steady(self, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a clock of the tests: a lease of a second lapses after a second."""
        with clients_of_server(tmp_path) as clients:
            clients.create()
            clients.publish(b"x")
            began = time.monotonic()
            clients.modify_deadline(1, *clients.pull())
            stream = StreamUser(clients)
            real = time.time
            monkeypatch.setattr(time, "time", lambda: real() + step)
            assert data_of(stream.receive()) == [b"x"]
            assert 1 <= time.monotonic() - began < 8
            stream.close()


class TestDeadLetters:
    DEAD = "projects/test-project/topics/dead"

    @pytest.fixture
    def clients(self, tmp_path: Path, clock: ManualClock) -> Iterator[Clients]:
        """Five attempts, then the topic ``dead`` with a subscription of its own."""
        with clients_of_server(tmp_path, clock) as clients:
            clients.create(self.DEAD, SUBSCRIPTION + "-dead")
            clients.create(dead_letter_policy={"dead_letter_topic": self.DEAD})
            yield clients

    def test_deliveries_are_counted_whether_nacked_or_lapsed(self, clients: Clients, clock: ManualClock) -> None:
        """delivery_attempt is one more than the failures so far."""
        clients.publish(b"x")
        attempts = [clients.pull()[0].delivery_attempt]
        clock.advance(10)
        (again,) = clients.pull()
        clients.modify_deadline(0, again)
        attempts += [again.delivery_attempt, clients.pull()[0].delivery_attempt]
        assert attempts == [1, 2, 3]

    def test_after_the_last_attempt_the_message_moves_to_the_dead_letter_topic(self, clients: Clients) -> None:
        """It leaves its subscription and says where it comes from and how often it was tried."""
        clients.publish(b"poison")
        for _ in range(5):
            clients.modify_deadline(0, *clients.pull())
        assert clients.pull() == []
        (dead,) = clients.pull(subscription=SUBSCRIPTION + "-dead")
        assert dead.message.data == b"poison"
        assert dict(dead.message.attributes) == {
            "CloudPubSubDeadLetterSourceDeliveryCount": "5",
            "CloudPubSubDeadLetterSourceSubscription": "pipeline",
            "CloudPubSubDeadLetterSourceSubscriptionProject": "test-project",
            "CloudPubSubDeadLetterSourceTopicPublishTime": "2025-12-01T00:00:00Z",
        }

    def test_without_its_dead_letter_topic_a_message_stays(self, clients: Clients) -> None:
        """A message that cannot be moved is delivered further."""
        clients.publisher.delete_topic(topic=self.DEAD)
        clients.publish(b"poison")
        for _ in range(6):
            clients.modify_deadline(0, *clients.pull())
        assert clients.pull_data() == [b"poison"]


class TestOrderingKeys:
    @pytest.fixture
    def clients(self, tmp_path: Path, clock: ManualClock) -> Iterator[Clients]:
        with clients_of_server(tmp_path, clock) as clients:
            clients.create(enable_message_ordering=True)
            yield clients

    def test_of_each_key_one_batch_is_outstanding(self, clients: Clients) -> None:
        """A pull takes as much of a key as it has room for, the next waits for all of it; other keys and no key do not wait."""
        clients.publish(b"a1", b"a2", b"a3", key="a")
        clients.publish(b"b1", key="b")
        clients.publish(b"free")
        first, second = clients.pull(2)
        assert data_of([first, second]) == [b"a1", b"a2"]
        assert clients.pull_data() == [b"b1", b"free"]
        clients.acknowledge(second)
        assert clients.pull_data() == []
        clients.acknowledge(first)
        assert clients.pull_data() == [b"a3"]

    def test_a_stream_gets_the_next_of_a_key_without_an_acknowledgement(self, clients: Clients) -> None:
        """What is published later comes to the stream that holds the key, though another one waits as well."""
        streams = [StreamUser(clients), StreamUser(clients)]
        clients.publish(b"1", b"2", key="a")
        wait_until(lambda: read_backlog(clients.host, SUBSCRIPTION).num_outstanding_messages == 2)
        for number in range(3, 20):
            clients.publish(b"%d" % number, key="a")
        wait_until(lambda: read_backlog(clients.host, SUBSCRIPTION).num_outstanding_messages == 19)
        for stream in streams:
            stream.half_close()
        received = [
            [one.message.data for response in stream.responses for one in response.received_messages] for stream in streams
        ]
        assert sorted(received) == [[], [b"%d" % number for number in range(1, 20)]]

    def test_a_failure_brings_back_the_acknowledged_ones_after_it(self, clients: Clients, clock: ManualClock) -> None:
        """An acknowledgement is final once all earlier messages of its key are acknowledged; other keys are not affected."""
        for brings_back in (lambda received: clients.modify_deadline(0, received), lambda _: clock.advance(10)):
            clients.publish(b"1", b"2", b"3", key="a")
            clients.publish(b"b", key="b")
            first, second, third, other = clients.pull()
            clients.acknowledge(third, other)
            brings_back(first)
            again = clients.pull()
            assert data_of(again) == [b"1", b"2", b"3"]
            clients.acknowledge(*again[:2])
            clients.modify_deadline(0, again[2])
            (last,) = clients.pull()
            assert last.message.data == b"3"
            clients.acknowledge(last)
            clients.acknowledge(second)
        assert read_backlog(clients.host, SUBSCRIPTION).num_undelivered_messages == 0

    def test_an_acknowledged_message_makes_room_in_its_stream(self, clients: Clients) -> None:
        """Also one that may come again, because an earlier one of its key is not acknowledged."""
        clients.publish(b"1", b"2", b"3", key="a")
        stream = StreamUser(clients, max_outstanding_messages=2)
        _, second = stream.receive()
        stream.send(ack_ids=[second.ack_id])
        assert data_of(stream.receive()) == [b"3"]
        stream.close()

    def test_a_dead_letter_lets_the_acknowledged_ones_after_it_go(self, tmp_path: Path, clock: ManualClock) -> None:
        """When the message before them moves to the dead letter topic, their acknowledgement is final."""
        dead = "projects/test-project/topics/dead"
        with clients_of_server(tmp_path / "dead", clock) as clients:
            clients.create(dead, SUBSCRIPTION + "-dead")
            clients.create(enable_message_ordering=True, dead_letter_policy={"dead_letter_topic": dead})
            clients.publish(b"1", b"2", key="a")
            for _ in range(5):
                first, second = clients.pull()
                clients.acknowledge(second)
                clients.modify_deadline(0, first)
            assert clients.pull() == []
            assert read_backlog(clients.host, SUBSCRIPTION).num_undelivered_messages == 0
            assert clients.pull_data(subscription=SUBSCRIPTION + "-dead") == [b"1"]

    def test_a_failure_brings_back_the_later_ones_of_its_key(self, clients: Clients) -> None:
        """A nack takes from the consumer what it holds of the key beyond that message; its acks for them count no more."""
        clients.publish(b"1", b"2", b"3", key="a")
        clients.publish(b"free")
        received = clients.pull()
        clients.modify_deadline(0, received[1])
        clients.acknowledge(received[2])
        assert clients.pull_data() == []
        clients.acknowledge(received[0])
        assert clients.pull_data() == [b"2", b"3"]

    def test_a_delayed_message_delays_its_key(self, tmp_path: Path, clock: ManualClock) -> None:
        """The retry policy's pause holds for the later ones as well, those published meanwhile included."""
        with clients_of_server(tmp_path / "delayed", clock) as clients:
            clients.create(enable_message_ordering=True, retry_policy={"minimum_backoff": timedelta(seconds=5)})
            clients.publish(b"1", b"2", key="a")
            clients.modify_deadline(0, clients.pull()[0])
            clients.publish(b"3", key="a")
            clients.publish(b"other", key="b")
            assert clients.pull_data() == [b"other"]
            clock.advance(5)
            assert clients.pull_data() == [b"1", b"2", b"3"]

    @pytest.mark.slow
    def test_three_hundred_of_one_key_flow(self, clients: Clients) -> None:
        """Google's subscriber gets them without a round trip each."""
        clients.publish(*(b"%d" % number for number in range(300)), key="a")
        seen: list[int] = []

        def note(message: Any) -> None:
            seen.append(int(message.data))
            message.ack()

        with clients.subscribed(note):
            wait_until(lambda: len(seen) == 300, seconds=10)
        assert seen == list(range(300))

    def test_a_failed_message_comes_before_the_later_ones_of_its_key(self, clients: Clients, clock: ManualClock) -> None:
        """Neither a nack nor a lapsed deadline lets a later message pass."""
        clients.publish(b"1", b"2", key="a")
        clients.modify_deadline(0, *clients.pull(1))
        (first,) = clients.pull(1)
        clock.advance(10)
        (again,) = clients.pull(1)
        clients.acknowledge(again)
        assert data_of([first, again, *clients.pull()]) == [b"1", b"1", b"2"]

    def test_order_holds_after_a_restart(self, tmp_path: Path) -> None:
        """What was waiting behind an unacknowledged message waits behind it again."""
        with clients_of_server(tmp_path / "data") as clients:
            clients.create(enable_message_ordering=True)
            clients.publish(b"1", b"2", b"3", key="a")
            clients.acknowledge(*clients.pull(1))
            clients.pull(1)
        with clients_of_server(tmp_path / "data") as clients:
            (second,) = clients.pull(1)
            clients.acknowledge(second)
            assert data_of([second, *clients.pull()]) == [b"2", b"3"]

    def test_acknowledgements_after_an_open_message_end_with_a_restart(self, tmp_path: Path) -> None:
        """The open message comes again, and with it all later ones of its key."""
        with clients_of_server(tmp_path / "data") as clients:
            clients.create(enable_message_ordering=True)
            clients.publish(b"1", b"2", b"3", key="a")
            first, _, third = clients.pull()
            clients.acknowledge(first, third)
        with clients_of_server(tmp_path / "data") as clients:
            assert clients.pull_data() == [b"2", b"3"]

    def test_a_streaming_subscriber_sees_each_key_in_order(self, clients: Clients) -> None:
        """Google's subscriber, with threads and flow control, gets every key's messages as they were published."""
        options = pubsub_v1.types.PublisherOptions(enable_message_ordering=True)
        publisher = publisher_client(Endpoints(pubsub=clients.host), publisher_options=options)
        for n in range(50):
            for key in ("a", "b", "c"):
                publisher.publish(TOPIC, b"%d" % n, ordering_key=key)
        publisher.stop()
        seen: dict[str, list[int]] = {"a": [], "b": [], "c": []}

        def note(message: Any) -> None:
            seen[message.ordering_key].append(int(message.data))
            message.ack()

        with clients.subscribed(note):
            wait_until(lambda: sum(map(len, seen.values())) == 150)
        assert seen == {key: list(range(50)) for key in "abc"}


class TestStreamingPull:
    @pytest.mark.slow
    def test_ten_thousand_messages_come_once_each(self, tmp_path: Path) -> None:
        """Google's streaming-pull subscriber gets all of a batching publisher's messages, none twice, and empties the backlog."""
        with clients_of_server(tmp_path) as clients:
            clients.create()
            seen: Counter[bytes] = Counter()

            def note(message: Any) -> None:
                seen[message.data] += 1
                message.ack()

            with clients.subscribed(note):
                for n in range(10_000):
                    clients.publisher.publish(TOPIC, b"%d" % n)
                wait_until(lambda: len(seen) == 10_000, seconds=60)
                wait_until(lambda: read_backlog(clients.host, SUBSCRIPTION).num_undelivered_messages == 0)
        assert seen == {b"%d" % n: 1 for n in range(10_000)}

    def test_a_response_carries_many_messages(self, clients: Clients) -> None:
        """What is there when a stream opens comes at once."""
        clients.publish(*[b"x"] * 500)
        stream = StreamUser(clients)
        assert len(stream.receive()) == 500
        stream.close()

    def test_flow_control_bounds_what_is_outstanding(self, clients: Clients) -> None:
        """With two messages allowed, the third comes when one of them is acknowledged on the stream."""
        clients.publish(b"1", b"2", b"3")
        stream = StreamUser(clients, max_outstanding_messages=2)
        first, second = stream.receive()
        stream.send(ack_ids=[second.ack_id])
        assert data_of([first, second, *stream.receive()]) == [b"1", b"2", b"3"]
        stream.close()

    def test_flow_control_bounds_the_bytes_and_lets_one_large_message_through(self, clients: Clients) -> None:
        """A message larger than the bound comes alone."""
        clients.publish(bytes(1000), bytes(1000))
        stream = StreamUser(clients, max_outstanding_bytes=500)
        (first,) = stream.receive()
        assert clients.pull_data() == [bytes(1000)]
        stream.send(modify_deadline_ack_ids=[first.ack_id], modify_deadline_seconds=[0])
        assert len(stream.receive()) == 1
        stream.close()

    def test_two_streams_share_a_subscription(self, clients: Clients) -> None:
        """A stream that is full leaves the next message to the other, and of two idle streams each gets one of two messages."""
        streams = [StreamUser(clients, max_outstanding_messages=1), StreamUser(clients, max_outstanding_messages=1)]
        clients.publish(b"1", b"2")
        received = [stream.receive() for stream in streams]
        assert sorted(data_of(received[0]) + data_of(received[1])) == [b"1", b"2"]
        for stream, (one,) in zip(streams, received, strict=True):
            stream.send(ack_ids=[one.ack_id])
        wait_until(lambda: read_backlog(clients.host, SUBSCRIPTION).num_undelivered_messages == 0)
        clients.publish(b"3")
        clients.publish(b"4")
        assert sorted(data_of(streams[0].receive()) + data_of(streams[1].receive())) == [b"3", b"4"]
        for stream in streams:
            stream.close()

    def test_an_idle_stream_gets_what_has_lapsed_elsewhere(self, clients: Clients, clock: ManualClock) -> None:
        """The deadline of a pulled message passes while a stream waits: the stream gets it without anyone's asking."""
        clients.publish(b"x")
        (pulled,) = clients.pull()
        stream = StreamUser(clients)
        clients.publish(b"y")
        assert data_of(stream.receive()) == [b"y"]
        clock.advance(10)
        assert b"x" in data_of(stream.receive())
        assert pulled.message.data == b"x"
        stream.close()

    def test_the_deadline_of_the_stream_holds_for_what_it_delivers(self, clients: Clients, clock: ManualClock) -> None:
        """A stream's own deadline of 60 s replaces the subscription's 10 s."""
        clients.publish(b"x")
        stream = StreamUser(clients, stream_ack_deadline_seconds=60)
        stream.receive()
        stream.close()
        clock.advance(59)
        assert clients.pull() == []
        clock.advance(1)
        assert clients.pull_data() == [b"x"]

    def test_a_stream_says_what_kind_of_subscription_it_reads(self, clients: Clients) -> None:
        """Each response has the subscription's properties, which Google's client acts on."""
        clients.publish(b"x")
        stream = StreamUser(clients)
        properties = next(iter(stream.responses)).subscription_properties
        assert (properties.exactly_once_delivery_enabled, properties.message_ordering_enabled) == (False, False)
        stream.close()

    def test_an_empty_request_is_answered_by_an_empty_response(self, clients: Clients) -> None:
        """Protocol version 1 keeps a stream alive by it; a client of version 0 would not expect one."""
        stream = StreamUser(clients, protocol_version=1)
        stream.send()
        assert stream.receive() == []
        clients.publish(b"x")
        assert data_of(stream.receive()) == [b"x"]
        stream.close()
        old = StreamUser(clients)
        old.send()
        clients.publish(b"y")
        assert data_of(old.receive()) == [b"y"]
        old.close()

    def test_googles_subscriber_gets_a_thousand_large_messages(self, clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
        """Found by PUBSUB_EMULATOR_HOST it takes responses of up to 4 MiB."""
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", clients.host)
        clients.publish(*[bytes(5000)] * 1000)
        done = threading.Event()
        seen: set[str] = set()

        def note(message: Any) -> None:
            seen.add(message.message_id)
            message.ack()
            if len(seen) == 1000:
                done.set()

        with pubsub_v1.SubscriberClient() as subscriber:
            future = subscriber.subscribe(SUBSCRIPTION, note)
            arrived = done.wait(20)
            future.cancel()
            future.result(10)
        assert (arrived, len(seen)) == (True, 1000)

    def test_what_is_under_way_as_a_stream_ends_is_given_back(self, clients: Clients) -> None:
        """A client that reads one response and goes leaves the others, of which it has not heard, to the next one at once."""
        for _ in range(20):
            clients.publish(bytes(3_000_000))
        stream = StreamUser(clients)
        stream.receive()
        wait_until(lambda: read_backlog(clients.host, SUBSCRIPTION).num_outstanding_messages >= 2)
        outstanding = read_backlog(clients.host, SUBSCRIPTION).num_outstanding_messages
        stream.close()
        wait_until(lambda: read_backlog(clients.host, SUBSCRIPTION).num_outstanding_messages < outstanding)

    def test_a_half_closed_stream_ends_well(self, clients: Clients) -> None:
        """Where the client has no more to say, the server ends the stream with OK, and acks sent before count."""
        clients.publish(b"x")
        stream = StreamUser(clients)
        (received,) = stream.receive()
        stream.send(ack_ids=[received.ack_id])
        stream.half_close()
        assert list(stream.responses) == []
        assert read_backlog(clients.host, SUBSCRIPTION).num_undelivered_messages == 0

    @pytest.mark.parametrize(
        ("first", "second", "expected"),
        [
            ({"stream_ack_deadline_seconds": 5}, {}, "expected 10 to 600"),
            ({}, {"subscription": SUBSCRIPTION}, "first request"),
            ({}, {"protocol_version": 1}, "first request"),
            ({}, {"max_outstanding_messages": 10}, "first request"),
            ({}, {"max_outstanding_bytes": 10}, "first request"),
            ({"subscription": ""}, {}, r"\(subscription=\)"),
            ({}, {"modify_deadline_ack_ids": ["a"]}, "differ in length"),
            ({}, {"ack_ids": ["a"]}, "invalid ack ID"),
            ({}, {"ack_ids": ["1-1-" + "9" * 245] * 2088}, "exceeds the limit: 524288 bytes"),
        ],
    )
    def test_a_malformed_stream_request_ends_it(
        self, clients: Clients, first: dict[str, Any], second: dict[str, Any], expected: str
    ) -> None:
        """INVALID_ARGUMENT names what was expected."""
        stream = StreamUser(clients, **first)
        stream.send(**second)
        with pytest.raises(exceptions.InvalidArgument, match=expected):
            list(stream.responses)
        stream.half_close()

    def test_a_deleted_subscription_ends_its_streams(self, clients: Clients) -> None:
        """A waiting subscriber gets NOT_FOUND and does not hang."""
        future = clients.subscriber.subscribe(SUBSCRIPTION, lambda message: message.ack())
        clients.publish(b"x")
        wait_until(lambda: read_backlog(clients.host, SUBSCRIPTION).num_undelivered_messages == 0)
        clients.subscriber.delete_subscription(subscription=SUBSCRIPTION)
        with pytest.raises(exceptions.NotFound, match=r"Resource not found \(resource=pipeline\)"):
            future.result(10)


class TestMemory:
    def test_more_messages_than_memory_can_hold_are_refused(self, tmp_path: Path) -> None:
        """RESOURCE_EXHAUSTED says how many there are and what helps; the place of an acknowledged message is free again."""
        with clients_of_server(tmp_path, options=Options(max_messages=4)) as clients:
            clients.create()
            clients.publish(b"1", b"2", b"3")
            expected = "has 3 unacknowledged messages and memory for 4.* Nothing was published. .*ecomflow deploy"
            for _ in range(2):
                with pytest.raises(exceptions.ResourceExhausted, match=expected):
                    call(clients, "raw_publisher.publish", {"topic": TOPIC, "messages": [{"data": b"4"}, {"data": b"5"}]})
            clients.acknowledge(*clients.pull(1))
            clients.publish(b"4", b"5")
            assert clients.pull_data() == [b"2", b"3", b"4", b"5"]

    def test_a_message_takes_memory_in_each_of_its_subscriptions(self, tmp_path: Path) -> None:
        """Two subscriptions hold half as many; a topic without any takes all."""
        with clients_of_server(tmp_path, options=Options(max_messages=4)) as clients:
            clients.create()
            clients.subscriber.create_subscription(name=SUBSCRIPTION + "-2", topic=TOPIC)
            clients.publish(b"1", b"2")
            with pytest.raises(exceptions.ResourceExhausted):
                call(clients, *publish(data=b"3"))
            clients.publisher.create_topic(name=TOPIC + "-2")
            clients.publish(b"for nobody", topic=TOPIC + "-2")

    def test_a_pull_that_cannot_read_the_log_takes_nothing(self, clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
        """UNAVAILABLE names the log; as soon as it can be read, all messages are delivered."""

        def fail(*_: object) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        clients.publish(b"1", b"2")
        with monkeypatch.context() as fault:
            fault.setattr(os, "pread", fail)
            request = {"subscription": SUBSCRIPTION, "max_messages": 10}
            with pytest.raises(exceptions.ServiceUnavailable, match=r"pubsub\.log can't be read: Input/output error"):
                call(clients, "subscriber.pull", request)
        assert clients.pull_data() == [b"1", b"2"]


class TestResources:
    def test_a_subscription_gets_the_defaults_of_the_service(self, clients: Clients) -> None:
        """Ten seconds to acknowledge, seven days of retention, expiration after 31 days."""
        subscription = clients.subscriber.get_subscription(subscription=SUBSCRIPTION)
        assert subscription.ack_deadline_seconds == 10
        assert subscription.message_retention_duration == timedelta(days=7)
        assert subscription.expiration_policy.ttl == timedelta(days=31)
        assert subscription.state == types.Subscription.State.ACTIVE

    def test_an_update_changes_the_fields_of_its_mask_only(self, clients: Clients, clock: ManualClock) -> None:
        """The new deadline is in force for the next delivery; labels outside the mask stay as they were."""
        update = types.Subscription(name=SUBSCRIPTION, ack_deadline_seconds=60, labels={"team": "shop"})
        mask = field_mask_pb2.FieldMask(paths=["ack_deadline_seconds"])
        updated = clients.subscriber.update_subscription(subscription=update, update_mask=mask)
        assert (updated.ack_deadline_seconds, dict(updated.labels), updated.topic) == (60, {}, TOPIC)
        clients.publish(b"x")
        clients.pull()
        clock.advance(59)
        assert clients.pull() == []

    def test_an_update_can_clear_a_field(self, clients: Clients) -> None:
        """A field in the mask that the update leaves empty is empty afterwards."""
        for labels in ({"team": "shop"}, {}):
            update = types.Topic(name=TOPIC, labels=labels)
            clients.publisher.update_topic(topic=update, update_mask=field_mask_pb2.FieldMask(paths=["labels"]))
            assert dict(clients.publisher.get_topic(topic=TOPIC).labels) == labels

    def test_listings_come_in_pages_and_by_project(self, clients: Clients) -> None:
        """Google's pager walks through all pages, sorted by name, without another project's."""
        names = [f"projects/other-project/topics/t{n:02}" for n in range(7)]
        for name in reversed(names):
            clients.publisher.create_topic(name=name)
        request = {"project": "projects/other-project", "page_size": 3}
        assert [topic.name for topic in clients.publisher.list_topics(request=request)] == names
        listed = clients.subscriber.list_subscriptions(project="projects/test-project")
        assert [subscription.name for subscription in listed] == [SUBSCRIPTION]
        assert list(clients.publisher.list_topic_subscriptions(topic=TOPIC)) == [SUBSCRIPTION]

    @pytest.mark.slow
    def test_a_page_has_a_thousand_names_at_most(self, clients: Clients) -> None:
        """Whatever page_size asks for: a response stays below what clients accept, and the rest is on the next page."""
        project = "projects/other-project"
        for number in range(1001):
            clients.publisher.create_topic(name=f"{project}/topics/t{number:04}")
        pages = clients.publisher.list_topics(request={"project": project, "page_size": 5000}).pages
        assert [len(page.topics) for page in pages] == [1000, 1]

    def test_a_subscription_outlives_its_topic(self, clients: Clients) -> None:
        """The topic's name is replaced by a mark; what was published still comes, and a new topic of that name is another."""
        clients.publish(b"x")
        clients.publisher.delete_topic(topic=TOPIC)
        clients.publisher.create_topic(name=TOPIC)
        clients.publish(b"for nobody")
        assert clients.subscriber.get_subscription(subscription=SUBSCRIPTION).topic == "_deleted-topic_"
        assert clients.pull_data() == [b"x"]

    def test_seek_to_now_purges(self, clients: Clients, clock: ManualClock) -> None:
        """Everything published before the time is gone, leased or not; what comes after is delivered."""
        clients.publish(b"leased", b"waiting")
        clients.pull(1)
        clock.advance(1)
        clients.publish(b"later")
        clients.subscriber.seek(request={"subscription": SUBSCRIPTION, "time": datetime.fromtimestamp(clock.now(), UTC)})
        clock.advance(10)
        assert clients.pull_data() == [b"later"]

    def test_the_backlog_counts_what_is_unacknowledged(self, clients: Clients, clock: ManualClock) -> None:
        """Leased messages count as undelivered too; the oldest gives the time."""
        assert read_backlog(clients.host, SUBSCRIPTION) == Backlog(0, 0, None)
        published = clock.now()
        clients.publish(b"1", b"2", b"3")
        clock.advance(5)
        clients.publish(b"4")
        received = clients.pull(2)
        assert read_backlog(clients.host, SUBSCRIPTION) == Backlog(4, 2, published)
        clients.acknowledge(*received, *clients.pull(1))
        assert read_backlog(clients.host, SUBSCRIPTION) == Backlog(1, 0, published + 5)

    def test_no_backlog_without_a_subscription_or_a_server(self, clients: Clients) -> None:
        """Both failures are ours to explain, with what to run."""
        with pytest.raises(NotFoundError, match="no subscription projects/p/subscriptions/none"):
            read_backlog(clients.host, "projects/p/subscriptions/none")
        with pytest.raises(UnavailableError, match="ecomflow infra up"):
            read_backlog("127.0.0.1:1", SUBSCRIPTION)


def publish(**message: Any) -> tuple[str, dict[str, Any]]:
    return "raw_publisher.publish", {"topic": TOPIC, "messages": [message]}


def create(**config: Any) -> tuple[str, dict[str, Any]]:
    return "subscriber.create_subscription", {"name": SUBSCRIPTION + "-2", "topic": TOPIC} | config


def acknowledge(*ack_ids: str) -> tuple[str, dict[str, Any]]:
    return "subscriber.acknowledge", {"subscription": SUBSCRIPTION, "ack_ids": ack_ids}


def modify_deadline(*ack_ids: str) -> tuple[str, dict[str, Any]]:
    request = {"subscription": SUBSCRIPTION, "ack_ids": ack_ids, "ack_deadline_seconds": 0}
    return "subscriber.modify_ack_deadline", request


def update(path: str, **config: Any) -> tuple[str, dict[str, Any]]:
    return "subscriber.update_subscription", {"subscription": {"name": SUBSCRIPTION} | config, "update_mask": {"paths": [path]}}


def call(clients: Clients, method: str, request: dict[str, Any]) -> Any:
    target: Any = clients
    for name in method.split("."):
        target = getattr(target, name)
    return target(request=request, retry=None, timeout=10)


LABELS_65 = {f"label-{number}": "" for number in range(65)}
UNKNOWN_TOPIC, UNKNOWN_SUBSCRIPTION = "projects/test-project/topics/none", "projects/test-project/subscriptions/none"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (("publisher.get_topic", {"topic": UNKNOWN_TOPIC}), "none"),
        (("publisher.delete_topic", {"topic": UNKNOWN_TOPIC}), "none"),
        (("raw_publisher.publish", {"topic": UNKNOWN_TOPIC, "messages": [{"data": b"x"}]}), "none"),
        (("publisher.list_topic_subscriptions", {"topic": UNKNOWN_TOPIC}), "none"),
        (("subscriber.get_subscription", {"subscription": UNKNOWN_SUBSCRIPTION}), "none"),
        (("subscriber.delete_subscription", {"subscription": UNKNOWN_SUBSCRIPTION}), "none"),
        (("subscriber.pull", {"subscription": UNKNOWN_SUBSCRIPTION, "max_messages": 1}), "none"),
        (("subscriber.acknowledge", {"subscription": UNKNOWN_SUBSCRIPTION, "ack_ids": ["a"]}), "none"),
        (create(topic=UNKNOWN_TOPIC), "none"),
        (create(dead_letter_policy={"dead_letter_topic": UNKNOWN_TOPIC}), "none"),
    ],
)
def test_an_unknown_resource_is_not_found(clients: Clients, request_: tuple[str, dict[str, Any]], expected: str) -> None:
    """NOT_FOUND names the resource."""
    with pytest.raises(exceptions.NotFound, match=rf"Resource not found \(resource={expected}\)"):
        call(clients, *request_)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (("publisher.create_topic", {}), "name"),
        (("publisher.get_topic", {}), "topic"),
        (("publisher.delete_topic", {}), "topic"),
        (("publisher.list_topics", {}), "project"),
        (("publisher.list_topic_subscriptions", {}), "topic"),
        (("publisher.update_topic", {"update_mask": {"paths": ["labels"]}}), "topic.name"),
        (("raw_publisher.publish", {"messages": [{"data": b"x"}]}), "topic"),
        (("subscriber.create_subscription", {"topic": TOPIC}), "name"),
        (("subscriber.create_subscription", {"name": SUBSCRIPTION + "-2"}), "topic"),
        (("subscriber.update_subscription", {"update_mask": {"paths": ["labels"]}}), "subscription.name"),
        (("subscriber.get_subscription", {}), "subscription"),
        (("subscriber.delete_subscription", {}), "subscription"),
        (("subscriber.list_subscriptions", {}), "project"),
        (("subscriber.acknowledge", {"ack_ids": ["1-1-1"]}), "subscription"),
        (("subscriber.modify_ack_deadline", {"ack_ids": ["1-1-1"]}), "subscription"),
        (("subscriber.pull", {"max_messages": 1}), "subscription"),
        (("subscriber.seek", {"time": datetime.fromtimestamp(0, UTC)}), "subscription"),
    ],
)
def test_a_missing_or_malformed_name_is_invalid(clients: Clients, request_: tuple[str, dict[str, Any]], field: str) -> None:
    """INVALID_ARGUMENT says which field of the request it is, what it has, and what was expected."""
    method, request = request_
    for name in ("", "events", "projects/test-project/snapshots/events"):
        *path, last = field.split(".")
        given = functools.reduce(lambda inner, key: {key: inner}, reversed(path), {last: name})
        expected = rf"Invalid resource name given: \({field}={name}\): expected projects/PROJECT"
        with pytest.raises(exceptions.InvalidArgument, match=expected):
            call(clients, method, request | given)


def test_attributes_of_googles_clients_are_taken(clients: Clients) -> None:
    """A client that traces its messages sets attributes which begin with googclient_."""
    clients.publisher.publish(TOPIC, b"x", googclient_traceparent="00-1-2-01").result(10)
    assert dict(clients.pull()[0].message.attributes) == {"googclient_traceparent": "00-1-2-01"}


def test_a_name_can_be_taken_once(clients: Clients) -> None:
    """ALREADY_EXISTS names the topic or subscription."""
    with pytest.raises(exceptions.AlreadyExists, match="resource=events"):
        clients.publisher.create_topic(name=TOPIC)
    with pytest.raises(exceptions.AlreadyExists, match="resource=pipeline"):
        clients.subscriber.create_subscription(name=SUBSCRIPTION, topic=TOPIC)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (publish(data=b""), "message in the publish request is empty"),
        (publish(attributes={"k" * 257: "v"}), "expected 1 to 256 bytes"),
        (publish(attributes={"goog-x": "v"}), "not starting with 'goog'"),
        (publish(attributes={"k": "v" * 1025}), "expected up to 1024 bytes"),
        (publish(attributes={f"k{n}": "v" for n in range(101)}), "has 101 attributes: expected up to 100"),
        (publish(data=b"x", ordering_key="k" * 1025), "expected up to 1024 bytes"),
        (publish(data=bytes(10**7)), "exceeds the limit: 10000000 bytes"),
        (publish(attributes={"GOOGLE": "v"}), "not starting with 'goog'"),
        (("raw_publisher.publish", {"topic": TOPIC, "messages": []}), "expected 1 to 1000"),
        (("raw_publisher.publish", {"topic": TOPIC, "messages": [{"data": b"x"}] * 1001}), "has 1001 messages"),
        (
            ("raw_publisher.publish", {"topic": TOPIC, "messages": [{"data": b"x", "ordering_key": key} for key in "ab"]}),
            "same ordering key",
        ),
        (("publisher.create_topic", {"name": "events"}), r"\(name=events\): expected projects/PROJECT/topics/ID"),
        (("publisher.create_topic", {"name": "projects/test-project/topics/1x"}), "starting with a letter"),
        (("publisher.create_topic", {"name": "projects/test-project/topics/google"}), "not with 'goog'"),
        (create(name="projects/test-project/topics/events"), "expected projects/PROJECT/subscriptions/ID"),
        (create(ack_deadline_seconds=9), "ack_deadline_seconds=9.*expected 10 to 600"),
        (create(ack_deadline_seconds=601), "ack_deadline_seconds=601.*expected 10 to 600"),
        (create(message_retention_duration=timedelta(seconds=599)), "message_retention_duration=599"),
        (create(retry_policy={"minimum_backoff": timedelta(seconds=601)}), "minimum_backoff=601"),
        (create(dead_letter_policy={"dead_letter_topic": TOPIC, "max_delivery_attempts": 4}), "max_delivery_attempts=4"),
        (update("topic", topic=TOPIC), r"Invalid update_mask provided: \(topic\)"),
        (update("colour"), r"Invalid update_mask provided: \(colour\)"),
        (update("ack_deadline_seconds", ack_deadline_seconds=5), "ack_deadline_seconds=5"),
        (("subscriber.pull", {"subscription": SUBSCRIPTION, "max_messages": 0}), "expected 1 or more"),
        (("subscriber.acknowledge", {"subscription": SUBSCRIPTION}), "No ack ids specified"),
        (acknowledge("a"), r"invalid ack ID to the service \(ack_id=a\)"),
        (acknowledge(*["1-1-" + "9" * 245] * 2088), "exceeds the limit: 524288 bytes"),
        (modify_deadline("a"), r"invalid ack ID to the service \(ack_id=a\)"),
        (modify_deadline(*["1-1-" + "9" * 245] * 2088), "exceeds the limit: 524288 bytes"),
        (("publisher.create_topic", {"name": TOPIC + "-2", "message_retention_duration": timedelta(minutes=1)}), "=60"),
        (("publisher.create_topic", {"name": TOPIC + "-2", "message_retention_duration": timedelta(days=32)}), "=2.7648e"),
        (("publisher.create_topic", {"name": TOPIC + "-2", "labels": LABELS_65}), "has 65 labels: expected up to 64"),
        (create(labels=LABELS_65), "has 65 labels: expected up to 64"),
        (create(labels={"k" * 64: "v"}), "expected up to 63 lowercase letters"),
        (create(labels={"k": "v" * 64}), "expected up to 63 lowercase letters"),
        (create(labels={"Team": "shop"}), r"Invalid label given: \(Team=shop\)"),
        (create(labels={"1st": "shop"}), r"Invalid label given: \(1st=shop\)"),
        (create(labels={"team": "the shop"}), r"Invalid label given: \(team=the shop\)"),
        (create(expiration_policy={"ttl": timedelta(hours=23)}), r"ttl=82800\): expected at least 86400"),
        (create(dead_letter_policy={}), r"\(dead_letter_policy.dead_letter_topic=\)"),
        (("publisher.list_topics", {"project": "projects/test-project", "page_size": -1}), r"page_size given: \(-1\)"),
        (
            ("subscriber.modify_ack_deadline", {"subscription": SUBSCRIPTION, "ack_ids": ["a"], "ack_deadline_seconds": 601}),
            "expected 0 to 600",
        ),
    ],
)
def test_what_the_service_would_refuse_is_refused(clients: Clients, request_: tuple[str, dict[str, Any]], expected: str) -> None:
    """INVALID_ARGUMENT says what was expected."""
    with pytest.raises(exceptions.InvalidArgument, match=expected):
        call(clients, *request_)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (create(filter='attributes.type = "order"'), "filters"),
        (create(push_config={"push_endpoint": "https://example.com"}), "push delivery"),
        (create(bigquery_config={"table": "p.d.t"}), "BigQuery subscriptions"),
        (create(cloud_storage_config={"bucket": "b"}), "Cloud Storage subscriptions"),
        (create(enable_exactly_once_delivery=True), "exactly-once delivery"),
        (create(message_transforms=[{"disabled": True}]), "message transforms"),
        (update("enable_exactly_once_delivery", enable_exactly_once_delivery=True), "exactly-once delivery"),
        (("publisher.create_topic", {"name": TOPIC + "-2", "schema_settings": {"schema": "projects/p/schemas/s"}}), "schemas"),
        (("publisher.list_topic_snapshots", {"topic": TOPIC}), "snapshots"),
        (("publisher.detach_subscription", {"subscription": SUBSCRIPTION}), "detaching subscriptions"),
        (("subscriber.create_snapshot", {"name": "projects/p/snapshots/s", "subscription": SUBSCRIPTION}), "snapshots"),
        (("subscriber.modify_push_config", {"subscription": SUBSCRIPTION, "push_config": {}}), "push delivery"),
        (("subscriber.seek", {"subscription": SUBSCRIPTION, "snapshot": "projects/p/snapshots/s"}), "Seek to a snapshot"),
    ],
)
def test_what_is_lacking_is_unimplemented(clients: Clients, request_: tuple[str, dict[str, Any]], expected: str) -> None:
    """UNIMPLEMENTED names what the local Pub/Sub lacks and the service has."""
    with pytest.raises(exceptions.MethodNotImplemented, match=f"local Pub/Sub does not support this: {expected}"):
        call(clients, *request_)


def test_acknowledged_messages_cannot_be_brought_back(clients: Clients, clock: ManualClock) -> None:
    """Seek to before an acknowledged message is UNIMPLEMENTED, not a silent half."""
    clients.publish(b"x")
    clients.acknowledge(*clients.pull())
    before = datetime.fromtimestamp(clock.now() - 1, UTC)
    with pytest.raises(exceptions.MethodNotImplemented, match="acknowledged"):
        clients.subscriber.seek(request={"subscription": SUBSCRIPTION, "time": before})


class TestRestart:
    def test_exactly_what_is_unacknowledged_comes_after_a_restart(self, tmp_path: Path) -> None:
        """Topics, subscriptions and open messages are as before; leases have lapsed; ids of the earlier life mean nothing."""
        with clients_of_server(tmp_path) as clients:
            clients.create(ack_deadline_seconds=77)
            clients.publish(b"done", b"leased", b"waiting")
            done, leased = clients.pull(2)
            clients.acknowledge(done)
        with clients_of_server(tmp_path) as clients:
            assert clients.subscriber.get_subscription(subscription=SUBSCRIPTION).ack_deadline_seconds == 77
            clients.acknowledge(leased)
            received = clients.pull()
            assert [(one.message.data, one.message.message_id) for one in received][:1] == [
                (b"leased", leased.message.message_id)
            ]
            assert data_of(received) == [b"leased", b"waiting"]

    def test_deleted_resources_stay_deleted(self, tmp_path: Path) -> None:
        """A subscription created anew under an old name starts empty, also after a restart."""
        with clients_of_server(tmp_path) as clients:
            clients.create()
            clients.publish(b"x")
            clients.subscriber.delete_subscription(subscription=SUBSCRIPTION)
            clients.subscriber.create_subscription(name=SUBSCRIPTION, topic=TOPIC)
        with clients_of_server(tmp_path) as clients:
            assert clients.pull() == []
            clients.publisher.delete_topic(topic=TOPIC)
        with clients_of_server(tmp_path) as clients:
            assert clients.subscriber.get_subscription(subscription=SUBSCRIPTION).topic == "_deleted-topic_"
            assert list(clients.publisher.list_topics(project="projects/test-project")) == []

    def test_message_ids_are_never_used_again(self, tmp_path: Path, clock: ManualClock) -> None:
        """Even where the clock stands still and every message was acknowledged, a new message has a new id."""
        ids: list[str] = []
        for life in range(3):
            with clients_of_server(tmp_path, clock) as clients:
                if life == 0:
                    clients.create()
                ids += clients.publish(b"x", b"y")
                clients.acknowledge(*clients.pull())
        assert len(set(ids)) == 6

    def test_compaction_bounds_the_log_and_loses_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With one subscription done and one behind, the file stays near what is open, and a restart brings exactly that."""
        monkeypatch.setattr(broker, "COMPACTION_SLACK_BYTES", 100_000)
        behind = SUBSCRIPTION + "-behind"
        with clients_of_server(tmp_path) as clients:
            clients.create()
            clients.publish(b"kept")
            clients.subscriber.create_subscription(name=behind, topic=TOPIC)
            clients.publish(b"kept by both")
            clients.pull()
            for _ in range(30):
                clients.publish(*[bytes(1000)] * 50)
                clients.acknowledge(*clients.pull())
                received = clients.pull(subscription=behind)
                clients.acknowledge(*[one for one in received if len(one.message.data) == 1000], subscription=behind)
            assert (tmp_path / "pubsub.log").stat().st_size < 250_000
        with clients_of_server(tmp_path) as clients:
            assert clients.pull_data() == [b"kept", b"kept by both"]
            assert clients.pull_data(subscription=behind) == [b"kept by both"]

    @pytest.mark.parametrize(
        ("number", "expected"), [(errno.ENOSPC, exceptions.ResourceExhausted), (errno.EIO, exceptions.ServiceUnavailable)]
    )
    def test_a_publish_that_cannot_be_logged_is_refused_whole(
        self, clients: Clients, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception]
    ) -> None:
        """The status says that the log cannot be written; nothing was published; when there is room again all is well."""

        def fail(*_: object) -> int:
            raise OSError(number, os.strerror(number))

        request = {"topic": TOPIC, "messages": [{"data": b"x"}]}
        with monkeypatch.context() as fault:
            fault.setattr(os, "pwrite", fail)
            with pytest.raises(expected, match=r"pubsub\.log can't be written: .* Nothing was changed"):
                clients.raw_publisher.publish(request=request, retry=None)
        assert clients.pull() == []
        clients.raw_publisher.publish(request=request, retry=None)
        assert clients.pull_data() == [b"x"]
