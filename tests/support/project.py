"""A project at Google whose services demand of each method the permission that Google's demand, and know what each role holds.

Permissions by method: https://cloud.google.com/pubsub/docs/access-control#required_permissions,
https://cloud.google.com/storage/docs/access-control/iam-json, https://cloud.google.com/bigquery/docs/access-control,
https://cloud.google.com/bigquery/docs/reference/rest/v2/datasets/get (its ``datasetView``). Permissions by role:
https://cloud.google.com/iam/docs/roles-permissions, of each role those that matter here.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import grpc
from google.pubsub_v1 import types

from ecomflow.config import Settings
from ecomflow.infra.resources import DAY_SECONDS, Bucket, Dataset, Resource, Subscription, Table, Topic, View, as_labels, desired
from ecomflow.sql import Column
from tests.support.infra import PROJECT_NUMBER, Google

# Which permissions a REST method takes, by HTTP method and path; the first that fits.
METHODS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("*", r":testIamPermissions$|/testPermissions$|/iam/testPermissions$", ()),
    ("GET", r"/services:batchGet$", ("serviceusage.services.get",)),
    ("GET", r"/services/[^/]+$", ("serviceusage.services.get",)),
    ("POST", r"/services:batchEnable$", ("serviceusage.services.enable",)),
    ("GET", r"/v1/operations/", ()),
    ("POST", r"/v1/projects/[^/:]+:getIamPolicy$", ("resourcemanager.projects.getIamPolicy",)),
    ("GET", r"/v1/projects/[^/:]+$", ("resourcemanager.projects.get",)),
    ("POST", r"/storage/v1/b$", ("storage.buckets.create",)),
    ("POST", r"/upload/storage/v1/b/[^/]+/o$", ("storage.objects.create",)),
    ("PATCH", r"/storage/v1/b/[^/]+$", ("storage.buckets.update",)),
    ("GET", r"/storage/v1/b/[^/]+/iam$", ("storage.buckets.getIamPolicy",)),
    ("GET", r"/storage/v1/b/[^/]+/o$", ("storage.objects.list",)),
    ("DELETE", r"/storage/v1/b/[^/]+/o/.+$", ("storage.objects.delete",)),
    ("DELETE", r"/storage/v1/b/[^/]+$", ("storage.buckets.delete",)),
    ("GET", r"/storage/v1/b/[^/]+$", ("storage.buckets.get",)),
    ("POST", r"/projects/[^/]+/jobs$", ("bigquery.jobs.create",)),
    ("POST", r"/datasets$", ("bigquery.datasets.create",)),
    ("PATCH", r"/datasets/[^/]+/tables/[^/]+$", ("bigquery.tables.update",)),
    ("PATCH", r"/datasets/[^/]+$", ("bigquery.datasets.update",)),
    ("GET", r"/datasets/[^/]+/tables/[^/]+$", ("bigquery.tables.get",)),
    ("GET", r"/datasets/[^/]+\?.*datasetView=METADATA", ("bigquery.datasets.get",)),
    ("GET", r"/datasets/[^/]+$", ("bigquery.datasets.get", "bigquery.datasets.getIamPolicy")),
)

_READ_PUBSUB = ("pubsub.topics.get", "pubsub.subscriptions.get")
_OBJECTS = ("storage.objects.create", "storage.objects.get", "storage.objects.list", "storage.objects.delete")
_USE_SERVICES = ("serviceusage.services.get", "serviceusage.services.use")
ROLES = {
    "roles/pubsub.viewer": _READ_PUBSUB,
    "roles/pubsub.subscriber": ("pubsub.subscriptions.consume", "pubsub.topics.attachSubscription"),
    "roles/pubsub.publisher": ("pubsub.topics.publish",),
    "roles/pubsub.editor": (
        *_READ_PUBSUB,
        *("pubsub.topics.create", "pubsub.topics.update", "pubsub.topics.delete", "pubsub.topics.attachSubscription"),
        *("pubsub.subscriptions.create", "pubsub.subscriptions.update", "pubsub.subscriptions.delete"),
        *("pubsub.subscriptions.consume", "pubsub.topics.publish"),
    ),
    "roles/storage.bucketViewer": ("storage.buckets.get", "storage.buckets.list"),
    "roles/storage.objectViewer": ("storage.objects.get", "storage.objects.list"),
    "roles/storage.objectUser": _OBJECTS,
    "roles/storage.admin": (
        *_OBJECTS,
        *("storage.buckets.create", "storage.buckets.get", "storage.buckets.getIamPolicy", "storage.buckets.update"),
        *("storage.buckets.delete",),
    ),
    "roles/bigquery.metadataViewer": ("bigquery.datasets.get", "bigquery.tables.get", "bigquery.tables.list"),
    "roles/bigquery.dataViewer": ("bigquery.datasets.get", "bigquery.tables.get", "bigquery.tables.getData"),
    "roles/bigquery.dataEditor": (
        *("bigquery.datasets.get", "bigquery.tables.get", "bigquery.tables.getData", "bigquery.tables.updateData"),
        "bigquery.tables.create",
    ),
    "roles/bigquery.dataOwner": (
        *("bigquery.datasets.get", "bigquery.datasets.getIamPolicy", "bigquery.datasets.create", "bigquery.datasets.delete"),
        "bigquery.datasets.update",
        *("bigquery.tables.get", "bigquery.tables.list", "bigquery.tables.create", "bigquery.tables.update"),
        *("bigquery.tables.delete", "bigquery.tables.getData", "bigquery.tables.updateData"),
    ),
    "roles/bigquery.jobUser": ("bigquery.jobs.create",),
    "roles/dataflow.developer": (
        *("dataflow.jobs.create", "dataflow.jobs.get", "dataflow.jobs.list", "dataflow.jobs.updateContents"),
        *("dataflow.jobs.cancel", "dataflow.messages.list", "dataflow.metrics.get", "resourcemanager.projects.get"),
    ),
    "roles/iam.serviceAccountUser": ("iam.serviceAccounts.actAs",),
    "roles/monitoring.viewer": ("monitoring.timeSeries.list",),
    "roles/serviceusage.serviceUsageConsumer": _USE_SERVICES,
    "roles/serviceusage.serviceUsageAdmin": (*_USE_SERVICES, "serviceusage.services.enable"),
    "roles/browser": ("resourcemanager.projects.get", "resourcemanager.projects.getIamPolicy"),
}

_TYPES = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN"}


class Project(Google):
    """Everything of ``settings`` is there, but for ``missing``; the caller has ``roles``.

    Reading works, and so does making a topic, which is refused ``slow`` times as if its API were not enabled yet. The bucket
    belongs to the project with the number ``bucket_owner``; with ``rival`` others make it just before it is made here. ``asked``
    keeps method and path of each request by HTTP, ``bodies`` what was sent to make or change a bucket, a dataset, a table or a
    query. Keys and labels are as in the records of ``there``.
    """

    def __init__(self, settings: Settings, roles: set[str]) -> None:
        super().__init__()
        self.settings = settings
        self.there: dict[str, Resource] = {resource.name: resource for resource in desired(settings)}
        self.permissions = {permission for role in roles for permission in ROLES[role]}
        self.slow = 0
        self.objects: set[str] = set()
        self.bucket_owner = PROJECT_NUMBER
        self.rival = False
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[Any] = []

    def answer(self, method: str, url: str, body: Any) -> tuple[int, Any]:
        path = urlsplit(url).path
        self.asked.append((method, path))
        if lacking := self._lacking(method, url):
            return 403, {"error": {"code": 403, "message": _denial(path, lacking), "errors": []}}
        if method in ("POST", "PATCH") and ("/storage/v1/b" in path or "/datasets" in path):
            self.bodies.append(body)
        if path.endswith("/datasets"):
            return 200, body
        if path.endswith("/jobs"):
            self.bodies.append(body)
            return 200, {**body, "status": {"state": "DONE"}}
        if path.endswith("/storage/v1/b"):
            return self._make_bucket(body["name"], parse_qs(urlsplit(url).query)["project"][0])
        if "/storage/v1/b/" in path and not path.endswith(("/iam", "/testPermissions")):
            return self._storage(method, unquote(path), parse_qs(urlsplit(url).query).get("prefix", [""])[0])
        if "/datasets/" in path and not path.endswith(":testIamPermissions"):
            return self._bigquery(path.rsplit("/datasets/", 1)[1])
        return super().answer(method, url, body)

    def _lacking(self, method: str, url: str) -> list[str]:
        path = urlsplit(url).path + ("?" + urlsplit(url).query if "datasetView" in parse_qs(urlsplit(url).query) else "")
        for verb, pattern, permissions in METHODS:
            if verb in ("*", method) and re.search(pattern, path):
                return [permission for permission in permissions if permission not in self.permissions]
        raise AssertionError(f"No permission is known for {method} {path}")

    def writes(self) -> list[tuple[str, str]]:
        """What was asked that is more than a look, by HTTP method and path."""
        return [(method, path) for method, path in self.asked if method != "GET" and "estPermissions" not in path]

    def _make_bucket(self, name: str, project: str) -> tuple[int, Any]:
        wanted = next(resource for resource in desired(self.settings) if isinstance(resource, Bucket))
        self.there[name] = wanted
        if self.rival:
            return 409, {"error": {"code": 409, "message": "The requested bucket name is not available.", "errors": []}}
        self.bucket_owner = self.numbers.get(project, PROJECT_NUMBER)
        return self._storage("GET", f"/storage/v1/b/{name}", "")

    def _storage(self, method: str, path: str, prefix: str) -> tuple[int, Any]:
        name, _, rest = path.split("/b/", 1)[1].partition("/")
        bucket = self.there.get(name)
        if not isinstance(bucket, Bucket):
            return _missing("The specified bucket does not exist.")
        if rest == "o":
            return 200, {"items": [{"name": found, "bucket": name} for found in sorted(self.objects) if found.startswith(prefix)]}
        if method == "DELETE":
            self.objects.discard(rest.removeprefix("o/")) if rest else self.there.pop(name)
            return 200, {}
        policy = {"retentionDurationSeconds": str((bucket.soft_delete_days or 0) * DAY_SECONDS)}
        owner = {"projectNumber": self.bucket_owner}
        encryption = {"encryption": {"defaultKmsKeyName": bucket.kms_key}} if bucket.kms_key else {}
        described: dict[str, Any] = {**owner, **encryption, "labels": _labels(bucket)}
        described["defaultEventBasedHold"] = bucket.default_event_based_hold
        if bucket.retention_policy:
            days, _, lock = bucket.retention_policy.partition(" days")
            described["retentionPolicy"] = {"retentionPeriod": str(int(days) * DAY_SECONDS), "isLocked": bool(lock)}
        return 200, {"name": name, "location": bucket.location, "softDeletePolicy": policy, **described}

    def _bigquery(self, rest: str) -> tuple[int, Any]:
        dataset, _, table = rest.partition("/tables/")
        found = next(
            (one for name, one in self.there.items() if name.endswith(f".{dataset}{'.' + table if table else ''}")), None
        )
        match found:
            case Table() | View():
                return 200, _table_body(found, dataset, table)
            case Dataset():
                reference = {"projectId": "test-project", "datasetId": dataset}
                key = {"defaultEncryptionConfiguration": {"kmsKeyName": found.kms_key}} if found.kms_key else {}
                names = {"defaultTableExpirationMs": found.default_table_expiration}
                names["defaultPartitionExpirationMs"] = found.default_partition_expiration
                expirations = {name: _milliseconds(period) for name, period in names.items() if period}
                body = {"datasetReference": reference, "location": found.location, "labels": _labels(found)}
                return 200, {**body, **key, **expirations}
        return _missing(f"Not found: Dataset p:{dataset}")

    def pubsub_methods(self) -> dict[str, dict[str, Any]]:
        def get_topic(request: Any, context: grpc.ServicerContext) -> types.Topic:
            self._require("pubsub.topics.get", context)
            topic = self._found(request.topic, Topic, context)
            seconds = (topic.retention_days or 0) * DAY_SECONDS
            return types.Topic(
                name=topic.name,
                message_retention_duration={"seconds": seconds} if seconds else None,
                kms_key_name=topic.kms_key or "",
                labels=_labels(topic),
            )

        def create_topic(request: Any, context: grpc.ServicerContext) -> types.Topic:
            self._require("pubsub.topics.create", context)
            if self.slow:
                self.slow -= 1
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "Cloud Pub/Sub API has not been used in project 4242 before")
            self.there[request.name] = Topic(request.name, 0, request.kms_key_name, as_labels(request.labels))
            return types.Topic(request)

        def get_subscription(request: Any, context: grpc.ServicerContext) -> types.Subscription:
            self._require("pubsub.subscriptions.get", context)
            return _subscription(self._found(request.subscription, Subscription, context))

        publisher = {
            "GetTopic": _unary(get_topic, types.GetTopicRequest, types.Topic),
            "CreateTopic": _unary(create_topic, types.Topic, types.Topic),
        }
        subscriber = {"GetSubscription": _unary(get_subscription, types.GetSubscriptionRequest, types.Subscription)}
        return {"google.pubsub.v1.Publisher": publisher, "google.pubsub.v1.Subscriber": subscriber}

    def _require(self, permission: str, context: grpc.ServicerContext) -> None:
        if permission not in self.permissions:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "User not authorized to perform this action.")

    def _found(self, name: str, kind: type[Any], context: grpc.ServicerContext) -> Any:
        found = self.there.get(name)
        if not isinstance(found, kind):
            context.abort(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={name}).")
        return found


def _denial(path: str, lacking: list[str]) -> str:
    """In the words of the service."""
    if "/storage/" in path:
        return f"a@b.c does not have {lacking[0]} access to the Google Cloud Storage bucket. Permission '{lacking[0]}' denied."
    return f"Access Denied: Permission {lacking[0]} denied on resource (or it may not exist)."


def _milliseconds(days: str) -> str:
    """Of ``30 days``, as the service writes it."""
    return str(int(days.split()[0]) * DAY_SECONDS * 1000)


def _labels(found: Any) -> dict[str, str]:
    return dict(label.split("=", 1) for label in found.labels or ())


def _missing(message: str) -> tuple[int, Any]:
    return 404, {"error": {"code": 404, "message": message, "errors": []}}


def _table_body(found: Table | View, dataset: str, table: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "tableReference": {"projectId": "test-project", "datasetId": dataset, "tableId": table},
        "numRows": "0",
    }
    body["labels"] = _labels(found)
    if isinstance(found, View):
        schema = [{"name": name, "type": "STRING"} for name in found.columns]
        return {**body, "type": found.table_type, "schema": {"fields": schema}, "view": {"query": found.query}}
    schema = [_field(column) for column in found.columns]
    clustering = {"fields": list(found.clustering or ())}
    partitioning: dict[str, Any] = {"type": "DAY", "field": found.partition}
    if found.kms_key:
        body["encryptionConfiguration"] = {"kmsKeyName": found.kms_key}
    if found.partition_expiration:
        partitioning["expirationMs"] = _milliseconds(found.partition_expiration)
    if found.expires:
        moment = datetime.strptime(found.expires, "%Y-%m-%d %H:%M UTC").replace(tzinfo=UTC)
        body["expirationTime"] = str(int(moment.timestamp() * 1000))
    if found.require_partition_filter:
        body["requirePartitionFilter"] = True
    layout = {"timePartitioning": partitioning, "clustering": clustering}
    return {**body, "type": found.table_type, "schema": {"fields": schema}, **layout}


def _field(column: Column) -> dict[str, Any]:
    """A column as the REST API shows it, with its precision and scale or its length."""
    name, _, parameters = column.type.rstrip(")").partition("(")
    keys = ("maxLength",) if name in ("STRING", "BYTES") else ("precision", "scale")
    numbers = dict(zip(keys, parameters.split(", "), strict=False)) if parameters else {}
    mode = "REQUIRED" if column.required else "NULLABLE"
    return {"name": column.name, "type": _TYPES.get(name, name), "mode": mode, **numbers}


def _subscription(found: Subscription) -> types.Subscription:
    backoff = [{"seconds": seconds} for seconds in found.backoff_seconds]
    return types.Subscription(
        name=found.name,
        topic=found.topic,
        ack_deadline_seconds=found.ack_deadline_seconds,
        message_retention_duration={"seconds": (found.retention_days or 0) * DAY_SECONDS},
        expiration_policy=types.ExpirationPolicy(),
        labels=_labels(found),
        retry_policy=types.RetryPolicy(minimum_backoff=backoff[0], maximum_backoff=backoff[1]) if backoff else None,
    )


def _unary(method: Any, request: Any, reply: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(method, request.deserialize, reply.serialize)
