"""A job's life after its start: on Dataflow, by Google's own client against a stub of its API; and on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from ecomflow import infra
from ecomflow.cli import app
from ecomflow.config import DataflowSettings, Endpoints, Settings
from ecomflow.errors import AccessError, ConfigError, EcomflowError, NotFoundError, PipelineError, UnavailableError
from ecomflow.gcp.target import Target
from ecomflow.generator import publisher, rounds
from ecomflow.jobs import local, service, update
from ecomflow.jobs.client import JobsApi
from ecomflow.jobs.records import JobMessage, StepFit
from ecomflow.jobs.services import silent_services
from ecomflow.pipeline import counters
from ecomflow.pipeline.direct import launch, logs
from ecomflow.processes import json_lines
from ecomflow.processes.detached import free_port
from tests.support import dataflow_stub
from tests.support.cli import ecomflow, write_stack_file
from tests.support.dataflow_stub import DataflowStub, running_stub
from tests.support.running import count_waiting, running, settings_in
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

SETTINGS = Settings(project="ecom-test", dataflow=DataflowSettings(job_name="shop"))
NOW = datetime(2025, 12, 1, 12, tzinfo=UTC)
MORNING = "2025-12-01T10:00:00Z"


@pytest.fixture
def stub() -> Iterator[DataflowStub]:
    with running_stub() as stub:
        yield stub


@pytest.fixture
def api(stub: DataflowStub) -> JobsApi:
    return JobsApi(Target(SETTINGS, Endpoints(dataflow=stub.url)))


class FakeTime:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def clock(self) -> float:
        return self.seconds


def now() -> datetime:
    return NOW


def micros(moment: datetime) -> float:
    return moment.timestamp() * 1e6


class TestList:
    def test_ecomflows_own_newest_first(self, stub: DataflowStub, api: JobsApi) -> None:
        """Its own are those of the configured name, of a name that starts with ecomflow, or with a label of ecomflow's."""
        stub.add_job("shop", dataflow_stub.DRAINED, createTime="2025-12-01T08:00:00Z")
        stub.add_job("ecomflow-dev", createTime="2025-12-01T11:00:00Z")
        stub.add_job("labelled", createTime="2025-12-01T09:00:00Z", labels={"ecomflow-version": "0-1-0"})
        stub.add_job("other", createTime="2025-12-01T10:00:00Z", labels={"team": "shop"})
        stub.add_job("a-batch", createTime="2025-12-01T10:30:00Z", type=1)
        found = service.jobs(api, job_name="shop", now=now)
        assert [(job.name, job.state, job.age_seconds) for job in found] == [
            ("ecomflow-dev", "running", 3600.0),
            ("labelled", "running", 3 * 3600.0),
            ("shop", "drained", 4 * 3600.0),
        ]

    def test_names_are_those_that_status_takes(self, stub: DataflowStub, api: JobsApi) -> None:
        """Each listed job is found by its name and by its id."""
        stub.add_job("elsewhere-named", labels={"ecomflow-version": "0-1-0"})
        stub.add_job("shop")
        for job in service.jobs(api, job_name="shop", now=now):
            assert service.find(api, job.name, now=now) == service.find(api, job.id, now=now) == job

    def test_a_region_with_many_jobs(self, stub: DataflowStub, api: JobsApi) -> None:
        """Jobs of other names are asked for their labels up to a bound, the newest first; batch jobs are not asked."""
        for number in range(service.MOST_LOOKUPS + 5):
            stub.add_job(f"job-{number}", createTime=f"2025-12-01T{number // 60:02}:{number % 60:02}:00Z")
        stub.add_job("a-batch", type=1)
        assert service.jobs(api, job_name="shop") == []
        looked = stub.seen("GET", "jobs/.+")
        assert len(looked) == service.MOST_LOOKUPS
        assert {request.query["view"] for request in looked} == {str(dataflow_stub.VIEW_DESCRIPTION)}
        assert len(service.jobs(api, job_name="shop", everything=True, limit=2)) == 2
        assert len(stub.seen("GET", "jobs/.+")) == service.MOST_LOOKUPS + 2

    def test_a_job_that_has_gone_since(self, stub: DataflowStub, api: JobsApi) -> None:
        """A job that is no longer there when it is asked for its labels is listed as the list had it."""
        stub.add_job("shop")
        stub.fail("GET", "jobs/.+", 404)
        (job,) = service.jobs(api, job_name="shop")
        assert (job.name, job.labels) == ("shop", {})

    def test_everything(self, stub: DataflowStub, api: JobsApi) -> None:
        """With everything, all jobs of the region, over as many pages as they fill."""
        stub.page_size = 2
        for number in range(5):
            stub.add_job(f"job-{number}")
        stub.add_job("elsewhere", location="us-central1")
        assert len(service.jobs(api, job_name="shop", everything=True)) == 5

    def test_its_record_is_whole(self, stub: DataflowStub, api: JobsApi) -> None:
        """Id, kind, region, times and labels are the service's."""
        job_id = stub.add_job("shop", createTime=MORNING, currentStateTime=MORNING, labels={"team": "shop"})
        (job,) = service.jobs(api, job_name="shop", now=now)
        assert (job.id, job.kind, job.region, job.labels) == (job_id, "streaming", "europe-west1", {"team": "shop"})
        assert job.created == job.state_since == NOW - timedelta(hours=2)


class TestFind:
    def test_an_active_job_comes_before_newer_ones(self, stub: DataflowStub, api: JobsApi) -> None:
        """Of jobs of one name the active one is meant, even where a later one has ended."""
        active = stub.add_job("shop", createTime="2025-12-01T08:00:00Z")
        stub.add_job("shop", dataflow_stub.FAILED, createTime="2025-12-01T09:00:00Z")
        assert service.find(api, "shop").id == active

    def test_the_newest_of_those_that_have_ended(self, stub: DataflowStub, api: JobsApi) -> None:
        """Where none is active, the newest is meant."""
        stub.add_job("shop", dataflow_stub.DRAINED, createTime="2025-12-01T08:00:00Z")
        newest = stub.add_job("shop", dataflow_stub.CANCELLED, createTime="2025-12-01T09:00:00Z")
        assert service.find(api, "shop").id == newest

    def test_an_id_is_looked_up_as_such(self, stub: DataflowStub, api: JobsApi) -> None:
        """No list is read."""
        job_id = stub.add_job("shop", dataflow_stub.DRAINED)
        assert service.find(api, job_id).state == "drained"
        assert stub.seen("GET", "jobs$") == []

    @pytest.mark.parametrize("name", ["none", "2025-12-01_00_00_00-9"])
    def test_what_is_not_there(self, name: str, api: JobsApi) -> None:
        """For an unknown name or id the error names the project and the region that were searched."""
        with pytest.raises(NotFoundError, match=f"{name}.* ecom-test, europe-west1") as error:
            service.find(api, name)
        assert "ecomflow job list --all" in str(error.value.remedy)


class TestDetail:
    def test_it_tells_how_a_job_fares(self, stub: DataflowStub, api: JobsApi) -> None:
        """Workers by the last autoscaling event, lags by the oldest watermark, ecomflow's counters, the last errors of a day."""
        job_id = stub.add_job("shop", createTime=MORNING)
        stub.add_autoscaling(job_id, 1, 4, "2025-12-01T11:00:00Z")
        stub.add_autoscaling(job_id, 3, 4, "2025-12-01T11:30:00Z")
        for stage, behind in (("F1", 20), ("F2", 45)):
            stub.add_metric(job_id, f"{stage}-DataWatermark", micros(NOW) - behind * 1e6, origin="dataflow/v1b3")
            stub.add_metric(job_id, f"{stage}-SystemWatermark", micros(NOW) - 1e6, origin="dataflow/v1b3")
        stub.add_metric(job_id, "F3-DataWatermark", -2, origin="dataflow/v1b3")
        for metric in stub.metrics[job_id]:
            metric["updateTime"] = "2025-12-01T12:00:00Z"
        stub.add_metric(job_id, "received", 7200, namespace="ecomflow", step="s2")
        stub.add_message(job_id, "long ago", dataflow_stub.ERROR, "2025-11-29T10:00:00Z")
        for number in range(7):
            stub.add_message(job_id, f"error {number}", dataflow_stub.ERROR, f"2025-12-01T11:0{number}:00Z")
        stub.add_message(job_id, "a warning", dataflow_stub.WARNING, "2025-12-01T11:30:00Z")
        found = service.detail(api, service.find(api, "shop", now=now), now=now)
        assert (found.workers, found.target_workers) == (3, 4)
        assert (found.events_per_second, found.throughput_seconds) == (1.0, 7200.0)
        assert (found.data_freshness_seconds, found.system_lag_seconds) == pytest.approx((45.0, 1.0))
        assert found.counters == {"received": 7200}
        assert [error.text for error in found.errors] == [f"error {number}" for number in range(2, 7)]

    def test_what_dataflow_does_not_tell_is_none(self, stub: DataflowStub, api: JobsApi) -> None:
        """A job that has just been made has no workers, watermarks or counters."""
        stub.add_job("shop")
        found = service.detail(api, service.find(api, "shop"))
        facts = (found.workers, found.events_per_second, found.throughput_seconds, found.system_lag_seconds)
        assert facts == (None, None, None, None)
        assert (found.data_freshness_seconds, found.counters, found.errors) == (None, {}, ())

    def test_throughput_over_a_time(self, stub: DataflowStub, api: JobsApi) -> None:
        """With a time to measure over, what came in the meantime counts, and nothing before."""
        job_id = stub.add_job("shop")
        stub.add_metric(job_id, "received", 1000, namespace="ecomflow", step="s2")

        def sleep(seconds: float) -> None:
            assert seconds == 60
            stub.metrics[job_id][0]["scalar"] = 1600

        found = service.detail(api, service.find(api, "shop"), over=60, sleep=sleep)
        assert (found.events_per_second, found.throughput_seconds) == (10.0, 60)

    def test_workers_of_more_than_a_day_ago(self, stub: DataflowStub, api: JobsApi) -> None:
        """A job that has not been rescaled for a day still has its workers."""
        job_id = stub.add_job("shop")
        stub.add_autoscaling(job_id, 2, 2, "2025-11-01T00:00:00Z")
        assert service.detail(api, service.find(api, "shop")).workers == 2


class TestMetrics:
    def test_own_counters_are_summed_over_steps(self, stub: DataflowStub, api: JobsApi) -> None:
        """Committed values stand before tentative ones; a counter of several steps is one."""
        job_id = stub.add_job("shop")
        stub.add_metric(job_id, "rows/fact_order", 5, namespace="ecomflow", step="s3")
        stub.add_metric(job_id, "rows/fact_order", 9, namespace="ecomflow", step="s3", tentative="true")
        stub.add_metric(job_id, "rows/fact_order", 2, namespace="ecomflow", step="s4", tentative="true")
        stub.add_metric(job_id, "decoded/order", 4, namespace="ecomflow", step="s2")
        found = service.metrics(api, service.find(api, "shop"))
        assert list(found.own.items()) == [("decoded/order", 4), ("rows/fact_order", 7)]

    def test_others_stand_apart(self, stub: DataflowStub, api: JobsApi) -> None:
        """The service's metrics, and those of other namespaces, come by name and what they belong to; no parts, no texts."""
        job_id = stub.add_job("shop")
        stub.add_metric(job_id, "ElementCount", 12, origin="dataflow/v1b3", output_user_name="Read messages-out0")
        stub.add_metric(job_id, "latency", 3, namespace="other", step="s1")
        stub.add_metric(job_id, "latency_MAX", 3, namespace="other", step="s1")
        stub.add_metric(job_id, "names", "a text", namespace="other", step="s1")
        found = service.metrics(api, service.find(api, "shop"))
        assert (found.own, found.system) == ({}, {"ElementCount Read messages-out0": 12.0, "latency other s1": 3.0})

    def test_the_namespace_is_that_of_the_pipeline(self) -> None:
        """Metrics are recognised by the namespace under which the pipeline counts."""
        assert service.MARK == counters.NAMESPACE


class TestMessages:
    def test_by_level_and_time(self, stub: DataflowStub, api: JobsApi) -> None:
        """A level lets through itself and what is graver, by the service's order of them; a time leaves out what is older."""
        job_id = stub.add_job("shop")
        stub.add_message(job_id, "old", dataflow_stub.ERROR, "2025-12-01T09:00:00Z")
        for importance, text in ((dataflow_stub.DETAILED, "d"), (dataflow_stub.BASIC, "b"), (dataflow_stub.WARNING, "w")):
            stub.add_message(job_id, text, importance, "2025-12-01T11:00:00Z")
        found = service.messages(api, service.find(api, "shop"), "basic", NOW - timedelta(hours=2))
        at = NOW - timedelta(hours=1)
        assert found == [JobMessage(at, "basic", "b"), JobMessage(at, "warning", "w")]

    def test_following_shows_each_once_until_the_end(self, stub: DataflowStub, api: JobsApi) -> None:
        """Messages come as they are reported, also several of one instant; the last ones come with the end."""
        job_id = stub.add_job("shop")
        stub.add_message(job_id, "one", time="2025-12-01T10:00:00Z")
        later = iter([("two", "2025-12-01T10:00:00Z", None), ("three", "2025-12-01T10:00:01Z", dataflow_stub.DRAINED)])

        def sleep(_: float) -> None:
            text, when, state = next(later)
            stub.add_message(job_id, text, time=when)
            stub.jobs[job_id]["currentState"] = state or dataflow_stub.RUNNING

        shown = [message.text for message in service.follow(api, service.find(api, "shop"), sleep=sleep)]
        assert shown == ["one", "two", "three"]


class TestEnd:
    def test_a_drain_that_is_waited_for(self, stub: DataflowStub, api: JobsApi) -> None:
        """The job is asked to become drained once, and looked at until it is."""
        stub.drain_looks = 4
        stub.add_job("shop")
        asked, time_ = service.drain(api, service.find(api, "shop")), FakeTime()
        ended = service.wait_for(api, asked, "drained", 60, sleep=time_.sleep, clock=time_.clock)
        assert (asked.state, ended.state, time_.seconds) == ("draining", "drained", 15.0)
        assert [request.body["requestedState"] for request in stub.seen("PUT")] == [dataflow_stub.DRAINED]

    def test_a_drain_that_runs_already(self, stub: DataflowStub, api: JobsApi) -> None:
        """Asking again changes nothing."""
        stub.add_job("shop", dataflow_stub.DRAINING)
        assert service.drain(api, service.find(api, "shop")).state == "draining"
        assert stub.seen("PUT") == []

    def test_a_drain_can_still_be_cancelled(self, stub: DataflowStub, api: JobsApi) -> None:
        """A job that drains too long is cancelled."""
        stub.add_job("shop", dataflow_stub.DRAINING)
        asked = service.cancel(api, service.find(api, "shop"))
        assert (asked.state, service.wait_for(api, asked, "cancelled", 1).state) == ("cancelling", "cancelled")

    def test_a_wait_that_takes_too_long(self, stub: DataflowStub, api: JobsApi) -> None:
        """It says what state the job is in, and that it goes on."""
        stub.drain_looks = 1000
        stub.add_job("shop")
        asked, time_ = service.drain(api, service.find(api, "shop")), FakeTime()
        with pytest.raises(PipelineError, match=r"is draining after 60 s, not drained yet\. The request stays in effect\."):
            service.wait_for(api, asked, "drained", 60, sleep=time_.sleep, clock=time_.clock)

    def test_a_wait_for_a_job_that_fails(self, stub: DataflowStub, api: JobsApi) -> None:
        """It ends at once, with where to look."""
        job_id = stub.add_job("shop", dataflow_stub.FAILED)
        with pytest.raises(PipelineError, match="has ended as failed, not as drained") as error:
            service.wait_for(api, service.find(api, "shop"), "drained", 60)
        assert error.value.remedy == f"See: ecomflow job logs {job_id}"

    @pytest.mark.parametrize(
        ("state", "word"),
        [(dataflow_stub.DRAINED, "drained"), (dataflow_stub.CANCELLED, "cancelled"), (dataflow_stub.UPDATED, "updated")],
    )
    @pytest.mark.parametrize("end", [service.drain, service.cancel])
    def test_a_job_that_has_ended(self, end: Any, state: int, word: str, stub: DataflowStub, api: JobsApi) -> None:
        """The message has its state, and no request is sent."""
        stub.add_job("shop", state)
        with pytest.raises(PipelineError, match=f"is {word}: only a running job can be"):
            end(api, service.find(api, "shop"))
        assert stub.seen("PUT") == []

    def test_a_job_that_ends_meanwhile(self, stub: DataflowStub, api: JobsApi) -> None:
        """The service's conflict comes as a sentence."""
        job_id = stub.add_job("shop")
        job = service.find(api, "shop")
        stub.jobs[job_id]["currentState"] = dataflow_stub.FAILED
        with pytest.raises(PipelineError, match=r"refuses to change job .*already in a terminal state"):
            service.drain(api, job)


class TestFailures:
    """What the service refuses, or the way to it, is one of ecomflow's errors within seconds."""

    @pytest.mark.parametrize(
        ("status", "message", "kind", "sentence", "remedy"),
        [
            (401, "no token", AccessError, "There are no usable Google Cloud credentials", "gcloud auth"),
            (
                403,
                "no right",
                AccessError,
                "Access to the jobs of ecom-test in europe-west1 is denied.",
                "roles/dataflow.developer",
            ),
            (403, "Dataflow API is disabled", AccessError, "Dataflow is not enabled", "gcloud services enable dataflow.google"),
            (404, "Project not found", NotFoundError, "Project 'ecom-test' does not exist", "gcloud projects list"),
            (409, "another request", PipelineError, "another request", "ecomflow job status"),
            (400, "not ready to drain", PipelineError, "not ready to drain", "ecomflow job status"),
        ],
    )
    def test_refusals(
        self, status: int, message: str, kind: type[EcomflowError], sentence: str, remedy: str, stub: DataflowStub, api: JobsApi
    ) -> None:
        """Each status has its class, its sentence without the request's address, and what to do; it is not tried again."""
        stub.fail("GET", "jobs$", status, times=9, message=message)
        with pytest.raises(kind) as error:
            service.jobs(api, job_name="shop")
        assert sentence in error.value.message
        assert "http" not in error.value.message
        assert remedy in str(error.value.remedy)
        assert len(stub.requests) == 1

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_a_busy_service_is_asked_again(self, status: int, stub: DataflowStub, api: JobsApi) -> None:
        """A transient failure is not reported."""
        stub.add_job("shop")
        stub.fail("GET", "jobs$", status, times=1)
        assert service.find(api, "shop").state == "running"

    def test_a_service_that_stays_busy(self, stub: DataflowStub, api: JobsApi) -> None:
        """After a few seconds it is reported as it is."""
        stub.fail("GET", "jobs$", 503, times=99, message="overloaded")
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="does not answer: overloaded"):
            service.find(api, "shop")
        assert 1 < len(stub.requests) < 20
        assert time.monotonic() - began < 5

    def test_a_service_that_hangs(self, stub: DataflowStub, api: JobsApi) -> None:
        """A request without an answer ends in seconds."""
        stub.fail("GET", "jobs$", None)
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="does not answer"):
            service.find(api, "shop")
        assert time.monotonic() - began < 5

    def test_no_service(self) -> None:
        """Where nothing listens, the variable that names the endpoint is named."""
        with running_stub() as stub:
            endpoints = Endpoints(dataflow=stub.url)
        with pytest.raises(UnavailableError) as error:
            service.find(JobsApi(Target(SETTINGS, endpoints)), "shop")
        assert error.value.remedy == "Check DATAFLOW_EMULATOR_HOST."


class TestUpdatePlan:
    STEPS = ("Read messages/Subscribe/Read", "Read messages/Batch", "Decode/Parse", "Write")

    def plan(self, stub: DataflowStub, api: JobsApi, mapping: dict[str, str]) -> Any:
        stub.add_job("shop", steps=self.STEPS)
        new = ("Read messages/Batch", "Decode events/Decode", "Write", "Count")
        return update.plan_update(api, service.find(api, "shop"), new, mapping)

    def test_steps_are_matched_by_their_labels(self, stub: DataflowStub, api: JobsApi) -> None:
        """The outermost names count: the same, renamed by the mapping, or new."""
        plan = self.plan(stub, api, {"Decode": "Decode events"})
        assert plan.steps == (
            StepFit("Read messages", "Read messages"),
            StepFit("Decode", "Decode events"),
            StepFit("Write", "Write"),
            StepFit(None, "Count"),
        )
        update.check_fit(plan)

    def test_a_step_without_a_fit_is_refused(self, stub: DataflowStub, api: JobsApi) -> None:
        """The step is named, with the two ways on."""
        plan = self.plan(stub, api, {})
        assert update.missing_steps(plan) == ("Decode",)
        with pytest.raises(PipelineError, match="no step for 'Decode'") as error:
            update.check_fit(plan)
        assert "--map" in str(error.value.remedy)
        assert "--drain-and-replace" in str(error.value.remedy)

    @pytest.mark.parametrize(
        ("mapping", "sentence"),
        [({"Dekode": "Write"}, "running job has no step 'Dekode'"), ({"Decode": "Wrote"}, "new graph has no step 'Wrote'")],
    )
    def test_a_mapping_of_what_there_is_not(
        self, mapping: dict[str, str], sentence: str, stub: DataflowStub, api: JobsApi
    ) -> None:
        """A typing mistake is reported before anything is sent."""
        with pytest.raises(ConfigError, match=sentence):
            self.plan(stub, api, mapping)

    @pytest.mark.parametrize(
        ("state", "word"),
        [(dataflow_stub.DRAINED, "drained"), (dataflow_stub.DRAINING, "draining"), (dataflow_stub.FAILED, "failed")],
    )
    def test_a_job_that_does_not_run(self, state: int, word: str, stub: DataflowStub, api: JobsApi) -> None:
        """It is refused here: Beam would look for it for ever."""
        stub.add_job("shop", state)
        with pytest.raises(PipelineError, match=f"is {word}: only a running job can be updated"):
            update.plan_update(api, service.find(api, "shop"), ("Write",), {})

    def test_a_job_whose_steps_are_not_described(self, stub: DataflowStub, api: JobsApi) -> None:
        """Nothing is known, so nothing is refused: Dataflow judges."""
        stub.add_job("shop")
        plan = update.plan_update(api, service.find(api, "shop"), ("Write",), {})
        assert plan.steps == ()
        update.check_fit(plan)


@pytest.fixture
def project(stack: Endpoints, settings: Settings, stub: DataflowStub) -> tuple[Settings, Endpoints]:
    """A project of which everything is provisioned, at the local services, with the stub as its Dataflow."""
    wanted = msgspec.structs.replace(settings, project="ecom-test", dataflow=SETTINGS.dataflow)
    endpoints = msgspec.structs.replace(stack, dataflow=stub.url)
    target = Target(wanted, endpoints)
    infra.apply(target, infra.plan(target))
    return wanted, endpoints


@pytest.mark.stack
class TestReplacement:
    def test_an_update_takes_over(self, project: tuple[Settings, Endpoints], stub: DataflowStub) -> None:
        """The new job is submitted with the old one's id and the mapping; the old one is updated."""
        settings, endpoints = project
        steps = [name if name != "Decode events" else "Decode" for name in update.graph_steps(settings)]
        old = stub.add_job("shop", steps=tuple(steps))
        api = JobsApi(Target(settings, endpoints))
        plan = update.plan_update(api, service.find(api, "shop"), update.graph_steps(settings), {"Decode": "Decode events"})
        new = update.send_update(Target(settings, endpoints), plan)
        (submitted,) = stub.seen("POST")
        assert (submitted.body["replaceJobId"], submitted.body["transformNameMapping"]) == (old, {"Decode": "Decode events"})
        assert (service.find(api, old).state, service.find(api, "shop").id) == ("updated", new.job_id)

    def test_drain_and_replace(self, project: tuple[Settings, Endpoints], stub: DataflowStub) -> None:
        """The new job is submitted once the old one is drained, and replaces none."""
        settings, endpoints = project
        stub.drain_looks = 3
        old = stub.add_job("shop", steps=("Something else",))
        api, time_ = JobsApi(Target(settings, endpoints)), FakeTime()
        new = update.drain_and_replace(api, Target(settings, endpoints), service.find(api, "shop"), 60, sleep=time_.sleep)
        order = [(request.method, request.body.get("requestedState")) for request in stub.requests if request.method != "GET"]
        assert order == [("PUT", dataflow_stub.DRAINED), ("POST", None)]
        assert (stub.jobs[old]["currentState"], time_.seconds) == (dataflow_stub.DRAINED, 10.0)
        assert "replaceJobId" not in stub.jobs[new.job_id]

    def test_options_that_can_not_stand_leave_the_job_running(
        self, project: tuple[Settings, Endpoints], stub: DataflowStub
    ) -> None:
        """They are refused before the drain."""
        settings, endpoints = project
        stub.add_job("shop")
        api = JobsApi(Target(settings, endpoints))
        with pytest.raises(ConfigError, match="--streamin"):
            update.drain_and_replace(api, Target(settings, endpoints), service.find(api, "shop"), 60, ["--streamin"])
        assert stub.seen("PUT") == []

    def test_update_from_the_command_line(self, project: tuple[Settings, Endpoints], stub: DataflowStub, tmp_path: Path) -> None:
        """job update checks, shows the steps, submits, and names the job that takes over."""
        settings, endpoints = project
        stub.add_job("shop", steps=update.graph_steps(settings))
        (tmp_path / "ecomflow.toml").write_text('[dataflow]\njob_name = "shop"\n')
        hosts: dict[str, Any] = {
            "PUBSUB_EMULATOR_HOST": str(endpoints.pubsub),
            "STORAGE_EMULATOR_HOST": str(endpoints.storage),
            "BIGQUERY_EMULATOR_HOST": str(endpoints.bigquery),
            "BIGQUERY_STORAGE_EMULATOR_HOST": str(endpoints.bigquery_storage),
            "DATAFLOW_EMULATOR_HOST": stub.url,
        }
        result = ecomflow("job", "update", settings=settings, folder=tmp_path, **hosts)
        assert result.returncode == 0, result.stderr
        newest = list(stub.jobs)[-1]
        assert "No mapping is sent." in result.stdout
        assert result.stdout.splitlines()[-1] == f"Job {newest} takes over. See how it runs: ecomflow job status {newest}"


def job(stub: DataflowStub, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """``ecomflow job ARGUMENTS`` on the stub's project."""
    return ecomflow("job", *arguments, folder=folder, DATAFLOW_EMULATOR_HOST=stub.url, ECOMFLOW_PROJECT="ecom-test")


def invoked(stub: DataflowStub, *arguments: str) -> Result:
    """The same within this process: its errors are raised, not shown."""
    environ = {"DATAFLOW_EMULATOR_HOST": stub.url, "ECOMFLOW_PROJECT": "ecom-test", "COLUMNS": "200", "NO_COLOR": "1"}
    return CliRunner().invoke(app, ["job", *arguments], env=environ)


class TestCommands:
    def test_list(self, stub: DataflowStub) -> None:
        """A row a job; as JSON its record."""
        job_id = stub.add_job("ecomflow")
        stub.add_job("other")
        shown = invoked(stub, "list")
        assert (shown.exit_code, job_id in shown.stdout, "other" in shown.stdout) == (0, True, False)
        listed = json.loads(invoked(stub, "list", "--all", "--json").stdout)
        assert {record["name"] for record in listed} == {"ecomflow", "other"}

    def test_status(self, stub: DataflowStub, tmp_path: Path) -> None:
        """State, facts, counters and errors; a message's control characters are shown as text. A failed job ends it with 4."""
        job_id = stub.add_job("ecomflow", dataflow_stub.FAILED)
        stub.add_autoscaling(job_id, 2, 3)
        stub.add_metric(job_id, "received", 1234, namespace="ecomflow", step="s1")
        stub.add_message(job_id, "boom \x1b[31m[red]", dataflow_stub.ERROR)
        shown = job(stub, "status", folder=tmp_path)
        text = " ".join(shown.stdout.split())
        assert shown.returncode == 4
        assert f"Job ecomflow ({job_id}) in europe-west1 is failed" in text
        for fact in ("workers 2 of 3", "data freshness not reported yet", "received 1,234", "boom \\x1b[31m[red]"):
            assert fact in text

    def test_status_of_a_name_as_json(self, stub: DataflowStub, tmp_path: Path) -> None:
        """Another job is named; the JSON is the record."""
        job_id = stub.add_job("ecomflow-dev")
        shown = job(stub, "status", "ecomflow-dev", "--json", folder=tmp_path)
        assert (shown.returncode, json.loads(shown.stdout)["job"]["id"]) == (0, job_id)

    def test_logs_and_metrics(self, stub: DataflowStub) -> None:
        """Messages by level, an object a line as JSON; counters apart from the service's metrics."""
        job_id = stub.add_job("ecomflow", dataflow_stub.DRAINED)
        stub.add_message(job_id, "a detail", dataflow_stub.DETAILED, "2025-12-01T10:00:00Z")
        stub.add_message(job_id, "a warning", dataflow_stub.WARNING, "2025-12-01T10:00:00Z")
        stub.add_metric(job_id, "received", 5, namespace="ecomflow", step="s1")
        stub.add_metric(job_id, "CurrentVcpuCount", 8, origin="dataflow/v1b3")
        assert invoked(stub, "logs", "--follow").stdout == "2025-12-01 10:00:00 warning  a warning\n"
        (line,) = invoked(stub, "logs", "--level", "error", "--level", "warning", "--json").stdout.splitlines()
        assert json.loads(line) == {"time": "2025-12-01T10:00:00Z", "level": "warning", "text": "a warning"}
        found = json.loads(invoked(stub, "metrics", "--json").stdout)
        assert found == {"own": {"received": 5}, "system": {"CurrentVcpuCount": 8.0}}

    def test_drain_and_wait(self, stub: DataflowStub, tmp_path: Path) -> None:
        """It ends well on drained; a second time it says in what state the job is, with the code 9."""
        stub.drain_looks = 1
        job_id = stub.add_job("ecomflow")
        drained = job(stub, "drain", "--wait", folder=tmp_path)
        assert (drained.returncode, drained.stdout) == (0, f"Job ecomflow ({job_id}) is drained.\n")
        again = job(stub, "drain", folder=tmp_path)
        assert (again.returncode, f"Job ecomflow ({job_id}) is drained: only a running job" in again.stderr) == (9, True)

    def test_cancel_asks_first(self, stub: DataflowStub) -> None:
        """Without a yes nothing is cancelled; with --yes it is, and --wait sees it end."""
        job_id = stub.add_job("ecomflow")
        assert invoked(stub, "cancel").exit_code == 1
        assert stub.seen("PUT") == []
        done = invoked(stub, "cancel", job_id, "--yes", "--wait")
        assert (done.exit_code, done.stdout) == (0, f"Job ecomflow ({job_id}) is cancelled.\n")

    def test_an_update_that_does_not_fit(self, stub: DataflowStub) -> None:
        """The steps are shown, the missing one is named, and nothing is submitted."""
        stub.add_job("ecomflow", steps=("Read messages/Batch", "Gone/Inner"))
        result = invoked(stub, "update", "--dry-run")
        assert (type(result.exception), stub.seen("POST")) == (PipelineError, [])
        assert ["Gone", "missing"] in [line.split() for line in result.stdout.splitlines()]
        assert "the new graph has no step for 'Gone'" in str(result.exception)

    @pytest.mark.parametrize(("status", "code"), [(403, 5), (409, 9), (503, 4)])
    def test_what_the_service_refuses(self, status: int, code: int, stub: DataflowStub, tmp_path: Path) -> None:
        """A sentence, the error's own exit code, no traceback, within seconds."""
        stub.add_job("ecomflow")
        stub.fail("PUT", "jobs", status, times=99)
        began = time.monotonic()
        result = job(stub, "drain", folder=tmp_path)
        assert (result.returncode, result.stderr.startswith("Error: ")) == (code, True)
        assert "Traceback" not in result.stderr
        assert time.monotonic() - began < 10

    def test_without_credentials(self, tmp_path: Path) -> None:
        """Google's own service without a login ends in the command that signs in, within seconds."""
        began = time.monotonic()
        home: dict[str, Any] = {"HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path), "NO_GCE_CHECK": "true"}
        result = ecomflow("job", "status", "--project", "my-project", folder=tmp_path, **home)
        assert (result.returncode, "gcloud auth application-default login" in result.stderr) == (5, True)
        assert time.monotonic() - began < 10

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (
                ("status", "ecomflow"),
                "'ecomflow' is not the pipeline on this machine (none has run), and no project is configured",
            ),
            (("logs", "x", "--project", "my-project", "--runner", "DirectRunner"), "'x' is not the pipeline on this machine"),
            (("status", "--runner", "DataflowRunner"), "Dataflow needs a project"),
            (("status", "--runner", "Spark"), "'Spark' is not a valid runner"),
            (("logs", "--level", "loud", "--project", "my-project"), "'loud' is not a valid level"),
            (("update", "--map", "a=b"), "--map: only for a job on Dataflow"),
            (("update", "--map", "a", "--project", "my-project"), "'a' is not a valid mapping of steps"),
            (("update", "--drain-and-replace", "--dry-run", "--project", "my-project"), "no steps are mapped"),
        ],
    )
    def test_arguments_that_do_not_fit(
        self, arguments: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They are refused before anything is asked of anybody."""
        monkeypatch.chdir(tmp_path)
        error = CliRunner().invoke(app, ["job", *arguments]).exception
        assert (type(error), sentence in str(error)) == (ConfigError, True), error


# A stand-in for the local pipeline: it holds the lock, writes its status, and reacts to SIGTERM as the test requests.
STAND_IN = """
import os, pathlib, signal, sys, time
from ecomflow.processes.detached import identity_of
from ecomflow.pipeline.direct import launch
state, on_term = pathlib.Path(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGTERM, signal.SIG_IGN if on_term == "stay" else lambda *_: sys.exit(0))
with launch.locked(state):
    this = identity_of(os.getpid())
    status = launch.PipelineStatus("running", this.pid, "projects/p/subscriptions/s", {"received": 7}, mark=this.mark)
    import msgspec
    (state / launch.STATUS_FILE).write_bytes(msgspec.json.encode(status))
    print("runs", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return Settings(state_dir=str(tmp_path / "state"))


def stand_in(settings: Settings, on_term: str) -> subprocess.Popen[str]:
    """The stand-in, as a process, once it runs."""
    settings.state_path.mkdir()
    command = [sys.executable, "-c", STAND_IN, str(settings.state_path), on_term]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "runs\n"
    return process


def log_line(message: str, level: str = "warning", hour: int = 10) -> bytes:
    return msgspec.json.encode(logs.LogLine(datetime(2025, 12, 1, hour, tzinfo=UTC), level, "ecomflow", 7, message)) + b"\n"


def append(log: Path, message: str) -> None:
    with log.open("ab") as file:
        file.write(log_line(message))


class TestLocal:
    @pytest.mark.parametrize("on_term", ["end", "stay"])
    def test_cancel_ends_it(self, on_term: str, here: Settings) -> None:
        """By SIGTERM if that ends it, else by SIGKILL; its messages are redelivered, so it is gone and not drained."""
        with stand_in(here, on_term) as process:
            assert [(found.id, found.name, found.state) for found in local.jobs(here)] == [(str(process.pid), "s", "running")]
            ended = local.cancel(here, grace=0.2)
            assert ended.state == "gone"
            assert process.wait(10) == (0 if on_term == "end" else -9)
        with pytest.raises(PipelineError, match="No local pipeline is running"):
            local.cancel(here)

    def test_its_verbs_from_the_command_line(self, here: Settings, tmp_path: Path) -> None:
        """list, metrics, logs and cancel speak of the local pipeline where no project is configured."""
        with stand_in(here, "end") as process:
            log = here.state_path / launch.LOG_FILE
            log.parent.mkdir()
            log.write_bytes(b"".join(log_line(text) for text in ("one", "\x1b[2Jtwo\x9b", "three")))
            (listed,) = json.loads(ecomflow("job", "list", "--json", settings=here, folder=tmp_path).stdout)
            counted = json.loads(ecomflow("job", "metrics", "--json", settings=here, folder=tmp_path).stdout)
            said = ecomflow("job", "logs", "--lines", "2", settings=here, folder=tmp_path)
            as_json = ecomflow("job", "logs", "--lines", "2", "--json", settings=here, folder=tmp_path)
            named = [ecomflow("job", "metrics", name, settings=here, folder=tmp_path) for name in (listed["name"], listed["id"])]
            cancelled = ecomflow("job", "cancel", "--yes", settings=here, folder=tmp_path)
            assert process.wait(10) == 0
        assert (listed["id"], listed["state"], listed["region"]) == (str(process.pid), "running", "local")
        assert [result.returncode for result in named] == [0, 0]
        assert counted == {"own": {"received": 7}, "system": {}}
        assert said.stdout == "2025-12-01 10:00:00 warning  \\x1b[2Jtwo\\x9b\n2025-12-01 10:00:00 warning  three\n"
        two, three = map(json.loads, as_json.stdout.splitlines())
        assert (two["message"], three["message"], three["process"]) == ("\x1b[2Jtwo\x9b", "three", 7)
        assert cancelled.returncode == 0
        assert "was killed; its unacknowledged messages are delivered again" in " ".join(cancelled.stdout.split())

    def test_restarts_alone_are_no_running_pipeline(self, here: Settings, tmp_path: Path) -> None:
        """A pipeline that waits for a fix says for what, and why it restarted, with exit code 4; all commands call it waiting."""
        with stand_in(here, "end") as process:
            status = msgspec.structs.replace(
                launch.read_status(here.state_path),
                restarts=6,
                last_restart=time.time(),
                last_failure="fact_order does not exist.\nRun: ecomflow infra up",
                waiting_for="its restart in 8 s, after: fact_order does not exist.",
                updated=time.time() + 60,  # as if it reported on while the commands below start
            )
            (here.state_path / launch.STATUS_FILE).write_bytes(msgspec.json.encode(status))
            shown = ecomflow("job", "status", settings=here, folder=tmp_path)
            as_json = ecomflow("job", "status", "--json", settings=here, folder=tmp_path)
            listed = ecomflow("job", "list", settings=here, folder=tmp_path)
            infra = ecomflow("infra", "status", settings=here, folder=tmp_path)
            once = ecomflow("top", "--once", "--interval", "0.2", settings=here, folder=tmp_path)
            local.cancel(here)
            process.wait(10)
        waiting = "The pipeline is waiting for its restart in 8 s, after: fact_order does not exist. See: ecomflow infra status"
        assert shown.stdout.splitlines()[-2:] == [
            waiting,
            "It restarted 6 times, the last time because: fact_order does not exist. Run: ecomflow infra up",
        ]
        found = json.loads(as_json.stdout)
        assert (found["state"], found["condition"], found["trouble"], found["restarts"]) == ("running", "waiting", waiting, 6)
        assert [result.returncode for result in (shown, as_json, once)] == [4, 4, 4]
        assert ["s", str(process.pid), "waiting"] in [line.split()[:3] for line in listed.stdout.splitlines()]
        assert f"Local pipeline: waiting, process {process.pid}." in infra.stdout
        assert once.stdout.startswith("● waiting")
        assert waiting in infra.stdout
        assert waiting in once.stdout

    @pytest.mark.stack
    def test_a_pipeline_whose_table_was_dropped(self, provisioned: Settings, stack: Endpoints, tmp_path: Path) -> None:
        """Its restarts, with their reason, are its status until the table is back; then it runs."""
        settings = settings_in(tmp_path, provisioned, stack)
        target = Target(settings, stack)
        with running(settings) as pipeline:
            target.bigquery.delete_table(f"{settings.dataset_id}.fact_order_header")
            publisher.publish(target, rounds.generate(1, seed=1, now=datetime.now(UTC)))
            wait_until(lambda: pipeline.status().restarts, "it restarts")
            shown = ecomflow("job", "status", settings=settings, folder=tmp_path)
            assert shown.returncode == 4
            assert "fact_order_header" in shown.stdout
            assert "It restarted " in shown.stdout
            infra.apply(target, infra.plan(target))
            wait_until(lambda: count_waiting(target) == 0, "everything is written")

    @pytest.mark.stack
    def test_a_service_that_does_not_answer(self, stack: Endpoints, tmp_path: Path) -> None:
        """Those of the stack that are used are asked; not one that a variable overrides."""
        settings = Settings(state_dir=str(tmp_path))
        own = msgspec.structs.replace(stack, storage=f"http://127.0.0.1:{free_port()}")
        write_stack_file(tmp_path, own)
        assert silent_services(Target(settings, own)) == ("storage",)
        assert silent_services(Target(settings, msgspec.structs.replace(own, storage="http://127.0.0.1:1"))) == ()
        assert silent_services(Target(settings, Endpoints())) == ()

    def test_following_a_log_ends_with_the_pipeline(self, here: Settings) -> None:
        """Lines come as they are written, also where the log begins anew meanwhile; the last ones come with the end."""
        with stand_in(here, "end") as process:
            log = here.state_path / launch.LOG_FILE
            log.parent.mkdir()
            log.write_bytes(log_line("old") + log_line("one"))

            def set_aside() -> None:
                append(log, "two")
                log.replace(json_lines.set_aside(log))
                append(log, "three")

            def end() -> None:
                append(log, "four")
                process.terminate()
                process.wait(10)

            happens = iter((set_aside, end))
            found = local.log_lines(here, 1, follow=True, sleep=lambda _: next(happens)())
            assert [line.message for line in found] == ["one", "two", "three", "four"]

    def test_lines_by_level_and_time(self, here: Settings) -> None:
        """The last lines of a level and above, not older than a moment, also those from before the log began anew."""
        log = here.state_path / launch.LOG_FILE
        log.parent.mkdir(parents=True)
        json_lines.set_aside(log).write_bytes(log_line("first", "error", hour=8) + log_line("second", "error", hour=9))
        log.write_bytes(log_line("third", "info") + b'{"time":"2025-12-01T1' + log_line("fourth") + log_line("fifth"))

        def messages(lines: int = 9, **options: Any) -> list[str]:
            return [line.message for line in local.log_lines(here, lines, **options)]

        cut = '{"time":"2025-12-01T1' + log_line("fourth").decode().rstrip()
        assert messages() == ["first", "second", "third", cut, "fifth"]
        assert messages(2) == [cut, "fifth"]
        assert messages(least="warning", since=datetime(2025, 12, 1, 8, 30, tzinfo=UTC)) == ["second", "fifth"]
        assert next(local.for_people(local.log_lines(here, 2))) == {"text": cut}

    def test_a_traceback_follows_its_message(self) -> None:
        """Its rows are lines of their own, set in."""
        when = datetime(2025, 12, 1, 10, tzinfo=UTC)
        line = logs.LogLine(when, "error", "ecomflow", 7, "It failed.", "Traceback\n  a row")
        assert list(local.for_people([line])) == [
            {"time": when, "level": "error", "text": "It failed."},
            {"text": "  Traceback"},
            {"text": "    a row"},
        ]

    def test_no_log(self, here: Settings) -> None:
        """The error says that no pipeline has run there."""
        with pytest.raises(NotFoundError, match="no pipeline has run in this folder"):
            list(local.log_lines(here, 5))

    def test_none_has_run(self, here: Settings) -> None:
        """The list is empty."""
        assert local.jobs(here) == []

    @pytest.mark.stack
    @pytest.mark.timeout(120)
    def test_update_and_cancel_of_a_real_one(self, provisioned: Settings, stack: Endpoints, tmp_path: Path) -> None:
        """update drains the pipeline in the background and starts it again, with as many processes and its metrics where they
        were; cancel ends it within seconds.
        """
        write_stack_file(tmp_path, stack)
        settings = msgspec.structs.replace(provisioned, state_dir=str(tmp_path))
        started = ecomflow("deploy", "--detach", "--processes", "2", "--metrics-port", "0", settings=settings, folder=tmp_path)
        assert started.returncode == 0, started.stderr
        first = launch.read_status(tmp_path)
        address = f"http://127.0.0.1:{first.metrics_port}/metrics"
        assert f"Metrics: {address}\n" in started.stdout
        with urllib.request.urlopen(address, timeout=20) as answer:
            assert b"\necomflow_processes 2.0\n" in answer.read()
        try:
            updated = ecomflow("job", "update", settings=settings, folder=tmp_path)
            assert updated.returncode == 0, updated.stderr
            second = launch.read_status(tmp_path)
            assert (second.state, second.pid != first.pid) == ("running", True)
            assert (second.processes.wanted, second.metrics_port) == (2, first.metrics_port)
            assert updated.stdout == f"The pipeline has restarted as process {second.pid}.\n"
            said = ecomflow("job", "logs", settings=settings, folder=tmp_path).stdout
            assert "The pipeline is drained." in said
        finally:
            assert local.cancel(settings).state in ("drained", "gone")
