"""Serves the metrics in Prometheus' text format over HTTP on loopback: to programs of this user only, and to no web page."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from socketserver import ThreadingMixIn
from typing import Any, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ecomflow.errors import ConfigError, EcomflowError
from ecomflow.loopback.peers import OtherUsers, OwnUser
from ecomflow.loopback.web_guard import WAIT_SECONDS, is_loopback_name
from ecomflow.metrics.snapshot import LATENCY_BOUNDS, PipelineMetrics

PATH = "/metrics"

_HOST = "127.0.0.1"


def metric_families(metrics: PipelineMetrics) -> Iterator[Metric]:
    """``metrics`` as Prometheus metrics: durations in seconds, sizes in bytes, times in seconds since the epoch.

    Unknown values are left out. The histogram has no sum, because the pipeline keeps none.
    """
    waits = metrics.waiting_for is not None
    yield _gauge("pipeline_running", "1 while the pipeline runs.", metrics.state == "running")
    yield _gauge("pipeline_waiting", "1 while the pipeline waits for a service or for a manual fix.", waits)
    yield _gauge("processes", "Number of processes that run an engine.", metrics.processes)
    yield _gauge("start_time_seconds", "Start time of the pipeline and of its counters.", metrics.started)
    yield _gauge("memory_bytes", "Resident memory of all its processes.", metrics.memory_bytes)
    yield _gauge("backlog_messages", "Unacknowledged messages of the subscription.", metrics.backlog)
    yield _gauge("oldest_unacked_age_seconds", "Age of the oldest unacknowledged message.", metrics.oldest_unacked_seconds)
    yield _counter("messages_received", "Messages received.", [((), metrics.received)])
    yield _counter("bundles", "Bundles finished.", [((), metrics.bundles)])
    yield _counter("retries", "Calls to a service that were retried.", [((), metrics.retries)])
    yield _counter("restarts", "Restarts of an engine or its process.", [((), metrics.restarts)])
    refused = [((reason,), number) for reason, number in metrics.refused.items()]
    yield _counter("refused", "Messages refused.", refused, "reason")
    rows = [((table.table,), table.rows) for table in metrics.tables]
    yield _counter("rows", "Rows that BigQuery has confirmed.", rows, "table")
    steps = [
        ((step.step, direction), number)
        for step in metrics.steps
        for direction, number in (("in", step.messages_in), ("out", step.messages_out), ("refused", step.refused))
    ]
    yield _counter("step_messages", "Messages in, out and refused, by step.", steps, "step", "direction")
    appends = GaugeMetricFamily("ecomflow_last_append_timestamp_seconds", "When rows were last confirmed.", labels=["table"])
    for table in metrics.tables:
        if table.last_append is not None:
            appends.add_metric([table.table], table.last_append)
    yield appends
    bounds = (*(str(float(bound)) for bound in LATENCY_BOUNDS), "+Inf")
    buckets = list(zip(bounds, map(float, accumulate(metrics.latency)), strict=True))
    what = "Messages by the time from publishing to the confirmation of their rows."
    yield HistogramMetricFamily("ecomflow_publish_to_append_seconds", what, buckets=buckets)


@contextlib.contextmanager
def served(read: Callable[[], PipelineMetrics], port: int, others: OtherUsers = "refuse") -> Iterator[int]:
    """Serve the result of ``read`` at ``http://127.0.0.1:<port>/metrics`` inside the block; 0: a free port. Yields the port.

    ``read`` is never called by two threads at once. Raises ConfigError if the port is in use or not permitted.
    """
    try:
        server = make_server(_HOST, port, _app(read), server_class=_Server, handler_class=_Handler)
    except OSError as error:
        raise ConfigError(
            f"The metrics can't be served on port {port} of {_HOST}: {error.strerror}.",
            "Use a free port with: ecomflow deploy --metrics-port 0",
        ) from error
    server.own_user = OwnUser((_HOST, server.server_port), others)
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def _gauge(name: str, what: str, value: float | None) -> Metric:
    return GaugeMetricFamily(f"ecomflow_{name}", what, value=value)


def _counter(name: str, what: str, numbers: Iterable[tuple[Sequence[str], int]], *labels: str) -> Metric:
    family = CounterMetricFamily(f"ecomflow_{name}", what, labels=labels)
    for values, number in numbers:
        family.add_metric(values, number)
    return family


class _Current(Collector):
    """Reads the metrics at each scrape."""

    def __init__(self, read: Callable[[], PipelineMetrics]) -> None:
        self._read = read
        self._lock = threading.Lock()

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            metrics = self._read()
        return metric_families(metrics)


def _app(read: Callable[[], PipelineMetrics]) -> Callable[..., Iterable[bytes]]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Current(read))
    serve = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if (refusal := _refusal(environ)) is None:
            try:
                return list(serve(environ, start_response))
            except EcomflowError as error:  # raised before the response has started
                refusal = ("503 Service Unavailable", str(error))
        status, sentence = refusal
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), *_ALLOW.get(status, ())])
        return [f"{sentence}\n".encode()]

    return app


_ALLOW = {"405 Method Not Allowed": [("Allow", "GET")]}


def _refusal(environ: dict[str, Any]) -> tuple[str, str] | None:
    """The status and sentence with which a request is refused; None if it is allowed."""
    if sentence := environ["ecomflow.refusal"]:
        return "403 Forbidden", sentence
    if not is_loopback_name(environ.get("HTTP_HOST", "")):
        return "403 Forbidden", f"Use a loopback host name: http://{_HOST}:{environ['SERVER_PORT']}{PATH}"
    if environ["REQUEST_METHOD"] != "GET":
        return "405 Method Not Allowed", "Only GET is allowed."
    if environ["PATH_INFO"] != PATH:
        return "404 Not Found", f"Not found. The only path is {PATH}."
    return None


_MAX_WAITING = 32  # Each uses a thread of the pipeline's process, and a scraper has one connection.


class _Server(ThreadingMixIn, WSGIServer):
    """One thread per connection; the head of its only request must be complete within WAIT_SECONDS, however slowly it comes."""

    daemon_threads = True
    request_queue_size = 128  # The default is 5, and clients that find the queue full try again only after seconds.
    own_user: OwnUser

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._lock = threading.Lock()
        self._awaited: dict[socket.socket, float] = {}  # Opening time of connections with an incomplete head, oldest first.
        super().__init__(*arguments, **named)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._awaited[request] = time.monotonic()
            if len(self._awaited) > _MAX_WAITING:
                self._cut(next(iter(self._awaited)))
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Close connections whose head is overdue. ``serve_forever`` calls this at least every ``poll_interval``."""
        with self._lock:
            latest = time.monotonic() - WAIT_SECONDS
            for request in [one for one, since in self._awaited.items() if since < latest]:
                self._cut(request)

    def shutdown_request(self, request: Any) -> None:
        self.head_is_whole(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not log that a client has disconnected or was cut off."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def head_is_whole(self, request: socket.socket) -> None:
        with self._lock:
            self._awaited.pop(request, None)

    def _cut(self, request: socket.socket) -> None:
        """The thread that reads from the socket then gets an end of file and closes it."""
        del self._awaited[request]
        with contextlib.suppress(OSError):  # the client may have gone
            request.shutdown(socket.SHUT_RDWR)


class _Handler(WSGIRequestHandler):
    timeout = WAIT_SECONDS  # for a single read or write

    def get_environ(self) -> dict[str, Any]:
        server = cast(_Server, self.server)
        server.head_is_whole(self.connection)
        return super().get_environ() | {"ecomflow.refusal": server.own_user.refusal(self.client_address[:2])}

    def log_message(self, format: str, *args: Any) -> None:  # the base class's name
        """Do not log scrapes."""
