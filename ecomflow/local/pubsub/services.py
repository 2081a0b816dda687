"""The Publisher and Subscriber of the local Pub/Sub: requests of google.pubsub.v1 in, replies out."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Iterable
from functools import lru_cache, partial
from typing import Any

import grpc
import grpc.aio
from google.protobuf import empty_pb2
from google.pubsub_v1 import types

from ecomflow.local.pubsub.broker import Broker, Delivery
from ecomflow.local.pubsub.checks import (
    MAX_ACK_BYTES,
    MAX_MESSAGES,
    SUBSCRIPTION_FIXED,
    TOPIC_FIXED,
    check_ack_ids,
    check_new,
    check_page_size,
    check_publish,
    check_range,
    check_topic,
    complete_subscription,
    merge,
)
from ecomflow.local.pubsub.names import check_name, check_project
from ecomflow.local.pubsub.queue import Proto, Subscription, seconds_of
from ecomflow.local.pubsub.status import StatusError, invalid, too_large, unimplemented
from ecomflow.local.pubsub.stream import Stream

# The protobuf classes under proto-plus, whose own objects are about ten times slower.
_PublishResponse, _Topic = types.PublishResponse.pb(), types.Topic.pb()
_StreamingPullResponse = types.StreamingPullResponse.pb()

# By default clients refuse responses over 4 MiB; the rest of that is enough for a thousand ack ids.
MAX_RESPONSE_BYTES = 3 * 2**20
MAX_PAGE = 1000
# A client gives up at its own deadline a moment before the server sees that deadline pass.
_DEADLINE_SLACK = 0.1

_FIRST_REQUEST_ONLY = ("subscription", "max_outstanding_messages", "max_outstanding_bytes", "protocol_version")

# The wire format: a message is encoded once, when it is published, and every response is assembled around those bytes.


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
    """The encoded field ``repeated ReceivedMessage received_messages = 1`` of PullResponse and StreamingPullResponse.

    A ReceivedMessage has ``string ack_id = 1; PubsubMessage message = 2; int32 delivery_attempt = 3``.
    """
    parts: list[bytes] = []
    for ack_id, body, attempt in deliveries:
        size = len(body)
        head = b"\x0a%b%b\x12%b" % (_varint(len(ack_id)), ack_id.encode(), _varint(size))
        tail = b"\x18" + _varint(attempt) if attempt else b""
        parts += (b"\x0a", _varint(len(head) + size + len(tail)), head, body, tail)
    return b"".join(parts)


def _page(names: Iterable[str], request: Proto) -> tuple[list[str], str]:
    """The names of one page of a listing, sorted, and the token of the next page (empty after the last)."""
    check_page_size(request)
    waiting = sorted(name for name in names if name > request.page_token)
    size = min(request.page_size or MAX_PAGE, MAX_PAGE)
    return waiting[:size], waiting[size - 1] if len(waiting) > size else ""


class Publisher:
    """google.pubsub.v1.Publisher: each method takes a request and returns the reply, or raises a StatusError."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def create_topic(self, request: Proto) -> Proto:
        check_name("name", request.name, "topics")
        check_topic(request)
        check_new(request.name, self._broker.topics)
        request.state = _Topic.ACTIVE
        self._broker.store_topic(request)
        return request

    def update_topic(self, request: Proto) -> Proto:
        stored = self._broker.topic(request.topic.name, "topic.name").config
        config = merge(stored, request.topic, request.update_mask.paths, TOPIC_FIXED)
        check_topic(config)
        self._broker.store_topic(config)
        return config

    def get_topic(self, request: Proto) -> Proto:
        return self._broker.topic(request.topic).config

    def list_topics(self, request: Proto) -> Proto:
        check_project(request.project)
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
        check_publish(request)
        return _PublishResponse(message_ids=map(str, self._broker.publish(request.topic, request.messages)))


class Subscriber:
    """google.pubsub.v1.Subscriber: like Publisher; pull and streaming_pull, which wait, also take the gRPC context."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def create_subscription(self, request: Proto) -> Proto:
        check_name("name", request.name, "subscriptions")
        check_new(request.name, self._broker.subscriptions)
        self._broker.topic(request.topic)
        self._complete(request)
        self._broker.store_subscription(request)
        return request

    def update_subscription(self, request: Proto) -> Proto:
        stored = self._broker.subscription(request.subscription.name, "subscription.name").config
        config = merge(stored, request.subscription, request.update_mask.paths, SUBSCRIPTION_FIXED)
        self._complete(config)
        self._broker.store_subscription(config)
        return config

    def get_subscription(self, request: Proto) -> Proto:
        return self._broker.subscription(request.subscription).config

    def list_subscriptions(self, request: Proto) -> Proto:
        check_project(request.project)
        known = self._broker.subscriptions
        names, token = _page((name for name in known if name.startswith(f"{request.project}/subscriptions/")), request)
        return types.ListSubscriptionsResponse.pb()(subscriptions=[known[name].config for name in names], next_page_token=token)

    def delete_subscription(self, request: Proto) -> Proto:
        self._broker.delete_subscription(request.subscription)
        return empty_pb2.Empty()

    def acknowledge(self, request: Proto) -> Proto:
        subscription = self._broker.subscription(request.subscription)
        check_ack_ids(request)
        self._broker.acknowledge(subscription, request.ack_ids)
        return empty_pb2.Empty()

    def modify_ack_deadline(self, request: Proto) -> Proto:
        subscription = self._broker.subscription(request.subscription)
        check_ack_ids(request)
        self._broker.modify_deadline(subscription, request.ack_ids, request.ack_deadline_seconds)
        return empty_pb2.Empty()

    def seek(self, request: Proto) -> Proto:
        subscription = self._broker.subscription(request.subscription)
        if not request.HasField("time"):
            raise unimplemented("Seek to a snapshot")
        self._broker.purge(subscription, seconds_of(request.time))
        return types.SeekResponse.pb()()

    async def pull(self, request: Proto, context: grpc.aio.ServicerContext) -> bytes:
        subscription = self._broker.subscription(request.subscription)
        if request.max_messages < 1:
            raise invalid(f"Invalid max_messages given: ({request.max_messages}): expected 1 or more.")
        clock = asyncio.get_running_loop().time
        until = clock() + (0.0 if request.return_immediately else self._broker.options.hold_seconds)
        while not subscription.has_available() and (patience := until - clock()) > 0:
            await self._hold(subscription, request, context, patience)
        deliveries = self._lease(subscription, request)
        if round_trip := self._broker.options.round_trip:
            try:
                await asyncio.sleep(round_trip / 2)
            except asyncio.CancelledError:
                subscription.num_leased_to_departed += len(deliveries)
                raise
        return encode_received(deliveries)

    async def _hold(self, subscription: Subscription, request: Proto, context: grpc.aio.ServicerContext, patience: float) -> None:
        """Wait up to ``patience`` seconds for a message, by this server's own clock.

        If the client's deadline passes first, later messages are still leased to the departed client, like the service does:
        https://github.com/googleapis/google-cloud-python/issues/8087. A cancelled call ends at once.
        """
        waiting = asyncio.ensure_future(_until_first(subscription.ended, subscription.until_available(), timeout=patience))
        subscription.num_waiting_pulls += 1
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            remaining = context.time_remaining()
            if remaining is None or remaining > _DEADLINE_SLACK:
                waiting.cancel()
            else:
                waiting.add_done_callback(partial(self._lease_to_departed, subscription, request))
            raise
        finally:
            subscription.num_waiting_pulls -= 1

    def _lease(self, subscription: Subscription, request: Proto) -> list[Delivery]:
        count = min(request.max_messages, self._broker.options.messages_per_pull)
        return self._broker.take(subscription, count, MAX_RESPONSE_BYTES, subscription.config.ack_deadline_seconds)

    def _lease_to_departed(self, subscription: Subscription, request: Proto, waiting: asyncio.Future[None]) -> None:
        if waiting.exception() is None:
            subscription.num_leased_to_departed += len(self._lease(subscription, request))

    async def streaming_pull(self, requests: AsyncIterator[Proto], context: grpc.aio.ServicerContext) -> None:
        """Ends without an error when the client closes its side of the stream."""
        first = await anext(requests, None)
        if first is None:
            return
        subscription = self._broker.subscription(first.subscription)
        check_range("stream_ack_deadline_seconds", first.stream_ack_deadline_seconds, 10, 600)
        stream = Stream(first.max_outstanding_messages, first.max_outstanding_bytes, first.stream_ack_deadline_seconds)
        self._apply(subscription, first)
        call = _StreamCall(context, subscription, has_keep_alive=first.protocol_version >= 1)
        listening, sending = self._listen(subscription, stream, requests, call), self._send(subscription, stream, call)
        await _until_first(subscription.ended, listening, sending)

    async def _listen(
        self, subscription: Subscription, stream: Stream, requests: AsyncIterator[Proto], call: _StreamCall
    ) -> None:
        async for request in requests:
            for field in _FIRST_REQUEST_ONLY:
                if getattr(request, field):
                    raise invalid(f"The field {field} may be set in the first request of a stream only.")
            if not request.ByteSize():
                await call.keep_alive()
            if request.stream_ack_deadline_seconds:
                check_range("stream_ack_deadline_seconds", request.stream_ack_deadline_seconds, 10, 600)
                stream.deadline_seconds = request.stream_ack_deadline_seconds
            self._apply(subscription, request)

    def _apply(self, subscription: Subscription, request: Proto) -> None:
        """Apply the acknowledgements and deadlines in a request of a stream."""
        if request.ByteSize() > MAX_ACK_BYTES:
            raise too_large(MAX_ACK_BYTES)
        if len(request.modify_deadline_ack_ids) != len(request.modify_deadline_seconds):
            raise invalid("modify_deadline_ack_ids and modify_deadline_seconds differ in length: expected one for one.")
        self._broker.acknowledge(subscription, request.ack_ids)
        by_seconds: defaultdict[int, list[str]] = defaultdict(list)
        for ack_id, seconds in zip(request.modify_deadline_ack_ids, request.modify_deadline_seconds, strict=True):
            by_seconds[seconds].append(ack_id)
        for seconds, ack_ids in by_seconds.items():
            self._broker.modify_deadline(subscription, ack_ids, seconds)

    async def _send(self, subscription: Subscription, stream: Stream, call: _StreamCall) -> None:
        while True:
            await stream.room()
            await subscription.until_available(stream)
            messages, size = await stream.room()
            count, size = min(messages, MAX_MESSAGES), min(size, MAX_RESPONSE_BYTES)
            if deliveries := self._broker.take(subscription, count, size, stream.deadline_seconds, stream):
                await call.deliver(deliveries)

    def _complete(self, config: Proto) -> None:
        complete_subscription(config)
        if config.HasField("dead_letter_policy"):
            self._broker.topic(config.dead_letter_policy.dead_letter_topic, "dead_letter_policy.dead_letter_topic")


class _StreamCall:
    """Sends the responses of one StreamingPull to its client, one at a time."""

    def __init__(self, context: grpc.aio.ServicerContext, subscription: Subscription, *, has_keep_alive: bool) -> None:
        self._context = context
        self._subscription = subscription
        self._has_keep_alive = has_keep_alive
        self._writing = asyncio.Lock()
        response = _StreamingPullResponse()
        response.subscription_properties.message_ordering_enabled = subscription.config.enable_message_ordering
        self._properties = response.SerializeToString()

    async def deliver(self, deliveries: list[Delivery]) -> None:
        """Send ``deliveries``, or release them if the stream ends meanwhile."""
        try:
            async with self._writing:
                await self._context.write(encode_received(deliveries) + self._properties)
        except BaseException:
            leases = self._subscription.find([delivery[0] for delivery in deliveries])
            self._subscription.give_back(leases, failed=False)
            raise

    async def keep_alive(self) -> None:
        """Respond to an empty request. Clients with protocol version 1 expect that, and otherwise consider the stream dead.

        If a response is being written, that will do: its client may be slow to read, and its other requests must not wait for it.
        """
        if self._has_keep_alive and not self._writing.locked():
            async with self._writing:
                await self._context.write(self._properties)


async def _until_first(
    ended: asyncio.Future[StatusError], *work: Coroutine[Any, Any, None], timeout: float | None = None
) -> None:
    """Run ``work`` until the first coroutine ends or ``timeout`` seconds pass; raises its error, or the result of ``ended``."""
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
