"""Question 3's other way: what Beam itself offers for the same path, on the same services, until it is killed.

ReadFromPubSub, json, a row a dict, and WriteToBigQuery(STREAMING_INSERTS) for each table, on the bundle-based DirectRunner,
which is what streaming ran on locally before Prism, a Go binary that would have to be downloaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import apache_beam as beam
import google.auth
from apache_beam.io.gcp.bigquery import BigQueryDisposition, WriteToBigQuery
from apache_beam.io.gcp.pubsub import PubsubMessage, ReadFromPubSub
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import TaggedOutput
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from google.auth.credentials import AnonymousCredentials

from benchmarks.core import SCHEMAS
from ecomflow.config import Settings, load_settings, running_endpoints

# Ecomflow's columns, but for what it keeps of fields that no contract names.
COLUMNS = {table: [name for name in schema.names if name != "unknown_fields"] for table, schema in SCHEMAS.items()}


def main() -> None:
    settings = load_settings({})
    endpoints = running_endpoints(settings)
    os.environ["PUBSUB_EMULATOR_HOST"] = str(endpoints.pubsub)
    os.environ["BIGQUERY_EMULATOR_HOST"] = str(endpoints.bigquery)
    # Without an account Beam would look for one for 23 seconds, and Google's clients would not start.
    google.auth.default = lambda *_, **__: (AnonymousCredentials(), settings.project_id)
    options = PipelineOptions(["--streaming", "--no_auth", f"--project={settings.project_id}"])
    pipeline = beam.Pipeline(runner=BundleBasedDirectRunner(), options=options)
    build(pipeline, settings)
    pipeline.run().wait_until_finish()


def build(pipeline: beam.Pipeline, settings: Settings) -> None:
    read = ReadFromPubSub(subscription=settings.subscription_path, with_attributes=True)
    rows = pipeline | read | beam.FlatMap(rows_of).with_outputs(*COLUMNS)
    for table in COLUMNS:
        rows[table] | table >> WriteToBigQuery(
            f"{settings.project_id}:{settings.dataset}.{table}",
            method=WriteToBigQuery.Method.STREAMING_INSERTS,
            create_disposition=BigQueryDisposition.CREATE_NEVER,
            write_disposition=BigQueryDisposition.WRITE_APPEND,
        )


def rows_of(message: PubsubMessage) -> Iterator[TaggedOutput]:
    """The rows of an event, tagged with their table."""
    body = json.loads(message.data, parse_float=Decimal)
    event_id = message.attributes["event_id"]
    ingested = datetime.now(UTC).isoformat()
    if body["event_type"] == "order":
        yield from _order_rows(body, event_id, ingested)
        return
    moment = datetime.fromisoformat(body.pop("timestamp")).astimezone(UTC)
    table = f"fact_{body.pop('event_type')}"
    row = {**body, **body.pop("metadata", {}), "event_id": event_id, "ingestion_timestamp": ingested, **_times("event", moment)}
    yield TaggedOutput(table, {name: row.get(name) for name in COLUMNS[table]})


def _order_rows(body: dict[str, Any], event_id: str, ingested: str) -> Iterator[TaggedOutput]:
    moment = datetime.fromisoformat(body["order_date"]).astimezone(UTC)
    address = {f"shipping_address_{name}": value for name, value in body["shipping_address"].items()}
    whole = {**body, **address, **_times("order", moment), "event_id": event_id, "ingestion_timestamp": ingested}
    yield _tagged("fact_order_header", {**whole, "total_amount": str(body["total_amount"])})
    for number, item in enumerate(body["items"], start=1):
        line = {**whole, **item, "line_number": number, "price": str(item["price"])}
        line |= {"total_amount": str(item["price"] * item["quantity"]), "order_total_amount": str(body["total_amount"])}
        yield _tagged("fact_order_item", line)
        yield _tagged("fact_order", line)


def _tagged(table: str, row: dict[str, Any]) -> TaggedOutput:
    return TaggedOutput(table, {name: row.get(name) for name in COLUMNS[table]})


def _times(kind: str, moment: datetime) -> dict[str, str]:
    return {f"{kind}_date": moment.date().isoformat(), f"{kind}_timestamp": moment.isoformat()}


if __name__ == "__main__":
    main()
