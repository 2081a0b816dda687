"""Publishing in whole requests: messages in; message ids, or ecomflow's errors, out.

The client's batching of single messages is not used: with a future and two locks per message it takes 70 to 90 microseconds per
message; whole requests take 4 to 7, including count and ledger (``python -m benchmarks.publishing``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition

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

    def send(self, messages: Iterable[tuple[bytes, Mapping[str, str]]]) -> list[str]:
        """Publish ``messages`` of (data, attributes), at most 1,000 and 10 MB; returns their ids when Pub/Sub has confirmed them.

        At least once: a request whose answer is lost is retried. Raises Google's own errors (``publish_error`` translates them).
        """
        raw = self._raw_request(topic=self._topic)
        add = raw.messages.add
        for data, attributes in messages:  # built in place, which takes a third of the time
            message_attributes = add(data=data).attributes
            for name, value in attributes.items():
                message_attributes[name] = value
        request = self._request(raw)
        return list(self._publish(self._client, request=request, retry=self._retry, timeout=self._timeout).message_ids)

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
