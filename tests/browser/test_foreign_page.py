"""A page of another site, in a real browser, before the running local stack: it changes nothing and reads nothing."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, Page

from ecomflow.config import Endpoints, Settings
from ecomflow.gcp.target import Target
from ecomflow.warehouse import queries

pytestmark = [pytest.mark.browser, pytest.mark.stack]

# All that a page may send without asking first, and what it must ask for; what came back, as far as the page may know.
TRY = """async ([url, method, body, type, mode]) => {
  try {
    const headers = type ? {"content-type": type} : {};
    const answer = await fetch(url, {method, mode, headers, ...(body === null ? {} : {body})});
    return [answer.type, answer.status, await answer.text()];
  } catch (error) {
    return ["error", 0, ""];
  }
}"""
SIMPLE = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None)
FORM = """([url, name, value]) => {
  const [form, field, frame] = ["form", "textarea", "iframe"].map((name) => document.createElement(name));
  frame.name = "sink"; document.body.append(frame);
  Object.assign(form, {method: "post", action: url, enctype: "text/plain", target: "sink"});
  Object.assign(field, {name, value}); form.append(field); document.body.append(form);
  return new Promise(done => { frame.onload = () => done("loaded"); form.submit(); });
}"""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>another site</title><body>")

    def log_message(self, format: str, *args: object) -> None:
        """Not of interest."""


@pytest.fixture(scope="module")
def site() -> Iterator[int]:
    """The port of another site's server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.fixture
def foreign(chromium: Browser) -> Iterator[Page]:
    page = chromium.new_page()
    page.set_default_timeout(20_000)
    yield page
    page.close()


@pytest.mark.parametrize("name", ["evil.example", "localhost"])
def test_a_page_of_another_site(shop: Settings, stack: Endpoints, site: int, foreign: Page, name: str) -> None:
    """By fetch, with and without CORS, and by a form: no table, no object is made, and no answer is read."""
    made = f"made_{uuid.uuid4().hex[:8]}"
    query = f"{stack.bigquery}/bigquery/v2/projects/{shop.project_id}/queries"
    upload = f"{stack.storage}/upload/storage/v1/b/{shop.bucket_name}/o?uploadType=media&name={made}"
    sql = json.dumps({"query": f"CREATE TABLE {shop.dataset}.{made} AS SELECT 1 AS a", "useLegacySql": False})
    foreign.goto(f"http://{name}:{site}/")
    seen = [
        foreign.evaluate(TRY, [url, "POST", body, kind, mode])
        for url, body in ((query, sql), (upload, "hello"))
        for kind in (*SIMPLE, "application/json")
        for mode in ("no-cors", "cors")
    ]
    buckets = f"{stack.storage}/storage/v1/b?project=p"
    seen += [foreign.evaluate(TRY, [buckets, "GET", None, None, mode]) for mode in ("cors", "no-cors")]
    assert foreign.evaluate(FORM, [query, sql[:-1] + ', "x', '": 1}']) == "loaded"
    assert {(kind, text) for kind, _, text in seen} <= {("opaque", ""), ("error", "")}
    assert nothing_made(Target(shop, stack), made)


def test_a_name_that_leads_here(shop: Settings, stack: Endpoints, foreign: Page) -> None:
    """DNS rebinding: the page is at the service's own port under a foreign name, where no browser keeps it from reading."""
    for url, path in (
        (stack.bigquery, f"/bigquery/v2/projects/{shop.project_id}/datasets"),
        (stack.storage, "/storage/v1/b?project=p"),
    ):
        address = f"{str(url).replace('127.0.0.1', 'evil.example')}{path}"
        answer = foreign.goto(address)
        assert answer
        assert answer.status == 403
        assert foreign.evaluate(TRY, [address, "POST", "{}", "application/json", "cors"])[1] == 403


def nothing_made(target: Target, name: str) -> bool:
    """Whether there is neither a table nor an object of that name."""
    sql = f"SELECT COUNT(*) AS n FROM {target.settings.dataset}.INFORMATION_SCHEMA.TABLES WHERE table_name = @name"
    tables = queries.ask(target, sql, {"name": name}).rows[0][0]
    return tables == 0 and not target.storage.bucket(target.settings.bucket_name).blob(name).exists()
