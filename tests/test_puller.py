"""The puller against the local Pub/Sub: what it takes, what it gives back, how far it runs ahead, and what it makes of faults."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from local_pubsub_support import SUBSCRIPTION, Clients, ManualClock, ServerProcess, clients_of_server, wait_until
from pipeline_support import PUBLISHED, config_for, holds

from ecomflow.errors import AccessError, EcomflowError, NotFoundError, UnavailableError
from ecomflow.local.pubsub import read_backlog
from ecomflow.pipeline import puller as puller_module
from ecomflow.pipeline.puller import PulledBatch, Puller, close_puller, shared_puller

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
    puller = Puller(config_for(deadline, pubsub=host), **options)
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
    """Data, attributes, message id and publish time (in microseconds) are those of the published message."""
    sent = {"data": b"\x00 one", "attributes": {"event_id": "e-1", "Ö": "ü"}}
    ids = clients.raw_publisher.publish(topic="projects/test-project/topics/events", messages=[sent]).message_ids
    (message,) = take(puller).messages
    assert message.data == b"\x00 one"
    assert message.attributes == {"event_id": "e-1", "Ö": "ü"}
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
    """Where nothing comes there is nothing to take, and the puller is not stopped."""
    assert puller.take(10, 0.01) is None
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


def test_stop_leaves_the_batch_in_hand(clients: Clients, puller: Puller) -> None:
    """After stop nothing is taken any more; the unread is given back, and the batch in hand can still be acknowledged."""
    clients.publish(b"in hand")
    batch = take(puller)
    clients.publish(b"unread")
    wait_until(lambda: len(puller._ready) == 1)
    puller.stop()
    assert puller.stopped
    assert puller.take(10, 5) is None
    assert clients.pull_data() == [b"unread"]
    puller.acknowledge(batch)
    assert undelivered(clients) == 1


def test_runs_ahead_within_a_number_of_messages(clients: Clients, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pulling stops at AHEAD_MESSAGES unread, and goes on when they are taken."""
    monkeypatch.setattr(puller_module, "AHEAD_MESSAGES", 2000)
    for _ in range(5):
        clients.publish(*([b"x"] * 1000))
    with pulling(clients.host, clock=clock.now) as puller:
        wait_until(lambda: outstanding(clients) >= 2000)
        assert holds(lambda: outstanding(clients) == 2000)
        take(puller, 1000)
        wait_until(lambda: outstanding(clients) >= 3000)
        assert holds(lambda: outstanding(clients) == 3000, 0.1)


def test_runs_ahead_within_a_number_of_bytes(clients: Clients, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pulling stops at AHEAD_BYTES unread, however few messages they are."""
    monkeypatch.setattr(puller_module, "AHEAD_BYTES", 100_000)
    clients.publish(b"x" * 60_000, b"y" * 60_000)
    with pulling(clients.host, clock=clock.now) as puller:
        wait_until(lambda: outstanding(clients) == 2)
        clients.publish(b"z")
        assert holds(lambda: outstanding(clients) == 2)
        take(puller)
        wait_until(lambda: outstanding(clients) == 3)


def test_a_batch_ends_at_a_number_of_bytes(clients: Clients, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pulls are joined to one batch until it has BATCH_BYTES, however few messages they are."""
    monkeypatch.setattr(puller_module, "BATCH_BYTES", 100_000)
    with pulling(clients.host, clock=clock.now) as puller:
        for number, letter in enumerate((b"x", b"y", b"z"), 1):
            clients.publish(letter * 60_000)
            wait_until(lambda wanted=number: outstanding(clients) == wanted)  # a pull each
        assert [message.data[:1] for message in take(puller).messages] == [b"x", b"y"]
        assert [message.data[:1] for message in take(puller).messages] == [b"z"]


def test_extends_what_is_held_longer_than_the_deadline(clients: Clients, puller: Puller, clock: ManualClock) -> None:
    """A batch held for four deadlines is still leased and can be acknowledged; so is one that nobody has read yet."""
    clients.publish(b"in hand")
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


def test_a_missing_subscription_is_told(clients: Clients, clock: ManualClock) -> None:
    """take raises NotFoundError with the subscription's name and what to run, each time."""
    clients.subscriber.delete_subscription(subscription=SUBSCRIPTION)
    with pulling(clients.host, clock=clock.now) as puller:
        for _ in range(2):
            with pytest.raises(NotFoundError) as caught:
                puller.take(1, 10)
            assert SUBSCRIPTION in caught.value.message
            assert caught.value.remedy == "Run: ecomflow infra up"


@contextmanager
def refusing_pubsub(code: grpc.StatusCode) -> Iterator[str]:
    """A Pub/Sub that answers every request with ``code``."""

    def refuse(_: bytes, context: grpc.ServicerContext) -> None:
        context.abort(code, "told to refuse")

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, _: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(refuse)

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
def test_a_refused_pull_is_told(code: grpc.StatusCode, kind: type[EcomflowError], words: str) -> None:
    """take raises what no wait mends, with what to do."""
    with refusing_pubsub(code) as host, pulling(host) as puller:
        with pytest.raises(kind) as caught:
            puller.take(1, 10)
        assert type(caught.value) is kind
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "fault", [exceptions.InternalServerError("told to"), exceptions.RetryError("told to", None), ValueError("closed channel")]
)
def test_a_failed_acknowledgement_is_no_error(
    clients: Clients, puller: Puller, fault: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where Pub/Sub can't be told, a warning says how many messages come again, and nothing else happens."""
    clients.publish(b"one", b"two")
    batch = take(puller)
    monkeypatch.setattr(puller._client, "acknowledge", _raiser(fault))
    puller.acknowledge(batch)
    assert "2 messages will come again" in caplog.text
    assert undelivered(clients) == 2


def _raiser(error: Exception) -> Callable[..., None]:
    def raise_it(*_: Any, **__: Any) -> None:
        raise error

    return raise_it


def test_a_process_shares_one_puller(clients: Clients) -> None:
    """The same settings give the same puller until it is closed, then a new one; closing twice is no error."""
    config = config_for(pubsub=clients.host)
    first = shared_puller(config)
    assert shared_puller(config) is first
    close_puller(config)
    close_puller(config)
    second = shared_puller(config)
    assert second is not first
    close_puller(config)


def test_a_fault_in_the_pulling_reaches_the_reader(clients: Clients, puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the pulling thread dies of, take raises it, so that the engine restarts; the messages come again."""

    def broken(_: object) -> Any:
        raise KeyError("colour")

    monkeypatch.setattr(puller_module, "_message", broken)
    clients.publish(b"1")
    with pytest.raises(UnavailableError, match=r"The pulling of \S+ failed: KeyError: 'colour'"):
        wait_until(lambda: puller.take(10, 0.1))
