"""One subscription of the local Pub/Sub, in memory: its messages are added, leased, and acknowledged or released."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import re
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from ecomflow.local.pubsub.clock import Clock
from ecomflow.local.pubsub.log import Message
from ecomflow.local.pubsub.ordering import OrderingKeys
from ecomflow.local.pubsub.status import StatusError, invalid
from ecomflow.local.pubsub.stream import Stream

_SPARE_DEADLINES = 10_000
_ACK_ID = re.compile(r"\d+-\d+-\d+")

Proto = Any  # A protobuf object; the classes are generated at run time, so there is no type to name.
Leased = tuple[str, Message, int]  # ack id, message, delivery attempt (0: the subscription has no dead letter policy)


class Options(NamedTuple):
    """Options for tests and benchmarks: the latency of the service, and the size of its responses.

    ``round_trip``: minimum duration of a unary call in seconds; streams are not delayed. ``hold_seconds``: how long a pull waits
    for a first message. ``ack_id_length``: minimum length of an ack id; those of the service have more than 210 characters.
    ``max_messages``: how many unacknowledged messages fit into memory; 0 derives it from the memory that the process may use.
    """

    round_trip: float = 0.0
    messages_per_pull: int = 1000
    ack_id_length: int = 0
    hold_seconds: float = 20.0
    max_messages: int = 0


class Backlog(msgspec.Struct, frozen=True):
    """The backlog of a subscription, named like the metrics of Cloud Monitoring.

    ``num_undelivered_messages``: all unacknowledged messages, including ``num_outstanding_messages``, which are leased to a
    consumer; ``oldest_unacked_publish_time``: in seconds since the epoch, None if the backlog is empty.
    Not among the service's metrics: ``num_leased_to_departed``, messages leased to pulls whose clients had given up, and
    ``num_waiting_pulls``, pulls that wait for a first message.
    """

    num_undelivered_messages: int
    num_outstanding_messages: int
    oldest_unacked_publish_time: float | None
    num_leased_to_departed: int = 0
    num_waiting_pulls: int = 0


class Lease(msgspec.Struct, gc=False):
    """A message that is leased to a consumer until ``deadline``, under one ack id."""

    message: Message
    deadline: float
    stream: Stream | None


class Subscription:
    """The messages of one subscription: available, leased, delayed after a failure, or queued behind their ordering key.

    The cost of adding, leasing and acknowledging does not depend on the backlog; deadlines are in a heap, one entry per batch.
    """

    def __init__(
        self,
        number: int,
        config: Proto,
        clock: Clock,
        forward: Callable[[Subscription, str, Message, int], bool],
        ack_id_length: int = 0,
    ) -> None:
        """``forward(subscription, ack_id, message, failures)`` moves a leased message to the dead letter topic.

        It returns False on failure.
        """
        self.number = number
        self.config = config
        self.unacked: dict[int, Message] = {}
        self.unacked_bytes = 0
        self.acked_up_to = 0.0
        self.num_leased_to_departed = 0
        self.num_waiting_pulls = 0
        self.ended: asyncio.Future[StatusError] = asyncio.get_running_loop().create_future()
        self._clock = clock
        self._forward = forward
        self._ack_id_length = ack_id_length
        self._ack_id_prefix = ""
        self._ordering = OrderingKeys() if config.enable_message_ordering else None
        self._sequence = itertools.count(1)
        self._available: deque[Message] = deque()
        self._leases: dict[str, Lease] = {}
        self._deadlines: list[tuple[float, int, list[str]]] = []
        self._num_deadlines = 0
        self._delayed: list[tuple[float, int, Message]] = []
        self._failures: dict[int, int] = {}
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._alarm: tuple[float, Callable[[], None]] | None = None

    def open(self, boot: int, acked_up_to: float) -> None:
        """Start delivering, with ack ids that differ from those of every earlier ``boot``."""
        self._ack_id_prefix = f"{boot}-{self.number}-".rjust(self._ack_id_length, "0")
        self.acked_up_to = acked_up_to
        self._rebuild()

    def remember(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.unacked[message.id] = message
            self.unacked_bytes += message.size

    def forget(self, message_ids: Iterable[int]) -> None:
        for message_id in message_ids:
            if message := self.unacked.pop(message_id, None):
                self.unacked_bytes -= message.size
                self.acked_up_to = max(self.acked_up_to, message.published)
                self._failures.pop(message_id, None)

    def add(self, messages: Iterable[Message]) -> None:
        self.remember(messages)
        self._available.extend(messages)
        self._wake()

    def take(self, count: int, size: int, seconds: float, stream: Stream | None = None) -> list[Leased]:
        """Lease available messages for ``seconds``: up to ``count`` with a total of ``size`` bytes, or a single larger one."""
        self.expire()
        deadline = self._clock.steady() + seconds
        counts_attempts = self.config.HasField("dead_letter_policy")
        leased: list[Leased] = []
        if self._ordering is None:
            messages, taken = self._pick(count, size)
        else:
            messages, taken = self._pick_in_order(count, size, stream or Stream())
        prefix = self._ack_id_prefix
        for message in messages:
            ack_id = f"{prefix}{next(self._sequence)}"
            self._leases[ack_id] = Lease(message, deadline, stream)
            leased.append((ack_id, message, self._failures.get(message.id, 0) + 1 if counts_attempts else 0))
        if stream is not None:
            stream.occupy(len(leased), taken)
        if self._ordering is not None:
            for ack_id, message, _ in leased:
                self._ordering.lease(ack_id, message)
        self._watch(deadline, [ack_id for ack_id, _, _ in leased])
        self._wake()
        return leased

    def _pick(self, count: int, size: int) -> tuple[list[Message], int]:
        """The next messages and their size; at least one if there is any."""
        available = self._available
        picked: list[Message] = []
        taken = 0
        while available and len(picked) < count:
            length = available[0].size
            if picked and taken + length > size:
                break
            picked.append(available.popleft())
            taken += length
        return picked, taken

    def _pick_in_order(self, count: int, size: int, consumer: Stream) -> tuple[list[Message], int]:
        """Like ``_pick``, but only messages whose ordering key ``consumer`` may take."""
        assert self._ordering is not None
        picked: list[Message] = []
        taken = 0
        while len(picked) < count and (source := self._ordering.next_of(consumer) or self._available):
            if picked and taken + source[0].size > size:
                break
            message = source.popleft()
            if source is not self._available or self._ordering.admit(message, consumer):
                picked.append(message)
                taken += message.size
        return picked, taken

    def find(self, ack_ids: Collection[str]) -> dict[str, Lease]:
        """The current leases of ``ack_ids``, without those that were acknowledged, released or have expired.

        Raises StatusError for a malformed ack id.
        """
        found = {ack_id: lease for ack_id in ack_ids if (lease := self._leases.get(ack_id))}
        if len(found) < len(ack_ids):
            for ack_id in ack_ids:
                if ack_id not in found and not _ACK_ID.fullmatch(ack_id):
                    raise invalid(f"You have passed an invalid ack ID to the service (ack_id={ack_id[:300]}).")
        return found

    def finished_by(self, leases: Mapping[str, Lease]) -> dict[str, Message]:
        """The messages, by ack id, that are never delivered again once ``leases`` are acknowledged.

        With ordering, these are the messages of a key up to the first that is not acknowledged.
        """
        messages = {ack_id: lease.message for ack_id, lease in leases.items()}
        return messages if self._ordering is None else self._ordering.finished_by(messages)

    def acknowledge(self, leases: Mapping[str, Lease], finished: Mapping[str, Message]) -> None:
        """End ``leases``, which are acknowledged, and remove the messages ``finished``."""
        self.forget(message.id for message in finished.values())
        for ack_id, lease in leases.items():
            self._end_lease(ack_id, lease)
        if self._ordering is not None:
            self._ordering.acknowledge({ack_id: lease.message for ack_id, lease in leases.items()}, finished)
        self._free_keys(lease.message.key for lease in leases.values())
        self._wake()

    def extend(self, leases: Mapping[str, Lease], seconds: float) -> None:
        deadline = self._clock.steady() + seconds
        for lease in leases.values():
            lease.deadline = deadline
        self._watch(deadline, list(leases))

    def give_back(self, leases: Mapping[str, Lease], *, failed: bool = True) -> None:
        """Make the messages of ``leases`` available again, before all others, or after the delay of the retry policy.

        With ordering, this includes the later delivered messages of their keys. ``failed``: it counts as a delivery attempt.
        """
        if failed:
            leases = {ack_id: lease for ack_id, lease in leases.items() if not self._is_forwarded(ack_id, lease.message)}
        returned: list[Message] = []
        delayed: dict[int, float] = {}
        for ack_id, lease in leases.items():
            self._release(ack_id, lease)
            returned.append(lease.message)
            if failed and self.config.HasField("retry_policy"):
                failures = self._failures[lease.message.id]
                delayed[lease.message.id] = self._clock.steady() + _backoff_seconds(self.config.retry_policy, failures)
        ordered = [message for message in returned if message.key] if self._ordering is not None else []
        if ordered:
            self._put_back_in_order(ordered, delayed)
            returned = [message for message in returned if not message.key]
        for message in returned:
            if message.id in delayed:
                heapq.heappush(self._delayed, (delayed[message.id], next(self._sequence), message))
        self._available.extendleft(message for message in reversed(returned) if message.id not in delayed)
        self._free_keys(lease.message.key for lease in leases.values())
        self._wake()
        self._set_alarm()

    def _is_forwarded(self, ack_id: str, message: Message) -> bool:
        """Count the failed delivery of ``message``; whether it was the last and the message is now in the dead letter topic."""
        failures = self._failures[message.id] = self._failures.get(message.id, 0) + 1
        return self._is_exhausted(failures) and self._forward(self, ack_id, message, failures)

    def _put_back_in_order(self, messages: list[Message], delayed: Mapping[int, float]) -> None:
        """Queue ``messages``, and the later delivered messages of their ordering keys, behind these keys."""
        assert self._ordering is not None
        by_key: defaultdict[str, list[Message]] = defaultdict(list)
        for message in messages:
            by_key[message.key].append(message)
        for key, returned in by_key.items():
            first = min(returned, key=lambda message: message.id)
            for ack_id, later in self._ordering.take_later_than(first):
                if lease := self._leases.get(ack_id):  # None: it was acknowledged, which counts no more.
                    self._end_lease(ack_id, lease)
                returned.append(later)
            until = max((delayed.get(message.id, 0.0) for message in returned), default=0.0)
            self._ordering.put_back(key, returned, until)
            if until:
                heapq.heappush(self._delayed, (until, next(self._sequence), first))

    def _free_keys(self, keys: Iterable[str]) -> None:
        if self._ordering is not None:
            for key in dict.fromkeys(keys):
                self._available.extendleft(reversed(list(self._ordering.free(key))))

    def expire(self) -> None:
        """Release the messages whose lease has expired, and make those available whose delay has ended."""
        now = self._clock.steady()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, ack_ids = heapq.heappop(self._deadlines)
            self._num_deadlines -= len(ack_ids)
            leases = {ack_id: lease for ack_id in ack_ids if (lease := self._leases.get(ack_id)) and lease.deadline <= now}
            self.give_back(leases)
        while self._delayed and self._delayed[0][0] <= now:
            message = heapq.heappop(self._delayed)[2]
            if self._ordering is not None and message.key:
                self._ordering.end_delay(message.key, now)
                self._free_keys([message.key])
            else:
                self._available.append(message)
        self._wake()

    def purge(self, message_ids: Collection[int]) -> None:
        """Drop messages, leased or not."""
        self.forget(message_ids)
        for ack_id, lease in list(self._leases.items()):
            if lease.message.id not in self.unacked:
                self._release(ack_id, lease)
        self._rebuild()

    def has_available(self, stream: Stream | None = None) -> bool:
        self.expire()
        return bool(self._available or (stream is not None and stream.keys))

    async def until_available(self, stream: Stream | None = None) -> None:
        """Return when a message can be taken; the consumer that has waited longest goes first."""
        while not self.has_available(stream):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            if stream is not None:
                stream.wait_with(waiter)
            self._set_alarm()
            try:
                await waiter
            except asyncio.CancelledError:
                self._wake()  # This waiter may already have been woken, so wake the next one.
                raise
            finally:
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)

    def end(self, reason: StatusError) -> None:
        """End the calls of all consumers with ``reason``."""
        if not self.ended.done():
            self.ended.set_result(reason)

    def backlog(self) -> Backlog:
        self.expire()
        oldest = next(iter(self.unacked.values()), None)
        published = oldest.published if oldest else None
        return Backlog(len(self.unacked), len(self._leases), published, self.num_leased_to_departed, self.num_waiting_pulls)

    def _rebuild(self) -> None:
        """Make all unacknowledged messages available that are not leased."""
        leased = {lease.message.id for lease in self._leases.values()}
        self._delayed.clear()
        self._available.clear()
        self._available.extend(message for message in self.unacked.values() if message.id not in leased)
        if self._ordering is not None:
            self._ordering.restart((ack_id, lease.message, lease.stream) for ack_id, lease in self._leases.items())
        self._wake()

    def _release(self, ack_id: str, lease: Lease) -> None:
        self._end_lease(ack_id, lease)
        if self._ordering is not None:
            self._ordering.release(ack_id, lease.message)

    def _end_lease(self, ack_id: str, lease: Lease) -> None:
        del self._leases[ack_id]
        if lease.stream is not None:
            lease.stream.occupy(-1, -lease.message.size)

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
        """The heap keeps the ids of finished and extended leases until their deadline; this removes them."""
        by_deadline: defaultdict[float, list[str]] = defaultdict(list)
        for ack_id, lease in self._leases.items():
            by_deadline[lease.deadline].append(ack_id)
        self._deadlines = [(deadline, next(self._sequence), ack_ids) for deadline, ack_ids in by_deadline.items()]
        heapq.heapify(self._deadlines)
        self._num_deadlines = len(self._leases)

    def _wake(self) -> None:
        """Wake the consumer that has waited longest; it wakes the next one if any messages are left."""
        while self._available and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _set_alarm(self) -> None:
        """Set a timer for the next deadline, but only if a consumer is waiting; all others check deadlines themselves."""
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
    """Exponential backoff between the policy's bounds, which default to the service's 10 s and 600 s."""
    shortest = seconds_of(policy.minimum_backoff) if policy.HasField("minimum_backoff") else 10.0
    longest = seconds_of(policy.maximum_backoff) if policy.HasField("maximum_backoff") else 600.0
    return min(longest, shortest * 2.0 ** min(failures - 1, 30))


def seconds_of(value: Proto) -> float:
    """A Duration or Timestamp in seconds."""
    return float(value.seconds + value.nanos / 1e9)
