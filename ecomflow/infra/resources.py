"""Settings and DDL flow in; the resources that should exist flow out, in the order in which they can be made. Pure.

The same records describe what is there. An attribute that is None was not reported by the service and is compared with nothing:
the emulators leave out much of what Google Cloud reports. ``labels`` are written ``key=value``; a resource may have others too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from ecomflow import sql
from ecomflow.config import Settings
from ecomflow.sql import Column

DAY_SECONDS = 86_400

# How long the subscription keeps what is not acknowledged: a pipeline may be down over a weekend. Pub/Sub charges only for what
# waits longer than 24 hours: https://cloud.google.com/pubsub/docs/subscription-properties
RETENTION_DAYS = 7

# The longest that a subscription keeps a message: https://cloud.google.com/pubsub/docs/subscription-properties
DEAD_LETTER_DAYS = 31

# The shortest and the longest wait, in seconds, before a message that was not acknowledged comes again: soon after a restart, and
# at most a minute after what was broken works again. Only on this machine: see docs/adr/0016.
LOCAL_BACKOFF_SECONDS = (1, 60)

# What the job uses, beside what `ecomflow infra` itself does: Dataflow's workers are machines of Compute Engine, and write logs;
# Cloud Monitoring is asked for the backlog.
APIS = (
    "pubsub.googleapis.com",
    "dataflow.googleapis.com",
    "compute.googleapis.com",
    "bigquery.googleapis.com",
    "bigquerystorage.googleapis.com",
    "storage.googleapis.com",
    "monitoring.googleapis.com",
    "logging.googleapis.com",
)

# Days after which objects are deleted, by prefix: what a job staged, and dead letters that nobody replayed.
OBJECT_DAYS = (("temp/", 7), ("dlq/", 90))

# Every prefix under which ecomflow writes objects.
OBJECT_PREFIXES = ("dlq/", "replayed/", "temp/", "staging/")

# The owner of a bucket that is the project's own. Names of buckets are globally unique: another project may have ours.
OWN_PROJECT = "this project"

_COMMENT = re.compile(r"--[^\n]*")

Kind = Literal["apis", "topic", "subscription", "bucket", "dataset", "table", "view", "external table"]


class Apis(msgspec.Struct, frozen=True):
    """The APIs enabled in ``projects/<project>``, of those that ecomflow needs; None where this account may not ask."""

    name: str
    enabled: tuple[str, ...] | None


class Topic(msgspec.Struct, frozen=True):
    """A Pub/Sub topic, ``projects/<project>/topics/<topic>``; ``retention_days`` 0: it keeps nothing for later subscriptions."""

    name: str
    retention_days: int | None
    labels: tuple[str, ...] | None = None


class Subscription(msgspec.Struct, frozen=True):
    """A subscription. ``filter`` '' lets every message through; ``expires`` False: never for want of a subscriber.

    ``delivery`` is pull, push, bigquery, cloud storage, bigtable or detached. ``backoff_seconds`` holds the shortest and the
    longest wait before a message comes again, () none. ``dead_letter_topic`` '' means that every message comes again until it is
    acknowledged.
    """

    name: str
    topic: str
    delivery: str
    ack_deadline_seconds: int
    retention_days: int | None
    filter: str | None
    exactly_once: bool | None
    expires: bool | None
    backoff_seconds: tuple[int, ...]
    dead_letter_topic: str
    labels: tuple[str, ...] | None = None


class Bucket(msgspec.Struct, frozen=True):
    """A Cloud Storage bucket. ``delete_after_days`` holds (prefix, days) of its lifecycle rules; ``soft_delete_days`` is for how
    long a deleted object can be restored, 0: not at all. ``owner`` is the project that it belongs to: ``OWN_PROJECT``, or the
    number of another.
    """

    name: str
    location: str | None
    uniform_access: bool | None
    public_access_prevention: str | None
    delete_after_days: tuple[tuple[str, int], ...] | None
    soft_delete_days: int | None
    owner: str | None = None
    labels: tuple[str, ...] | None = None


class Dataset(msgspec.Struct, frozen=True):
    """A BigQuery dataset, ``<project>.<dataset>``."""

    name: str
    location: str | None
    labels: tuple[str, ...] | None = None


class Table(msgspec.Struct, frozen=True):
    """A fact table, ``<project>.<dataset>.<table>``, partitioned daily by the DATE column ``partition``."""

    name: str
    columns: tuple[Column, ...]
    partition: str | None
    clustering: tuple[str, ...] | None
    labels: tuple[str, ...] | None = None


class View(msgspec.Struct, frozen=True):
    """The view that shows a fact table's rows once: the names of its columns, sorted, and its SELECT."""

    name: str
    columns: tuple[str, ...]
    query: str | None
    labels: tuple[str, ...] | None = None


class ExternalTable(msgspec.Struct, frozen=True):
    """The table ``<project>.<dataset>.dead_letters`` over the objects at ``uris``."""

    name: str
    uris: tuple[str, ...]
    labels: tuple[str, ...] | None = None


Resource = Apis | Topic | Subscription | Bucket | Dataset | Table | View | ExternalTable

KINDS: dict[type, Kind] = {
    Apis: "apis",
    Topic: "topic",
    Subscription: "subscription",
    Bucket: "bucket",
    Dataset: "dataset",
    Table: "table",
    View: "view",
    ExternalTable: "external table",
}


def apis(settings: Settings) -> Apis:
    """The APIs that must be enabled, on Google Cloud, before anything else can be made."""
    return Apis(f"projects/{settings.project_id}", APIS)


def desired(settings: Settings) -> tuple[Resource, ...]:
    """What should exist: each before those that need it."""
    tables = tuple(_table(name, settings) for name in sql.TABLES)
    views = tuple(_view(name, settings) for name in sql.TABLES)
    return (
        Topic(settings.topic_path, settings.topic_retention_days, labels_of(settings)),
        _subscription(settings),
        Topic(dead_letter_topic(settings), 0, labels_of(settings)),
        _dead_letter_subscription(settings),
        _bucket(settings),
        Dataset(settings.dataset_id, settings.location.upper(), labels_of(settings)),
        *tables,
        *views,
    )


def labels_of(settings: Settings) -> tuple[str, ...]:
    """The labels that each resource should have, as ``key=value``."""
    return as_labels(settings.labels)


def as_labels(labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in sorted(labels.items()))


def dead_letters_table(settings: Settings) -> ExternalTable:
    """What should exist besides in BigQuery itself: the emulator takes the DDL, and makes an ordinary, empty table of it."""
    return ExternalTable(f"{settings.dataset_id}.dead_letters", (f"gs://{settings.bucket_name}/dlq/*",), labels_of(settings))


def dead_letter_topic(settings: Settings) -> str:
    """The topic for what another subscription to our topic (a BigQuery subscription, a push endpoint) can't deliver.

    The pipeline's own subscription does not use it: see docs/adr.
    """
    return f"{settings.topic_path}-dead-letter"


def dead_letter_subscription(settings: Settings) -> str:
    """The subscription that keeps what is sent to the dead-letter topic: without one it would be lost."""
    return f"projects/{settings.project_id}/subscriptions/{settings.topic}-dead-letter"


def _subscription(settings: Settings) -> Subscription:
    return Subscription(
        name=settings.subscription_path,
        topic=settings.topic_path,
        delivery="pull",
        ack_deadline_seconds=settings.ack_deadline_seconds,
        retention_days=RETENTION_DAYS,
        filter="",
        exactly_once=False,
        expires=False,
        backoff_seconds=LOCAL_BACKOFF_SECONDS if settings.is_local else (),
        dead_letter_topic="",
        labels=labels_of(settings),
    )


def _dead_letter_subscription(settings: Settings) -> Subscription:
    return Subscription(
        name=dead_letter_subscription(settings),
        topic=dead_letter_topic(settings),
        delivery="pull",
        ack_deadline_seconds=60,
        retention_days=DEAD_LETTER_DAYS,
        filter="",
        exactly_once=False,
        expires=False,
        backoff_seconds=(),
        dead_letter_topic="",
        labels=labels_of(settings),
    )


def _bucket(settings: Settings) -> Bucket:
    return Bucket(
        name=settings.bucket_name,
        location=settings.location.upper(),
        uniform_access=True,
        public_access_prevention="enforced",
        delete_after_days=OBJECT_DAYS,
        soft_delete_days=settings.soft_delete_days,
        owner=OWN_PROJECT,
        labels=labels_of(settings),
    )


def _table(name: str, settings: Settings) -> Table:
    definition = sql.table_definition(name)
    labels = labels_of(settings)
    return Table(f"{settings.dataset_id}.{name}", definition.columns, definition.partition, definition.clustering, labels)


def _view(name: str, settings: Settings) -> View:
    columns = tuple(sorted(column.name for column in sql.table_definition(name).columns))
    query = canonical_query(sql.view_ddl(name, settings.dataset_id).split("\nAS\n", 1)[1])
    return View(f"{settings.dataset_id}.{name}_unique", columns, query, labels_of(settings))


def canonical_query(query: str) -> str:
    """``query`` as BigQuery may give it back, made alike: one line, without comments, backticks and closing semicolon."""
    return " ".join(_COMMENT.sub("", query).replace("`", "").split()).rstrip("; ")
