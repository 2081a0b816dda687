"""What the page makes of its data, without a server: pictures, tables and text in which nothing of a message is markup."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from itertools import combinations
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
from ecomflow.metrics.record import Hour
from ecomflow.metrics.snapshot import LOCAL, Branch, PipelineMetrics, StepMetrics, branches_of, from_counters, steps_of
from ecomflow.pipeline.tree import Step
from ecomflow.sql import definition_of, question
from ecomflow.terminal.amounts import UNKNOWN, bytes_text, rate_text, seconds_text
from ecomflow.ui import app
from ecomflow.ui.data.dead_letters import Found, Hits, Overview, Search
from ecomflow.ui.data.readings import Reading
from ecomflow.ui.data.replays import Replay
from ecomflow.ui.data.sampler import Sample
from ecomflow.ui.data.warehouse import TableCount, TableDetail
from ecomflow.ui.views import dead_letters, graph, payload, questions, tables
from ecomflow.ui.views.graph_layout import tall_layout, wide_layout
from ecomflow.ui.views.graph_picture import Counts, Flow, Graph, passed_on, pictures, refused_on
from ecomflow.ui.views.hour_chart import Curve, hour_chart
from ecomflow.ui.views.html import Exact, Html, join, tag
from ecomflow.ui.views.layout import Place, View, page
from ecomflow.ui.views.state import stale_since, state, state_line
from ecomflow.ui.views.step import belongs_to, step_view
from ecomflow.ui.views.svg import Curve as Line
from ecomflow.ui.views.svg import bar, columns_chart, line_chart, sparkline
from ecomflow.warehouse.queries import Answer
from tests.support.contract import FACT_TABLES, SHOP
from tests.support.hostile import CONTROL, HOSTILE

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>\"' onload=alert(1) x='"
EVIL = f"{SCRIPT}{HOSTILE}"
BRANCHES = branches_of(SHOP)


def tree() -> tuple[Step, ...]:
    """The graph of the built-in contracts, as Beam's own is (``test_app`` compares them)."""
    streams = []
    for branch in BRANCHES:
        letters = Step(branch.dead_letters, ("Upload",), ())
        then = Step(branch.write, ("Append",), (letters,)) if branch.write else letters
        streams.append(Step(branch.first, (), (then,)))
    return (Step("Read messages", ("Pull",), (Step("Decode events", (), tuple(streams)),)),)


TREE = tree()
EVIL_BRANCH = Branch(EVIL, EVIL, f"Write {EVIL}", f"Letters {EVIL}", (EVIL,))
EVIL_TREE = (Step("Read", (EVIL,), (Step(EVIL, (EVIL,), (Step(f"Write {EVIL}", (), (Step(f"Letters {EVIL}", (), ()),)),)),)),)


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
        counters = {
            "received": 10 * second,
            "refused/malformed_json": second,
            "out/Read messages": 10 * second,
            "in/Decode events": 10 * second,
        }
        metrics = from_counters(
            counters, {}, SHOP, at=NOW.timestamp() + second, state="running", where=LOCAL, name="process 1", started=1.0
        )
        history.add(msgspec.structs.replace(metrics, **changes), NOW.timestamp() + second)
    hour = Hour([msgspec.structs.replace(metrics, at=history.now + back) for back in (-60, -30, 0)], history.now)
    return Sample(report(history), None, history.now, hour)


def sources(steps: tuple[Step, ...] = TREE, letters: Overview | None = None, **changes: object) -> graph.GraphSources:
    counted = [TableCount(table, 7, NOW) for branch in BRANCHES for table in branch.tables]
    overview = letters or Overview(group([], Settings()), True, 0)
    made = graph.GraphSources("sub", "bucket", BRANCHES, read(steps), read(tuple(counted)), read(overview), read({"order": 12}))
    return msgspec.structs.replace(made, **changes)


def flows(**numbers: tuple[int, int, int]) -> dict[str, Flow]:
    """The flows of steps by the words of their labels: (in, out, refused)."""
    return {step: Flow(StepMetrics(step, *found), 1.0) for words, found in numbers.items() for step in [words.replace("_", " ")]}


HOSTILE_VIEWS = {
    "graph": lambda: graph.graph_view(sample(last_failure=EVIL, name=EVIL, waiting_for=EVIL, refused={EVIL: 3}), sources(), EVIL),
    "step": lambda: step_view(
        "Read messages", sample(waiting_for=EVIL, last_failure=EVIL, backlog_unknown=EVIL), BRANCHES, (EVIL,)
    ),
    "graph that is refused": lambda: state_line(Sample(None, EcomflowError(EVIL, EVIL))),
    "steps": lambda: join(pictures(Graph(EVIL_TREE, EVIL, EVIL, (EVIL_BRANCH,)), Counts())),
    "groups": lambda: dead_letters.groups_view(
        sample(), read(Overview(group([evil_letter()], Settings()), True, 1)), EVIL, Search(), (EVIL,)
    ),
    "search": lambda: dead_letters.hits_view(
        sample(), Hits((evil_letter(),), False, 1, None), Search(text=EVIL, event_id=EVIL), (EVIL,)
    ),
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
    "whole page": lambda: page(View(EVIL, "/", Html(""), Html("x"), EVIL), Place(EVIL, EVIL)),
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

    @pytest.mark.parametrize(
        "name", [name for name in HOSTILE_VIEWS if name not in ("query", "question", "weighed query", "search")]
    )
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


def refusals(counts: Counts) -> dict[tuple[str, str], int]:
    """The refused messages on each edge that has any."""
    edges = [edge for edge in wide_layout(TREE, "sub", BRANCHES).edges if edge.refused]
    return {(edge.source.name, edge.target.name): amount for edge in edges if (amount := refused_on(edge, counts))}


class TestGraph:
    def test_all_that_the_pipeline_reads_and_writes_is_a_box(self) -> None:
        """The subscription, every step, every table, and the dead letters of every stream."""
        for layout in (wide_layout(TREE, "sub", BRANCHES), tall_layout(TREE, "sub", BRANCHES)):
            kinds: dict[str, list[str]] = {}
            for box in layout.boxes:
                kinds.setdefault(box.kind, []).append(box.name)
            assert kinds["subscription"] == ["sub"]
            assert set(kinds["step"]) == set(steps_of(SHOP))
            assert sorted(kinds["table"]) == sorted(FACT_TABLES)
            assert kinds["dead_letters"] == ["order", "inventory", "user_activity", "unknown"]

    def test_who_refuses_has_an_edge_to_the_dead_letters(self) -> None:
        """In both pictures: decoding, modelling and writing of each event type, and the refusal of unknown ones; reading none."""
        expected = {
            (source, branch.dead_letters)
            for branch in BRANCHES
            for source in (("Decode events", branch.first, branch.write) if branch.write else (branch.first,))
        }
        for layout in (wide_layout(TREE, "sub", BRANCHES), tall_layout(TREE, "sub", BRANCHES)):
            assert {(edge.source.name, edge.target.name) for edge in layout.edges if edge.refused} == expected
            passed = {(edge.source.name, edge.target.name) for edge in layout.edges if not edge.refused}
            assert ("Write order facts", "fact_order") in passed
            assert ("Write order dead letters", "order") in passed
            assert not [names for names in passed if names[1] in {branch.dead_letters for branch in BRANCHES}]

    def test_refused_messages_are_on_the_edge_of_the_step_that_refused_them(self) -> None:
        """What decoding refused, of several streams together, is shared out by what each stream's dead letters have beyond it."""
        counts = Counts(
            flows(
                Decode_events=(20, 14, 6),
                Model_order_facts=(8, 5, 3),
                Write_order_facts=(5, 5, 0),
                Write_order_dead_letters=(7, 7, 0),
                Write_inventory_dead_letters=(2, 2, 0),
                Refuse_unknown_events=(1, 0, 1),
            )
        )
        assert refusals(counts) == {
            ("Decode events", "Write order dead letters"): 4,
            ("Decode events", "Write inventory dead letters"): 2,
            ("Model order facts", "Write order dead letters"): 3,
            ("Refuse unknown events", "Write unknown dead letters"): 1,
        }

    def test_a_step_that_refused_nothing_has_no_red_edge(self) -> None:
        """The edge is there, and is not red."""
        html = join(pictures(Graph(TREE, "sub", "bucket", BRANCHES), Counts(flows(Write_order_facts=(5, 5, 0)))))
        assert 'data-kind="refused"' in html
        assert 'data-tone="bad"' not in html

    def test_counts_are_on_the_edges(self) -> None:
        """Messages out of the subscription, into each step, rows into each table, dead letters into the bucket."""
        edges = wide_layout(TREE, "sub", BRANCHES).edges
        counts = Counts(
            flows(Read_messages=(0, 9, 0), Decode_events=(8, 7, 1), Write_order_dead_letters=(2, 1, 0)), {"fact_order": 5}
        )
        found = {edge.target.name: passed_on(edge, counts) for edge in edges if not edge.refused}
        assert {name: amount for name, amount in found.items() if amount} == {
            "Read messages": 9,
            "Decode events": 8,
            "fact_order": 5,
            "order": 1,
        }

    def test_no_boxes_overlap(self) -> None:
        """Whatever the graph, each step, table and folder has its place, inside the picture."""
        many = Branch("a", "Model a facts", "Write a facts", "Write a dead letters", tuple(f"t{n}" for n in range(9)))
        lone = (Step("Read messages", (), (Step("Decode events", (), ()),)),)
        letters = Step("Write a dead letters", (), ())
        big = (Step("Read messages", (), (Step("Model a facts", (), (Step("Write a facts", (), (letters,)),)), *TREE)),)
        for steps, branches in ((TREE, BRANCHES), (big, (*BRANCHES, many)), (lone, BRANCHES), ((), ())):
            for layout in (wide_layout(steps, "sub", branches), tall_layout(steps, "sub", branches)):
                for one, other in combinations(layout.boxes, 2):
                    apart_across = one.right <= other.x or other.right <= one.x
                    assert apart_across or one.bottom <= other.y or other.bottom <= one.y, (one, other)
                assert all(box.x >= 0 and box.y >= 0 for box in layout.boxes)

    def test_every_box_leads_to_its_details(self) -> None:
        """By a link: a step to its own, a table and the dead letters to theirs, the subscription to the step that reads it."""
        html = Elements(join(pictures(Graph(TREE, "sub", "bucket", BRANCHES), Counts())))
        links = {value for name, value in html.attributes if name == "href"}
        assert {
            "/?step=Read+messages#step",
            "/?step=Decode+events#step",
            "/tables/fact_order",
            "/dead-letters?stream=order",
        } <= links

    @pytest.mark.parametrize(("is_whole", "words"), [(True, "0 dead letters"), (False, "12 objects")])
    def test_the_bucket_has_a_true_count(self, is_whole: bool, words: str) -> None:
        """Dead letters where all were read, otherwise the objects, which are listed."""
        html = graph.graph_view(sample(), sources(letters=Overview(group([], Settings()), is_whole, 0)))
        assert re.search(rf">dlq/order/</text><text[^>]*>{words}<", html)

    def test_what_is_not_known_is_not_zero(self) -> None:
        """Rows and dead letters that were not counted yet, an unknown backlog, a step that reports nothing."""
        html = join(pictures(Graph(TREE, "sub", "bucket", BRANCHES), Counts()))
        assert ("not counted yet" in html, "backlog unknown" in html, "not reported yet" in html) == (True, True, True)
        assert ">0 rows<" not in html

    def test_the_picture_is_said_in_a_table_too(self) -> None:
        """Who can't see the picture reads the same metrics in a table."""
        text = Elements(graph.graph_view(sample(), sources())).text
        assert "The graph as a table" in text
        assert re.search(r"Decode events20", text)

    @pytest.mark.parametrize(
        ("changes", "tone", "words"),
        [
            ({}, "good", "The pipeline is running on this machine since 1970-01-01 00:00:01 UTC (process 1)"),
            ({"waiting_for": "BigQuery"}, "bad", "is waiting for BigQuery"),
            ({"state": "gone"}, "bad", "was killed"),
            ({"state": "drained"}, "quiet", "has ended as drained"),
            ({"state": "none", "name": ""}, "quiet", "No pipeline is running"),
        ],
    )
    def test_the_state_is_a_sentence(self, changes: dict[str, object], tone: str, words: str) -> None:
        """What runs, what is wrong, and the next command."""
        found, sentence, remedy = state(sample(**changes))
        assert (found, words in sentence, remedy is None) == (tone, True, tone == "good")

    def test_what_a_screen_reader_announces_has_no_numbers(self) -> None:
        """The live region has no metrics, or it would be read out each second."""
        html = state_line(sample(waiting_for="BigQuery for 12 s"))
        heard = re.search(r'role="status" aria-live="polite">([^<]*)<', html)
        assert heard
        assert not re.search(r"\d", heard[1])


class TestWhatIsNoLongerCurrent:
    @pytest.mark.parametrize("state_name", ["gone", "failed", "drained"])
    def test_after_the_end_no_number_looks_current(self, state_name: str) -> None:
        """Totals and latency are marked, with the time at which they were true; rates are unknown; the backlog is current."""
        html = graph.graph_view(sample(state=state_name, backlog=3, backlog_at=NOW.timestamp() + 60), sources())
        tiles = {name: "data-stale" in attributes for attributes, name in re.findall(r"<div([^>]*)><dt>([^<]*)</dt>", html)}
        assert (tiles["Received"], tiles["Memory"], tiles["Backlog"]) == (True, True, False)
        assert html.count("as of 12:00:02") >= 6
        assert re.search(rf"Events per second</dt><dd><span class=\"value\">{UNKNOWN}<", html)

    def test_while_it_runs_nothing_is_marked(self) -> None:
        """Its numbers are those of the last second."""
        assert "data-stale" not in graph.graph_view(sample(), sources())

    def test_a_pipeline_that_hangs_is_marked_too(self) -> None:
        """It runs, and has reported nothing for a while."""
        silent = sample()
        assert silent.report is not None
        silent = msgspec.structs.replace(silent, report=msgspec.structs.replace(silent.report, condition="silent"))
        assert stale_since(silent) == NOW.timestamp() + 2

    @pytest.mark.parametrize(("seconds", "is_stale"), [(60, False), (600, True)])
    def test_a_job_that_reports_nothing(self, seconds: float, is_stale: bool) -> None:
        """Dataflow's metrics are up to some minutes old."""
        late = msgspec.structs.replace(sample(where="europe-west3"), now=NOW.timestamp() + 2 + seconds)
        assert (stale_since(late) is not None) == is_stale

    def test_every_view_has_the_same_totals(self) -> None:
        """With their time, so that no view contradicts another."""
        shown = [
            graph.graph_view(sample(), sources()),
            tables.tables_view(sample(), read(())),
            dead_letters.groups_view(sample(), read(Overview(group([], Settings()), True, 0)), "t", Search(), ()),
        ]
        sentence = "Since its start: 20 received, 2 refused, 0 rows written (as of 12:00:02 UTC)."
        assert [sentence in html for html in shown] == [True, True, True]


class TestStep:
    def text(self, name: str, counters: dict[str, int], **known: object) -> str:
        history = History()
        metrics = from_counters(counters, {}, SHOP, at=NOW.timestamp(), state="running", where=LOCAL, started=1.0, **known)
        history.add(metrics, NOW.timestamp())
        return Elements(step_view(name, Sample(report(history), now=NOW.timestamp()), BRANCHES, ("Inner",))).text

    def test_its_messages(self) -> None:
        """In, out, refused by reason, and in flight."""
        step = "Model order facts"
        counters = {f"in/{step}": 9, f"out/{step}": 5, f"refused_in/{step}": 3, f"reason_in/{step}/out_of_range": 3}
        text = self.text(step, counters)
        for words in ("in9", "out5", "refused3", "in flight1", "out_of_range3", "inner stepsInner"):
            assert words in text

    def test_what_it_waits_for(self) -> None:
        """The step whose table or bucket the sentence names; the others say that it is not theirs."""
        sentence = "BigQuery to accept rows of fact_order: 503"
        assert f"waits for{sentence}" in self.text("Write order facts", {}, waiting_for=sentence)
        assert "waits fornothing itself; the pipeline waits for BigQuery" in self.text(
            "Model order facts", {}, waiting_for=sentence
        )
        assert "waits fornothing" in self.text("Write order facts", {})

    @pytest.mark.parametrize(
        ("sentence", "name"),
        [
            ("BigQuery to accept rows of fact_order: 503", "Write order facts"),
            ("Table p.d.fact_inventory does not exist: no", "Write inventory facts"),
            ("the bucket to accept dead letters: 503", "Write order dead letters"),
            ("Pub/Sub: unavailable", "Read messages"),
        ],
    )
    def test_a_sentence_belongs_to_one_kind_of_step(self, sentence: str, name: str) -> None:
        """A table's name in another one is not that table."""
        found = [step for step in steps_of(SHOP) if belongs_to(sentence, step, BRANCHES)]
        assert name in found
        assert {step.rpartition(" ")[2] for step in found} == {name.rpartition(" ")[2]}

    def test_a_writing_step_has_its_tables_and_the_latency(self) -> None:
        """Rows of each table and when the last were appended; the time from publish to append."""
        text = self.text("Write inventory facts", {"rows/fact_inventory": 4, "latency/3": 4})
        assert "fact_inventory: 4 rows, none yet" in text
        assert "p50 75 ms" in text

    def test_an_unknown_step(self) -> None:
        """It says so."""
        assert "There is no such step" in self.text("Bake bread", {})


class TestHourChart:
    def hour(self, *received: int, every: float = 30.0) -> Hour:
        """An hour that ends with these totals."""
        start = NOW.timestamp() - every * len(received)
        readings = [
            PipelineMetrics(start + every * at, "running", LOCAL, started=1.0, received=total)
            for at, total in enumerate(received)
        ]
        return Hour(readings, NOW.timestamp() - 1)

    def chart(self, hour: Hour) -> str:
        return hour_chart("Events", hour, (Curve("received", hour.rate(lambda one: one.received)),), rate_text)

    def test_both_axes_have_ticks(self) -> None:
        """From 0 to a round number, and every full ten minutes."""
        html = self.chart(self.hour(0, 900, 4500))
        assert re.findall(r">([\d.]+/s)</text>", html) == ["200/s", "100/s", "0/s"]
        assert re.findall(r">(\d\d:\d\d)</text>", html) == ["11:10", "11:20", "11:30", "11:40", "11:50"]

    def test_every_part_has_its_time_and_value(self) -> None:
        """Under the pointer, without a script."""
        labels = re.findall(r'<i data-label="([^"]*)">', self.chart(self.hour(0, 900, 4500)))
        assert len(labels) == 120
        assert labels[-1] == "12:00:00 · received 120/s"
        assert labels[-2] == "11:59:30 · received 30/s"
        assert labels[0] == f"11:00:30 · received {UNKNOWN}"

    def test_an_empty_hour(self) -> None:
        """It says that nothing was recorded, without axes of nothing."""
        html = self.chart(self.hour())
        assert "Nothing was recorded in the last hour." in html
        assert "<svg" not in html


class TestDrawings:
    def test_a_gap_is_a_gap(self) -> None:
        """Where nobody looked there is no line."""
        html = line_chart("t", [Line("a", [(0, 1.0), (1, 2.0), (2, None), (3, 1.0), (4, 2.0)])], 4)
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
    html = graph.graph_view(Sample(report(history)), sources())
    assert "\u2013" in html
    assert "No pipeline is running" in html
