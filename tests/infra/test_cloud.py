"""Provisioning in a project: its APIs and the roles of its job. Resources are on the local services, the rest on a stub."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from ecomflow import infra
from ecomflow.cli import app
from ecomflow.config import DataflowSettings, Endpoints, Settings
from ecomflow.errors import AccessError, UnavailableError
from ecomflow.gcp.target import Target
from ecomflow.infra.resources import APIS
from ecomflow.infra.roles import job_grants
from ecomflow.infra.services import enable_apis, observe_apis, project_number
from tests.support.infra import Google

PROJECT = Settings(project="test-project")


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[Google]:
    """Google's APIs for projects, with all of ours enabled, where the emulator variables point to them."""
    stub = Google()
    with stub.over_http() as url:
        monkeypatch.setenv("SERVICEUSAGE_EMULATOR_HOST", url.removeprefix("http://"))
        monkeypatch.setenv("CLOUDRESOURCEMANAGER_EMULATOR_HOST", url)
        yield stub


@pytest.fixture
def in_project(settings: Settings) -> Settings:
    """Settings of its own in a project, with nothing created."""
    return msgspec.structs.replace(settings, project="test-project")


def invoke(*arguments: str, answer: str | None = None) -> str:
    """What ``ecomflow ARGUMENTS`` prints; where it is given an answer, with its question, else on standard output."""
    result = CliRunner().invoke(app, arguments, input=answer, env={"COLUMNS": "200", "NO_COLOR": "1"})
    return result.stdout if answer is None else result.output


def as_variables(settings: Settings) -> dict[str, str]:
    names = ("project", "topic", "subscription", "bucket", "dataset", "ack_deadline_seconds", "state_dir")
    return {f"ECOMFLOW_{name.upper()}": str(getattr(settings, name)) for name in names}


def as_emulators(stack: Endpoints) -> dict[str, str]:
    """The variables by which the command line finds the services of ``stack``."""
    return {
        "PUBSUB_EMULATOR_HOST": str(stack.pubsub),
        "STORAGE_EMULATOR_HOST": str(stack.storage),
        "BIGQUERY_EMULATOR_HOST": str(stack.bigquery),
        "BIGQUERY_STORAGE_EMULATOR_HOST": str(stack.bigquery_storage),
    }


class TestApis:
    def test_observed(self, google: Google) -> None:
        """The APIs are asked for in one request, and those enabled are reported."""
        google.enabled.remove("dataflow.googleapis.com")
        assert observe_apis(PROJECT).enabled == tuple(api for api in APIS if api != "dataflow.googleapis.com")
        assert [path for _, path, _ in google.requests] == ["/v1/projects/test-project/services:batchGet"]

    def test_not_shown(self, google: Google) -> None:
        """Where this account may not ask, nothing is claimed."""
        google.denied = (":batchGet",)
        assert observe_apis(PROJECT).enabled is None

    def test_enabled_together(self, google: Google) -> None:
        """What is disabled is enabled in one request, and waited for."""
        google.enabled.clear()
        pauses: list[float] = []
        enable_apis(["pubsub.googleapis.com", "storage.googleapis.com"], PROJECT, sleep=pauses.append)
        assert google.enabled == {"pubsub.googleapis.com", "storage.googleapis.com"}
        assert google.requests[0] == (
            "POST",
            "/v1/projects/test-project/services:batchEnable",
            {"serviceIds": ["pubsub.googleapis.com", "storage.googleapis.com"]},
        )
        assert pauses == [1.0]

    def test_refused(self, google: Google) -> None:
        """The error has Google's reason, and the command that does the same."""
        google.refused = "Billing account for project is not found."
        with pytest.raises(AccessError, match=r"refuses to enable .*: Billing account for project is not found\.") as caught:
            enable_apis(["pubsub.googleapis.com"], PROJECT, sleep=lambda _: None)
        assert "gcloud services enable pubsub.googleapis.com --project test-project" in str(caught.value.remedy)

    def test_never_done(self, google: Google) -> None:
        """Waiting ends."""
        google.is_slow = True
        times = iter([0.0, 100.0, 200.0, 301.0])
        pauses: list[float] = []
        with pytest.raises(UnavailableError, match="has not enabled the APIs within 300 s"):
            enable_apis(["pubsub.googleapis.com"], PROJECT, sleep=pauses.append, clock=lambda: next(times))
        assert pauses == [1.0, 1.0]

    def test_denied(self, google: Google) -> None:
        """Enabling without the role for it names the role."""
        google.denied = (":batchEnable",)
        with pytest.raises(AccessError, match="Access to project test-project is denied") as caught:
            enable_apis(["pubsub.googleapis.com"], PROJECT)
        assert "roles/serviceusage.serviceUsageAdmin" in str(caught.value.remedy)

    def test_project_number(self, google: Google) -> None:
        """The number is what default service accounts are named by."""
        assert project_number(PROJECT) == "4242"

    def test_no_credentials(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without credentials a project is given up within a second or two, not after the metadata server's three tries."""
        for name, value in {"HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path), "GCE_METADATA_HOST": "127.0.0.1:1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        begun = time.monotonic()
        with pytest.raises(AccessError, match="no Google Cloud credentials on this machine") as caught:
            infra.plan(Target(PROJECT, Endpoints()))
        assert caught.value.remedy == "Run: gcloud auth application-default login"
        assert time.monotonic() - begun < 3


@pytest.mark.stack
class TestUp:
    def test_apis_then_resources(self, google: Google, in_project: Settings, stack: Endpoints) -> None:
        """APIs are enabled before anything else is made; a second time there is nothing to do."""
        google.enabled -= {"pubsub.googleapis.com", "dataflow.googleapis.com"}
        target = Target(in_project, stack)
        plan = infra.plan(target)
        assert [(step.kind, step.action) for step in plan.steps[:2]] == [("apis", "change"), ("topic", "create")]
        assert [d.attribute for d in plan.steps[0].differences] == ["pubsub.googleapis.com", "dataflow.googleapis.com"]
        done = infra.apply(target, plan)
        assert len(done.steps) == 17
        assert google.enabled == set(APIS)
        again = infra.plan(target)
        assert {step.action for step in again.steps} == {"keep"}
        assert infra.apply(target, again).steps == ()

    def test_hidden_by_a_disabled_api(self, google: Google, in_project: Settings, stack: Endpoints) -> None:
        """What a disabled service holds can't be seen; once it is enabled it is found, and only what differs is changed."""
        infra.apply(Target(in_project, stack), infra.plan(Target(in_project, stack)))
        google.enabled.remove("pubsub.googleapis.com")
        longer = msgspec.structs.replace(in_project, ack_deadline_seconds=60)
        plan = infra.plan(Target(longer, stack))
        assert [step.kind for step in plan.steps if step.action == "create"] == ["topic", "subscription"] * 2
        done = infra.apply(Target(longer, stack), plan)
        assert [(step.kind, step.action) for step in done.steps] == [("apis", "change"), ("subscription", "change")]

    def test_on_the_command_line(
        self, google: Google, in_project: Settings, stack: Endpoints, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """plan is a diff by column; up prints what it created and the roles for the job; a second up does nothing; down asks."""
        for name, value in {**as_emulators(stack), **as_variables(in_project)}.items():
            monkeypatch.setenv(name, value)
        google.enabled.remove("dataflow.googleapis.com")
        planned = invoke("infra", "plan")
        assert "~ change apis" in planned
        assert "    ~ dataflow.googleapis.com: disabled -> enabled" in planned
        assert "+ create table        fact_order\n    + column event_id: STRING NOT NULL" in planned
        assert planned.endswith("16 to create, 1 to change.\n")
        first = invoke("infra", "up")
        assert "17 of 17 resources created or changed." in first
        assert "--role=roles/dataflow.worker" in first
        second = json.loads(invoke("infra", "up", "--json"))
        assert second["steps"] == []
        assert len(second["grants"]) == 5
        assert "Delete topic and subscription, including their messages, of test-project?" in invoke(
            "infra", "down", answer="n\n"
        )
        assert infra.plan(Target(in_project, stack)).steps[1].action == "keep"
        assert invoke("infra", "down", "--with-data", "--yes").count("deleted") == 16


class TestRoles:
    ROLES = (
        ("roles/pubsub.subscriber", "subscription ecomflow-events-pipeline"),
        ("roles/pubsub.viewer", "subscription ecomflow-events-pipeline"),
        ("roles/bigquery.dataEditor", "dataset ecomflow"),
        ("roles/storage.objectUser", "bucket test-project-ecomflow"),
        ("roles/dataflow.worker", "project test-project"),
    )

    def test_least(self) -> None:
        """Each role is on the least resource that it can be on."""
        assert tuple((grant.role, grant.resource) for grant in job_grants(PROJECT)) == self.ROLES

    def test_commands(self) -> None:
        """The commands are whole: a shell reads them as gcloud's and bq's own arguments."""
        account = "job@test-project.iam.gserviceaccount.com"
        settings = msgspec.structs.replace(PROJECT, dataflow=DataflowSettings(service_account=account))
        member = f"--member=serviceAccount:{account}"
        pubsub, _, dataset, bucket, project = (shlex.split(grant.command) for grant in job_grants(settings))
        assert pubsub == [
            *("gcloud", "pubsub", "subscriptions", "add-iam-policy-binding", "ecomflow-events-pipeline"),
            *("--project=test-project", member, "--role=roles/pubsub.subscriber"),
        ]
        assert dataset[:2] == ["bq", "query"]
        # shlex knows no escaped backtick, which a shell would read as the bare one.
        assert dataset[-1].replace("\\`", "`") == (
            f'GRANT `roles/bigquery.dataEditor` ON SCHEMA `test-project`.ecomflow TO "serviceAccount:{account}"'
        )
        assert bucket[4:] == ["gs://test-project-ecomflow", member, "--role=roles/storage.objectUser"]
        assert project[2:] == [
            "add-iam-policy-binding",
            "test-project",
            member,
            "--role=roles/dataflow.worker",
            "--condition=None",
        ]

    def test_default_account(self) -> None:
        """Without a service account the shell finds out Compute Engine's own."""
        assert (
            "$(gcloud projects describe test-project --format='value(projectNumber)')-compute@" in job_grants(PROJECT)[0].command
        )

    def test_tracking_subscription(self) -> None:
        """A timestamp attribute makes Dataflow create a subscription of its own, which takes a role on the project."""
        settings = msgspec.structs.replace(PROJECT, dataflow=DataflowSettings(timestamp_attribute="event_timestamp"))
        assert [(grant.role, grant.resource) for grant in job_grants(settings)[5:]] == [
            ("roles/pubsub.editor", "project test-project")
        ]
