"""The page in a real browser, before a real pipeline: what a person sees and does, with mouse, keyboard, phone and by ear."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from ecomflow.config import Endpoints, Settings
from ecomflow.gcp.target import Target
from ecomflow.generator import publisher
from ecomflow.generator.rounds import GeneratedEvent
from ecomflow.metrics.record import read_record
from ecomflow.reconciliation.ledger import read_ledger
from ecomflow.warehouse import queries
from tests.browser.conftest import Server, Watched
from tests.support.cli import ecomflow, start
from tests.support.contract import encoded, order
from tests.support.dead_letters import STATUS_ERROR, letter, still, store, today
from tests.support.hostile import HOSTILE
from tests.support.running import Pipeline
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.stack]

VIEWS = ("/", "/tables", "/tables/fact_order_header", "/dead-letters", "/questions", "/questions/sales-per-product")
EVIL = "<script>window.hacked=1;alert(1)</script><img src=x onerror='window.hacked=1;alert(1)'>"


def tile(page: Page, name: str) -> Locator:
    return page.locator(".metrics > div", has=page.locator(f"dt:text-is('{name}')"))


def metric(page: Page, name: str) -> float:
    """A metric of the graph's view, by its name."""
    value = tile(page, name).locator(".value").inner_text()
    return float(value.replace(",", "")) if re.fullmatch(r"[\d,.]+", value) else 0.0


def runs_as(pid: int) -> re.Pattern[str]:
    return re.compile(rf"running on this machine since .* \(process {pid}\)")


def edge_counts(page: Page) -> list[str]:
    return page.locator("svg.graph.wide .edge text").all_text_contents()


def on(server: Server, path: str) -> str:
    return f"{server.base}{path}"


def an_order(number: str, **changes: object) -> GeneratedEvent:
    body = order(order_id=f"O-{number}", order_date=today(), **changes)
    return GeneratedEvent(encoded(body), {"event_id": f"E-{number}"}, "order", {"items": 2}, None, None, "order")


class TestTheRunningPipeline:
    def test_the_rates_move_while_events_are_published(
        self, pipeline: Pipeline, shop: Settings, page: Page, tmp_path: Path
    ) -> None:
        """Counts rise on the graph's edges, and in the end the page has what reconcile has, to the event."""
        expect(page.locator(".state")).to_contain_text(runs_as(pipeline.pid), timeout=30_000)
        expect(page.locator("svg.graph.wide [data-kind=step]")).to_have_count(13, timeout=60_000)  # Beam builds the graph
        before, refused = metric(page, "Received"), metric(page, "Refused")
        ledger = tmp_path / "published.jsonl"
        publishing = start(
            "publish", "--rate", "200", "--n", "300", "--ledger", str(ledger), settings=shop, log=tmp_path / "publish.log"
        )
        wait_until(lambda: metric(page, "Events per second") > 20, "the rate rises")
        seen = {tuple(edge_counts(page))}
        wait_until(lambda: len(seen.union([tuple(edge_counts(page))])) > 1, "the counts on the edges move")
        assert publishing.wait(60) == 0
        wait_until(lambda: metric(page, "Received") == before + 1800, "all is received")
        wait_until(lambda: metric(page, "Backlog") == 0, "nothing waits")
        result = ecomflow("reconcile", "--wait", "30", "--ledger", str(ledger), "--json", settings=shop)
        assert result.returncode == 0, result.stderr
        assert metric(page, "Refused") == refused + 900
        assert len(read_ledger(ledger)) == 1800
        expect(page.locator("svg.chart")).to_have_count(3)

    def test_a_pipeline_that_restarts_under_it(self, pipeline: Pipeline, page: Page, shop: Settings, stack: Endpoints) -> None:
        """The page says that it was killed, and goes on by itself with the next one."""
        expect(page.locator(".state")).to_contain_text(f"process {pipeline.pid}")
        pipeline.kill()
        expect(page.locator(".state")).to_contain_text("was killed")
        expect(page.locator(".strip .remedy")).to_contain_text("ecomflow deploy")
        expect(tile(page, "Received")).to_contain_text("as of")
        expect(tile(page, "Events per second").locator(".value")).to_have_text("\u2013")
        quiet = page.locator("dt").first.evaluate("one => getComputedStyle(one).color")
        expect(tile(page, "Received").locator(".value")).to_have_css("color", quiet)
        pipeline.started()
        expect(page.locator(".state")).to_contain_text(runs_as(pipeline.pid))
        publisher.publish(Target(shop, stack), [an_order("restart")])
        wait_until(lambda: metric(page, "Received") == 1, "the new one's metrics are shown")
        expect(page.locator("[data-stale]")).to_have_count(0)

    def test_a_page_that_nobody_sees_asks_for_nothing(self, pipeline: Pipeline, page: Page) -> None:
        """Hidden, it pauses; shown again, it goes on at once."""
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        turn = "(state) => { Object.defineProperty(document, 'visibilityState', {value: state, configurable: true});" + (
            "document.dispatchEvent(new Event('visibilitychange')); }"
        )
        wait_until(lambda: page.evaluate("1") and len(asked) > 0, "the page asks")
        page.evaluate(turn, "hidden")
        page.wait_for_timeout(300)
        asked.clear()
        page.wait_for_timeout(2500)
        assert asked == []
        page.evaluate(turn, "visible")
        wait_until(lambda: page.evaluate("1") and len(asked) > 0, "the page asks again", seconds=3)

    def test_a_step_opens_its_details(self, pipeline: Pipeline, page: Page, shop: Settings, stack: Endpoints) -> None:
        """A click on its box: what went in and out of it, live; the box stays marked, and closes again."""
        before = metric(page, "Received")
        publisher.publish(Target(shop, stack), [an_order("details")])
        wait_until(lambda: metric(page, "Received") == before + 1, "the order is received")
        page.locator("svg.graph.wide [data-name='Write order facts']").click()
        details = page.locator("#step")
        expect(details.locator("h2")).to_have_text("Write order facts")
        expect(details.locator(".facts")).to_contain_text("fact_order_header")
        expect(page.locator("svg.graph.wide [aria-current]")).to_have_attribute("data-name", "Write order facts")
        with page.expect_response(re.compile(r"/live\?step=Write")):
            pass
        expect(details.locator(".facts")).to_contain_text("from publish to append")
        details.get_by_role("link", name="Close").click()
        expect(details).to_have_count(0)

    def test_the_last_hour_outlives_the_page(
        self, pipeline: Pipeline, chromium: Browser, shop: Settings, stack: Endpoints, tmp_path: Path
    ) -> None:
        """A page that is started after the events has them in its charts, with time and values under the pointer."""
        publisher.publish(Target(shop, stack), [an_order(f"hour-{number}") for number in range(300)])
        wait_until(
            lambda: any(one.received >= 300 for one in read_record(shop.state_path, time.time())), "the events are recorded"
        )
        server = Server(shop, tmp_path / "log")
        page = chromium.new_page(viewport={"width": 1280, "height": 860})
        page.goto(server.address)
        chart = page.locator("figure.hour").first
        chart.locator(".pointer").wait_for()
        labels = chart.locator(".pointer i").evaluate_all("all => all.map((one) => one.dataset.label)")
        rates = [float(found[1].replace(",", "")) for one in labels if (found := re.search(r"received ([\d.,]+)/s", one))]
        assert max(rates) >= 5
        part = chart.locator(".pointer i").nth(max(at for at, one in enumerate(labels) if "\u2013" not in one))
        part.hover()
        shown = part.evaluate("one => getComputedStyle(one, '::after').content")
        assert re.search(r"\d\d:\d\d:\d\d . received ", shown)
        assert chart.locator(".x-axis text").count() >= 5
        assert chart.locator(".y-axis text").count() == 3
        page.close()
        server.stop()

    def test_a_server_that_ends(self, chromium: Browser, shop: Settings, tmp_path: Path) -> None:
        """The page stays, and says what has become of its server."""
        server = Server(shop, tmp_path / "log")
        context = chromium.new_context()
        page = context.new_page()
        page.goto(server.address)
        expect(page.locator(".state")).to_be_visible()
        server.stop()
        expect(page.locator("#connection")).to_have_text("This page's server does not respond. Start it again: ecomflow ui")
        expect(page.locator(".state")).to_be_visible()
        context.close()

    def test_the_token_leaves_the_address(self, page: Page, server: Server) -> None:
        """The address in the bar and in the history gives no access."""
        assert page.url == f"{server.base}/"
        assert page.evaluate("document.cookie") == ""


class TestDeadLetters:
    def test_a_group_opens(self, page: Page, server: Server, shop: Settings, stack: Endpoints, pipeline: Pipeline) -> None:
        """From the groups to a letter, its payload with the offending value marked, and the command that replays it."""
        store(Target(shop, stack), [still(1), still(2)])
        page.get_by_role("link", name="Dead letters", exact=True).click()
        page.get_by_role("link", name="$.quantity_change expected int", exact=True).click()
        expect(page.locator("mark").first).to_have_text("0.5")
        expect(page.locator(".command")).to_contain_text("ecomflow dlq replay --stream inventory")
        closed = page.locator("details.letter:not([open])").first
        closed.locator("summary").click()
        expect(page.locator("details.letter[open]")).to_have_count(2)

    def test_they_are_found_by_filter_and_text(
        self, page: Page, server: Server, shop: Settings, stack: Endpoints, pipeline: Pipeline
    ) -> None:
        """The form keeps what was asked for; typing is not disturbed by the page's updates."""
        store(Target(shop, stack), [letter(order(customer_name="Ada Byron"), STATUS_ERROR, event_id="E-ada")], unique="ada")
        page.goto(on(server, "/dead-letters"))
        page.get_by_label("Event type").select_option("order")
        page.get_by_label("Text in payload").fill("ada byron")
        with page.expect_response(re.compile("/live/dead-letters")):
            pass
        expect(page.get_by_label("Text in payload")).to_have_value("ada byron")
        expect(page.get_by_label("Event type")).to_have_value("order")
        page.get_by_role("button", name="Search").click()
        expect(page.locator("details.letter")).to_have_count(1)
        expect(page.locator("details.letter summary")).to_contain_text("E-ada")
        expect(page.get_by_label("Text in payload")).to_have_value("ada byron")
        page.get_by_role("link", name="Clear").click()
        expect(page.locator(".groups li").first).to_be_visible()

    def test_a_replay_goes_through(
        self, page: Page, server: Server, shop: Settings, stack: Endpoints, pipeline: Pipeline
    ) -> None:
        """Preview, confirm, and the orders are in the warehouse."""
        fixed = [
            letter(order(order_id=f"O-fixed-{n}", order_date=today()), STATUS_ERROR, event_id=f"E-fixed-{n}") for n in (1, 2)
        ]
        target = Target(shop, stack)
        store(target, fixed, unique="fixed")
        page.goto(on(server, "/dead-letters"))
        page.get_by_role("link", name=re.compile(r"\$\.status expected one of")).click()
        page.get_by_role("button", name="Preview the replay").click()
        page.get_by_role("button", name=re.compile("Publish [0-9]+ again")).click()
        expect(page.locator(".notice[data-tone=good]")).to_contain_text(
            re.compile(r"Published \d+ again and moved \d+ to replayed")
        )
        sql = "SELECT COUNT(*) AS n FROM ecomflow.fact_order_header WHERE STARTS_WITH(event_id, 'E-fixed-')"
        wait_until(lambda: queries.ask(target, sql, {}).rows == ((2,),), "the replayed orders are rows")


class TestQuestions:
    def test_a_question_is_answered(
        self, page: Page, server: Server, shop: Settings, stack: Endpoints, pipeline: Pipeline
    ) -> None:
        """A click on the question, one on Run: bars, and the same numbers in a table."""
        target = Target(shop, stack)
        publisher.publish(target, [an_order("asked")])
        wait_until(lambda: _count(target, "asked") == 1, "the order is a row")
        page.get_by_role("link", name="Questions").click()
        page.get_by_role("link", name=re.compile("how much revenue did each product")).click()
        page.get_by_role("button", name="Run").click()
        expect(page.locator(".bars li").first).to_be_visible()
        names = page.locator("#answer table tbody tr td:first-child").all_inner_texts()
        assert {"P-1", "P-2"} <= set(names)
        expect(page.locator("#answer .command")).to_contain_text("ecomflow query sales-per-product")

    def test_a_query_of_ones_own(self, page: Page, server: Server) -> None:
        """It is answered below, and stays in its box; what would write is refused in words."""
        page.goto(on(server, "/questions"))
        box = page.get_by_label("A query in GoogleSQL")
        box.fill("SELECT 'one' AS name,\n  1 AS n UNION ALL SELECT 'two', 2")
        page.get_by_role("button", name="Run").click()
        expect(page.locator("#answer")).to_contain_text("2 rows.")
        expect(box).to_have_value("SELECT 'one' AS name,\n  1 AS n UNION ALL SELECT 'two', 2")
        box.fill("DROP TABLE ecomflow.fact_order")
        page.get_by_role("button", name="Run").click()
        expect(page.locator(".notice")).to_contain_text("got DROP")


def _count(target: Target, number: str) -> int:
    sql = "SELECT COUNT(*) AS n FROM ecomflow.fact_order_header WHERE event_id = @id"
    return int(queries.ask(target, sql, {"id": f"E-{number}"}).rows[0][0])


def test_hostile_messages_stay_text(
    watched: Watched, page: Page, server: Server, shop: Settings, stack: Endpoints, pipeline: Pipeline
) -> None:
    """Markup, control characters and endless fields in rows and dead letters are read in every view; nothing of them runs."""
    row = an_order("evil", customer_id=f"{EVIL}{HOSTILE}", customer_name=EVIL * 20)
    target = Target(shop, stack)
    publisher.publish(target, [row])
    evil = f"{EVIL}{HOSTILE}{'x' * 50_000}"
    body = {"event_type": evil, evil: [evil]}
    refused = letter(body, f"$.event_type: expected one of order, got '{evil}'", "unknown_event_type", event_id=evil)
    store(target, [msgspec.structs.replace(refused, event_type=evil)], unique="evil")
    publisher.publish(target, [GeneratedEvent(json.dumps(body).encode(), {"event_id": EVIL}, "order", {}, "x", None, "unknown")])
    wait_until(lambda: _count(target, "evil") == 1, "the row is there")
    seen = []
    for path in (*VIEWS, "/dead-letters/unknown/any?reason=unknown_event_type"):
        page.goto(on(server, path))
        expect(page.locator("main")).to_be_visible()
        seen.append(page.locator("main").inner_text())
    page.get_by_role("link", name="Tables").click()
    page.goto(on(server, "/tables/fact_order_header"))
    expect(page.locator(".rows")).to_contain_text("<script>window.hacked=1;alert(1)</script>")
    page.goto(on(server, "/questions/sales-per-customer"))
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#answer")).to_contain_text("<script>")
    assert any("<script>window.hacked=1" in text for text in seen)
    assert not any(re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text) for text in seen)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0


class TestKeyboard:
    def focused(self, page: Page) -> str:
        return str(page.evaluate("document.activeElement.textContent.trim().slice(0, 40)"))

    def test_the_first_stop_skips_to_the_content(self, page: Page, pipeline: Pipeline) -> None:
        """Tab shows the skip link; then come the name and the views, in their order."""
        page.keyboard.press("Tab")
        assert self.focused(page) == "Skip to the content"
        expect(page.locator(".skip")).to_be_in_viewport()
        stops = []
        for _ in range(5):
            page.keyboard.press("Tab")
            stops.append(self.focused(page))
        assert stops == ["ecomflow", "Graph", "Tables", "Dead letters", "Questions"]

    @pytest.mark.parametrize("path", VIEWS)
    def test_every_stop_is_seen_and_none_holds_one(self, page: Page, server: Server, path: str, pipeline: Pipeline) -> None:
        """Each focus has an outline, and Tab leads through the page and out of it."""
        page.goto(on(server, path))
        page.wait_for_timeout(200)
        reached = 0
        for _ in range(200):
            page.keyboard.press("Tab")
            outline = page.evaluate(
                "document.activeElement === document.body ? null : getComputedStyle(document.activeElement).outlineStyle"
            )
            if outline is None:
                break
            assert outline != "none", self.focused(page)
            reached += 1
        assert 6 <= reached < 200

    def test_focus_and_open_parts_stay_while_the_page_changes(self, page: Page, pipeline: Pipeline) -> None:
        """A reader in the midst of the page is not thrown out by its updates."""
        summary = page.locator("summary", has_text="The graph as a table")
        summary.focus()
        page.keyboard.press("Enter")
        expect(page.locator("details[open] table")).to_be_visible()
        with page.expect_response(re.compile("/live")):
            pass
        with page.expect_response(re.compile("/live")):
            pass
        expect(page.locator("details[open] table")).to_be_visible()
        assert self.focused(page) == "The graph as a table"

    def test_a_question_is_asked_by_keyboard_alone(self, page: Page, server: Server, pipeline: Pipeline) -> None:
        """From the address to the answer without a mouse."""
        page.goto(on(server, "/questions"))
        self.tab_to(page, lambda text: text.startswith("Which products are returned"))
        page.keyboard.press("Enter")
        page.wait_for_url("**/most-returned-products")
        self.tab_to(page, lambda text: text == "Run")
        page.keyboard.press("Enter")
        expect(page.locator("#answer, .notice").first).to_be_visible()

    def tab_to(self, page: Page, wanted: Callable[[str], bool]) -> None:
        for _ in range(100):
            page.keyboard.press("Tab")
            if wanted(self.focused(page)):
                return
        raise AssertionError("Tab does not lead there.")


AUDIT = """() => {
  const wrong = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const levels = all('h1,h2,h3,h4').map((one) => Number(one.nodeName[1]));
  if (levels.filter((one) => one === 1).length !== 1 || levels[0] !== 1) wrong.push('one h1, first');
  levels.forEach((one, at) => { if (at && one > levels[at - 1] + 1) wrong.push('a heading is skipped'); });
  if (all('main').length !== 1 || all('nav[aria-label]').length !== 1 || all('header').length !== 1) wrong.push('landmarks');
  all('table').forEach((one) => { if (!one.caption || !one.caption.textContent) wrong.push('a table without caption'); });
  all('th').forEach((one) => { if (one.scope !== 'col') wrong.push('a th without scope'); });
  all('svg').forEach((one) => {
    const words = one.querySelector('title') || one.getAttribute('aria-label');
    const named = ['img', 'group'].includes(one.getAttribute('role')) && words;
    if (!named && one.getAttribute('aria-hidden') !== 'true') wrong.push('a drawing without words');
  });
  all('input:not([type=hidden]),textarea').forEach((one) => { if (!one.labels.length) wrong.push('a field without label'); });
  all('button,a').forEach((one) => { if (!one.textContent.trim()) wrong.push('a link without words'); });
  const ids = all('[id]').map((one) => one.id);
  if (new Set(ids).size !== ids.length) wrong.push('an id twice');
  if (!document.documentElement.lang || !document.title) wrong.push('language or title');
  return wrong;
}"""

CONTRASTS = """() => {
  const channel = (value) => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const parse = (color) => (color.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const color = parse(getComputedStyle(one).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const one of document.querySelectorAll('main *, header *')) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !one.getClientRects().length) continue;
    const style = getComputedStyle(one);
    const ink = light(parse(one.ownerSVGElement ? style.fill : style.color));
    const paper = light(ground(one.ownerSVGElement ? one.ownerSVGElement.parentElement : one));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${one.textContent.slice(0, 30)}`);
  }
  return low;
}"""


class TestEveryReader:
    @pytest.mark.parametrize("path", [*VIEWS, "/dead-letters/unknown/any"])
    def test_a_screen_reader_finds_its_way(self, page: Page, server: Server, path: str, pipeline: Pipeline) -> None:
        """Landmarks, headings in order, captions, labels, and words for every drawing."""
        page.goto(on(server, path))
        expect(page.locator("main h2").first).to_be_attached()
        assert page.evaluate(AUDIT) == []

    @pytest.mark.parametrize("width", [360, 768, 1280])
    def test_nothing_is_wider_than_the_screen(self, page: Page, server: Server, width: int, pipeline: Pipeline) -> None:
        """From a phone to a desktop the page scrolls downwards alone."""
        page.set_viewport_size({"width": width, "height": 800})
        for path in (*VIEWS, "/dead-letters/unknown/any"):
            page.goto(on(server, path))
            expect(page.locator("main h2").first).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path

    def test_the_phone_has_a_graph_of_its_own(self, page: Page, pipeline: Pipeline) -> None:
        """Stacked where the screen is narrow, from left to right where it is wide; one of them at a time."""
        expect(page.locator("svg.graph.wide")).to_be_visible()
        expect(page.locator("svg.graph.tall")).to_be_hidden()
        page.set_viewport_size({"width": 360, "height": 800})
        expect(page.locator("svg.graph.tall")).to_be_visible()
        expect(page.locator("svg.graph.wide")).to_be_hidden()

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_all_text_is_legible(self, chromium: Browser, server: Server, scheme: str, pipeline: Pipeline) -> None:
        """In both schemes every text has a contrast of 4.5 to its ground at least (WCAG 2.2, 1.4.3)."""
        context = chromium.new_context(color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(server.address)
        grounds = set()
        for path in (*VIEWS, "/dead-letters/unknown/any"):
            page.goto(on(server, path))
            expect(page.locator("main h2").first).to_be_visible()
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            assert page.evaluate(CONTRASTS) == [], path
        assert grounds == {"rgb(250, 250, 248)" if scheme == "light" else "rgb(16, 19, 23)"}
        context.close()

    def test_nothing_moves_for_those_who_want_it_still(self, chromium: Browser, server: Server) -> None:
        """With reduced motion there is no transition and no animation."""
        context = chromium.new_context(reduced_motion="reduce")
        page = context.new_page()
        page.goto(server.address)
        script = "[...document.querySelectorAll('*')].some((one) => parseFloat(getComputedStyle(one).transitionDuration) > 0)"
        assert page.evaluate(script) is False
        context.close()
