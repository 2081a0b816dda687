"""A target in; the existing resources out, in the same records as the desired ones."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec
from google.api_core.exceptions import NotFound
from google.cloud import bigquery, storage
from google.cloud.bigquery.enums import DatasetView
from google.pubsub_v1 import types

from ecomflow.gcp.errors import google_errors, is_missing
from ecomflow.gcp.permissions import READ_BUCKET, READ_DATASET, READ_SUBSCRIPTION, READ_TABLE, READ_TOPIC
from ecomflow.gcp.services import Service
from ecomflow.gcp.target import Target
from ecomflow.infra.ownership import owner_of
from ecomflow.infra.requests import REQUEST_SECONDS, bigquery_retry, pubsub_retry, storage_retry
from ecomflow.infra.resources import (
    DAY_SECONDS,
    OBJECT_DAYS,
    Bucket,
    Dataset,
    ExternalTable,
    Resource,
    Subscription,
    Table,
    Topic,
    View,
    as_labels,
    canonical_query,
    dead_letter_subscription,
    dead_letter_topic,
    dead_letters_table,
    fact_tables,
)
from ecomflow.sql import Column, sql_type

# NUMERIC has this precision and scale if its DDL names none.
# https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#decimal_types
_PLAIN_NUMERIC = ("NUMERIC", 38, 9)

Observation = Callable[[], Resource | None]
T = TypeVar("T")


def observe(target: Target, disabled: frozenset[str] = frozenset()) -> dict[str, Resource]:
    """Every existing resource of ecomflow, by name. Raises AccessError, UnavailableError, or NotFoundError for the project.

    Skips services whose API is ``disabled`` ("pubsub.googleapis.com").
    """
    observations: list[Observation] = []
    if target.pubsub_service.api not in disabled:
        observations += _messaging(target)
    if target.storage_service.api not in disabled:
        observations.append(partial(observe_bucket, target))
    if target.bigquery_service.api not in disabled:
        observations += _warehouse(target)
    found = _all_of(observations)
    return {resource.name: resource for resource in found if resource is not None}


def _messaging(target: Target) -> list[Observation]:
    settings = target.settings
    topics = (settings.topic_path, dead_letter_topic(settings))
    subscriptions = (settings.subscription_path, dead_letter_subscription(settings))
    return [
        *(partial(observe_topic, name, target) for name in topics),
        *(partial(observe_subscription, name, target) for name in subscriptions),
    ]


def _warehouse(target: Target) -> list[Observation]:
    tables: list[Observation] = [partial(observe_table, name, target) for name in fact_tables(target.settings)]
    views: list[Observation] = [partial(observe_view, name, target) for name in fact_tables(target.settings)]
    external = [partial(observe_dead_letters, target)] if target.endpoints.bigquery is None else []
    return [partial(observe_dataset, target), *tables, *views, *external]


def observe_tables(target: Target) -> dict[str, Table]:
    """The existing fact tables, by name."""
    found = _all_of([partial(observe_table, name, target) for name in fact_tables(target.settings)])
    return {table.name: table for table in found if isinstance(table, Table)}


def observe_rows(table: str, target: Target) -> int:
    """The number of rows in ``table``, including BigQuery's estimate of those in its streaming buffer."""
    service = target.bigquery_service
    client = target.bigquery
    with google_errors(service, f"table {table}", READ_TABLE):
        live = client.get_table(table, retry=bigquery_retry(service), timeout=REQUEST_SECONDS)
    waiting = live.streaming_buffer.estimated_rows if live.streaming_buffer else 0
    return int(live.num_rows or 0) + int(waiting or 0)


def observe_table(name: str, target: Target) -> Table | None:
    """The existing fact table ``name``, or None."""
    table_id = f"{target.settings.dataset_id}.{name}"
    live = _get_table(table_id, target)
    if live is None:
        return None
    emulated = target.endpoints.bigquery is not None
    columns = tuple(column_of(field) for field in live.schema)
    clustering = tuple(live.clustering_fields or ())
    return Table(
        name=table_id,
        columns=columns,
        partition=_partition(live) or (None if emulated else ""),
        clustering=clustering or (None if emulated else ()),
        kms_key=_key_of(live.encryption_configuration),
        labels=as_labels(live.labels),
        table_type=live.table_type,
        partition_expiration=_period(live.time_partitioning.expiration_ms if live.time_partitioning else None),
        expires=f"{live.expires:%Y-%m-%d %H:%M} UTC" if live.expires else "",
        require_partition_filter=bool(live.require_partition_filter),
    )


def _period(milliseconds: int | None) -> str:
    """``30 days``; '' for none."""
    if not milliseconds:
        return ""
    days, rest = divmod(int(milliseconds), 1000 * DAY_SECONDS)
    return f"{int(milliseconds) // 1000:,} s" if rest else f"{days:,} days" if days > 1 else "1 day"


def _key_of(configuration: bigquery.EncryptionConfiguration | None) -> str:
    """The key's name without a version, which some of BigQuery's responses include."""
    key = (configuration.kms_key_name if configuration else None) or ""
    return key.split("/cryptoKeyVersions/", 1)[0]


def column_of(field: bigquery.SchemaField) -> Column:
    """A column of the REST API with its GoogleSQL type: INTEGER is INT64, and a precision or length is part of the type."""
    column_type = sql_type(field.field_type)
    if field.precision is not None and (column_type, field.precision, field.scale) != _PLAIN_NUMERIC:
        column_type += f"({field.precision}, {field.scale or 0})"
    if field.max_length is not None:
        column_type += f"({field.max_length})"
    if field.mode == "REPEATED":
        column_type = f"ARRAY<{column_type}>"
    return Column(field.name, column_type, field.mode == "REQUIRED", field.description or "")


def rules_by_prefix(bucket: storage.Bucket) -> dict[str, int]:
    """The days of the lifecycle rules that delete by age under one prefix. Other rules are the user's."""
    rules = [rule for rule in bucket.lifecycle_rules if is_prefix_rule(rule)]
    return {rule["condition"]["matchesPrefix"][0]: rule["condition"]["age"] for rule in rules}


def is_prefix_rule(rule: dict[str, Any]) -> bool:
    condition = rule["condition"]
    return (
        rule["action"]["type"] == "Delete" and set(condition) == {"age", "matchesPrefix"} and len(condition["matchesPrefix"]) == 1
    )


def _all_of(observations: list[Observation]) -> list[Resource | None]:
    """The results of the observations, in order. They run in parallel; the first failure cancels those that haven't begun."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        futures = [pool.submit(observation) for observation in observations]
        try:
            return [future.result() for future in futures]
        finally:
            pool.shutdown(cancel_futures=True)


def observe_topic(name: str, target: Target) -> Topic | None:
    """The existing topic ``projects/P/topics/T``, or None."""
    service = target.pubsub_service
    with google_errors(service, f"topic {name}", READ_TOPIC):
        client = target.publisher
        topic = _if_there(partial(client.get_topic, topic=name, retry=pubsub_retry(service), timeout=REQUEST_SECONDS))
    if topic is None:
        return None
    raw = types.Topic.pb(topic)
    return Topic(name, _days(raw.message_retention_duration, service), raw.kms_key_name, as_labels(raw.labels))


def observe_subscription(name: str, target: Target) -> Subscription | None:
    """The existing subscription ``projects/P/subscriptions/S``, or None."""
    service = target.pubsub_service
    with google_errors(service, f"subscription {name}", READ_SUBSCRIPTION):
        client = target.subscriber
        live = _if_there(
            partial(client.get_subscription, subscription=name, retry=pubsub_retry(service), timeout=REQUEST_SECONDS)
        )
    if live is None:
        return None
    raw = types.Subscription.pb(live)
    return Subscription(
        name=name,
        topic=raw.topic,
        delivery=_delivery(raw),
        ack_deadline_seconds=raw.ack_deadline_seconds,
        retention_days=_days(raw.message_retention_duration, service),
        filter=raw.filter,
        exactly_once=raw.enable_exactly_once_delivery,
        expires=raw.expiration_policy.HasField("ttl"),
        backoff_seconds=_backoff(raw),
        dead_letter_topic=raw.dead_letter_policy.dead_letter_topic,
        labels=as_labels(raw.labels),
    )


def observe_bucket(target: Target) -> Bucket | None:
    settings = target.settings
    service = target.storage_service
    with google_errors(service, f"bucket {settings.bucket_name}", READ_BUCKET):
        client = target.storage
        bucket = client.lookup_bucket(settings.bucket_name, retry=storage_retry(service), timeout=REQUEST_SECONDS)
    if bucket is None:
        return None
    found = msgspec.structs.replace(bucket_of(bucket), owner=owner_of(bucket, target))
    if service.endpoint is None:
        return found
    # The local storage has one location, and no access settings, lifecycle rules or soft delete.
    absent = ("location", "uniform_access", "public_access_prevention", "delete_after_days", "soft_delete_days")
    return msgspec.structs.replace(found, **dict.fromkeys(absent))


def bucket_of(bucket: storage.Bucket) -> Bucket:
    """The record of a bucket as Google reports it."""
    days = rules_by_prefix(bucket)
    return Bucket(
        name=bucket.name,
        location=bucket.location.upper(),
        uniform_access=bool(bucket.iam_configuration.uniform_bucket_level_access_enabled),
        public_access_prevention=bucket.iam_configuration.public_access_prevention or "inherited",
        delete_after_days=tuple((prefix, days[prefix]) for prefix, _ in OBJECT_DAYS if prefix in days),
        soft_delete_days=soft_delete_days(bucket),
        kms_key=bucket.default_kms_key_name or "",
        labels=as_labels(bucket.labels),
        retention_policy=_period(1000 * (bucket.retention_period or 0)) + (", locked" if bucket.retention_policy_locked else ""),
        default_event_based_hold=bool(bucket.default_event_based_hold),
    )


def soft_delete_days(bucket: storage.Bucket) -> int:
    """For how many days deleted objects can be restored, and are charged for; 0 if soft delete is off."""
    return int(bucket.soft_delete_policy.retention_duration_seconds or 0) // DAY_SECONDS


def observe_dataset(target: Target) -> Dataset | None:
    service = target.bigquery_service
    with google_errors(service, f"dataset {target.settings.dataset_id}", READ_DATASET):
        # The full dataset, with its access list, would also need datasets.getIamPolicy.
        options = {"retry": bigquery_retry(service), "timeout": REQUEST_SECONDS, "dataset_view": DatasetView.METADATA}
        live = _if_there(partial(target.bigquery.get_dataset, target.settings.dataset_id, **options))
    if live is None:
        return None
    return Dataset(
        name=target.settings.dataset_id,
        location=live.location.upper() if live.location else None,
        kms_key=_key_of(live.default_encryption_configuration),
        labels=as_labels(live.labels),
        default_table_expiration=_period(live.default_table_expiration_ms),
        default_partition_expiration=_period(live.default_partition_expiration_ms),
    )


def observe_view(name: str, target: Target) -> View | None:
    live = _get_table(f"{target.settings.dataset_id}.{name}_unique", target)
    if live is None:
        return None
    columns = tuple(sorted(field.name for field in live.schema))
    query = canonical_query(live.view_query) if live.view_query else None
    return View(f"{target.settings.dataset_id}.{name}_unique", columns, query, as_labels(live.labels), live.table_type)


def observe_dead_letters(target: Target) -> ExternalTable | None:
    """The existing external table, or None."""
    name = dead_letters_table(target.settings).name
    live = _get_table(name, target)
    if live is None:
        return None
    external = live.external_data_configuration
    return ExternalTable(name, tuple(external.source_uris) if external else (), as_labels(live.labels), live.table_type)


def _get_table(table_id: str, target: Target) -> bigquery.Table | None:
    service = target.bigquery_service
    with google_errors(service, f"table {table_id}", READ_TABLE):
        return _if_there(partial(target.bigquery.get_table, table_id, retry=bigquery_retry(service), timeout=REQUEST_SECONDS))


def _if_there(get: Callable[[], T]) -> T | None:
    """The result of ``get``; None if it doesn't exist. A missing project is raised, because ``up`` can't create it."""
    try:
        return get()
    except NotFound as error:
        if not is_missing(error):
            raise
        return None


def _partition(table: bigquery.Table) -> str:
    """The partition column, with the granularity unless it is daily."""
    partitioning = table.time_partitioning
    if partitioning is None:
        return ""
    column = partitioning.field or "ingestion time"
    return column if partitioning.type_ == "DAY" else f"{column} by {partitioning.type_}"


_EXPORTS = {"bigquery_config": "bigquery", "cloud_storage_config": "cloud storage", "bigtable_config": "bigtable"}


def _delivery(raw: Any) -> str:
    """A subscription's delivery: pull, or the kind of push or export."""
    if raw.detached:
        return "detached"
    if raw.push_config.push_endpoint:
        return "push"
    return next((_EXPORTS[field.name] for field, _ in raw.ListFields() if field.name in _EXPORTS), "pull")


def _backoff(raw: Any) -> tuple[int, ...]:
    if not raw.HasField("retry_policy"):
        return ()
    policy = raw.retry_policy
    # Pub/Sub's defaults: https://cloud.google.com/pubsub/docs/handling-failures
    shortest = policy.minimum_backoff.seconds if policy.HasField("minimum_backoff") else 10
    longest = policy.maximum_backoff.seconds if policy.HasField("maximum_backoff") else 600
    return int(shortest), int(longest)


def _days(duration: Any, service: Service) -> int | None:
    """A protobuf duration in days. If it is not set, an emulator doesn't report it, and Google Cloud means 0."""
    if not duration.seconds and service.endpoint is not None:
        return None
    return int(duration.seconds // DAY_SECONDS)
