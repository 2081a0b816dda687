"""One target's clients: made when they are first asked for, once, for every thread, and closed with it."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, Thread

import msgspec
import pytest

from ecomflow.config import Endpoints, Settings
from ecomflow.errors import AccessError, UnavailableError
from ecomflow.gcp.clients import _CONNECTIONS
from ecomflow.gcp.target import LiveTarget, Target, open_target
from tests.support.cli import write_stack_file

NOWHERE = Endpoints(
    pubsub="127.0.0.1:1",
    storage="http://127.0.0.1:1",
    bigquery="http://127.0.0.1:1",
    bigquery_storage="127.0.0.1:1",
    dataflow="http://127.0.0.1:1",
)
KINDS = ("publisher", "subscriber", "storage", "bigquery", "bigquery_write", "dataflow")


@pytest.mark.parametrize("kind", KINDS)
def test_each_client_is_made_once(kind: str) -> None:
    """However many threads ask for it at the same time."""
    together = Barrier(8)

    def ask(_: int) -> object:
        together.wait()
        return getattr(target, kind)

    with Target(Settings(), NOWHERE) as target, ThreadPoolExecutor(8) as pool:
        made = list(pool.map(ask, range(8)))
    assert {id(client) for client in made} == {id(made[0])}


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_target_makes_another_client(kind: str) -> None:
    """The end of the block closes what was made; closing again changes nothing."""
    with Target(Settings(), NOWHERE) as target:
        before = getattr(target, kind)
    target.close()
    with target:
        assert getattr(target, kind) is not before


def test_the_end_closes_connections() -> None:
    """A call on a client that outlives its target fails at once."""
    with Target(Settings(), NOWHERE) as target:
        publisher = target.publisher
    with pytest.raises(ValueError, match="closed channel"):
        publisher.get_topic(topic="projects/p/topics/t")


def test_nothing_is_made_unasked() -> None:
    """A target that nobody uses imports none of Google's libraries, so that --help stays fast."""
    script = (
        "import sys; from ecomflow.config import Endpoints, Settings; from ecomflow.gcp.target import Target\n"
        "with Target(Settings(), Endpoints()): pass\n"
        "print([name for name in ('google.api_core', 'google.auth', 'grpc', 'requests') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["publisher", "subscriber", "storage", "bigquery", "bigquery_write"])
def test_without_credentials(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A client that can't be made says how to log in, each time that it is asked for."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    with Target(Settings(project="my-project"), Endpoints()) as target:
        for _ in range(2):
            with pytest.raises(AccessError, match="There are no usable Google Cloud credentials: ") as caught:
                getattr(target, kind)
            assert caught.value.remedy == "Run: gcloud auth application-default login"


def test_as_many_connections_as_threads(caplog: pytest.LogCaptureFixture) -> None:
    """All threads of a command may use one client at the same time: urllib3 keeps each connection, and warns of none."""
    with meeting(_CONNECTIONS) as url, Target(Settings(bucket="shop"), Endpoints(storage=url)) as target:
        with caplog.at_level(logging.WARNING), ThreadPoolExecutor(_CONNECTIONS) as pool:
            assert list(pool.map(lambda _: target.bucket.exists(), range(_CONNECTIONS))) == [False] * _CONNECTIONS
        assert caplog.messages == []


@contextmanager
def meeting(threads: int) -> Iterator[str]:
    """A server that answers "not found" once ``threads`` requests have come."""
    together = Barrier(threads)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            together.wait(timeout=30)
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class TestLocalStack:
    def test_a_target_needs_it(self, tmp_path: Path) -> None:
        """Without a running stack there is no target, unless the caller can do without."""
        settings = Settings(state_dir=str(tmp_path))
        with pytest.raises(UnavailableError, match=r"The local stack in .* is not running") as caught:
            open_target(settings)
        assert caught.value.remedy == "Run: ecomflow infra up"
        with open_target(settings, running=False) as target:
            assert target.endpoints == Endpoints()

    def test_followed(self, tmp_path: Path) -> None:
        """A process that outlives the stack gets the same target until the stack runs elsewhere; then the old one is closed."""
        settings, stack = Settings(state_dir=str(tmp_path)), msgspec.structs.replace(NOWHERE, pubsub="127.0.0.1:2", dataflow=None)
        with LiveTarget(settings) as live:
            with pytest.raises(UnavailableError, match="is not running"):
                live.running()
            write_stack_file(tmp_path, msgspec.structs.replace(NOWHERE, dataflow=None))
            first = live.running()
            publisher = first.publisher
            assert (live.running(), live.resolved()) == (first, first)
            write_stack_file(tmp_path, stack)
            assert live.running().endpoints == stack
            with pytest.raises(ValueError, match="closed channel"):
                publisher.get_topic(topic="projects/p/topics/t")
