"""The benchmarks' own sums, page and pictures; and that each subject runs at all, at its smallest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cores, events, growth, latency, measure, report, results, tables
from benchmarks.events import to_publish
from benchmarks.hand_written import DECODER, Order
from benchmarks.measure import Ratio, Subject
from benchmarks.questions import QUESTIONS, Comparison
from tests.support import ROOT


def rates(*values: float | None) -> list[dict[str, Any]]:
    """Rounds with these rates; None for a round that failed."""
    return [{"error": "it\nfell over"} if value is None else {"rate": value} for value in values]


def run(events: int, items: int = 3, **metrics: Any) -> list[dict[str, Any]]:
    """The one round of a run of question 7."""
    services = {name: [70.0, 80.0] for name in ("pubsub", "storage", "bigquery")}
    cpu = dict.fromkeys(("pipeline", "pubsub", "storage", "bigquery", "watcher"), 0.5)
    return [{"events": events, "rows": 2 * events, "peak_mb": 300.0, "cpu": cpu, "services_mb": services, **metrics}]


MACHINE = {
    "cores": 2,
    "cpu": "some model",
    "memory_gb": 8,
    "system": "Linux x86_64",
    "python": "3.11.2",
    "packages": {"msgspec": "0.19"},
    "seed": 7,
}


class TestMeasure:
    def test_a_ratio_is_taken_round_by_round(self) -> None:
        """What slows a round slows both of it; min, median and max are of the ratios, not of the rates."""
        assert measure.ratio(rates(10, 20, 90), rates(5, 20, 30), "rate") == Ratio(1.0, 2.0, 3.0)

    def test_a_round_that_failed_has_no_ratio(self) -> None:
        """The other rounds are compared; none at all gives None."""
        assert measure.ratio(rates(10, None, 30), rates(5, 10, None), "rate") == Ratio(2.0, 2.0, 2.0)
        assert measure.ratio(rates(None), rates(5), "rate") is None

    def test_subjects_take_turns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A B A B, a long one only as often as it says, and each subject's metrics in the order of the rounds."""
        ran: list[str] = []

        def run_once(subject: Subject) -> dict[str, Any]:
            ran.append(subject.key)
            return {"rate": len(ran)}

        monkeypatch.setattr(measure, "run_once", run_once)
        subjects = (Subject("a", "m", "a", "a"), Subject("b", "m", "b", "b", max_rounds=1), Subject("c", "m", "c", "c"))
        found = measure.run(subjects, 2, lambda _: None)
        assert ran == ["a", "b", "c", "a", "c"]
        assert found == {"a": [{"rate": 1}, {"rate": 4}], "b": [{"rate": 2}], "c": [{"rate": 3}, {"rate": 5}]}

    @pytest.mark.slow
    def test_a_subject_that_fails_leaves_its_error(self) -> None:
        """And the next one runs."""
        subjects = (Subject("bad", "cores", "x", "no subject"), Subject("good", "decoding", "limit", "decoding"))
        found = measure.run(subjects, 1, lambda _: None)
        assert "benchmarks.cores --subject x ended with 0" in found["bad"][0]["error"]
        assert found["good"][0]["rate"] > 0


class TestEvents:
    def test_every_event_has_an_id_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also beyond the pool, where bodies come again; types take turns."""
        monkeypatch.setattr(events, "POOL", 30)
        published = list(to_publish(100))
        assert len({event.attributes["event_id"] for event in published}) == 100
        assert [event.event_type for event in published[30:33]] == ["order", "inventory", "user_activity"]
        assert published[31].data == published[1].data

    @pytest.mark.parametrize("items", [1, 3, 30])
    def test_orders_have_so_many_lines(self, items: int) -> None:
        """Each a product of its own, with a total that is the sum of the lines; the events stay valid."""
        orders = [event for event in to_publish(30, items) if event.event_type == "order"]
        for event in orders:
            order = DECODER.decode(event.data)
            assert isinstance(order, Order)
            assert event.lists["items"] == len(order.items) == len({item.product_id for item in order.items}) == items
            assert order.total_amount == sum(item.quantity * item.price for item in order.items)
        assert len(orders) == 10


class TestCalculations:
    def test_one_process_that_fills_a_core_gains_nothing_from_another(self) -> None:
        """The run is bound by that process, with two cores and with three."""
        found = cores.one_more({"pipeline": 4.0, "pubsub": 1.0, "bigquery": 1.0}, 4.0, cores=2)
        assert (found.critical, found.critical_then, found.gain) == ("pipeline", "pipeline", 1.0)
        assert (found.shares["pipeline"], found.busy) == (1.0, 1.5)

    def test_two_engines_that_share_the_cores_gain_from_a_third(self) -> None:
        """Six CPU seconds on two cores take three, on three cores two."""
        found = cores.one_more({"pipeline": 4.0, "pubsub": 1.0, "bigquery": 1.0}, 3.0, cores=2, engines=2)
        assert (found.critical, found.critical_then, found.gain) == ("2 cores", "3 cores", 1.5)

    def test_time_on_a_line_is_linear(self) -> None:
        """Whatever the start takes; a run that takes twice as long as the line is off it."""
        cells = growth.runs({f"{n}x3": run(n, seconds=0.5 + n / 20_000) for n in (10_000, 100_000, 1_000_000)})
        line = growth.fit(cells)
        assert line is not None
        assert (round(line.start, 6), round(line.per_event * 1e6, 6), round(line.off, 6)) == (0.5, 50.0, 0.0)
        bent = growth.fit([*cells[:2], cells[2]._replace(seconds=2 * cells[2].seconds)])
        assert bent is not None
        assert bent.off > growth.TIME_WITHIN
        assert growth.fit(cells[:2]) is None

    def test_memory_spreads_from_the_smallest_peak_to_the_largest(self) -> None:
        """A fifth more is a spread of 0.2."""
        assert growth.spread(growth.runs({"1x3": run(1, seconds=1), "2x3": run(2, seconds=1, peak_mb=360.0)})) == pytest.approx(
            0.2
        )

    def test_latency_quantiles_are_nearest_ranks(self) -> None:
        """Of a hundred, the fiftieth and the ninety-ninth; every one lies in a bin."""
        found = latency.summary([number / 1000 for number in range(100, 0, -1)], 500)
        assert (found["p50"], found["p99"], found["max"]) == (0.05, 0.099, 0.1)
        assert (sum(found["bins"]), len(found["bins"])) == (100, 5)


class TestPage:
    @pytest.mark.parametrize(
        ("one", "median", "cell"),
        [
            (Comparison("a", "b", "rate", at_least=2), 2.0, "yes"),
            (Comparison("a", "b", "rate", at_least=2), 1.99, "**no**"),
            (Comparison("a", "b", "rate", at_most=2), 2.0, "yes"),
            (Comparison("a", "b", "rate", at_most=2), 2.01, "**no**"),
            (Comparison("a", "b", "rate"), 1.0, ""),
        ],
    )
    def test_the_median_decides_whether_the_target_is_met(self, one: Comparison, median: float, cell: str) -> None:
        """At least, at most, or without a target."""
        assert tables.verdict(one, Ratio(0.0, median, 100.0)) == cell

    def test_a_section_has_ratios_and_failures(self) -> None:
        """Also where a target was missed, and where a subject has no metrics at all."""
        rounds = {"ecomflow": rates(50, 60, None), "limit": rates(200, 100, 100), "pydantic": rates(None, None, None)}
        lines = "\n".join(report.section(QUESTIONS["decoding"], rounds))
        assert "| 2 | 0.25 | 0.42 | 0.60 | at least 0.5 | **no** |" in lines
        assert "json, pydantic models, a dict per row | 0 |  |  |  | at least 4 | not measured |" in lines
        assert "Failed in 3 of 3 rounds: json, pydantic models, a dict per row: `fell over`" in lines

    def test_a_page_names_the_machine_and_what_is_missing(self) -> None:
        """The machine once, and again where a question was measured on another."""
        entry = {"machine": MACHINE, "rounds": {"ecomflow": rates(5), "limit": rates(10), "pydantic": rates(1)}}
        other = {"machine": {**MACHINE, "cores": 8}, "rounds": {}}
        page = report.page({"decoding": entry, "graph": other})
        assert page.count("2 cores (some model), 8 GB, Linux x86_64, Python 3.11.2; msgspec 0.19; seed 7.") == 1
        assert page.count("Measured on: 8 cores") == 1
        assert "Not measured yet: End to end on the local stack" in page

    @pytest.mark.slow
    def test_every_question_has_its_tables_and_its_picture(self, tmp_path: Path) -> None:
        """A whole set of metrics gives every table its target; the same metrics give the same pictures, without a date."""
        from benchmarks.pictures import draw

        found = {key: {"machine": MACHINE, "rounds": rounds} for key, rounds in sample().items()}
        page = report.page(found)
        assert "| 1 | 0.80 | 0.40 | 0.40 | 0.00 | 0.40 | 2.00 | 2 cores | pipeline | 1.25 times |" in page
        assert "| 1.00 s | 0.50 s | 0.50 s | 25% | under 50% | yes |" in page
        assert "| ecomflow --help | 0.15 | 0.10 | 1.50 | no | within 2 times, no Beam | yes |" in page
        assert "| bigquery | 1.90 | 1.00% | 70 | under 3% | yes |" in page
        assert "| 2.00 | 3.00 | 1.90 | 1.05, 1.05, 1.05 | median under 1.3 | yes |" in page
        assert (
            "Not measured yet: Decoding, validating and modelling, one core; The Beam graph without I/O on FnApiRunner." in page
        )
        assert "| the puller | 60,000 | 9,000 | at least 5,000 | yes |" in page
        assert "| ecomflow deploy | 60,000 | 4,000 | at least 5,000 | **no** |" in page
        first = {path.name: path.read_bytes() for path in draw(found, tmp_path)}
        second = {path.name: path.read_bytes() for path in draw(found, tmp_path)}
        assert first == second
        assert first.keys() == {f"performance-{key}.svg" for key in found}
        assert all(b"<dc:date>" not in picture for picture in first.values())

    def test_a_partial_run_keeps_the_other_questions(self, tmp_path: Path) -> None:
        """One question's metrics take the place of its own, and are rounded to significant digits."""
        path = tmp_path / "results.json"
        results.keep("graph", {"loop": rates(1.0)}, path)
        results.keep("decoding", {"limit": rates(123.456789)}, path)
        results.keep("graph", {"loop": rates(0.123456)}, path)
        kept = results.load(path)
        assert {key: entry["rounds"] for key, entry in kept.items()} == {
            "graph": {"loop": [{"rate": 0.1235}]},
            "decoding": {"limit": [{"rate": 123.457}]},
        }
        assert kept["graph"]["machine"]["seed"] == 7

    def test_the_page_is_that_of_the_results(self) -> None:
        """docs/performance.md says what benchmarks/results.json holds: python -m benchmarks --render."""
        found = results.load()
        assert (ROOT / "docs" / "performance.md").read_text() == report.page(found)
        for key in found:
            assert (ROOT / "docs" / "pictures" / f"performance-{key}.svg").exists()


def sample() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """A round of each question that has tables of its own."""
    whole = run(100_000, rate=25_000.0, seconds=1.25, seconds_from_start=2.0, steady_rate=None, cores=2)
    whole[0]["cpu"] = {"pipeline": 1.0, "pubsub": 0.5, "bigquery": 0.5, "storage": 0.0, "watcher": 0.5}
    from benchmarks.cost import HOW

    shares = {"generating": 1.0, "publishing": 0.5, "serving": 0.5, "publisher_share": 0.25, "command_seconds": 2.0}
    started = [{"seconds": 0.15, "typer_seconds": 0.1, "ratio": 1.5, "beam": False}]
    million = [dict.fromkeys(HOW, 1.0)]
    idle = {name: {"cpu_share": 0.01, "mb": 70.0} for name in ("pubsub", "storage", "bigquery")}
    pulled = {"ecomflow": 9000.0, "one-by-one": 1000.0, "pipeline": 4000.0, "near": 90_000.0}
    seen = latency.summary([0.1, 0.2, 0.3], 500)
    return {
        "end-to-end": {"ecomflow": whole, "two": whole, "beam": whole, "loop": whole},
        "latency": {"ecomflow": [seen]},
        "growth": {f"{n}x{items}": run(n, items, seconds=n / 20_000) for n in (10, 100, 1000) for items in (1, 3, 30)},
        "publishing": {"ecomflow": [{"rate": 100.0, **shares}], "one-by-one": rates(2), "one-by-one-at-once": rates(5)},
        "starting": {"help": started, "dry-run": started},
        "cost": {"ecomflow": million, "write-to-bigquery": million},
        "pulling": {key: [{"events": 60_000, "rate": rate}] for key, rate in pulled.items()},
        "stack": {"stack": [{"ready": 2.0, "command": 3.0, "idle": idle}], **{name: [{"ready": 1.9}] for name in idle}},
    }


def metrics_of(module: str, subject: str, *arguments: str) -> dict[str, Any]:
    """What a subject prints last."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", "--subject", subject, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    metrics: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return metrics


@pytest.mark.stack
@pytest.mark.slow
class TestSubjects:
    @pytest.mark.parametrize(("subject", "events"), [("two", 90), ("beam", 6), ("loop", 90)])
    def test_a_backlog_becomes_rows(self, subject: str, events: int) -> None:
        """Every way end to end finishes, with the rows counted and the CPU of each process."""
        metrics = metrics_of("end_to_end", subject, "--events", str(events), "--items", "2")
        assert (metrics["events"], metrics["rows"]) == (events, events // 3 * 7)
        assert metrics["rate"] > 0
        assert metrics["cpu"].keys() == {"pipeline", "pubsub", "storage", "bigquery", "watcher"}

    @pytest.mark.parametrize("subject", ["ecomflow", "one-by-one", "near"])
    def test_pulling_ends_with_nothing_left(self, subject: str) -> None:
        """Each way takes what was published."""
        metrics = metrics_of("pulling", subject, "--events", "300")
        assert metrics["events"] == 300
        assert metrics["rate"] > 0

    def test_latency_is_that_of_every_event(self) -> None:
        """Two seconds at 50 events a second are a hundred latencies."""
        metrics = metrics_of("latency", "ecomflow", "--rate", "50", "--seconds", "2")
        assert metrics["events"] == sum(metrics["bins"]) == 100
        assert 0 < metrics["p50"] <= metrics["p99"] <= metrics["max"]

    def test_a_stack_answers_and_idles(self) -> None:
        """The whole stack, and a service alone."""
        metrics = metrics_of("stack", "stack", "--idle", "0.2")
        assert metrics["idle"].keys() == {"pubsub", "storage", "bigquery"}
        assert 0 < metrics["ready"] <= metrics["command"]
        assert metrics_of("stack", "storage")["ready"] > 0
