"""Settings and DDL in; the desired resources out, in the order in which they can be created. Pure.

The same records describe existing resources. An attribute that is None was not reported by the service, or is not configured, and
is not compared: the emulators omit much of what Google Cloud reports. ``labels`` are sorted and have the form ``key=value``; a
resource may have others too. ``kms_key`` "": Google's own key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from ecomflow import sql
from ecomflow.config import Settings, contracts_of
from ecomflow.contract.dead_letter import REPLAYED, ROOT
from ecomflow.contract.language import Table as FactTable
from ecomflow.contract.tables import tables_of
from ecomflow.sql import Column

DAY_SECONDS = 86_400

# How long the subscription keeps unacknowledged messages: a pipeline may be down over a weekend. Pub/Sub charges only for
# messages older than 24 hours: https://cloud.google.com/pubsub/docs/subscription-properties
RETENTION_DAYS = 7

# The maximum retention of a subscription: https://cloud.google.com/pubsub/docs/subscription-properties
DEAD_LETTER_DAYS = 31

# Minimum and maximum backoff, in seconds, before an unacknowledged message is redelivered: soon after a restart, and at most a
# minute after a failed service has recovered. Only on this machine: see docs/adr/0016.
LOCAL_BACKOFF_SECONDS = (1, 60)

# The APIs of ecomflow and of the job: Dataflow's workers are Compute Engine machines and write logs; Cloud Monitoring has the
# backlog.
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

# Days after which objects are deleted, by prefix: temporary files of jobs, and dead letters that nobody has replayed.
OBJECT_DAYS = (("temp/", 7), (f"{ROOT}/", 90))

# All prefixes under which ecomflow writes objects.
OBJECT_PREFIXES = (f"{ROOT}/", f"{REPLAYED}/", "temp/", "staging/")

_COMMENT = re.compile(r"--[^\n]*")

Kind = Literal["apis", "topic", "subscription", "bucket", "dataset", "table", "view", "external table"]


class Apis(msgspec.Struct, frozen=True):
    """The enabled APIs in ``projects/<project>``, of those that ecomflow needs; None if this account may not list them."""

    name: str
    enabled: tuple[str, ...] | None


class Topic(msgspec.Struct, frozen=True):
    """A Pub/Sub topic, ``projects/<project>/topics/<topic>``; ``retention_days`` 0: it retains nothing. ``kms_key`` encrypts its
    messages, also those of its subscriptions.
    """

    name: str
    retention_days: int | None
    kms_key: str | None = None
    labels: tuple[str, ...] | None = None


class Subscription(msgspec.Struct, frozen=True):
    """A subscription. ``filter`` '': no filter; ``expires`` False: never, even without subscribers.

    ``delivery`` is pull, push, bigquery, cloud storage, bigtable or detached. ``backoff_seconds`` is the minimum and maximum
    backoff before redelivery, () for none. ``dead_letter_topic`` '': every message is redelivered until it is acknowledged.
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
    """A Cloud Storage bucket. ``delete_after_days``: (prefix, days) of its lifecycle rules; ``soft_delete_days``: how long
    deleted objects can be restored, 0: not at all; ``owner``: ``project <number>``, because another project may have taken the
    globally unique name. ``retention_policy``: for how long no object can be deleted or replaced (``30 days``), '' for none.
    """

    name: str
    location: str | None
    uniform_access: bool | None
    public_access_prevention: str | None
    delete_after_days: tuple[tuple[str, int], ...] | None
    soft_delete_days: int | None
    owner: str | None = None
    kms_key: str | None = None
    labels: tuple[str, ...] | None = None
    retention_policy: str | None = None
    default_event_based_hold: bool | None = None


class Dataset(msgspec.Struct, frozen=True):
    """A BigQuery dataset, ``<project>.<dataset>``; ``kms_key`` is the key of new tables in it.

    ``default_table_expiration`` and ``default_partition_expiration`` (``30 days``; '' for none) are those of new tables.
    """

    name: str
    location: str | None
    kms_key: str | None = None
    labels: tuple[str, ...] | None = None
    default_table_expiration: str | None = None
    default_partition_expiration: str | None = None


class Table(msgspec.Struct, frozen=True):
    """A fact table, ``<project>.<dataset>.<table>``, partitioned daily by the DATE column ``partition``.

    ``table_type``: BigQuery's own word, also of what else can have the name: VIEW, MATERIALIZED_VIEW, SNAPSHOT, EXTERNAL.
    ``partition_expiration`` (``30 days``) and ``expires`` (the time when the table is deleted): '' for never.
    """

    name: str
    columns: tuple[Column, ...]
    partition: str | None
    clustering: tuple[str, ...] | None
    kms_key: str | None = None
    labels: tuple[str, ...] | None = None
    table_type: str = "TABLE"
    partition_expiration: str | None = None
    expires: str | None = None
    require_partition_filter: bool | None = None


class View(msgspec.Struct, frozen=True):
    """The view that deduplicates a fact table: the names of its columns, sorted, and its SELECT."""

    name: str
    columns: tuple[str, ...]
    query: str | None
    labels: tuple[str, ...] | None = None
    table_type: str = "VIEW"


class ExternalTable(msgspec.Struct, frozen=True):
    """The table ``<project>.<dataset>.dead_letters`` over the objects at ``uris``."""

    name: str
    uris: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    table_type: str = "EXTERNAL"


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
    """The APIs that must be enabled on Google Cloud before anything else can be created."""
    return Apis(f"projects/{settings.project_id}", APIS)


def desired(settings: Settings) -> tuple[Resource, ...]:
    """The desired resources, each before those that depend on it."""
    key, labels = _key(settings), as_labels(settings.labels)
    facts = fact_tables(settings)
    return (
        Topic(settings.topic_path, settings.topic_retention_days, key, labels),
        _subscription(settings),
        Topic(dead_letter_topic(settings), 0, key, labels),
        _dead_letter_subscription(settings),
        _bucket(settings),
        _dataset(settings),
        *(_table(table, settings) for table in facts.values()),
        *(_view(table, settings) for table in facts.values()),
    )


def fact_tables(settings: Settings) -> dict[str, FactTable]:
    """The tables of the contracts in force, by name."""
    return {table.name: table for table in tables_of(contracts_of(settings))}


def dead_letters_table(settings: Settings) -> ExternalTable:
    """An additional resource in BigQuery itself: the emulator accepts the DDL, but creates an ordinary, empty table."""
    uris = (f"gs://{settings.bucket_name}/{ROOT}/*",)
    return ExternalTable(f"{settings.dataset_id}.dead_letters", uris, as_labels(settings.labels))


def as_labels(labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in sorted(labels.items()))


def _key(settings: Settings) -> str | None:
    """None if no key is configured, or on the local stack, which has no Cloud KMS."""
    return None if settings.is_local else settings.kms_key


def dead_letter_topic(settings: Settings) -> str:
    """The topic for messages that other subscriptions of the topic (a BigQuery subscription, a push endpoint) can't deliver.

    The pipeline's own subscription does not use it: see docs/adr.
    """
    return f"{settings.topic_path}-dead-letter"


def dead_letter_subscription(settings: Settings) -> str:
    """The subscription that keeps the messages of the dead-letter topic, which would be lost without one."""
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
        labels=as_labels(settings.labels),
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
        labels=as_labels(settings.labels),
    )


def _bucket(settings: Settings) -> Bucket:
    return Bucket(
        name=settings.bucket_name,
        location=settings.location.upper(),
        uniform_access=True,
        public_access_prevention="enforced",
        delete_after_days=OBJECT_DAYS,
        soft_delete_days=settings.soft_delete_days,
        kms_key=_key(settings),
        labels=as_labels(settings.labels),
        retention_policy="",
        default_event_based_hold=False,
    )


def _dataset(settings: Settings) -> Dataset:
    return Dataset(
        name=settings.dataset_id,
        location=settings.location.upper(),
        kms_key=_key(settings),
        labels=as_labels(settings.labels),
        default_table_expiration="",
        default_partition_expiration="",
    )


def _table(table: FactTable, settings: Settings) -> Table:
    definition = sql.definition_of(table)
    return Table(
        name=f"{settings.dataset_id}.{table.name}",
        columns=definition.columns,
        partition=definition.partition,
        clustering=definition.clustering,
        kms_key=_key(settings),
        labels=as_labels(settings.labels),
        partition_expiration="",
        expires="",
        require_partition_filter=False,
    )


def _view(table: FactTable, settings: Settings) -> View:
    columns = tuple(sorted(column.name for column in table.columns))
    query = canonical_query(sql.view_ddl(table, settings.dataset_id).split("\nAS\n", 1)[1])
    return View(f"{settings.dataset_id}.{table.name}_unique", columns, query, as_labels(settings.labels))


def canonical_query(query: str) -> str:
    """``query`` normalized for comparison: one line, without comments, backticks and final semicolon."""
    return " ".join(_COMMENT.sub("", query).replace("`", "").split()).rstrip("; ")
