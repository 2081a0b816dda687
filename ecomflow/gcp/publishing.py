"""Publishing in whole requests: messages in; message ids, or ecomflow's errors, out.

The client's batching of single messages is not used: with a future and two locks per message it takes 70 to 90 microseconds per
message; whole requests take 4 to 7, including count and ledger (``python -m benchmarks.publishing``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition
from typing import Protocol, TypeVar

from ecomflow.contract.reasons import shown
from ecomflow.errors import EcomflowError, NotFoundError, UnavailableError
from ecomflow.gcp.clients import publisher_client
from ecomflow.gcp.lookalikes import CREATE, remedy_for_missing
from ecomflow.gcp.services import Service
from ecomflow.gcp.target import Target

# Seconds. A service on loopback answers at once or is down; Google may take longer.
_LOCAL_ATTEMPT, _LOCAL_GIVE_UP = 10.0, 3.0
_CLOUD_ATTEMPT, _CLOUD_GIVE_UP = 60.0, 60.0
_FULL_DISK = "No space left on device"
# How long Ctrl-C waits for requests in flight. A healthy service answers within milliseconds.
_WAIT_SECONDS = 0.5

# https://cloud.google.com/pubsub/quotas#resource_limits
MAX_MESSAGES = 1000
MAX_BYTES = 10_000_000
_MAX_ATTRIBUTES = 100
_MAX_NAME_BYTES = 256
_MAX_VALUE_BYTES = 1024
_MAX_KEY_BYTES = 1024
# Leaves room for the topic's name and what a message needs beyond its parts.
_REQUEST_BYTES = 9_000_000
_FRAMING = 16  # bytes of protobuf around a message or an attribute, at most

# Pub/Sub takes no attribute whose name begins like this, in any case, but for some of the names that begin with _TRACING, by
# which Google's clients say in which trace a message was published: https://github.com/googleapis/nodejs-pubsub/issues/1389
_RESERVED = "goog"
_TRACING = "googclient_"


class Publishable(Protocol):
    """A message to publish; its ``ordering_key`` is empty if it has none."""

    @property
    def data(self) -> bytes: ...
    @property
    def attributes(self) -> dict[str, str]: ...
    @property
    def ordering_key(self) -> str: ...


P = TypeVar("P", bound=Publishable)


def without_tracing(attributes: dict[str, str]) -> dict[str, str]:
    """The attributes of a message that is published again: not those of the trace in which it was published before."""
    if not any(name.startswith(_TRACING) for name in attributes):
        return attributes
    return {name: value for name, value in attributes.items() if not name.startswith(_TRACING)}


def unpublishable(message: Publishable) -> str | None:
    """Why Pub/Sub would refuse ``message``, as "expected ..., got ..."; None if it takes it."""
    attributes = message.attributes
    if not message.data and not attributes:
        return "expected data or an attribute, got neither"
    if len(attributes) > _MAX_ATTRIBUTES:
        return f"expected at most {_MAX_ATTRIBUTES} attributes, got {len(attributes)}"
    for name, value in attributes.items():
        if name[: len(_RESERVED)].lower() == _RESERVED:
            return f"expected no attribute whose name begins with {_RESERVED}, which Pub/Sub reserves, got {shown(name)}"
        if not 1 <= len(name.encode()) <= _MAX_NAME_BYTES:
            return f"expected names of attributes of 1 to {_MAX_NAME_BYTES} bytes, got {shown(name)}"
        if (size := len(value.encode())) > _MAX_VALUE_BYTES:
            return f"expected values of attributes of at most {_MAX_VALUE_BYTES:,} bytes, got {size:,} in {shown(name)}"
    if (size := len(message.ordering_key.encode())) > _MAX_KEY_BYTES:
        return f"expected an ordering key of at most {_MAX_KEY_BYTES:,} bytes, got {size:,}"
    if (size := _size(message)) > MAX_BYTES:
        return f"expected at most {MAX_BYTES:,} bytes with attributes, got {size:,}"
    return None


def requests_of(messages: Sequence[P]) -> Iterator[list[P]]:
    """``messages`` in requests within Pub/Sub's limits. A request has one ordering key, or none; those of a key keep their order.

    https://cloud.google.com/pubsub/docs/reference/rest/v1/PubsubMessage
    """
    by_key: dict[str, list[P]] = {}
    for message in messages:
        by_key.setdefault(message.ordering_key, []).append(message)
    for same in by_key.values():
        request: list[P] = []
        size = 0
        for message in same:
            added = _size(message)
            if request and (len(request) == MAX_MESSAGES or size + added > _REQUEST_BYTES):
                yield request
                request, size = [], 0
            request.append(message)
            size += added
        yield request


def _size(message: Publishable) -> int:
    attributes = message.attributes
    texts = "".join((message.ordering_key, *attributes, *attributes.values())).encode()
    return len(message.data) + len(texts) + _FRAMING * (len(attributes) + 1)


class RequestSender:
    """Publishes to the configured topic, one request per call. Thread-safe. Created by ``topic_sender``."""

    def __init__(self, target: Target) -> None:
        from google.api_core.retry import Retry
        from google.api_core.timeout import ConstantTimeout
        from google.pubsub_v1 import PublisherClient, PublishRequest

        from ecomflow.gcp.errors import is_transient

        at_google = target.endpoints.pubsub is None
        attempt, give_up = (_CLOUD_ATTEMPT, _CLOUD_GIVE_UP) if at_google else (_LOCAL_ATTEMPT, _LOCAL_GIVE_UP)
        # A connection of its own: closing it ends the requests in flight, which Ctrl-C would otherwise wait for.
        self._client, self._topic = publisher_client(target.endpoints), target.settings.topic_path
        # pubsub_v1's client overrides the inherited request method with one for single messages.
        self._publish = PublisherClient.publish
        self._request, self._raw_request = PublishRequest.wrap, PublishRequest.pb()
        self._timeout = ConstantTimeout(attempt)
        # Short pauses, because Ctrl-C can't wake a thread from one.
        self._retry = Retry(is_transient, initial=0.1, multiplier=2.0, maximum=1.0, timeout=give_up)

    def send(self, request: Sequence[Publishable]) -> list[str]:
        """Publish one of ``requests_of``; returns the ids of its messages when Pub/Sub has confirmed them.

        At least once: a request whose answer is lost is retried. Raises Google's own errors (``publish_error`` translates them).
        """
        raw = self._raw_request(topic=self._topic)
        add = raw.messages.add
        for message in request:  # built in place, which takes a third of the time
            added = add(data=message.data)
            attributes = added.attributes
            for name, value in message.attributes.items():
                attributes[name] = value
            if message.ordering_key:
                added.ordering_key = message.ordering_key
        answer = self._publish(self._client, request=self._request(raw), retry=self._retry, timeout=self._timeout)
        return list(answer.message_ids)

    def close(self) -> None:
        self._client.transport.close()


class InFlight:
    """The tasks in flight on threads, so that Ctrl-C can wait for it for a limited time."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._count = 0
        self._is_off = False

    @contextmanager
    def task(self) -> Iterator[None]:
        """A task on a thread. Raises CancelledError before it begins if ``cancel`` was called."""
        with self._changed:
            if self._is_off:
                raise CancelledError
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def cancel(self) -> None:
        """Start no new task, and wait at most _WAIT_SECONDS for those in flight."""
        with self._changed:
            self._is_off = True
            self._changed.wait_for(lambda: not self._count, _WAIT_SECONDS)


@contextmanager
def interruptible_pool(threads: int) -> Iterator[tuple[ThreadPoolExecutor, InFlight]]:
    """A pool that is joined at the end; after Ctrl-C only as long as ``cancel`` waits, because a service may never answer."""
    pool, in_flight, is_interrupted = ThreadPoolExecutor(threads), InFlight(), False
    try:
        yield pool, in_flight
    except KeyboardInterrupt:
        is_interrupted = True
        in_flight.cancel()
        raise
    finally:
        pool.shutdown(wait=not is_interrupted, cancel_futures=is_interrupted)


@contextmanager
def topic_sender(target: Target) -> Iterator[RequestSender]:
    """A RequestSender, which is closed at the end."""
    sender = RequestSender(target)
    try:
        yield sender
    finally:
        sender.close()


def publish_error(error: Exception, target: Target, confirmed: int) -> EcomflowError:
    """The EcomflowError for one of Google's errors, with the number of events that were confirmed before it."""
    from ecomflow.gcp.errors import cause_of, translate

    topic, service = f"topic {target.settings.topic_path}", target.pubsub_service
    found = _about_events(cause_of(error), service) or translate(error, service, topic, "pubsub.topics.publish")
    remedy = remedy_for_missing(target, "topic") if isinstance(found, NotFoundError) and found.remedy == CREATE else found.remedy
    return type(found)(f"{found.message}{published_before(confirmed)}", remedy)


def _about_events(cause: Exception, service: Service) -> EcomflowError | None:
    """Errors that are due to the events, and that no setting corrects: they fill the disk, or Pub/Sub does not accept them."""
    from google.api_core import exceptions

    from ecomflow.gcp.errors import message_of

    where, message = service.endpoint or service.api, message_of(cause).rstrip(".")
    if _FULL_DISK in message:
        sentence = f"The disk of the Pub/Sub at {where} is full: {message}."
        return UnavailableError(sentence, "Free up disk space there, then publish again.")
    if isinstance(cause, exceptions.InvalidArgument | exceptions.FailedPrecondition):
        return EcomflowError(f"Pub/Sub at {where} refused the events: {message}.")
    return None


def published_before(confirmed: int) -> str:
    """The number of published events, to append to an error message."""
    return f" {confirmed:,} events were published before." if confirmed else ""
