"""Each service on loopback answers its own user's programs; pages of other sites and other users of the machine are refused."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import requests
import uvicorn

from ecomflow.config import Endpoints, Settings
from ecomflow.loopback.peers import OwnUser
from ecomflow.loopback.web_guard import UserGuard, body_refusal, is_loopback_name, is_own_origin, page_refusal
from ecomflow.metrics.prometheus import served
from tests.support.metrics import METRICS
from tests.support.storage import storage_server
from tests.support.ui import page_of

QUERIES = "/bigquery/v2/projects/ecomflow-local/queries"
UPLOAD = "/upload/storage/v1/b/guarded/o?uploadType=media&name=a"
SQL = json.dumps({"query": "SELECT 1 AS a", "useLegacySql": False})
SITES = ("http://evil.example", "null", "http://127.0.0.1:1", "http://localhost", "https://127.0.0.1", "file://")

Asked = Callable[[], int]


def ask(url: str | None, method: str, path: str, body: str | None = None, **headers: str) -> http.client.HTTPResponse:
    """The answer to a request with just these headers; ``host`` may be any."""
    host, _, port = str(url).removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    connection.putrequest(method, path, skip_host="host" in headers, skip_accept_encoding=True)
    for name, value in {**headers, **({"content-length": str(len(body))} if body is not None else {})}.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body.encode() if body is not None else None)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


@pytest.fixture(scope="module")
def guarded(stack: Endpoints) -> Endpoints:
    """The stack, with a bucket."""
    answer = requests.post(f"{stack.storage}/storage/v1/b?project=p", json={"name": "guarded"}, timeout=20)
    assert answer.status_code in (200, 409)
    return stack


def services(stack: Endpoints) -> dict[str, tuple[str | None, str, str, str]]:
    return {
        "bigquery": (stack.bigquery, QUERIES, SQL, "application/json"),
        "storage": (stack.storage, UPLOAD, "hello", "text/plain"),
    }


@pytest.mark.stack
@pytest.mark.parametrize("service", ["bigquery", "storage"])
class TestPages:
    def test_a_program_is_answered(self, guarded: Endpoints, service: str) -> None:
        """By each loopback name, as Google's clients ask."""
        url, path, body, kind = services(guarded)[service]
        port = str(url).rpartition(":")[2]
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost", f"[::1]:{port}"):
            assert ask(url, "POST", path, body, host=host, content_type=kind).status == 200

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "10.0.0.1:{port}", ""])
    def test_a_name_that_was_made_to_lead_here_is_refused(self, guarded: Endpoints, service: str, host: str) -> None:
        """DNS rebinding: the browser thinks it is the page's own server, and says so in Host."""
        url, path, body, kind = services(guarded)[service]
        host = host.format(port=str(url).rpartition(":")[2])
        assert ask(url, "POST", path, body, host=host, content_type=kind).status == 403
        assert ask(url, "GET", "/storage/v1/b?project=p", host=host).status == 403

    @pytest.mark.parametrize("origin", SITES)
    def test_a_page_of_another_site_is_refused(self, guarded: Endpoints, service: str, origin: str) -> None:
        """Whatever it sends; and nothing in the answer lets it read it."""
        url, path, body, kind = services(guarded)[service]
        for method, sent in (("POST", body), ("GET", None), ("OPTIONS", None)):
            answer = ask(url, method, path, sent, origin=origin, content_type=kind)
            assert (answer.status, answer.getheader("access-control-allow-origin")) == (403, None)

    @pytest.mark.parametrize("site", ["cross-site", "same-site"])
    def test_what_a_page_embeds_is_refused(self, guarded: Endpoints, service: str, site: str) -> None:
        """An image or a script has no Origin; the browser says where it comes from all the same."""
        url, path, body, kind = services(guarded)[service]
        assert ask(url, "GET", path, sec_fetch_site=site).status == 403
        assert ask(url, "POST", path, body, sec_fetch_site=site, content_type=kind).status == 403


@pytest.mark.stack
@pytest.mark.parametrize("kind", ["text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", None])
def test_bigquery_takes_no_body_that_any_page_may_send(guarded: Endpoints, kind: str | None) -> None:
    """JSON in the clothes of a form is not read, even where a browser names no origin."""
    headers = {} if kind is None else {"content_type": kind}
    assert ask(guarded.bigquery, "POST", QUERIES, SQL, **headers).status == 415


# Other users: a relay that runs as nobody stands between, so that the service sees a connection of nobody's.

RELAY = """
import socket, sys, threading
def pump(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
    except OSError:
        pass
    for one in (a, b):
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    near, _ = listener.accept()
    far = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    for pair in ((near, far), (far, near)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
"""
PYTHON = "/usr/bin/python3"  # the one of a virtual environment below /root is nobody's to run
as_nobody = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("setpriv") or not Path(PYTHON).exists(),
    reason=f"only root can be another user, by setpriv, with {PYTHON}",
)


@contextlib.contextmanager
def by_nobody(address: str | int | None) -> Iterator[str]:
    """Another address of the service at ``address``: what is sent there comes from nobody."""
    port = str(address).rpartition(":")[2]
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", PYTHON, "-c", RELAY, port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/") as relay:
        assert relay.stdout
        try:
            yield f"127.0.0.1:{int(relay.stdout.readline())}"
        finally:
            relay.kill()


def first_answer(answer: object) -> object:
    """The first message of an answer; it is there at once where it is the only one."""
    return next(answer) if isinstance(answer, Iterator) else answer


@as_nobody
@pytest.mark.stack
class TestOtherUsers:
    @pytest.mark.parametrize("service", ["bigquery", "storage"])
    def test_rest(self, guarded: Endpoints, service: str) -> None:
        """403, and the sentence says what to set."""
        url, path, body, kind = services(guarded)[service]
        with by_nobody(url) as address:
            answer = requests.post(f"http://{address}{path}", data=body, headers={"content-type": kind}, timeout=20)
        assert answer.status_code == 403
        assert "ECOMFLOW_OTHER_USERS=allow" in answer.json()["error"]["message"]

    def test_rest_is_not_deceived_by_a_header(self, guarded: Endpoints) -> None:
        """X-Forwarded-For with the address of a connection of this user's makes nobody this user."""
        for service in ("bigquery", "storage"):
            url, path, body, kind = services(guarded)[service]
            port = int(str(url).rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port)) as own, by_nobody(url) as address:
                host, own_port = own.getsockname()
                headers = {"content-type": kind, "x-forwarded-for": f"{host}:{own_port}"}
                answer = requests.post(f"http://{address}{path}", data=body, headers=headers, timeout=20)
                assert answer.status_code == 403

    @pytest.mark.parametrize(
        ("endpoint", "method", "kind"),
        [
            ("pubsub", "/google.pubsub.v1.Publisher/ListTopics", "unary_unary"),
            ("pubsub", "/google.pubsub.v1.Publisher/Publish", "unary_unary"),
            ("pubsub", "/google.pubsub.v1.Subscriber/Pull", "unary_unary"),
            ("pubsub", "/google.pubsub.v1.Subscriber/StreamingPull", "stream_stream"),
            ("pubsub", "/google.pubsub.v1.SchemaService/ListSchemas", "unary_unary"),
            ("pubsub", "/ecomflow.local.Stats/Get", "unary_unary"),
            ("bigquery_storage", "/grpc.health.v1.Health/Check", "unary_unary"),
            ("bigquery_storage", "/grpc.health.v1.Health/Watch", "unary_stream"),
            ("bigquery_storage", "/google.cloud.bigquery.storage.v1.BigQueryWrite/CreateWriteStream", "unary_unary"),
            ("bigquery_storage", "/google.cloud.bigquery.storage.v1.BigQueryWrite/AppendRows", "stream_stream"),
            ("bigquery_storage", "/google.cloud.bigquery.storage.v1.BigQueryRead/CreateReadSession", "unary_unary"),
            ("bigquery_storage", "/google.cloud.bigquery.storage.v1.BigQueryRead/ReadRows", "unary_stream"),
        ],
    )
    def test_grpc(self, guarded: Endpoints, endpoint: str, method: str, kind: str) -> None:
        """PERMISSION_DENIED, whatever the method's kind."""
        with by_nobody(getattr(guarded, endpoint)) as address, grpc.insecure_channel(address) as channel:
            request = iter([b""]) if kind.startswith("stream") else b""
            with pytest.raises(grpc.RpcError) as caught:
                first_answer(getattr(channel, kind)(method)(request, timeout=20))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "ECOMFLOW_OTHER_USERS=allow" in caught.value.details()

    def test_metrics(self) -> None:
        """The exposition of the pipeline's metrics."""
        with served(lambda: METRICS, 0) as port:
            assert requests.get(f"http://127.0.0.1:{port}/metrics", timeout=20).status_code == 200
            with by_nobody(port) as address:
                answer = requests.get(f"http://{address}/metrics", timeout=20)
        assert (answer.status_code, "answers only the user who started it" in answer.text) == (403, True)

    def test_the_setting_lets_them_in(self, tmp_path: Path) -> None:
        """With other_users = "allow" nobody is asked who they are."""
        with storage_server(tmp_path / "data", more=("--other-users", "allow")) as url, by_nobody(url) as address:
            assert requests.get(f"http://{address}/storage/v1/b?project=p", timeout=20).status_code == 200


@as_nobody
def test_the_page_is_shown_to_its_user_alone(tmp_path: Path) -> None:
    """Not even the token, which other users may find, lets them in."""
    _, gate = page_of(Settings(state_dir=str(tmp_path)), let_in=False)

    async def page(scope: object, receive: object, send: Callable[..., object]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[misc]
        await send({"type": "http.response.body", "body": gate.printed.encode()})  # type: ignore[misc]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = UserGuard(page, OwnUser(listener.getsockname()))  # type: ignore[arg-type]
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical", proxy_headers=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        try:
            assert requests.get(f"http://127.0.0.1:{port}/", timeout=20).text == gate.printed
            with by_nobody(port) as address:
                assert requests.get(f"http://{address}/", timeout=20).status_code == 403
        finally:
            server.should_exit = True
            thread.join(10)


class TestRules:
    """The checks that all services share."""

    @pytest.mark.parametrize(
        ("host", "loopback"),
        [
            *((host, True) for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:65535")),
            *((host, False) for host in ("", "localhost.", "127.0.0.1.x", "x127.0.0.1", "localhost:", "::1", "127.0.0.1:123456")),
            *((host, False) for host in ("127.0.0.1\n", "evil@localhost", "localhost, evil.example", "0.0.0.0")),
        ],
    )
    def test_names_of_this_machine(self, host: str, loopback: bool) -> None:
        """The three loopback names, with or without a port, and nothing around them."""
        assert is_loopback_name(host) == loopback

    def test_origins(self) -> None:
        """A page is the service's own where scheme, name and port are."""
        assert is_own_origin("http://127.0.0.1:8080", "127.0.0.1:8080")
        others = (None, "null", "http://127.0.0.1", "http://localhost:8080", "https://127.0.0.1:8080", "http://127.0.0.1:80801")
        assert not any(is_own_origin(origin, "127.0.0.1:8080") for origin in others)

    def test_a_request_without_a_host_is_refused(self) -> None:
        """Every program that speaks HTTP/1.1 names one."""
        assert page_refusal({}) is not None
        assert page_refusal({"host": "localhost", "sec-fetch-site": "none"}) is None

    @pytest.mark.parametrize(
        ("headers", "refused"),
        [
            ({}, False),
            ({"content-length": "0"}, False),
            ({"content-length": "5"}, True),
            ({"transfer-encoding": "chunked"}, True),
            ({"content-length": "5", "content-type": "Text/Plain ; charset=x"}, True),
            ({"content-length": "5", "content-type": "multipart/form-data; boundary=x"}, True),
            ({"content-length": "5", "content-type": "application/json; charset=UTF-8"}, False),
            ({"content-length": "5", "content-type": "multipart/related; boundary=x"}, False),
        ],
    )
    def test_bodies(self, headers: dict[str, str], refused: bool) -> None:
        """A body needs a type that a browser asks leave for."""
        assert (body_refusal(headers) is not None) == refused
