"""gRPC requests of Google's own Pub/Sub clients come in, messages and statuses go out: a Pub/Sub in one process, for one machine.

How it differs from the service (https://cloud.google.com/pubsub/docs/reference/rpc/google.pubsub.v1):

- It listens on 127.0.0.1, without credentials, quotas or access policies; every project exists.
- Nothing but an acknowledgement or a Seek removes a message: retention and expiration are stored and shown, never enforced.
- What is not acknowledged survives the death of the process, not of the machine; after a restart every lease has lapsed and the
  delivery attempts count from one again.
- An acknowledgement counts until the message is given back, then never again; the service may do otherwise on both sides.
- Of each ordering key one message is outstanding at a time. A message never comes twice without cause, so do not conclude from
  quiet here that a pipeline needs no deduplication there.
- Snapshots, Seek to before an acknowledged message, filters, schemas, push, exports, exactly-once delivery and message transforms
  are missing, and asking for them is UNIMPLEMENTED. Storage policies, keys and tags are stored without effect.
- ``ecomflow.local.Stats/Get`` answers with the backlog of a subscription, which the service shows in Cloud Monitoring.

Four nouns: a *topic* hands each *message* to its *subscriptions*; a consumer leases messages by Pull or over a *stream*.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import heapq
import itertools
import logging
import re
import signal
import sys
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, Protocol

import grpc
import grpc.aio
import msgspec
from google.protobuf import duration_pb2, empty_pb2
from google.pubsub_v1 import types

from ecomflow.errors import EcomflowError, NotFoundError, UnavailableError
from ecomflow.local.pubsub_log import (
    Acknowledged,
    Log,
    Message,
    Published,
    Record,
    Started,
    SubscriptionDeleted,
    SubscriptionStored,
    TopicDeleted,
    TopicStored,
)

_LOGGER = logging.getLogger(__name__)

# https://cloud.google.com/pubsub/quotas#resource_limits
MAX_REQUEST_BYTES = 10 * 2**20
MAX_MESSAGES = 1000
MAX_ATTRIBUTES = 100
MAX_ATTRIBUTE_KEY_BYTES = 256
MAX_ATTRIBUTE_VALUE_BYTES = 1024
MAX_ORDERING_KEY_BYTES = 1024

LONG_POLL_SECONDS = 5.0
COMPACTION_SLACK_BYTES = 64 * 2**20
_DELETED_TOPIC = "_deleted_topic_"  # What the service puts in place of a deleted topic's name.
_RESOURCE_NAME = re.compile(r"projects/[^/]+/(topics|subscriptions)/(?!goog)[A-Za-z][\w.~+%-]{2,254}", re.ASCII)

# The protobuf classes under proto-plus, whose objects are some ten times as slow.
_PublishRequest, _PublishResponse = types.PublishRequest.pb(), types.PublishResponse.pb()
_PubsubMessage, _Topic, _Subscription = types.PubsubMessage.pb(), types.Topic.pb(), types.Subscription.pb()
_StreamingPullResponse = types.StreamingPullResponse.pb()

Proto = Any  # A protobuf object; the classes are made at run time, so that there is no type to name.
Delivery = tuple[str, Message, int]  # ack id, message, delivery attempt (0: the subscription has no dead letter policy)


class Clock(Protocol):
    """Time as the server sees it."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Have the event loop call ``callback`` at ``when``; what is returned calls it off."""


class SystemClock:
    def now(self) -> float:
        return time.time()

    def call_at(self, when: float, callback: Callable[[], None]) -> Callable[[], None]:
        return asyncio.get_running_loop().call_later(max(0.0, when - time.time()), callback).cancel


class StatusError(Exception):
    """The answer to a request is this status and not a reply."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(code, details)
        self.code = code
        self.details = details


class Backlog(msgspec.Struct, frozen=True):
    """What a subscription still has to do, in the words of Cloud Monitoring.

    ``num_undelivered_messages`` counts all that is not acknowledged, and so includes ``num_outstanding_messages``, which are
    leased to a consumer; ``oldest_unacked_publish_time`` is in seconds since the epoch, None where there is nothing.
    """

    num_undelivered_messages: int
    num_outstanding_messages: int
    oldest_unacked_publish_time: float | None


def read_backlog(host: str, subscription_path: str) -> Backlog:
    """The backlog of ``projects/P/subscriptions/S`` at the local Pub/Sub on ``host`` (``127.0.0.1:8085``).

    Raises NotFoundError where there is no such subscription, UnavailableError where no local Pub/Sub answers.
    """
    try:
        with grpc.insecure_channel(host) as channel:
            answer = channel.unary_unary("/ecomflow.local.Stats/Get")(subscription_path.encode(), timeout=5)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            raise NotFoundError(f"There is no subscription {subscription_path} at {host}.", "Run: ecomflow infra up") from error
        raise UnavailableError(
            f"The local Pub/Sub at {host} gave no backlog: {error.details()}.", "Run: ecomflow infra up"
        ) from error
    return msgspec.json.decode(answer, type=Backlog)


# The wire: a message is encoded once, when it is published, and every response is put together around those bytes.


@lru_cache(maxsize=16_384)
def _varint(number: int) -> bytes:
    """https://protobuf.dev/programming-guides/encoding/#varints"""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def encode_received(deliveries: Iterable[Delivery]) -> bytes:
    """The encoded field ``repeated ReceivedMessage received_messages = 1``, alike in PullResponse and StreamingPullResponse.

    A ReceivedMessage has ``string ack_id = 1; PubsubMessage message = 2; int32 delivery_attempt = 3``.
    """
    parts: list[bytes] = []
    for ack_id, message, attempt in deliveries:
        head = b"\x0a%b%b\x12%b" % (_varint(len(ack_id)), ack_id.encode(), _varint(len(message.body)))
        tail = b"\x18" + _varint(attempt) if attempt else b""
        parts += (b"\x0a", _varint(len(head) + len(message.body) + len(tail)), head, message.body, tail)
    return b"".join(parts)


class Stream:
    """The flow control of one StreamingPull: how much its client still takes."""

    def __init__(self, max_messages: int, max_bytes: int, deadline_seconds: int) -> None:
        self.deadline_seconds = deadline_seconds
        self._free_messages = max_messages if max_messages > 0 else sys.maxsize
        self._free_bytes = max_bytes if max_bytes > 0 else sys.maxsize
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def room(self) -> tuple[int, int]:
        """Wait for room; how many messages and bytes of them fit."""
        await self._has_room.wait()
        return self._free_messages, self._free_bytes

    def occupy(self, messages: int, size: int) -> None:
        """Count ``messages`` of ``size`` bytes in all as outstanding; negative numbers give room back."""
        self._free_messages -= messages
        self._free_bytes -= size
        if self._free_messages > 0 and self._free_bytes > 0:
            self._has_room.set()
        else:
            self._has_room.clear()


class Lease(msgspec.Struct, gc=False):
    """A message in the hands of a consumer until ``deadline``, by one ack id."""

    message: Message
    deadline: float
    stream: Stream | None


class Subscription:
    """The messages of one subscription: available, leased, delayed after a failure, or held behind another of their ordering key.

    Adding, leasing and settling cost the same however many messages wait; deadlines are kept in a heap by the batch.
    """

    def __init__(self, number: int, config: Proto, clock: Clock, forward: Callable[[Subscription, Message, int], bool]) -> None:
        """``forward(subscription, message, failures)`` moves a message to the dead letter topic; False where it cannot."""
        self.number = number
        self.config = config
        self.unacked: dict[int, Message] = {}
        self.unacked_bytes = 0
        self.acked_up_to = 0.0
        self.ended: asyncio.Future[StatusError] = asyncio.get_running_loop().create_future()
        self._clock = clock
        self._forward = forward
        self._boot = 0
        self._sequence = itertools.count(1)
        self._available: deque[Message] = deque()
        self._leases: dict[str, Lease] = {}
        self._deadlines: list[tuple[float, int, list[str]]] = []
        self._num_deadlines = 0
        self._delayed: list[tuple[float, int, Message]] = []
        self._held: dict[str, deque[Message]] = {}
        self._failures: dict[int, int] = {}
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._alarm: tuple[float, Callable[[], None]] | None = None

    def open(self, boot: int, acked_up_to: float) -> None:
        """Begin to deliver, with ack ids that no earlier ``boot`` gave out."""
        self._boot = boot
        self.acked_up_to = acked_up_to
        self._rebuild()

    def remember(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.unacked[message.id] = message
            self.unacked_bytes += len(message.body)

    def forget(self, message_ids: Iterable[int]) -> None:
        for message_id in message_ids:
            if message := self.unacked.pop(message_id, None):
                self.unacked_bytes -= len(message.body)
                self.acked_up_to = max(self.acked_up_to, message.published)
                self._failures.pop(message_id, None)

    def add(self, messages: Iterable[Message]) -> None:
        self.remember(messages)
        self._offer(messages)
        self._wake()

    def take(self, count: int, size: int, seconds: float, stream: Stream | None = None) -> list[Delivery]:
        """Lease for ``seconds`` what is available: up to ``count`` messages of ``size`` bytes in all, or a single larger one."""
        self.expire()
        deadline = self._clock.now() + seconds
        counts_attempts = self.config.HasField("dead_letter_policy")
        deliveries: list[Delivery] = []
        taken = 0
        while self._available and len(deliveries) < count and (not deliveries or taken + len(self._available[0].body) <= size):
            message = self._available.popleft()
            taken += len(message.body)
            ack_id = f"{self._boot}-{self.number}-{next(self._sequence)}"
            self._leases[ack_id] = Lease(message, deadline, stream)
            deliveries.append((ack_id, message, self._failures.get(message.id, 0) + 1 if counts_attempts else 0))
        if stream is not None:
            stream.occupy(len(deliveries), taken)
        self._watch(deadline, [delivery[0] for delivery in deliveries])
        self._wake()
        return deliveries

    def find(self, ack_ids: Iterable[str]) -> dict[str, Lease]:
        """The leases that ``ack_ids`` still hold; ids that were settled, have lapsed or were never given out are left out."""
        return {ack_id: lease for ack_id in ack_ids if (lease := self._leases.get(ack_id))}

    def settle(self, leases: Mapping[str, Lease]) -> None:
        """Forget the acknowledged messages of ``leases``, and let the next of their ordering keys come."""
        self.forget([lease.message.id for lease in leases.values()])
        for ack_id, lease in leases.items():
            self._release(ack_id, lease)
            self._advance(lease.message)
        self._wake()

    def extend(self, leases: Mapping[str, Lease], seconds: float) -> None:
        deadline = self._clock.now() + seconds
        for lease in leases.values():
            lease.deadline = deadline
        self._watch(deadline, list(leases))

    def give_back(self, leases: Mapping[str, Lease]) -> None:
        """Make the messages of ``leases`` available again, before all others, or after the delay of the retry policy."""
        returned: list[Message] = []
        for ack_id, lease in leases.items():
            self._release(ack_id, lease)
            failures = self._failures[lease.message.id] = self._failures.get(lease.message.id, 0) + 1
            if self._is_exhausted(failures) and self._forward(self, lease.message, failures):
                self._advance(lease.message)
            elif self.config.HasField("retry_policy"):
                available_at = self._clock.now() + _backoff_seconds(self.config.retry_policy, failures)
                heapq.heappush(self._delayed, (available_at, next(self._sequence), lease.message))
            else:
                returned.append(lease.message)
        self._available.extendleft(reversed(returned))
        self._wake()
        self._set_alarm()

    def expire(self) -> None:
        """Give back what was leased until now or earlier, and make available what was delayed until now."""
        now = self._clock.now()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, ack_ids = heapq.heappop(self._deadlines)
            self._num_deadlines -= len(ack_ids)
            self.give_back({ack_id: lease for ack_id, lease in self.find(ack_ids).items() if lease.deadline <= now})
        while self._delayed and self._delayed[0][0] <= now:
            self._available.append(heapq.heappop(self._delayed)[2])
        self._wake()

    def purge(self, message_ids: Collection[int]) -> None:
        """Drop messages wherever they are, leased or not."""
        self.forget(message_ids)
        for ack_id, lease in list(self._leases.items()):
            if lease.message.id not in self.unacked:
                self._release(ack_id, lease)
        self._rebuild()

    async def until_available(self) -> None:
        """Return when a message can be taken; of several consumers the one that has waited longest goes first."""
        self.expire()
        while not self._available:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            self._set_alarm()
            try:
                await waiter
            except asyncio.CancelledError:
                self._wake()  # The call may have been meant for this one already.
                raise
            finally:
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)

    def end(self, reason: StatusError) -> None:
        """Have every consumer answered with ``reason``."""
        if not self.ended.done():
            self.ended.set_result(reason)

    def backlog(self) -> Backlog:
        self.expire()
        oldest = next(iter(self.unacked.values()), None)
        return Backlog(len(self.unacked), len(self._leases), oldest.published if oldest else None)

    def _offer(self, messages: Iterable[Message]) -> None:
        if not self.config.enable_message_ordering:
            self._available.extend(messages)
            return
        for message in messages:
            if message.key in self._held:
                self._held[message.key].append(message)
            else:
                self._available.append(message)
                if message.key:
                    self._held[message.key] = deque()

    def _advance(self, message: Message) -> None:
        """``message`` is out of the way of the next of its ordering key."""
        if (behind := self._held.get(message.key)) is None:
            return
        if behind:
            self._available.append(behind.popleft())
        else:
            del self._held[message.key]

    def _rebuild(self) -> None:
        """Offer anew what is unacknowledged and not leased."""
        leased = {lease.message.id: lease.message.key for lease in self._leases.values()}
        self._available.clear()
        self._delayed.clear()
        self._held = {key: deque() for key in leased.values() if key and self.config.enable_message_ordering}
        self._offer([message for message in self.unacked.values() if message.id not in leased])
        self._wake()

    def _release(self, ack_id: str, lease: Lease) -> None:
        del self._leases[ack_id]
        if lease.stream is not None:
            lease.stream.occupy(-1, -len(lease.message.body))

    def _is_exhausted(self, failures: int) -> bool:
        policy = self.config.dead_letter_policy
        return bool(self.config.HasField("dead_letter_policy") and failures >= policy.max_delivery_attempts)

    def _watch(self, deadline: float, ack_ids: list[str]) -> None:
        if not ack_ids:
            return
        heapq.heappush(self._deadlines, (deadline, next(self._sequence), ack_ids))
        self._num_deadlines += len(ack_ids)
        if self._num_deadlines > 2 * len(self._leases) + 10 * MAX_MESSAGES:
            self._drop_stale_deadlines()
        self._set_alarm()

    def _drop_stale_deadlines(self) -> None:
        """The heap keeps the ids of settled and extended leases until their time comes; this bounds them by those in force."""
        by_deadline: defaultdict[float, list[str]] = defaultdict(list)
        for ack_id, lease in self._leases.items():
            by_deadline[lease.deadline].append(ack_id)
        self._deadlines = [(deadline, next(self._sequence), ack_ids) for deadline, ack_ids in by_deadline.items()]
        heapq.heapify(self._deadlines)
        self._num_deadlines = len(self._leases)

    def _wake(self) -> None:
        """Call the consumer that has waited longest, which calls the next one if it leaves anything."""
        while self._available and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _set_alarm(self) -> None:
        """Only a waiting consumer needs to be told that a deadline has passed; every other one looks when it comes."""
        due = min((heap[0][0] for heap in (self._deadlines, self._delayed) if heap), default=None)
        if due is None or not self._waiters or (self._alarm is not None and self._alarm[0] <= due):
            return
        if self._alarm is not None:
            self._alarm[1]()
        self._alarm = (due, self._clock.call_at(due, self._ring))

    def _ring(self) -> None:
        self._alarm = None
        self.expire()
        self._set_alarm()


def _backoff_seconds(policy: Proto, failures: int) -> float:
    """Exponential between the policy's bounds; where they are unset, the service's defaults are 10 s and 600 s."""
    shortest = _seconds(policy.minimum_backoff) if policy.HasField("minimum_backoff") else 10.0
    longest = _seconds(policy.maximum_backoff) if policy.HasField("maximum_backoff") else 600.0
    return min(longest, shortest * 2.0 ** min(failures - 1, 30))


def _seconds(value: Proto) -> float:
    """A Duration or Timestamp in seconds."""
    return float(value.seconds + value.nanos / 1e9)


class Topic:
    def __init__(self, config: Proto) -> None:
        self.config = config
        self.subscriptions: list[Subscription] = []


class Broker:
    """All topics and subscriptions, and the log that brings them back. A change is logged first and made then."""

    def __init__(self, log: Log, clock: Clock) -> None:
        """Take up where ``log`` ends."""
        self.topics: dict[str, Topic] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.clock = clock
        self._log = log
        self._numbered: dict[int, Subscription] = {}
        self._boot = 0
        self._next_id = int(clock.now() * 1_000_000)  # The time, so that ids do not come again when the folder was deleted.
        self._opened = False
        for record in log.replay():
            self._apply(record)
        self._store(Started(self._boot + 1, self._next_id))
        for subscription in self.subscriptions.values():
            subscription.open(self._boot, clock.now())
        self._opened = True
        self._compact(slack=0)

    def topic(self, name: str) -> Topic:
        return self.topics.get(name) or _refuse_unknown(name)

    def subscription(self, name: str) -> Subscription:
        return self.subscriptions.get(name) or _refuse_unknown(name)

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
        subscription.end(StatusError(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={_short(name)})."))

    def publish(self, name: str, payloads: Iterable[Proto]) -> list[Message]:
        """Give ``payloads`` (PubsubMessage) ids and the time, and hand them to the subscriptions that the topic has now."""
        topic = self.topic(name)
        micros = round(self.clock.now() * 1_000_000)
        messages = [self._stamp(payload, self._next_id + n, micros) for n, payload in enumerate(payloads)]
        if topic.subscriptions:
            self._append(Published([subscription.number for subscription in topic.subscriptions], messages))
        self._next_id += len(messages)
        for subscription in topic.subscriptions:
            subscription.add(messages)
        self._compact(COMPACTION_SLACK_BYTES)
        return messages

    def acknowledge(self, subscription: Subscription, ack_ids: Iterable[str]) -> None:
        leases = subscription.find(ack_ids)
        if leases:
            self._append(Acknowledged(subscription.number, [lease.message.id for lease in leases.values()]))
            subscription.settle(leases)
            self._compact(COMPACTION_SLACK_BYTES)

    def modify_deadline(self, subscription: Subscription, ack_ids: Iterable[str], seconds: int) -> None:
        if not 0 <= seconds <= 600:
            raise _invalid(f"Invalid ack deadline given: (ack_deadline_seconds={seconds}): expected 0 to 600.")
        leases = subscription.find(ack_ids)
        if seconds:
            subscription.extend(leases, seconds)
        else:
            subscription.give_back(leases)

    def purge(self, subscription: Subscription, until: float) -> None:
        """Drop the messages published before ``until``, in seconds since the epoch."""
        if until < subscription.acked_up_to:
            raise _unimplemented("Seek to before a message that was acknowledged")
        message_ids = [message.id for message in subscription.unacked.values() if message.published < until]
        if message_ids:
            self._append(Acknowledged(subscription.number, message_ids))
        subscription.purge(message_ids)

    def end(self) -> None:
        """Answer every waiting consumer that the server is going away; Google's clients then try again, until it is back."""
        for subscription in self.subscriptions.values():
            subscription.end(StatusError(grpc.StatusCode.UNAVAILABLE, "The local Pub/Sub is shutting down."))

    def _stamp(self, payload: Proto, message_id: int, micros: int) -> Message:
        payload.message_id = str(message_id)
        payload.publish_time.seconds, payload.publish_time.nanos = micros // 1_000_000, micros % 1_000_000 * 1000
        return Message(message_id, micros / 1_000_000, payload.ordering_key, payload.SerializeToString())

    def _forward(self, subscription: Subscription, message: Message, failures: int) -> bool:
        """Publish ``message`` to the dead letter topic and acknowledge it; False where the topic is gone or the log is full."""
        payload = _PubsubMessage.FromString(message.body)
        source = subscription.config.name.split("/")
        # https://cloud.google.com/pubsub/docs/handling-failures#dead_letter_message_attributes
        payload.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] = str(failures)
        payload.attributes["CloudPubSubDeadLetterSourceSubscription"] = source[-1]
        payload.attributes["CloudPubSubDeadLetterSourceSubscriptionProject"] = source[1]
        payload.attributes["CloudPubSubDeadLetterSourceTopicPublishTime"] = payload.publish_time.ToJsonString()
        try:
            self.publish(subscription.config.dead_letter_policy.dead_letter_topic, [payload])
            self._append(Acknowledged(subscription.number, [message.id]))
        except StatusError as error:
            _LOGGER.warning("message %d stays in %s: %s", message.id, subscription.config.name, error.details)
            return False
        subscription.forget([message.id])
        return True

    def _store(self, record: Record) -> None:
        self._append(record)
        self._apply(record)

    def _append(self, record: Record) -> None:
        try:
            self._log.append(record)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            code = grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.UNAVAILABLE
            raise StatusError(
                code, f"The log {self._log.path} cannot be written: {error.strerror}. Nothing was changed."
            ) from error

    def _apply(self, record: Record) -> None:
        match record:
            case Started(boot, next_id):
                self._boot, self._next_id = boot, max(self._next_id, next_id)
            case TopicStored(config):
                self._apply_topic(_Topic.FromString(config))
            case TopicDeleted(name):
                for subscription in self.topics.pop(name).subscriptions:
                    subscription.config.topic = _DELETED_TOPIC
            case SubscriptionStored(number, config):
                self._apply_subscription(number, _Subscription.FromString(config))
            case SubscriptionDeleted(number):
                subscription = self._numbered.pop(number)
                del self.subscriptions[subscription.config.name]
                if topic := self.topics.get(subscription.config.topic):
                    topic.subscriptions.remove(subscription)
            case Published(numbers, messages):
                self._next_id = max(self._next_id, messages[-1].id + 1)
                for number in numbers:
                    self._numbered[number].remember(messages)
            case Acknowledged(number, message_ids):
                self._numbered[number].forget(message_ids)

    def _apply_topic(self, config: Proto) -> None:
        if topic := self.topics.get(config.name):
            topic.config = config
        else:
            self.topics[config.name] = Topic(config)

    def _apply_subscription(self, number: int, config: Proto) -> None:
        if subscription := self.subscriptions.get(config.name):
            subscription.config = config
            return
        subscription = Subscription(number, config, self.clock, self._forward)
        self.subscriptions[config.name] = self._numbered[number] = subscription
        if topic := self.topics.get(config.topic):
            topic.subscriptions.append(subscription)
        if self._opened:
            subscription.open(self._boot, acked_up_to=0.0)

    def _compact(self, slack: int) -> None:
        """Rewrite the log without what is acknowledged once that is more than half of it and ``slack`` bytes."""
        live = sum(subscription.unacked_bytes for subscription in self.subscriptions.values())
        if self._log.size <= 2 * live + slack:
            return
        try:
            self._log.rewrite(self._snapshot())
        except OSError as error:
            _LOGGER.warning("the log %s could not be compacted: %s", self._log.path, error)

    def _snapshot(self) -> Iterator[Record]:
        yield Started(self._boot, self._next_id)
        for topic in self.topics.values():
            yield TopicStored(topic.config.SerializeToString())
        for subscription in self.subscriptions.values():
            yield SubscriptionStored(subscription.number, subscription.config.SerializeToString())
        holders: defaultdict[int, list[int]] = defaultdict(list)
        messages: dict[int, Message] = {}
        for subscription in self.subscriptions.values():
            messages |= subscription.unacked
            for message_id in subscription.unacked:
                holders[message_id].append(subscription.number)
        for numbers, ids in itertools.groupby(sorted(messages), key=holders.__getitem__):
            while batch := list(itertools.islice(ids, 100)):
                yield Published(numbers, [messages[message_id] for message_id in batch])


def _short(name: str) -> str:
    return name.rpartition("/")[2]


def _invalid(details: str) -> StatusError:
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, details)


def _unimplemented(what: str) -> StatusError:
    return StatusError(
        grpc.StatusCode.UNIMPLEMENTED, f"The local Pub/Sub does not support this: {what}. Google Cloud Pub/Sub does."
    )


def _refuse_unknown(name: str) -> NoReturn:
    raise StatusError(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={_short(name)}).")


# Checks, as the service makes them.


def _check_name(name: str, kind: str) -> None:
    match = _RESOURCE_NAME.fullmatch(name)
    if match is None or match[1] != kind:
        rule = "3 to 255 letters, digits and -_.~+%, starting with a letter, not with 'goog'"
        raise _invalid(f"Invalid [{kind}] name: (name={name}): expected projects/PROJECT/{kind}/ID, the ID being {rule}.")


def _check_new(name: str, known: Collection[str]) -> None:
    if name in known:
        raise StatusError(grpc.StatusCode.ALREADY_EXISTS, f"Resource already exists in the project (resource={_short(name)}).")


def _check_range(name: str, value: float, least: int, most: int) -> None:
    if not least <= value <= most:
        raise _invalid(f"Invalid {name} given: ({name}={value:g}): expected {least} to {most}.")


def _check_supported(config: Proto, lacking: Mapping[str, str]) -> None:
    """Refuse the fields in ``lacking`` that say anything; an empty PushConfig, for one, means none."""
    for field, value in config.ListFields():
        if field.name in lacking and (field.message_type is None or field.is_repeated or value.ByteSize()):
            raise _unimplemented(lacking[field.name])


_TOPIC_LACKS = {
    "schema_settings": "schemas",
    "ingestion_data_source_settings": "ingestion from other sources",
    "message_transforms": "message transforms",
}
_SUBSCRIPTION_LACKS = {
    "push_config": "push delivery",
    "bigquery_config": "BigQuery subscriptions",
    "cloud_storage_config": "Cloud Storage subscriptions",
    "bigtable_config": "Bigtable subscriptions",
    "filter": "filters",
    "enable_exactly_once_delivery": "exactly-once delivery",
    "message_transforms": "message transforms",
}
_TOPIC_FIXED = {"name", "kms_key_name"}
_SUBSCRIPTION_FIXED = {"name", "topic", "enable_message_ordering", "filter"}


def _complete_subscription(config: Proto) -> None:
    """Fill in the defaults of the service, and check what was given."""
    _check_supported(config, _SUBSCRIPTION_LACKS)
    config.state = _Subscription.ACTIVE
    config.ack_deadline_seconds = config.ack_deadline_seconds or 10
    _check_range("ack_deadline_seconds", config.ack_deadline_seconds, 10, 600)
    if not config.HasField("message_retention_duration"):
        config.message_retention_duration.CopyFrom(duration_pb2.Duration(seconds=7 * 86_400))
    _check_range("message_retention_duration", _seconds(config.message_retention_duration), 600, 31 * 86_400)
    if not config.HasField("expiration_policy"):
        config.expiration_policy.ttl.CopyFrom(duration_pb2.Duration(seconds=31 * 86_400))
    if config.HasField("retry_policy"):
        _check_range("minimum_backoff", _seconds(config.retry_policy.minimum_backoff), 0, 600)
        _check_range("maximum_backoff", _seconds(config.retry_policy.maximum_backoff), 0, 600)
    if config.HasField("dead_letter_policy"):
        policy = config.dead_letter_policy
        policy.max_delivery_attempts = policy.max_delivery_attempts or 5
        _check_range("max_delivery_attempts", policy.max_delivery_attempts, 5, 100)


def _merge(stored: Proto, update: Proto, paths: Collection[str], fixed: Collection[str]) -> Proto:
    """A copy of ``stored`` with the top-level fields ``paths`` as they are in ``update``."""
    fields = set(stored.DESCRIPTOR.fields_by_name)
    if not paths or not fields.issuperset(paths) or not set(paths).isdisjoint(fixed):
        allowed = ", ".join(sorted(fields.difference(fixed)))
        raise _invalid(f"Invalid update_mask provided: ({', '.join(paths)}): expected one or more of {allowed}.")
    merged, part = type(stored)(), type(stored)()
    merged.CopyFrom(stored)
    part.CopyFrom(update)
    for field in fields:
        (merged if field in paths else part).ClearField(field)
    merged.MergeFrom(part)
    return merged


def _check_publish(request: Proto) -> None:
    if request.ByteSize() > MAX_REQUEST_BYTES:
        raise _invalid(f"Request payload size exceeds the limit: {MAX_REQUEST_BYTES} bytes.")
    if not 1 <= len(request.messages) <= MAX_MESSAGES:
        raise _invalid(f"The request has {len(request.messages)} messages: expected 1 to {MAX_MESSAGES}.")
    if len({message.ordering_key for message in request.messages}) > 1:
        raise _invalid("In a single publish request all messages must have the same ordering key, or none.")
    if len(request.messages[0].ordering_key.encode()) > MAX_ORDERING_KEY_BYTES:
        raise _invalid(f"The ordering key is too long: expected up to {MAX_ORDERING_KEY_BYTES} bytes.")
    for message in request.messages:
        if message.attributes:
            _check_attributes(message.attributes)
        elif not message.data:
            raise _invalid("A message in the publish request is empty: expected non-empty data or at least one attribute.")


def _check_attributes(attributes: Mapping[str, str]) -> None:
    if len(attributes) > MAX_ATTRIBUTES:
        raise _invalid(f"A message has {len(attributes)} attributes: expected up to {MAX_ATTRIBUTES}.")
    for key, value in attributes.items():
        if not 1 <= len(key.encode()) <= MAX_ATTRIBUTE_KEY_BYTES or key.startswith("goog"):
            raise _invalid(
                f"Invalid attribute key '{key}': expected 1 to {MAX_ATTRIBUTE_KEY_BYTES} bytes, not starting with 'goog'."
            )
        if len(value.encode()) > MAX_ATTRIBUTE_VALUE_BYTES:
            raise _invalid(f"The value of attribute '{key}' is too long: expected up to {MAX_ATTRIBUTE_VALUE_BYTES} bytes.")


def _page(names: Iterable[str], request: Proto) -> tuple[list[str], str]:
    """The names of one page of a listing, sorted, and the token of the next page, empty after the last."""
    waiting = sorted(name for name in names if name > request.page_token)
    size = request.page_size or 1000
    return waiting[:size], waiting[size - 1] if len(waiting) > size else ""


class Publisher:
    """google.pubsub.v1.Publisher: each method takes a request and returns the reply, or raises a StatusError."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def create_topic(self, request: Proto) -> Proto:
        _check_name(request.name, "topics")
        _check_supported(request, _TOPIC_LACKS)
        _check_new(request.name, self._broker.topics)
        request.state = _Topic.ACTIVE
        self._broker.store_topic(request)
        return request

    def update_topic(self, request: Proto) -> Proto:
        stored = self._broker.topic(request.topic.name).config
        config = _merge(stored, request.topic, request.update_mask.paths, _TOPIC_FIXED)
        _check_supported(config, _TOPIC_LACKS)
        self._broker.store_topic(config)
        return config

    def get_topic(self, request: Proto) -> Proto:
        return self._broker.topic(request.topic).config

    def list_topics(self, request: Proto) -> Proto:
        topics = self._broker.topics
        names, token = _page((name for name in topics if name.startswith(f"{request.project}/topics/")), request)
        return types.ListTopicsResponse.pb()(topics=[topics[name].config for name in names], next_page_token=token)

    def list_topic_subscriptions(self, request: Proto) -> Proto:
        subscriptions = self._broker.topic(request.topic).subscriptions
        names, token = _page((subscription.config.name for subscription in subscriptions), request)
        return types.ListTopicSubscriptionsResponse.pb()(subscriptions=names, next_page_token=token)

    def delete_topic(self, request: Proto) -> Proto:
        self._broker.delete_topic(request.topic)
        return empty_pb2.Empty()

    def publish(self, request: Proto) -> Proto:
        self._broker.topic(request.topic)
        _check_publish(request)
        messages = self._broker.publish(request.topic, request.messages)
        return _PublishResponse(message_ids=[str(message.id) for message in messages])


class Subscriber:
    """google.pubsub.v1.Subscriber: as Publisher; pull and streaming_pull, which wait, also take the gRPC context."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def create_subscription(self, request: Proto) -> Proto:
        _check_name(request.name, "subscriptions")
        _check_new(request.name, self._broker.subscriptions)
        self._broker.topic(request.topic)
        self._complete(request)
        self._broker.store_subscription(request)
        return request

    def update_subscription(self, request: Proto) -> Proto:
        stored = self._broker.subscription(request.subscription.name).config
        config = _merge(stored, request.subscription, request.update_mask.paths, _SUBSCRIPTION_FIXED)
        self._complete(config)
        self._broker.store_subscription(config)
        return config

    def get_subscription(self, request: Proto) -> Proto:
        return self._broker.subscription(request.subscription).config

    def list_subscriptions(self, request: Proto) -> Proto:
        known = self._broker.subscriptions
        names, token = _page((name for name in known if name.startswith(f"{request.project}/subscriptions/")), request)
        return types.ListSubscriptionsResponse.pb()(subscriptions=[known[name].config for name in names], next_page_token=token)

    def delete_subscription(self, request: Proto) -> Proto:
        self._broker.delete_subscription(request.subscription)
        return empty_pb2.Empty()

    def acknowledge(self, request: Proto) -> Proto:
        subscription = self._broker.subscription(request.subscription)
        _check_ack_ids(request.ack_ids)
        self._broker.acknowledge(subscription, request.ack_ids)
        return empty_pb2.Empty()

    def modify_ack_deadline(self, request: Proto) -> Proto:
        subscription = self._broker.subscription(request.subscription)
        _check_ack_ids(request.ack_ids)
        self._broker.modify_deadline(subscription, request.ack_ids, request.ack_deadline_seconds)
        return empty_pb2.Empty()

    def seek(self, request: Proto) -> Proto:
        subscription = self._broker.subscription(request.subscription)
        if not request.HasField("time"):
            raise _unimplemented("Seek to a snapshot")
        self._broker.purge(subscription, _seconds(request.time))
        return types.SeekResponse.pb()()

    async def pull(self, request: Proto, context: grpc.aio.ServicerContext) -> bytes:
        subscription = self._broker.subscription(request.subscription)
        if request.max_messages < 1:
            raise _invalid(f"Invalid max_messages given: ({request.max_messages}): expected 1 or more.")
        if not request.return_immediately:
            # An answer that comes after the client has gone would lease messages to nobody.
            patience = min(LONG_POLL_SECONDS, (context.time_remaining() or LONG_POLL_SECONDS) - 0.1)
            await _until_first(subscription.ended, subscription.until_available(), timeout=max(0.0, patience))
        count = min(request.max_messages, MAX_MESSAGES)
        return encode_received(subscription.take(count, MAX_REQUEST_BYTES, subscription.config.ack_deadline_seconds))

    async def streaming_pull(self, requests: AsyncIterator[Proto], context: grpc.aio.ServicerContext) -> None:
        """Ends well when the client has said all it has to say."""
        first = await anext(requests, None)
        if first is None:
            return
        subscription = self._broker.subscription(first.subscription)
        _check_range("stream_ack_deadline_seconds", first.stream_ack_deadline_seconds, 10, 600)
        stream = Stream(first.max_outstanding_messages, first.max_outstanding_bytes, first.stream_ack_deadline_seconds)
        self._settle(subscription, first)
        listening, sending = self._listen(subscription, stream, requests), self._send(subscription, stream, context)
        await _until_first(subscription.ended, listening, sending)

    async def _listen(self, subscription: Subscription, stream: Stream, requests: AsyncIterator[Proto]) -> None:
        async for request in requests:
            if request.subscription:
                raise _invalid("The subscription may be named in the first request of a stream only.")
            if request.stream_ack_deadline_seconds:
                _check_range("stream_ack_deadline_seconds", request.stream_ack_deadline_seconds, 10, 600)
                stream.deadline_seconds = request.stream_ack_deadline_seconds
            self._settle(subscription, request)

    def _settle(self, subscription: Subscription, request: Proto) -> None:
        """Carry out the acknowledgements and deadlines that came in a request of a stream."""
        if len(request.modify_deadline_ack_ids) != len(request.modify_deadline_seconds):
            raise _invalid("modify_deadline_ack_ids and modify_deadline_seconds differ in length: expected one for one.")
        self._broker.acknowledge(subscription, request.ack_ids)
        by_seconds: defaultdict[int, list[str]] = defaultdict(list)
        for ack_id, seconds in zip(request.modify_deadline_ack_ids, request.modify_deadline_seconds, strict=True):
            by_seconds[seconds].append(ack_id)
        for seconds, ack_ids in by_seconds.items():
            self._broker.modify_deadline(subscription, ack_ids, seconds)

    async def _send(self, subscription: Subscription, stream: Stream, context: grpc.aio.ServicerContext) -> None:
        response = _StreamingPullResponse()
        response.subscription_properties.message_ordering_enabled = subscription.config.enable_message_ordering
        properties = response.SerializeToString()
        while True:
            await stream.room()
            await subscription.until_available()
            messages, size = await stream.room()
            count, size = min(messages, MAX_MESSAGES), min(size, MAX_REQUEST_BYTES)
            if deliveries := subscription.take(count, size, stream.deadline_seconds, stream):
                await context.write(encode_received(deliveries) + properties)

    def _complete(self, config: Proto) -> None:
        _complete_subscription(config)
        if config.HasField("dead_letter_policy"):
            self._broker.topic(config.dead_letter_policy.dead_letter_topic)


def _check_ack_ids(ack_ids: Collection[str]) -> None:
    if not ack_ids:
        raise _invalid("No ack ids specified.")


async def _until_first(
    ended: asyncio.Future[StatusError], *work: Coroutine[Any, Any, None], timeout: float | None = None
) -> None:
    """Run ``work`` until the first of it is done or ``timeout`` seconds are over; raises its error, or what ``ended`` says."""
    tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(coroutine) for coroutine in work]
    awaited: list[asyncio.Future[Any]] = [*tasks, ended]
    try:
        done, _ = await asyncio.wait(awaited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if ended in done:
        raise ended.result()
    for task in tasks:
        if task in done:
            task.result()


_SERVER_OPTIONS = [
    ("grpc.so_reuseport", 0),  # Or a second server could share the port unnoticed.
    ("grpc.max_receive_message_length", 4 * MAX_REQUEST_BYTES),  # A request that is too large gets the service's own answer.
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.max_ping_strikes", 0),  # Google's clients keep idle streams alive with more pings than gRPC allows by default.
]

# The method table.

_PUBLISHER_LACKS = {"ListTopicSnapshots": "snapshots", "DetachSubscription": "detaching subscriptions"}
_SUBSCRIBER_LACKS = {"ModifyPushConfig": "push delivery"} | dict.fromkeys(
    ("CreateSnapshot", "GetSnapshot", "ListSnapshots", "UpdateSnapshot", "DeleteSnapshot"), "snapshots"
)
_SCHEMA_METHODS = (
    *("CreateSchema", "GetSchema", "ListSchemas", "DeleteSchema", "ValidateSchema", "ValidateMessage"),
    *("CommitSchema", "RollbackSchema", "ListSchemaRevisions", "DeleteSchemaRevision"),
)
_IAM_METHODS = ("GetIamPolicy", "SetIamPolicy", "TestIamPermissions")


def _handlers(broker: Broker) -> Iterator[Any]:
    publisher, subscriber = Publisher(broker), Subscriber(broker)
    yield _service("google.pubsub.v1.Publisher", _publisher_methods(publisher), _PUBLISHER_LACKS)
    yield _service("google.pubsub.v1.Subscriber", _subscriber_methods(subscriber), _SUBSCRIBER_LACKS)
    yield _service("google.pubsub.v1.SchemaService", {}, dict.fromkeys(_SCHEMA_METHODS, "schemas"))
    yield _service("google.iam.v1.IAMPolicy", {}, dict.fromkeys(_IAM_METHODS, "access policies"))
    stats = _unary(lambda path: msgspec.json.encode(broker.subscription(path.decode()).backlog()), None)
    yield grpc.method_handlers_generic_handler("ecomflow.local.Stats", {"Get": stats})


def _publisher_methods(publisher: Publisher) -> dict[str, Any]:
    return {
        "CreateTopic": _unary(publisher.create_topic, types.Topic),
        "UpdateTopic": _unary(publisher.update_topic, types.UpdateTopicRequest),
        "GetTopic": _unary(publisher.get_topic, types.GetTopicRequest),
        "ListTopics": _unary(publisher.list_topics, types.ListTopicsRequest),
        "ListTopicSubscriptions": _unary(publisher.list_topic_subscriptions, types.ListTopicSubscriptionsRequest),
        "DeleteTopic": _unary(publisher.delete_topic, types.DeleteTopicRequest),
        "Publish": _unary(publisher.publish, types.PublishRequest),
    }


def _subscriber_methods(subscriber: Subscriber) -> dict[str, Any]:
    pull, streaming_pull = _translating(subscriber.pull), _translating(subscriber.streaming_pull)
    stream_requests = types.StreamingPullRequest.pb().FromString
    return {
        "CreateSubscription": _unary(subscriber.create_subscription, types.Subscription),
        "UpdateSubscription": _unary(subscriber.update_subscription, types.UpdateSubscriptionRequest),
        "GetSubscription": _unary(subscriber.get_subscription, types.GetSubscriptionRequest),
        "ListSubscriptions": _unary(subscriber.list_subscriptions, types.ListSubscriptionsRequest),
        "DeleteSubscription": _unary(subscriber.delete_subscription, types.DeleteSubscriptionRequest),
        "Acknowledge": _unary(subscriber.acknowledge, types.AcknowledgeRequest),
        "ModifyAckDeadline": _unary(subscriber.modify_ack_deadline, types.ModifyAckDeadlineRequest),
        "Seek": _unary(subscriber.seek, types.SeekRequest),
        "Pull": grpc.unary_unary_rpc_method_handler(pull, types.PullRequest.pb().FromString),
        "StreamingPull": grpc.stream_stream_rpc_method_handler(streaming_pull, stream_requests),
    }


def _service(name: str, methods: dict[str, Any], lacking: Mapping[str, str]) -> Any:
    refusing = {method: _unary(_refuser(what), None) for method, what in lacking.items()}
    return grpc.method_handlers_generic_handler(name, methods | refusing)


def _refuser(what: str) -> Callable[[bytes], NoReturn]:
    def refuse(_: bytes) -> NoReturn:
        raise _unimplemented(what)

    return refuse


def _unary(method: Callable[[Any], Any], request_type: Any) -> Any:
    """A handler for ``method``; its requests are decoded as ``request_type``, where None leaves them bytes."""

    async def call(request: Any, _: grpc.aio.ServicerContext) -> bytes:
        reply = method(request)
        return reply if isinstance(reply, bytes) else bytes(reply.SerializeToString())

    return grpc.unary_unary_rpc_method_handler(_translating(call), request_type and request_type.pb().FromString)


def _translating(method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """``method`` with its StatusError turned into a gRPC status."""

    async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            return await method(request, context)
        except StatusError as error:
            await context.abort(error.code, error.details)

    return call


@contextlib.asynccontextmanager
async def serve(data_dir: Path, port: int = 0, clock: Clock | None = None) -> AsyncIterator[int]:
    """Serve on 127.0.0.1 while the context is open, with the state kept in ``data_dir``; yields the port (0 takes a free one).

    Raises AccessError where ``data_dir`` cannot be written, UnavailableError where it or the port is in use.
    """
    with contextlib.closing(Log(data_dir)) as log:
        broker = Broker(log, clock or SystemClock())
        server = grpc.aio.server(options=_SERVER_OPTIONS)
        server.add_generic_rpc_handlers(tuple(_handlers(broker)))
        bound = _bind(server, port)
        await server.start()
        try:
            yield bound
        finally:
            broker.end()
            await server.stop(grace=0.3)


def _bind(server: grpc.aio.Server, port: int) -> int:
    try:
        return int(server.add_insecure_port(f"127.0.0.1:{port}"))
    except RuntimeError as error:
        raise UnavailableError(
            f"Port {port} of 127.0.0.1 is in use.", "Stop what listens there, or give another port."
        ) from error


async def _run(port: int, data_dir: Path) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with serve(data_dir, port) as bound:
        print(f"listening on 127.0.0.1:{bound}", flush=True)
        await stopped.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ecomflow.local.pubsub", description="The local Pub/Sub.")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--data-dir", type=Path, required=True, help="where messages not yet acknowledged are kept")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(_run(arguments.port, arguments.data_dir))
    except EcomflowError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
