"""The steps that both runners share: message batches in; rows in BigQuery and dead letters in the bucket out.

Each PTransform applies the pure function or the writer after which it is named. The elements are batches. What a step refuses
stays in its batch as a value, so that a stream is one sequence of steps, and one fused stage, from decoding to dead letters. The
messages in, out and refused of a step are counted under its label in the graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from ecomflow.contract.codec import DecodedBatch, TypedBatch, portions
from ecomflow.contract.columns import TableRows
from ecomflow.contract.dead_letter import UNKNOWN_STREAM, DeadLetter, dead_letter
from ecomflow.contract.events import Message
from ecomflow.contract.modelling import Facts
from ecomflow.pipeline.batches import DeadLetterBatch, MessageBatch
from ecomflow.pipeline.quarantine import (
    Failure,
    decoded_parts,
    failed_letter,
    halves_of_letters,
    halves_of_rows,
    isolate,
    modelled_parts,
    replace_letter,
    without_sources,
)
from ecomflow.pipeline.sinks.bigquery import RefusedRow, with_ingestion_time
from ecomflow.pipeline.step import Step, StepFn

# How much is under way to BigQuery before a bundle waits for it. A bundle of a shop's events stays far below.
MAX_BYTES_IN_FLIGHT = 128 * 2**20
# How many of a message's refused rows its dead letter quotes.
MAX_ROW_ERRORS = 10


class DecodeEvents(Step):
    """MessageBatch to one output a stream, each of TypedBatch: the event types, and ``unknown``."""

    def expand(self, batches: Any) -> Any:
        streams = (*self._config.event_streams, UNKNOWN_STREAM)
        outputs = batches | "Decode" >> beam.ParDo(_DecodeFn(self._config, self.label)).with_outputs(*streams)
        for stream in streams:
            outputs[stream].element_type = TypedBatch
        return outputs


class _DecodeFn(StepFn):
    def start_bundle(self) -> None:
        self._is_empty = True

    def process(self, batch: MessageBatch) -> Iterator[Any]:
        with self._runtime.failure.noted():
            now = self._runtime.now()
            self._is_empty = False
            for messages in portions(batch.messages):
                self._counters.count("received", len(messages))
                self._counters.count_step(self._step, messages_in=len(messages))
                yield from self._outputs(messages, now)

    def finish_bundle(self) -> None:
        self._counters.count("bundles", 0 if self._is_empty else 1)

    def _outputs(self, messages: list[Message], now: datetime) -> Iterator[Any]:
        for decoded in decoded_parts(self._runtime.codec, messages, now):
            self._counters.count_drift(decoded.drift)
            refused = _refused_here(decoded)
            self._counters.count_step(self._step, messages_out=_messages_in(decoded) - refused.total(), refused=refused)
            for part in decoded.parts:
                self._counters.count(f"decoded/{part.stream}", len(part.events))
                self._counters.count("duplicates_seen", self._runtime.seen_ids.repeats_in(part.event_ids))
                yield beam.pvalue.TaggedOutput(part.stream, part)


def _messages_in(decoded: DecodedBatch) -> int:
    return sum(len(part.events) + len(part.refused) for part in decoded.parts)


def _refused_here(decoded: DecodedBatch) -> Counter[str]:
    """What decoding refuses itself, by reason: what is of no known type has a step of its own for that."""
    return _reasons(letter for part in decoded.parts if part.stream != UNKNOWN_STREAM for letter in part.refused)


def _reasons(letters: Iterable[DeadLetter]) -> Counter[str]:
    return Counter(letter.reason for letter in letters)


class ModelFacts(Step):
    """TypedBatch to Facts: the rows of the stream's tables, and what breaks a rule as dead letters."""

    def expand(self, events: Any) -> Any:
        return events | "Model" >> beam.ParDo(_ModelFn(self._config, self.label)).with_output_types(Facts)


class _ModelFn(StepFn):
    def process(self, batch: TypedBatch) -> Iterator[Facts]:
        with self._runtime.failure.noted():
            now = self._runtime.now()
            self._counters.count_step(self._step, messages_in=len(batch.events))
            modelled, refused = 0, Counter[str]()
            for facts in modelled_parts(self._runtime.codec.restored(batch), now):
                for rule, times in facts.rules_broken.items():
                    self._counters.count(f"rules_broken/{batch.stream}/{rule}", times)
                modelled += len(facts.messages)
                refused += _reasons(facts.refused)
                yield facts
            self._counters.count_step(self._step, messages_out=modelled, refused=refused - _reasons(batch.refused))


class WriteFacts(Step):
    """Facts to BigQuery; DeadLetterBatch out: what was refused before, and what BigQuery refuses.

    Appends are sent as batches come and awaited together before the bundle ends, so that no message is acknowledged whose
    rows are not written.
    """

    def expand(self, facts: Any) -> Any:
        return facts | "Append" >> beam.ParDo(_WriteFactsFn(self._config, self.label)).with_output_types(DeadLetterBatch)


class _Writing:
    """A batch on its way: when it is ingested (one time, or one a message), what was sent, and which of its messages can't be, by
    their index in it.
    """

    def __init__(self, batch: Facts, ingested: Any) -> None:
        self.batch = batch
        self.ingested = ingested
        self.sent: list[tuple[TableRows, Any]] = []
        self.refused: list[tuple[TableRows, list[RefusedRow]]] = []
        self.failed: dict[int, Failure] = {}


class _WriteFactsFn(StepFn):
    def start_bundle(self) -> None:
        self._begin()

    def process(self, batch: Facts) -> Iterator[DeadLetterBatch]:
        with self._runtime.failure.noted():
            self._counters.count_step(self._step, messages_in=len(batch.messages))
            writing = _Writing(batch, self._runtime.ingestion_times.of(batch.event_ids, self._runtime.now()))
            self._writings.append(writing)
            for part in batch.tables:
                self._send(writing, part)
            if batch.refused:
                yield DeadLetterBatch(batch.stream, batch.refused)
            if self._bytes_in_flight > MAX_BYTES_IN_FLIGHT:
                yield from self._await_writes()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        with self._runtime.failure.noted():
            for letters in self._await_writes():
                yield WindowedValue(letters, MIN_TIMESTAMP, (GlobalWindow(),))

    def _begin(self) -> None:
        self._writings: list[_Writing] = []
        self._bytes_in_flight = 0

    def _send(self, writing: _Writing, part: TableRows) -> None:
        """Begin to append ``part``, without the messages that failed at an earlier table."""
        part = without_sources(part, set(writing.failed))
        for sent in isolate(part, lambda piece: (piece, self._start(writing, piece)), halves_of_rows, _rows_failed):
            if isinstance(sent[1], Failure):
                writing.failed[int(sent[0].sources[0])] = sent[1]
            else:
                writing.sent.append(sent)
                self._bytes_in_flight += sent[0].rows.get_total_buffer_size()

    def _start(self, writing: _Writing, part: TableRows) -> Any:
        times = writing.ingested
        rows = with_ingestion_time(part.rows, times if isinstance(times, int) else times[part.sources])
        return self._runtime.table_writer(part.table).start(rows, part.sources)

    def _await_writes(self) -> Iterator[DeadLetterBatch]:
        """Wait until all that was sent is written or refused; what is refused, a batch of letters a batch of facts."""
        writings = self._writings
        self._begin()
        for writing in writings:
            for part, appends in writing.sent:
                self._finish(writing, part, appends)
            letters = _letters_of(writing, self._runtime.now())
            self._count(writing, letters)
            if letters:
                yield DeadLetterBatch(writing.batch.stream, letters)

    def _finish(self, writing: _Writing, part: TableRows, appends: Any) -> None:
        """Wait for ``appends`` of ``part``. Where the waiting itself raises, parts of it are sent once more: at least once."""
        begun = [appends]

        def finish(piece: TableRows) -> tuple[TableRows, Any]:
            return piece, self._runtime.table_writer(piece.table).finish(begun.pop() if begun else self._start(writing, piece))

        for piece, rows in isolate(part, finish, halves_of_rows, _rows_failed):
            if isinstance(rows, Failure):
                writing.failed.setdefault(int(piece.sources[0]), rows)
                continue
            self._counters.appended(piece.table, _rows_written(piece, rows))
            if rows:
                writing.refused.append((piece, rows))

    def _count(self, writing: _Writing, letters: list[DeadLetter]) -> None:
        """Count what is written and what is not, and how long the written messages took."""
        refused = _refused_sources(writing)
        published = np.fromiter([message.publish_time for message in writing.batch.messages], np.int64)
        written = np.delete(published, list(refused)) if refused else published
        self._counters.count_step(self._step, messages_out=len(written), refused=_reasons(letters))
        self._counters.count_latency(written, self._runtime.now().timestamp())


def _rows_failed(part: TableRows, failure: Failure) -> tuple[TableRows, Any]:
    return part, failure


def _rows_written(part: TableRows, refused: list[RefusedRow]) -> int:
    """How many rows of ``part`` are in BigQuery: none of an event of which one is refused."""
    if not refused:
        return int(part.rows.num_rows)
    return int(np.count_nonzero(~np.isin(part.sources, part.sources[[row.row for row in refused]])))


def _refused_sources(writing: _Writing) -> set[int]:
    """The messages, by their index in the batch, that are not written."""
    return set(writing.failed).union(int(part.sources[row.row]) for part, rows in writing.refused for row in rows)


def _letters_of(writing: _Writing, now: datetime) -> list[DeadLetter]:
    """One dead letter a message: of the step's own failure where there was one, else in BigQuery's words."""
    batch, failed = writing.batch, writing.failed
    letters = [
        failed_letter(batch.messages[source], "write", failed[source], batch.stream, now, batch.event_ids[source])
        for source in sorted(failed)
    ]
    others = [(part, [row for row in rows if int(part.sources[row.row]) not in failed]) for part, rows in writing.refused]
    return letters + refused_by_bigquery(batch, others, now)


def refused_by_bigquery(batch: Facts, parts: list[tuple[TableRows, list[RefusedRow]]], now: datetime) -> list[DeadLetter]:
    """One dead letter a message, however many of its rows were refused: the table and BigQuery's words of the first of them."""
    errors: dict[int, list[str]] = {}
    for part, rows in parts:
        for row in rows:
            errors.setdefault(int(part.sources[row.row]), []).append(f"{part.table}: {row.error}")
    return [
        dead_letter(
            batch.messages[source],
            "rejected_by_bigquery",
            _sentence(words),
            batch.stream,
            now,
            event_id=batch.event_ids[source],
        )
        for source, words in sorted(errors.items())
    ]


def _sentence(words: list[str]) -> str:
    more = len(words) - MAX_ROW_ERRORS
    return f"$: {'; '.join(words[:MAX_ROW_ERRORS])}" + (f"; and {more} more rows" if more > 0 else "")


class WriteDeadLetters(Step):
    """DeadLetterBatch to the bucket: one object a batch, awaited before the bundle ends."""

    def expand(self, letters: Any) -> Any:
        return letters | "Upload" >> beam.ParDo(_WriteDeadLettersFn(self._config, self.label))


class _WriteDeadLettersFn(StepFn):
    def start_bundle(self) -> None:
        self._uploads: list[Any] = []
        self._letters = 0

    def process(self, batch: DeadLetterBatch) -> None:
        with self._runtime.failure.noted():
            self._counters.count_step(self._step, messages_in=len(batch.letters))
            self._letters += len(batch.letters)
            for letters, uploads in isolate(
                batch.letters,
                lambda part: self._start(batch.stream, part),
                halves_of_letters,
                lambda part, failure: self._start(batch.stream, [replace_letter(letter, failure) for letter in part]),
            ):
                for reason, amount in _reasons(letters).items():
                    self._counters.count(f"refused/{reason}", amount)
                self._uploads += uploads

    def _start(self, stream: str, letters: list[DeadLetter]) -> tuple[list[DeadLetter], list[Any]]:
        return letters, self._runtime.dead_letter_writer.start(stream, letters)

    def finish_bundle(self) -> None:
        with self._runtime.failure.noted():
            self._runtime.dead_letter_writer.finish(self._uploads)
            self._counters.count_step(self._step, messages_out=self._letters)


class RefuseEvents(Step):
    """TypedBatch of the unknown stream, which has no events, to its DeadLetterBatch."""

    def expand(self, unknown: Any) -> Any:
        return unknown | "Refuse" >> beam.ParDo(_RefuseFn(self._config, self.label)).with_output_types(DeadLetterBatch)


class _RefuseFn(StepFn):
    def process(self, batch: TypedBatch) -> Iterator[DeadLetterBatch]:
        self._counters.count_step(self._step, messages_in=len(batch.refused), refused=_reasons(batch.refused))
        yield DeadLetterBatch(batch.stream, batch.refused)
