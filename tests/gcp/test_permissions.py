"""Commands with just the roles that docs/google-cloud.md names for them, on services that demand Google's permissions."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from ecomflow import infra
from ecomflow.config import DataflowSettings, Settings
from ecomflow.doctor import Check, access, preflight
from ecomflow.errors import AccessError
from ecomflow.gcp.permissions import ROLE_OF, roles_of
from ecomflow.gcp.target import Target
from ecomflow.infra.changes import remove_bucket
from ecomflow.infra.resources import Topic
from ecomflow.pipeline.dataflow import submit
from tests.support import ROOT
from tests.support.project import ROLES, Project

ACCOUNT = "job@test-project.iam.gserviceaccount.com"
SETTINGS = Settings(project="test-project", dataflow=DataflowSettings(service_account=ACCOUNT))
PAGE = (ROOT / "docs" / "google-cloud.md").read_text(encoding="utf-8")


def documented(command: str) -> set[str]:
    """The roles in the row of docs/google-cloud.md that begins with ``command``."""
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| {command}"))
    return set(re.findall(r"roles/[\w.]+", row.split("|")[2]))


READER, MAKER, DEPLOYER, ENGINE = (
    documented("`infra plan`"),
    documented("`infra up`"),
    documented("`deploy`, `job update` on Dataflow"),
    documented("`deploy --runner DirectRunner`"),
)


def failed(found: tuple[Check, ...]) -> dict[str, str]:
    return {check.name: check.message for check in found if not check.ok}


def without_grants(found: tuple[Check, ...]) -> tuple[Check, ...]:
    """All but the lines on the job's service account, whose roles nobody granted here."""
    return tuple(check for check in found if not check.name.startswith("roles/"))


class TestDocumentedRoles:
    def test_plan_and_status(self, served: Any) -> None:
        """Whoever may read sees that everything is there, and its rows."""
        endpoints = served(Project(SETTINGS, READER))
        target = Target(SETTINGS, endpoints)
        assert {step.action for step in infra.plan(target).steps} == {"keep"}
        assert {status.state for status in infra.status(target)} == {"exists"}

    def test_deploying_to_dataflow(self, served: Any) -> None:
        """The checks before a deploy pass, with every line on the caller's own access checked, and so does the bucket's."""
        endpoints = served(Project(SETTINGS, DEPLOYER))
        target = Target(SETTINGS, endpoints)
        found = without_grants(preflight(target, for_dataflow=True))
        assert failed(found) == {}
        assert [check.name for check in found if not check.checked] == []
        submit._check_bucket(target)

    def test_the_engine_of_this_machine(self, served: Any) -> None:
        """The checks before a local pipeline in a project pass."""
        endpoints = served(Project(SETTINGS, ENGINE))
        assert failed(preflight(Target(SETTINGS, endpoints), for_dataflow=False)) == {}

    def test_replaying_dead_letters(self, served: Any) -> None:
        """Whoever replays can verify the owner of the bucket, before anything is published."""
        infra.check_owner(Target(SETTINGS, served(Project(SETTINGS, documented("`dlq replay`")))))

    def test_whoever_makes_it_all_may_read_it(self, served: Any) -> None:
        """The roles to make resources hold those to plan them."""
        endpoints = served(Project(SETTINGS, MAKER))
        assert {step.action for step in infra.plan(Target(SETTINGS, endpoints)).steps} == {"keep"}

    @pytest.mark.parametrize("role", sorted(DEPLOYER))
    def test_none_too_many(self, role: str, served: Any) -> None:
        """Each role of a deployer is needed: without it a check fails."""
        endpoints = served(Project(SETTINGS, DEPLOYER - {role}))
        assert failed(without_grants(preflight(Target(SETTINGS, endpoints), for_dataflow=True)))

    def test_a_role_for_each_permission(self) -> None:
        """The role that a message names for a permission holds it."""
        assert {permission for permission, role in ROLE_OF.items() if permission not in ROLES[role]} == set()

    def test_no_role_that_another_includes(self) -> None:
        """Reading objects alone takes the smaller role; writing takes one that reads too."""
        assert roles_of(["storage.objects.list", "storage.objects.get"]) == ["roles/storage.objectViewer"]
        assert roles_of(["storage.objects.list", "storage.objects.create"]) == ["roles/storage.objectUser"]


class TestDenied:
    @pytest.mark.parametrize(
        ("lost", "line", "permission", "role"),
        [
            ("roles/pubsub.viewer", "topic ecomflow-events", "pubsub.topics.get", "roles/pubsub.viewer"),
            ("roles/pubsub.viewer", "subscription ecomflow-events-pipeline", "pubsub.subscriptions.get", "roles/pubsub.viewer"),
            ("roles/storage.bucketViewer", "bucket test-project-ecomflow", "storage.buckets.get", "roles/storage.bucketViewer"),
            ("roles/bigquery.metadataViewer", "dataset ecomflow", "bigquery.datasets.get", "roles/bigquery.metadataViewer"),
            ("roles/bigquery.metadataViewer", "table fact_order", "bigquery.tables.get", "roles/bigquery.metadataViewer"),
        ],
    )
    def test_what_is_missing_is_named(self, lost: str, line: str, permission: str, role: str, served: Any) -> None:
        """A line of the doctor's names the permission and the smallest role that holds it, never an administrator's."""
        endpoints = served(Project(SETTINGS, DEPLOYER - {lost}))
        found = {check.name: check for check in preflight(Target(SETTINGS, endpoints), for_dataflow=True)}
        assert found[line].message.endswith(f"is denied: this account lacks {permission}.")
        assert str(found[line].remedy).startswith(f"Grant this account {role} on project test-project.")

    def test_acting_as_the_service_account(self, served: Any) -> None:
        """Asked of the service account itself: without the permission a deploy stops before anything is staged."""
        project = Project(SETTINGS, DEPLOYER - {"roles/iam.serviceAccountUser"})
        endpoints = served(project)
        found = {check.name: check for check in preflight(Target(SETTINGS, endpoints), for_dataflow=True)}
        line = found["acting as the job's service account"]
        assert line.message == "This account lacks iam.serviceAccounts.actAs."
        assert line.remedy == f"Grant it roles/iam.serviceAccountUser on {ACCOUNT}."
        asked = (
            "POST",
            f"/v1/projects/-/serviceAccounts/{ACCOUNT}:testIamPermissions",
            {"permissions": ["iam.serviceAccounts.actAs"]},
        )
        assert asked in project.requests

    def test_the_backlog_is_no_condition(self, served: Any) -> None:
        """Without roles/monitoring.viewer a pipeline runs all the same; the line says what can't be seen."""
        project = Project(SETTINGS, DEPLOYER)
        assert "monitoring.timeSeries.list" not in project.permissions
        endpoints = served(project)
        lines = dict(access.lines(Target(SETTINGS, endpoints), True))
        assert lines["your access to Cloud Monitoring"]().ok
        assert lines["your access to Cloud Monitoring"]().message == (
            "This account lacks monitoring.timeSeries.list: without it ecomflow top and reconcile --wait can't see the backlog."
            " Grant it roles/monitoring.viewer on project test-project."
        )


class TestOtherwiseSetUp:
    """What a pipeline can do with, though ``infra up`` would change it."""

    def test_a_topic_that_keeps_more(self, served: Any) -> None:
        """It costs more, and passes with a word about it."""
        project = Project(SETTINGS, DEPLOYER)
        project.there[SETTINGS.topic_path] = Topic(SETTINGS.topic_path, 7)
        found = {check.name: check for check in preflight(Target(SETTINGS, served(project)), for_dataflow=True)}
        line = found["topic ecomflow-events"]
        assert (line.ok, line.message) == (True, "It exists, but retention_days is 7, expected 0.")

    @pytest.mark.parametrize(("for_dataflow", "roles"), [(True, DEPLOYER), (False, ENGINE)])
    def test_a_retry_policy(self, for_dataflow: bool, roles: set[str], served: Any) -> None:
        """Dataflow supports none; the engine of this machine can do with one."""
        project = Project(SETTINGS, roles)
        subscription = project.there[SETTINGS.subscription_path]
        project.there[SETTINGS.subscription_path] = msgspec.structs.replace(subscription, backoff_seconds=(1, 60))
        found = {check.name: check for check in preflight(Target(SETTINGS, served(project)), for_dataflow=for_dataflow)}
        line = found["subscription ecomflow-events-pipeline"]
        assert line.ok is not for_dataflow
        assert line.message.casefold().endswith("backoff_seconds is 1, 60, expected none.")


class TestEnabling:
    @pytest.mark.slow
    def test_a_service_that_can_be_read_before_it_takes_changes(self, served: Any) -> None:
        """After an API was enabled, making is tried again while Google says that it is disabled."""
        project = Project(SETTINGS, MAKER)
        del project.there[SETTINGS.topic_path]
        project.enabled.remove("pubsub.googleapis.com")
        project.slow = 2
        endpoints = served(project)
        pauses: list[float] = []
        target = Target(SETTINGS, endpoints)
        done = infra.apply(target, infra.plan(target), sleep=pauses.append)
        assert [(step.kind, step.action) for step in done.steps] == [("apis", "change"), ("topic", "create")]
        assert pauses == [5.0, 5.0]
        assert SETTINGS.topic_path in project.there

    @pytest.mark.slow
    def test_a_service_that_stays_disabled(self, served: Any) -> None:
        """It is given up after minutes; and at once where no API was enabled just now."""
        project = Project(SETTINGS, MAKER)
        del project.there[SETTINGS.topic_path]
        endpoints = served(project)
        target = Target(SETTINGS, endpoints)
        plan = infra.plan(target)
        project.slow = 9
        pauses: list[float] = []
        with pytest.raises(AccessError, match=r"Pub/Sub is not enabled in project 4242\."):
            infra.apply(target, plan, sleep=pauses.append)
        assert pauses == []
        project.enabled.remove("logging.googleapis.com")
        times = iter([0.0, 100.0, 179.0, 181.0])
        with pytest.raises(AccessError, match="gcloud services enable pubsub"):
            infra.apply(
                target,
                infra.plan(target),
                sleep=pauses.append,
                clock=lambda: next(times),
            )
        assert pauses == [5.0, 5.0]


class TestSoftDelete:
    def test_what_down_leaves(self, served: Any) -> None:
        """A bucket that is deleted says for how long what was in it can be restored; with soft delete off it says nothing."""
        for days, reason in ((7, "its deleted objects can be restored, and are charged for, for 7 more days"), (0, None)):
            settings = Settings(project="test-project", soft_delete_days=days)
            project = Project(settings, MAKER)
            project.objects = {"dlq/a.jsonl"}
            removal = remove_bucket(Target(settings, served(project)))
            assert (removal.outcome, removal.reason) == ("deleted", reason)
            assert project.objects == set()

    def test_a_bucket_that_stays(self, served: Any) -> None:
        """Objects of one's own keep the bucket; what was deleted from it can be restored as well."""
        project = Project(SETTINGS, MAKER)
        project.objects = {"mine.txt"}
        removal = remove_bucket(Target(SETTINGS, served(project)))
        assert removal.reason == (
            "it contains objects that are not ecomflow's, such as mine.txt;"
            " its deleted objects can be restored, and are charged for, for 7 more days"
        )
