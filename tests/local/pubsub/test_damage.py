"""A local Pub/Sub whose log is damaged: it starts, delivers all that is still to be read, and says what it skipped."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.pubsub_v1 import types

from ecomflow.config import Settings, read_stack_endpoints
from ecomflow.local import probes
from ecomflow.local.pubsub.broker import Broker
from ecomflow.local.pubsub.log import Log, Published, Record, Started, TopicStored
from ecomflow.local.pubsub.queue import Options
from tests.support.cli import ecomflow
from tests.support.local_pubsub import SUBSCRIPTION, TOPIC, Clients, ManualClock, clients_of_server

# The flag asks for what is there now.
pytestmark = pytest.mark.filterwarnings("ignore:The return_immediately flag is deprecated:DeprecationWarning")

_FIRST_LINE = len(b"ecomflow pubsub log 1\n")


def frames(path: Path) -> Iterator[tuple[int, int]]:
    """Where each record of a whole log starts and stops."""
    data, at = path.read_bytes(), _FIRST_LINE
    while at < len(data):
        stop = at + 8 + struct.unpack_from("<I", data, at)[0]
        yield at, stop
        at = stop


def overwrite(path: Path, at: int, new: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(new)


def flip(path: Path, at: int) -> None:
    """Flip a bit of the byte ``at``."""
    overwrite(path, at, bytes([path.read_bytes()[at] ^ 4]))


def append_garbage(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\xff garbage \xff" * 10)


@contextlib.contextmanager
def broker_of(folder: Path) -> Iterator[Broker]:
    with contextlib.closing(Log(folder)) as log:
        yield Broker(log, ManualClock(), Options())


def subscription_config(name: str) -> Any:
    return types.Subscription.pb()(name=name, topic=TOPIC, ack_deadline_seconds=10)


def live_through_much(broker: Broker) -> None:
    """Topics and subscriptions come, change and go, with messages between."""
    topic = types.Topic.pb()(name=TOPIC)
    broker.store_topic(topic)
    for name in ("projects/p/subscriptions/passing", SUBSCRIPTION):
        broker.store_subscription(subscription_config(name))
    for n in range(5):
        broker.publish(TOPIC, [types.PubsubMessage.pb()(data=b"%d" % n)])
    subscription = broker.subscription(SUBSCRIPTION)
    for n in (0, 1):
        (delivery,) = subscription.take(1, 1000, 10)
        assert delivery[1].id == min(subscription.unacked)
        broker.acknowledge(subscription, [delivery[0]])
        broker.publish(TOPIC, [types.PubsubMessage.pb()(data=b"%d" % (5 + n))])
    broker.delete_subscription("projects/p/subscriptions/passing")
    broker.store_subscription(subscription_config("projects/p/subscriptions/other"))
    broker.store_topic(types.Topic.pb()(name=TOPIC + "-passing"))
    broker.delete_topic(TOPIC + "-passing")
    broker.store_topic(types.Topic.pb()(name=TOPIC + "-passing"))


def waiting(broker: Broker, name: str = SUBSCRIPTION) -> list[bytes]:
    bodies = broker._log.read(broker.subscription(name).unacked.values())
    return [types.PubsubMessage.pb().FromString(body).data for body in bodies]


class TestReplay:
    def test_any_record_may_be_missing(self, tmp_path: Path) -> None:
        """Each record in turn is damaged: the server starts, and its messages are all there but those of that record."""

        async def run() -> None:
            whole = tmp_path / "whole"
            with broker_of(whole) as broker:
                live_through_much(broker)
            with contextlib.closing(Log(whole)) as log:
                records: list[Record] = [record for record, _ in log.replay()]
            for number, (start, _) in enumerate(frames(whole / "pubsub.log")):
                folder = tmp_path / f"{number}"
                shutil.copytree(whole, folder)
                flip(folder / "pubsub.log", start + 9)
                expected = {b"2", b"3", b"4", b"5", b"6"} - bodies_in(records[number])
                for _ in range(2):  # the second start reads what the first has rewritten
                    with broker_of(folder) as broker:
                        assert set(waiting(broker)) >= expected, records[number]
                        assert TOPIC in broker.topics
                        (damage,) = broker.damage()
                        assert Path(damage.copy).name == "pubsub.damaged-1.log"
                        broker.publish(TOPIC, [types.PubsubMessage.pb()(data=b"new")])
                        assert waiting(broker)[-1] == b"new"

        asyncio.run(run())

    def test_ack_ids_never_come_again(self, tmp_path: Path) -> None:
        """Though the record that counts the starts is damaged, an ack id of before acknowledges nothing."""
        with clients_of_server(tmp_path) as clients:
            clients.create()
            clients.publish(b"x")
        with clients_of_server(tmp_path) as clients:
            (stale,) = clients.pull()
        with contextlib.closing(Log(tmp_path)) as log:
            records = [record for record, _ in log.replay()]
        for (start, _), record in zip(list(frames(tmp_path / "pubsub.log")), records, strict=True):
            if isinstance(record, Started):
                flip(tmp_path / "pubsub.log", start + 9)
        with clients_of_server(tmp_path) as clients:
            clients.pull()
            clients.acknowledge(stale)
            assert probes.read_damage(int(clients.host.rpartition(":")[2]), 5)[0].places >= 1
        with clients_of_server(tmp_path) as clients:
            assert clients.pull_data() == [b"x"]

    def test_a_topic_whose_record_is_gone_is_there_with_its_subscriptions(self, tmp_path: Path) -> None:
        """Its configuration is lost, and nothing else: what is published to it arrives."""
        with clients_of_server(tmp_path) as clients:
            clients.create()
            clients.publish(b"before")
        with contextlib.closing(Log(tmp_path)) as log:
            records = [record for record, _ in log.replay()]
        (number,) = [number for number, record in enumerate(records) if isinstance(record, TopicStored)]
        flip(tmp_path / "pubsub.log", list(frames(tmp_path / "pubsub.log"))[number][0] + 12)
        with clients_of_server(tmp_path) as clients:
            clients.publish(b"after")
            assert clients.pull_data() == [b"before", b"after"]

    def test_a_record_has_at_most_ten_messages(self, tmp_path: Path) -> None:
        """As they are published and as they are compacted, so that damage costs no more."""

        def sizes() -> list[int]:
            with contextlib.closing(Log(tmp_path)) as log:
                return [len(record.messages) for record, _ in log.replay() if isinstance(record, Published)]

        async def run() -> None:
            with broker_of(tmp_path) as broker:
                broker.store_topic(types.Topic.pb()(name=TOPIC))
                broker.store_subscription(subscription_config(SUBSCRIPTION))
                broker.publish(TOPIC, [types.PubsubMessage.pb()(data=b"%d" % n) for n in range(24)])
            assert sizes() == [10, 10, 4]
            with broker_of(tmp_path) as broker:
                broker.publish(TOPIC, [types.PubsubMessage.pb()(data=b"24")])
                broker._rewrite()
            assert sizes() == [10, 10, 5]

        asyncio.run(run())

    def test_a_whole_log_has_no_damage(self, tmp_path: Path) -> None:
        """The call that tells of it answers with nothing, and so does a port where no Pub/Sub is."""
        with clients_of_server(tmp_path) as clients:
            assert probes.read_damage(int(clients.host.rpartition(":")[2]), 5) == ()
        assert probes.read_damage(1, 0.2) == ()


def bodies_in(record: Record) -> set[bytes]:
    messages = getattr(record, "messages", [])
    return {types.PubsubMessage.pb().FromString(message.body).data for message in messages}


def _damage_a_length(path: Path) -> None:
    overwrite(path, middle(path) + 1, b"\x7f")


def middle(path: Path) -> int:
    """Where the record in the middle starts."""
    found = list(frames(path))
    return found[len(found) // 2][0]


@pytest.mark.stack
class TestStack:
    @pytest.mark.parametrize(
        ("do_damage", "missing"),
        [(_damage_a_length, 1), (append_garbage, 0)],
    )
    def test_all_but_the_damaged_message_is_delivered_and_infra_up_says_so(
        self, do_damage: Callable[[Path], None], missing: int, tmp_path: Path
    ) -> None:
        """Published by Google's client, stopped, damaged, started: what was skipped and where it is kept is reported, until that
        file is deleted.
        """
        settings = Settings(state_dir=str(tmp_path / "state"))
        log, number = tmp_path / "state" / "pubsub" / "pubsub.log", 300
        try:
            assert ecomflow("infra", "up", settings=settings).returncode == 0
            with closing_clients(settings) as clients:
                topic = settings.topic_path
                published = {clients.publish(b"%d" % n, topic=topic)[0] for n in range(number)}
            assert ecomflow("infra", "down", settings=settings).returncode == 0
            do_damage(log)
            damaged = log.read_bytes()
            again = ecomflow("infra", "up", settings=settings)
            assert again.returncode == 0, again.stderr
            kept = log.with_name("pubsub.damaged-1.log")
            sentence = rf"The log of the local Pub/Sub was damaged in 1 place: .*run: ecomflow reconcile.* is kept as {kept};"
            assert re.search(sentence, " ".join(again.stdout.split()))
            assert kept.read_bytes().startswith(damaged)
            with closing_clients(settings) as clients:
                received = clients.pull(subscription=settings.subscription_path)
            ids = [one.message.message_id for one in received]
            assert len(ids) == len(set(ids)) == number - missing
            assert set(ids) <= published
            status = ecomflow("infra", "status", settings=settings)
            assert re.search(sentence, " ".join(status.stdout.split()))
            services = msgspec.json.decode(ecomflow("infra", "status", "--json", settings=settings).stdout)["services"]
            assert [damage["places"] for service in services for damage in service["damage"]] == [1]
            assert "was damaged" in (tmp_path / "state" / "logs" / "pubsub.log").read_text()
            kept.unlink()
            assert "was damaged" not in ecomflow("infra", "status", settings=settings).stdout
        finally:
            ecomflow("infra", "down", settings=settings)


@contextlib.contextmanager
def closing_clients(settings: Settings) -> Iterator[Clients]:
    endpoints = read_stack_endpoints(settings.state_path)
    assert endpoints is not None
    assert endpoints.pubsub is not None
    with contextlib.closing(Clients(endpoints.pubsub)) as clients:
        yield clients
