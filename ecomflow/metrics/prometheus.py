"""Figures in, Prometheus' text format out: served over HTTP on loopback, to this user's programs alone and to no page."""

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
    """``metrics`` as Prometheus' metrics: times in seconds, sizes in bytes, moments in seconds since the epoch.

    What is not known is left out. The histogram has no sum: the pipeline keeps none.
    """
    waits = metrics.waiting_for is not None
    yield _gauge("pipeline_running", "1 while the pipeline runs.", metrics.state == "running")
    yield _gauge("pipeline_waiting", "1 while the pipeline waits for a service, or for what a person mends.", waits)
    yield _gauge("processes", "Processes that an engine runs in.", metrics.processes)
    yield _gauge("start_time_seconds", "When the pipeline began, and its counts with it.", metrics.started)
    yield _gauge("memory_bytes", "Resident memory of all its processes.", metrics.memory_bytes)
    yield _gauge("backlog_messages", "Unacknowledged messages of the subscription.", metrics.backlog)
    yield _gauge("oldest_unacked_age_seconds", "Age of the oldest unacknowledged message.", metrics.oldest_unacked_seconds)
    yield _counter("messages_received", "Messages received.", [((), metrics.received)])
    yield _counter("bundles", "Bundles finished.", [((), metrics.bundles)])
    yield _counter("retries", "Calls to a service that were tried again.", [((), metrics.retries)])
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
    yield _counter("step_messages", "Messages into, out of and refused by a step.", steps, "step", "direction")
    appends = GaugeMetricFamily("ecomflow_last_append_timestamp_seconds", "When rows were last confirmed.", labels=["table"])
    for table in metrics.tables:
        if table.last_append is not None:
            appends.add_metric([table.table], table.last_append)
    yield appends
    bounds = (*(str(float(bound)) for bound in LATENCY_BOUNDS), "+Inf")
    buckets = list(zip(bounds, map(float, accumulate(metrics.latency)), strict=True))
    what = "Messages by the time from their publication to their rows' confirmation."
    yield HistogramMetricFamily("ecomflow_publish_to_append_seconds", what, buckets=buckets)


@contextlib.contextmanager
def served(read: Callable[[], PipelineMetrics], port: int, others: OtherUsers = "refuse") -> Iterator[int]:
    """Within, what ``read`` gives is served at ``http://127.0.0.1:<port>/metrics``; 0: at a free port. Gives the port.

    ``read`` is never called by two threads at a time. Raises ConfigError where the port is taken or not ours to take.
    """
    try:
        server = make_server(_HOST, port, _app(read), server_class=_Server, handler_class=_Handler)
    except OSError as error:
        raise ConfigError(
            f"Port {port} of {_HOST} can't be had for the metrics: {error.strerror}.",
            "Take a free one with: ecomflow deploy --metrics-port 0",
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
    """Reads the metrics anew at each scrape."""

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
            except EcomflowError as error:  # raised before anything was answered
                refusal = ("503 Service Unavailable", str(error))
        status, sentence = refusal
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), *_ALLOW.get(status, ())])
        return [f"{sentence}\n".encode()]

    return app


_ALLOW = {"405 Method Not Allowed": [("Allow", "GET")]}


def _refusal(environ: dict[str, Any]) -> tuple[str, str] | None:
    """The status and the sentence that a request gets which is not answered."""
    if sentence := environ["ecomflow.refusal"]:
        return "403 Forbidden", sentence
    if not is_loopback_name(environ.get("HTTP_HOST", "")):
        return "403 Forbidden", f"Ask for it by a loopback name: http://{_HOST}:{environ['SERVER_PORT']}{PATH}"
    if environ["REQUEST_METHOD"] != "GET":
        return "405 Method Not Allowed", "There is only GET."
    if environ["PATH_INFO"] != PATH:
        return "404 Not Found", f"There is only {PATH}."
    return None


_MOST_WAITING = 32  # Each holds a thread of the pipeline's process, and a scraper has one connection.


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection; the head of its one request must be whole in WAIT_SECONDS, however it drips."""

    daemon_threads = True
    request_queue_size = 128  # By default 5: those who find the queue full try again after seconds.
    own_user: OwnUser

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._lock = threading.Lock()
        self._awaited: dict[socket.socket, float] = {}  # When each was opened whose head is not whole, the oldest first.
        super().__init__(*arguments, **named)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._awaited[request] = time.monotonic()
            if len(self._awaited) > _MOST_WAITING:
                self._cut(next(iter(self._awaited)))
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Ends the wait for heads that are overdue. ``serve_forever`` calls it at least every ``poll_interval``."""
        with self._lock:
            latest = time.monotonic() - WAIT_SECONDS
            for request in [one for one, since in self._awaited.items() if since < latest]:
                self._cut(request)

    def shutdown_request(self, request: Any) -> None:
        self.head_is_whole(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """That a client has gone, or was cut off, is no event of the pipeline's."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def head_is_whole(self, request: socket.socket) -> None:
        with self._lock:
            self._awaited.pop(request, None)

    def _cut(self, request: socket.socket) -> None:
        """The thread that reads from it reads its end, and closes it."""
        del self._awaited[request]
        with contextlib.suppress(OSError):  # the client may have gone
            request.shutdown(socket.SHUT_RDWR)


class _Handler(WSGIRequestHandler):
    timeout = WAIT_SECONDS  # that one read or write may take

    def get_environ(self) -> dict[str, Any]:
        server = cast(_Server, self.server)
        server.head_is_whole(self.connection)
        return super().get_environ() | {"ecomflow.refusal": server.own_user.refusal(self.client_address[:2])}

    def log_message(self, format: str, *args: Any) -> None:  # the base class's name
        """A scrape is no event of the pipeline's."""
