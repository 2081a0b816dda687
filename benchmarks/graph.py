"""Question 2: the Beam graph without I/O on FnApiRunner.

Subjects: ``ecomflow`` (its graph on batches, writers that take everything at once); ``per-element`` (the same pure functions
as one Map a step and an element); ``loop`` (a plain Python loop over the same pure functions).
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import fn_runner

from benchmarks.core import SHOP, decoded, modelled
from benchmarks.events import HELD, NOW, held, messages
from ecomflow.config import Endpoints
from ecomflow.contract.codec import TypedBatch
from ecomflow.contract.events import Message
from ecomflow.contract.modelling import Facts, model
from ecomflow.pipeline.batches import MessageBatch
from ecomflow.pipeline.config import PipelineConfig
from ecomflow.pipeline.graph import build_graph
from ecomflow.pipeline.ingestion import IngestionTimes
from ecomflow.pipeline.runtime import Runtime
from ecomflow.pipeline.sinks.bigquery import with_ingestion_time

BATCH = 10_000
CONFIG = PipelineConfig("bench-project", "projects/bench-project/subscriptions/s", "bucket", "dataset", Endpoints(), 30, SHOP)


class _TakesAll:
    """The writers of rows and of dead letters, done at once."""

    def writer(self, _: str) -> _TakesAll:
        return self

    def close(self) -> None:
        pass

    def start(self, *_: Any) -> list[Any]:
        return []

    def finish(self, *_: Any) -> list[Any]:
        return []


class _Batches(beam.PTransform):  # type: ignore[misc]
    """What is held, element by element."""

    def expand(self, root: Any) -> Any:
        made = root | beam.Create(range(len(HELD)), reshuffle=False) | beam.Map(held)
        made.element_type = MessageBatch
        return made


def ecomflow(events: list[Message]) -> None:
    HELD[:] = [MessageBatch(events[start : start + BATCH]) for start in range(0, len(events), BATCH)]
    pipeline = beam.Pipeline(runner=fn_runner.FnApiRunner(), options=PipelineOptions(["--no_auth"]))
    build_graph(pipeline, _Batches(), CONFIG)
    with Runtime(CONFIG, table_writers=lambda *_: _TakesAll(), dead_letter_writer=lambda *_: _TakesAll()):
        pipeline.run().wait_until_finish()


def per_element(events: list[Message]) -> None:
    """Each message through a Map a step: decode, model, one row batch a table, written one by one."""
    HELD[:] = events
    pipeline = beam.Pipeline(runner=fn_runner.FnApiRunner(), options=PipelineOptions(["--no_auth"]))
    (
        pipeline
        | beam.Create(range(len(HELD)), reshuffle=False)
        | "Read" >> beam.Map(held)
        | "Decode" >> beam.FlatMap(lambda message: decoded([message])).with_output_types(TypedBatch)
        | "Model" >> beam.Map(lambda part: model(part, NOW)).with_output_types(Facts)
        | "Write" >> beam.Map(_stamped)
    )
    pipeline.run().wait_until_finish()


def loop(events: list[Message]) -> None:
    for start in range(0, len(events), BATCH):
        for facts in modelled(events[start : start + BATCH]):
            _stamped(facts)


def _stamped(facts: Facts) -> int:
    ingested = IngestionTimes().of(facts.event_ids, NOW)
    return sum(with_ingestion_time(part.rows, ingested).num_rows for part in facts.tables)


# Enough of the streaming ones that the start of the run, a fifth of a second, does not count.
SUBJECTS = {"ecomflow": (ecomflow, 1_200_000), "per-element": (per_element, 20_000), "loop": (loop, 1_200_000)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--subject", choices=SUBJECTS, required=True)
    subject, count = SUBJECTS[parser.parse_args().subject]
    events = messages(30_000) * (count // 30_000) or messages(count)
    subject(events[:1000])
    began = time.perf_counter()
    subject(events)
    print(json.dumps({"rate": len(events) / (time.perf_counter() - began)}))


if __name__ == "__main__":
    main()
