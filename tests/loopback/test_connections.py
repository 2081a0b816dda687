"""Clients that open connections and send nothing, or next to nothing, are closed; those with something to say are answered."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from ecomflow.config import Endpoints, Settings
from ecomflow.local.probes import answers
from ecomflow.loopback import connections
from ecomflow.loopback.connections import MAX_CONNECTIONS, BoundedProtocol
from ecomflow.loopback.web_guard import WAIT_SECONDS
from ecomflow.metrics import prometheus
from ecomflow.metrics.prometheus import served
from ecomflow.metrics.snapshot import LOCAL, PipelineMetrics
from tests.support.cli import environment

HEAD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
SHORT = 0.5  # seconds, in the place of WAIT_SECONDS

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answers by the path: the size of the body, a stream of ten lines, an answer that is late, or one that fits no buffer."""
    path, size, more = scope["path"], 0, True
    while more and path not in ("/stream", "/unread"):
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    if path == "/late":
        await asyncio.sleep(3 * SHORT)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    for _ in range({"/stream": 10, "/unread": 1000}.get(path, 0)):
        await send({"type": "http.response.body", "body": b"x" * 100_000 if path == "/unread" else b"line\n", "more_body": True})
        await asyncio.sleep(SHORT / 2 if path == "/stream" else 0)
    await send({"type": "http.response.body", "body": str(size).encode()})


@contextlib.contextmanager
def serving() -> Iterator[tuple[int, uvicorn.Server]]:
    """The port of ``app`` behind the protocol."""
    config = uvicorn.Config(app, http=BoundedProtocol, ws="none", lifespan="off", log_level="critical")  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1], server
        finally:
            server.should_exit = server.force_exit = True
            thread.join(10)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server of short deadlines."""
    monkeypatch.setattr(connections, "WAIT_SECONDS", SHORT)
    with serving() as (port, _):
        yield port


def opened(port: int, number: int, stack: contextlib.ExitStack, sent: bytes = b"") -> list[socket.socket]:
    """``number`` connections on which ``sent`` and nothing more was sent."""
    made = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(number)]
    for connection in made:
        with contextlib.suppress(OSError):  # closed already, to make room
            connection.sendall(sent)
    return made


def ended(connection: socket.socket, seconds: float) -> bool:
    """Whether the other side closes the connection within ``seconds``, whatever it sends before."""
    give_up = time.monotonic() + seconds
    while (left := give_up - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            if not connection.recv(65536):
                return True
        except TimeoutError:
            break
        except OSError:
            return True
    return False


def still_open(made: list[socket.socket]) -> list[socket.socket]:
    """Those of which no end has been read."""
    poll = select.poll()
    for one in made:
        poll.register(one, select.POLLIN)
    readable = {number for number, _ in poll.poll(0)}
    return [one for one in made if one.fileno() not in readable or not ended(one, 0.01)]


def drips(port: int, begun: bytes, seconds: float, drip: bytes = b"x") -> bool:
    """Whether the connection is closed within ``seconds`` on which a byte comes ten times a deadline."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(begun)
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            try:
                connection.sendall(drip)
            except OSError:
                return True
            if ended(connection, SHORT / 10):
                return True
    return False


def fetched(port: int, path: str = "/", body: bytes | None = None) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET" if body is None else "POST", path, body)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


class TestDeadlines:
    """A server as the services have it, with half a second instead of ten."""

    @pytest.mark.slow
    @pytest.mark.parametrize("begun", [b"", b"G", HEAD, HEAD + b"X-A: "])
    def test_a_head_that_is_not_finished(self, port: int, begun: bytes) -> None:
        """Silence after any part of it ends the connection, and so do bytes that drip."""
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(begun)
            assert ended(connection, 20 * SHORT)
        assert drips(port, HEAD + b"X-A: ", 20 * SHORT)

    @pytest.mark.slow
    def test_a_body_that_drips(self, port: int) -> None:
        """One that is announced and comes by the byte is not waited for."""
        assert drips(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n", 20 * SHORT)
        chunked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert drips(port, chunked, 20 * SHORT, b"1\r\nx\r\n")

    @pytest.mark.slow
    def test_a_body_that_gets_on(self, port: int) -> None:
        """One that takes many deadlines, with enough in each, is read whole."""
        part, number = b"x" * 2 * connections.MIN_BYTES, 16
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            size = len(part) * number
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(number):
                connection.sendall(part)
                time.sleep(SHORT / 4)  # a client that is slow
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.read().decode() == str(size)

    def test_the_head_of_a_second_request(self, port: int) -> None:
        """The deadline is that of each request, not of the first alone."""
        assert drips(port, HEAD + b"\r\n" + HEAD + b"X-A: ", 20 * SHORT)

    @pytest.mark.slow
    def test_a_stream_goes_on(self, port: int) -> None:
        """What the service sends for many deadlines is not cut, nor is an answer that is late."""
        assert fetched(port, "/stream") == "line\n" * 10 + "0"
        assert fetched(port, "/late", b"x" * 300_000) == "300000"

    @pytest.mark.slow
    def test_an_answer_that_nobody_reads(self, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its connection is closed, so that the task behind it ends too."""
        monkeypatch.setattr(connections, "READ_SECONDS", SHORT)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(HEAD.replace(b"/ ", b"/unread ") + b"\r\n")
            time.sleep(3 * SHORT)  # a client that does not read
            got = 0
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(1 << 20):
                    got += len(part)
            assert got < 1000 * 100_000 / 2

    @pytest.mark.slow
    def test_a_connection_between_requests(self) -> None:
        """It is kept for uvicorn's five seconds, and then closed."""
        with serving() as (port, _), socket.create_connection(("127.0.0.1", port)) as connection:
            for _ in range(2):
                connection.sendall(HEAD + b"\r\n")
                answer = http.client.HTTPResponse(connection)
                answer.begin()
                assert answer.read() == b"0"
            began = time.monotonic()
            assert ended(connection, 20)
            assert 3 < time.monotonic() - began < 12


class TestRoom:
    """The bound on open connections, with the real deadlines."""

    @pytest.mark.parametrize("number", [150, 500])
    def test_the_oldest_that_is_silent_gives_way(self, number: int) -> None:
        """No more stay open than the bound, the newest of them; and requests are answered."""
        with contextlib.ExitStack() as stack:
            port, server = stack.enter_context(serving())
            made = opened(port, number, stack)
            assert fetched(port) == "0"
            assert len(server.server_state.connections) <= MAX_CONNECTIONS
            assert still_open(made) == still_open(made[-MAX_CONNECTIONS:])

    @pytest.mark.slow
    def test_who_is_being_answered_stays(self) -> None:
        """Silent connections come and go, and streams that began before them are whole."""
        with contextlib.ExitStack() as stack:
            port, _ = stack.enter_context(serving())
            streams = opened(port, 20, stack, b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert fetched(port) == "0"  # all before it have been read
            opened(port, 2 * MAX_CONNECTIONS, stack)
            for one in streams:
                answer = http.client.HTTPResponse(one)
                answer.begin()
                assert answer.read() == b"line\n" * 10 + b"0"

    @pytest.mark.slow
    def test_where_all_are_busy_the_newcomer_is_closed(self) -> None:
        """What is under way is worth more; a moment later there is room again."""
        with contextlib.ExitStack() as stack:
            port, server = stack.enter_context(serving())
            late = b"GET /late HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            made = opened(port, MAX_CONNECTIONS, stack, late)
            give_up = time.monotonic() + 20
            while len(server.server_state.tasks) < MAX_CONNECTIONS:
                assert time.monotonic() < give_up
            with socket.create_connection(("127.0.0.1", port)) as newcomer:
                assert ended(newcomer, 1.0)
            for one in made:
                assert one.recv(15) == b"HTTP/1.1 200 OK"
            assert fetched(port) == "0"


class TestMetrics:
    @pytest.mark.slow
    def test_heads_that_drip(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        """Each byte does not begin the wait anew; nothing is said about it."""
        monkeypatch.setattr(prometheus, "WAIT_SECONDS", SHORT)
        with served(lambda: PipelineMetrics(0.0, "running", LOCAL), 0) as port:
            assert drips(port, b"GET /metrics HTTP/1.1\r\nX: ", 20 * SHORT)
            assert drips(port, b"G", 20 * SHORT)
        assert capfd.readouterr().err == ""

    @pytest.mark.slow
    def test_many_that_are_silent(self) -> None:
        """A scrape is answered while they are there, and they hold no more threads than the bound."""
        before = threading.active_count()
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(served(lambda: PipelineMetrics(0.0, "running", LOCAL), 0))
            made = opened(port, 150, stack)
            assert "ecomflow_pipeline_running 1.0" in fetched(port, "/metrics")
            assert threading.active_count() - before < 50
            began = time.monotonic()
            assert all(ended(one, 2 * WAIT_SECONDS) for one in made)
            assert time.monotonic() - began < 2 * WAIT_SECONDS


@pytest.mark.slow
def test_the_page_with_silent_clients(tmp_path: Path) -> None:
    """``ecomflow ui`` answers within 2 s while they are there, and has closed all of them soon after the deadline."""
    settings, log = Settings(state_dir=str(tmp_path)), tmp_path / "log"
    command = [sys.executable, "-m", "ecomflow", "ui", "--no-open", "--port", "0"]
    with contextlib.ExitStack() as stack, log.open("wb") as output:
        process = stack.enter_context(subprocess.Popen(command, stdout=output, stderr=output, env=environment(settings)))
        stack.callback(process.kill)
        give_up = time.monotonic() + 30
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/\?token=\S+", log.read_text())):
            assert time.monotonic() < give_up
            time.sleep(0.05)  # it prints its address when it listens
        port = int(found[1])
        made = [*opened(port, 250, stack), *opened(port, 250, stack, HEAD)]
        for _ in range(3):
            began = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/static/page.js")
            status = connection.getresponse().status
            connection.close()
            assert (status, time.monotonic() - began < 2) == (403, True)  # without the token: the gate answers
        assert all(ended(one, 2 * WAIT_SECONDS) for one in made)


@pytest.mark.stack
def test_the_services_with_silent_clients(stack: Endpoints) -> None:
    """Each answers while 150 connections are open on which nobody says anything, and closes all of them."""
    addresses = (stack.pubsub, stack.storage, stack.bigquery, stack.bigquery_storage)
    pubsub, storage, rest, grpc = (int(str(address).rpartition(":")[2]) for address in addresses)
    with contextlib.ExitStack() as exits:
        made = [one for port in (pubsub, storage, rest, grpc) for one in opened(port, 150, exits)]
        for service, ports in (("pubsub", (pubsub,)), ("storage", (storage,)), ("bigquery", (rest, grpc))):
            assert answers(service, ports, 2.0), service
        began = time.monotonic()
        assert all(ended(one, 2 * WAIT_SECONDS) for one in made)
        assert time.monotonic() - began < 2 * WAIT_SECONDS
