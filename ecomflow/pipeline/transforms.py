"""The steps that both runners share: message batches in; rows in BigQuery and dead letters in the bucket out.

Each PTransform applies the pure function or the writer that it is named for. Batches travel the edges; what a step refuses
travels on with its batch as a value, so that a stream is one line of steps, and one fused stage, from its decoding to its dead
letters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from ecomflow.pipeline import failures
from ecomflow.pipeline.batches import DeadLetterBatch, MessageBatch
from ecomflow.pipeline.bigquery_sink import RefusedRow, shared_writer, with_ingestion_time
from ecomflow.pipeline.config import PipelineConfig
from ecomflow.pipeline.counters import count, count_drift
from ecomflow.pipeline.deadletter_sink import shared_dead_letter_writer
from ecomflow.pipeline.decode import StreamBatch, decode_messages
from ecomflow.pipeline.model import FactBatch, TableRows, model_facts
from ecomflow.pipeline.repeats import seen_ids
from ecomflow.rejected import STREAMS, DeadLetter, dead_letter


def _now() -> datetime:
    return datetime.now(UTC)


class DecodeEvents(beam.PTransform):  # type: ignore[misc]  # Beam is untyped
    """MessageBatch to one output a stream of ``rejected.STREAMS``, each of StreamBatch."""

    def expand(self, batches: Any) -> Any:
        outputs = batches | "Decode" >> beam.ParDo(_DecodeFn()).with_outputs(*STREAMS)
        for stream in STREAMS:
            outputs[stream].element_type = StreamBatch
        return outputs


class _DecodeFn(beam.DoFn):  # type: ignore[misc]
    def process(self, batch: MessageBatch) -> Iterator[Any]:
        with failures.noted():
            decoded = decode_messages(batch.messages, _now())
            count("received", len(batch.messages))
            count_drift(decoded.drift)
            for stream, part in decoded.streams.items():
                count(f"decoded/{stream}", len(part.events))
                count("duplicates_seen", seen_ids.repeats_in(part.event_ids))
                yield beam.pvalue.TaggedOutput(stream, part)


class ModelFacts(beam.PTransform):  # type: ignore[misc]
    """StreamBatch to FactBatch: the rows of the stream's tables, and what breaks a rule as dead letters."""

    def expand(self, events: Any) -> Any:
        return events | "Model" >> beam.ParDo(_ModelFn()).with_output_types(FactBatch)


class _ModelFn(beam.DoFn):  # type: ignore[misc]
    def process(self, batch: StreamBatch) -> Iterator[FactBatch]:
        with failures.noted():
            yield model_facts(batch, _now())


class WriteFacts(beam.PTransform):  # type: ignore[misc]
    """FactBatch to BigQuery; DeadLetterBatch out: what was refused before, and what BigQuery refuses.

    Appends are sent as batches come and awaited together before the bundle ends, so that no message is acknowledged whose
    rows are not written.
    """

    def __init__(self, config: PipelineConfig) -> None:
        super().__init__()
        self._config = config

    def expand(self, facts: Any) -> Any:
        return facts | "Append" >> beam.ParDo(_WriteFactsFn(self._config)).with_output_types(DeadLetterBatch)


class _WriteFactsFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, config: PipelineConfig) -> None:
        self._config = config

    def start_bundle(self) -> None:
        self._started: list[tuple[FactBatch, TableRows, Any]] = []

    def process(self, batch: FactBatch) -> Iterator[DeadLetterBatch]:
        with failures.noted():
            now = _now()
            for part in batch.tables:
                writer = shared_writer(self._config, part.table)
                self._started.append((batch, part, writer.start(with_ingestion_time(part.rows, part.table, now))))
            if batch.refused:
                yield DeadLetterBatch(batch.stream, batch.refused)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        with failures.noted():
            refused: dict[int, tuple[FactBatch, list[tuple[TableRows, list[RefusedRow]]]]] = {}
            for batch, part, appends in self._started:
                rows = shared_writer(self._config, part.table).finish(appends)
                count(f"rows/{part.table}", part.rows.num_rows - len(rows))
                if rows:
                    refused.setdefault(id(batch), (batch, []))[1].append((part, rows))
            for batch, parts in refused.values():
                letters = refused_by_bigquery(batch, parts, _now())
                yield WindowedValue(DeadLetterBatch(batch.stream, letters), MIN_TIMESTAMP, (GlobalWindow(),))


def refused_by_bigquery(batch: FactBatch, parts: list[tuple[TableRows, list[RefusedRow]]], now: datetime) -> list[DeadLetter]:
    """One dead letter a message, however many of its rows were refused: each row's table and BigQuery's words."""
    errors: dict[int, list[str]] = {}
    for part, rows in parts:
        for row in rows:
            errors.setdefault(int(part.sources[row.row]), []).append(f"{part.table}: {row.error}")
    return [
        dead_letter(batch.messages[source], "rejected_by_bigquery", f"$: {'; '.join(words)}", batch.stream, now)
        for source, words in sorted(errors.items())
    ]


class WriteDeadLetters(beam.PTransform):  # type: ignore[misc]
    """DeadLetterBatch to the bucket: one object a batch, awaited before the bundle ends."""

    def __init__(self, config: PipelineConfig) -> None:
        super().__init__()
        self._config = config

    def expand(self, letters: Any) -> Any:
        return letters | "Upload" >> beam.ParDo(_WriteDeadLettersFn(self._config))


class _WriteDeadLettersFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, config: PipelineConfig) -> None:
        self._config = config

    def start_bundle(self) -> None:
        self._uploads: list[Any] = []

    def process(self, batch: DeadLetterBatch) -> None:
        with failures.noted():
            for reason, amount in Counter(letter.reason for letter in batch.letters).items():
                count(f"refused/{reason}", amount)
            self._uploads += shared_dead_letter_writer(self._config).start(batch.stream, batch.letters)

    def finish_bundle(self) -> None:
        with failures.noted():
            shared_dead_letter_writer(self._config).finish(self._uploads)


class RefuseEvents(beam.PTransform):  # type: ignore[misc]
    """StreamBatch of the unknown stream, which has no events, to its DeadLetterBatch."""

    def expand(self, unknown: Any) -> Any:
        return unknown | "Refuse" >> beam.Map(_refused_of).with_output_types(DeadLetterBatch)


def _refused_of(batch: StreamBatch) -> DeadLetterBatch:
    return DeadLetterBatch(batch.stream, batch.refused)
