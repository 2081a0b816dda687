"""Question 9: the load of a million mixed events on Dataflow and BigQuery, calculated without an account.

Subjects: ``ecomflow`` (the graph that ``deploy`` submits) and ``write-to-bigquery`` (``beams_own.py``: ReadFromPubSub, a row a
dict, and Beam's WriteToBigQuery with STREAMING_INSERTS for each of the five tables). Without a subject it prints both as a table,
and below it what retention of a million events costs (``kept.py``).
A sample of EVENTS generated events, a third of each type, is measured and scaled to a million; bytes are in GB (10^9).

How each metric is calculated (HOW has it by the metric's name):

- ``shuffles``: GroupByKeys, stateful steps and side inputs in the pipeline's protobuf, with Beam's composites expanded.
- ``shuffled``: every element of the sample that reaches a GroupByKey, encoded by the coder which the pipeline gives that edge.
  What Dataflow adds (windows, its own framing) is left out, and a byte counts once, though it is written and read.
- ``read``: the messages as Pub/Sub counts them: data, attributes, 20 bytes of time and 16 of id. In exactly-once mode Dataflow
  recognises repeats by ``event_id`` within its own read, for both subjects alike: what that moves is not known here.
- ``streaming_engine``: read and shuffled together.
- ``sent``: to BigQuery. Ours: the serialized Arrow batches. Beam's: the bodies of the insertAll requests that Google's client
  really posted, to a listener on loopback that takes every row.
- ``rows``: rows of the five tables, alike for both; for Beam's those that were posted.
- ``billed``: rows by BigQuery's sizes of types (STRING 2 and its UTF-8 bytes, INT64, DATE, TIMESTAMP 8, NUMERIC 16:
  https://cloud.google.com/bigquery/pricing#data); insertAll counts at least 1,000 bytes per row.
- ``requests``: for bundles of BUNDLE messages (Dataflow's own choice is not known), each of which ends with a request for each
  table that it has rows of. Ours hold up to 9 MB, Beam's as many rows as the largest that it posted.
- ``dollars``: list prices of docs/dataflow.md for the Streaming Engine and the Storage Write API; for insertAll $0.01 per 200 MB
  (https://cloud.google.com/bigquery/pricing, an archived copy without a date). What is alike is left out: Pub/Sub, the workers.
"""

from __future__ import annotations

import argparse
import http.server
import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import apache_beam as beam
import google.auth
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam import coders
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from google.auth.credentials import AnonymousCredentials

from benchmarks import beams_own, kept
from benchmarks.core import modelled
from benchmarks.events import HELD, NOW, held, messages
from ecomflow.config import Endpoints, Settings
from ecomflow.contract.events import Message
from ecomflow.gcp.target import Target
from ecomflow.pipeline.dataflow.submit import ReadMessages, worker_config
from ecomflow.pipeline.graph import build_graph
from ecomflow.pipeline.ingestion import IngestionTimes
from ecomflow.pipeline.sinks.bigquery import MAX_REQUEST_BYTES, with_ingestion_time

EVENTS = 6_000
BUNDLE = 1_000
MILLION = 1_000_000
SETTINGS = Settings(project="my-project")

# https://cloud.google.com/pubsub/pricing: a message's publish time, and its id of 16 digits.
_ID_AND_TIME = 20 + 16
# Dollars: docs/dataflow.md, and insertAll's as the docstring has it.
_STREAMING_ENGINE_GIB, _STORAGE_WRITE_GIB, _INSERT_ALL_200_MB = 0.018, 0.025, 0.01
_INSERT_ALL_LEAST = 1_000

_SIZES = {pa.int64(): 8, pa.date32(): 8, pa.timestamp("us", "UTC"): 8, pa.decimal128(38, 9): 16}

HOW = {
    "shuffles": "GroupByKeys, stateful steps and side inputs in the pipeline's protobuf",
    "shuffled": "elements that reach a GroupByKey, by their coder",
    "read": "messages as Pub/Sub counts them",
    "streaming_engine": "read + shuffled",
    "sent": "Arrow batches; bodies of the insertAll requests posted",
    "rows": "rows of the five tables",
    "billed": "rows as BigQuery counts them, at least 1,000 bytes each for insertAll",
    "requests": f"for bundles of {BUNDLE:,} messages",
    "dollars": "list prices: Streaming Engine and rows written",
}


def ecomflow(sample: list[Message]) -> dict[str, float]:
    tables = [rows for part in _bundles(sample) for rows in _tables_of(part)]
    pipeline = beam.Pipeline(options=_options("--streaming"))
    config = worker_config(Target(SETTINGS, Endpoints()))
    build_graph(pipeline, ReadMessages(config, "event_id", None), config)
    sent = sum(rows.serialize().size for rows in tables)
    billed = sum(_sizes(rows) for rows in tables)
    return {
        "shuffles": len(_shuffles(pipeline)),
        "shuffled": 0,  # where there were a shuffle, ``calculate`` would refuse
        "read": _read(sample),
        "sent": sent,
        "rows": sum(rows.num_rows for rows in tables),
        "billed": billed,
        "requests": sum(-(-rows.nbytes // MAX_REQUEST_BYTES) for rows in tables),
        "price": billed / 2**30 * _STORAGE_WRITE_GIB,
    }


def write_to_bigquery(sample: list[Message]) -> dict[str, float]:
    pipeline = beam.Pipeline(options=_options("--streaming"))
    beams_own.build(pipeline, SETTINGS)
    with _warehouse() as posted:
        shuffled = _run_measured(sample)
    tables, per_request = [rows for part in _bundles(sample) for rows in _tables_of(part)], max(rows for _, rows in posted)
    billed = sum(max(_sizes(rows.slice(at, 1)), _INSERT_ALL_LEAST) for rows in tables for at in range(rows.num_rows))
    return {
        "shuffles": len(_shuffles(pipeline)),
        "shuffled": shuffled,
        "read": _read(sample),
        "sent": sum(size for size, _ in posted),
        "rows": sum(rows for _, rows in posted),
        "billed": billed,
        "requests": sum(-(-rows.num_rows // per_request) for rows in tables),
        "price": billed / 200e6 * _INSERT_ALL_200_MB,
    }


def _tables_of(sample: list[Message]) -> list[pa.RecordBatch]:
    """The rows that our sink appends for ``sample``: a batch for each table."""
    times = IngestionTimes()
    return [
        with_ingestion_time(one.rows, ingested)
        for facts in modelled(sample)
        for ingested in [times.of(facts.event_ids, NOW)]
        for one in facts.tables
    ]


def _bundles(sample: list[Message]) -> list[list[Message]]:
    return [sample[start : start + BUNDLE] for start in range(0, len(sample), BUNDLE)]


def _shuffles(pipeline: beam.Pipeline) -> list[str]:
    """The names of the steps that make a runner move data between workers."""
    found = []
    for step in pipeline.to_runner_api().components.transforms.values():
        if step.spec.urn == common_urns.primitives.GROUP_BY_KEY.urn:
            found.append(step.unique_name)
        if step.spec.urn == common_urns.primitives.PAR_DO.urn:
            payload = beam_runner_api_pb2.ParDoPayload.FromString(step.spec.payload)
            if payload.side_inputs or payload.state_specs or payload.timer_family_specs:
                found.append(step.unique_name)
    return found


class _Held(beam.PTransform):  # type: ignore[misc]
    """The sample in the place of the read."""

    def expand(self, root: Any) -> Any:
        return root | beam.Create(range(len(HELD)), reshuffle=False) | beam.Map(held)


class _Measure(beam.DoFn):  # type: ignore[misc]
    """Counts the bytes of its elements as ``coder`` encodes them."""

    def __init__(self, coder: coders.Coder) -> None:
        self._coder, self._bytes = coder, Metrics.counter("cost", "shuffled")

    def process(self, element: Any) -> None:
        self._bytes.inc(len(self._coder.encode(element)))


def _run_measured(sample: list[Message]) -> int:
    """Runs Beam's own graph on ``sample``; the bytes that reach its GroupByKeys."""
    HELD[:] = [PubsubMessage(message.data, message.attributes) for message in sample]
    pipeline = beam.Pipeline(runner=fn_runner.FnApiRunner(), options=_options())
    read, beams_own.ReadFromPubSub = beams_own.ReadFromPubSub, lambda **_: _Held()
    try:
        beams_own.build(pipeline, SETTINGS)
    finally:
        beams_own.ReadFromPubSub = read
    for number, edge in enumerate(_into_group_by_keys(pipeline)):
        edge | f"Measure {number}" >> beam.ParDo(_Measure(coders.registry.get_coder(edge.element_type)))
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(beam.metrics.MetricsFilter().with_name("shuffled"))["counters"]
    return sum(counter.committed for counter in counters)


def _into_group_by_keys(pipeline: beam.Pipeline) -> list[Any]:
    edges: list[Any] = []

    class Visitor(beam.pipeline.PipelineVisitor):  # type: ignore[misc]
        def visit_transform(self, node: Any) -> None:
            if isinstance(node.transform, beam.GroupByKey):
                edges.extend(node.inputs)

    pipeline.visit(Visitor())
    return edges


@contextmanager
def _warehouse() -> Iterator[list[tuple[int, int]]]:
    """A BigQuery that has every table and takes every row; yields the bytes and rows of each insertAll that was posted."""
    posted: list[tuple[int, int]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply({"tableReference": {"projectId": "p", "datasetId": "d", "tableId": "t"}, "schema": {"fields": []}})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((len(body), len(json.loads(body)["rows"])))
            self._reply({"kind": "bigquery#tableDataInsertAllResponse"})

        def _reply(self, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = {"BIGQUERY_EMULATOR_HOST": f"http://127.0.0.1:{server.server_port}"}
    signed_in = (AnonymousCredentials(), SETTINGS.project)  # without an account Beam would look for one for 23 seconds
    try:
        with mock.patch.dict(os.environ, host), mock.patch.object(google.auth, "default", return_value=signed_in):
            yield posted
    finally:
        server.shutdown()
        server.server_close()


def _read(sample: list[Message]) -> int:
    attributes = sum(len(name.encode()) + len(value.encode()) for one in sample for name, value in one.attributes.items())
    return sum(len(one.data) + _ID_AND_TIME for one in sample) + attributes


def _sizes(rows: pa.RecordBatch) -> int:
    """The bytes of ``rows`` as BigQuery counts them; NULL has none."""
    return sum(
        2 * (len(column) - column.null_count) + (pc.sum(pc.binary_length(column)).as_py() or 0)
        if pa.types.is_string(column.type)
        else _SIZES[column.type] * (len(column) - column.null_count)
        for column in rows.columns
    )


def _options(*more: str) -> PipelineOptions:
    return PipelineOptions(["--no_auth", f"--project={SETTINGS.project}", *more])


def calculate(name: str) -> dict[str, float]:
    """The metrics of a subject per million events."""
    found = SUBJECTS[name](messages(EVENTS))
    if not found["shuffled"] and found["shuffles"]:
        raise RuntimeError(f"The graph shuffles, but no bytes were counted: {found}")
    whole = {key: value if key == "shuffles" else value * MILLION / EVENTS for key, value in found.items()}
    whole["streaming_engine"] = whole["read"] + whole["shuffled"]
    whole["dollars"] = whole["streaming_engine"] / 2**30 * _STREAMING_ENGINE_GIB + whole.pop("price")
    return {key: round(whole[key], 4) for key in HOW}


SUBJECTS = {"ecomflow": ecomflow, "write-to-bigquery": write_to_bigquery}


def table(metrics: dict[str, dict[str, float]]) -> str:
    """Markdown: a row for each metric, the subjects side by side."""
    lines = [f"| per million events | {' | '.join(metrics)} | how |", "| --- |" + " --- |" * (len(metrics) + 1)]
    for key, how in HOW.items():
        values = " | ".join(_shown(key, found[key]) for found in metrics.values())
        lines.append(f"| {key.replace('_', ' ')} | {values} | {how} |")
    return "\n".join(lines)


def gib(metrics: dict[str, float]) -> float:
    """The size of a million events as Pub/Sub counts them, to three digits."""
    return round(metrics["read"] / 2**30, 3)


def _shown(key: str, value: float) -> str:
    if key == "dollars":
        return f"${value:.3f}"
    return f"{value:,.0f}" if key in ("shuffles", "rows", "requests") else f"{value / 1e9:.3f} GB"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--subject", choices=SUBJECTS, help="one, as JSON; default: both, as a table")
    name = parser.parse_args().subject
    logging.disable(logging.CRITICAL)
    if name:
        print(json.dumps(calculate(name)))
        return
    metrics = {name: calculate(name) for name in SUBJECTS}
    print(table(metrics), kept.table(kept.kept(SETTINGS, gib(metrics["ecomflow"]))), sep="\n\n")


if __name__ == "__main__":
    main()
