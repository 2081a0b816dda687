"""The dead-letter sink against the local GCS and fake-gcs-server, with a front that can fail: each letter lands once."""

from __future__ import annotations

import http.client
import re
import socketserver
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from google.cloud import storage

from ecomflow.config import Endpoints
from ecomflow.contract.dead_letter import DeadLetter, dead_letter, from_line
from ecomflow.errors import AccessError, NotFoundError, UnavailableError
from ecomflow.gcp.clients import storage_client
from ecomflow.pipeline.counters import Counters
from ecomflow.pipeline.sinks.dead_letters import DeadLetterWriter, object_name
from ecomflow.pipeline.sinks.patience import Patience
from ecomflow.processes.detached import free_port
from tests.support.pipeline import config_for, message
from tests.support.storage import SERVERS, storage_server
from tests.support.waiting import wait_until

NOON = datetime(2026, 2, 1, 12, 0, 5, 678, UTC)
SHORT = Patience(answer=30.0, give_up=0.5, first_pause=0.01, longest_pause=0.05)

# What the front does with a request: answers a status itself; passes it on but loses the answer; hangs up; says nothing.
Fault = int | Literal["lose", "hang up", "silence"]


def letter(number: int, failed_at: datetime = NOON) -> DeadLetter:
    return dead_letter(message(b"{%d" % number, f"e-{number}"), "malformed_json", "$: no", None, failed_at)


def upload(writer: DeadLetterWriter, *letters: DeadLetter, stream: str = "unknown") -> None:
    writer.finish(writer.start(stream, list(letters)))


def test_names_are_paths_of_the_minute() -> None:
    """An object's path has its stream and the UTC minute of the refusals; its name starts with the second."""
    there = datetime(2026, 1, 1, 0, 30, 7, 42, timezone(timedelta(hours=1)))
    assert object_name("order", there, "abc") == "dlq/order/2025/12/31/23/30/07000042-abc.jsonl"


@contextmanager
def failing_server() -> Iterator[SimpleNamespace]:
    """A storage server of its own that knows nothing but ``faults``."""
    with _front(None) as front:
        yield front


@contextmanager
def _front(backend: str | None) -> Iterator[SimpleNamespace]:
    """An HTTP server that applies ``faults``, one a request, then ``always``; else passes requests on to ``backend``."""
    front = SimpleNamespace(faults=deque[Fault](), always=None, requests=0, ended=threading.Event())

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the name is http.server's
            body = self.rfile.read(int(self.headers["Content-Length"]))
            front.requests += 1
            fault = front.faults.popleft() if front.faults else front.always
            if fault == "silence":
                front.ended.wait(20)
            elif fault == "hang up":
                self.close_connection = True
            elif isinstance(fault, int):
                self._say(fault, b'{"error": {"message": "by the test"}}')
            else:
                status, answer = self._pass_on(body)
                self._say(503 if fault == "lose" else status, answer)

        def _pass_on(self, body: bytes) -> tuple[int, bytes]:
            assert backend is not None
            connection = http.client.HTTPConnection(backend)
            connection.request("POST", self.path, body, dict(self.headers))
            response = connection.getresponse()
            answer = response.read()
            connection.close()
            return response.status, answer

        def _say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    socketserver.TCPServer.allow_reuse_address = True
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    front.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield front
    finally:
        front.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def test_retries_are_bounded() -> None:
    """Where the bucket stays unavailable, UnavailableError comes when the retry's time is over, with the reason."""
    with failing_server() as front:
        front.always = 503
        writer = DeadLetterWriter(config_for(storage=front.endpoint), Counters(), SHORT)
        begun = time.monotonic()
        with pytest.raises(UnavailableError, match=r"test-bucket does not accept dead letters: .*503"):
            upload(writer, letter(1))
        assert time.monotonic() - begun < 5
        assert front.requests > 3
        writer.close()


def test_a_server_that_is_not_there() -> None:
    """A refused connection is retried within the same bounds."""
    writer = DeadLetterWriter(config_for(storage=f"http://127.0.0.1:{free_port()}"), Counters(), SHORT)
    begun = time.monotonic()
    with pytest.raises(UnavailableError, match="Bucket test-bucket does not accept dead letters"):
        upload(writer, letter(1))
    assert time.monotonic() - begun < 5
    writer.close()


def test_what_is_waited_for_is_reported() -> None:
    """The bucket is waited for until its answer, and each further try is counted."""
    counters = Counters()
    with failing_server() as front, closing(DeadLetterWriter(config_for(storage=front.endpoint), counters, SHORT)) as writer:
        front.always = 503
        uploads = writer.start("order", [letter(1)])
        wait_until(lambda: str(counters.snapshot()["waiting_for"]).startswith("the bucket to accept dead letters: "))
        with pytest.raises(UnavailableError):
            writer.finish(uploads)
        assert counters.snapshot()["waiting_for"] is None
        assert counters.totals() == {"retries": front.requests}


def test_a_refused_role_is_reported() -> None:
    """A missing permission is an AccessError with the role to grant, at once."""
    with failing_server() as front:
        front.always = 403
        writer = DeadLetterWriter(config_for(storage=front.endpoint), Counters(), SHORT)
        with pytest.raises(AccessError) as caught:
            upload(writer, letter(1))
        assert caught.value.remedy == "Grant the role roles/storage.objectCreator."
        assert front.requests == 1
        writer.close()


def test_close_drops_what_has_not_begun() -> None:
    """Closing after a failure waits for the uploads that run, not for all that wait behind them."""
    others = set(threading.enumerate())  # what other tests of the process have left
    with failing_server() as front:
        front.always = 503
        writer = DeadLetterWriter(config_for(storage=front.endpoint), Counters(), SHORT)
        uploads = [future for number in range(40) for future in writer.start("order", [letter(number)])]
        wait_until(lambda: front.requests > 0)
        begun = time.monotonic()
        writer.close()
        assert time.monotonic() - begun < 5  # 40 uploads on 4 threads of half a second each take as long
        assert sum(future.cancelled() for future in uploads) >= 30
        own = [thread for thread in threading.enumerate() if thread not in others]
        assert [thread for thread in own if thread.name.startswith("dead-letters")] == []


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a local GCS."""
    with storage_server(tmp_path_factory.mktemp("gcs") / "data", request.param) as address:
        yield address.removeprefix("http://")


class Storage:
    """An empty bucket, a writer to it by way of a front, and what is in it."""

    def __init__(self, backend: str, front: SimpleNamespace) -> None:
        self.front = front
        self.client: storage.Client = storage_client("test-project", Endpoints(storage=f"http://{backend}"))
        self.writer = DeadLetterWriter(config_for(storage=front.endpoint), Counters(), SHORT._replace(give_up=10.0))

    def objects(self) -> dict[str, list[DeadLetter]]:
        return {
            blob.name: [from_line(line) for line in blob.download_as_bytes().splitlines()]
            for blob in self.client.list_blobs("test-bucket")
        }


@pytest.fixture
def gcs(server: str) -> Iterator[Storage]:
    with _front(server) as front:
        gcs = Storage(server, front)
        bucket = gcs.client.create_bucket("test-bucket")
        yield gcs
        gcs.writer.close()
        for blob in list(gcs.client.list_blobs("test-bucket")):
            blob.delete()
        bucket.delete()


@pytest.mark.stack
class TestOnAServer:
    def test_a_batch_is_one_object(self, gcs: Storage) -> None:
        """The dead letters of one batch, stream and minute are the lines of one object, in order, and read back as they were."""
        letters = [letter(number, NOON + timedelta(seconds=number)) for number in range(3)]
        upload(gcs.writer, *letters, stream="order")
        ((name, found),) = gcs.objects().items()
        assert re.fullmatch(r"dlq/order/2026/02/01/12/00/05000678-[0-9a-f]{32}\.jsonl", name)
        assert found == letters

    def test_a_minute_is_one_object(self, gcs: Storage) -> None:
        """Dead letters of a batch refused in two minutes are two objects, each under its own minute."""
        late, early = letter(1, datetime(2026, 2, 1, 13, 0, 0, 0, UTC)), letter(2, datetime(2026, 2, 1, 12, 59, 59, 999_999, UTC))
        upload(gcs.writer, late, early)
        found = {name.rpartition("/")[0]: letters for name, letters in gcs.objects().items()}
        assert found == {"dlq/unknown/2026/02/01/12/59": [early], "dlq/unknown/2026/02/01/13/00": [late]}

    def test_nothing_is_overwritten(self, gcs: Storage) -> None:
        """The same letter of the same instant, written twice, is two objects."""
        upload(gcs.writer, letter(1))
        upload(gcs.writer, letter(1))
        assert list(gcs.objects().values()) == [[letter(1)], [letter(1)]]

    def test_many_dead_letters(self, gcs: Storage) -> None:
        """Twenty batches of a thousand dead letters, started together, all land whole."""
        uploads = [
            future
            for batch in range(20)
            for future in gcs.writer.start("order", [letter(batch * 1000 + number) for number in range(1000)])
        ]
        gcs.writer.finish(uploads)
        found = gcs.objects()
        assert [len(letters) for letters in found.values()] == [1000] * 20
        assert {letter.event_id for letters in found.values() for letter in letters} == {f"e-{n}" for n in range(20_000)}

    def test_a_missing_bucket_is_reported(self, server: str) -> None:
        """A bucket that does not exist is a NotFoundError that says what to run."""
        writer = DeadLetterWriter(config_for(storage=f"http://{server}"), Counters(), SHORT)
        with pytest.raises(NotFoundError, match="Bucket test-bucket does not exist") as caught:
            upload(writer, letter(1))
        assert caught.value.remedy == "Run: ecomflow infra up"
        writer.close()

    @pytest.mark.parametrize("fault", [503, 500, 502, 504, 429, 408, "hang up"])
    def test_a_passing_error_is_tried_again(self, gcs: Storage, fault: Fault) -> None:
        """After passing errors, whatever their kind, the dead letters are written once."""
        gcs.front.faults.extend([fault, fault])
        upload(gcs.writer, letter(1))
        assert list(gcs.objects().values()) == [[letter(1)]]
        assert gcs.front.requests == 3

    def test_silence_is_tried_again(self, gcs: Storage) -> None:
        """A server that takes a request and does not answer in time is asked again."""
        impatient = SHORT._replace(answer=0.1, give_up=10.0)
        gcs.front.faults.append("silence")
        with closing(DeadLetterWriter(config_for(storage=gcs.front.endpoint), Counters(), impatient)) as writer:
            upload(writer, letter(1))
        assert list(gcs.objects().values()) == [[letter(1)]]

    def test_a_lost_answer_counts_as_written(self, gcs: Storage) -> None:
        """Where the first try arrived and only its answer was lost, the second meets the object, and that is well."""
        gcs.front.faults.append("lose")
        upload(gcs.writer, letter(1))
        assert list(gcs.objects().values()) == [[letter(1)]]
        assert gcs.front.requests == 2
