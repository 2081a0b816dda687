"""The doctor: what it finds on the local services when all is well and when something is not, and what it may ask of Google."""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import grpc
import msgspec
import pytest
from google.api_core.exceptions import ServiceUnavailable
from google.cloud import bigquery

from ecomflow import sql
from ecomflow.config import DataflowSettings, Endpoints, Settings
from ecomflow.doctor import Check, access, checks, preflight, probe, require
from ecomflow.errors import AccessError, EcomflowError, NotFoundError, SchemaError, UnavailableError
from ecomflow.gcp.clients import publisher_client, storage_client, subscriber_client
from ecomflow.gcp.target import Target
from ecomflow.infra.roles import job_grants
from tests.support.cli import ecomflow
from tests.support.contract import FACT_TABLES
from tests.support.fronts import GrpcFront, HttpFront, Refuse
from tests.support.infra import Google

ACCOUNT = "job@test-project.iam.gserviceaccount.com"
PROJECT = Settings(project="test-project", dataflow=DataflowSettings(service_account=ACCOUNT))
# How many lines are on the caller's own access where a job on Dataflow is meant; those on the job's follow.
OWN = 7


def failures(found: tuple[Check, ...]) -> dict[str, Check]:
    return {check.name: check for check in found if not check.ok}


def run(statement: str, target: Target) -> None:
    target.bigquery.query(statement.replace("DATASET", target.settings.dataset_id)).result()


@contextmanager
def silent() -> Iterator[str]:
    """``host:port`` of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


class TestRequire:
    """Pure: failed checks to the error that a deploy ends with."""

    def test_nothing_wrong(self) -> None:
        """Checks that pass, or that could not be made, raise nothing."""
        require([Check("a", True, "fine"), Check("b", True, "Not checked: x.", checked=False)])

    def test_first_failure(self) -> None:
        """The first failure gives class, exit code and sentence; the others are named, and every remedy is given once."""
        wrong = [
            Check("a", True, "fine"),
            Check("topic t", False, "It does not exist.", "Run: ecomflow infra up", 3),
            Check("view v", False, "It does not exist.", "Run: ecomflow infra up", 3),
            Check("APIs", False, "Not enabled.", "Run: gcloud services enable x", 5),
        ]
        with pytest.raises(NotFoundError) as caught:
            require(wrong)
        assert caught.value.message == "topic t: It does not exist. Also failed: view v. Also failed: APIs."
        assert caught.value.remedy == "Run: ecomflow infra up\nRun: gcloud services enable x"

    @pytest.mark.parametrize("kind", [AccessError, SchemaError, UnavailableError, NotFoundError])
    def test_class_by_exit_code(self, kind: type[EcomflowError]) -> None:
        """The error has the class whose exit code the check has."""
        with pytest.raises(kind):
            require([Check("a", False, "wrong", None, kind.exit_code)])


class TestSideBySide:
    def test_one_that_hangs(self) -> None:
        """Lines run at once and in order; one that has no answer in time fails, and nobody waits for it."""
        begun = time.monotonic()
        lines: list[tuple[str, Callable[[], Check]]] = [
            ("hangs", lambda: time.sleep(30) or Check("hangs", True, "")),
            ("answers", lambda: Check("answers", True, "fine")),
        ]
        late, good = checks.side_by_side(lines, 0.1)
        assert (late.ok, late.message, late.exit_code) == (False, "No answer within 0 s.", 4)
        assert good == Check("answers", True, "fine")
        assert time.monotonic() - begun < 2

    def test_a_fault_of_ours(self) -> None:
        """What is no EcomflowError is not hidden."""
        with pytest.raises(ZeroDivisionError):
            checks.side_by_side([("a", lambda: 1 / 0)], 1)  # type: ignore[return-value,list-item]


@pytest.mark.stack
class TestPreflight:
    """On the local services."""

    def test_complete(self, provisioned: Settings, target: Target) -> None:
        """With everything there every line passes, a line for each resource, and nothing is asked of Google."""
        found = preflight(target, for_dataflow=False)
        assert failures(found) == {}
        assert [check.name for check in found[:3]] == [
            f"topic {provisioned.topic}",
            f"subscription {provisioned.subscription}",
            f"topic {provisioned.topic}-dead-letter",
        ]
        assert len(found) == 16

    def test_nothing_there(self, target: Target) -> None:
        """With nothing there every line says what makes it."""
        found = preflight(target, for_dataflow=False)
        assert {(check.ok, check.message, check.remedy, check.exit_code) for check in found} == {
            (False, "It does not exist.", "Run: ecomflow infra up", 3)
        }

    def test_drifted(self, provisioned: Settings, target: Target) -> None:
        """Each line that is not as it should be says how, and what fixes it: infra up, or something else where that can't."""
        run("DROP VIEW `DATASET.fact_order_unique`", target)
        run("DROP TABLE `DATASET.fact_inventory`", target)
        ddl = sql.table_ddl(FACT_TABLES["fact_inventory"], provisioned.dataset_id)
        run(ddl.replace("quantity_change     INT64", "quantity_change     STRING"), target)
        moved = msgspec.structs.replace(provisioned, ack_deadline_seconds=60)
        found = failures(preflight(Target(moved, target.endpoints), for_dataflow=False))
        expected = {name: (check.message, check.exit_code) for name, check in found.items()}
        assert expected == {
            f"subscription {moved.subscription}": ("Ack_deadline_seconds is 10, expected 60.", 2),
            "table fact_inventory": ("Column quantity_change is STRING NOT NULL, expected INT64 NOT NULL.", 6),
            "view fact_order_unique": ("It does not exist.", 3),
        }
        assert "copy the rows of" in str(found["table fact_inventory"].remedy)

    def test_subscription_of_another_topic(self, provisioned: Settings, stack: Endpoints, target: Target) -> None:
        """A subscription to another topic, or to none any more, is named with what to do."""
        publisher_client(stack).delete_topic(topic=provisioned.topic_path)
        found = failures(preflight(target, for_dataflow=False))
        subscription = found[f"subscription {provisioned.subscription}"]
        assert subscription.message.startswith("Topic is _deleted")
        assert subscription.message.endswith(f", expected {provisioned.topic_path}.")
        assert "gcloud pubsub subscriptions delete" in str(subscription.remedy)

    def test_a_service_that_hangs(self, provisioned: Settings, stack: Endpoints, monkeypatch: pytest.MonkeyPatch) -> None:
        """A service that takes connections and never answers fails its own lines within the time that all have."""
        monkeypatch.setattr(checks, "PREFLIGHT_SECONDS", 2.0)
        begun = time.monotonic()
        with silent() as host:
            found = preflight(Target(provisioned, msgspec.structs.replace(stack, storage=f"http://{host}")), for_dataflow=False)
        assert time.monotonic() - begun < 4
        assert {name: check.exit_code for name, check in failures(found).items()} == {f"bucket {provisioned.bucket}": 4}

    def test_a_service_that_is_not_there(self, provisioned: Settings, stack: Endpoints) -> None:
        """A service that refuses connections is reported with its address, within seconds."""
        found = failures(preflight(Target(provisioned, msgspec.structs.replace(stack, pubsub="127.0.0.1:1")), for_dataflow=False))
        assert {check.exit_code for check in found.values()} == {4}
        assert len(found) == 4
        assert "Pub/Sub at 127.0.0.1:1 does not answer" in next(iter(found.values())).message


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Google, Endpoints]]:
    """Google's APIs for projects and roles, with all APIs enabled and no roles, and the endpoints that lead to them."""
    stub = Google()
    with ExitStack() as servers:
        url = servers.enter_context(stub.over_http())
        pubsub = servers.enter_context(stub.over_grpc())
        monkeypatch.setenv("SERVICEUSAGE_EMULATOR_HOST", url)
        monkeypatch.setenv("CLOUDRESOURCEMANAGER_EMULATOR_HOST", url)
        monkeypatch.setenv("IAM_EMULATOR_HOST", url)
        yield stub, Endpoints(pubsub=pubsub, storage=url, bigquery=url, bigquery_storage=pubsub, dataflow=url)


def access_of(endpoints: Endpoints, for_dataflow: bool, settings: Settings = PROJECT) -> list[Check]:
    return list(checks.side_by_side(access.lines(Target(settings, endpoints), for_dataflow), 10))


class TestAccess:
    """Roles and permissions, as a stub of Google reports them."""

    def test_a_job_without_roles(self, google: tuple[Google, Endpoints]) -> None:
        """Each role that is seen nowhere is a line with the reason and the command that grants it."""
        found = access_of(google[1], for_dataflow=True)
        assert {check.exit_code for check in found if not check.ok} == {5}
        assert [check.name for check in found if check.ok] == ["your access to Cloud Monitoring"]
        names = [check.name for check in found]
        assert names[:OWN] == [
            *("your access to Dataflow", "acting as the job's service account", "your access to the topic"),
            *("your access to the subscription", "your access to the tables", "your access to the bucket"),
            "your access to Cloud Monitoring",
        ]
        assert names[OWN:] == [f"{grant.role} on {grant.resource}" for grant in job_grants(PROJECT)]
        assert [check.remedy for check in found[OWN:]] == [f"Run: {grant.command}" for grant in job_grants(PROJECT)]
        assert "lacks dataflow.jobs.create" in found[0].message

    def test_the_least_roles(self, google: tuple[Google, Endpoints]) -> None:
        """The roles that infra up names are enough for every line."""
        stub, endpoints = google
        member = [f"serviceAccount:{ACCOUNT}"]
        stub.policies = {
            "subscription": {"roles/pubsub.subscriber": member, "roles/pubsub.viewer": member},
            "dataset": {"roles/bigquery.dataEditor": [ACCOUNT]},
            "bucket": {"roles/storage.objectUser": member},
            "project": {"roles/dataflow.worker": member},
        }
        stub.permissions = {
            *("dataflow.jobs.create", "dataflow.jobs.get", "dataflow.jobs.list", "dataflow.jobs.updateContents"),
            *("storage.objects.create", "storage.objects.get", "storage.objects.list", "storage.buckets.get"),
            *("pubsub.topics.get", "pubsub.subscriptions.get", "bigquery.tables.get"),
            *("iam.serviceAccounts.actAs", "monitoring.timeSeries.list"),
        }
        found = access_of(endpoints, for_dataflow=True)
        assert [(check.ok, check.checked) for check in found] == [(True, True)] * (OWN + 5)

    def test_the_default_account(self, google: tuple[Google, Endpoints]) -> None:
        """Without a service account in the settings, Compute Engine's own is looked for; an editor may not use the bucket."""
        stub, endpoints = google
        stub.policies = {"project": {"roles/editor": ["serviceAccount:4242-compute@developer.gserviceaccount.com"]}}
        found = access_of(endpoints, for_dataflow=True, settings=Settings(project="test-project"))
        assert [check.ok for check in found[OWN:]] == [True, True, True, False, True]

    def test_roles_that_are_not_shown(self, google: tuple[Google, Endpoints]) -> None:
        """Where this account may not read a policy, the line says so, with what to do if it should matter, and passes."""
        stub, endpoints = google
        stub.denied = ("getIamPolicy", "/iam", "/datasets/ecomflow")
        found = access_of(endpoints, for_dataflow=True)[OWN:]
        assert {(check.ok, check.checked) for check in found} == {(True, False)}
        assert found[0].message.startswith(
            "Not checked: this account may not read the roles on subscription ecomflow-events-pipeline. If the job fails"
        )
        assert "add-iam-policy-binding" in found[0].message

    def test_an_api_that_only_the_doctor_needs(self, google: tuple[Google, Endpoints]) -> None:
        """A project that never enabled Resource Manager, which shows roles, can be deployed to all the same."""
        stub, endpoints = google
        stub.denied = (":getIamPolicy", ":testIamPermissions")
        stub.denial = "Cloud Resource Manager API has not been used in project 4242 before or it is disabled."
        found = {check.name: check for check in access_of(endpoints, for_dataflow=True)}
        project = found["your access to Dataflow"]
        assert (project.ok, project.checked) == (True, False)
        assert project.message == "Not checked: cloudresourcemanager.googleapis.com is not enabled in project 4242."

    @pytest.mark.parametrize(
        ("bindings", "expected"),
        [
            ([("projects/p/roles/mine", f"serviceAccount:{ACCOUNT}")], "projects/p/roles/mine"),
            ([("roles/pubsub.editor", "group:jobs@example.com")], "group:jobs@example.com"),
        ],
    )
    def test_roles_that_are_unknown(self, bindings: list[tuple[str, str]], expected: str) -> None:
        """A custom role of the account, or a group with a sufficient role, may be what is wanted: that is said, not guessed."""
        found = access.judge(job_grants(PROJECT)[0], ACCOUNT, [access.Binding(*binding) for binding in bindings])
        assert (found.ok, found.checked) == (True, False)
        assert expected in found.message

    def test_the_pipeline_on_this_machine(self, google: tuple[Google, Endpoints]) -> None:
        """The local engine works as whoever runs it: what that account may do is asked, and the missing permission is named."""
        stub, endpoints = google
        stub.permissions = {
            *("pubsub.topics.get", "pubsub.subscriptions.consume", "pubsub.subscriptions.get", "bigquery.tables.get"),
            *("storage.objects.create", "storage.objects.get"),
        }
        topic, subscription, tables, bucket, monitoring = access_of(endpoints, for_dataflow=False)
        assert (topic.ok, subscription.ok, monitoring.ok) == (True, True, True)
        assert tables.message == "This account lacks bigquery.tables.updateData."
        assert tables.remedy == "Grant it roles/bigquery.dataEditor on dataset ecomflow."
        assert bucket.message == "This account lacks storage.objects.list, storage.buckets.get."
        expected = "Grant it roles/storage.objectViewer and roles/storage.bucketViewer on bucket test-project-ecomflow."
        assert bucket.remedy == expected

    def test_a_service_account_that_is_not_there(self, google: tuple[Google, Endpoints]) -> None:
        """The error names the setting to correct."""
        google[0].missing = (f"{ACCOUNT}:testIamPermissions",)
        found = {check.name: check for check in access_of(google[1], for_dataflow=True)}
        line = found["acting as the job's service account"]
        assert (line.message, line.exit_code) == (f"Service account {ACCOUNT} does not exist.", 3)
        assert line.remedy == "Correct service_account in [dataflow]."

    def test_emulators_know_no_roles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where every service is an emulator nothing is asked of anybody."""
        host = "http://127.0.0.1:1"
        everywhere = Endpoints(pubsub="127.0.0.1:1", storage=host, bigquery=host, bigquery_storage="127.0.0.1:1", dataflow=host)
        assert access.lines(Target(PROJECT, everywhere), for_dataflow=True) == []

    def test_disabled_apis(self, google: tuple[Google, Endpoints]) -> None:
        """The disabled APIs are named with the command that enables them; those of Dataflow only where Dataflow is meant."""
        stub, endpoints = google
        stub.enabled -= {"dataflow.googleapis.com", "bigquerystorage.googleapis.com"}
        (_, job), (_, local) = (checks._api_lines(Target(PROJECT, endpoints), for_dataflow)[0] for for_dataflow in (True, False))
        with pytest.raises(AccessError) as caught:
            job()
        command = "gcloud services enable dataflow.googleapis.com bigquerystorage.googleapis.com --project test-project"
        assert caught.value.remedy == f"Run: {command}"
        with pytest.raises(AccessError, match=r"project test-project: bigquerystorage\.googleapis\.com"):
            local()
        stub.denied = (":batchGet",)
        assert (local().ok, local().checked) == (True, False)

    def test_without_credentials(self, tmp_path: Any) -> None:
        """A project without credentials is one line, at once, and nothing else is looked at."""
        nowhere = {"CLOUDSDK_CONFIG": str(tmp_path), "GCE_METADATA_HOST": "127.0.0.1:1", "GOOGLE_APPLICATION_CREDENTIALS": ""}
        begun = time.monotonic()
        result = ecomflow("doctor", "--project", "my-project", folder=tmp_path, **nowhere)
        assert time.monotonic() - begun < 6
        assert result.returncode == 5
        assert result.stdout.splitlines()[1:] == [
            "FAILED  credentials  There are no Google Cloud credentials on this machine.",
            "        Run: gcloud auth application-default login",
        ]


class TestSample:
    """Pure: what the probe writes, and how it compares."""

    NOW = datetime(2025, 12, 1, 23, 59, 59, 123_457, tzinfo=UTC)

    def test_row(self) -> None:
        """Each type has a value that a detour over a float, another zone or whole seconds would change; NULL where it may be."""
        row = probe.sample_row(FACT_TABLES["fact_order"], self.NOW)
        assert list(row) == [column.name for column in FACT_TABLES["fact_order"].columns]
        assert row["customer_name"] is None
        assert row["order_timestamp"] == self.NOW
        assert row["order_date"] == self.NOW.date()
        assert row["quantity"] == 9_007_199_254_740_993
        assert row["price"] == Decimal("12345678901234567890123456789.123456789")

    @pytest.mark.parametrize(
        ("read", "expected"),
        [
            ({"a": 1, "b": None}, []),
            ({"a": 1.0, "b": None}, ["a: wrote 1, read 1.0"]),
            ({"a": 1, "b": ""}, ["b: wrote None, read ''"]),
            ({"a": 1}, ["b: wrote None, read 'no column'"]),
            ({"a": 1, "b": None, "c": 2}, ["c: wrote 'no column', read 2"]),
        ],
    )
    def test_differences(self, read: dict[str, Any], expected: list[str]) -> None:
        """A value of another type, another NULL, and a column too few or too many are all reported."""
        assert probe.differences({"a": 1, "b": None}, read) == expected


def leftovers(target: Target) -> list[str]:
    """Whatever in the services has a probe's name."""
    client = target.bigquery
    tables = [table.table_id for table in client.list_tables(target.settings.dataset_id)]
    blobs = [blob.name for blob in target.storage.list_blobs(target.settings.bucket_name)]
    project = f"projects/{target.settings.project_id}"
    with subscriber_client(target.endpoints) as subscriber:
        subscriptions = [found.name for found in subscriber.list_subscriptions(project=project)]
    topics = [found.name for found in target.publisher.list_topics(project=project)]
    return [name for name in [*tables, *blobs, *subscriptions, *topics] if "probe" in name]


@pytest.mark.stack
class TestProbe:
    """On the local services."""

    def test_all_well(self, provisioned: Settings, target: Target) -> None:
        """A row of each table, a message and an object come back as they were written, each with its time; nothing is left."""
        found = probe.probe(target)
        assert failures(found) == {}
        assert [check.name for check in found] == [*(f"rows of {table}" for table in FACT_TABLES), "a message", "an object"]
        assert all(check.seconds is not None and 0 < check.seconds < 30 for check in found)
        assert leftovers(target) == []

    def test_a_warehouse_that_changes_values(
        self, provisioned: Settings, monkeypatch: pytest.MonkeyPatch, target: Target
    ) -> None:
        """A value that comes back different is reported with its column and both values; the table is removed."""
        append = probe._append

        def rounded(row: Any, schema: Any, name: str, *where: Any) -> None:
            append({**row, **({"quantity_change": 2**53} if "quantity_change" in row else {})}, schema, name, *where)

        monkeypatch.setattr(probe, "_append", rounded)
        found = failures(probe.probe(target))
        assert list(found) == ["rows of fact_inventory"]
        assert "quantity_change: wrote 9007199254740993, read 9007199254740992." in found["rows of fact_inventory"].message
        assert found["rows of fact_inventory"].exit_code == 6
        assert leftovers(target) == []

    def test_a_bucket_that_is_not_there(self, provisioned: Settings, stack: Endpoints, target: Target) -> None:
        """What fails is its own line; the rest is tried all the same, and removed."""
        storage_client(provisioned.project_id, stack).bucket(provisioned.bucket).delete()
        found = failures(probe.probe(target))
        assert {name: (check.exit_code, check.remedy) for name, check in found.items()} == {
            "an object": (3, "Run: ecomflow infra up")
        }
        storage_client(provisioned.project_id, stack).create_bucket(provisioned.bucket)
        assert leftovers(target) == []

    def test_a_message_that_never_comes(self, provisioned: Settings, monkeypatch: pytest.MonkeyPatch, target: Target) -> None:
        """A failure half way leaves no topic and no subscription behind."""
        monkeypatch.setattr(probe, "_APPEAR_SECONDS", 0.0)
        only = probe._probe_messages("probe-lost", target)
        assert (only.ok, only.exit_code) == (False, 9)
        assert leftovers(target) == []

    def test_an_object_that_is_written_too_soon_again(self, provisioned: Settings, stack: Endpoints, target: Target) -> None:
        """Cloud Storage takes one write a second to one name and answers 429 to more: it is tried again."""
        assert stack.storage is not None
        answers = deque([None, 429, 429])  # the first upload is taken, the second try to write over it is not answered yet
        front = HttpFront(stack.storage)
        front.plan = lambda method, path: answers.popleft() if method == "POST" and answers else None
        try:
            only = probe._probe_objects(
                "temp/probe-soon", Target(provisioned, msgspec.structs.replace(stack, storage=front.address))
            )
        finally:
            front.close()
        assert (only.ok, list(answers)) == (True, [])
        assert leftovers(target) == []

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            (grpc.StatusCode.NOT_FOUND, "Requested entity was not found."),
            (grpc.StatusCode.PERMISSION_DENIED, "Permission 'TABLES_UPDATE_DATA' denied on resource 'x' (or it may not exist)."),
        ],
    )
    def test_a_table_that_appends_do_not_know_yet(
        self, code: grpc.StatusCode, words: str, provisioned: Settings, stack: Endpoints
    ) -> None:
        """However the service says so of a table that was just made, the append is tried again until it is known."""
        assert stack.bigquery_storage is not None
        refusals = deque([Refuse(code, words)] * 2)
        front = GrpcFront(stack.bigquery_storage)
        front.plan = lambda method, _: refusals.popleft() if method == "AppendRows" and refusals else None
        endpoints = msgspec.structs.replace(stack, bigquery_storage=front.address)
        try:
            only = probe._probe_table(
                FACT_TABLES["fact_inventory"], "probe_new", datetime.now(UTC), Target(provisioned, endpoints)
            )
        finally:
            front.close()
        assert (only.ok, only.message, len(refusals)) == (
            True,
            "A row of 10 columns was appended through the Storage Write API and read back unchanged.",
            0,
        )

    def test_what_cannot_be_removed(self, provisioned: Settings, monkeypatch: pytest.MonkeyPatch, target: Target) -> None:
        """A removal that fails is a failure with the name of what is left."""

        def refuse(*_: object, **__: object) -> None:
            raise ServiceUnavailable("try later")

        with monkeypatch.context() as patched:
            patched.setattr(bigquery.Client, "delete_table", refuse)
            found = probe._probe_table(FACT_TABLES["fact_order"], "probe_stuck", TestSample.NOW, target)
        assert not found.ok
        assert "The probe's table probe_stuck could not be removed: BigQuery" in found.message
        assert leftovers(target) == ["probe_stuck"]


@pytest.mark.stack
class TestCommand:
    def test_all_well(self, provisioned: Settings) -> None:
        """doctor --probe ends with 0; as JSON it is a list of checks."""
        result = ecomflow("doctor", "--probe", "--json", settings=provisioned)
        assert result.returncode == 0
        found = json.loads(result.stdout)
        assert len(found) == 23
        assert {check["ok"] for check in found} == {True}

    def test_a_failure(self, provisioned: Settings, target: Target) -> None:
        """The line that fails has the fix, and its exit code is the command's."""
        run("DROP TABLE `DATASET.fact_order_item`", target)
        result = ecomflow("doctor", settings=provisioned)
        assert result.returncode == 3
        lines = result.stdout.splitlines()
        at = next(index for index, line in enumerate(lines) if line.startswith("FAILED"))
        assert lines[at].split() == ["FAILED", "table", "fact_order_item", "It", "does", "not", "exist."]
        assert lines[at + 1].strip() == "Run: ecomflow infra up"
