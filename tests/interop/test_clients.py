"""Google's clients for Node and Go at the embedded Pub/Sub: what they publish they receive, acknowledge, refuse and lose."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from ecomflow.local.pubsub.server import read_backlog
from ecomflow.local.pubsub.services import Subscriber
from tests.interop.programs import Delivery, Program, deliveries_in
from tests.support.local_pubsub import SUBSCRIPTION, TOPIC, Clients, clients_of_server
from tests.support.waiting import holds, wait_until

# Not counting the installation of the clients, which takes minutes where nothing of them is cached.
pytestmark = [pytest.mark.interop, pytest.mark.stack, pytest.mark.timeout(240, func_only=True)]

# The clients ask an idle stream for a sign of life every 30 s, and open another one 15 s later if there is none.
_IDLE_SECONDS = 65.0


def numbers_of(deliveries: list[Delivery]) -> list[int]:
    return [delivery.number for delivery in deliveries]


def nothing_is_left(admin: Clients) -> None:
    """Wait until every message is acknowledged."""
    wait_until(lambda: read_backlog(admin.host, SUBSCRIPTION).num_undelivered_messages == 0, "the subscription is empty", 20)


class TestReceiving:
    def test_each_message_arrives_once_as_it_was_published(self, admin: Clients, client: Program) -> None:
        """Data, attributes and key of 500 messages, over 7 keys, and nothing is delivered twice or left."""
        admin.create(enable_message_ordering=True)
        client.publish(500, size=100, keys=7)
        deliveries = client.receive(500)
        found = sorted((one.number, one.key, one.data, one.attributes) for one in deliveries)
        assert found == [(n, f"key-{n % 7}", str(n).ljust(100, "."), {"number": str(n), "note": "Ünïcödé ✓"}) for n in range(500)]
        nothing_is_left(admin)

    def test_messages_of_five_megabytes_in_total_arrive(self, admin: Clients, client: Program) -> None:
        """1,000 messages of 5,000 bytes, which are more than a client accepts in one response."""
        admin.create()
        client.publish(1000, size=5000)
        deliveries = client.receive(1000)
        assert Counter(numbers_of(deliveries)) == Counter(range(1000))
        assert {len(delivery.data) for delivery in deliveries} == {5000}
        nothing_is_left(admin)


class TestOrderingKeys:
    def test_each_key_is_in_order_while_several_are_in_flight(self, admin: Clients, client: Program) -> None:
        """Five keys in turn: the messages of each are received in the order of publishing."""
        admin.create(enable_message_ordering=True)
        client.publish(400, keys=5)
        by_key: dict[str, list[int]] = defaultdict(list)
        for delivery in client.receive(400):
            by_key[delivery.key].append(delivery.number)
        assert by_key == {f"key-{key}": list(range(key, 400, 5)) for key in range(5)}
        nothing_is_left(admin)

    @pytest.mark.parametrize("ack_in", [1, 10])
    def test_a_key_does_not_wait_for_its_acknowledgements(self, ack_in: int, admin: Clients, client: Program) -> None:
        """300 messages of one key arrive within seconds, also if the client acknowledges ten at a time.

        A client sends its acknowledgements every 100 ms: with one of them between any two messages, these take 30 seconds.
        """
        admin.create(enable_message_ordering=True)
        client.publish(300, keys=1)
        deliveries = client.receive(300, ack_in=ack_in)
        assert numbers_of(deliveries) == list(range(300))
        assert deliveries[-1].seconds - deliveries[0].seconds < 10
        nothing_is_left(admin)


class TestRedelivery:
    def test_a_refused_message_comes_again(self, admin: Clients, client: Program) -> None:
        """Each of 50 messages is refused once, and acknowledged at its second delivery."""
        admin.create()
        client.publish(50)
        answers: dict[int, list[str]] = defaultdict(list)
        for delivery in client.receive(50, nack_first=True):
            answers[delivery.number].append(delivery.answer)
        assert answers == {number: ["nack", "ack"] for number in range(50)}
        nothing_is_left(admin)

    def test_the_messages_of_a_killed_client_go_to_the_next(self, admin: Clients, client: Program, tmp_path: Path) -> None:
        """A client that is killed with 20 messages in hand acknowledges none of them: the next one gets each once."""
        admin.create()
        client.publish(20)
        output = tmp_path / "held.jsonl"
        with client.receiving(20, output, hold=True) as holder:
            wait_until(lambda: len(deliveries_in(output.read_bytes())) == 20, "the client holds all messages", 30)
            holder.kill()
        assert sorted(numbers_of(client.receive(20))) == list(range(20))
        nothing_is_left(admin)


class TestIdleStream:
    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The peers that opened a stream at a server of this process, in order."""
        opened: list[str] = []
        serve = Subscriber.streaming_pull

        async def counted(self: Subscriber, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> None:
            opened.append(context.peer())
            await serve(self, requests, context)

        monkeypatch.setattr(Subscriber, "streaming_pull", counted)
        return opened

    def test_an_idle_client_keeps_its_stream(
        self, opened: list[str], all_commands: dict[str, tuple[str, ...]], tmp_path: Path
    ) -> None:
        """Over a minute without a message, no client opens a second stream; the first one then brings a message."""
        with clients_of_server(tmp_path / "pubsub") as admin, ExitStack() as running:
            admin.publisher.create_topic(name=TOPIC)
            outputs = []
            for name, command in all_commands.items():
                subscription, output = f"{SUBSCRIPTION}-{name}", tmp_path / f"{name}.jsonl"
                admin.subscriber.create_subscription(name=subscription, topic=TOPIC)
                running.enter_context(Program(command, admin.host).receiving(1, output, subscription=subscription))
                outputs.append(output)
            wait_until(lambda: len(opened) == len(outputs), "each client has a stream")
            assert holds(lambda: len(opened) == len(outputs), _IDLE_SECONDS), opened
            admin.raw_publisher.publish(topic=TOPIC, messages=[{"data": b"0", "attributes": {"number": "0"}}])
            for output in outputs:
                wait_until(lambda output=output: len(deliveries_in(output.read_bytes())) == 1, f"{output.stem} gets it", 5)
            assert len(opened) == len(outputs)
