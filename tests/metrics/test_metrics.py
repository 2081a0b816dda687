"""Metrics: from counters, from the local pipeline's status, from a Dataflow job; their rates; and what is wrong by them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ecomflow.config import DataflowSettings, Endpoints, Settings
from ecomflow.errors import UnavailableError
from ecomflow.gcp.target import Target
from ecomflow.generator import publisher, rounds
from ecomflow.jobs.backlog import Backlog, Waiting
from ecomflow.jobs.metrics import MetricsReader, local_metrics, with_backlog
from ecomflow.metrics.history import Condition, History, Latency, condition, condition_now, messages_in_by, report, rows_of
from ecomflow.metrics.snapshot import (
    LATENCY_BOUNDS,
    PipelineMetrics,
    StepMetrics,
    TableMetrics,
    from_counters,
    quantile,
    step_metrics,
    steps_of,
)
from ecomflow.pipeline import counters
from ecomflow.pipeline.direct.launch import STATUS_FILE, PipelineStatus, Processes, locked
from ecomflow.terminal.sparklines import sparkline
from tests.support import dataflow_stub
from tests.support.contract import SHOP
from tests.support.dataflow_stub import DataflowStub, running_stub

START = 1_764_547_200.0
NO_LATENCY = (0,) * (len(LATENCY_BOUNDS) + 1)


def metrics(at: float, received: int = 0, **known: Any) -> PipelineMetrics:
    """The metrics of a local pipeline ``at`` seconds after its start at START; ``rows`` of fact_order, ``refused`` messages."""
    counts = {
        "received": received,
        "in/Decode events": received,
        "rows/fact_order": known.pop("rows", 0),
        "refused/malformed_json": known.pop("refused", 0),
    }
    fields = {"state": "running", "where": "local", "name": "process 7", "started": START} | known
    return from_counters(counts, {}, SHOP, at=START + at, **fields)


def history(*readings: PipelineMetrics, kept: float = 300.0) -> History:
    """Each of ``readings`` was read at the time at which it was taken."""
    found = History(kept)
    for one in readings:
        found.add(one, one.at)
    return found


def trouble(history: History) -> str | None:
    """What is wrong, in a sentence; None: nothing."""
    return condition(history).trouble


class TestFromCounters:
    def test_steps_stand_in_the_order_of_the_graph(self) -> None:
        """Every step of the graph, counted or not; those of another version of it after them."""
        found = step_metrics(
            {"in/Decode events": 9, "out/Decode events": 7, "refused_in/Decode events": 2, "in/Old step": 1}, steps_of(SHOP)
        )
        assert [step.step for step in found] == [*steps_of(SHOP), "Old step"]
        assert found[1] == StepMetrics("Decode events", 9, 7, 2)

    def test_another_version_or_type_leaves_the_other_steps_as_they_are(self) -> None:
        """A running job's update finds them by their labels; a type of one's own adds its branch."""
        second = [msgspec.structs.replace(one, version=2) for one in SHOP]
        assert steps_of([*SHOP, *second]) == steps_of(SHOP)
        refund = msgspec.structs.replace(SHOP[0], event="refund", type="refund")
        more = steps_of([*SHOP, refund])
        assert [step for step in more if "refund" not in step] == list(steps_of(SHOP))
        assert len(more) == len(steps_of(SHOP)) + 3

    def test_what_was_counted_is_reported(self) -> None:
        """Each metric comes from its counters or gauges; without any it is 0 or unknown."""
        counts = {
            "received": 9,
            "rows/fact_inventory": 4,
            "refused/out_of_range": 1,
            "refused/malformed_json": 2,
            "latency/2": 3,
            "bundles": 5,
            "retries": 6,
            "schema_drift/order/$.x": 8,
        }
        gauges = {"memory_bytes": 1e6, "last_append/fact_inventory": START}
        found = from_counters(counts, gauges, SHOP, at=START, state="running", where="local")
        assert (found.received, found.bundles, found.retries, found.memory_bytes) == (9, 5, 6, 1_000_000)
        assert list(found.refused.items()) == [("malformed_json", 2), ("out_of_range", 1)]
        assert found.latency == (0, 0, 3, *NO_LATENCY[3:])
        assert TableMetrics("fact_inventory", 4, START) in found.tables
        assert (found.backlog, from_counters({}, {}, SHOP, at=0, state="none", where="local").memory_bytes) == (None, None)


class TestQuantile:
    @pytest.mark.parametrize(
        ("buckets", "share", "expected"),
        [
            ({}, 0.5, None),
            ({0: 10}, 0.5, 0.005),
            ({5: 1, 6: 1}, 0.5, 0.2),
            ({5: 10, 6: 10}, 0.75, 0.25),
            ({3: 99, 8: 1}, 0.99, 0.1),
            ({len(LATENCY_BOUNDS): 1}, 0.5, 1800.0),
        ],
    )
    def test_it_is_interpolated_within_its_bucket(self, buckets: dict[int, int], share: float, expected: float | None) -> None:
        """Between the bucket's bounds by how many are in it; no more than the last bound; None of nothing."""
        counts = [buckets.get(bucket, 0) for bucket in range(len(LATENCY_BOUNDS) + 1)]
        found = quantile(counts, share)
        assert found == (None if expected is None else pytest.approx(expected))


class TestSparkline:
    def test_a_character_a_number(self) -> None:
        """From 0 to the highest; the lowest block is 0's alone; what is not known is blank."""
        assert sparkline([None, 0, 1, 50, 100]) == " ▁▂▅█"
        assert sparkline([0, 0]) == "▁▁"
        assert sparkline([]) == ""


class TestRates:
    def test_a_rate_is_the_mean_of_the_last_seconds(self) -> None:
        """What was counted in the last ten seconds, by the times at which it was reported."""
        found = history(*(metrics(at, 100 * at, rows=50 * at, refused=10 * at) for at in range(30))).rates()
        assert found is not None
        assert (found.seconds, found.received, found.refused) == (10.0, 100.0, 10.0)
        assert [rate.rows for rate in found.tables if rate.table == "fact_order"] == [50.0]
        assert [rate.messages_in for rate in found.steps if rate.step == "Decode events"] == [100.0]

    def test_metrics_that_come_seldom_are_compared_with_those_before(self) -> None:
        """Dataflow reports its counters about twice a minute."""
        found = history(metrics(0, 0), metrics(40, 400), metrics(70, 1000)).rates()
        assert found is not None
        assert (found.seconds, found.received) == (30.0, 20.0)

    def test_what_was_not_reported_again_changes_no_rate(self) -> None:
        """Read twice, it counts once; the newer reading, with its backlog, takes the other's place."""
        found = history(metrics(0, 0), metrics(1, 100))
        found.add(metrics(1, 100, backlog=3), START + 2)
        rates = found.rates()
        assert rates is not None
        assert (rates.received, len(found)) == (100.0, 2)
        assert found.latest == metrics(1, 100, backlog=3)

    @pytest.mark.parametrize(
        "anew",
        [
            pytest.param(metrics(10, 5, started=START + 9), id="another process"),
            pytest.param(metrics(10, 5), id="a count that fell"),
            pytest.param(metrics(10, 0, state="none", started=None), id="none"),
        ],
    )
    def test_there_is_none_across_two_lives(self, anew: PipelineMetrics) -> None:
        """Counts that begin anew make no rate, least of all a negative one, until there are two readings of them."""
        found = history(metrics(8, 800), metrics(9, 900), anew)
        assert found.rates() is None
        found.add(msgspec.structs.replace(anew, at=anew.at + 1, received=15), anew.at + 1)
        rates = found.rates()
        assert (None if rates is None else rates.received) == (None if anew.state == "none" else 10.0)

    def test_there_is_none_of_what_has_ended(self) -> None:
        """A pipeline that is gone moves nothing, whatever its last metrics say."""
        assert history(metrics(0, 0), metrics(1, 9), metrics(2, 9, state="gone")).rates() is None

    def test_old_metrics_are_forgotten(self) -> None:
        """Only the last minutes are kept, and one reading from before them, where the first rate begins."""
        found = history(*(metrics(at, at) for at in range(0, 100, 10)), kept=35.0)
        assert [one.received for one in found.life()] == [50, 60, 70, 80, 90]


class TestSeries:
    def test_a_mean_a_part_of_the_time(self) -> None:
        """Parts of equal length, oldest first; what was before the first reading is not known."""
        found = history(*(metrics(at, 10 * at if at < 20 else 200 + 30 * (at - 20)) for at in range(31)))
        series = found.series(lambda one: one.received, 6, seconds=60)
        assert series == [None, None, 10.0, 10.0, 30.0, None]

    @pytest.mark.parametrize("step", [86_400, -86_400], ids=["forward", "back"])
    def test_after_a_step_of_the_wall_clock_it_flows_on(self, step: int) -> None:
        """Rates and series come back with the second reading after it, and what lies in the time to come is not kept."""
        before = [metrics(at, 10 * at) for at in range(20)]
        after = [metrics(at + step, 10 * at, started=START + step) for at in range(20, 40)]
        found = history(*before, *after)
        rates = found.rates()
        assert rates is not None
        assert rates.received == 10
        assert found.series(lambda one: one.received, 10, 10)[-5:-1] == pytest.approx([10] * 4)
        assert len(found) <= 22
        assert trouble(found) is None

    def test_between_two_lives_nothing_flows(self) -> None:
        """Counts that begin anew are no fall: the series stays at 0 or above."""
        lives = [metrics(at, 10 * at) for at in range(10)]
        lives += [metrics(at, 10 * (at - 15), started=START + 15) for at in range(15, 25)]
        series = history(*lives).series(lambda one: one.received, 5, seconds=25)
        assert all(number is None or 0 <= number <= 10.01 for number in series)

    def test_a_reading_is_no_series(self) -> None:
        """One reading has no rate."""
        assert history(metrics(1)).series(rows_of("fact_order"), 3) == [None, None, None]

    def test_what_a_view_draws(self) -> None:
        """Rows of a table; the messages in of a step, and of the first, which has none, the messages out."""
        read = from_counters({"out/Read messages": 5, "rows/fact_order": 2}, {}, SHOP, at=0, state="running", where="local")
        assert [of(read) for of in (messages_in_by("Read messages"), rows_of("fact_order"), rows_of("none"))] == [5, 2, 0]


class TestLatency:
    def test_of_the_last_minute_where_something_was_written(self) -> None:
        """The messages of the last minute; of all since the beginning where there were none."""
        slow, quick = (len(LATENCY_BOUNDS), 4)
        buckets = [list(NO_LATENCY) for _ in range(3)]
        buckets[0][slow] = buckets[1][slow] = buckets[2][slow] = 5
        buckets[2][quick] = 10
        first, second, third = (
            msgspec.structs.replace(metrics(at), latency=tuple(one)) for at, one in zip((0, 100, 130), buckets, strict=True)
        )
        assert history(first, second, third).latency() == Latency(10, pytest.approx(0.125), pytest.approx(0.1495), 30.0)
        assert history(first, second).latency() == Latency(5, 1800.0, 1800.0, None)
        assert History().latency() == Latency(0, None, None)


class TestTrouble:
    """Each sentence says what is wrong and ends with the next command."""

    def test_none_where_it_flows(self) -> None:
        """A pipeline that moves, or has nothing to do, is well."""
        assert trouble(history(*(metrics(at, at, backlog=9, oldest_unacked_seconds=50.0) for at in range(60)))) is None
        assert trouble(history(metrics(0, 5), metrics(100, 5, backlog=0))) is None
        assert condition(history(metrics(0, 5))) == Condition("running", None)
        assert condition(history(metrics(0, state="draining", where="europe-west1"))).name == "draining"

    @pytest.mark.parametrize(
        ("reading", "sentence"),
        [
            (metrics(0, state="none", name="", started=None), "No pipeline is running. Start it with: ecomflow deploy --detach"),
            (
                metrics(0, state="none", name="", where="europe-west1"),
                "No pipeline is running. Start it with: ecomflow deploy",
            ),
            (
                metrics(0, state="none", name="", backlog_unknown="The local stack is not running.\nRun: ecomflow infra up"),
                "No pipeline is running. The local stack is not running. Run: ecomflow infra up",
            ),
            (
                metrics(0, state="none", name="", backlog_unknown="The emulator does not report the backlog."),
                "No pipeline is running. Start it with: ecomflow deploy --detach",
            ),
            (
                metrics(0, state="gone", backlog=1),
                "The pipeline (process 7) was killed; 1 message is waiting; unacknowledged messages will be redelivered. "
                "Start it with: ecomflow deploy --detach",
            ),
            (
                metrics(0, state="failed", last_failure="Table x does not exist.\nRun: ecomflow infra up"),
                "The pipeline (process 7) has failed: Table x does not exist. Run: ecomflow infra up. See: ecomflow job logs",
            ),
            (
                metrics(0, state="drained", backlog=1200),
                "The pipeline (process 7) has ended as drained; 1,200 messages are waiting. "
                "Start it with: ecomflow deploy --detach",
            ),
        ],
    )
    def test_nothing_runs(self, reading: PipelineMetrics, sentence: str) -> None:
        """Why, what waits meanwhile, and how to start it."""
        assert trouble(history(reading)) == sentence

    def test_it_waits_for_a_service(self) -> None:
        """At once, in the pipeline's own words."""
        readings = metrics(1, waiting_for="BigQuery to accept rows of fact_order:\n503 try again")
        sentence = "The pipeline is waiting for BigQuery to accept rows of fact_order: 503 try again. See: ecomflow infra status"
        assert condition(history(readings)) == Condition("waiting", sentence)

    def test_it_restarts(self) -> None:
        """Within the last minute; earlier ones are only counted."""
        known: dict[str, Any] = {"restarts": 2, "last_failure": "Out of luck."}
        restarted = metrics(64, last_restart=START + 5, **known)
        sentence = "The pipeline has restarted in the last minute, 2 times in total: Out of luck. See: ecomflow job logs"
        assert condition(history(restarted)) == Condition("restarting", sentence)
        assert condition(history(metrics(65, last_restart=START + 5, **known))) == Condition("running", None)

    def test_a_service_of_the_local_stack_does_not_answer(self) -> None:
        """Which ones, what the pipeline waits for therefore, and how to start them."""
        silent = metrics(0, silent_services=("storage",))
        assert condition_now(silent, START) == Condition(
            "degraded", "storage of the local stack does not answer. Run: ecomflow infra up"
        )
        both = metrics(0, silent_services=("storage", "bigquery"), waiting_for="BigQuery to answer")
        assert trouble(history(both)) == (
            "storage and bigquery of the local stack do not answer, and the pipeline is waiting for BigQuery to answer. "
            "Run: ecomflow infra up"
        )

    def test_its_status_is_damaged(self) -> None:
        """A pipeline of which nothing can be read is not called running."""
        found = condition_now(local_metrics(PipelineStatus("running", last_failure="Its report is lost."), SHOP, START), START)
        assert found == Condition("silent", "The pipeline runs. Its report is lost. See: ecomflow job logs")

    def test_it_has_reported_nothing_for_a_while(self) -> None:
        """A process that hangs writes no status; Dataflow's metrics may be older."""
        silent = history(metrics(0))
        silent.now = START + 25
        assert trouble(silent) == (
            "The pipeline (process 7) has reported nothing for 25 s: it hangs, or the disk is full. See: ecomflow job logs"
        )
        far = history(metrics(0, where="europe-west1"))
        far.now = START + 25
        assert trouble(far) is None

    def test_messages_wait_and_nothing_moves(self) -> None:
        """After half a minute, with the first step that holds something."""
        stuck = [metrics(at, 5, backlog=7, oldest_unacked_seconds=float(at)) for at in range(0, 45, 5)]
        assert trouble(history(*stuck[:6])) is None
        assert condition(history(*stuck)) == Condition(
            "stuck",
            "7 messages are waiting, and there has been no progress for 40 s: the step 'Decode events' has 5 in flight. "
            "See: ecomflow job logs",
        )

    def test_young_messages_are_no_trouble(self) -> None:
        """A pipeline that had nothing to do for minutes is not stuck on what has come just now."""
        assert trouble(history(metrics(0, 5), metrics(300, 5, backlog=7, oldest_unacked_seconds=0.4))) is None

    def test_one_look_is_enough_where_the_last_append_is_known(self) -> None:
        """A script that reads only twice sees it too: tables keep the time of their last rows."""
        table = TableMetrics("fact_order", 5, START + 10)
        readings = [
            msgspec.structs.replace(metrics(at, 5, backlog=7, oldest_unacked_seconds=55.0), steps=(), tables=(table,))
            for at in (60, 61)
        ]
        assert (
            trouble(history(*readings))
            == "7 messages are waiting, and there has been no progress for 51 s. See: ecomflow job logs"
        )

    def test_it_is_stuck_after_a_restart(self) -> None:
        """What failed last is what it is stuck on."""
        readings = [metrics(at, 5, backlog=7, restarts=3, last_failure="Table x does not exist.") for at in range(0, 100, 10)]
        assert trouble(history(*readings)) == (
            "7 messages are waiting, and there has been no progress for 90 s: Table x does not exist. See: ecomflow job logs"
        )


class TestReport:
    def test_it_is_all_that_a_view_shows(self) -> None:
        """The metrics, their rates and latency, the condition and what is wrong; as JSON it is read back as it was."""
        found = report(history(metrics(0, 0), metrics(1, 9, waiting_for="nothing")))
        assert found is not None
        assert found.rates is not None
        assert (found.metrics.received, found.rates.received) == (9, 9.0)
        assert (found.condition, found.trouble is None) == ("waiting", False)
        assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found
        assert report(History()) is None


class TestLocalMetrics:
    def test_the_status_file_is_reported(self) -> None:
        """What the pipeline counts, when it reported that, and how many processes it has."""
        status = PipelineStatus(
            "running",
            7,
            counters={"received": 3},
            gauges={"memory_bytes": 5.0},
            restarts=1,
            last_restart=START + 4,
            last_failure="bad luck",
            waiting_for="a bus",
            started=START,
            updated=START + 9,
            processes=Processes(2, (8, 9)),
        )
        found = local_metrics(status, SHOP)
        assert (found.at, found.state, found.where, found.started) == (START + 9, "running", "local", START)
        assert found.name == "process 7"
        assert (found.received, found.memory_bytes, found.restarts, found.processes) == (3, 5, 1, 2)
        assert (found.last_restart, found.last_failure, found.waiting_for) == (START + 4, "bad luck", "a bus")

    def test_no_pipeline(self) -> None:
        """It is reported so, as of now."""
        found = local_metrics(PipelineStatus("none"), SHOP, START)
        assert (found.at, found.state, found.name, found.started) == (START, "none", "", None)


class TestReader:
    def test_the_backlog_of_google_cloud_is_as_old_as_its_sample(self) -> None:
        """Its time is Cloud Monitoring's; without a sample it is unknown, and the reason is given."""
        sampled = datetime.fromtimestamp(START - 180, UTC)
        found = with_backlog(metrics(0), Backlog(Waiting(7, sampled), 200.0), START)
        assert (found.backlog, found.oldest_unacked_seconds, found.backlog_at) == (7, 200.0, START - 180)
        unknown = [with_backlog(metrics(0), backlog, START) for backlog in (None, UnavailableError("Busy.", "Wait."))]
        assert [(one.backlog, one.backlog_unknown) for one in unknown] == [
            (None, "Cloud Monitoring has no sample of the last ten minutes."),
            (None, "Busy.\nWait."),
        ]

    def test_without_a_local_stack(self, tmp_path: Path) -> None:
        """The pipeline's state is shown all the same, and that the stack is not running."""
        settings = Settings(state_dir=str(tmp_path))
        found = MetricsReader(settings, lambda: Target(settings, Endpoints()), here=True).read()
        assert (found.state, found.where) == ("none", "local")
        assert found.backlog_unknown == f"The local stack in {tmp_path}/ is not running.\nRun: ecomflow infra up"

    @pytest.mark.parametrize("step", [86_400, -86_400], ids=["forward", "back"])
    def test_a_step_of_the_wall_clock_makes_no_status_old(self, step: int, tmp_path: Path) -> None:
        """What was readings a second before the step is a second old after it, and the pipeline is well."""
        readings = PipelineStatus(
            "running",
            7,
            counters={"received": 9},
            gauges={"last_append/fact_order": START + 50},
            started=START,
            updated=START + 100,
            updated_steady=600.0,
        )
        settings = Settings(state_dir=str(tmp_path))
        reader = MetricsReader(
            settings, lambda: Target(settings, Endpoints()), here=True, clock=lambda: START + 101 + step, steady=lambda: 601.0
        )
        with locked(tmp_path):
            (tmp_path / STATUS_FILE).write_bytes(msgspec.json.encode(readings))
            found = reader.read()
        assert (found.at, found.started) == (START + 100 + step, START + step)
        assert {table.table: table.last_append for table in found.tables}["fact_order"] == START + 50 + step
        readings = History()
        readings.add(found, START + 101 + step)
        assert trouble(readings) is None

    def test_what_has_ended_in_an_earlier_boot_stays_as_reported(self, tmp_path: Path) -> None:
        """Its steady clock was another one."""
        readings = PipelineStatus("drained", 7, started=START, updated=START + 100, updated_steady=900_000.0)
        (tmp_path / STATUS_FILE).write_bytes(msgspec.json.encode(readings))
        settings = Settings(state_dir=str(tmp_path))
        reader = MetricsReader(
            settings, lambda: Target(settings, Endpoints()), here=True, clock=lambda: START + 200, steady=lambda: 5.0
        )
        assert reader.read().at == START + 100

    def test_a_status_file_that_is_replaced_meanwhile(self, tmp_path: Path) -> None:
        """Each reading is of a whole file: the old one, the new one, or none."""
        settings = Settings(state_dir=str(tmp_path))
        reader = MetricsReader(settings, lambda: Target(settings, Endpoints()), here=True, clock=lambda: START)
        found = History()
        for at, received in enumerate((900, 5)):
            readings = PipelineStatus("drained", 7 + at, counters={"received": received}, started=START + at, updated=START + at)
            (tmp_path / STATUS_FILE).write_bytes(msgspec.json.encode(readings))
            found.add(reader.read(), START)
            (tmp_path / STATUS_FILE).unlink()
            found.add(reader.read(), START)
        assert all(number is None or number >= 0 for number in found.series(lambda one: one.received, 4))

    @pytest.mark.stack
    def test_the_local_pub_sub_counts_now(self, provisioned: Settings, target: Target) -> None:
        """Every unacknowledged message, and the age of the oldest of them."""
        publisher.publish(target, rounds.generate(2, seed=1, now=datetime.now(UTC)))
        found = MetricsReader(provisioned, lambda: target, here=True).read()
        assert (found.backlog, found.backlog_unknown) == (12, None)
        assert found.oldest_unacked_seconds is not None
        assert 0 <= found.oldest_unacked_seconds < 30


SETTINGS = Settings(project="ecom-test", dataflow=DataflowSettings(job_name="shop"))


class TestDataflow:
    @pytest.fixture
    def stub(self) -> Iterator[DataflowStub]:
        with running_stub() as stub:
            yield stub

    @pytest.fixture(autouse=True)
    def _without_credentials(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Cloud Monitoring is asked after the backlog; here nobody may."""
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))

    def read(self, stub: DataflowStub) -> PipelineMetrics:
        return MetricsReader(SETTINGS, lambda: Target(SETTINGS, Endpoints(dataflow=stub.url)), here=False).read()

    def test_a_jobs_counters_are_the_same_metrics(self, stub: DataflowStub) -> None:
        """By the names that Beam's counters have on both runners, summed over the steps that count them."""
        job_id = stub.add_job("shop", createTime="2025-12-01T00:00:00Z")
        counted = {"received": 9, "in/Decode events": 9, "out/Decode events": 8, "refused_in/Decode events": 1, "latency/3": 4}
        for name, amount in counted.items():
            stub.add_metric(job_id, name, amount, namespace=counters.NAMESPACE, step="s2")
        for step in ("s3", "s4"):
            stub.add_metric(job_id, "rows/fact_order", 3, namespace=counters.NAMESPACE, step=step)
        for minute, metric in enumerate(stub.metrics[job_id]):
            metric["updateTime"] = f"2025-12-01T00:0{minute}:00Z"
        stub.add_autoscaling(job_id, 3, 4)
        stub.add_message(job_id, "out of disk", dataflow_stub.ERROR)
        found = self.read(stub)
        assert (found.state, found.where, found.name) == ("running", "europe-west1", f"job shop ({job_id})")
        assert (found.started, found.at, found.processes) == (START, START + 360, 3)
        assert (found.received, found.steps[1], found.latency[3]) == (9, StepMetrics("Decode events", 9, 8, 1), 4)
        assert next(table for table in found.tables if table.table == "fact_order") == TableMetrics("fact_order", 6)
        assert (found.memory_bytes, found.last_failure) == (None, "out of disk")

    def test_a_backlog_that_nobody_may_see(self, stub: DataflowStub) -> None:
        """It is unknown, and the message says how to sign in; everything else is shown."""
        stub.add_job("shop")
        found = self.read(stub)
        assert (found.state, found.backlog) == ("running", None)
        assert "gcloud auth application-default login" in str(found.backlog_unknown)

    def test_no_such_job(self, stub: DataflowStub) -> None:
        """Where there is no job, none runs."""
        found = self.read(stub)
        assert (found.state, found.name) == ("none", "job shop")
