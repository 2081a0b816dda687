"""The stub of the Jobs API itself: what the tests of jobs and submission may rely on, through Beam's and Google's own clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import dataflow_v1beta3 as dataflow

from tests.support import dataflow_stub
from tests.support.dataflow_stub import DataflowStub, running_stub

PLACE = {"project_id": "ecom-test", "location": "europe-west1"}


@pytest.fixture
def stub() -> Iterator[DataflowStub]:
    with running_stub(page_size=2) as stub:
        yield stub


@pytest.fixture
def beam(stub: DataflowStub, monkeypatch: pytest.MonkeyPatch) -> DataflowApplicationClient:
    """The client that Beam's DataflowRunner submits with."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://localhost:1")  # it makes a storage client, and calls nothing of it
    place = ["--project=ecom-test", "--region=europe-west1", "--temp_location=gs://none/temp"]
    return DataflowApplicationClient(PipelineOptions([*place, "--no_auth", f"--dataflow_endpoint={stub.url}"]))


@pytest.fixture
def google(stub: DataflowStub) -> dataflow.JobsV1Beta3Client:
    options = {"api_endpoint": stub.url}
    return dataflow.JobsV1Beta3Client(credentials=AnonymousCredentials(), client_options=options, transport="rest")


def create(client: dataflow.JobsV1Beta3Client, name: str, **fields: Any) -> dataflow.Job:
    return client.create_job(dataflow.CreateJobRequest(**PLACE, job=dataflow.Job(name=name, **fields)))


def state(client: dataflow.JobsV1Beta3Client, job_id: str) -> str:
    return str(client.get_job(dataflow.GetJobRequest(**PLACE, job_id=job_id)).current_state.name)


class TestStates:
    def test_a_job_is_pending_and_then_runs(self, google: dataflow.JobsV1Beta3Client) -> None:
        """A submitted job is pending in the answer, and runs at the first look."""
        job = create(google, "ecomflow")
        assert job.current_state.name == "JOB_STATE_PENDING"
        assert state(google, job.id) == "JOB_STATE_RUNNING"

    def test_a_drain_takes_two_looks(self, stub: DataflowStub, beam: DataflowApplicationClient) -> None:
        """Beam's drain arrives as the state 7; the job drains for one look and is drained at the second."""
        job_id = stub.add_job("ecomflow")
        assert beam.modify_job_state(job_id, "JOB_STATE_DRAINING") is True
        assert stub.seen("PUT")[0].body == {"requestedState": dataflow_stub.DRAINING}
        assert [beam.get_job(job_id).current_state.name for _ in range(2)] == ["JOB_STATE_DRAINING", "JOB_STATE_DRAINED"]

    def test_a_cancel_takes_a_look(self, stub: DataflowStub, beam: DataflowApplicationClient) -> None:
        """Beam's cancel arrives as the state 5."""
        job_id = stub.add_job("ecomflow")
        assert beam.modify_job_state(job_id, "JOB_STATE_CANCELLED") is True
        assert beam.get_job(job_id).current_state.name == "JOB_STATE_CANCELLED"

    def test_a_job_that_has_ended_can_not_be_changed(self, stub: DataflowStub, google: dataflow.JobsV1Beta3Client) -> None:
        """It is a conflict."""
        job_id = stub.add_job("ecomflow", dataflow_stub.DONE)
        request = dataflow.UpdateJobRequest(**PLACE, job_id=job_id, job=dataflow.Job(requested_state=5))
        with pytest.raises(exceptions.Conflict, match="already in a terminal state"):
            google.update_job(request)


class TestSubmission:
    def test_a_name_that_is_taken(self, google: dataflow.JobsV1Beta3Client) -> None:
        """The answer is the job that has the name, with the request id of its own submission."""
        first = create(google, "ecomflow", client_request_id="one")
        second = create(google, "ecomflow", client_request_id="two")
        assert (second.id, second.client_request_id) == (first.id, "one")

    def test_a_name_whose_job_has_ended(self, stub: DataflowStub, google: dataflow.JobsV1Beta3Client) -> None:
        """It is free again."""
        old = stub.add_job("ecomflow", dataflow_stub.DRAINED)
        assert create(google, "ecomflow").id != old

    def test_an_update_makes_a_new_job(self, stub: DataflowStub, google: dataflow.JobsV1Beta3Client) -> None:
        """The old job is updated and names the new one, which keeps the mapping."""
        old = stub.add_job("ecomflow")
        new = create(google, "ecomflow", replace_job_id=old, transform_name_mapping={"a": "b"})
        assert state(google, old) == "JOB_STATE_UPDATED"
        assert stub.jobs[old]["replacedByJobId"] == new.id
        assert stub.jobs[new.id]["transformNameMapping"] == {"a": "b"}

    def test_only_a_running_job_is_updated(self, stub: DataflowStub, google: dataflow.JobsV1Beta3Client) -> None:
        """A drained one is refused."""
        with pytest.raises(exceptions.BadRequest, match="not running"):
            create(google, "ecomflow", replace_job_id=stub.add_job("ecomflow", dataflow_stub.DRAINED))


class TestReading:
    def test_pages_hold_two(self, stub: DataflowStub, google: dataflow.JobsV1Beta3Client) -> None:
        """A list of five comes in three pages; those of other places are not in it."""
        names = [f"job-{number}" for number in range(5)]
        for name in names:
            stub.add_job(name)
        stub.add_job("elsewhere", location="us-central1")
        assert [job.name for job in google.list_jobs(dataflow.ListJobsRequest(**PLACE))] == names
        assert len(stub.seen("GET")) == 3

    def test_messages_and_metrics(self, stub: DataflowStub, beam: DataflowApplicationClient) -> None:
        """What a test sets comes back, filtered by importance."""
        job_id = stub.add_job("ecomflow")
        stub.add_message(job_id, "a detail", dataflow_stub.DETAILED)
        stub.add_message(job_id, "a failure", dataflow_stub.ERROR)
        stub.add_metric(job_id, "received", 3, namespace="ecomflow", step="s1")
        found, token = beam.list_messages(job_id, minimum_importance="JOB_MESSAGE_BASIC")
        assert ([message.message_text for message in found], token) == (["a failure"], "")
        (metric,) = beam.get_job_metrics(job_id).metrics
        assert (metric.name.name, metric.scalar) == ("received", 3)

    def test_a_fault_lasts_as_often_as_said(self, stub: DataflowStub, google: dataflow.JobsV1Beta3Client) -> None:
        """Two 403s, then the answer."""
        job_id = stub.add_job("ecomflow")
        stub.fail("GET", job_id, 403, times=2, message="no")
        for _ in range(2):
            with pytest.raises(exceptions.Forbidden, match="no"):
                state(google, job_id)
        assert state(google, job_id) == "JOB_STATE_RUNNING"
