"""gRPC requests of Google's own Pub/Sub clients come in, messages and statuses go out: a Pub/Sub in one process, for one machine.

How it differs from the service (https://cloud.google.com/pubsub/docs/reference/rpc/google.pubsub.v1):

- It listens on 127.0.0.1, without credentials, quotas or access policies; every project exists. It answers only its own user.
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
import logging
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import grpc
import grpc.aio
import msgspec
from google.protobuf import empty_pb2
from google.pubsub_v1 import types

from ecomflow.errors import EcomflowError, NotFoundError, UnavailableError
from ecomflow.local.grpc_guard import OwnUserHandler
from ecomflow.local.pubsub_broker import Broker, invalid, unimplemented
from ecomflow.local.pubsub_checks import (
    MAX_MESSAGES,
    MAX_REQUEST_BYTES,
    SUBSCRIPTION_FIXED,
    TOPIC_FIXED,
    TOPIC_LACKS,
    check_ack_ids,
    check_name,
    check_new,
    check_publish,
    check_range,
    check_supported,
    complete_subscription,
    merge,
)
from ecomflow.local.pubsub_log import Log
from ecomflow.local.pubsub_queue import (
    Backlog,
    Clock,
    Delivery,
    Proto,
    StatusError,
    Stream,
    Subscription,
    SystemClock,
    seconds_of,
)
from ecomflow.peers import OtherUsers, OwnUser, add_other_users

LONG_POLL_SECONDS = 5.0

# The protobuf classes under proto-plus, whose objects are some ten times as slow.
_PublishResponse, _Topic = types.PublishResponse.pb(), types.Topic.pb()
_StreamingPullResponse = types.StreamingPullResponse.pb()


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
        check_name(request.name, "topics")
        check_supported(request, TOPIC_LACKS)
        check_new(request.name, self._broker.topics)
        request.state = _Topic.ACTIVE
        self._broker.store_topic(request)
        return request

    def update_topic(self, request: Proto) -> Proto:
        stored = self._broker.topic(request.topic.name).config
        config = merge(stored, request.topic, request.update_mask.paths, TOPIC_FIXED)
        check_supported(config, TOPIC_LACKS)
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
        check_publish(request)
        messages = self._broker.publish(request.topic, request.messages)
        return _PublishResponse(message_ids=[str(message.id) for message in messages])


class Subscriber:
    """google.pubsub.v1.Subscriber: as Publisher; pull and streaming_pull, which wait, also take the gRPC context."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def create_subscription(self, request: Proto) -> Proto:
        check_name(request.name, "subscriptions")
        check_new(request.name, self._broker.subscriptions)
        self._broker.topic(request.topic)
        self._complete(request)
        self._broker.store_subscription(request)
        return request

    def update_subscription(self, request: Proto) -> Proto:
        stored = self._broker.subscription(request.subscription.name).config
        config = merge(stored, request.subscription, request.update_mask.paths, SUBSCRIPTION_FIXED)
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
        check_ack_ids(request.ack_ids)
        self._broker.acknowledge(subscription, request.ack_ids)
        return empty_pb2.Empty()

    def modify_ack_deadline(self, request: Proto) -> Proto:
        subscription = self._broker.subscription(request.subscription)
        check_ack_ids(request.ack_ids)
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
        check_range("stream_ack_deadline_seconds", first.stream_ack_deadline_seconds, 10, 600)
        stream = Stream(first.max_outstanding_messages, first.max_outstanding_bytes, first.stream_ack_deadline_seconds)
        self._settle(subscription, first)
        listening, sending = self._listen(subscription, stream, requests), self._send(subscription, stream, context)
        await _until_first(subscription.ended, listening, sending)

    async def _listen(self, subscription: Subscription, stream: Stream, requests: AsyncIterator[Proto]) -> None:
        async for request in requests:
            if request.subscription:
                raise invalid("The subscription may be named in the first request of a stream only.")
            if request.stream_ack_deadline_seconds:
                check_range("stream_ack_deadline_seconds", request.stream_ack_deadline_seconds, 10, 600)
                stream.deadline_seconds = request.stream_ack_deadline_seconds
            self._settle(subscription, request)

    def _settle(self, subscription: Subscription, request: Proto) -> None:
        """Carry out the acknowledgements and deadlines that came in a request of a stream."""
        if len(request.modify_deadline_ack_ids) != len(request.modify_deadline_seconds):
            raise invalid("modify_deadline_ack_ids and modify_deadline_seconds differ in length: expected one for one.")
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
        complete_subscription(config)
        if config.HasField("dead_letter_policy"):
            self._broker.topic(config.dead_letter_policy.dead_letter_topic)


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
        raise unimplemented(what)

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
async def serve(data_dir: Path, port: int = 0, clock: Clock | None = None, others: OtherUsers = "refuse") -> AsyncIterator[int]:
    """Serve on 127.0.0.1 while the context is open, with the state kept in ``data_dir``; yields the port (0 takes a free one).

    Raises AccessError where ``data_dir`` cannot be written, UnavailableError where it or the port is in use.
    """
    with contextlib.closing(Log(data_dir)) as log:
        broker = Broker(log, clock or SystemClock())
        server = grpc.aio.server(options=_SERVER_OPTIONS)
        bound = _bind(server, port)
        own_user = OwnUser(("127.0.0.1", bound), others)
        server.add_generic_rpc_handlers(tuple(OwnUserHandler(handler, own_user) for handler in _handlers(broker)))
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


async def _run(port: int, data_dir: Path, others: OtherUsers) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with serve(data_dir, port, others=others) as bound:
        print(f"listening on 127.0.0.1:{bound}", flush=True)
        await stopped.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ecomflow.local.pubsub", description="The local Pub/Sub.")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--data-dir", type=Path, required=True, help="where messages not yet acknowledged are kept")
    add_other_users(parser)
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(_run(arguments.port, arguments.data_dir, arguments.other_users))
    except EcomflowError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
