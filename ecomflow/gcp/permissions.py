"""The smallest predefined role that includes each permission. Pure.

By method: https://cloud.google.com/pubsub/docs/access-control, https://cloud.google.com/storage/docs/access-control/iam-json,
https://cloud.google.com/bigquery/docs/access-control. By role: https://cloud.google.com/iam/docs/roles-permissions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# The permissions to read the resources that ``infra`` creates.
READ_TOPIC = "pubsub.topics.get"
READ_SUBSCRIPTION = "pubsub.subscriptions.get"
READ_BUCKET = "storage.buckets.get"
READ_DATASET = "bigquery.datasets.get"
READ_TABLE = "bigquery.tables.get"
READ_METRICS = "monitoring.timeSeries.list"
ACT_AS = "iam.serviceAccounts.actAs"
READ_SERVICES = "serviceusage.services.get"
USE_PROJECT = "serviceusage.services.use"

ROLE_OF = {
    READ_TOPIC: "roles/pubsub.viewer",
    READ_SUBSCRIPTION: "roles/pubsub.viewer",
    "pubsub.subscriptions.consume": "roles/pubsub.subscriber",
    "pubsub.topics.publish": "roles/pubsub.publisher",
    READ_BUCKET: "roles/storage.bucketViewer",
    "storage.objects.create": "roles/storage.objectUser",
    "storage.objects.get": "roles/storage.objectViewer",
    "storage.objects.list": "roles/storage.objectViewer",
    "storage.objects.delete": "roles/storage.objectUser",
    READ_DATASET: "roles/bigquery.metadataViewer",
    READ_TABLE: "roles/bigquery.metadataViewer",
    "bigquery.tables.getData": "roles/bigquery.dataViewer",
    "bigquery.tables.updateData": "roles/bigquery.dataEditor",
    "bigquery.jobs.create": "roles/bigquery.jobUser",
    "dataflow.jobs.create": "roles/dataflow.developer",
    "dataflow.jobs.get": "roles/dataflow.developer",
    "dataflow.jobs.list": "roles/dataflow.developer",
    "dataflow.jobs.updateContents": "roles/dataflow.developer",
    READ_METRICS: "roles/monitoring.viewer",
    ACT_AS: "roles/iam.serviceAccountUser",
    READ_SERVICES: "roles/serviceusage.serviceUsageConsumer",
    USE_PROJECT: "roles/serviceusage.serviceUsageConsumer",
}

# A role, and a smaller one that it includes.
_INCLUDES = {"roles/storage.objectUser": "roles/storage.objectViewer"}

_PERMISSION = re.compile(
    r"\b(?:bigquery|dataflow|iam|monitoring|pubsub|resourcemanager|serviceusage|storage)\.(?!googleapis)[A-Za-z]+\.[A-Za-z]+\b"
)


def roles_of(permissions: Iterable[str]) -> list[str]:
    """The smallest roles that include all ``permissions``."""
    roles = dict.fromkeys(ROLE_OF[permission] for permission in permissions)
    included = {_INCLUDES[role] for role in roles if role in _INCLUDES}
    return [role for role in roles if role not in included]


def named_permission(text: str) -> str | None:
    """The permission that an error says is missing. Pub/Sub doesn't name it."""
    found = _PERMISSION.search(text)
    return found[0] if found else None
