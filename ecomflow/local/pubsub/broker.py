"""All topics and subscriptions of the local Pub/Sub. Changes are logged before they are applied, and a restart replays them."""

from __future__ import annotations

import errno
import heapq
import itertools
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from operator import itemgetter
from typing import NoReturn, TypeVar

import grpc
from google.pubsub_v1 import types

from ecomflow.local.pubsub.clock import Clock
from ecomflow.local.pubsub.log import (
    Acknowledged,
    Damage,
    Log,
    Message,
    Published,
    Record,
    Started,
    StoredMessage,
    SubscriptionDeleted,
    SubscriptionStored,
    TopicDeleted,
    TopicStored,
    damage_sentence,
    place,
)
from ecomflow.local.pubsub.memory import max_messages
from ecomflow.local.pubsub.names import check_name, not_found
from ecomflow.local.pubsub.queue import Options, Proto, Subscription
from ecomflow.local.pubsub.status import StatusError, exhausted, invalid, unimplemented
from ecomflow.local.pubsub.stream import Stream

_LOGGER = logging.getLogger(__name__)
COMPACTION_SLACK_BYTES = 64 * 2**20
_MESSAGES_PER_RECORD = 10
_DELETED_TOPIC = "_deleted-topic_"  # The service replaces the name of a deleted topic with it.
_T = TypeVar("_T")
_PubsubMessage, _Topic, _Subscription = types.PubsubMessage.pb(), types.Topic.pb(), types.Subscription.pb()

Delivery = tuple[str, bytes, int]  # ack id, encoded message, delivery attempt (0: there is no dead letter policy)


class Topic:
    def __init__(self, config: Proto) -> None:
        self.config = config
        self.subscriptions: list[Subscription] = []


class Broker:
    """All topics and subscriptions, and the log from which they are restored. A change is logged first, then applied."""

    def __init__(self, log: Log, clock: Clock, options: Options) -> None:
        """Restore the state from ``log``."""
        self.options = options
        self._max_messages = options.max_messages or max_messages()
        self.topics: dict[str, Topic] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.clock = clock
        self._log = log
        self._numbered: dict[int, Subscription] = {}
        self._boot = 0
        self._next_id = int(clock.now() * 1_000_000)  # The time, so that ids are not reused after the folder was deleted.
        self._opened = False
        self._orphans: defaultdict[int, set[int]] = defaultdict(set)  # message ids by the number of a lost subscription
        for record, stop in log.replay():
            self._apply(record, stop)
        if log.is_damaged:
            self._repair()
        self._store(Started(self._boot + 1, self._next_id))
        for subscription in self.subscriptions.values():
            subscription.open(self._boot, clock.now())
        self._opened = True
        if log.is_damaged:
            self._rewrite()
        else:
            self._compact(slack=0)
        for damage in log.damage():
            _LOGGER.error(damage_sentence(damage))

    def _repair(self) -> None:
        """Complete the state after reading a damaged log."""
        self._log.note_orphans(len(set().union(*self._orphans.values())))
        self._orphans.clear()
        # The damaged records may include starts, and no ack id may be reused: there are fewer starts than seconds.
        self._boot = max(self._boot, int(self.clock.now()))

    def damage(self) -> list[Damage]:
        """The damage that was found in the log."""
        return self._log.damage()

    def topic(self, name: str, field: str = "topic") -> Topic:
        """The topic ``name``, from ``field`` of a request."""
        return self.topics.get(name) or _refuse_unknown(field, name, "topics")

    def subscription(self, name: str, field: str = "subscription") -> Subscription:
        """The subscription ``name``, from ``field`` of a request."""
        return self.subscriptions.get(name) or _refuse_unknown(field, name, "subscriptions")

    def store_topic(self, config: Proto) -> None:
        self._store(TopicStored(config.SerializeToString()))

    def delete_topic(self, name: str) -> None:
        self._store(TopicDeleted(self.topic(name).config.name))

    def store_subscription(self, config: Proto) -> None:
        known = self.subscriptions.get(config.name)
        number = known.number if known else max(self._numbered, default=0) + 1
        self._store(SubscriptionStored(number, config.SerializeToString()))

    def delete_subscription(self, name: str) -> None:
        subscription = self.subscription(name)
        self._store(SubscriptionDeleted(subscription.number))
        subscription.end(not_found(name))

    def publish(self, name: str, payloads: Collection[Proto]) -> list[int]:
        """Assign ids and the time to ``payloads`` (PubsubMessage), and add them to the topic's current subscriptions.

        Returns the ids.
        """
        topic = self.topic(name)
        ids = list(range(self._next_id, self._next_id + len(payloads)))
        if topic.subscriptions:
            self._check_room(len(payloads) * len(topic.subscriptions))
            micros = round(self.clock.now() * 1_000_000)
            messages = [_stamp(payload, message_id, micros) for payload, message_id in zip(payloads, ids, strict=True)]
            numbers = [subscription.number for subscription in topic.subscriptions]
            records = [Published(numbers, batch) for batch in _batches(messages)]
            stops = self._append(*records)
            placed = [message for record, stop in zip(records, stops, strict=True) for message in place(record, stop)]
            for subscription in topic.subscriptions:
                subscription.add(placed)
        self._next_id += len(ids)
        self._compact(COMPACTION_SLACK_BYTES)
        return ids

    def _check_room(self, number: int) -> None:
        held = sum(len(subscription.unacked) for subscription in self.subscriptions.values())
        if held + number > self._max_messages:
            raise exhausted(
                f"The local Pub/Sub has {held:,} unacknowledged messages and memory for {self._max_messages:,}. Nothing was "
                "published. Acknowledge messages (ecomflow deploy does), or delete subscriptions that nobody reads."
            )

    def take(
        self, subscription: Subscription, count: int, size: int, seconds: float, stream: Stream | None = None
    ) -> list[Delivery]:
        """Lease messages as ``Subscription.take`` does, with their bodies from the log."""
        leased = subscription.take(count, size, seconds, stream)
        try:
            bodies = self._read(message for _, message, _ in leased)
        except StatusError:
            subscription.give_back(subscription.find([ack_id for ack_id, _, _ in leased]), failed=False)
            raise
        return [(ack_id, body, attempt) for (ack_id, _, attempt), body in zip(leased, bodies, strict=True)]

    def acknowledge(self, subscription: Subscription, ack_ids: Collection[str]) -> None:
        leases = subscription.find(ack_ids)
        if leases:
            finished = subscription.finished_by(leases)
            if finished:
                self._append(Acknowledged(subscription.number, [message.id for message in finished.values()]))
            subscription.acknowledge(leases, finished)
            self._compact(COMPACTION_SLACK_BYTES)

    def modify_deadline(self, subscription: Subscription, ack_ids: Collection[str], seconds: int) -> None:
        if not 0 <= seconds <= 600:
            raise invalid(f"Invalid ack deadline given: (ack_deadline_seconds={seconds}): expected 0 to 600.")
        leases = subscription.find(ack_ids)
        if seconds:
            subscription.extend(leases, seconds)
        else:
            subscription.give_back(leases)

    def purge(self, subscription: Subscription, until: float) -> None:
        """Drop the messages published before ``until``, in seconds since the epoch."""
        if until < subscription.acked_up_to:
            raise unimplemented("Seek to before a message that was acknowledged")
        message_ids = [message.id for message in subscription.unacked.values() if message.published < until]
        if message_ids:
            self._append(Acknowledged(subscription.number, message_ids))
        subscription.purge(message_ids)

    def end(self) -> None:
        """Tell every waiting consumer that the server is shutting down; Google's clients then retry until it is back."""
        for subscription in self.subscriptions.values():
            subscription.end(StatusError(grpc.StatusCode.UNAVAILABLE, "The local Pub/Sub is shutting down."))

    def _forward(self, subscription: Subscription, ack_id: str, message: Message, failures: int) -> bool:
        """Publish ``message`` to the dead letter topic and acknowledge it; False if the topic is gone or the disk is full."""
        try:
            self._publish_dead_letter(subscription, message, failures)
            self.acknowledge(subscription, [ack_id])
        except StatusError as error:
            _LOGGER.warning("message %d stays in %s: %s", message.id, subscription.config.name, error.details)
            return False
        return True

    def _publish_dead_letter(self, subscription: Subscription, message: Message, failures: int) -> None:
        (body,) = self._read([message])
        payload = _PubsubMessage.FromString(body)
        source = subscription.config.name.split("/")
        # https://cloud.google.com/pubsub/docs/handling-failures#dead_letter_message_attributes
        payload.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] = str(failures)
        payload.attributes["CloudPubSubDeadLetterSourceSubscription"] = source[-1]
        payload.attributes["CloudPubSubDeadLetterSourceSubscriptionProject"] = source[1]
        payload.attributes["CloudPubSubDeadLetterSourceTopicPublishTime"] = payload.publish_time.ToJsonString()
        self.publish(subscription.config.dead_letter_policy.dead_letter_topic, [payload])

    def _store(self, record: Record) -> None:
        stops = self._append(*_copies(record))
        self._apply(record, stops[-1])

    def _read(self, messages: Iterable[Message]) -> list[bytes]:
        try:
            return self._log.read(messages)
        except OSError as error:
            details = f"The log {self._log.path} can't be read: {error.strerror}."
            raise StatusError(grpc.StatusCode.UNAVAILABLE, details) from error

    def _append(self, *records: Record) -> list[int]:
        """Log ``records``; returns where each stops."""
        try:
            return self._log.append(*records)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            code = grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.UNAVAILABLE
            raise StatusError(
                code, f"The log {self._log.path} can't be written: {error.strerror}. Nothing was changed."
            ) from error

    def _apply(self, record: Record, stop: int) -> None:
        """Apply the change. After damage to the log, ``record`` may refer to something whose own record was lost.

        ``stop``: the offset of the log at which it stops.
        """
        match record:
            case Started(boot, next_id):
                self._boot, self._next_id = boot, max(self._next_id, next_id)
            case TopicStored(config):
                self._apply_topic(_Topic.FromString(config))
            case TopicDeleted(name):
                topic = self.topics.pop(name, None)
                for subscription in topic.subscriptions if topic else ():
                    subscription.config.topic = _DELETED_TOPIC
            case SubscriptionStored(number, config):
                self._apply_subscription(number, _Subscription.FromString(config))
            case SubscriptionDeleted(number):
                self._drop(number)
            case Published(numbers):
                messages = place(record, stop)
                self._next_id = max(self._next_id, messages[-1].id + 1)
                for number in numbers:
                    if number in self._numbered:
                        self._numbered[number].remember(messages)
                    else:
                        self._orphans[number].update(message.id for message in messages)
            case Acknowledged(number, message_ids):
                if number in self._numbered:
                    self._numbered[number].forget(message_ids)
                else:
                    self._orphans[number].difference_update(message_ids)

    def _apply_topic(self, config: Proto) -> None:
        if topic := self.topics.get(config.name):
            topic.config = config
        else:
            self.topics[config.name] = Topic(config)

    def _apply_subscription(self, number: int, config: Proto) -> None:
        known = self.subscriptions.get(config.name)
        if known is not None and known is self._numbered.get(number):
            known.config = config
            return
        for old in (known, self._numbered.get(number)):  # The record of its deletion was lost.
            if old is not None:
                self._drop(old.number)
        subscription = Subscription(number, config, self.clock, self._forward, self.options.ack_id_length)
        self.subscriptions[config.name] = self._numbered[number] = subscription
        if config.topic != _DELETED_TOPIC:
            if config.topic not in self.topics:  # The record of its creation was lost.
                self._apply_topic(_Topic(name=config.topic, state=_Topic.ACTIVE))
            self.topics[config.topic].subscriptions.append(subscription)
        if self._opened:
            subscription.open(self._boot, acked_up_to=0.0)

    def _drop(self, number: int) -> None:
        self._orphans.pop(number, None)
        if subscription := self._numbered.pop(number, None):
            del self.subscriptions[subscription.config.name]
            topic = self.topics.get(subscription.config.topic)
            if topic and subscription in topic.subscriptions:
                topic.subscriptions.remove(subscription)

    def _compact(self, slack: int) -> None:
        """Rewrite the log if acknowledged messages take more than half of it plus ``slack`` bytes."""
        live = sum(subscription.unacked_bytes for subscription in self.subscriptions.values())
        if self._log.size > 2 * live + slack:
            self._rewrite()

    def _rewrite(self) -> None:
        try:
            places = self._log.rewrite(self._snapshot())
        except OSError as error:
            _LOGGER.warning("the log %s could not be rewritten: %s", self._log.path, error)
            return
        for (_, message), at in zip(self._held(), places, strict=True):
            message.at = at

    def _snapshot(self) -> Iterator[Record]:
        yield Started(self._boot, self._next_id)
        for topic in self.topics.values():
            yield TopicStored(topic.config.SerializeToString())
        for subscription in self.subscriptions.values():
            yield from _copies(SubscriptionStored(subscription.number, subscription.config.SerializeToString()))
        for numbers, held in itertools.groupby(self._held(), key=itemgetter(0)):
            for batch in _batches(message for _, message in held):
                yield Published(
                    numbers, [_stored(message, body) for message, body in zip(batch, self._log.read(batch), strict=True)]
                )

    def _held(self) -> Iterator[tuple[list[int], Message]]:
        """All unacknowledged messages in the order of their ids, each after the numbers of its subscriptions."""
        each = (zip(one.unacked.values(), itertools.repeat(one.number)) for one in self.subscriptions.values())
        by_id = heapq.merge(*each, key=lambda held: held[0].id)
        for _, group in itertools.groupby(by_id, key=lambda held: held[0].id):
            messages, numbers = zip(*group, strict=True)
            yield list(numbers), messages[0]


def _copies(record: Record) -> list[Record]:
    """A subscription is logged twice: if damage takes its only record, none of its messages can be delivered."""
    return [record] * 2 if isinstance(record, SubscriptionStored) else [record]


def _stamp(payload: Proto, message_id: int, micros: int) -> StoredMessage:
    """The message to store, published at ``micros`` since the epoch."""
    payload.message_id = str(message_id)
    payload.publish_time.seconds, payload.publish_time.nanos = micros // 1_000_000, micros % 1_000_000 * 1000
    return StoredMessage(message_id, micros / 1_000_000, payload.ordering_key, payload.SerializeToString())


def _stored(message: Message, body: bytes) -> StoredMessage:
    return StoredMessage(message.id, message.published, message.key, body)


def _batches(messages: Iterable[_T]) -> Iterator[list[_T]]:
    """Batches of one record each. Damage loses a whole record, but a record for each message makes publishing 7 % slower."""
    remaining = iter(messages)
    while batch := list(itertools.islice(remaining, _MESSAGES_PER_RECORD)):
        yield batch


def _refuse_unknown(field: str, name: str, kind: str) -> NoReturn:
    check_name(field, name, kind)
    raise not_found(name)
