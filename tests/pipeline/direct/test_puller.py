"""The puller against the local Pub/Sub: what it takes, what it gives back, how far it runs ahead, and what it makes of faults."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core import exceptions

from ecomflow.config import Endpoints
from ecomflow.errors import AccessError, EcomflowError, NotFoundError, UnavailableError
from ecomflow.gcp.clients import subscriber_client
from ecomflow.local.pubsub.queue import Options
from ecomflow.local.pubsub.server import read_backlog
from ecomflow.pipeline.counters import Counters
from ecomflow.pipeline.direct.pace import MOST_PULLS
from ecomflow.pipeline.direct.puller import BOUNDS, PulledBatch, Puller
from tests.support.local_pubsub import SUBSCRIPTION, Clients, ManualClock, ServerProcess, clients_of_server
from tests.support.pipeline import PUBLISHED, config_for
from tests.support.waiting import holds, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:The return_immediately flag is deprecated:DeprecationWarning")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def clients(tmp_path: Path, clock: ManualClock) -> Iterator[Clients]:
    """Clients of a server with one topic and one subscription, and time that stands still."""
    with clients_of_server(tmp_path, clock) as clients:
        clients.create(ack_deadline_seconds=10)
        yield clients


@pytest.fixture
def puller(clients: Clients, clock: ManualClock) -> Iterator[Puller]:
    with pulling(clients.host, clock=clock.now) as puller:
        yield puller


@contextmanager
def pulling(host: str, deadline: int = 10, **options: Any) -> Iterator[Puller]:
    puller = Puller(config_for(deadline, pubsub=host), Counters(), **options)
    try:
        yield puller
    finally:
        puller.close()


def take(puller: Puller, most: int = 10_000) -> PulledBatch:
    batch = puller.take(most, 10)
    assert batch is not None
    return batch


def undelivered(clients: Clients) -> int:
    return read_backlog(clients.host, SUBSCRIPTION).num_undelivered_messages


def outstanding(clients: Clients) -> int:
    return read_backlog(clients.host, SUBSCRIPTION).num_outstanding_messages


def test_take_brings_a_message_whole(clients: Clients, puller: Puller) -> None:
    """Data, attributes, ordering key, message id and publish time (in microseconds) are those of the published message."""
    sent = {"data": b"\x00 one", "attributes": {"event_id": "e-1", "Ö": "ü"}, "ordering_key": "O-1"}
    ids = clients.raw_publisher.publish(topic="projects/test-project/topics/events", messages=[sent]).message_ids
    (message,) = take(puller).messages
    assert message.data == b"\x00 one"
    assert message.attributes == {"event_id": "e-1", "Ö": "ü"}
    assert message.ordering_key == "O-1"
    assert [message.message_id] == list(ids)
    assert message.publish_time == PUBLISHED


def test_take_joins_what_was_pulled(clients: Clients, puller: Puller) -> None:
    """Several pulls make one batch, whose acknowledgement takes several requests and is whole."""
    for start in range(0, 2500, 500):
        clients.publish(*(b"%d" % number for number in range(start, start + 500)))
    wait_until(lambda: outstanding(clients) == 2500)
    wait_until(lambda: sum(len(batch.messages) for batch in puller._ready) == 2500)
    batch = take(puller)
    assert sorted(int(message.data) for message in batch.messages) == list(range(2500))
    assert len(batch.ack_ids) == 2500
    assert batch.size == sum(len(str(number)) for number in range(2500))
    puller.acknowledge(batch)
    assert undelivered(clients) == 0


def test_take_stops_at_most(clients: Clients, puller: Puller) -> None:
    """A batch ends with the pull that fills it, and the next begins after it."""
    for _ in range(3):
        clients.publish(*([b"x"] * 1000))
    wait_until(lambda: sum(len(batch.messages) for batch in puller._ready) == 3000)
    assert [len(take(puller, 1500).messages) for _ in range(2)] == [2000, 1000]


def test_take_waits_no_longer_than_asked(puller: Puller) -> None:
    """Where nothing comes there is nothing to take after so many seconds, and the puller is not stopped."""
    began = time.monotonic()
    assert puller.take(10, 0.2) is None
    assert 0.2 <= time.monotonic() - began < 5
    assert not puller.stopped


def test_acknowledged_messages_are_gone(clients: Clients, puller: Puller, clock: ManualClock) -> None:
    """What was acknowledged never comes again; what was not does when its deadline has passed."""
    clients.publish(b"done")
    puller.acknowledge(take(puller))
    clients.publish(b"not done")
    take(puller)
    clock.advance(11)
    assert [message.data for message in take(puller).messages] == [b"not done"]


def test_close_gives_everything_back_at_once(clients: Clients, clock: ManualClock) -> None:
    """What was read and what was not are there for the next consumer without a wait, and the threads have ended."""
    before = threading.active_count()
    with pulling(clients.host, clock=clock.now) as puller:
        clients.publish(b"read")
        take(puller)
        clients.publish(b"unread")
        wait_until(lambda: outstanding(clients) == 2 and len(puller._ready) == 1)
    assert sorted(clients.pull_data()) == [b"read", b"unread"]
    assert [thread.name for thread in threading.enumerate() if thread.name in ("pull", "lease")] == []
    assert threading.active_count() <= before + 1  # gRPC keeps one of its own


def test_release_makes_messages_come_again(clients: Clients, puller: Puller) -> None:
    """Released messages come again to the same puller, though time stands still."""
    clients.publish(b"again")
    first = take(puller)
    puller.release()
    second = take(puller)
    assert [message.data for message in second.messages] == [b"again"]
    assert first.ack_ids != second.ack_ids


def test_stop_keeps_the_current_batch(clients: Clients, puller: Puller) -> None:
    """After stop nothing is pulled anymore; unread messages are released, and the current batch can still be acknowledged."""
    clients.publish(b"in flight")
    batch = take(puller)
    clients.publish(b"unread")
    wait_until(lambda: len(puller._ready) == 1)
    puller.stop()
    assert puller.stopped
    assert puller.take(10, 5) is None
    assert clients.pull_data() == [b"unread"]
    puller.acknowledge(batch)
    assert undelivered(clients) == 1


def test_runs_ahead_within_a_number_of_messages(clients: Clients, clock: ManualClock) -> None:
    """Pulling stops at a bound of messages unread, and goes on when they are taken."""
    for _ in range(5):
        clients.publish(*([b"x"] * 1000))
    with pulling(clients.host, clock=clock.now, bounds=BOUNDS._replace(messages_ahead=2000)) as puller:
        wait_until(lambda: outstanding(clients) >= 2000)
        assert holds(lambda: outstanding(clients) == 2000)
        take(puller, 1000)
        wait_until(lambda: outstanding(clients) >= 3000)
        assert holds(lambda: outstanding(clients) == 3000, 0.1)


def test_runs_ahead_within_a_number_of_bytes(clients: Clients, clock: ManualClock) -> None:
    """Pulling stops at a bound of bytes unread, however few messages they are."""
    clients.publish(b"x" * 60_000, b"y" * 60_000)
    with pulling(clients.host, clock=clock.now, bounds=BOUNDS._replace(bytes_ahead=100_000)) as puller:
        wait_until(lambda: outstanding(clients) == 2)
        clients.publish(b"z")
        assert holds(lambda: outstanding(clients) == 2)
        take(puller)
        wait_until(lambda: outstanding(clients) == 3)


def test_a_batch_ends_at_a_number_of_bytes(clients: Clients, clock: ManualClock) -> None:
    """Pulls are joined to one batch until it has so many bytes, however few messages they are."""
    with pulling(clients.host, clock=clock.now, bounds=BOUNDS._replace(batch_bytes=100_000)) as puller:
        for number, letter in enumerate((b"x", b"y", b"z"), 1):
            clients.publish(letter * 60_000)
            wait_until(lambda wanted=number: len(puller._ready) == wanted)  # a pull each
        assert [message.data[:1] for message in take(puller).messages] == [b"x", b"y"]
        assert [message.data[:1] for message in take(puller).messages] == [b"z"]


@contextmanager
def server_with(folder: Path, **options: Any) -> Iterator[Clients]:
    """Clients of a server with these options, one topic and one subscription."""
    with clients_of_server(folder, options=Options(**options)) as clients:
        clients.create(ack_deadline_seconds=60)
        yield clients


def take_and_acknowledge(puller: Puller, count: int) -> list[str]:
    """The ids of ``count`` messages."""
    ids: list[str] = []
    while len(ids) < count:
        batch = take(puller)
        ids += [message.message_id for message in batch.messages]
        puller.acknowledge(batch)
    return ids


def an_hour_later() -> float:
    """Seen from then, all messages have been waiting."""
    return time.time() + 3600


@pytest.mark.slow
def test_pulls_are_outstanding_at_once(tmp_path: Path) -> None:
    """Where pulls bring ten of a backlog each, sixteen are outstanding in the end; when nothing more comes, one is left."""
    with server_with(tmp_path, messages_per_pull=10, hold_seconds=1) as clients:
        sent = clients.publish(*[b"x"] * 1000)
        with pulling(clients.host, 60, now=an_hour_later) as puller:
            assert sorted(take_and_acknowledge(puller, 1000)) == sorted(sent)
            wait_until(lambda: read_backlog(clients.host, SUBSCRIPTION).num_waiting_pulls == MOST_PULLS)
            wait_until(lambda: read_backlog(clients.host, SUBSCRIPTION).num_waiting_pulls == 1)
            assert undelivered(clients) == 0


def test_what_outstanding_pulls_may_bring_counts(tmp_path: Path) -> None:
    """Sixteen pulls ask together for no more messages than may be held unread."""
    with server_with(tmp_path, messages_per_pull=10) as clients:
        clients.publish(*[b"x"] * 1000)
        with pulling(clients.host, 60, now=an_hour_later, bounds=BOUNDS._replace(messages_ahead=200)) as puller:
            take_and_acknowledge(puller, 500)
            wait_until(lambda: outstanding(clients) > 180)
            assert holds(lambda: outstanding(clients) <= 200, 0.3)


def test_bytes_that_were_not_foreseen_are_given_back(tmp_path: Path) -> None:
    """Large messages that follow small ones come to all outstanding pulls; what exceeds the bound goes back."""
    with server_with(tmp_path, messages_per_pull=1) as clients:
        clients.publish(*[b"x"] * 100)
        with pulling(clients.host, 60, now=an_hour_later, bounds=BOUNDS._replace(bytes_ahead=100_000)) as puller:
            take_and_acknowledge(puller, 100)
            wait_until(lambda: read_backlog(clients.host, SUBSCRIPTION).num_waiting_pulls == MOST_PULLS)
            clients.publish(*[bytes(60_000)] * 10)
            wait_until(lambda: read_backlog(clients.host, SUBSCRIPTION).num_waiting_pulls == 0 and outstanding(clients) == 2)
            assert len(puller._ready) == 2
            assert holds(lambda: outstanding(clients) == 2)
            assert len(take_and_acknowledge(puller, 10)) == 10


def test_long_ack_ids_are_all_reported(tmp_path: Path) -> None:
    """Ids of 500 characters, of which 2,000 would not fit in a request: each message comes once, is extended and acknowledged."""
    with server_with(tmp_path, ack_id_length=500) as clients:
        sent = [message_id for _ in range(5) for message_id in clients.publish(*[b"x"] * 1000)]
        with pulling(clients.host, 60) as puller:
            wait_until(lambda: sum(len(batch.messages) for batch in puller._ready) == 5000)
            batch = take(puller)
            batch.extended_at -= 30
            puller.extend_due()
            assert batch.extended_at > 0
            puller.acknowledge(batch)
            assert undelivered(clients) == 0
            assert sorted(message.message_id for message in batch.messages) == sorted(sent)
            clients.publish(*[b"y"] * 1000)
            wait_until(lambda: len(puller._ready) == 1)
        assert outstanding(clients) == 0  # released, in requests that the service takes


class Connection:
    """A connection to Pub/Sub, some of whose calls are the test's."""

    def __init__(self, client: Any, **calls: Callable[..., Any]) -> None:
        self._client = client
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        return self._calls.get(name) or getattr(self._client, name)


def connecting(**calls: Callable[..., Any]) -> Callable[[Endpoints], Any]:
    """Connect as ever, but for ``calls``."""
    return lambda endpoints: Connection(subscriber_client(endpoints), **calls)


def test_a_release_comes_in_portions(clients: Clients, clock: ManualClock) -> None:
    """Requests of a thousand ids at most, one after the other, give back what was leased, once, and nothing else."""
    requests: list[list[str]] = []
    for _ in range(5):
        clients.publish(*[b"x"] * 900)

    def noting(request: Any, **options: Any) -> None:
        requests.append(list(request.ack_ids))
        clients.subscriber.modify_ack_deadline(request, **options)

    with pulling(clients.host, clock=clock.now, connect=connecting(modify_ack_deadline=noting)) as puller:
        wait_until(lambda: sum(len(batch.messages) for batch in puller._ready) == 4500)
        done, held = take(puller, 900), take(puller, 1800)
        puller.acknowledge(done)
        requests.clear()
    ids = [ack_id for part in requests for ack_id in part]
    assert max(map(len, requests)) <= 1000
    left = 4500 - len(done.messages)
    assert (len(ids), len(set(ids))) == (left, left)
    assert set(held.ack_ids) <= set(ids)
    assert (outstanding(clients), undelivered(clients)) == (0, left)


def test_a_pull_waits_longer_than_the_service() -> None:
    """The deadline that Pub/Sub sees is 60 to 90 seconds: it answers first, so nothing is leased to a client that left."""
    remaining: list[float] = []

    def look(_: bytes, context: grpc.ServicerContext) -> bytes:
        remaining.append(context.time_remaining())
        return b""

    with answering_pubsub(look) as host, pulling(host):
        wait_until(lambda: len(remaining) > 3)
    assert 60 <= min(remaining) <= max(remaining) < 91


@pytest.mark.slow
def test_an_event_after_a_pause_comes_at_once(tmp_path: Path) -> None:
    """Eleven quiet seconds, within which the service still holds the pull, lead to no lease that nobody has."""
    with server_with(tmp_path, hold_seconds=30) as clients, pulling(clients.host, 60) as puller:
        assert puller.take(10, 11) is None
        clients.publish(b"x")
        assert [message.data for message in take(puller).messages] == [b"x"]
        assert read_backlog(clients.host, SUBSCRIPTION).num_leased_to_departed == 0


def test_stop_does_not_wait_for_outstanding_pulls(tmp_path: Path) -> None:
    """Sixteen pulls that the service would hold for minutes end at once, and no message is leased to them afterwards."""
    with server_with(tmp_path, messages_per_pull=1, hold_seconds=300) as clients:
        clients.publish(*[b"x"] * 100)
        with pulling(clients.host, 60, now=an_hour_later) as puller:
            take_and_acknowledge(puller, 100)
            wait_until(lambda: read_backlog(clients.host, SUBSCRIPTION).num_waiting_pulls == MOST_PULLS)
            began = time.monotonic()
            puller.stop()
            assert time.monotonic() - began < 3
            assert [thread.name for thread in threading.enumerate() if thread.name == "pull"] == []
        wait_until(lambda: read_backlog(clients.host, SUBSCRIPTION).num_waiting_pulls == 0)
        clients.publish(b"next")
        assert clients.pull_data() == [b"next"]
        assert read_backlog(clients.host, SUBSCRIPTION).num_leased_to_departed == 0


@pytest.mark.slow
@pytest.mark.stack
def test_a_distant_service_is_pulled_fast(tmp_path: Path) -> None:
    """At a round trip of 50 ms and 100 messages a pull, where one pull at a time would bring 1,900 a second."""
    with ServerProcess(tmp_path, 0, "--round-trip", "0.05", "--messages-per-pull", "100") as server:
        clients = Clients(server.host)
        clients.create(ack_deadline_seconds=60)
        for _ in range(15):
            clients.publish(*[b"x" * 400] * 1000)
        with pulling(server.host, 60) as puller:
            began = time.monotonic()
            take_and_acknowledge(puller, 15_000)
            assert 15_000 / (time.monotonic() - began) >= 3000
        clients.close()


def test_extends_what_is_held_longer_than_the_deadline(clients: Clients, puller: Puller, clock: ManualClock) -> None:
    """A batch held for four deadlines is still leased and can be acknowledged; so is one that nobody has read yet."""
    clients.publish(b"in flight")
    batch = take(puller)
    clients.publish(b"unread")
    wait_until(lambda: len(puller._ready) == 1)
    for _ in range(10):
        clock.advance(4)
        puller.extend_due()
    assert outstanding(clients) == 2
    puller.acknowledge(batch)
    clock.advance(11)
    assert holds(lambda: undelivered(clients) == 1, 0.05)


def test_extends_only_what_is_due(clients: Clients, puller: Puller, clock: ManualClock) -> None:
    """A lease younger than a third of the deadline is left alone."""
    clients.publish(b"young")
    batch = take(puller)
    clock.advance(3)
    puller.extend_due()
    assert batch.extended_at == clock.now() - 3
    clock.advance(1)
    puller.extend_due()
    assert batch.extended_at == clock.now()


def test_a_thread_extends_until_close(clients: Clients) -> None:
    """Leases are extended unasked, also while the last batch is finished after stop."""
    clients.publish(b"slow")
    with pulling(clients.host, deadline=1) as puller:
        batch = take(puller)
        puller.stop()
        begun = batch.extended_at
        wait_until(lambda: batch.extended_at > begun)


@pytest.mark.stack
def test_waits_for_a_server_that_is_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While Pub/Sub is down the puller says that it waits; when it is back on its port, messages come."""
    server = ServerProcess(tmp_path)
    clients = Clients(server.host)
    clients.create()
    with pulling(server.host) as puller, caplog.at_level(logging.WARNING):
        server.kill()
        wait_until(lambda: "Waiting for Pub/Sub" in caplog.text)
        server = ServerProcess(tmp_path, int(server.host.rpartition(":")[2]))
        clients.close()
        clients = Clients(server.host)
        clients.publish(b"back")
        assert [message.data for message in take(puller).messages] == [b"back"]
    clients.close()
    server.terminate()


def test_a_missing_subscription_is_reported(clients: Clients, clock: ManualClock) -> None:
    """take raises NotFoundError with the subscription's name and what to run, each time."""
    clients.subscriber.delete_subscription(subscription=SUBSCRIPTION)
    with pulling(clients.host, clock=clock.now) as puller:
        for _ in range(2):
            with pytest.raises(NotFoundError) as caught:
                puller.take(1, 10)
            assert SUBSCRIPTION in caught.value.message
            assert caught.value.remedy == "Run: ecomflow infra up"


@contextmanager
def answering_pubsub(answer: Callable[[bytes, grpc.ServicerContext], bytes | None]) -> Iterator[str]:
    """A Pub/Sub of which ``answer`` answers every request."""

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, _: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(4), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, AccessError, "roles/pubsub.subscriber"),
        (grpc.StatusCode.UNAUTHENTICATED, AccessError, "roles/pubsub.subscriber"),
        (grpc.StatusCode.INVALID_ARGUMENT, EcomflowError, "ecomflow infra status"),
    ],
)
def test_a_refused_pull_is_reported(code: grpc.StatusCode, kind: type[EcomflowError], words: str) -> None:
    """take raises what waiting can't fix, with what to do."""

    def refuse(_: bytes, context: grpc.ServicerContext) -> None:
        context.abort(code, "refused by the test")

    with answering_pubsub(refuse) as host, pulling(host) as puller:
        with pytest.raises(kind) as caught:
            puller.take(1, 10)
        assert type(caught.value) is kind
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "fault",
    [exceptions.InternalServerError("by the test"), exceptions.RetryError("by the test", None), ValueError("closed channel")],
)
def test_a_failed_acknowledgement_is_no_error(
    clients: Clients, clock: ManualClock, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """If the acknowledgement fails, a warning says how many messages will be redelivered, and nothing else happens."""
    clients.publish(b"one", b"two")
    with pulling(clients.host, clock=clock.now, connect=connecting(acknowledge=_raiser(fault))) as puller:
        puller.acknowledge(take(puller))
        assert "2 messages will be redelivered" in caplog.text
        assert undelivered(clients) == 2


def _raiser(error: Exception) -> Callable[..., None]:
    def raise_it(*_: Any, **__: Any) -> None:
        raise error

    return raise_it


def test_a_fault_in_the_pulling_reaches_the_reader(clients: Clients, clock: ManualClock) -> None:
    """Whatever the pulling thread dies of, take raises it, so that the engine restarts; the messages come again."""
    with (
        pulling(clients.host, clock=clock.now, connect=connecting(pull=_raiser(KeyError("colour")))) as puller,
        pytest.raises(UnavailableError, match=r"Pulling from \S+ failed: KeyError: 'colour'"),
    ):
        puller.take(10, 10)
