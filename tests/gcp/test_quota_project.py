"""A user's login and the quota project: a service that refuses requests without one, as Google's client-based APIs do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import google.auth
import pytest
from google.auth.transport.requests import AuthorizedSession
from google.cloud import dataflow_v1beta3
from google.oauth2.credentials import Credentials
from google.oauth2.service_account import Credentials as ServiceAccount

from ecomflow.config import Endpoints, Settings
from ecomflow.errors import AccessError
from ecomflow.gcp import credentials
from ecomflow.gcp.credentials import find_credentials
from ecomflow.gcp.errors import translate
from ecomflow.gcp.services import Service
from ecomflow.gcp.target import Target
from ecomflow.pipeline.dataflow import submit
from tests.support.dataflow_stub import DataflowStub, running_stub
from tests.support.infra import Google

SETTINGS = Settings(project="ecom-test")


class Login(Credentials):  # type: ignore[misc]
    """A user's login whose token never lapses."""

    def refresh(self, request: Any) -> None:
        self.token = "t"


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `gcloud auth application-default login` leaves where no quota project was chosen."""
    as_found(monkeypatch, Login("t"))
    yield
    forget()


def as_found(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    forget()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "a-file")
    monkeypatch.setattr(google.auth, "default", lambda **_: (found, None))


def forget() -> None:
    find_credentials.cache_clear()
    credentials.default_credentials.cache_clear()


def test_a_session_names_the_project(login: None) -> None:
    """Service Usage and Resource Manager are asked on the quota of the project; without it they refuse."""
    stub = Google()
    stub.demands_quota_project = True
    with stub.over_http() as url:
        path = f"{url}/v1/projects/ecom-test"
        with AuthorizedSession(Login("t")) as session:
            refusal = session.get(path, timeout=5)
        with AuthorizedSession(find_credentials("ecom-test")) as session:
            answer = session.get(path, timeout=5)
    assert (refusal.status_code, answer.status_code) == (403, 200)
    assert stub.quota_projects == [None, "ecom-test"]


def test_a_client_of_dataflow_names_the_project(login: None) -> None:
    """The Jobs API takes a list of a user's login only with the project's quota."""
    with running_stub() as stub:
        stub.demands_quota_project = True
        stub.add_job("shop")
        request = dataflow_v1beta3.ListJobsRequest(project_id="ecom-test", location="europe-west1")
        with Target(SETTINGS, Endpoints()) as target:
            used = target.dataflow.jobs.transport._credentials
        assert [job.name for job in client_at(stub, used).list_jobs(request)] == ["shop"]
        with pytest.raises(google.api_core.exceptions.Forbidden) as caught:
            client_at(stub, Login("t")).list_jobs(request)
    error = translate(caught.value, Service("Dataflow", "dataflow.googleapis.com", "r", "ecom-test", None), "the jobs")
    assert isinstance(error, AccessError)
    assert error.message == "Dataflow does not know which project's quota to use for this login."
    assert error.remedy == "Set one: gcloud auth application-default set-quota-project ecom-test"


def client_at(stub: DataflowStub, login: Any) -> Any:
    options = {"api_endpoint": stub.url}
    return dataflow_v1beta3.JobsV1Beta3Client(credentials=login, transport="rest", client_options=options)


def test_beam_finds_it_in_the_environment(login: None) -> None:
    """Beam makes credentials of its own: while it submits, and only then, a variable names the quota project."""
    with submit._quota_project(Target(SETTINGS, Endpoints())):
        assert os.environ["GOOGLE_CLOUD_QUOTA_PROJECT"] == "ecom-test"
    assert "GOOGLE_CLOUD_QUOTA_PROJECT" not in os.environ
    with submit._quota_project(Target(SETTINGS, Endpoints(dataflow="http://localhost:1"))):
        assert "GOOGLE_CLOUD_QUOTA_PROJECT" not in os.environ


def test_a_quota_project_of_the_users_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ran set-quota-project knows better."""
    as_found(monkeypatch, Login("t", quota_project_id="billing-project"))
    assert find_credentials("ecom-test").quota_project_id == "billing-project"
    forget()


def test_a_service_account_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its project's quota is used, so nothing is named."""
    account = ServiceAccount(None, "job@ecom-test.iam.gserviceaccount.com", "https://example.com")
    monkeypatch.setattr(ServiceAccount, "refresh", lambda *_: None)
    as_found(monkeypatch, account)
    assert find_credentials("ecom-test") is account
    forget()
