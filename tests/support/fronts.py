"""Fronts before the local services: calls come in; they are passed on to the real service, or meet the fault that a test plans.

``GrpcFront`` stands before Pub/Sub and before the Storage Write API, ``HttpFront`` before Cloud Storage. A plan is a function
from the call to its fault, or None: it is asked for every message of a call, so that one request of a stream can fail.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import grpc

_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]


_A_YEAR_OF_SECONDS = 366 * 86_400.0


class Refuse(NamedTuple):
    """The call ends with ``code``; the service never sees it."""

    code: grpc.StatusCode
    words: str = "refused by the test"


class LoseAnswer(NamedTuple):
    """The service does what it is asked, but the call ends with ``code`` in the place of the answer."""

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE


class Close:
    """The call ends well, without an answer."""


class Answer(NamedTuple):
    """``message`` is the answer; the service never sees the request."""

    message: bytes


class Instead(NamedTuple):
    """The service is asked something else of the same connection: ``method`` with ``request``; its answer is the answer."""

    method: str
    request: bytes


class Hold:
    """The caller waits until it dies or is ``released``: before the service sees the request or, ``applied``, after it answered.

    ``seen`` is for plans that count.
    """

    def __init__(self, applied: bool = False) -> None:
        self.applied = applied
        self.seen = 0
        self.reached = threading.Event()
        self.released = threading.Event()

    def wait(self, is_active: Callable[[], bool]) -> None:
        self.reached.set()
        while is_active() and not self.released.wait(0.05):
            pass  # gRPC reports a dead caller only on request


Fault = Refuse | LoseAnswer | Close | Answer | Instead | Hold
GrpcPlan = Callable[[str, bytes], Fault | None]


def no_fault(*_: Any) -> None:
    """The plan of a front that only passes on."""


class GrpcFront(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A gRPC server that passes every method on, message by message, as bytes. ``address`` is where it listens.

    ``slowness``: how many times slower than the service it answers.
    """

    def __init__(self, backend: str) -> None:
        self.plan: GrpcPlan = no_fault
        self.slowness = 1.0
        self.calls: list[str] = []
        self._channel = grpc.insecure_channel(backend, options=[*_OPTIONS, ("grpc.max_reconnect_backoff_ms", 500)])
        self._closed = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(64), handlers=[self], options=_OPTIONS)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        self._closed.set()
        self._server.stop(0).wait()
        self._channel.close()

    def service(self, details: Any) -> Any:
        # On the wire a unary call is a stream of one message.
        return grpc.stream_stream_rpc_method_handler(lambda requests, context: self._serve(details.method, requests, context))

    def _serve(self, method: str, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        backend = _Backend(self._channel, method, context)
        try:
            for request in requests:
                self.calls.append(method)
                fault = self.plan(method.rsplit("/", 1)[-1], request)
                if isinstance(fault, Close):
                    return
                yield self._answer(backend, request, fault, context)
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())
        finally:
            backend.end()

    def _answer(self, backend: _Backend, request: bytes, fault: Fault | None, context: Any) -> bytes:
        if isinstance(fault, Refuse):
            context.abort(*fault)
        if isinstance(fault, Answer):
            return fault.message
        if isinstance(fault, Instead):
            return bytes(self._channel.unary_unary(fault.method)(fault.request, timeout=10))
        if isinstance(fault, Hold) and not fault.applied:
            self._hold(fault, context)
        answer = self._paced(backend, request)
        if isinstance(fault, Hold) and fault.applied:
            self._hold(fault, context)
        if isinstance(fault, LoseAnswer):
            context.abort(fault.code, "lost by the test")
        return answer

    def _hold(self, fault: Hold, context: Any) -> None:
        fault.wait(lambda: context.is_active() and not self._closed.is_set())
        if not context.is_active():
            context.abort(grpc.StatusCode.CANCELLED, "the caller is gone")

    def _paced(self, backend: _Backend, request: bytes) -> bytes:
        began = time.monotonic()
        answer = backend.ask(request)
        self._closed.wait((self.slowness - 1) * (time.monotonic() - began))
        return answer


class _Backend:
    """The call to the service that belongs to one call of a client; opened with the first message that is passed on."""

    def __init__(self, channel: Any, method: str, context: Any) -> None:
        self._call = channel.stream_stream(method)
        self._context = context
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        self._answers: Any = None

    def ask(self, request: bytes) -> bytes:
        self._requests.put(request)
        if self._answers is None:
            routing = [(key, value) for key, value in self._context.invocation_metadata() if key == "x-goog-request-params"]
            waiting = iter(self._requests.get, None)
            self._answers = self._call(waiting, timeout=_seconds_left(self._context), metadata=routing)
            self._context.add_callback(self._answers.cancel)
        return bytes(next(self._answers))

    def end(self) -> None:
        self._requests.put(None)


def _seconds_left(context: Any) -> float | None:
    """Until the caller's deadline; None where it has none, of which gRPC makes a number too large for a deadline."""
    left = context.time_remaining()
    return left if left is not None and left < _A_YEAR_OF_SECONDS else None


class HttpHold(NamedTuple):
    """The caller waits until ``hold`` is released or it gives up; then the connection is closed without an answer."""

    hold: Hold


# A number is the status that the front answers itself.
HttpFault = int | HttpHold
HttpPlan = Callable[[str, str], HttpFault | None]


class HttpFront:
    """An HTTP server that passes requests on to ``backend``; ``plan`` gets the method and the path. ``address`` is its URL."""

    def __init__(self, backend: str) -> None:
        self.plan: HttpPlan = no_fault
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, urlsplit(backend).netloc))
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.requests = 0
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(front: HttpFront, backend: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            front.requests += 1
            fault = front.plan(self.command, self.path)
            if isinstance(fault, HttpHold) and not fault.hold.applied:
                self._hold(fault.hold)
            elif isinstance(fault, int):
                self._reply(fault, [("Content-Type", "application/json")], b'{"error": {"message": "by the test"}}')
            else:
                answer = self._passed_on(body)
                if isinstance(fault, HttpHold):
                    self._hold(fault.hold)
                else:
                    self._reply(*answer)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve  # noqa: N815  # the names are http.server's

        def _passed_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(backend, timeout=30)
            try:
                headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                return answer.status, answer.getheaders(), answer.read()
            except OSError:
                return 503, [("Content-Type", "application/json")], b'{"error": {"message": "the service is away"}}'
            finally:
                connection.close()

        def _hold(self, hold: Hold) -> None:
            hold.wait(lambda: True)
            self.close_connection = True

        def _reply(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                pass  # the caller has gone: it was killed, or gave up

    return Handler


@contextmanager
def another_broker(pubsub: str) -> Iterator[str]:
    """``host:port`` of ``pubsub`` as of a broker that is not ecomflow's: it has none of the methods that only that one has."""
    front = GrpcFront(pubsub)
    own = ("Get", "Damage")
    front.plan = lambda method, _: Refuse(grpc.StatusCode.UNIMPLEMENTED, "Method not found") if method in own else None
    try:
        yield front.address
    finally:
        front.close()
