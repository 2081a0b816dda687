"""Provisioning: the steps from what exists to what should, carried out on the local services, and what goes wrong on the way."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import msgspec
import pytest
from google.api_core import exceptions as google
from google.auth import exceptions as auth
from google.cloud import bigquery, storage
from google.protobuf import duration_pb2, field_mask_pb2
from google.pubsub_v1 import types

from ecomflow import infra, sql
from ecomflow.config import Endpoints, Settings
from ecomflow.errors import AccessError, ConfigError, EcomflowError, NotFoundError, SchemaError, UnavailableError
from ecomflow.gcp.clients import bigquery_client, publisher_client, storage_client, subscriber_client
from ecomflow.gcp.errors import RetainedError, is_missing, is_no_project, translate
from ecomflow.gcp.services import Service
from ecomflow.gcp.target import Target
from ecomflow.infra.changes import _configure
from ecomflow.infra.differences import Difference, Step, compare_columns, plan_step, plan_steps
from ecomflow.infra.observe import bucket_of, column_of, rules_by_prefix
from ecomflow.infra.resources import (
    APIS,
    Bucket,
    Dataset,
    Kind,
    Resource,
    Subscription,
    Table,
    Topic,
    View,
    apis,
    canonical_query,
    dead_letter_subscription,
    desired,
)
from ecomflow.sql import Column
from tests.support.contract import FACT_TABLES, written_columns
from tests.support.fronts import GrpcFront, Refuse

LOCAL = Settings()
CLOUD = Service("BigQuery", "bigquery.googleapis.com", "roles/bigquery.admin", "my-project", None)


def wanted(kind: type[Resource]) -> Resource:
    return next(resource for resource in desired(LOCAL) if isinstance(resource, kind))


def facts(differences: Iterable[Difference]) -> list[tuple[str, str | None, str | None, str]]:
    """What a plan shows of differences."""
    return [(one.attribute, one.live, one.wanted, one.how) for one in differences]


def differing(kind: type[Resource], **live: object) -> Step:
    """The step for a resource that is there and as it should be, but for ``live``."""
    return plan_step(wanted(kind), msgspec.structs.replace(wanted(kind), **live))


class TestPlan:
    """Pure: what should exist, and what does, to steps."""

    def test_order(self) -> None:
        """Each resource comes after those it needs."""
        kinds = [step.kind for step in plan_steps(desired(LOCAL), {}).steps]
        assert kinds == [*["topic", "subscription"] * 2, "bucket", "dataset", *["table"] * 5, *["view"] * 5]

    def test_nothing_there(self) -> None:
        """With nothing there, everything is created."""
        assert {step.action for step in plan_steps(desired(LOCAL), {}).steps} == {"create"}

    def test_complete(self) -> None:
        """With all of it there, everything is kept."""
        live = {resource.name: resource for resource in desired(LOCAL)}
        assert {(step.action, step.differences) for step in plan_steps(desired(LOCAL), live).steps} == {("keep", ())}

    @pytest.mark.parametrize(
        ("kind", "attribute", "live", "expected"),
        [
            (Topic, "retention_days", 7, ("7", "0")),
            (Subscription, "ack_deadline_seconds", 10, ("10", "30")),
            (Subscription, "retention_days", 1, ("1", "7")),
            (Subscription, "exactly_once", True, ("True", "False")),
            (Subscription, "expires", True, ("True", "False")),
            (Subscription, "backoff_seconds", (), ("none", "1, 60")),
            (Subscription, "backoff_seconds", (10, 600), ("10, 600", "1, 60")),
            (Subscription, "dead_letter_topic", "projects/p/topics/t", ("projects/p/topics/t", "none")),
            (Bucket, "uniform_access", False, ("False", "True")),
            (Bucket, "public_access_prevention", "inherited", ("inherited", "enforced")),
            (Bucket, "delete_after_days", (("temp/", 7),), ("temp/ 7 days", "temp/ 7 days, dlq/ 90 days")),
            (Bucket, "delete_after_days", (), ("none", "temp/ 7 days, dlq/ 90 days")),
            (Bucket, "soft_delete_days", 0, ("0", "7")),
            (Bucket, "soft_delete_days", 30, ("30", "7")),
            (Table, "clustering", ("status",), ("status", "shipping_address_country, status")),
        ],
    )
    def test_changed(self, kind: type[Resource], attribute: str, live: object, expected: tuple[str, str]) -> None:
        """An attribute that can be changed is, and the plan shows it as it is and as it should be."""
        step = differing(kind, **{attribute: live})
        assert (step.action, facts(step.differences)) == ("change", [(attribute, *expected, "change")])

    @pytest.mark.parametrize(
        ("kind", "attribute", "live", "remedy"),
        [
            (
                Subscription,
                "topic",
                "_deleted-topic_",
                "gcloud pubsub subscriptions delete projects/ecomflow-local/subscriptions/",
            ),
            (Subscription, "filter", 'attributes.a = "b"', "set another subscription in the settings"),
            (Subscription, "delivery", "push", "delivery may be in use by others: set another subscription in the settings"),
            (Bucket, "location", "US", "set location to US, or another bucket in the settings"),
            (Dataset, "location", "US", "set location to US, or another dataset in the settings"),
            (Table, "partition", "order_date by MONTH", "Partitioning can't be changed"),
            (Table, "partition", "", "Partitioning can't be changed"),
        ],
    )
    def test_refused(self, kind: type[Resource], attribute: str, live: object, remedy: str) -> None:
        """An attribute that is fixed for good is refused, with what to do."""
        step = differing(kind, **{attribute: live})
        assert step.action == "refuse"
        assert remedy in str(step.differences[0].remedy)

    @pytest.mark.parametrize(
        ("kind", "attribute"),
        [(Topic, "retention_days"), (Bucket, "location"), (Bucket, "soft_delete_days"), (Table, "clustering"), (View, "query")],
    )
    def test_not_reported(self, kind: type[Resource], attribute: str) -> None:
        """What a service does not report is no drift."""
        assert differing(kind, **{attribute: None}) == Step(step_kind(kind), wanted(kind).name, "keep")

    def test_view_of_an_older_table(self) -> None:
        """A view made before its table got a column is made again; one that shows a column more is kept."""
        columns = wanted(View).columns  # type: ignore[union-attr]
        step = differing(View, columns=columns[1:])
        assert (step.action, step.differences) == (
            "change",
            (Difference(f"column {columns[0]}", None, "as in its table", "add"),),
        )
        assert differing(View, columns=(*columns, "zone")).action == "keep"

    def test_view_of_another_query(self) -> None:
        """A view with another SELECT is made again."""
        assert differing(View, query="SELECT 1").action == "change"

    def test_view_as_bigquery_gives_it_back(self) -> None:
        """The same SELECT laid out otherwise, with or without backticks, comments and a closing semicolon, is the same."""
        sent = "-- once\nSELECT *\nFROM `p.d.t`\nWHERE a = 1;\n"
        assert {
            canonical_query(query) for query in (sent, "SELECT * FROM p.d.t\r\n  WHERE a = 1 -- all\n", sent.rstrip(";\n"))
        } == {"SELECT * FROM p.d.t WHERE a = 1"}

    def test_creation_by_attribute_and_column(self) -> None:
        """What is to be created shows each of its columns and attributes."""
        step = plan_step(wanted(Table), None)
        assert step.differences[0] == Difference("column event_id", None, "STRING NOT NULL", "add")
        assert step.differences[-2:] == (
            Difference("partition", None, "order_date", "add"),
            Difference("clustering", None, "shipping_address_country, status", "add"),
        )
        assert {d.attribute for d in plan_step(wanted(View), None).differences} == set()

    def test_apis(self) -> None:
        """An API that is not enabled is a change of its own; where nobody may ask, there is none."""
        step = plan_step(apis(LOCAL), msgspec.structs.replace(apis(LOCAL), enabled=APIS[1:]))
        assert (step.kind, step.action) == ("apis", "change")
        assert step.differences == (Difference("pubsub.googleapis.com", "disabled", "enabled", "change"),)
        assert plan_step(apis(LOCAL), msgspec.structs.replace(apis(LOCAL), enabled=None)).action == "keep"


def step_kind(kind: type[Resource]) -> Kind:
    return plan_step(wanted(kind), None).kind


class TestSettings:
    """Pure: what should exist follows from the settings."""

    def test_what_is_kept(self) -> None:
        """A topic keeps nothing that is acknowledged unless it is asked to; deleted objects can be restored for 7 days."""
        assert [topic.retention_days for topic in made(LOCAL, Topic)] == [0, 0]
        assert [bucket.soft_delete_days for bucket in made(LOCAL, Bucket)] == [7]
        other = msgspec.structs.replace(LOCAL, topic_retention_days=31, soft_delete_days=0)
        assert [topic.retention_days for topic in made(other, Topic)] == [31, 0]
        assert [bucket.soft_delete_days for bucket in made(other, Bucket)] == [0]

    def test_no_retry_policy_in_a_project(self) -> None:
        """Dataflow supports none, and only the settings of the local stack say that no job on Dataflow reads the subscription."""
        assert [one.backoff_seconds for one in made(LOCAL, Subscription)] == [(1, 60), ()]
        in_project = msgspec.structs.replace(LOCAL, project="my-project")
        assert [one.backoff_seconds for one in made(in_project, Subscription)] == [(), ()]
        pipeline = made(in_project, Subscription)[0]
        step = plan_step(pipeline, msgspec.structs.replace(pipeline, backoff_seconds=(1, 60)))
        assert facts(step.differences) == [("backoff_seconds", "1, 60", "none", "change")]


def made(settings: Settings, kind: type[Resource]) -> list[Any]:
    return [resource for resource in desired(settings) if isinstance(resource, kind)]


class TestColumns:
    """Pure: a table's columns against its DDL."""

    ID = Column("id", "STRING", True)
    NOTE = Column("note", "STRING", False)

    def hows(self, wanted: tuple[Column, ...], live: tuple[Column, ...]) -> list[tuple[str, str | None, str | None, str]]:
        return facts(compare_columns("p.d.t", wanted, live))

    def test_order_and_description_are_no_difference(self) -> None:
        """BigQuery puts an added column last, and a description is not the shape of a row."""
        described = Column("note", "STRING", False, "text")
        assert self.hows((self.ID, self.NOTE), (described, self.ID)) == []

    def test_missing(self) -> None:
        """A nullable column is added; a required one is refused, for BigQuery adds none to a table that exists."""
        assert self.hows((self.ID, self.NOTE), (self.ID,)) == [("column note", None, "STRING", "add")]
        assert self.hows((self.ID, self.NOTE), (self.NOTE,)) == [("column id", None, "STRING NOT NULL", "refuse")]

    def test_extra(self) -> None:
        """A column that only the table has is left alone where it may be null, else refused: no row could be written."""
        assert self.hows((self.ID,), (self.ID, self.NOTE)) == [("column note", "STRING", None, "accept")]
        assert self.hows((self.NOTE,), (self.ID, self.NOTE)) == [("column id", "STRING NOT NULL", None, "refuse")]

    def test_type_and_mode(self) -> None:
        """Another type or mode is refused; a NOT NULL too many can be dropped by the statement that the remedy gives."""
        live = (Column("id", "INT64", True), Column("note", "STRING", True))
        assert self.hows((self.ID, self.NOTE), live) == [
            ("column id", "INT64 NOT NULL", "STRING NOT NULL", "refuse"),
            ("column note", "STRING NOT NULL", "STRING", "refuse"),
        ]
        remedies = [difference.remedy for difference in compare_columns("p.d.t", (self.ID, self.NOTE), live)]
        assert str(remedies[0]).startswith("BigQuery can't change this: copy the rows of p.d.t elsewhere")
        assert remedies[1] == "Run in BigQuery: ALTER TABLE `p.d.t` ALTER COLUMN note DROP NOT NULL"

    @pytest.mark.parametrize(
        ("field", "column"),
        [
            (bigquery.SchemaField("a", "INTEGER", "REQUIRED"), Column("a", "INT64", True)),
            (bigquery.SchemaField("a", "NUMERIC", precision=10, scale=2), Column("a", "NUMERIC(10, 2)", False)),
            (bigquery.SchemaField("a", "NUMERIC", precision=38, scale=9), Column("a", "NUMERIC", False)),
            (bigquery.SchemaField("a", "STRING", max_length=3), Column("a", "STRING(3)", False)),
            (bigquery.SchemaField("a", "STRING", "REPEATED"), Column("a", "ARRAY<STRING>", False)),
            (bigquery.SchemaField("a", "DATE", description="b"), Column("a", "DATE", False, "b")),
        ],
    )
    def test_names_of_the_rest_api(self, field: bigquery.SchemaField, column: Column) -> None:
        """The REST API's type names become those of GoogleSQL, with precision, length and repetition."""
        assert column_of(field) == column


class TestBucketRules:
    """Lifecycle rules, which the local GCS does not apply."""

    def test_ours_beside_the_users(self) -> None:
        """A bucket gets a rule for each of our prefixes in place of an older one, and keeps those that are the user's."""
        bucket = storage.Bucket(client=None, name="b")
        bucket.add_lifecycle_delete_rule(age=1, matches_prefix=["dlq/"])
        bucket.add_lifecycle_delete_rule(age=2, matches_prefix=["mine/"])
        bucket.add_lifecycle_set_storage_class_rule("NEARLINE", age=3)
        _configure(bucket, LOCAL)
        _configure(bucket, LOCAL)
        assert rules_by_prefix(bucket) == {"mine/": 2, "temp/": 7, "dlq/": 90}
        assert len(list(bucket.lifecycle_rules)) == 4
        assert bucket.iam_configuration.uniform_bucket_level_access_enabled is True
        assert bucket.iam_configuration.public_access_prevention == "enforced"

    def test_soft_delete(self) -> None:
        """A bucket without a soft-delete policy keeps nothing deleted; one with it does for whole days; it is set in seconds."""
        bucket = storage.Bucket(client=None, name="b")
        bucket._properties["location"] = "eu"
        assert bucket_of(bucket).soft_delete_days == 0
        bucket._properties["softDeletePolicy"] = {"retentionDurationSeconds": "604800", "effectiveTime": "2025-12-01T00:00:00Z"}
        assert bucket_of(bucket).soft_delete_days == 7
        _configure(bucket, msgspec.structs.replace(LOCAL, soft_delete_days=0))
        assert bucket.soft_delete_policy.retention_duration_seconds == 0
        assert bucket_of(bucket).soft_delete_days == 0


class TestTranslate:
    """Pure: what Google's clients raise, in the user's terms."""

    @pytest.mark.parametrize(
        ("error", "kind", "message", "remedy"),
        [
            (
                google.Forbidden("no"),
                AccessError,
                "Access to table t is denied.",
                "Grant this account roles/bigquery.admin on project my-",
            ),
            (
                google.Forbidden("BigQuery API has not been used in project 12 before or it is disabled."),
                AccessError,
                "BigQuery is not enabled in project 12.",
                "Run: gcloud services enable bigquery.googleapis.com --project 12",
            ),
            (
                google.Forbidden(
                    "BigQuery Storage API has not been used in project 34 before or it is disabled. Enable it by visiting"
                    " https://console.developers.google.com/apis/api/bigquerystorage.googleapis.com/overview?project=34"
                ),
                AccessError,
                "BigQuery is not enabled in project 34.",
                "Run: gcloud services enable bigquerystorage.googleapis.com --project 34",
            ),
            (
                google.Forbidden("BigQuery API has not been used in project 764086051850 before or it is disabled."),
                AccessError,
                "BigQuery was called with the quota of gcloud's own project 764086051850.",
                "Set one: gcloud auth application-default set-quota-project my-project",
            ),
            (
                google.Forbidden(
                    "Your application is authenticating by using local Application Default Credentials. The"
                    " dataflow.googleapis.com API requires a quota project, which is not set by default."
                ),
                AccessError,
                "BigQuery does not know which project's quota to use for this login.",
                "Set one: gcloud auth application-default set-quota-project my-project",
            ),
            (
                google.Forbidden(
                    "Caller does not have required permission to use project my-project. Grant the caller the"
                    " roles/serviceusage.serviceUsageConsumer role, or one with the serviceusage.services.use permission."
                ),
                AccessError,
                "Access to table t is denied: this account lacks serviceusage.services.use.",
                "Grant this account roles/serviceusage.serviceUsageConsumer on project my-project.",
            ),
            (
                google.Forbidden("Access Denied: Table p:d.t: Permission bigquery.tables.get denied on table p:d.t."),
                AccessError,
                "Access to table t is denied: this account lacks bigquery.tables.get.",
                "Grant this account roles/bigquery.metadataViewer on project my-project.",
            ),
            (
                google.Unauthenticated("Request had invalid authentication credentials."),
                AccessError,
                "BigQuery does not accept the credentials: Request had invalid authentication credentials.",
                "Log in again: gcloud auth application-default login",
            ),
            (
                google.NotFound("Not found: Project my-project"),
                NotFoundError,
                "Project 'my-project' does not exist, or",
                "gcloud projects",
            ),
            (
                google.NotFound("Requested project not found or user"),
                NotFoundError,
                "Project 'my-project' does not exist",
                "gcloud",
            ),
            (google.BadRequest("Unknown project id: my-project"), NotFoundError, "Project 'my-project' does not exist", "gcloud"),
            (google.NotFound("Not found: Table x"), NotFoundError, "Table t does not exist.", "Run: ecomflow infra up"),
            (google.Unauthorized("who?"), AccessError, "BigQuery does not accept the credentials: who?.", "gcloud auth"),
            (
                auth.DefaultCredentialsError("none found"),
                AccessError,
                "There are no usable Google Cloud credentials: none found.",
                "Run",
            ),
            (auth.TransportError("no route"), UnavailableError, "BigQuery does not answer: no route.", "Check the network"),
            (
                google.RetryError("late", google.ServiceUnavailable("busy")),
                UnavailableError,
                "BigQuery does not answer: busy.",
                "again",
            ),
            (google.TooManyRequests("slow down"), UnavailableError, "BigQuery accepts no more for now: slow down.", "again"),
            (
                google.BadRequest("Invalid name\nmore"),
                ConfigError,
                "BigQuery refuses table t: Invalid name.",
                "Correct the setting",
            ),
        ],
    )
    def test_sentence_and_remedy(self, error: Exception, kind: type[EcomflowError], message: str, remedy: str) -> None:
        """Each failure becomes one sentence that names the resource, and what to do."""
        translated = translate(error, CLOUD, "table t")
        assert isinstance(translated, kind)
        assert translated.exit_code == kind.exit_code
        assert message in translated.message
        assert remedy in str(translated.remedy)
        assert str(pickle.loads(pickle.dumps(translated))) == str(translated)

    def test_a_service_that_names_no_permission(self) -> None:
        """Pub/Sub says only that the caller may not: the permission that the work takes is named, with its smallest role."""
        denied = translate(google.Forbidden("User not authorized to perform this action."), CLOUD, "topic t", "pubsub.topics.get")
        assert denied.message == "Access to topic t is denied: this account lacks pubsub.topics.get."
        assert str(denied.remedy).startswith("Grant this account roles/pubsub.viewer on project my-project.")

    @pytest.mark.parametrize(
        "text",
        [
            "Not found: Project my-project",
            "Requested project not found or user does not have access to it (project=my-project).",
            "Unknown project id: my-project",
            "Project not found: my-project",
            "Project 'projects/my-project' not found or permission denied.",
            "(f00d): Project my-project was not found.",
            "GET https://dataflow.googleapis.com/v1b3/projects/p: Project p does not exist",
            "The requested project was not found.",
        ],
    )
    def test_a_missing_project(self, text: str) -> None:
        """Each service has its own words for it."""
        assert is_no_project(google.BadRequest(text))
        assert not is_missing(google.NotFound(text))

    @pytest.mark.parametrize(
        "text",
        [
            "Topic not found",
            "Resource not found (resource=t).",
            "Not found: Table my-project:d.project was not found in location EU",
            "Not found: Dataset my-project:project was not found in location EU",
            "Not found: Job my-project:EU.j",
            "The job 7 of project my-project does not exist.",
            "Service account a@my-project.iam.gserviceaccount.com in project my-project was not found.",
            "Billing account for project is not found.",
            "The specified bucket does not exist.",
        ],
    )
    def test_something_missing_in_a_project(self, text: str) -> None:
        """The error names the missing resource, not the project."""
        assert translate(google.NotFound(text), CLOUD, "topic t").message == "Topic t does not exist."

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("Topic not found: projects/p/topics/t", "Topic projects/p/topics/t does not exist."),
            ("Subscription not found: projects/p/subscriptions/s", "Subscription projects/p/subscriptions/s does not exist."),
            ("Resource not found (resource=projects/p/topics/t).", "Topic projects/p/topics/t does not exist."),
        ],
    )
    def test_what_pubsub_names(self, text: str, sentence: str) -> None:
        """A subscription can't be created without its topic: the error names the topic, not the project or the subscription."""
        assert translate(google.NotFound(text), CLOUD, "subscription projects/p/subscriptions/new").message == sentence

    @pytest.mark.parametrize(
        "text",
        [
            "Object 'b/dlq/a' is subject to bucket's retention policy and cannot be deleted or overwritten until 2030-01-01",
            "Object 'b/dlq/a' is under active Temporary hold and cannot be deleted, overwritten or archived until it is removed.",
        ],
    )
    def test_an_object_that_must_be_kept(self, text: str) -> None:
        """No role would help: the error repeats what Cloud Storage says, and what to do."""
        error = translate(google.Forbidden(f"DELETE https://storage.googleapis.com/b/o: {text}"), CLOUD, "bucket b")
        assert isinstance(error, RetainedError)
        assert error.message == f"An object in bucket b can't be deleted or replaced: {text.rstrip('.')}."
        assert str(error.remedy).startswith("Wait until then, remove the retention policy or the hold")


@contextmanager
def refusing_more_than_a_week(pubsub: str) -> Iterator[str]:
    """``host:port`` of ``pubsub`` as of a broker that keeps messages for a week at most."""

    def plan(method: str, request: bytes) -> Refuse | None:
        kinds: dict[str, Any] = {
            "CreateTopic": types.Topic.deserialize,
            "UpdateTopic": lambda data: types.UpdateTopicRequest.deserialize(data).topic,
            "CreateSubscription": types.Subscription.deserialize,
            "UpdateSubscription": lambda data: types.UpdateSubscriptionRequest.deserialize(data).subscription,
        }
        retention = kinds[method](request).message_retention_duration if method in kinds else None
        if retention is not None and retention.total_seconds() > 7 * 86_400:
            return Refuse(grpc.StatusCode.INVALID_ARGUMENT, "message_retention_duration out of bounds")
        return None

    front = GrpcFront(pubsub)
    front.plan = plan
    try:
        yield front.address
    finally:
        front.close()


def with_pubsub(stack: Endpoints, pubsub: str) -> Endpoints:
    return msgspec.structs.replace(stack, pubsub=pubsub)


def actions(target: Target) -> dict[str, str]:
    """What is not to be kept, by name without its path."""
    steps = infra.plan(target).steps
    return {step.name.split("/")[-1].split(".")[-1]: step.action for step in steps if step.action != "keep"}


def run(statement: str, target: Target) -> None:
    target.bigquery.query(statement.replace("DATASET", target.settings.dataset_id)).result()


def recreate(table: str, old: str, new: str, target: Target) -> None:
    """Makes ``table`` anew from its DDL with ``old`` replaced by ``new``."""
    run(f"DROP TABLE `DATASET.{table}`", target)
    ddl = sql.table_ddl(FACT_TABLES[table], target.settings.dataset_id)
    assert old in ddl
    run(ddl.replace(old, new), target)


@pytest.mark.stack
class TestApply:
    """On the local services: nothing there, half there, drifted, complete."""

    def test_nothing_there(self, target: Target) -> None:
        """Everything is made, one step after another, and a second run does nothing and says so."""
        steps: list[Step] = []
        before = infra.plan(target)
        assert infra.apply(target, before, steps.append) == before
        assert tuple(steps) == before.steps
        again = infra.plan(target)
        assert {(step.action, step.differences) for step in again.steps} == {("keep", ())}
        assert infra.apply(target, again).steps == ()

    def test_what_was_made(self, provisioned: Settings, stack: Endpoints) -> None:
        """Google's clients find the resources as they were asked for."""
        with subscriber_client(stack) as subscriber:
            subscription = subscriber.get_subscription(subscription=provisioned.subscription_path)
        assert subscription.topic == provisioned.topic_path
        assert subscription.ack_deadline_seconds == 10
        assert subscription.message_retention_duration.total_seconds() == 7 * 86_400
        assert subscription.retry_policy.minimum_backoff.total_seconds() == 1
        assert subscription.retry_policy.maximum_backoff.total_seconds() == 60
        assert subscription.dead_letter_policy.dead_letter_topic == ""
        topic = publisher_client(stack).get_topic(topic=provisioned.topic_path)
        assert topic.message_retention_duration.total_seconds() == 0
        client = bigquery_client(provisioned.project_id, stack)
        table = client.get_table(f"{provisioned.dataset_id}.fact_order")
        assert tuple(field.name for field in table.schema) == tuple(c.name for c in FACT_TABLES["fact_order"].columns)
        assert table.time_partitioning.field == "order_date"
        assert client.get_dataset(provisioned.dataset_id).location == "EU"
        assert storage_client(provisioned.project_id, stack).lookup_bucket(provisioned.bucket_name) is not None

    def test_half_there(self, provisioned: Settings, stack: Endpoints, target: Target) -> None:
        """Only what is missing is made."""
        with subscriber_client(stack) as subscriber:
            subscriber.delete_subscription(subscription=provisioned.subscription_path)
        run("DROP VIEW `DATASET.fact_inventory_unique`", target)
        run("DROP TABLE `DATASET.fact_inventory`", target)
        missing = {provisioned.subscription: "create", "fact_inventory": "create", "fact_inventory_unique": "create"}
        assert actions(target) == missing
        done = infra.apply(target, infra.plan(target))
        assert len(done.steps) == 3
        assert actions(target) == {}

    def test_ack_deadline_drifted(self, provisioned: Settings, stack: Endpoints) -> None:
        """Another ack deadline in the settings is set on the live subscription."""
        longer = msgspec.structs.replace(provisioned, ack_deadline_seconds=60)
        target = Target(longer, stack)
        plan = infra.plan(target)
        changed = [step for step in plan.steps if step.action != "keep"]
        assert [step.differences for step in changed] == [(Difference("ack_deadline_seconds", "10", "60", "change"),)]
        infra.apply(target, plan)
        assert actions(target) == {}

    def test_dead_letters_are_kept(self, provisioned: Settings, stack: Endpoints) -> None:
        """What another subscription sends to the dead-letter topic waits in a subscription that keeps it for a month."""
        publisher_client(stack).publish(f"{provisioned.topic_path}-dead-letter", b"lost?").result(timeout=10)
        with subscriber_client(stack) as subscriber:
            name = dead_letter_subscription(provisioned)
            kept = subscriber.get_subscription(subscription=name)
            assert kept.message_retention_duration.total_seconds() == 31 * 86_400
            pulled = subscriber.pull(subscription=name, max_messages=10, timeout=10)
            assert [received.message.data for received in pulled.received_messages] == [b"lost?"]

    def test_policies_drifted(self, provisioned: Settings, stack: Endpoints, target: Target) -> None:
        """Another retry policy, an expiration and a dead-letter policy on the pipeline's subscription are taken back."""
        path = provisioned.subscription_path
        drifted = types.Subscription(
            name=path,
            topic=provisioned.topic_path,
            retry_policy=types.RetryPolicy(),
            expiration_policy=types.ExpirationPolicy(ttl=duration_pb2.Duration(seconds=86_400)),
            dead_letter_policy=types.DeadLetterPolicy(dead_letter_topic=f"{provisioned.topic_path}-dead-letter"),
        )
        mask = field_mask_pb2.FieldMask(paths=["retry_policy", "expiration_policy", "dead_letter_policy"])
        with subscriber_client(stack) as subscriber:
            subscriber.update_subscription(subscription=drifted, update_mask=mask)
            plan = infra.plan(target)
            (step,) = [step for step in plan.steps if step.action != "keep"]
            assert facts(step.differences) == [
                ("expires", "True", "False", "change"),
                ("backoff_seconds", "10, 600", "1, 60", "change"),
                ("dead_letter_topic", f"{provisioned.topic_path}-dead-letter", "none", "change"),
            ]
            infra.apply(target, plan)
            assert actions(target) == {}
            fixed = types.Subscription.pb(subscriber.get_subscription(subscription=path))
        assert not fixed.HasField("dead_letter_policy")
        assert not fixed.expiration_policy.HasField("ttl")

    def test_column_added(self, provisioned: Settings, stack: Endpoints, target: Target) -> None:
        """A nullable column that the live table lacks is added with its rows kept, and the view on it is made again.

        A column that only the live table has is shown and left alone.
        """
        recreate("fact_order_header", "  customer_name ", "  old_name ", target)
        run(sql.view_ddl(FACT_TABLES["fact_order_header"], provisioned.dataset_id), target)
        run(
            "INSERT INTO `DATASET.fact_order_header` (event_id, order_id, customer_id, old_name, order_date, order_timestamp,"
            " status, shipping_address_street, shipping_address_city, shipping_address_country, total_amount,"
            " ingestion_timestamp) VALUES"
            " ('e', 'o', 'c', 'n', DATE '2025-12-01', TIMESTAMP '2025-12-01', 'shipped', 's', 't', 'DE', 1, CURRENT_TIMESTAMP())",
            target,
        )
        plan = infra.plan(target)
        assert [facts(step.differences) for step in plan.steps if step.action != "keep"] == [
            [("column customer_name", None, "STRING", "add"), ("column old_name", "STRING", None, "accept")],
            [("column customer_name", None, "as in its table", "add")],
        ]
        infra.apply(target, plan)
        assert actions(target) == {}
        client = bigquery_client(provisioned.project_id, stack)
        view = f"`{provisioned.dataset_id}.fact_order_header_unique`"
        rows = client.query(f"SELECT order_id, customer_name, old_name FROM {view}").result()
        assert [tuple(row.values()) for row in rows] == [("o", None, "n")]

    def test_clustering_drifted(self, provisioned: Settings, stack: Endpoints, target: Target) -> None:
        """Other clustering is changed to that of the DDL where the service reports it."""
        client = bigquery_client(provisioned.project_id, stack)
        table = client.get_table(f"{provisioned.dataset_id}.fact_inventory")
        table.clustering_fields = ["reason"]
        client.update_table(table, ["clustering_fields"])
        plan = infra.plan(target)
        (step,) = [step for step in plan.steps if step.action != "keep"]
        assert facts(step.differences) == [("clustering", "reason", "product_id, reason", "change")]
        infra.apply(target, plan)
        assert actions(target) == {}

    def test_refusal_changes_nothing(self, provisioned: Settings, target: Target) -> None:
        """With one step that can't be made, nothing is changed, and the error names what is, what should be, and what to do."""
        recreate("fact_inventory", "quantity_change     INT64", "quantity_change     STRING", target)
        run("DROP VIEW `DATASET.fact_order_unique`", target)
        plan = infra.plan(target)
        with pytest.raises(SchemaError, match="column quantity_change is STRING NOT NULL, expected INT64 NOT NULL") as caught:
            infra.apply(target, plan)
        assert "copy the rows of" in str(caught.value.remedy)
        assert actions(target) == {"fact_inventory": "refuse", "fact_order_unique": "create"}

    def test_a_broker_that_keeps_messages_for_a_week(self, settings: Settings, stack: Endpoints) -> None:
        """As Google's emulator: it gets the retention that it takes, which is said each time; everything else is made."""
        month = msgspec.structs.replace(settings, topic_retention_days=31)
        with refusing_more_than_a_week(str(stack.pubsub)) as pubsub, Target(month, with_pubsub(stack, pubsub)) as target:
            carried: list[Step] = []
            done = infra.apply(target, infra.plan(target), carried.append)
            assert (len(carried), len(done.steps)) == (16, 16)
            left = {step.name: facts(one for one in step.differences if one.how == "warn") for step in carried}
            expected = [("retention_days", "7", "31", "warn")]
            assert {name: warned for name, warned in left.items() if warned} == {
                month.topic_path: expected,
                dead_letter_subscription(month): expected,
            }
            with subscriber_client(target.endpoints) as subscriber:
                kept = subscriber.get_subscription(subscription=dead_letter_subscription(month))
            assert kept.message_retention_duration.total_seconds() == 7 * 86_400
            assert actions(target) == {f"{month.topic}-dead-letter": "change", month.topic: "change"}
            again: list[Step] = []
            assert infra.apply(target, infra.plan(target), again.append).steps == ()
            assert [facts(step.differences) for step in again if step.differences] == [expected, expected]

    def test_a_change_that_a_broker_takes_in_part(self, settings: Settings, stack: Endpoints) -> None:
        """What else differs is changed all the same, and the retention stays as it is."""
        with refusing_more_than_a_week(str(stack.pubsub)) as pubsub, Target(settings, with_pubsub(stack, pubsub)) as target:
            infra.apply(target, infra.plan(target))
            with subscriber_client(target.endpoints) as subscriber:
                days = types.Subscription(
                    name=dead_letter_subscription(settings), message_retention_duration=duration_pb2.Duration(seconds=5 * 86_400)
                )
                mask = field_mask_pb2.FieldMask(paths=["message_retention_duration"])
                subscriber.update_subscription(subscription=days, update_mask=mask)
            labelled = Target(msgspec.structs.replace(settings, labels={"team": "shop"}), target.endpoints)
            done = infra.apply(labelled, infra.plan(labelled))
            (step,) = [one for one in done.steps if one.name == dead_letter_subscription(settings)]
            assert step.action == "change"
            assert facts(step.differences) == [
                ("retention_days", "5", "31", "warn"),
                ("labels", "none", "team=shop", "change"),
            ]
            with subscriber_client(target.endpoints) as subscriber:
                found = subscriber.get_subscription(subscription=step.name)
            assert dict(found.labels) == {"team": "shop"}
            assert found.message_retention_duration.total_seconds() == 5 * 86_400

    def test_subscription_of_another_topic(self, provisioned: Settings, stack: Endpoints) -> None:
        """A subscription that is attached to another topic is refused."""
        other = msgspec.structs.replace(provisioned, topic=f"{provisioned.topic}-2")
        target = Target(other, stack)
        with pytest.raises(SchemaError, match=f"topic is {provisioned.topic_path}, expected {other.topic_path}"):
            infra.apply(target, infra.plan(target))
        assert actions(target)[other.topic] == "create"

    def test_two_at_once(self, target: Target) -> None:
        """Two runs of the same plan at the same time both end well."""
        plan = infra.plan(target)
        with ThreadPoolExecutor(2) as pool:
            runs = [pool.submit(infra.apply, target, plan) for _ in range(2)]
            assert [run.result() for run in runs] == [plan, plan]
        assert actions(target) == {}

    def test_two_after_another(self, provisioned: Settings, target: Target) -> None:
        """A plan that another run has carried out meanwhile finds everything made, and keeps the rows."""
        infra.apply(target, plan_steps(desired(provisioned), {}))
        assert actions(target) == {}


@pytest.mark.stack
class TestStatus:
    """What stands where."""

    def test_states_and_rows(self, provisioned: Settings, target: Target) -> None:
        """A resource is there, missing or drifted; a table that is there has its number of rows."""
        run("DROP VIEW `DATASET.fact_order_unique`", target)
        run(
            f"INSERT INTO `DATASET.fact_inventory` ({written_columns('fact_inventory')})"
            " VALUES ('e', 'i', 'p', 'w', 1, 'sale', DATE '2025-12-01', TIMESTAMP '2025-12-01', CURRENT_TIMESTAMP())",
            target,
        )
        longer = msgspec.structs.replace(provisioned, ack_deadline_seconds=60)
        found = {status.name.split("/")[-1].split(".")[-1]: status for status in infra.status(Target(longer, target.endpoints))}
        assert found[longer.subscription].state == "drifted"
        assert found[longer.subscription].detail == "ack_deadline_seconds is 10, expected 60"
        assert (found["fact_order_unique"].state, found["fact_order_unique"].rows) == ("missing", None)
        assert (found["fact_inventory"].state, found["fact_inventory"].rows) == ("exists", 1)
        assert (found["fact_order"].rows, found["fact_inventory_unique"].rows) == (0, None)

    def test_nothing_there(self, target: Target) -> None:
        """Without anything, everything is missing and nothing is counted."""
        assert {(status.state, status.rows) for status in infra.status(target)} == {("missing", None)}


@pytest.mark.stack
class TestDown:
    """Taking it away again."""

    def test_keeps_data(self, provisioned: Settings, target: Target) -> None:
        """Without the word for it, only topic and subscription go, not the dead letters' own; a second time nothing does."""
        removals = infra.down(target, with_data=False)
        assert [(r.kind, r.outcome) for r in removals if r.outcome != "kept"] == [
            ("subscription", "deleted"),
            ("topic", "deleted"),
        ]
        assert [r.name.split("/")[-1] for r in removals if r.outcome == "kept"][:2] == [f"{provisioned.topic}-dead-letter"] * 2
        assert {r.kind for r in removals[4:] if r.outcome == "kept"} == {"bucket", "dataset", "table", "view"}
        assert actions(target) == {provisioned.topic: "create", provisioned.subscription: "create"}
        again = infra.down(target, with_data=False)
        assert [r.outcome for r in again[:2]] == ["absent", "absent"]

    def test_with_data(self, provisioned: Settings, stack: Endpoints, target: Target) -> None:
        """With data, nothing is left, and what is up again is empty."""
        bucket = storage_client(provisioned.project_id, stack).bucket(provisioned.bucket_name)
        for name in ("dlq/order/2025/12/01/a b.jsonl", "temp/x", "staging/y"):
            bucket.blob(name).upload_from_string("x")
        assert {r.outcome for r in infra.down(target, with_data=True)} == {"deleted"}
        assert set(actions(target).values()) == {"create"}
        assert {r.outcome for r in infra.down(target, with_data=True)} == {"absent"}

    def test_keeps_a_bucket_whose_objects_must_stay(self, provisioned: Settings, target: Target) -> None:
        """A retention policy or a hold forbids to delete what is in it: the reason is Cloud Storage's."""
        bucket = target.storage.get_bucket(provisioned.bucket_name)
        bucket.retention_period = 3600
        bucket.patch()
        bucket.blob("dlq/a").upload_from_string("x")
        (removal,) = [one for one in infra.down(target, with_data=True) if one.kind == "bucket"]
        assert removal.outcome == "kept"
        assert str(removal.reason).startswith(
            f"An object in bucket {provisioned.bucket_name} can't be deleted or replaced: Object "
        )
        assert bucket.blob("dlq/a").exists()

    def test_keeps_what_is_not_ours(self, provisioned: Settings, stack: Endpoints, target: Target) -> None:
        """A dataset and a bucket that hold something of the user's stay, with just that in them."""
        run("CREATE TABLE `DATASET.mine` (a INT64)", target)
        client = storage_client(provisioned.project_id, stack)
        client.bucket(provisioned.bucket_name).blob("mine.txt").upload_from_string("x")
        client.bucket(provisioned.bucket_name).blob("dlq/a").upload_from_string("x")
        removals = infra.down(target, with_data=True)
        assert [(r.kind, r.reason) for r in removals if r.outcome == "kept"] == [
            ("dataset", "it contains tables that are not ecomflow's, such as mine"),
            ("bucket", "it contains objects that are not ecomflow's, such as mine.txt"),
        ]
        assert [blob.name for blob in client.list_blobs(provisioned.bucket_name)] == ["mine.txt"]


@pytest.mark.stack
class TestCheckTables:
    """What a pipeline asks before it starts."""

    def test_complete(self, provisioned: Settings, target: Target) -> None:
        """Tables as their DDL has them pass, also with a nullable column more."""
        run("DROP TABLE `DATASET.fact_order`", target)
        ddl = sql.table_ddl(FACT_TABLES["fact_order"], provisioned.dataset_id)
        run(ddl.replace("  order_id ", '  zone STRING OPTIONS (description = "x"),\n  order_id ', 1), target)
        infra.check_tables(target)

    def test_missing(self, provisioned: Settings, target: Target) -> None:
        """A missing table is named, with the command that makes it."""
        run("DROP TABLE `DATASET.fact_order_item`", target)
        with pytest.raises(NotFoundError, match=f"Table {provisioned.dataset_id}.fact_order_item does not exist") as caught:
            infra.check_tables(target)
        assert caught.value.remedy == "Run: ecomflow infra up"

    def test_another_schema(self, provisioned: Settings, target: Target) -> None:
        """A column of another type and a column that is missing are both named."""
        recreate("fact_user_activity", "  user_agent ", "  agent ", target)
        recreate("fact_inventory", "quantity_change     INT64 NOT NULL", "quantity_change     NUMERIC", target)
        with pytest.raises(SchemaError) as caught:
            infra.check_tables(target)
        assert "fact_inventory: column quantity_change is NUMERIC, expected INT64 NOT NULL" in caught.value.message
        assert "fact_user_activity: column user_agent is missing, expected STRING" in caught.value.message
        assert "agent is STRING" not in caught.value.message

    def test_missing_dataset(self, target: Target) -> None:
        """Without a dataset, all five tables are missing."""
        with pytest.raises(NotFoundError, match=r"Tables .*fact_order_header, .*fact_user_activity do not exist"):
            infra.check_tables(target)


@contextmanager
def answering(status: int, message: str) -> Iterator[str]:
    """The URL of a server that gives this one answer to everything, in the form of Google's REST errors."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"error": {"code": status, "message": message, "errors": []}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
class TestFailures:
    """Through Google's clients: what the services answer, or that they don't."""

    @pytest.mark.parametrize(
        ("status", "message", "error", "sentence"),
        [
            (403, "Access Denied", AccessError, "Access to table my-project.ecomflow.fact_"),
            (404, "Not found: Project my-project", NotFoundError, "Project 'my-project' does not exist"),
            (400, "Invalid dataset", ConfigError, "BigQuery refuses table"),
        ],
    )
    def test_answers(self, status: int, message: str, error: type[EcomflowError], sentence: str) -> None:
        """A refusal becomes its own error at once."""
        begun = time.monotonic()
        with answering(status, message) as url, pytest.raises(error, match=sentence):
            infra.check_tables(Target(Settings(project="my-project"), Endpoints(bigquery=url)))
        assert time.monotonic() - begun < 3

    @pytest.mark.slow
    def test_unreachable(self) -> None:
        """A missing emulator is reported within seconds, with the command that starts one."""
        nowhere = Endpoints(pubsub="127.0.0.1:1", storage="http://127.0.0.1:1", bigquery="http://127.0.0.1:1")
        begun = time.monotonic()
        with pytest.raises(UnavailableError, match=r"at (http://)?127.0.0.1:1 does not answer") as caught:
            infra.plan(Target(Settings(), nowhere))
        assert caught.value.remedy == "Start the local stack with: ecomflow infra up"
        assert time.monotonic() - begun < 12

    def test_no_stack(self) -> None:
        """Without a project and without a stack nothing is asked of Google."""
        with pytest.raises(UnavailableError, match="The local stack is not running"):
            infra.plan(Target(Settings(), Endpoints()))


def test_import_is_light() -> None:
    """Importing the package loads none of Google's clients."""
    google_modules = ("google.api", "google.auth", "google.cloud.", "grpc")
    code = f"import ecomflow.infra, ecomflow.sql, sys; print([name for name in sys.modules if name.startswith({google_modules})])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
