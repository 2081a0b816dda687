"""Settings and DDL flow in; the resources that should exist flow out, in the order in which they can be made. Pure.

The same records describe what is there. An attribute that is None was not reported by the service and is compared with nothing:
the emulators leave out much of what Google Cloud reports.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ecomflow import sql
from ecomflow.config import Settings
from ecomflow.sql import Column

DAY_SECONDS = 86_400

# Long enough to mend a pipeline that broke over a weekend; the longest that a subscription keeps by default.
RETENTION_DAYS = 7

# Days after which objects are deleted, by prefix: what a job staged, and dead letters that nobody replayed.
OBJECT_DAYS = (("temp/", 7), ("dlq/", 90))

# Every prefix under which ecomflow writes objects.
OBJECT_PREFIXES = ("dlq/", "temp/", "staging/")

Kind = Literal["topic", "subscription", "bucket", "dataset", "table", "view"]


class Topic(msgspec.Struct, frozen=True):
    """A Pub/Sub topic, ``projects/<project>/topics/<topic>``."""

    name: str
    retention_days: int | None


class Subscription(msgspec.Struct, frozen=True):
    """A pull subscription. ``filter`` '' lets every message through; ``expires`` False: never for want of a subscriber."""

    name: str
    topic: str
    ack_deadline_seconds: int
    retention_days: int | None
    filter: str | None
    exactly_once: bool | None
    expires: bool | None


class Bucket(msgspec.Struct, frozen=True):
    """A Cloud Storage bucket. ``delete_after_days`` holds (prefix, days) of its lifecycle rules."""

    name: str
    location: str | None
    uniform_access: bool | None
    public_access_prevention: str | None
    delete_after_days: tuple[tuple[str, int], ...] | None


class Dataset(msgspec.Struct, frozen=True):
    """A BigQuery dataset, ``<project>.<dataset>``."""

    name: str
    location: str | None


class Table(msgspec.Struct, frozen=True):
    """A fact table, ``<project>.<dataset>.<table>``, partitioned daily by the DATE column ``partition``."""

    name: str
    columns: tuple[Column, ...]
    partition: str | None
    clustering: tuple[str, ...] | None


class View(msgspec.Struct, frozen=True):
    """The view that shows a fact table's rows once: the names of its columns, sorted, and its SELECT."""

    name: str
    columns: tuple[str, ...]
    query: str | None


Resource = Topic | Subscription | Bucket | Dataset | Table | View

KINDS: dict[type, Kind] = {
    Topic: "topic",
    Subscription: "subscription",
    Bucket: "bucket",
    Dataset: "dataset",
    Table: "table",
    View: "view",
}


def desired(settings: Settings) -> tuple[Resource, ...]:
    """What should exist: each before those that need it."""
    tables = tuple(_table(name, settings) for name in sql.TABLES)
    views = tuple(_view(name, settings) for name in sql.TABLES)
    return (
        Topic(settings.topic_path, RETENTION_DAYS),
        _subscription(settings),
        Bucket(settings.bucket_name, settings.location.upper(), True, "enforced", OBJECT_DAYS),
        Dataset(settings.dataset_id, settings.location.upper()),
        *tables,
        *views,
    )


def _subscription(settings: Settings) -> Subscription:
    return Subscription(
        name=settings.subscription_path,
        topic=settings.topic_path,
        ack_deadline_seconds=settings.ack_deadline_seconds,
        retention_days=RETENTION_DAYS,
        filter="",
        exactly_once=False,
        expires=False,
    )


def _table(name: str, settings: Settings) -> Table:
    definition = sql.table_definition(name)
    return Table(f"{settings.dataset_id}.{name}", definition.columns, definition.partition, definition.clustering)


def _view(name: str, settings: Settings) -> View:
    columns = tuple(sorted(column.name for column in sql.table_definition(name).columns))
    query = canonical_query(sql.view_ddl(name, settings.dataset_id).split("\nAS\n", 1)[1])
    return View(f"{settings.dataset_id}.{name}_unique", columns, query)


def canonical_query(query: str) -> str:
    """``query`` as one line, without backticks and closing semicolon: BigQuery may give it back laid out otherwise."""
    return " ".join(query.replace("`", "").split()).rstrip("; ")
