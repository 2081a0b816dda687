"""A local BigQuery for tests, in a process of its own, with Google's clients and Arrow batches for one table."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
from google.cloud.bigquery_storage_v1 import types

from ecomflow.config import LOCAL_PROJECT, Endpoints
from ecomflow.gcp.clients import append_rows, bigquery_client, bigquery_write_client
from ecomflow.local.probes import answers
from ecomflow.processes.detached import Identity, find, free_port, spawn, stop

DDL = """CREATE TABLE IF NOT EXISTS shop.{table} (
  event_id STRING NOT NULL OPTIONS(description='The event.'),
  quantity INT64 NOT NULL,
  price NUMERIC,
  day DATE NOT NULL,
  sold_at TIMESTAMP NOT NULL,
  ingestion_timestamp TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP()
)
PARTITION BY day
CLUSTER BY event_id, quantity
OPTIONS(description='Sales.', labels=[('team', 'shop')])"""

NOON = datetime(2025, 12, 1, 12, tzinfo=UTC)


class LocalBigQuery:
    """A running server: ``query`` returns rows as tuples, ``append`` the answers to AppendRows requests."""

    def __init__(self, ports: tuple[int, int], identity: Identity, log: Path) -> None:
        self.identity = identity
        self.log = log
        self.endpoints = Endpoints(bigquery=f"http://127.0.0.1:{ports[0]}", bigquery_storage=f"127.0.0.1:{ports[1]}")
        self.client = bigquery_client(LOCAL_PROJECT, self.endpoints)
        self.client.create_dataset("shop", exists_ok=True)
        self.writer = bigquery_write_client(self.endpoints)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in self.client.query(sql).result(timeout=20)]

    def make_table(self, table: str) -> None:
        self.query(DDL.format(table=table))

    def append(self, *requests: types.AppendRowsRequest) -> list[types.AppendRowsResponse]:
        return list(self.appended(iter(requests), requests[0].write_stream))

    def appended(self, requests: Iterator[types.AppendRowsRequest], write_stream: str) -> Iterable[types.AppendRowsResponse]:
        """The answers to ``requests``, one after another, on one connection that is routed by ``write_stream``."""
        return append_rows(self.writer, write_stream, requests)


@contextlib.contextmanager
def local_bigquery(data_dir: Path) -> Iterator[LocalBigQuery]:
    ports, log = (free_port(), free_port()), data_dir.parent / "bigquery.log"
    options = ["--http-port", str(ports[0]), "--grpc-port", str(ports[1]), "--data-dir", str(data_dir)]
    identity = spawn([sys.executable, "-m", "ecomflow.local.bigquery", *options], log, data_dir.parent)
    try:
        deadline = time.monotonic() + 30
        while not answers("bigquery", ports, 2.0):
            assert find(identity), log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield LocalBigQuery(ports, identity, log)
    finally:
        stop([identity], 10.0)


def batch(ids: Iterable[str | None], zone: str | None = "UTC") -> pa.RecordBatch:
    """A row for each event id, timestamps with or without a zone."""
    names = list(ids)
    count = len(names)
    timestamp = pa.timestamp("us", zone)
    return pa.record_batch(
        {
            "event_id": pa.array(names, pa.string()),
            "quantity": pa.array([2] * count, pa.int64()),
            "price": pa.array([Decimal("1.234567891")] * count, pa.decimal128(38, 9)),
            "day": pa.array([date(2025, 12, 1)] * count, pa.date32()),
            "sold_at": pa.array([NOON] * count, pa.timestamp("us", "UTC")).cast(timestamp),
            "ingestion_timestamp": pa.array([NOON] * count, pa.timestamp("us", "UTC")).cast(timestamp),
        }
    )


def stream_of(table: str) -> str:
    """The default stream of ``table``."""
    return f"projects/{LOCAL_PROJECT}/datasets/shop/tables/{table}/streams/_default"


def request(rows: pa.RecordBatch, table: str | None = None, *, schema: bool = True) -> types.AppendRowsRequest:
    """An append of ``rows`` to the default stream of ``table``; None: to the connection's."""
    made = types.AppendRowsRequest()
    if table is not None:
        made.write_stream = stream_of(table)
    if schema:
        made.arrow_rows.writer_schema.serialized_schema = rows.schema.serialize().to_pybytes()
    made.arrow_rows.rows.serialized_record_batch = rows.serialize().to_pybytes()
    return made
