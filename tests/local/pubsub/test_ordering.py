"""Ordering keys against a model that knows only their rules, in random histories."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import pytest
from google.pubsub_v1 import types

from ecomflow.local.pubsub.broker import Broker
from ecomflow.local.pubsub.log import Log
from ecomflow.local.pubsub.queue import Options
from ecomflow.local.pubsub.stream import Stream
from tests.support.local_pubsub import SUBSCRIPTION, TOPIC, ManualClock

_DEADLINE = 10
_KEYS = ("", "a", "b")

_STEPS = [*["publish", "pull", "nack"] * 2, *["acknowledge"] * 4, "advance", "extend", "purge", "restart"]


class Model:
    """What each message of a key is: waiting, delivered under an ack id until a deadline, or acknowledged."""

    def __init__(self) -> None:
        self.open: dict[str, list[str]] = {key: [] for key in _KEYS}  # data of the messages that may be delivered again, in order
        self.delivered: dict[str, tuple[str, str, float]] = {}  # key, data and deadline by ack id
        self.acknowledged: set[str] = set()

    def deliver(self, ack_id: str, key: str, data: str, deadline: float) -> None:
        """All earlier ones of its key must be under way or acknowledged, and itself must be waiting."""
        out = self.acknowledged | {other for _, other, _ in self.delivered.values()}
        assert data in self.open[key]
        assert data not in out
        earlier = self.open[key][: self.open[key].index(data)] if key else []
        assert out.issuperset(earlier)
        self.delivered[ack_id] = (key, data, deadline)

    def acknowledge(self, ack_id: str) -> None:
        key, data, _ = self.delivered.pop(ack_id)
        if not key:
            self.open[key].remove(data)
            return
        self.acknowledged.add(data)
        while self.open[key] and self.open[key][0] in self.acknowledged:
            self.acknowledged.remove(self.open[key].pop(0))

    def put_back(self, ack_id: str) -> None:
        key, data, _ = self.delivered.pop(ack_id)
        later = set(self.open[key][self.open[key].index(data) :]) if key else set()
        self.acknowledged -= later
        self.delivered = {other: held for other, held in self.delivered.items() if held[1] not in later}

    def expire(self, now: float) -> None:
        while lapsed := [ack_id for ack_id, (_, _, deadline) in self.delivered.items() if deadline <= now]:
            self.put_back(lapsed[0])

    def restart(self) -> None:
        self.delivered, self.acknowledged = {}, set()


class History:
    """One broker and its model, which take the same steps."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.model, self.number = folder, ManualClock(), Model(), 0
        self.stack = contextlib.ExitStack()
        self.start()
        self.broker.store_topic(types.Topic.pb()(name=TOPIC))
        config = {"name": SUBSCRIPTION, "topic": TOPIC, "ack_deadline_seconds": _DEADLINE, "enable_message_ordering": True}
        self.broker.store_subscription(types.Subscription.pb()(**config))

    def start(self) -> None:
        log = self.stack.enter_context(contextlib.closing(Log(self.folder)))
        self.broker, self.streams = Broker(log, self.clock, Options()), (Stream(), Stream())

    def publish(self, number: int) -> None:
        key = _KEYS[number % 3]
        payloads = []
        for _ in range(1 + number // 10):
            self.number += 1
            payloads.append(types.PubsubMessage.pb()(data=b"%d" % self.number, ordering_key=key))
            self.model.open[key].append(str(self.number))
        self.broker.publish(TOPIC, payloads)

    def pull(self, number: int) -> None:
        """Up to eight messages, by one of two streams or a unary pull."""
        subscription, stream = self.broker.subscription(SUBSCRIPTION), (None, *self.streams)[number % 3]
        for ack_id, body, _ in self.broker.take(subscription, 1 + number % 8, 10_000, _DEADLINE, stream):
            message = types.PubsubMessage.pb().FromString(body)
            self.model.deliver(ack_id, message.ordering_key, message.data.decode(), self.clock.steady() + _DEADLINE)

    def acknowledge(self, number: int) -> None:
        if ack_id := self.some(number):
            self.broker.acknowledge(self.broker.subscription(SUBSCRIPTION), [ack_id])
            self.model.acknowledge(ack_id)

    def nack(self, number: int) -> None:
        if ack_id := self.some(number):
            self.broker.modify_deadline(self.broker.subscription(SUBSCRIPTION), [ack_id], 0)
            self.model.put_back(ack_id)

    def extend(self, number: int) -> None:
        if ack_id := self.some(number):
            self.broker.modify_deadline(self.broker.subscription(SUBSCRIPTION), [ack_id], number + 1)
            key, data, _ = self.model.delivered[ack_id]
            self.model.delivered[ack_id] = (key, data, self.clock.steady() + number + 1)

    def advance(self, number: int) -> None:
        self.clock.advance(number / 5)
        self.model.expire(self.clock.steady())
        self.broker.subscription(SUBSCRIPTION).expire()

    def purge(self, _: int) -> None:
        self.broker.purge(self.broker.subscription(SUBSCRIPTION), self.clock.now() + 1)
        self.model = Model()

    def restart(self, _: int) -> None:
        self.stack.close()
        self.start()
        self.model.restart()

    def some(self, number: int) -> str | None:
        """One of the ack ids in force."""
        ack_ids = sorted(self.model.delivered)
        return ack_ids[number % len(ack_ids)] if ack_ids else None

    def check(self) -> None:
        """The same messages are open, and the same ones delivered."""
        subscription = self.broker.subscription(SUBSCRIPTION)
        bodies = self.broker._log.read(subscription.unacked.values())
        data = {types.PubsubMessage.pb().FromString(body).data.decode() for body in bodies}
        assert data == {each for key in _KEYS for each in self.model.open[key]}
        assert set(subscription.find(list(self.model.delivered))) == set(self.model.delivered)
        assert subscription.backlog().num_outstanding_messages == len(self.model.delivered)


@pytest.mark.slow
def test_random_histories_keep_the_rules(tmp_path: Path) -> None:
    """No message passes an earlier one of its key, what is open is what the model says, and in the end all is delivered."""

    def run(history: History, chance: random.Random) -> None:
        for _ in range(60):
            getattr(history, chance.choice(_STEPS))(chance.randint(0, 50))
            history.check()
        for _ in range(history.number):
            history.pull(0)
            for _ in range(len(history.model.delivered)):
                history.acknowledge(0)
        history.check()
        assert not any(history.model.open.values())

    async def run_all() -> None:
        for seed in range(200):
            history = History(tmp_path / f"{seed}")
            with history.stack:
                run(history, random.Random(seed))

    asyncio.run(run_all())
