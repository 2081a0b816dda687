"""What is done about each difference of a resource as it is from how it should be: the list that infra, doctor and deploy follow.

docs/google-cloud.md shows it, made by ``python docs/make_differences.py``. Pure.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ecomflow.infra.resources import Kind

# ``add`` and ``change``: infra up does it. ``accept``: harmless, left alone. ``warn``: left alone, because it may be on purpose,
# but the user should know. ``refuse``: infra up can't or must not change it, and changes nothing at all.
How = Literal["add", "change", "accept", "warn", "refuse"]

# The pipelines that don't start because of a difference.
Stops = Literal["none", "dataflow", "all"]


class Verdict(msgspec.Struct, frozen=True):
    """The verdict on one ``case``, an attribute or a way in which it differs, of resources of ``kinds``.

    ``difference`` describes it. ``remedy`` says what to do, with the placeholders of ``remedy_of``; empty: nothing.
    """

    kinds: tuple[Kind, ...]
    case: str
    difference: str
    how: How
    stops: Stops
    remedy: str = ""


_LABELLED: tuple[Kind, ...] = ("topic", "subscription", "bucket", "dataset", "table", "view", "external table")

_OTHER_SUBSCRIPTION = (
    "set another subscription in the settings, or delete this one and its messages: gcloud pubsub subscriptions delete {name}"
)
_COPY_ROWS = "copy the rows of {name} elsewhere, drop it, and run: ecomflow infra up"
_NOT_THIS_KIND = "{name} is not a {kind} of ecomflow's: rename or drop it, or set another dataset, and run: ecomflow infra up"
_DROP_NOT_NULL = "Run in BigQuery: ALTER TABLE `{name}` ALTER COLUMN {column} DROP NOT NULL"

VERDICTS: tuple[Verdict, ...] = (
    Verdict(("apis",), "enabled", "an API is disabled", "change", "all"),
    Verdict(("topic",), "retention_days", "another retention of acknowledged messages", "change", "none"),
    Verdict(
        ("topic", "subscription"),
        "retention_days refused",
        "the service takes no such retention (an emulator)",
        "warn",
        "none",
        "Messages are kept for a shorter time. Pub/Sub itself takes up to 31 days.",
    ),
    Verdict(
        ("topic",),
        "kms_key",
        "another key",
        "refuse",
        "all",
        "A topic's key can't be changed: set another topic in the settings, or delete this one after the pipeline has drained it:"
        " gcloud pubsub topics delete {name}",
    ),
    Verdict(
        ("subscription",),
        "topic",
        "attached to another topic, or to one that was deleted",
        "refuse",
        "all",
        f"A subscription's topic can't be changed: {_OTHER_SUBSCRIPTION}",
    ),
    Verdict(
        ("subscription",),
        "delivery",
        "push, an export, or detached",
        "refuse",
        "all",
        f"A subscription's delivery may be in use by others: {_OTHER_SUBSCRIPTION}",
    ),
    Verdict(
        ("subscription",),
        "filter",
        "a filter",
        "refuse",
        "all",
        f"A subscription's filter can't be changed: {_OTHER_SUBSCRIPTION}",
    ),
    Verdict(("subscription",), "ack_deadline_seconds", "another ack deadline", "change", "all"),
    Verdict(("subscription",), "retention_days", "another retention", "change", "none"),
    Verdict(("subscription",), "exactly_once", "exactly-once delivery", "change", "all"),
    Verdict(("subscription",), "expires", "it expires without subscribers", "change", "all"),
    Verdict(("subscription",), "backoff_seconds", "another retry policy", "change", "dataflow"),
    Verdict(("subscription",), "dead_letter_topic", "a dead-letter policy", "change", "all"),
    Verdict(
        ("bucket", "dataset"),
        "location",
        "another location",
        "refuse",
        "all",
        "A location can't be changed: set location to {live}, or another {kind} in the settings.",
    ),
    Verdict(
        ("bucket",),
        "owner",
        "it belongs to another project",
        "refuse",
        "all",
        "Its owner could read your data. Bucket names are globally unique: set bucket in ecomflow.toml, or ECOMFLOW_BUCKET, to"
        ' another name. Only if you know that the bucket is yours: bucket_project = "{number}"',
    ),
    Verdict(("bucket",), "uniform_access", "access lists", "change", "none"),
    Verdict(("bucket",), "public_access_prevention", "public access is not prevented", "change", "none"),
    Verdict(("bucket",), "delete_after_days", "other lifecycle rules for `temp/` and `dlq/`", "change", "none"),
    Verdict(("bucket",), "soft_delete_days", "another soft-delete policy", "change", "none"),
    Verdict(
        ("bucket",),
        "retention_policy",
        "a retention policy",
        "warn",
        "none",
        "For that long no object can be deleted or replaced: ecomflow dlq replay refuses them, and infra down keeps the bucket."
        " Set another bucket or, if it is not locked, run: gcloud storage buckets update gs://{name} --clear-retention-period",
    ),
    Verdict(
        ("bucket",),
        "default_event_based_hold",
        "new objects are held",
        "warn",
        "none",
        "An object can't be deleted or replaced until its hold is released: ecomflow dlq replay refuses it, and infra down keeps"
        " the bucket. To hold no new ones, run: gcloud storage buckets update gs://{name} --no-default-event-based-hold",
    ),
    Verdict(("bucket", "dataset", "table"), "kms_key", "another key", "change", "all"),
    Verdict(
        ("table",),
        "kms_key missing",
        "no key, although one is set",
        "refuse",
        "all",
        "A table without a key gets one by copying it onto itself. Drain the pipeline first, then run:"
        " bq cp -f --destination_kms_key={wanted} {bq} {bq}",
    ),
    Verdict(
        ("dataset",),
        "default_table_expiration",
        "new tables expire",
        "warn",
        "none",
        "Tables that are created in it are deleted that long afterwards. If that is not intended, run in BigQuery:"
        " ALTER SCHEMA `{name}` SET OPTIONS (default_table_expiration_days = NULL)",
    ),
    Verdict(
        ("dataset",),
        "default_partition_expiration",
        "partitions of new tables expire",
        "warn",
        "none",
        "Tables that are created in it lose rows older than that. If that is not intended, run in BigQuery:"
        " ALTER SCHEMA `{name}` SET OPTIONS (default_partition_expiration_days = NULL)",
    ),
    Verdict(("table", "view", "external table"), "table_type", "a resource of another type", "refuse", "all", _NOT_THIS_KIND),
    Verdict(("table",), "partition", "other partitioning", "refuse", "all", f"Partitioning can't be changed: {_COPY_ROWS}"),
    Verdict(("table",), "clustering", "other clustering", "change", "none"),
    Verdict(
        ("table",),
        "partition_expiration",
        "partitions expire",
        "warn",
        "none",
        "Older rows are deleted, also those of late events. If that is not intended, run in BigQuery:"
        " ALTER TABLE `{name}` SET OPTIONS (partition_expiration_days = NULL)",
    ),
    Verdict(
        ("table",),
        "expires",
        "the table expires",
        "warn",
        "none",
        "The table is deleted then. If that is not intended, run in BigQuery:"
        " ALTER TABLE `{name}` SET OPTIONS (expiration_timestamp = NULL)",
    ),
    Verdict(
        ("table",),
        "require_partition_filter",
        "queries must filter on the partition",
        "warn",
        "none",
        "Queries of all days are refused, also those of ecomflow reconcile. If that is not intended, run in BigQuery:"
        " ALTER TABLE `{name}` SET OPTIONS (require_partition_filter = FALSE)",
    ),
    Verdict(("table", "view"), "column missing", "a nullable column is missing", "add", "all"),
    Verdict(
        ("table",),
        "column missing, NOT NULL",
        "a NOT NULL column is missing",
        "refuse",
        "all",
        "BigQuery can't add a NOT NULL column to an existing table: remove NOT NULL from its DDL, or " + _COPY_ROWS,
    ),
    Verdict(
        ("table",),
        "column of another type",
        "another type, precision or length (`NUMERIC(38, 9)` is `NUMERIC`)",
        "refuse",
        "all",
        f"BigQuery can't change this: {_COPY_ROWS}",
    ),
    Verdict(("table",), "column relaxed", "a column is nullable, although its DDL says NOT NULL", "accept", "none"),
    Verdict(
        ("table",), "column required", "a column is NOT NULL, although its DDL says nullable", "refuse", "all", _DROP_NOT_NULL
    ),
    Verdict(("table",), "column in other case", "the same column name in upper and lower case", "accept", "none"),
    Verdict(("table",), "column extra", "a column that is not in the DDL", "accept", "none"),
    Verdict(
        ("table",),
        "column extra, NOT NULL",
        "a NOT NULL column that is not in the DDL",
        "refuse",
        "all",
        f"No rows can be written without it. {_DROP_NOT_NULL}",
    ),
    Verdict(("view",), "query", "another SELECT", "change", "all"),
    Verdict(("external table",), "uris", "other objects", "change", "none"),
    Verdict(_LABELLED, "labels", "a label is missing or has another value", "change", "none"),
)

_BY_CASE = {(kind, verdict.case): verdict for verdict in VERDICTS for kind in verdict.kinds}


def verdict_of(kind: Kind, case: str) -> Verdict:
    """The verdict on ``case`` of a resource of ``kind``. Raises KeyError for a case that is not in the list."""
    return _BY_CASE[kind, case]


def remedy_of(kind: Kind, case: str, name: str, *, live: str = "", wanted: str = "", column: str = "") -> str | None:
    """What to do about ``case`` of the resource ``name``, as it is (``live``) and as it should be (``wanted``); None: nothing."""
    values = {
        "kind": kind,
        "name": name,
        "live": live,
        "wanted": wanted,
        "column": column,
        "bq": name.replace(".", ":", 1),
        "number": live.removeprefix("project "),
    }
    return verdict_of(kind, case).remedy.format_map(values) or None
