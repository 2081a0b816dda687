"""A subscription in, batches of messages out, with the acknowledgement of each batch: the local engine's hold on Pub/Sub.

One thread pulls ahead of the pipeline, within bounds; one extends the ack deadline of whatever is not yet acknowledged. What is
released, or forgotten by a process that dies, comes again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from google.api_core import exceptions
from google.pubsub_v1.types import AcknowledgeRequest, ModifyAckDeadlineRequest, PullRequest

from ecomflow.clients import subscriber_client
from ecomflow.errors import AccessError, EcomflowError, NotFoundError, UnavailableError
from ecomflow.events import Message
from ecomflow.pipeline.config import PipelineConfig
from ecomflow.pipeline.counters import count, waiting

log = logging.getLogger(__name__)

# A unary pull returns 1,000 messages at most, an acknowledgement takes 512 KiB, and Google's ack ids are some 200 bytes.
# https://cloud.google.com/pubsub/quotas#resource_limits
PULL_MESSAGES = 1000
ACK_IDS_PER_REQUEST = 2000

# How far the puller runs ahead: about one bundle. More would only lengthen what a crash redelivers.
AHEAD_MESSAGES = 10_000
AHEAD_BYTES = 16 * 2**20
# A batch ends at so much data, however few messages: orders of many items become many rows, and memory is to stay what it is.
BATCH_BYTES = 8 * 2**20

_PULL_TIMEOUT = 10.0
_TRANSIENT = (
    exceptions.ServiceUnavailable,
    exceptions.DeadlineExceeded,
    exceptions.InternalServerError,
    exceptions.Aborted,
    exceptions.TooManyRequests,
    exceptions.Cancelled,
    exceptions.Unknown,
    exceptions.RetryError,
)


class PulledBatch:
    """Messages, and the ack ids that they came with."""

    def __init__(self, messages: list[Message], ack_ids: list[str], size: int) -> None:
        self.messages = messages
        self.ack_ids = ack_ids
        self.size = size
        self.extended_at = 0.0


class Puller:
    """Pulls one subscription ahead of its reader. Safe for several threads."""

    def __init__(self, config: PipelineConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._subscription = config.subscription_path
        self._deadline = config.ack_deadline_seconds
        self._clock = clock
        self._client = subscriber_client(config.endpoints)
        self._pulls = subscriber_client(config.endpoints)  # a connection of its own: closing it ends the outstanding pull
        self._changed = threading.Condition()
        self._ready: deque[PulledBatch] = deque()
        self._leased: set[PulledBatch] = set()
        self._stopping = False
        self._closed = threading.Event()
        self._error: EcomflowError | None = None
        self._puller = threading.Thread(target=self._pull_ahead, name="pull", daemon=True)
        self._extender = threading.Thread(target=self._extend_leases, name="lease", daemon=True)
        self._puller.start()
        self._extender.start()

    def take(self, most: int, wait: float) -> PulledBatch | None:
        """What has been pulled, ``most`` messages or ``BATCH_BYTES`` at a time or a pull more; None where nothing comes within
        ``wait`` seconds.

        Raises the error that ended the pulling, where one did.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._stopping or self._error, wait)
            if self._error:
                raise self._error
            if self._stopping:
                return None
            parts: list[PulledBatch] = []
            while self._ready and _has_room(parts, most, BATCH_BYTES):
                parts.append(self._ready.popleft())
            self._changed.notify_all()
            return self._joined(parts) if parts else None

    @property
    def stopped(self) -> bool:
        return self._stopping

    def acknowledge(self, batch: PulledBatch) -> None:
        """Tell Pub/Sub that ``batch`` is done. Where it can't be told, the messages come again."""
        told = 0
        try:
            for ack_ids in _chunks(batch.ack_ids):
                self._client.acknowledge(_ack_request(subscription=self._subscription, ack_ids=ack_ids), timeout=30)
                told += len(ack_ids)
        except (exceptions.GoogleAPIError, ValueError) as error:  # ValueError: the channel was closed
            log.warning("%d messages will come again: their acknowledgement failed: %s", len(batch.ack_ids) - told, error)
        finally:
            with self._changed:
                self._leased.discard(batch)

    def release(self) -> None:
        """Give back everything that is not acknowledged, so that it comes again at once."""
        with self._changed:
            leased, self._leased = self._leased, set()
            self._ready.clear()
            self._changed.notify_all()
        self._set_deadline(leased, 0)

    def stop(self) -> None:
        """Stop pulling; what is ready is given back, what a reader holds can still be acknowledged."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._pulls.close()  # first, or the outstanding pull would take what is given back
        self._puller.join(timeout=_PULL_TIMEOUT)
        with self._changed:
            unread = list(self._ready)
            self._ready.clear()
            self._leased.difference_update(unread)
        self._set_deadline(unread, 0)

    def close(self) -> None:
        """Stop, give everything back, and close the connections."""
        self.stop()
        self.release()
        self._closed.set()
        self._extender.join(timeout=_PULL_TIMEOUT)
        self._client.close()

    def _joined(self, parts: list[PulledBatch]) -> PulledBatch:
        """One batch of ``parts``, leased in their place."""
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

    def _pull_ahead(self) -> None:
        try:
            self._pull_until_stopped()
        except Exception as error:  # the thread's own border: ended in silence, its reader would wait for ever
            log.warning("The pulling of %s failed.", self._subscription, exc_info=error)
            self._fail(UnavailableError(f"The pulling of {self._subscription} failed: {type(error).__name__}: {error}"))

    def _pull_until_stopped(self) -> None:
        pause = 0.1
        while self._wait_for_room():
            try:
                response = self._pulls.pull(
                    PullRequest(subscription=self._subscription, max_messages=PULL_MESSAGES), timeout=_PULL_TIMEOUT, retry=None
                )
            except exceptions.DeadlineExceeded:
                waiting("pull", None)
                continue  # nothing came within the long poll
            except _TRANSIENT as error:
                if self._stopping:
                    return
                log.warning("Waiting for Pub/Sub: %s", error.message)
                waiting("pull", f"Pub/Sub: {error.message}")
                count("retries")
                self._pause(pause)
                pause = min(pause * 2, 5.0)
                continue
            except exceptions.GoogleAPICallError as error:
                self._fail(_translated(error, self._subscription))
                return
            except ValueError:  # the channel was closed
                return
            pause = 0.1
            waiting("pull", None)
            self._receive(response._pb.received_messages)

    def _wait_for_room(self) -> bool:
        """Whether to pull on, once there is room."""

        with self._changed:
            self._changed.wait_for(lambda: self._stopping or _has_room(self._ready, AHEAD_MESSAGES, AHEAD_BYTES))
            return not self._stopping

    def _receive(self, received: Any) -> None:
        if not received:
            return
        messages = [_message(item.message) for item in received]
        batch = PulledBatch(messages, [item.ack_id for item in received], sum(len(message.data) for message in messages))
        batch.extended_at = self._clock()
        with self._changed:
            keep = not self._stopping
            if keep:
                self._ready.append(batch)
                self._leased.add(batch)
                self._changed.notify_all()
        if not keep:
            self._set_deadline([batch], 0)

    def _extend_leases(self) -> None:
        while not self._closed.wait(self._deadline / 3):
            self.extend_due()

    def extend_due(self) -> None:
        """Give the whole ack deadline anew to whatever has had it for a third of it."""
        now = self._clock()
        with self._changed:
            due = [batch for batch in self._leased if batch.extended_at <= now - self._deadline / 3]
        if self._set_deadline(due, self._deadline):
            for batch in due:
                batch.extended_at = now

    def _set_deadline(self, batches: Iterable[PulledBatch], seconds: int) -> bool:
        """Whether Pub/Sub could be told."""
        try:
            for ack_ids in _chunks([ack_id for batch in batches for ack_id in batch.ack_ids]):
                request = _deadline_request(subscription=self._subscription, ack_ids=ack_ids, ack_deadline_seconds=seconds)
                self._client.modify_ack_deadline(request, timeout=10, retry=None)
        except (exceptions.GoogleAPICallError, ValueError) as error:
            log.info("Some messages keep their ack deadline: %s", error)
            return False
        return True

    def _fail(self, error: EcomflowError) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, seconds)


def _has_room(parts: Iterable[PulledBatch], messages: int, size: int) -> bool:
    return sum(len(part.messages) for part in parts) < messages and sum(part.size for part in parts) < size


# Requests are made of the raw messages: proto-plus looks at each ack id in Python, which costs as much as modelling its event.
_RawAcknowledge, _RawModifyAckDeadline = AcknowledgeRequest.pb(), ModifyAckDeadlineRequest.pb()


def _ack_request(**fields: Any) -> AcknowledgeRequest:
    return AcknowledgeRequest.wrap(_RawAcknowledge(**fields))


def _deadline_request(**fields: Any) -> ModifyAckDeadlineRequest:
    return ModifyAckDeadlineRequest.wrap(_RawModifyAckDeadline(**fields))


def _message(received: Any) -> Message:
    moment, attributes = received.publish_time, received.attributes
    named = {name: attributes[name] for name in attributes}  # half the price of dict(): the map's own view of pairs is in Python
    return Message(received.data, named, received.message_id, moment.seconds * 1_000_000 + moment.nanos // 1000)


def _chunks(ack_ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ack_ids), ACK_IDS_PER_REQUEST):
        yield ack_ids[start : start + ACK_IDS_PER_REQUEST]


def _translated(error: exceptions.GoogleAPICallError, subscription: str) -> EcomflowError:
    if isinstance(error, exceptions.NotFound):
        return NotFoundError(f"Subscription {subscription} does not exist.", "Run: ecomflow infra up")
    if isinstance(error, exceptions.Forbidden | exceptions.Unauthorized):
        return AccessError(
            f"Subscription {subscription} can't be read: {error.message}", "Grant the role roles/pubsub.subscriber."
        )
    return EcomflowError(f"Subscription {subscription} can't be pulled: {error.message}", "Check it with: ecomflow infra status")


_pullers: dict[PipelineConfig, Puller] = {}
_pullers_lock = threading.Lock()


def shared_puller(config: PipelineConfig) -> Puller:
    """This process's puller of the subscription, made at first use."""
    with _pullers_lock:
        if config not in _pullers:
            _pullers[config] = Puller(config)
        return _pullers[config]


def close_puller(config: PipelineConfig) -> None:
    """Close this process's puller of the subscription, if there is one."""
    with _pullers_lock:
        puller = _pullers.pop(config, None)
    if puller is not None:
        puller.close()
