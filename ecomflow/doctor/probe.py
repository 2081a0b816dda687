"""Writes rows, a message and an object, and reads them back: a target in, a check for each out.

Everything is written to temporary tables, topics, subscriptions and objects, named ``probe`` and a random part, and is removed
again, also after a failure. If the removal fails, what is left expires: tables after an hour, the subscription after a day, the
object by the bucket's lifecycle rule for ``temp/``.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec
import pyarrow as pa
from google.api_core.exceptions import DeadlineExceeded, PreconditionFailed
from google.cloud import bigquery
from google.protobuf import duration_pb2
from google.pubsub_v1 import PublisherClient, types

from ecomflow import sql
from ecomflow.contract.ddl import table_schema
from ecomflow.contract.language import Table
from ecomflow.doctor.records import Check, failed
from ecomflow.errors import EcomflowError, NotFoundError, PipelineError, SchemaError
from ecomflow.gcp.errors import google_errors
from ecomflow.gcp.target import Target
from ecomflow.infra import check_owner
from ecomflow.infra.requests import REQUEST_SECONDS, bigquery_retry, pubsub_retry, storage_retry
from ecomflow.infra.resources import fact_tables
from ecomflow.pipeline.config import pipeline_config
from ecomflow.pipeline.counters import Counters
from ecomflow.pipeline.sinks.bigquery import MaybeMissingError, TableWriter

# How long something just created or written may take to appear.
_APPEAR_SECONDS = 30.0
# Longer than Pub/Sub holds a pull open: a pull that is abandoned earlier may still lease the message.
# https://github.com/googleapis/google-cloud-python/issues/8087
_PULL_SECONDS = 90.0

# Values that a wrong type would change: a float can't represent the numbers, a timestamp needs its time zone and microseconds.
_TEXT = 'ecomflow probe: "ä€😀"\n'
_INTEGER = 2**53 + 1
_NUMERIC = Decimal("12345678901234567890123456789.123456789")
_MICROSECONDS = 123_457
_SAMPLES: dict[str, Any] = {
    "STRING": _TEXT,
    "INT64": _INTEGER,
    "NUMERIC": _NUMERIC,
    "BOOL": True,
    "FLOAT64": 0.1,
    "JSON": {"a": [1]},
}


def probe(target: Target, now: datetime | None = None) -> tuple[Check, ...]:
    """Writes and reads back a row of every fact table, a message and an object, in parallel; returns a timed check for each.

    ``now`` is the time of the rows, which must be in a partition that accepts streaming.
    """
    unique = uuid.uuid4().hex[:12]
    moment = (now or datetime.now(UTC)).replace(microsecond=_MICROSECONDS)
    tables = fact_tables(target.settings).values()
    probes = [partial(_probe_table, table, f"probe_{unique}_{table.name}", moment, target) for table in tables]
    probes += [
        partial(_probe_messages, f"probe-{unique}", target),
        partial(_probe_objects, f"temp/probe-{unique}", target),
    ]
    with ThreadPoolExecutor(len(probes)) as pool:
        return tuple(future.result() for future in [pool.submit(probe) for probe in probes])


def sample_row(table: Table, moment: datetime) -> dict[str, Any]:
    """A value for each column, as BigQuery's client would read it back: NULL if the column is nullable. Pure."""
    samples = _SAMPLES | {"TIMESTAMP": moment, "DATE": moment.date()}
    return {column.name: samples[column.type] if column.required else None for column in table.columns}


def differences(wrote: Mapping[str, Any], read: Mapping[str, Any]) -> list[str]:
    """The columns whose values differ, in value or type. Pure."""
    columns = dict.fromkeys([*wrote, *read])
    pairs = [(name, wrote.get(name, "no column"), read.get(name, "no column")) for name in columns]
    return [
        f"{name}: wrote {before!r}, read {after!r}"
        for name, before, after in pairs
        if type(before) is not type(after) or before != after
    ]


def _attempt(name: str, work: Callable[[], str], remove: Mapping[str, Callable[[], object]]) -> Check:
    """Runs and times ``work``, then every removal, also after a failure. A failed removal fails the check."""
    began = time.monotonic()
    message, error = "", None
    try:
        message = work()
    except EcomflowError as raised:
        error = raised
    finally:
        left = [text for what, removal in remove.items() if (text := _left_behind(what, removal))]
    seconds = round(time.monotonic() - began, 3)
    if error is None and not left:
        return Check(name, True, message, seconds=seconds)
    error = error or PipelineError(message)
    return Check(name, False, " ".join([error.message, *left]), error.remedy, error.exit_code, seconds=seconds)


def _left_behind(what: str, removal: Callable[[], object]) -> str | None:
    try:
        removal()
    except NotFoundError:  # it was never created
        return None
    except EcomflowError as error:
        return f"The probe's {what} could not be removed: {error.message}"
    return None


def _probe_table(table: Table, name: str, moment: datetime, target: Target) -> Check:
    service = target.bigquery_service
    table_id = f"{target.settings.dataset_id}.{name}"

    def work() -> str:
        with google_errors(service, f"table {table_id}"):
            _create_table(table, table_id, target)
            row = sample_row(table, moment)
            _append(row, table_schema(table), name, target)
            wrong = differences(row, _read_row(table_id, target))
        if wrong:
            raise SchemaError(
                f"The row read differs from the row written: {'; '.join(wrong)}.", "Report this as a bug in ecomflow."
            )
        return f"A row of {len(row)} columns was appended through the Storage Write API and read back unchanged."

    def remove() -> None:
        with google_errors(service, f"table {table_id}"):
            target.bigquery.delete_table(table_id, not_found_ok=True, retry=bigquery_retry(service), timeout=REQUEST_SECONDS)

    return _attempt(f"rows of {table.name}", work, {f"table {name}": remove})


def _create_table(table: Table, table_id: str, target: Target) -> None:
    """From the table's own DDL under another name, with an expiration of one hour."""
    client, dataset_id = target.bigquery, target.settings.dataset_id
    retry = bigquery_retry(target.bigquery_service)
    statement = sql.table_ddl(table, dataset_id).replace(f"`{dataset_id}.{table.name}`", f"`{table_id}`")
    config = bigquery.QueryJobConfig(labels=target.settings.labels)
    job = client.query(statement, config, retry=retry, timeout=REQUEST_SECONDS, job_retry=None)
    job.result(retry=retry, timeout=REQUEST_SECONDS)
    created = client.get_table(table_id, retry=retry, timeout=REQUEST_SECONDS)
    created.expires = datetime.now(UTC) + timedelta(hours=1)
    client.update_table(created, ["expires"], retry=retry, timeout=REQUEST_SECONDS)


def _append(row: Mapping[str, Any], schema: pa.Schema, name: str, target: Target) -> None:
    """Appends as the pipeline does. The Storage Write API may take some seconds to see a new table."""
    written = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in row.items()}
    rows = pa.RecordBatch.from_pylist([written], schema=schema)
    config = msgspec.structs.replace(pipeline_config(target.settings), endpoints=target.endpoints)
    writer = TableWriter(config, name, target.bigquery_write, Counters())
    try:
        refused = _once_found(lambda: writer.finish(writer.start(rows)))
    finally:
        writer.close()
    if refused:
        raise SchemaError(f"BigQuery refuses the row: {refused[0].error}")


def _once_found(work: Callable[[], Any]) -> Any:
    give_up = time.monotonic() + _APPEAR_SECONDS
    while True:
        try:
            return work()
        except (NotFoundError, MaybeMissingError):
            if time.monotonic() > give_up:
                raise
            time.sleep(1.0)


def _read_row(table_id: str, target: Target) -> dict[str, Any]:
    retry = bigquery_retry(target.bigquery_service)
    give_up = time.monotonic() + _APPEAR_SECONDS
    while True:
        config = bigquery.QueryJobConfig(labels=target.settings.labels)
        job = target.bigquery.query(f"SELECT * FROM `{table_id}`", config, retry=retry, timeout=REQUEST_SECONDS)  # noqa: S608  # a generated name
        rows = [dict(row.items()) for row in job.result(retry=retry, timeout=REQUEST_SECONDS)]
        if len(rows) == 1:
            return rows[0]
        if rows or time.monotonic() > give_up:
            raise PipelineError(
                f"One row was written and confirmed, but {len(rows)} were read.", "Report this as a bug in ecomflow."
            )
        time.sleep(0.5)


def _probe_messages(name: str, target: Target) -> Check:
    settings = target.settings
    service = target.pubsub_service
    retry = pubsub_retry(service)
    topic = f"projects/{settings.project_id}/topics/{name}"
    subscription = f"projects/{settings.project_id}/subscriptions/{name}"
    # An organisation's policy may require a key and labels on every topic.
    key = "" if settings.is_local else settings.kms_key or ""
    probed = types.Topic(name=topic, kms_key_name=key, labels=settings.labels)
    message = types.PubsubMessage(data=_TEXT.encode(), attributes={"event_id": name, "text": _TEXT})

    def work() -> str:
        with google_errors(service, f"topic {topic}"):
            publisher, subscriber = target.publisher, target.subscriber
            publisher.create_topic(request=probed, retry=retry, timeout=REQUEST_SECONDS)
            subscriber.create_subscription(request=_short_lived(subscription, probed), retry=retry, timeout=REQUEST_SECONDS)
            # pubsub_v1's client overrides the inherited request method with one that batches.
            PublisherClient.publish(publisher, topic=topic, messages=[message], retry=retry, timeout=REQUEST_SECONDS)
            read = _pull_one(subscriber, subscription)
        if read.data != message.data or dict(read.attributes) != dict(message.attributes):
            raise PipelineError(f"The message read differs from the message written: {read.data!r}, {dict(read.attributes)}.")
        return "A message with attributes was published, pulled and acknowledged."

    def remove_subscription() -> None:
        with google_errors(service, f"subscription {subscription}"):
            target.subscriber.delete_subscription(subscription=subscription, retry=retry, timeout=REQUEST_SECONDS)

    def remove_topic() -> None:
        with google_errors(service, f"topic {topic}"):
            target.publisher.delete_topic(topic=topic, retry=retry, timeout=REQUEST_SECONDS)

    return _attempt("a message", work, {f"subscription {name}": remove_subscription, f"topic {name}": remove_topic})


def _short_lived(subscription: str, topic: types.Topic) -> types.Subscription:
    """A day is the shortest expiration of a subscription."""
    ttl = types.ExpirationPolicy(ttl=duration_pb2.Duration(seconds=86_400))
    return types.Subscription(
        name=subscription,
        topic=topic.name,
        labels=topic.labels,
        expiration_policy=ttl,
        message_retention_duration=duration_pb2.Duration(seconds=3_600),
    )


def _pull_one(subscriber: Any, subscription: str) -> types.PubsubMessage:
    give_up = time.monotonic() + _APPEAR_SECONDS
    while time.monotonic() < give_up:
        try:
            response = subscriber.pull(subscription=subscription, max_messages=1, timeout=_PULL_SECONDS)
        except DeadlineExceeded:  # no message yet
            continue
        if response.received_messages:
            received = response.received_messages[0]
            subscriber.acknowledge(subscription=subscription, ack_ids=[received.ack_id], timeout=REQUEST_SECONDS)
            return received.message
    raise PipelineError(f"The message was published but not delivered within {_APPEAR_SECONDS:.0f} s.")


def _probe_objects(name: str, target: Target) -> Check:
    try:
        check_owner(target)
    except EcomflowError as error:
        return failed("an object", error)
    service = target.storage_service
    retry = storage_retry(service)

    def blob() -> Any:
        return target.bucket.blob(name)

    def work() -> str:
        with google_errors(service, f"bucket {target.settings.bucket_name}"):
            written = blob()
            written.upload_from_string(_TEXT, if_generation_match=0, timeout=REQUEST_SECONDS, retry=retry)
            if written.download_as_bytes(timeout=REQUEST_SECONDS, retry=retry) != _TEXT.encode():
                raise PipelineError("The object read differs from the object written.")
            if _overwrites(blob(), retry):
                raise PipelineError("An object was overwritten in spite of its precondition: dead letters could be lost.")
        return "An object was written, read, protected from overwriting, and deleted."

    def remove() -> None:
        with google_errors(service, f"object {name}"):
            blob().delete(timeout=REQUEST_SECONDS, retry=retry)

    return _attempt("an object", work, {f"object {name}": remove})


def _overwrites(blob: Any, retry: Any) -> bool:
    """Whether the object can be overwritten. Retries if the service throttles: it accepts one write per second to an object.

    https://cloud.google.com/storage/quotas#objects
    """
    try:
        blob.upload_from_string("other", if_generation_match=0, timeout=REQUEST_SECONDS, retry=retry)
    except PreconditionFailed:
        return False
    return True
