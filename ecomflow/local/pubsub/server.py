"""The embedded Pub/Sub: a gRPC server in one process, for Google's own clients on one machine.

How it differs from the service (https://cloud.google.com/pubsub/docs/reference/rpc/google.pubsub.v1):

- It listens on 127.0.0.1, without credentials, quotas or access policies; every project exists. It serves only its own user.
- Only an acknowledgement or a Seek removes a message: retention and expiration are stored and shown, but never enforced.
- It holds as many unacknowledged messages as take half of the memory that it may use, at 640 bytes each: bodies are on disk only.
  Further ones are refused with RESOURCE_EXHAUSTED.
- Unacknowledged messages survive the death of the process, but not of the machine. After a restart all leases have expired, and
  delivery attempts count from one again.
- An acknowledgement is accepted until the message is released, and never after that; the service may differ in both respects.
- It never delivers a message twice without a reason. A pipeline without duplicates here may still need deduplication on Google
  Cloud.
- A unary pull holds its ordering keys until all messages that it returned for them are acknowledged or released.
- A pull waits 20 seconds for a first message, by the server's own clock. If its client has given up earlier, messages are leased
  to nobody until their ack deadline, like in the service; a cancelled call ends at once, where the service may react too late.
- Snapshots, Seek to before an acknowledged message, filters, schemas, push, exports, exactly-once delivery and message transforms
  are missing; requests for them return UNIMPLEMENTED. Storage policies, keys and tags are stored without effect.
- ``ecomflow.local.Stats/Get`` returns the backlog of a subscription, which the service reports to Cloud Monitoring, and more
  (``Backlog``); ``ecomflow.local.Stats/Damage`` returns what was damaged in the log (a list of ``Damage``).

Four nouns: a *topic* hands each *message* to its *subscriptions*; a consumer leases messages by Pull or over a *stream*.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import grpc
import grpc.aio
import msgspec
from google.pubsub_v1 import types

from ecomflow.errors import NotFoundError, UnavailableError
from ecomflow.gcp.errors import words_of_connection
from ecomflow.local.process import exit_code, port_in_use, service_parser
from ecomflow.local.pubsub.broker import Broker
from ecomflow.local.pubsub.checks import MAX_ACK_BYTES, MAX_PUBLISH_BYTES
from ecomflow.local.pubsub.clock import Clock, SystemClock
from ecomflow.local.pubsub.log import Log
from ecomflow.local.pubsub.queue import Backlog, Options
from ecomflow.local.pubsub.services import Publisher, Subscriber
from ecomflow.local.pubsub.status import StatusError, exhausted, too_large, unimplemented
from ecomflow.loopback.grpc_guard import SERVER_OPTIONS, OwnUserHandler
from ecomflow.loopback.peers import OtherUsers, OwnUser
from ecomflow.processes.lifeline import tied_to


class NoBacklogError(UnavailableError):
    """Another emulator listens there, which doesn't report the backlog."""


def read_backlog(host: str, subscription_path: str) -> Backlog:
    """The backlog of ``projects/P/subscriptions/S`` at the local Pub/Sub on ``host`` (``127.0.0.1:8085``).

    Raises NotFoundError if there is no such subscription, UnavailableError if no local Pub/Sub responds, and NoBacklogError if
    another emulator does.
    """
    try:
        with grpc.insecure_channel(host) as channel:
            answer = channel.unary_unary("/ecomflow.local.Stats/Get")(subscription_path.encode(), timeout=5)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise NoBacklogError(f"The Pub/Sub emulator at {host} does not report the backlog.") from error
        if error.code() is grpc.StatusCode.NOT_FOUND:
            raise NotFoundError(f"There is no subscription {subscription_path} at {host}.", "Run: ecomflow infra up") from error
        words = words_of_connection(error.details() or error.code().name)
        raise UnavailableError(
            f"The local Pub/Sub at {host} did not return the backlog: {words}.", "Run: ecomflow infra up"
        ) from error
    return msgspec.json.decode(answer, type=Backlog)


_SERVER_OPTIONS = [
    *SERVER_OPTIONS,
    ("grpc.so_reuseport", 0),  # Otherwise a second server could share the port unnoticed.
    ("grpc.max_receive_message_length", 4 * MAX_PUBLISH_BYTES),  # A request that is too large gets the service's own error.
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
    delay = broker.options.round_trip
    publisher, subscriber = Publisher(broker), Subscriber(broker)
    yield _service("google.pubsub.v1.Publisher", _publisher_methods(publisher, delay), _PUBLISHER_LACKS)
    yield _service("google.pubsub.v1.Subscriber", _subscriber_methods(subscriber, delay), _SUBSCRIBER_LACKS)
    yield _service("google.pubsub.v1.SchemaService", {}, dict.fromkeys(_SCHEMA_METHODS, "schemas"))
    yield _service("google.iam.v1.IAMPolicy", {}, dict.fromkeys(_IAM_METHODS, "access policies"))
    stats = _unary(lambda path: msgspec.json.encode(broker.subscription(path.decode()).backlog()), None)
    damage = _unary(lambda _: msgspec.json.encode(broker.damage()), None)
    yield grpc.method_handlers_generic_handler("ecomflow.local.Stats", {"Get": stats, "Damage": damage})


def _publisher_methods(publisher: Publisher, delay: float) -> dict[str, Any]:
    return {
        "CreateTopic": _unary(publisher.create_topic, types.Topic, delay),
        "UpdateTopic": _unary(publisher.update_topic, types.UpdateTopicRequest, delay),
        "GetTopic": _unary(publisher.get_topic, types.GetTopicRequest, delay),
        "ListTopics": _unary(publisher.list_topics, types.ListTopicsRequest, delay),
        "ListTopicSubscriptions": _unary(publisher.list_topic_subscriptions, types.ListTopicSubscriptionsRequest, delay),
        "DeleteTopic": _unary(publisher.delete_topic, types.DeleteTopicRequest, delay),
        "Publish": _unary(publisher.publish, types.PublishRequest, delay, MAX_PUBLISH_BYTES),
    }


def _subscriber_methods(subscriber: Subscriber, delay: float) -> dict[str, Any]:
    pull, streaming_pull = _translating(subscriber.pull, delay / 2), _translating(subscriber.streaming_pull)
    stream_requests = types.StreamingPullRequest.pb().FromString
    return {
        "CreateSubscription": _unary(subscriber.create_subscription, types.Subscription, delay),
        "UpdateSubscription": _unary(subscriber.update_subscription, types.UpdateSubscriptionRequest, delay),
        "GetSubscription": _unary(subscriber.get_subscription, types.GetSubscriptionRequest, delay),
        "ListSubscriptions": _unary(subscriber.list_subscriptions, types.ListSubscriptionsRequest, delay),
        "DeleteSubscription": _unary(subscriber.delete_subscription, types.DeleteSubscriptionRequest, delay),
        "Acknowledge": _unary(subscriber.acknowledge, types.AcknowledgeRequest, delay, MAX_ACK_BYTES),
        "ModifyAckDeadline": _unary(subscriber.modify_ack_deadline, types.ModifyAckDeadlineRequest, delay, MAX_ACK_BYTES),
        "Seek": _unary(subscriber.seek, types.SeekRequest, delay),
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


def _unary(method: Callable[[Any], Any], request_type: Any, delay: float = 0.0, max_bytes: int | None = None) -> Any:
    """A handler for ``method``; its requests are decoded as ``request_type``, or stay bytes if that is None.

    A request that is longer than ``max_bytes`` is refused.
    """
    decode = request_type.pb().FromString if request_type else bytes

    async def call(request: bytes, _: grpc.aio.ServicerContext) -> bytes:
        if max_bytes is not None and len(request) > max_bytes:
            raise too_large(max_bytes)
        reply = method(decode(request))
        return reply if isinstance(reply, bytes) else bytes(reply.SerializeToString())

    return grpc.unary_unary_rpc_method_handler(_translating(call, delay))


def _translating(method: Callable[..., Coroutine[Any, Any, Any]], delay: float = 0.0) -> Callable[..., Coroutine[Any, Any, Any]]:
    """``method``, called after ``delay`` seconds, with its StatusError or MemoryError turned into a gRPC status."""

    async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
        if delay:
            await asyncio.sleep(delay)
        try:
            return await method(request, context)
        except StatusError as error:
            status = error
        except MemoryError:
            status = exhausted(
                "The local Pub/Sub has no memory left for this request. Try a smaller one, or give it more memory."
            )
        return await context.abort(status.code, status.details)

    return call


@contextlib.asynccontextmanager
async def serve(
    data_dir: Path,
    port: int = 0,
    clock: Clock | None = None,
    options: Options | None = None,
    others: OtherUsers = "refuse",
) -> AsyncIterator[int]:
    """Serve on 127.0.0.1 inside the block, with the state stored in ``data_dir``; yields the port (0 takes a free one).

    Raises AccessError if ``data_dir`` can't be written, UnavailableError if it or the port is in use, or its messages don't fit
    into memory.
    """
    with contextlib.closing(Log(data_dir)) as log:
        broker = _restored(log, clock or SystemClock(), options or Options())
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


def _restored(log: Log, clock: Clock, options: Options) -> Broker:
    try:
        return Broker(log, clock, options)
    except MemoryError as error:
        raise UnavailableError(
            f"There is too little memory for the unacknowledged messages of {log.path} ({log.path.stat().st_size:,} bytes).",
            "Raise the limit (ulimit -v, or the container's), or move the file away; its messages are then lost.",
        ) from error


def _bind(server: grpc.aio.Server, port: int) -> int:
    try:
        return int(server.add_insecure_port(f"127.0.0.1:{port}"))
    except RuntimeError as error:
        raise port_in_use(port) from error


async def _run(port: int, data_dir: Path, options: Options, others: OtherUsers) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with serve(data_dir, port, options=options, others=others) as bound:
        with tied_to(data_dir):
            print(f"listening on 127.0.0.1:{bound}", flush=True)
            await stopped.wait()


def main() -> int:
    parser = service_parser("pubsub", "Pub/Sub", "unacknowledged messages")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 takes a free one")
    for name, default in Options._field_defaults.items():  # for tests and benchmarks
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=argparse.SUPPRESS)
    arguments = vars(parser.parse_args())
    options = Options(**{name: arguments[name] for name in Options._fields})
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    return exit_code(lambda: asyncio.run(_run(arguments["port"], arguments["data_dir"], options, arguments["other_users"])))
