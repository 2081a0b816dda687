"""A bucket that another project owns: nothing is written to it, read from it for replay, or deleted in it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from ecomflow import infra
from ecomflow.config import Endpoints, Settings
from ecomflow.deadletters.replay import PlannedObject, ReplayPlan, replay
from ecomflow.doctor import preflight, probe
from ecomflow.errors import AccessError, ConfigError, NotFoundError, SchemaError
from ecomflow.gcp.target import Target
from ecomflow.infra.changes import remove_bucket
from ecomflow.pipeline.dataflow import submit
from ecomflow.pipeline.direct import launch
from tests.support.infra import PROJECT_NUMBER
from tests.support.project import ROLES, Project

SETTINGS = Settings(project="test-project")
FOREIGN = "999"
BUCKET = "Bucket test-project-ecomflow belongs to project 999, expected project 4242 (test-project). Nothing is written to it."
Serve = Callable[[Project], Endpoints]


def project(settings: Settings = SETTINGS, owner: str = FOREIGN) -> Project:
    """A project in which the caller has every role, and whose bucket belongs to the project with the number ``owner``."""
    made = Project(settings, set(ROLES))
    made.bucket_owner = owner
    return made


class TestProvisioning:
    def test_plan(self, served: Serve) -> None:
        """The bucket is refused, with its owner, the expected owner, and what to do."""
        step = next(step for step in infra.plan(Target(SETTINGS, served(project()))).steps if step.kind == "bucket")
        assert step.action == "refuse"
        (difference,) = [found for found in step.differences if found.how == "refuse"]
        assert (difference.attribute, difference.live, difference.wanted) == ("owner", "project 999", "project 4242")
        assert "set bucket in ecomflow.toml, or ECOMFLOW_BUCKET, to another name" in str(difference.remedy)
        assert 'bucket_project = "999"' in str(difference.remedy)

    def test_up(self, served: Serve) -> None:
        """Nothing at all is changed, not even APIs and topics."""
        stub = project()
        del stub.there[SETTINGS.topic_path]
        stub.enabled.remove("dataflow.googleapis.com")
        target = Target(SETTINGS, served(stub))
        with pytest.raises(SchemaError, match=r"Nothing was changed.*owner is project 999, expected project 4242"):
            infra.apply(target, infra.plan(target))
        assert stub.writes() == []
        assert SETTINGS.topic_path not in stub.there

    def test_status(self, served: Serve) -> None:
        """The line of the bucket names its owner."""
        (bucket,) = [found for found in infra.status(Target(SETTINGS, served(project()))) if found.kind == "bucket"]
        assert (bucket.state, bucket.detail) == ("drifted", "owner is project 999, expected project 4242")

    def test_own_bucket(self, served: Serve) -> None:
        """The project's own bucket passes."""
        endpoints = served(project(owner=PROJECT_NUMBER))
        target = Target(SETTINGS, endpoints)
        infra.check_owner(target)
        assert {step.action for step in infra.plan(target).steps} == {"keep"}

    def test_created_by_others_after_the_plan(self, served: Serve) -> None:
        """A bucket that another project creates between plan and apply is refused."""
        stub = project()
        del stub.there[SETTINGS.bucket_name]
        stub.rival = True
        target = Target(SETTINGS, served(stub))
        with pytest.raises(ConfigError) as caught:
            infra.apply(target, infra.plan(target))
        assert caught.value.message == BUCKET
        assert stub.writes() == [("POST", "/storage/v1/b")]

    def test_down(self, served: Serve) -> None:
        """Objects in the bucket of another project are not deleted."""
        stub = project()
        stub.objects = {"dlq/theirs.jsonl"}
        removal = remove_bucket(Target(SETTINGS, served(stub)))
        assert (removal.outcome, removal.reason) == ("kept", BUCKET)
        assert stub.objects == {"dlq/theirs.jsonl"}


class TestBucketOfAnotherProject:
    """``bucket_project`` names the project that may own the bucket."""

    def test_by_number(self, served: Serve) -> None:
        """A number is not looked up, so it needs no permission in that project."""
        settings = msgspec.structs.replace(SETTINGS, bucket_project=FOREIGN)
        stub = project(settings)
        infra.check_owner(Target(settings, served(stub)))
        assert stub.asked == [("GET", "/storage/v1/b/test-project-ecomflow")]

    def test_by_id(self, served: Serve) -> None:
        """An id is looked up in that project; the configured project's own bucket is then refused."""
        settings = msgspec.structs.replace(SETTINGS, bucket_project="shared-project")
        stub = project(settings)
        stub.numbers["shared-project"] = FOREIGN
        endpoints = served(stub)
        target = Target(settings, endpoints)
        infra.check_owner(target)
        assert ("GET", "/v1/projects/shared-project/services/storage.googleapis.com") in stub.asked
        stub.bucket_owner = PROJECT_NUMBER
        with pytest.raises(ConfigError, match=r"belongs to project 4242, expected project 999 \(shared-project\)"):
            infra.check_owner(target)

    def test_created_there(self, served: Serve) -> None:
        """A missing bucket is created in that project."""
        settings = msgspec.structs.replace(SETTINGS, bucket_project="shared-project")
        stub = project(settings)
        stub.numbers["shared-project"] = FOREIGN
        del stub.there[settings.bucket_name]
        endpoints = served(stub)
        target = Target(settings, endpoints)
        done = infra.apply(target, infra.plan(target))
        assert [(step.kind, step.action) for step in done.steps] == [("bucket", "create")]
        assert stub.bucket_owner == FOREIGN


class TestBeforeAnythingIsWritten:
    def test_a_job(self, served: Serve) -> None:
        """A submission fails before the package that workers would run is staged."""
        stub = project()
        with pytest.raises(ConfigError) as caught:
            submit.submit(Target(SETTINGS, served(stub)))
        assert caught.value.message == BUCKET
        assert stub.writes() == []

    def test_the_pipeline_on_this_machine(self, served: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        """The local engine does not start on it."""
        endpoints = served(project())
        variables = {
            "PUBSUB": endpoints.pubsub,
            "STORAGE": endpoints.storage,
            "BIGQUERY": endpoints.bigquery,
            "BIGQUERY_STORAGE": endpoints.bigquery_storage,
        }
        for name, value in variables.items():
            monkeypatch.setenv(f"{name}_EMULATOR_HOST", str(value))
        with pytest.raises(ConfigError) as caught:
            launch.check_ready(SETTINGS)
        assert caught.value.message == BUCKET

    @pytest.mark.parametrize("for_dataflow", [True, False])
    def test_doctor(self, for_dataflow: bool, served: Serve) -> None:
        """The bucket's check fails, and so does a deploy, which runs the same checks."""
        found = {check.name: check for check in preflight(Target(SETTINGS, served(project())), for_dataflow=for_dataflow)}
        line = found["bucket test-project-ecomflow"]
        assert (line.ok, line.exit_code, line.message) == (False, 2, "Owner is project 999, expected project 4242.")
        assert "ECOMFLOW_BUCKET, to another name" in str(line.remedy)

    def test_probe(self, served: Serve) -> None:
        """No object is uploaded or deleted."""
        stub = project()
        check = probe._probe_objects("temp/probe-x", Target(SETTINGS, served(stub)))
        assert (check.name, check.ok, check.message) == ("an object", False, BUCKET)
        assert stub.writes() == []

    def test_replay(self, served: Serve) -> None:
        """Dead letters that someone else may have written are not published or moved."""
        stub = project()
        plan = ReplayPlan(1, 1, {}, {}, 0, [PlannedObject("dlq/order/x.jsonl", 1, frozenset({b"x"}))], [])
        with pytest.raises(ConfigError) as caught:
            replay(Target(SETTINGS, served(stub)), plan)
        assert caught.value.message == BUCKET
        assert stub.asked == [
            ("GET", "/storage/v1/b/test-project-ecomflow"),
            ("GET", "/v1/projects/test-project/services/storage.googleapis.com"),
        ]


class TestUnknownOwner:
    UNKNOWN = (
        "Nothing is written to bucket test-project-ecomflow, because its owner can't be verified."
        " Access to project test-project is denied: this account lacks serviceusage.services.get."
    )

    @pytest.fixture
    def stub(self) -> Project:
        """A project in which the caller has every role but those that show the project's number."""
        return Project(SETTINGS, {role for role, held in ROLES.items() if "serviceusage.services.get" not in held})

    def test_no_permission(self, stub: Project, served: Serve) -> None:
        """If the project's number can't be read the bucket is refused, with the smallest role that shows it, and the setting."""
        with pytest.raises(AccessError) as caught:
            infra.check_owner(Target(SETTINGS, served(stub)))
        assert caught.value.message == self.UNKNOWN
        grant, setting = str(caught.value.remedy).split("\n")
        assert grant.startswith("Grant this account roles/serviceusage.serviceUsageConsumer on project test-project.")
        assert setting.startswith("Or set bucket_project to the number of the project that owns the bucket")
        numbered = msgspec.structs.replace(SETTINGS, bucket_project=PROJECT_NUMBER)
        infra.check_owner(Target(numbered, served(stub)))

    def test_nothing_is_written(self, stub: Project, served: Serve) -> None:
        """Neither by infra up, nor by a submission, a probe or a replay; infra down keeps the bucket."""
        stub.objects = {"dlq/order/x.jsonl"}
        endpoints = served(stub)
        plan = ReplayPlan(1, 1, {}, {}, 0, [PlannedObject("dlq/order/x.jsonl", 1, frozenset({b"x"}))], [])
        target = Target(SETTINGS, endpoints)
        for write in (
            lambda: infra.apply(target, infra.plan(target)),
            lambda: submit.submit(target),
            lambda: replay(target, plan),
        ):
            with pytest.raises(AccessError) as caught:
                write()
            assert caught.value.message == self.UNKNOWN
        assert probe._probe_objects("temp/probe-x", target).message == self.UNKNOWN
        removal = remove_bucket(target)
        assert (removal.outcome, removal.reason) == ("kept", self.UNKNOWN)
        assert stub.writes() == []
        assert stub.objects == {"dlq/order/x.jsonl"}

    def test_no_bucket(self, served: Serve) -> None:
        """A missing bucket has no owner: it has to be created first."""
        stub = project()
        del stub.there[SETTINGS.bucket_name]
        with pytest.raises(NotFoundError, match="Bucket test-project-ecomflow does not exist"):
            infra.check_owner(Target(SETTINGS, served(stub)))

    def test_the_local_stack(self) -> None:
        """The local stack is not asked: no other project can own its buckets."""
        infra.check_owner(Target(Settings(), Endpoints(storage="http://127.0.0.1:1")))

    def test_emulators(self, served: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        """An emulator's project numbers mean nothing if every other service is emulated, and there are no projects to look up."""
        stub = project()
        endpoints = served(stub)
        monkeypatch.delenv("SERVICEUSAGE_EMULATOR_HOST")
        infra.check_owner(Target(SETTINGS, endpoints))
        assert stub.asked == [("GET", "/storage/v1/b/test-project-ecomflow")]
