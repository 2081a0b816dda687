"""A subscription in, batches of messages out; the local engine acknowledges each batch here.

Several threads, as many as ``pace.py`` says, pull ahead of the pipeline within bounds; one extends the ack deadlines of
unacknowledged messages. Messages that are released, or leased to a process that dies, are redelivered.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from google.api_core import exceptions
from google.pubsub_v1.types import AcknowledgeRequest, ModifyAckDeadlineRequest, PullRequest

from ecomflow.config import Endpoints
from ecomflow.contract.events import Message
from ecomflow.errors import AccessError, EcomflowError, NotFoundError, UnavailableError
from ecomflow.gcp.clients import subscriber_client
from ecomflow.gcp.errors import TRANSIENT
from ecomflow.pipeline.config import PipelineConfig
from ecomflow.pipeline.counters import Counters
from ecomflow.pipeline.direct.ack_requests import send_in_portions
from ecomflow.pipeline.direct.pace import Pace

log = logging.getLogger(__name__)


class Bounds(NamedTuple):
    """How far a puller runs ahead of its reader, and the amount of data at which a batch ends."""

    messages_ahead: int
    bytes_ahead: int
    batch_bytes: int


# About one bundle ahead: more would only mean more redeliveries after a crash. A batch also ends at an amount of data, because
# orders with many items become many rows, which would need more memory.
BOUNDS = Bounds(messages_ahead=10_000, bytes_ahead=16 * 2**20, batch_bytes=8 * 2**20)

# Longer than the service keeps a pull open that finds nothing. If the client gives up first, messages may be leased to nobody
# until their ack deadline: https://github.com/googleapis/google-cloud-python/issues/8087. To stop, the connection is closed.
_PULL_TIMEOUT = 90.0
_JOIN_TIMEOUT = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
# A server that shuts down also cancels the pulls that it holds open.
_TRANSIENT = (*TRANSIENT, exceptions.Cancelled, exceptions.RetryError)


class PulledBatch:
    """Messages and their ack ids."""

    def __init__(self, messages: list[Message], ack_ids: list[str], size: int) -> None:
        self.messages = messages
        self.ack_ids = ack_ids
        self.size = size
        self.extended_at = 0.0


class Puller:
    """Pulls one subscription ahead of its reader. Safe for several threads."""

    def __init__(
        self,
        config: PipelineConfig,
        counters: Counters,
        bounds: Bounds = BOUNDS,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        connect: Callable[[Endpoints], Any] = subscriber_client,
    ) -> None:
        """``clock`` is for the remaining time of leases; ``now``, in seconds since the epoch, for the age of messages."""
        self._subscription = config.subscription_path
        self._deadline = config.ack_deadline_seconds
        self._counters = counters
        self._bounds = bounds
        self._clock = clock
        self._now = now
        self._client = connect(config.endpoints)
        self._pulls = connect(config.endpoints)  # a separate connection: closing it ends the outstanding pulls
        self._changed = threading.Condition()
        self._ready: deque[PulledBatch] = deque()
        self._leased: set[PulledBatch] = set()
        self._stopping = False
        self._closed = threading.Event()
        self._error: EcomflowError | None = None
        self._pace = Pace(bounds.messages_ahead, bounds.bytes_ahead)
        self._retry_pause = _FIRST_PAUSE
        self._pullers: set[threading.Thread] = set()
        self._extender = threading.Thread(target=self._extend_leases, name="lease", daemon=True)
        self._extender.start()
        with self._changed:
            self._match_threads()

    def take(self, most: int, wait: float) -> PulledBatch | None:
        """Pulled messages: about ``most`` messages or ``bounds.batch_bytes``, exceeded by at most one pull; None if nothing
        arrives within ``wait`` seconds.

        Raises the error that ended the pulling, if any.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._stopping or self._error, wait)
            if self._error:
                raise self._error
            if self._stopping:
                return None
            parts: list[PulledBatch] = []
            while self._ready and _has_room(parts, most, self._bounds.batch_bytes):
                parts.append(self._ready.popleft())
            self._changed.notify_all()
            return self._joined(parts) if parts else None

    @property
    def stopped(self) -> bool:
        return self._stopping

    def acknowledge(self, batch: PulledBatch) -> None:
        """Acknowledge ``batch``. If that fails, its messages are redelivered."""
        acknowledged = 0
        try:
            for number in send_in_portions(batch.ack_ids, self._send_acknowledgement):
                acknowledged += number
        except (exceptions.GoogleAPIError, ValueError) as error:  # ValueError: the channel was closed
            log.warning(
                "%d messages will be redelivered, because their acknowledgement failed: %s",
                len(batch.ack_ids) - acknowledged,
                error,
            )
        finally:
            with self._changed:
                self._leased.discard(batch)

    def release(self) -> None:
        """Release all unacknowledged messages, so that they are redelivered at once."""
        with self._changed:
            leased, self._leased = self._leased, set()
            self._ready.clear()
            self._changed.notify_all()
        self._set_deadline(leased, 0)

    def stop(self) -> None:
        """Stop pulling. Unread messages are released; batches that a reader has can still be acknowledged."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            pullers = list(self._pullers)
        self._pulls.close()  # first, or the outstanding pulls would receive the released messages
        give_up = time.monotonic() + _JOIN_TIMEOUT
        for puller in pullers:
            puller.join(max(0.0, give_up - time.monotonic()))
        with self._changed:
            unread = list(self._ready)
            self._ready.clear()
            self._leased.difference_update(unread)
        self._set_deadline(unread, 0)

    def close(self) -> None:
        """Stop, release all messages, and close the connections."""
        self.stop()
        self.release()
        self._closed.set()
        self._extender.join(timeout=_JOIN_TIMEOUT)
        self._client.close()

    def _joined(self, parts: list[PulledBatch]) -> PulledBatch:
        """One batch of ``parts``, which replaces them among the leased batches."""
        if len(parts) == 1:
            return parts[0]
        whole = PulledBatch([], [], 0)
        whole.extended_at = min(part.extended_at for part in parts)
        for part in parts:
            whole.messages += part.messages
            whole.ack_ids += part.ack_ids
            whole.size += part.size
        self._leased.difference_update(parts)
        self._leased.add(whole)
        return whole

    def _match_threads(self) -> None:
        """Start pull threads up to the wanted number; excess threads end by themselves. Called with the lock held."""
        while len(self._pullers) < self._pace.wanted and not self._has_ended:
            thread = threading.Thread(target=self._pull_ahead, name="pull", daemon=True)
            self._pullers.add(thread)
            thread.start()

    @property
    def _has_ended(self) -> bool:
        return self._stopping or self._error is not None

    def _pull_ahead(self) -> None:
        try:
            while asked := self._begin():
                self._pull(asked)
        except Exception as error:  # the last resort of the thread: if it ended silently, its reader would wait forever
            log.warning("Pulling from %s failed.", self._subscription, exc_info=error)
            self._fail(UnavailableError(f"Pulling from {self._subscription} failed: {type(error).__name__}: {error}"))

    def _begin(self) -> int:
        """Wait until there is room for a pull; the number of messages to request, 0 if this thread is no longer needed."""

        def asked() -> int:
            return self._pace.ask(sum(len(batch.messages) for batch in self._ready), sum(batch.size for batch in self._ready))

        with self._changed:
            self._changed.wait_for(lambda: self._has_ended or len(self._pullers) > self._pace.wanted or asked())
            if self._has_ended or len(self._pullers) > self._pace.wanted:
                self._pullers.discard(threading.current_thread())
                return 0
            messages = asked()
            self._pace.begin(messages)
            return messages

    def _pull(self, asked: int) -> None:
        try:
            request = PullRequest(subscription=self._subscription, max_messages=asked)
            received: Any = self._pulls.pull(request, timeout=_PULL_TIMEOUT, retry=None)._pb.received_messages
        except exceptions.DeadlineExceeded:
            received = ()  # nothing came within the long poll
        except _TRANSIENT as error:
            self._retry_later(asked, error)
            return
        except exceptions.GoogleAPICallError as error:
            self._fail(_translated(error, self._subscription))
            return
        except ValueError:  # the channel was closed
            if not self._stopping:
                raise
            return
        self._receive(asked, received)

    def _retry_later(self, asked: int, error: exceptions.GoogleAPIError) -> None:
        """Report that Pub/Sub does not answer, and wait. Only the last of the outstanding pulls to fail does so."""
        with self._changed:
            pause = self._retry_pause
            if not self._stopping and self._pace.outstanding == 1:
                message = getattr(error, "message", str(error))
                log.warning("Waiting for Pub/Sub: %s", message)
                self._counters.waiting("pull", f"Pub/Sub: {message}")
                self._counters.count("retries")
                self._changed.wait_for(lambda: self._has_ended, pause)
                self._retry_pause = min(pause * 2, _LONGEST_PAUSE)
            self._pace.fail(asked)
            self._changed.notify_all()

    def _receive(self, asked: int, received: Any) -> None:
        messages = [_message(item.message) for item in received]
        batch = PulledBatch(messages, [item.ack_id for item in received], sum(len(message.data) for message in messages))
        batch.extended_at = self._clock()
        youngest = self._now() - max((message.publish_time for message in messages), default=0) / 1e6
        self._counters.waiting("pull", None)
        with self._changed:
            self._pace.end(asked, len(messages), batch.size, youngest)
            self._retry_pause = _FIRST_PAUSE
            # If messages have suddenly become larger, outstanding pulls bring more bytes than there was room for.
            keep = not self._stopping and sum(ready.size for ready in self._ready) < self._bounds.bytes_ahead
            if keep and messages:
                self._ready.append(batch)
                self._leased.add(batch)
            self._match_threads()
            self._changed.notify_all()
        if not keep:
            self._set_deadline([batch], 0)

    def _extend_leases(self) -> None:
        while not self._closed.wait(self._deadline / 3):
            self.extend_due()

    def extend_due(self) -> None:
        """Extend the ack deadline of all leased batches of which a third has passed."""
        now = self._clock()
        with self._changed:
            due = [batch for batch in self._leased if batch.extended_at <= now - self._deadline / 3]
        if self._set_deadline(due, self._deadline):
            for batch in due:
                batch.extended_at = now

    def _set_deadline(self, batches: Iterable[PulledBatch], seconds: int) -> bool:
        """Set the ack deadline to ``seconds`` from now. Returns whether that succeeded."""
        try:
            ack_ids = [ack_id for batch in batches for ack_id in batch.ack_ids]
            for _ in send_in_portions(ack_ids, partial(self._send_deadline, seconds)):
                pass
        except (exceptions.GoogleAPICallError, ValueError) as error:
            log.info("The ack deadline of some messages could not be extended: %s", error)
            return False
        return True

    def _send_acknowledgement(self, ack_ids: Sequence[str]) -> None:
        self._client.acknowledge(_ack_request(subscription=self._subscription, ack_ids=ack_ids), timeout=30)

    def _send_deadline(self, seconds: int, ack_ids: Sequence[str]) -> None:
        request = _deadline_request(subscription=self._subscription, ack_ids=ack_ids, ack_deadline_seconds=seconds)
        self._client.modify_ack_deadline(request, timeout=10, retry=None)

    def _fail(self, error: EcomflowError) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()


def _has_room(parts: Iterable[PulledBatch], messages: int, size: int) -> bool:
    return sum(len(part.messages) for part in parts) < messages and sum(part.size for part in parts) < size


# Requests are made of raw protobuf messages: proto-plus checks each ack id in Python, which takes as long as modelling its event.
_RawAcknowledge, _RawModifyAckDeadline = AcknowledgeRequest.pb(), ModifyAckDeadlineRequest.pb()


def _ack_request(**fields: Any) -> AcknowledgeRequest:
    return AcknowledgeRequest.wrap(_RawAcknowledge(**fields))


def _deadline_request(**fields: Any) -> ModifyAckDeadlineRequest:
    return ModifyAckDeadlineRequest.wrap(_RawModifyAckDeadline(**fields))


def _message(received: Any) -> Message:
    moment, attributes = received.publish_time, received.attributes
    named = {name: attributes[name] for name in attributes}  # half the time of dict(), because the map's items() is Python code
    published = moment.seconds * 1_000_000 + moment.nanos // 1000
    return Message(received.data, named, received.message_id, published, received.ordering_key)


def _translated(error: exceptions.GoogleAPICallError, subscription: str) -> EcomflowError:
    """Not by ``gcp.errors``: a pipeline that runs has no setting to correct, and what it can't pull stops it."""
    if isinstance(error, exceptions.NotFound):
        return NotFoundError(f"Subscription {subscription} does not exist.", "Run: ecomflow infra up")
    if isinstance(error, exceptions.Forbidden | exceptions.Unauthorized):
        return AccessError(
            f"Subscription {subscription} can't be read: {error.message}", "Grant the role roles/pubsub.subscriber."
        )
    return EcomflowError(
        f"Subscription {subscription} can't be pulled from: {error.message}", "Check it with: ecomflow infra status"
    )
