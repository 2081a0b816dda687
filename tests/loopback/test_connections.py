"""Half-open and slow connections take no server out."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from ecomflow.config import LOCAL_PROJECT, Endpoints, Settings
from ecomflow.gcp.clients import bigquery_client, publisher_client
from ecomflow.loopback.connections import BoundedProtocol
from ecomflow.metrics.prometheus import served
from ecomflow.metrics.snapshot import LOCAL, PipelineMetrics
from tests.support.cli import start
from tests.support.storage import storage_server

ANSWER_SECONDS = 2.0
HALF_OPEN = 150


class Impatient(BoundedProtocol):
    request_seconds = 0.5
    body_pause_seconds = 0.5
    max_connections = 20


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """``/stream`` answers for ever, anything else with the length of the body."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while scope["path"] == "/stream":
        await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
        await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": str(len(body)).encode()})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server of ``app`` with short deadlines and 20 connections."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=Impatient, ws="none", lifespan="off", log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = server.force_exit = True
    thread.join(10)


def connect(port: int, sent: bytes = b"") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=5)
    made.sendall(sent)
    return made


def ends(connection: socket.socket, seconds: float = 5.0) -> bool:
    """Whether the server closes ``connection`` within ``seconds``."""
    connection.settimeout(seconds)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def answer(port: int, body: bytes = b"") -> bytes:
    """What the server answers, which must take no longer than ``ANSWER_SECONDS``."""
    request = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    with contextlib.closing(request):
        request.request("POST", "/", body=body)
        return request.getresponse().read()


class TestDeadlines:
    @pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n"])
    def test_a_connection_without_a_whole_head_is_closed(self, port: int, sent: bytes) -> None:
        """Nothing, half a line and half a head alike."""
        with connect(port, sent) as half_open:
            assert ends(half_open)

    def test_bytes_that_trickle_in_extend_no_deadline(self, port: int) -> None:
        """A head that comes byte by byte is cut off as one that does not come."""
        begun = time.monotonic()
        with connect(port) as slow, contextlib.suppress(ConnectionError):
            for _ in range(200):
                slow.sendall(b"G")
                time.sleep(0.05)
                if is_closed(slow):
                    break
        assert time.monotonic() - begun < 5

    def test_a_body_that_pauses_is_closed(self, port: int) -> None:
        """A promised body has to come."""
        with connect(port, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc") as paused:
            assert ends(paused)

    def test_an_idle_connection_is_closed_after_its_answer(self, port: int) -> None:
        """Kept alive for the next request, but not for ever."""
        with connect(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") as kept:
            assert kept.recv(1000).startswith(b"HTTP/1.1 200")
            while received := receive(kept):
                assert not received.startswith(b"HTTP/1.1 4")
            assert ends(kept)

    def test_a_stream_goes_on(self, port: int) -> None:
        """An answer that takes many times the deadline is none of its business."""
        with connect(port, b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n") as stream:
            ticks = 0
            begun = time.monotonic()
            while time.monotonic() < begun + 4 * Impatient.request_seconds:
                ticks += stream.recv(1000).count(b"tick")
            assert ticks > 20


class TestTheBound:
    def test_the_newcomer_is_answered(self, port: int) -> None:
        """With more half-open connections than there may be, the oldest of them make room."""
        with contextlib.ExitStack() as opened:
            held = [opened.enter_context(connect(port)) for _ in range(3 * Impatient.max_connections)]
            assert answer(port, b"12345") == b"5"
            assert all(map(ends, held))


def receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1000)
    except ConnectionError:
        return b""


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    finally:
        connection.setblocking(True)


@pytest.mark.stack
class TestTheLocalServices:
    """Each with 150 connections that send nothing, in the processes that the local stack consists of."""

    def test_cloud_storage_answers(self, tmp_path: Path) -> None:
        """The bucket list comes at once."""
        with storage_server(tmp_path / "data") as address, contextlib.ExitStack() as opened:
            port = int(address.rpartition(":")[2])
            for _ in range(HALF_OPEN):
                opened.enter_context(connect(port))
            assert b"storage#buckets" in get(port, "/storage/v1/b?project=ecomflow-local")

    def test_bigquery_and_pubsub_answer(self, stack: Endpoints) -> None:
        """The datasets of the one over REST, a topic list of the other over gRPC."""
        assert stack.bigquery
        assert stack.pubsub
        ports = [int(each.rpartition(":")[2]) for each in (stack.bigquery, stack.pubsub)]
        with contextlib.ExitStack() as opened:
            for port in ports:
                for _ in range(HALF_OPEN):
                    opened.enter_context(connect(port))
            begun = time.monotonic()
            list(bigquery_client(LOCAL_PROJECT, stack).list_datasets(timeout=ANSWER_SECONDS))
            with publisher_client(stack) as publisher:
                list(publisher.list_topics(project=f"projects/{LOCAL_PROJECT}", timeout=ANSWER_SECONDS))
            assert time.monotonic() - begun < 3 * ANSWER_SECONDS

    def test_the_page_answers(self, tmp_path: Path) -> None:
        """``ecomflow ui`` shows itself to whoever has its token."""
        log = tmp_path / "ui.log"
        page = start("ui", "--no-open", "--port", "0", settings=Settings(state_dir=str(tmp_path / "state")), log=log)
        try:
            while not (found := re.search(r"http://127\.0\.0\.1:(\d+)(/\?token=\S+)", log.read_text())):
                assert page.poll() is None, log.read_text()
                time.sleep(0.05)
            port, path = int(found[1]), found[2]
            with contextlib.ExitStack() as opened:
                for _ in range(2 * BoundedProtocol.max_connections):
                    opened.enter_context(connect(port))
                assert status(port, path) == 303  # to the page itself, with a cookie
        finally:
            page.send_signal(signal.SIGINT)
            assert page.wait(10) == 0

    def test_the_metrics_answer(self) -> None:
        """A scrape is answered."""
        with served(lambda: PipelineMetrics(0.0, "running", LOCAL), 0) as port, contextlib.ExitStack() as opened:
            for _ in range(HALF_OPEN):
                opened.enter_context(connect(port))
            assert b"ecomflow_pipeline_running 1.0" in get(port, "/metrics")


def get(port: int, path: str) -> bytes:
    request = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    with contextlib.closing(request):
        request.request("GET", path)
        return request.getresponse().read()


def status(port: int, path: str) -> int:
    request = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    with contextlib.closing(request):
        request.request("GET", path)
        return request.getresponse().status
