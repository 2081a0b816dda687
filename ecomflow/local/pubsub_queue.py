"""Messages are added, leased, and acknowledged or given back: one subscription of the local Pub/Sub, in memory."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

import grpc
import msgspec

from ecomflow.local.pubsub_log import Message

_SPARE_DEADLINES = 10_000

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
        if self._num_deadlines > 2 * len(self._leases) + _SPARE_DEADLINES:
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
    shortest = seconds_of(policy.minimum_backoff) if policy.HasField("minimum_backoff") else 10.0
    longest = seconds_of(policy.maximum_backoff) if policy.HasField("maximum_backoff") else 600.0
    return min(longest, shortest * 2.0 ** min(failures - 1, 30))


def seconds_of(value: Proto) -> float:
    """A Duration or Timestamp in seconds."""
    return float(value.seconds + value.nanos / 1e9)
