"""What the page makes of its data, without a server: pictures, tables and text in which nothing of a message is markup."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from ecomflow.config import Settings
from ecomflow.contract.dead_letter import dead_letter, path_and_rule
from ecomflow.contract.events import Message
from ecomflow.deadletters.groups import group
from ecomflow.deadletters.replay import ReplayPlan, ReplaySummary, Unpublishable
from ecomflow.deadletters.store import DeadLetterFilter, StoredDeadLetter
from ecomflow.errors import EcomflowError
from ecomflow.metrics.history import History, report
from ecomflow.metrics.snapshot import LOCAL, PipelineMetrics, from_counters
from ecomflow.pipeline.tree import Step
from ecomflow.sql import definition_of, question
from ecomflow.terminal.amounts import bytes_text, rate_text, seconds_text
from ecomflow.ui import app
from ecomflow.ui.data.dead_letters import Found, Overview
from ecomflow.ui.data.readings import Reading
from ecomflow.ui.data.replays import Replay
from ecomflow.ui.data.sampler import Sample
from ecomflow.ui.data.warehouse import TableDetail
from ecomflow.ui.views import dead_letters, graph, payload, questions, tables
from ecomflow.ui.views.graph_picture import Flow, picture, tall_boxes, wide_boxes
from ecomflow.ui.views.html import Exact, Html, tag
from ecomflow.ui.views.layout import View, page
from ecomflow.ui.views.svg import Curve, bar, columns_chart, line_chart, sparkline
from ecomflow.warehouse.queries import Answer
from tests.support.contract import FACT_TABLES, SHOP
from tests.support.hostile import CONTROL, HOSTILE

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>\"' onload=alert(1) x='"
EVIL = f"{SCRIPT}{HOSTILE}"
TREE = (
    Step(
        "Read",
        ("Pull",),
        (
            Step(
                "Decode",
                (),
                (Step("Model", (), (Step("Write dead letters", (), ()),)), Step("Refuse", (), (Step("Bin", (), ()),))),
            ),
        ),
    ),
)


class Elements(HTMLParser):
    """The elements and attributes that a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def read(value: object) -> Reading:  # type: ignore[type-arg]
    """A reading that has been read."""
    made: Reading = Reading(lambda: value, None)  # type: ignore[type-arg]
    made.refresh()
    made.wait(5)
    return made


def evil_letter() -> StoredDeadLetter:
    sent = Message(f'{{"a": {msgspec.json.encode(EVIL).decode()}}}'.encode(), {"event_id": EVIL, EVIL: EVIL}, EVIL, 0)
    return StoredDeadLetter(dead_letter(sent, "processing_error", f"$.a: {EVIL}", EVIL, NOW, EVIL), f"dlq/{EVIL}.jsonl")


def sample(**changes: object) -> Sample:
    history = History()
    for second in range(3):
        counters = {"received": 10 * second, "refused/malformed_json": second, "out/Read": 10 * second, "in/Decode": 10 * second}
        metrics = from_counters(
            counters, {}, SHOP, at=NOW.timestamp() + second, state="running", where=LOCAL, name="process 1", started=1.0
        )
        history.add(msgspec.structs.replace(metrics, **changes), NOW.timestamp() + second)
    series = tuple(history.series(lambda metrics: metrics.received, 150))
    return Sample(report(history), None, history.now, series, series, series)


HOSTILE_VIEWS = {
    "graph": lambda: graph.graph_view(sample(last_failure=EVIL, name=EVIL, waiting_for=EVIL, refused={EVIL: 3}), read(TREE)),
    "graph that is refused": lambda: graph.state_line(Sample(None, EcomflowError(EVIL, EVIL))),
    "steps": lambda: picture((Step(EVIL, (EVIL,), (Step(EVIL, (), ()),)),), {}, tall=False),
    "groups": lambda: dead_letters.groups_view(sample(), read(Overview(group([evil_letter()], Settings()), True, 1)), EVIL),
    "letters": lambda: dead_letters.dead_letters_view(
        DeadLetterFilter(streams=("order",), reason="processing_error"), Found((evil_letter(),), True), EVIL, EVIL
    ),
    "replay": lambda: dead_letters.replay_view(
        Replay("x", DeadLetterFilter(streams=("order",)), "planned", 0, ReplayPlan(2, 1, {EVIL: 1}, {EVIL: EVIL}, 0, [], [])),
        EVIL,
    ),
    "failed replay": lambda: dead_letters.replay_view(
        Replay("x", DeadLetterFilter(streams=("order",)), "failed", error=EcomflowError(EVIL, EVIL)), EVIL
    ),
    "answer": lambda: questions.answer_view(Answer(EVIL, (EVIL, "n"), ((EVIL, 1), ("b", 2)), "n"), 2, EVIL),
    "dated answer": lambda: questions.answer_view(Answer("", ("d", EVIL), ((NOW, 1), (NOW.replace(day=1), 2))), 2),
    "query": lambda: questions.sql_view(EVIL, EVIL, Html("")),
    "question": lambda: questions.question_view(question("delivered-orders-per-country"), {"date": EVIL}, EVIL),
    "weighed query": lambda: questions.weighed(1, 2, EVIL, "/questions", {"sql": EVIL}),
    "table": lambda: tables.table_view(
        sample(),
        definition_of(FACT_TABLES["fact_order"]),
        read(TableDetail("fact_order", (EVIL,), ((EVIL,),), ((NOW, 1),), ((EVIL, 1),))),
    ),
    "whole page": lambda: page(View(EVIL, "/", Html(""), Html("x"), EVIL), EVIL),
}


class TestHostileValues:
    @pytest.mark.parametrize("name", HOSTILE_VIEWS)
    def test_they_stay_text(self, name: str) -> None:
        """No value of a message, a service or the reader becomes an element or an attribute, in any view."""
        html = HOSTILE_VIEWS[name]()
        found = Elements(html)
        assert {"img", "link" if name != "whole page" else "img"}.isdisjoint(found.names)
        assert not [key for key, _ in found.attributes if key.startswith("on")]
        assert found.names.count("script") == (name == "whole page")
        assert "alert(1)" in html

    @pytest.mark.parametrize("name", [name for name in HOSTILE_VIEWS if name not in ("query", "question", "weighed query")])
    def test_their_control_characters_are_shown(self, name: str) -> None:
        """Escape, bidirectional and other control characters come as the text of their number."""
        assert not CONTROL.search(HOSTILE_VIEWS[name]())

    def test_what_the_reader_typed_comes_back_as_it_was(self) -> None:
        """A query goes through the form unchanged, line breaks and all."""
        typed = "SELECT \"<a>\"\n\n  '&amp;' AS \u202ex"
        found = Elements(tag("input", value=Exact(typed)))
        assert found.attributes == [("value", typed)]

    def test_very_long_values_are_cut(self) -> None:
        """A message of megabytes makes a page of some ten thousand characters, which says that it is cut."""
        sent = Message(b'{"a": "' + b"x" * 2_000_000 + b'"}', {"k" * 100_000: "v" * 100_000}, "m" * 100_000, 0)
        stored = StoredDeadLetter(
            dead_letter(sent, "contract_violation", "$.b: " + "e" * 100_000, "t" * 100_000, NOW), "o" * 100_000
        )
        html = dead_letters.dead_letters_view(DeadLetterFilter(streams=("unknown",)), Found((stored,), False), "x", None)
        assert len(html) < 60_000
        assert "Only the first 20,000 characters are shown" in html


class TestPayload:
    def marked(self, text: str, path: str) -> list[str]:
        return [piece.text for piece in payload.shown_payload(text, path).pieces if piece.marked]

    @pytest.mark.parametrize(
        ("path", "found"),
        [
            ("$.items[1].quantity", ["1.50e3"]),
            ("$.items[0]", ['{\n      "quantity": 1\n    }']),
            ("$.status", ['"a"', '"b"']),
            ("$.ab", ["null"]),
            ("$.empty", ["{}"]),
            ("$.items[9]", []),
            ("$.nothing", []),
            ("$", []),
        ],
    )
    def test_the_offending_value_is_marked(self, path: str, found: list[str]) -> None:
        """The value at the path, with its own digits; of a key that stands twice, both; nothing where there is none."""
        text = '{"status":"a","items":[{"quantity":1},{"quantity":1.50e3}],"a\\u0062":null,"empty":{},"status":"b"}'
        assert self.marked(text, path) == found

    def test_no_token_is_changed(self) -> None:
        """Numbers, escapes and repeated keys come as they were sent; only white space is ours."""
        text = '{"a" : 1e400,"b":[ ],"b":[1,-0.0,"\\u20ac\\/"] }'
        shown = "".join(piece.text for piece in payload.shown_payload(text, "$.b").pieces)
        assert shown == '{\n  "a": 1e400,\n  "b": [],\n  "b": [\n    1,\n    -0.0,\n    "\\u20ac\\/"\n  ]\n}'

    @pytest.mark.parametrize("text", ["", "{", '"a"', "nul", "[1,]", "\x00", "[" * 5000 + "]" * 5000, '{"a":1}{'])
    def test_what_is_no_json_is_shown_as_it_came(self, text: str) -> None:
        """Malformed and endlessly nested documents are one piece, unmarked."""
        assert [piece.text for piece in payload.shown_payload(text, "$.a").pieces] == [text]

    @pytest.mark.parametrize(
        ("error", "path"), [("$.a[1].b: expected x, got y", "$.a[1].b"), ("Table x: no", "$"), ("$: no", "$"), ("", "$")]
    )
    def test_the_path_of_an_error(self, error: str, path: str) -> None:
        """An error that names a place begins with it."""
        assert path_and_rule(error)[0] == path


class TestGraph:
    def test_from_left_to_right(self) -> None:
        """A column for each step from the source, a row for each line of steps, ends in the last column."""
        places = {box.step.name: (box.x // 252, box.y // 110) for box in wide_boxes(TREE)}
        assert places == {
            "Read": (0, 0),
            "Decode": (1, 0),
            "Model": (2, 0),
            "Write dead letters": (3, 0),
            "Refuse": (2, 1),
            "Bin": (3, 1),
        }

    def test_from_top_to_bottom(self) -> None:
        """On a phone the steps stand one below the other, and further to the right behind a fork."""
        boxes = tall_boxes(TREE)
        assert [box.step.name for box in boxes] == ["Read", "Decode", "Model", "Write dead letters", "Refuse", "Bin"]
        assert [box.x for box in boxes] == [2, 2, 20, 20, 20, 20]
        assert {box.x + box.width for box in boxes} == {338}

    def test_no_boxes_overlap(self) -> None:
        """Whatever the graph, each step has its place."""
        for boxes in (wide_boxes(TREE), tall_boxes(TREE)):
            for one in boxes:
                for other in boxes:
                    apart_across = one.x + one.width <= other.x or other.x + other.width <= one.x
                    apart_down = one.y + one.height <= other.y or other.y + other.height <= one.y
                    assert one is other or apart_across or apart_down

    def test_rates_and_refusals(self) -> None:
        """An edge bears the rate at which its step takes in, a box its totals, and what is refused is red."""
        metrics = from_counters({"in/Model": 1234, "refused_in/Model": 5}, {}, SHOP, at=0.0, state="running", where=LOCAL)
        step = next(one for one in metrics.steps if one.step == "Model")
        html = picture(TREE, {"Model": Flow(step, 12.0)}, tall=False)
        text = Elements(html).text
        assert "12/s" in text
        assert "1,234 in" in text
        assert '<text class="refused"' in html
        assert "5 refused" in text

    def test_the_picture_is_said_in_a_table_too(self) -> None:
        """Who can't see the picture reads the same metrics in a table."""
        text = Elements(graph.graph_view(sample(), read(TREE))).text
        assert "The graph as a table" in text
        assert re.search(r"Decode20", text)

    @pytest.mark.parametrize(
        ("changes", "tone", "words"),
        [
            ({}, "good", "The pipeline is running on this machine (process 1)"),
            ({"waiting_for": "BigQuery"}, "bad", "is waiting for BigQuery"),
            ({"state": "gone"}, "bad", "was killed"),
            ({"state": "drained"}, "quiet", "has ended as drained"),
            ({"state": "none", "name": ""}, "quiet", "No pipeline is running"),
        ],
    )
    def test_the_state_is_a_sentence(self, changes: dict[str, object], tone: str, words: str) -> None:
        """What runs, what is wrong, and the next command."""
        found, sentence, remedy = graph.state(sample(**changes))
        assert (found, words in sentence, remedy is None) == (tone, True, tone == "good")

    def test_what_a_screen_reader_announces_has_no_numbers(self) -> None:
        """The live region has no metrics, or it would be read out each second."""
        html = graph.state_line(sample(waiting_for="BigQuery for 12 s"))
        heard = re.search(r'role="status" aria-live="polite">([^<]*)<', html)
        assert heard
        assert not re.search(r"\d", heard[1])


class TestDrawings:
    def test_a_gap_is_a_gap(self) -> None:
        """Where nobody looked there is no line."""
        html = line_chart("t", [Curve("a", [(0, 1.0), (1, 2.0), (2, None), (3, 1.0), (4, 2.0)])], 4)
        stroke = re.search(r'class="stroke" d="([^"]*)"', html)
        assert stroke
        assert stroke[1].count("M") == 2

    @pytest.mark.parametrize("values", [[], [1.0], [None, None], [None, 1.0]])
    def test_too_few_points_are_no_line(self, values: list[float | None]) -> None:
        """A course needs two points."""
        assert sparkline(values) is None

    def test_bars_below_zero_go_to_the_left(self) -> None:
        """All bars of an answer are on one scale from 0."""
        assert 'x="500.0" y="15" width="250.0"' in bar(5, -10, 10)
        assert 'x="250.0" y="15" width="250.0"' in bar(-5, -10, 10)

    @pytest.mark.parametrize("amount", [0, 1, 10**12])
    def test_columns_stay_in_their_frame(self, amount: int) -> None:
        """No column is higher than the chart."""
        html = columns_chart("t", [(NOW, 1), (NOW, amount)], "rows")
        assert max(float(height) for height in re.findall(r' height="([\d.]+)"', html)) <= 100

    @pytest.mark.parametrize(
        ("answer", "drawn"),
        [
            (Answer("", ("name", "n"), (("a", Decimal("1.5")), ("b", 2)), None), 'class="bars"'),
            (Answer("", ("day", "n"), ((NOW.date(), 1), (NOW.replace(day=1).date(), 2)), None), 'class="chart"'),
            (Answer("", ("n",), ((1,),), None), None),
            (Answer("", ("name", "n"), (("a", 1), ("a", 2)), None), None),
            (Answer("", ("name", "n"), (("a", float("nan")),), None), None),
        ],
    )
    def test_an_answer_is_drawn_where_it_has_that_shape(self, answer: Answer, drawn: str | None) -> None:
        """Names and numbers are bars, dates and numbers a line; all else is a table alone."""
        chart = questions.chart(answer)
        assert (chart is None) if drawn is None else drawn in (chart or "")

    def test_the_chart_is_of_the_column_that_the_question_names(self) -> None:
        """Not of the first one that has numbers."""
        answer = Answer("", ("name", "a", "b"), (("x", 1, 1000),), "b")
        assert "1,000" in (questions.chart(answer) or "")


class TestNumbers:
    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(None, "\u2013"), (0.0851, "85 ms"), (1.24, "1.2 s"), (59, "59 s"), (190, "3 min 10 s"), (90_000, "1 d 1 h")],
    )
    def test_lengths_of_time(self, seconds: float | None, text: str) -> None:
        """In the largest unit or two."""
        assert seconds_text(seconds) == text

    @pytest.mark.parametrize(("rate", "text"), [(None, "\u2013"), (0.0, "0/s"), (0.25, "0.2/s"), (1234.6, "1,235/s")])
    def test_rates(self, rate: float | None, text: str) -> None:
        """With a decimal where they are small."""
        assert rate_text(rate) == text

    @pytest.mark.parametrize(
        ("amount", "text"), [(None, "\u2013"), (999, "999 B"), (1_234_567, "1.2 MB"), (250_000_000, "250 MB")]
    )
    def test_sizes(self, amount: int | None, text: str) -> None:
        """In powers of 1000."""
        assert bytes_text(amount) == text


def test_a_replay_says_what_it_did() -> None:
    """It shows what passes, what was published and what was moved."""
    plan = ReplayPlan(3, 2, {"$.a": 1}, {"$.a": "no"}, 0, [], [])
    done = Replay("x", DeadLetterFilter(streams=("order",)), "done", 2, plan, ReplaySummary(2, 2, 0))
    text = Elements(dead_letters.replay_view(done, "t")).text
    assert "2 of 3 now pass." in text
    assert "Published 2 again and moved 2 to replayed/." in text


def test_a_replay_names_what_cannot_be_published() -> None:
    """In the preview, and afterwards what Pub/Sub has refused; neither is said to fail the contract."""
    planned, refused = (
        Unpublishable("E-1", "dlq/order/x.jsonl", "expected a"),
        Unpublishable("E-2", "dlq/order/x.jsonl", "said b"),
    )
    plan = ReplayPlan(3, 2, {}, {}, 0, [], [], [planned])
    done = Replay("x", DeadLetterFilter(streams=("order",)), "done", 2, plan, ReplaySummary(1, 1, 0, False, (refused,)))
    text = Elements(dead_letters.replay_view(done, "t")).text
    assert "2 of 3 now pass." in text
    assert "would fail again" not in text
    for words in ("1 dead letter that Pub/Sub does not take", "E-1", "expected a", "E-2", "said b"):
        assert words in text


def test_the_style_has_no_asset_from_elsewhere() -> None:
    """Style and script load nothing, and the script writes no HTML but by its one policy."""
    static = Path(app.__file__).parent / "static"
    texts = {path.name: path.read_text(encoding="utf-8") for path in static.iterdir()}
    assert sorted(texts) == ["icon.svg", "page.css", "page.js"]
    assert not [name for name, text in texts.items() if re.search(r"https?://(?!www\.w3\.org)|@import|url\(", text)]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", texts["page.js"])


def test_metrics_without_a_pipeline() -> None:
    """Where nothing is known, dashes stand in place of numbers."""
    history = History()
    history.add(PipelineMetrics(0.0, "none", LOCAL), 0.0)
    html = graph.graph_view(Sample(report(history)), read(TREE))
    assert "\u2013" in html
    assert "No pipeline is running" in html
