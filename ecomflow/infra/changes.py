"""Carries out a plan's steps: creates, changes and deletes resources. Existing resources are left as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, TypeVar

import msgspec
from google.api_core.exceptions import Conflict, InvalidArgument, NotFound
from google.cloud import bigquery, storage
from google.cloud.bigquery.enums import DatasetView
from google.protobuf import duration_pb2, field_mask_pb2
from google.pubsub_v1 import types

from ecomflow import sql
from ecomflow.config import Settings
from ecomflow.errors import ConfigError
from ecomflow.gcp.errors import DeniedError, RetainedError, google_errors, message_of
from ecomflow.gcp.target import Target
from ecomflow.infra.differences import Step, refused_retention, step_for
from ecomflow.infra.observe import is_prefix_rule, soft_delete_days
from ecomflow.infra.ownership import check_owner_of
from ecomflow.infra.requests import REQUEST_SECONDS, bigquery_retry, pubsub_retry, storage_retry
from ecomflow.infra.resources import (
    DAY_SECONDS,
    KINDS,
    OBJECT_DAYS,
    OBJECT_PREFIXES,
    RETENTION_DAYS,
    ExternalTable,
    Kind,
    Resource,
    Subscription,
    Table,
    Topic,
    View,
    dead_letters_table,
    desired,
    fact_tables,
)
from ecomflow.infra.services import enable_apis
from ecomflow.sql import Column

T = TypeVar("T", Topic, Subscription)

_TOPIC_FIELDS = {"retention_days": "message_retention_duration", "labels": "labels"}
_SUBSCRIPTION_FIELDS = {
    "labels": "labels",
    "ack_deadline_seconds": "ack_deadline_seconds",
    "retention_days": "message_retention_duration",
    "exactly_once": "enable_exactly_once_delivery",
    "expires": "expiration_policy",
    "backoff_seconds": "retry_policy",
    "dead_letter_topic": "dead_letter_policy",
}


class Removal(msgspec.Struct, frozen=True):
    """What ``down`` did to one resource; ``reason`` says why it was kept, or what remains."""

    kind: Kind
    name: str
    outcome: Literal["deleted", "absent", "kept"]
    reason: str | None = None


def carry_out(step: Step, target: Target) -> Step:
    """Creates or changes one resource; does nothing for ``keep``. Returns the step as it was carried out."""
    if step.action in ("create", "change"):
        return _MAKERS[step.kind](step, target) or step
    return step


def remove_subscription(name: str, target: Target) -> Removal:
    """Deletes the subscription and its messages."""
    service = target.pubsub_service
    retry = pubsub_retry(service)
    with google_errors(service, f"subscription {name}"):
        client = target.subscriber
        return _removed(
            "subscription", name, lambda: client.delete_subscription(subscription=name, retry=retry, timeout=REQUEST_SECONDS)
        )


def remove_topic(name: str, target: Target) -> Removal:
    """Deletes the topic; its other subscriptions receive nothing more."""
    service = target.pubsub_service
    with google_errors(service, f"topic {name}"):
        client = target.publisher
        return _removed(
            "topic", name, lambda: client.delete_topic(topic=name, retry=pubsub_retry(service), timeout=REQUEST_SECONDS)
        )


def remove_warehouse(present: Mapping[str, Resource], target: Target) -> tuple[Removal, ...]:
    """Drops ecomflow's views and tables that are ``present``, by name, then the dataset unless it contains anything else.

    A resource of another type that has the name of a view or table is not ecomflow's, and stays.
    """
    wanted = (*desired(target.settings), dead_letters_table(target.settings))
    views, tables, external = ([one for one in wanted if isinstance(one, kind)] for kind in (View, Table, ExternalTable))
    # The emulator has no external tables.
    ours = (*views, *tables, *(external if target.endpoints.bigquery is None else ()))
    removals = [_drop(one, present.get(one.name), target) for one in ours]
    with google_errors(target.bigquery_service, f"dataset {target.settings.dataset_id}"):
        return (*removals, _remove_dataset(target))


def _drop(ours: Table | View | ExternalTable, live: Resource | None, target: Target) -> Removal:
    """By DDL, because the local BigQuery can't delete a view by REST. The dead letters stay in the bucket."""
    kind = KINDS[type(ours)]
    if live is None:
        return Removal(kind, ours.name, "absent")
    if isinstance(live, type(ours)) and live.table_type != ours.table_type:
        return Removal(kind, ours.name, "kept", f"it is of the type {live.table_type}, so it is not ecomflow's")
    _run_ddl(f"DROP {kind.upper()} IF EXISTS `{ours.name}`", f"{kind} {ours.name}", target)
    return Removal(kind, ours.name, "deleted")


def remove_bucket(target: Target) -> Removal:
    """Deletes the objects under ecomflow's prefixes, then the bucket unless it contains anything else."""
    service, name = target.storage_service, target.settings.bucket_name
    try:
        with google_errors(service, f"bucket {name}"):
            bucket = target.storage.lookup_bucket(name, retry=storage_retry(service), timeout=REQUEST_SECONDS)
            return Removal("bucket", name, "absent") if bucket is None else _remove_bucket(bucket, target)
    except RetainedError as error:
        return Removal("bucket", name, "kept", error.message)


def _remove_bucket(bucket: storage.Bucket, target: Target) -> Removal:
    try:
        check_owner_of(bucket, target)
    except (ConfigError, DeniedError) as error:
        return Removal("bucket", bucket.name, "kept", error.message)
    for prefix in OBJECT_PREFIXES:
        _delete_objects(target.storage, bucket, prefix)
    left = [blob.name for blob in target.storage.list_blobs(bucket, max_results=1)]
    restorable = _restorable(soft_delete_days(bucket))
    if left:
        reason = f"it contains objects that are not ecomflow's, such as {left[0]}"
        return Removal("bucket", bucket.name, "kept", "; ".join(filter(None, (reason, restorable))))
    retry = storage_retry(target.storage_service)
    gone = _removed("bucket", bucket.name, lambda: bucket.delete(retry=retry, timeout=REQUEST_SECONDS))
    return msgspec.structs.replace(gone, reason=restorable)


def _restorable(days: int) -> str | None:
    return f"its deleted objects can be restored, and are charged for, for {days} more days" if days else None


def _enable_apis(step: Step, target: Target) -> None:
    enable_apis([difference.attribute for difference in step.differences], target.settings)


def _make_topic(step: Step, target: Target) -> Step:
    service = target.pubsub_service
    wanted = _wanted(Topic, step, target.settings)
    options: dict[str, Any] = {"retry": pubsub_retry(service), "timeout": REQUEST_SECONDS}
    topic = types.Topic(name=step.name, kms_key_name=wanted.kms_key or "", labels=target.settings.labels)
    with google_errors(service, f"topic {step.name}"):
        client = target.publisher
        if step.action == "create":
            return _retaining(step, topic, wanted.retention_days, lambda: client.create_topic(request=topic, **options))
        topic.labels = {**client.get_topic(topic=step.name, **options).labels, **target.settings.labels}
        mask = _mask(step, _TOPIC_FIELDS)
        update = partial(client.update_topic, topic=topic, update_mask=mask, **options)
        return _retaining(step, topic, wanted.retention_days, update)


def _make_subscription(step: Step, target: Target) -> Step:
    service = target.pubsub_service
    wanted = _wanted(Subscription, step, target.settings)
    options: dict[str, Any] = {"retry": pubsub_retry(service), "timeout": REQUEST_SECONDS}
    made = _subscription_of(wanted, target.settings.labels)
    with google_errors(service, f"subscription {step.name}"):
        client = target.subscriber
        if step.action == "create":
            return _retaining(step, made, wanted.retention_days, lambda: client.create_subscription(request=made, **options))
        made.labels = {**client.get_subscription(subscription=step.name, **options).labels, **target.settings.labels}
        mask = _mask(step, _SUBSCRIPTION_FIELDS)
        update = partial(client.update_subscription, subscription=made, update_mask=mask, **options)
        return _retaining(step, made, wanted.retention_days, update)


def _retaining(step: Step, made: types.Topic | types.Subscription, days: int | None, send: Callable[[], object]) -> Step:
    """Sends ``made`` with ``days`` of retention, or with what the service takes: an emulator may take less than Pub/Sub.

    Returns the step as it was carried out. A resource that another run has created meanwhile is left as it is.
    """
    for tried in (days, *_other_retentions(step, days)):
        made.message_retention_duration = _duration(tried)
        try:
            send()
        except Conflict:
            return step
        except InvalidArgument as error:
            refusal = error
            if "retention" not in message_of(error):
                raise
        else:
            return step if tried == days else _with_other_retention(step, tried)
    raise refusal


def _other_retentions(step: Step, days: int | None) -> tuple[int | None, ...]:
    """What to try if the service refuses ``days``: what a resource that exists has; else less, then the service's default."""
    if not days:
        return ()
    live = next((one.live for one in step.differences if one.attribute == "retention_days"), None)
    if live is not None:
        return (int(live),)
    return (RETENTION_DAYS, None) if days > RETENTION_DAYS else (None,)


def _with_other_retention(step: Step, days: int | None) -> Step:
    """``step``, which may have changed nothing, because the service takes only ``days`` (None: its default)."""
    taken = "the default" if days is None else str(days)
    differences = tuple(
        refused_retention(step, one, taken) if one.attribute == "retention_days" else one for one in step.differences
    )
    if step.action == "create":
        return msgspec.structs.replace(step, differences=differences)
    return step_for(step.kind, step.name, differences)


def _mask(step: Step, fields: Mapping[str, str]) -> field_mask_pb2.FieldMask:
    """The fields that differ. Labels are one field, so a request that changes it must include other people's labels."""
    return field_mask_pb2.FieldMask(paths=[fields[difference.attribute] for difference in step.differences])


def _subscription_of(wanted: Subscription, labels: Mapping[str, str]) -> types.Subscription:
    """The request that creates ``wanted``, without its retention. Fields that are not set (filter, delivery, dead-letter policy)
    mean none.
    """
    backoff = [duration_pb2.Duration(seconds=seconds) for seconds in wanted.backoff_seconds]
    return types.Subscription(
        name=wanted.name,
        topic=wanted.topic,
        ack_deadline_seconds=wanted.ack_deadline_seconds,
        # A policy without a time to live: never.
        expiration_policy=types.ExpirationPolicy(),
        enable_exactly_once_delivery=wanted.exactly_once,
        labels=labels,
        retry_policy=types.RetryPolicy(minimum_backoff=backoff[0], maximum_backoff=backoff[1]) if backoff else None,
    )


def _make_bucket(step: Step, target: Target) -> None:
    settings = target.settings
    service = target.storage_service
    retry = storage_retry(service)
    with google_errors(service, f"bucket {step.name}"):
        client = target.storage
        if step.action == "change":
            bucket = client.get_bucket(step.name, retry=retry, timeout=REQUEST_SECONDS)
            check_owner_of(bucket, target)
            _configure(bucket, settings)
            bucket.patch(retry=retry, timeout=REQUEST_SECONDS)
            return
        bucket = client.bucket(step.name)
        _configure(bucket, settings)
        try:
            client.create_bucket(
                bucket,
                project=settings.bucket_project,
                location=settings.location,
                retry=retry,
                timeout=REQUEST_SECONDS,
            )
        except Conflict:
            # Just created, by another run or by another project, in which case get_bucket may be denied.
            check_owner_of(client.get_bucket(step.name, retry=retry, timeout=REQUEST_SECONDS), target)


def _make_dataset(step: Step, target: Target) -> None:
    settings = target.settings
    service = target.bigquery_service
    with google_errors(service, f"dataset {step.name}"):
        client = target.bigquery
        options = {"retry": bigquery_retry(service), "timeout": REQUEST_SECONDS}
        if step.action == "change":
            dataset = client.get_dataset(step.name, dataset_view=DatasetView.METADATA, **options)
            changed = _describe_dataset(dataset, settings)
            client.update_dataset(dataset, changed, **options)
            return
        dataset = bigquery.Dataset(step.name)
        dataset.location = settings.location
        _describe_dataset(dataset, settings)
        client.create_dataset(dataset, exists_ok=True, **options)


def _describe_dataset(dataset: bigquery.Dataset, settings: Settings) -> list[str]:
    """Sets the key, which new tables in the dataset inherit, and the labels. Returns the names of the changed attributes."""
    changed = []
    if settings.kms_key is not None and not settings.is_local:
        dataset.default_encryption_configuration = bigquery.EncryptionConfiguration(settings.kms_key)
        changed.append("default_encryption_configuration")
    if settings.labels:
        dataset.labels = {**dataset.labels, **settings.labels}
        changed.append("labels")
    return changed


def _make_table(step: Step, target: Target) -> None:
    table = fact_tables(target.settings)[step.name.rsplit(".", 1)[1]]
    if step.action == "create":
        _run_ddl(sql.table_ddl(table, target.settings.dataset_id), f"table {step.name}", target)
        _label_table(step.name, target)
        return
    definition = sql.definition_of(table)
    added = {difference.attribute.removeprefix("column ") for difference in step.differences if difference.how == "add"}
    if added:
        _add_columns(step.name, [column for column in definition.columns if column.name in added], target)
    changed = {difference.attribute for difference in step.differences}
    if "clustering" in changed:
        _cluster(step.name, definition.clustering, target)
    if "kms_key" in changed:
        _encrypt_table(step.name, target)
    if "labels" in changed:
        _label_table(step.name, target)


def _make_view(step: Step, target: Target) -> None:
    table = fact_tables(target.settings)[step.name.rsplit(".", 1)[1].removesuffix("_unique")]
    if {difference.attribute for difference in step.differences} != {"labels"} or step.action == "create":
        _run_ddl(sql.view_ddl(table, target.settings.dataset_id), f"view {step.name}", target)
    _label_table(step.name, target)


def _make_external_table(step: Step, target: Target) -> None:
    statement = sql.dead_letters_ddl(target.settings.dataset_id, target.settings.bucket_name)
    _run_ddl(statement, f"external table {step.name}", target)
    _label_table(step.name, target)


# A maker returns the step as it was carried out; None: as it was planned.
_MAKERS: dict[Kind, Callable[[Step, Target], Step | None]] = {
    "apis": _enable_apis,
    "topic": _make_topic,
    "subscription": _make_subscription,
    "bucket": _make_bucket,
    "dataset": _make_dataset,
    "table": _make_table,
    "view": _make_view,
    "external table": _make_external_table,
}


def _run_ddl(statement: str, resource: str, target: Target) -> None:
    service = target.bigquery_service
    retry = bigquery_retry(service)
    with google_errors(service, resource):
        client = target.bigquery
        try:
            config = bigquery.QueryJobConfig(labels=target.settings.labels)
            client.query(statement, config, retry=retry, timeout=REQUEST_SECONDS, job_retry=None).result(
                retry=retry, timeout=REQUEST_SECONDS
            )
        except Conflict:
            return


def _add_columns(table_id: str, columns: list[Column], target: Target) -> None:
    """Adds nullable ``columns``, one statement each: the local BigQuery accepts only one at a time."""
    for column in columns:
        description = column.description.replace('"', '\\"')
        options = f'{column.name} {column.type} OPTIONS (description = "{description}")'
        _run_ddl(f"ALTER TABLE `{table_id}` ADD COLUMN IF NOT EXISTS {options}", f"table {table_id}", target)
    service = target.bigquery_service
    with google_errors(service, f"table {table_id}"):
        client = target.bigquery
        table = client.get_table(table_id, retry=bigquery_retry(service), timeout=REQUEST_SECONDS)
        shown = {field.name for field in table.schema}
        hidden = [column for column in columns if column.name not in shown]
        if hidden:
            # In the local BigQuery the statement doesn't update the table resource; this call does.
            table.schema = [*table.schema, *(bigquery.SchemaField(c.name, c.type, description=c.description) for c in hidden)]
            client.update_table(table, ["schema"], retry=bigquery_retry(service), timeout=REQUEST_SECONDS)


def _cluster(table_id: str, columns: tuple[str, ...], target: Target) -> None:
    """Changes the clustering of new rows; BigQuery reclusters old rows in the background."""

    def change(table: bigquery.Table) -> str:
        table.clustering_fields = list(columns)
        return "clustering_fields"

    _update_table(table_id, change, target)


def _encrypt_table(table_id: str, target: Target) -> None:
    """Replaces the table's key by another; BigQuery re-encrypts the table's data key, not each row."""

    def change(table: bigquery.Table) -> str:
        table.encryption_configuration = bigquery.EncryptionConfiguration(target.settings.kms_key)
        return "encryption_configuration"

    _update_table(table_id, change, target)


def _label_table(table_id: str, target: Target) -> None:
    """Adds the labels to a table or view, whose DDL has none, because it is the same for everybody. Other labels stay.

    Replacing a view removes its labels.
    """

    def change(table: bigquery.Table) -> str:
        table.labels = {**table.labels, **target.settings.labels}
        return "labels"

    if target.settings.labels:
        _update_table(table_id, change, target)


def _update_table(table_id: str, change: Callable[[bigquery.Table], str], target: Target) -> None:
    """``change`` sets one attribute of the table and returns its name."""
    service = target.bigquery_service
    with google_errors(service, f"table {table_id}"):
        client = target.bigquery
        table = client.get_table(table_id, retry=bigquery_retry(service), timeout=REQUEST_SECONDS)
        changed = change(table)
        client.update_table(table, [changed], retry=bigquery_retry(service), timeout=REQUEST_SECONDS)


def _configure(bucket: storage.Bucket, settings: Settings) -> None:
    bucket.labels = {**bucket.labels, **settings.labels}
    bucket.soft_delete_policy.retention_duration_seconds = settings.soft_delete_days * DAY_SECONDS
    bucket.iam_configuration.uniform_bucket_level_access_enabled = True
    bucket.iam_configuration.public_access_prevention = "enforced"
    if settings.kms_key is not None and not settings.is_local:
        bucket.default_kms_key_name = settings.kms_key
    if settings.labels:
        bucket.labels = {**bucket.labels, **settings.labels}
    ours = {prefix for prefix, _ in OBJECT_DAYS}
    rules = [dict(rule) for rule in bucket.lifecycle_rules]
    bucket.lifecycle_rules = [
        rule for rule in rules if not (is_prefix_rule(rule) and rule["condition"]["matchesPrefix"][0] in ours)
    ]
    for prefix, days in OBJECT_DAYS:
        bucket.add_lifecycle_delete_rule(age=days, matches_prefix=[prefix])


def _remove_dataset(target: Target) -> Removal:
    settings = target.settings
    retry = bigquery_retry(target.bigquery_service)
    client = target.bigquery
    try:
        left = [table.table_id for table in client.list_tables(settings.dataset_id, max_results=1, retry=retry)]
    except NotFound:
        return Removal("dataset", settings.dataset_id, "absent")
    if left:
        return Removal("dataset", settings.dataset_id, "kept", f"it contains tables that are not ecomflow's, such as {left[0]}")
    return _removed(
        "dataset", settings.dataset_id, lambda: client.delete_dataset(settings.dataset_id, retry=retry, timeout=REQUEST_SECONDS)
    )


def _delete_objects(client: storage.Client, bucket: storage.Bucket, prefix: str) -> None:
    """One call per object: the local storage has no batch requests."""

    def delete(blob: storage.Blob) -> None:
        try:
            blob.delete(timeout=REQUEST_SECONDS)
        except NotFound:
            return

    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(delete, client.list_blobs(bucket, prefix=prefix)))


def _removed(kind: Kind, name: str, delete: Callable[[], object]) -> Removal:
    try:
        delete()
    except NotFound:
        return Removal(kind, name, "absent")
    return Removal(kind, name, "deleted")


def _wanted(kind: type[T], step: Step, settings: Settings) -> T:
    (found,) = [resource for resource in desired(settings) if resource.name == step.name and isinstance(resource, kind)]
    return found


def _duration(days: int | None) -> duration_pb2.Duration | None:
    return duration_pb2.Duration(seconds=days * DAY_SECONDS) if days else None
