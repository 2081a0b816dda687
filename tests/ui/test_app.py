"""The page on the real local services: what is in the warehouse and in the bucket is what it shows."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.error import HTTPError

import msgspec
import pytest

from ecomflow.config import Endpoints, Settings
from ecomflow.deadletters.fingerprints import fingerprint
from ecomflow.gcp.clients import bigquery_client
from ecomflow.gcp.target import Target
from ecomflow.jobs.backlog import count_waiting
from ecomflow.ui.data.dead_letters import SEARCH_SECONDS, Search, count_objects, find
from ecomflow.ui.data.steps import read_steps
from tests.support.cli import environment
from tests.support.contract import SHOP, order, written_columns
from tests.support.dataflow import as_variables, dataflow_beside
from tests.support.dead_letters import STATUS_ERROR, held, letter, names, still, store, today
from tests.support.hostile import HOSTILE
from tests.support.ui import page_of, post, until

pytestmark = pytest.mark.stack

SCRIPT = "<script>alert(1)</script>"


def address(number: int = 1) -> str:
    one = held(number)
    return f"/dead-letters/order/{fingerprint(one).id}?reason=contract_violation"


class TestTables:
    def insert(self, target: Target, product: str, count: int = 3) -> None:
        values = ", ".join(
            f"('E-{n}', 'I-{n}', @product, 'W', 1, 'sale', CURRENT_DATE(), CURRENT_TIMESTAMP(), CURRENT_TIMESTAMP())"
            for n in range(count)
        )
        from google.cloud import bigquery

        client = target.bigquery
        job = bigquery.QueryJobConfig(query_parameters=[bigquery.ScalarQueryParameter("product", "STRING", product)])
        into = f"`{target.settings.dataset_id}.fact_inventory` ({written_columns('fact_inventory')})"
        client.query_and_wait(f"INSERT INTO {into} VALUES {values}", job_config=job)

    def test_rows_are_counted(self, provisioned: Settings, target: Target) -> None:
        """The overview has every fact table with its rows."""
        self.insert(target, "P-1")
        browser, _ = page_of(provisioned)
        text = until(lambda: browser.get("/live/tables"), r"fact_inventory</a></td><td class=\"number\">3</td>")
        assert text.count('href="/tables/') == 5

    def test_a_table_is_shown(self, provisioned: Settings, target: Target) -> None:
        """Its newest rows, rows a minute, and its partitions with their rows; what is in a row stays text."""
        self.insert(target, SCRIPT)
        browser, _ = page_of(provisioned)
        text = until(lambda: browser.get("/live/tables/fact_inventory"), "Newest rows")
        assert SCRIPT not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
        assert f'{datetime.now(UTC).date()}</span></td><td class="number">3</td>' in text
        assert "Rows per minute, last 60 minutes (UTC): at most 3 rows." in text

    def test_an_empty_table_says_so(self, provisioned: Settings) -> None:
        """A fresh table has no rows and no partitions."""
        browser, _ = page_of(provisioned)
        assert "There are no rows." in until(lambda: browser.get("/live/tables/fact_order"), "Partitions")


class TestDeadLetters:
    def test_groups_and_letters(self, provisioned: Settings, target: Target) -> None:
        """A group of each cause with its count; behind it the dead letters, with the offending value marked and the command."""
        store(target, [held(1), held(2)])
        store(target, [still(1)])
        browser, _ = page_of(provisioned)
        text = unescape(until(lambda: browser.get("/live/dead-letters"), "3 dead letters in 2 groups"))
        link = re.search(r'<span class="count">2</span><p><a href="([^"]*)"><code>\$\.status</code>', text)
        assert link
        shown = unescape(browser.get(link[1]).text)
        assert '<mark>"on_hold"</mark>' in shown
        assert STATUS_ERROR in shown
        assert f"ecomflow dlq replay --stream order --reason contract_violation --fingerprint {fingerprint(held(1)).id}" in shown
        assert "<td><code>event_id</code></td><td>E-1</td>" in shown
        assert "Preview the replay" not in shown

    def test_they_are_read_again_when_asked_for(self, provisioned: Settings, target: Target) -> None:
        """A form of the page has the bucket read at once; by itself that is seldom done."""
        browser, gate = page_of(provisioned)
        until(lambda: browser.get("/live/dead-letters"), "no message was refused")
        store(target, [held(1)])
        assert post(browser, gate, "/dead-letters").headers["location"] == "/dead-letters"
        until(lambda: browser.get("/live/dead-letters"), "1 dead letter in 1 group")

    def test_more_letters_come_when_asked_for(self, provisioned: Settings, target: Target) -> None:
        """A page of ten, and a link to ten more."""
        store(target, [held(number) for number in range(12)])
        browser, _ = page_of(provisioned)
        first = browser.get(address()).text
        assert (first.count('class="letter"'), "Show 10 more" in first) == (10, True)
        whole = browser.get(f"{address()}&limit=20").text
        assert (whole.count('class="letter"'), "Show 10 more" in whole) == (12, False)

    def test_groups_are_filtered(self, provisioned: Settings, target: Target) -> None:
        """By event type and reason, which the form keeps; an unknown one is an error that names the known ones."""
        store(target, [held(1), held(2)])
        store(target, [still(1)])
        browser, _ = page_of(provisioned)
        until(lambda: browser.get("/live/dead-letters"), "3 dead letters in 2 groups")
        text = browser.get("/dead-letters?stream=order&reason=contract_violation").text
        assert "2 dead letters in 1 group match. In all: 3 dead letters in 2 groups, 2 objects." in text
        assert '<option value="order" selected>' in text
        assert 'data-from="/live/dead-letters?stream=order&amp;reason=contract_violation"' in text
        assert "0 dead letters in 0 groups match" in browser.get("/dead-letters?stream=unknown").text
        for query in ("stream=nothing", "reason=nothing"):
            refused = browser.get(f"/dead-letters?{query}")
            assert (refused.status_code, "Choose one of: " in refused.text) == (404, True)

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("text=ON_HOLD", ["E-2", "E-1"]),
            ("text=quantity_change", ["I-1"]),
            ("event_id=E-2", ["E-2"]),
            ("event_id=E-2&stream=inventory", []),
            ("text=i-1&reason=contract_violation", ["I-1"]),
            ("text=expected+one+of", ["E-2", "E-1"]),
            ("text=%3Cscript%3E", []),
        ],
    )
    def test_letters_are_searched(self, provisioned: Settings, target: Target, query: str, found: list[str]) -> None:
        """By text in payload, error or attributes, in any case, and by event id, together with the filters; newest first."""
        now = datetime.now(UTC)
        for number in (1, 2):
            store(target, [held(number, at=now - timedelta(minutes=9 - number))])
        store(target, [still(1)])
        browser, _ = page_of(provisioned)
        text = browser.get(f"/dead-letters?{query}").text
        assert re.findall(r"<summary>.*?<code[^>]*>([^<]*)</code></summary>", text) == found
        assert ("No dead letter matches." in text) == (not found)
        assert "<script>" not in text

    def test_a_search_that_takes_long_says_how_far_it_went(self, provisioned: Settings, target: Target) -> None:
        """It ends after some seconds, with what it has found and the time back to which it has looked."""
        now = datetime.now(UTC)
        for number in range(3):
            store(target, [held(number, at=now - timedelta(hours=number))])
        times = iter([0.0, 1.0, SEARCH_SECONDS + 1])
        hits = find(target, Search(text="on_hold"), lambda: next(times))
        assert (len(hits.letters), hits.searched, hits.more) == (2, 2, False)
        assert hits.back_to is not None
        assert abs(hits.back_to - (now - timedelta(hours=1))) < timedelta(seconds=1)

    def test_hostile_letters_stay_text(self, provisioned: Settings, target: Target) -> None:
        """Types, ids, attributes, errors and payloads that are markup are shown as what they are."""
        evil = f"{SCRIPT}{HOSTILE}"
        one = letter(
            {"event_type": evil}, f"$.event_type: expected one of order, got '{evil}'", "unknown_event_type", event_id=evil
        )
        store(target, [msgspec.structs.replace(one, event_type=evil)])
        browser, _ = page_of(provisioned)
        groups = until(lambda: browser.get("/live/dead-letters"), "1 dead letter in 1 group")
        link = re.search(r'href="(/dead-letters/unknown/[^"]*)"', groups)
        assert link
        shown = browser.get(unescape(link[1])).text
        for html in (groups, shown):
            assert SCRIPT not in html
            assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
            assert "\x1b" not in html
            assert "\u202e" not in html

    def test_objects_are_counted_by_stream(self, provisioned: Settings, target: Target) -> None:
        """Without reading them, and without what else lies in the folder."""
        for number in range(3):
            store(target, [held(number)], unique=str(number))
        store(target, [still(1)])
        target.bucket.blob("dlq/stray.txt").upload_from_string(b"x")
        assert count_objects(target) == {"order": 3, "inventory": 1}

    def test_foreign_objects_are_counted_not_stumbled_over(self, provisioned: Settings, stack: Endpoints, target: Target) -> None:
        """Whatever else lies in the folder, the dead letters are shown."""

        store(target, [held(1)])
        name = names(target, "dlq/")[0].replace(".jsonl", "-foreign.jsonl")
        Target(provisioned, stack).bucket.blob(name).upload_from_string(b"<html>")
        browser, _ = page_of(provisioned)
        text = until(lambda: browser.get("/live/dead-letters"), "1 dead letter in 1 group")
        assert "Unreadable under dlq/: 1 object." in text


class TestReplay:
    @pytest.fixture
    def fixed(self, provisioned: Settings, target: Target) -> str:
        """A group of two dead letters that pass by now, and one that still does not."""
        passing = [letter(order(order_date=today()), STATUS_ERROR, event_id=f"E-{n}") for n in range(2)]
        store(target, [*passing, held(3)])
        return fingerprint(held(3)).id

    def preview(self, settings: Settings, fingerprint_id: str) -> tuple[object, object, str]:
        browser, gate = page_of(settings, allow_replay=True)
        form = {"stream": "order", "reason": "contract_violation", "fingerprint": fingerprint_id}
        answer = post(browser, gate, "/replays", **form)
        assert answer.status_code == 303
        return browser, gate, answer.headers["location"]

    def test_the_preview_changes_nothing(self, provisioned: Settings, fixed: str, target: Target) -> None:
        """It says what would pass and what still fails, and leaves the bucket and the topic as they are."""
        before = names(target, "")
        browser, _, where = self.preview(provisioned, fixed)
        text = until(lambda: browser.get(f"/live{where}"), "now pass")
        assert "2 of 3 now pass. The other 1 would fail again; they stay in dlq/." in text
        assert "Publish 2 again" in text
        assert names(target, "") == before
        waiting = count_waiting(target)
        assert waiting is not None
        assert waiting.messages == 0

    def test_confirmed_it_publishes_what_was_shown(self, provisioned: Settings, fixed: str, target: Target) -> None:
        """What passed is published and lies aside; what fails stays; a second confirmation does nothing."""
        browser, gate, where = self.preview(provisioned, fixed)
        until(lambda: browser.get(f"/live{where}"), "now pass")
        store(target, [held(9)], unique="later")
        assert post(browser, gate, where).status_code == 303
        text = until(lambda: browser.get(f"/live{where}"), "Published")
        assert "Published 2 again and moved 2 to replayed/." in text
        assert len(names(target, "replayed/")) == 1
        waiting = count_waiting(target)
        assert waiting is not None
        assert waiting.messages == 2
        assert post(browser, gate, where).status_code == 500
        assert len(names(target, "replayed/")) == 1

    def test_only_what_was_previewed_can_be_confirmed(self, provisioned: Settings) -> None:
        """There is no replay without its preview."""
        browser, gate = page_of(provisioned, allow_replay=True)
        assert post(browser, gate, "/replays/unknown").status_code == 404

    def test_with_the_flag_the_button_is_beside_the_command(self, provisioned: Settings, fixed: str, stack: Endpoints) -> None:
        """The page that may replay offers the preview, and the command all the same."""
        browser, _ = page_of(provisioned, allow_replay=True)
        shown = browser.get(f"/dead-letters/order/{fixed}?reason=contract_violation").text
        assert "Preview the replay" in shown
        assert "ecomflow dlq replay --stream order" in shown


class TestQuestions:
    def test_a_question_is_answered(self, provisioned: Settings) -> None:
        """With its parameters, as a table, beside the command that asks the same."""
        browser, gate = page_of(provisioned)
        assert 'type="date"' in browser.get("/questions/delivered-orders-per-country").text
        text = post(browser, gate, "/questions/delivered-orders-per-country", p_date="2025-12-01").text
        assert "There are no rows." in text
        assert 'value="2025-12-01"' in text

    def test_a_parameter_that_does_not_fit(self, provisioned: Settings) -> None:
        """The sentence says how it is written, beside the form."""
        browser, gate = page_of(provisioned)
        text = unescape(post(browser, gate, "/questions/delivered-orders-per-country", p_date=f"{SCRIPT}").text)
        assert "is not a valid DATE for @date." in text

    def test_sql_is_answered_as_chart_and_table(self, provisioned: Settings) -> None:
        """Names and numbers are drawn, and stand in the table below."""
        browser, gate = page_of(provisioned)
        sql = "SELECT 'a\u202e<b>' AS name,\n 3 AS n UNION ALL SELECT 'c', 1 ORDER BY n DESC"
        text = post(browser, gate, "/questions", sql=sql).text
        assert 'class="bars"' in text
        assert '<td>a\\u202e&lt;b&gt;</td><td class="number">3</td>' in text

    def test_sql_that_writes_changes_nothing(self, provisioned: Settings, stack: Endpoints) -> None:
        """It is refused before it is sent."""
        browser, gate = page_of(provisioned)
        text = unescape(post(browser, gate, "/questions", sql="DROP TABLE ecomflow.fact_order").text)
        assert "Expected SELECT or WITH, got DROP." in text
        assert bigquery_client(provisioned.project_id, stack).get_table(f"{provisioned.dataset_id}.fact_order")

    def test_sql_that_the_warehouse_refuses(self, provisioned: Settings) -> None:
        """Its words stand beside the query, which is not lost."""
        browser, gate = page_of(provisioned)
        text = post(browser, gate, "/questions", sql="SELECT nothing FROM ecomflow.fact_order").text
        assert "SELECT nothing FROM ecomflow.fact_order" in text
        assert 'data-tone="bad"' in text


@pytest.mark.slow
def test_the_graph_is_that_of_beam() -> None:
    """Both runners' graphs have the steps that the metrics name, without Beam in the page's own process."""
    from ecomflow.metrics.snapshot import steps_of
    from ecomflow.ui.views.graph_layout import every_step

    for settings in (Settings(), Settings(project="my-project")):
        assert {step.name for step in every_step(read_steps(settings))} == set(steps_of(SHOP))


@pytest.mark.slow
class TestTheCommand:
    """``ecomflow ui`` as a process."""

    def start(self, settings: Settings, log: Path, *more: str) -> tuple[subprocess.Popen[bytes], str]:
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "ecomflow", "ui", "--no-open", *more],
                stdout=output,
                stderr=output,
                env=environment(settings),
            )
        give_up = time.monotonic() + 30
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up
            time.sleep(0.05)  # it prints its address when it listens
        return process, found[0]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_it_ends_within_a_second(self, settings: Settings, tmp_path: Path, number: int) -> None:
        """Ctrl-C ends it well, also while it reads."""
        process, where = self.start(settings, tmp_path / "log", "--port", "0")
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        assert browser.open(where, timeout=20).status == 200
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(10) == 0
        assert time.monotonic() - began < 1.5
        assert "Traceback" not in (tmp_path / "log").read_text()

    def test_only_this_machine_is_answered(self, settings: Settings, tmp_path: Path) -> None:
        """It listens on 127.0.0.1 alone, and answers nobody without the token."""
        import psutil

        process, where = self.start(settings, tmp_path / "log", "--port", "0")
        try:
            listening = [one.laddr.ip for one in psutil.Process(process.pid).net_connections() if one.status == "LISTEN"]
            assert listening == ["127.0.0.1"]
            with pytest.raises(HTTPError, match="403"):
                urllib.request.urlopen(where.partition("?")[0], timeout=20)
        finally:
            process.kill()
            process.wait()

    def test_a_taken_port_is_an_error(self, settings: Settings, tmp_path: Path) -> None:
        """The sentence names the port and the way out."""
        process, where = self.start(settings, tmp_path / "log", "--port", "0")
        try:
            port = where.split(":")[2].partition("/")[0]
            second = subprocess.run(
                [sys.executable, "-m", "ecomflow", "ui", "--no-open", "--port", port],
                capture_output=True,
                text=True,
                timeout=60,
                env=environment(settings),
                check=False,
            )
            assert (second.returncode, f"127.0.0.1:{port}" in second.stderr, "--port 0" in second.stderr) == (4, True, True)
        finally:
            process.kill()
            process.wait()


def test_letters_of_long_ago_are_found(provisioned: Settings, target: Target) -> None:
    """Not only those of the last minutes are grouped."""
    store(target, [held(1, at=datetime.now(UTC) - timedelta(days=400))])
    browser, _ = page_of(provisioned)
    assert "1 dead letter in 1 group" in until(lambda: browser.get("/live/dead-letters"), "dead letter in")


class TestAProject:
    """In a project nothing is read that BigQuery charges for before its bytes were shown. (Here with emulators in its place.)"""

    @pytest.fixture
    def project(self, provisioned: Settings, stack: Endpoints, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
        with dataflow_beside(stack) as (_, endpoints):
            for name, value in as_variables(endpoints).items():
                monkeypatch.setenv(name, value)
            yield msgspec.structs.replace(provisioned, project=provisioned.project_id)

    def test_counts_come_from_the_tables_metadata(self, project: Settings, stack: Endpoints) -> None:
        """The overview asks no query."""
        TestTables().insert(Target(project, stack), "P-1")
        browser, _ = page_of(project, here=False)
        until(lambda: browser.get("/live/tables"), r"fact_inventory</a></td><td class=\"number\">3</td>")

    def test_a_table_is_read_in_two_steps(self, project: Settings) -> None:
        """Nothing is read by opening it; first come the bytes, then, asked for again, the rows."""
        browser, gate = page_of(project, here=False)
        assert "Show what it would scan" in browser.get("/tables/fact_order").text
        weighed = post(browser, gate, "/tables/fact_order", step="weigh").text
        assert ("BigQuery would scan 0 B" in weighed, "Newest rows" in weighed) == (True, False)
        assert "There are no rows." in post(browser, gate, "/tables/fact_order", step="read").text

    def test_a_question_is_weighed_before_it_is_asked(self, project: Settings) -> None:
        """First what it would scan, with what was given; then the answer."""
        browser, gate = page_of(project, here=False)
        sql = "SELECT 'a\nb' AS x"
        weighed = post(browser, gate, "/questions", sql=sql).text
        assert "BigQuery would scan 0 B (0 bytes)." in weighed
        again = re.search(r'name="sql" value="([^"]*)"', weighed)
        assert again
        assert unescape(again[1]) == sql
        answer = post(browser, gate, "/questions", sql=sql, sure="yes").text
        assert "<td>a\\x0ab</td>" in answer

    def test_no_job_runs(self, project: Settings) -> None:
        """The graph's view says so, and what to do."""
        browser, _ = page_of(project, here=False)
        text = until(lambda: browser.get("/live"), "No pipeline is running")
        assert "Start it with: ecomflow deploy" in text
