"""The source of the graph on Dataflow: a subscription in, MessageBatch out.

``ReadMessages`` is Beam's ReadFromPubSub, which Dataflow replaces with its own reader. That acknowledges a message when the first
fused stage, which here is the whole graph, has committed it.
https://cloud.google.com/dataflow/docs/concepts/streaming-with-cloud-pubsub
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.io.gcp.pubsub import ReadFromPubSub
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue
from google.pubsub_v1.types import PubsubMessage

from ecomflow.contract.events import Message
from ecomflow.pipeline.batches import MessageBatch
from ecomflow.pipeline.config import PipelineConfig
from ecomflow.pipeline.step import Step, StepFn

# The size of a batch on Dataflow, where the service chooses the bundles: it amortizes the cost of a step, and needs little RAM.
MESSAGES_PER_BATCH = 1_000
BYTES_PER_BATCH = 4_000_000

_WireMessage = type(PubsubMessage.pb(PubsubMessage()))


class ReadMessages(Step):
    """Batches of the subscription's messages, read by Dataflow.

    ``id_attribute`` names the attribute by which Dataflow recognises duplicates, ``timestamp_attribute`` the one with the event's
    time. If None, Dataflow uses Pub/Sub's message id and publish time.
    """

    def __init__(self, config: PipelineConfig, id_attribute: str | None, timestamp_attribute: str | None) -> None:
        super().__init__(config)
        self._read = _ReadSerialized(
            subscription=config.subscription_path,
            id_label=id_attribute,
            with_attributes=True,
            timestamp_attribute=timestamp_attribute,
        )

    def expand(self, root: Any) -> Any:
        return (
            root
            | "Subscribe" >> self._read
            | "Batch" >> beam.ParDo(_BatchFn(self._config, self.label)).with_output_types(MessageBatch)
        )


class _ReadSerialized(ReadFromPubSub):  # type: ignore[misc]
    """ReadFromPubSub whose messages stay bytes, as Dataflow passes them.

    Beam would make a proto-plus object of each, which takes 31 us; parsing the same bytes in ``message_of`` takes 3 us. The rest
    of the pipeline takes about 8 us per event.
    """

    def expand_continued(self, serialized: Any) -> Any:
        return serialized


class _BatchFn(StepFn):
    """Batches a bundle's messages. Nothing is kept beyond the bundle, or it would be acknowledged before it is written."""

    def start_bundle(self) -> None:
        self._begin()

    def process(self, serialized: bytes, timestamp: Timestamp = beam.DoFn.TimestampParam) -> Iterator[MessageBatch]:
        self._messages.append(message_of(serialized))
        self._bytes += len(serialized)
        self._timestamp = timestamp
        if len(self._messages) >= MESSAGES_PER_BATCH or self._bytes >= BYTES_PER_BATCH:
            yield self._take()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._messages:
            # As in ``process``, the time of its last message, because an output may not be earlier than its input.
            yield WindowedValue(self._take(), self._timestamp, (GlobalWindow(),))

    def _begin(self) -> None:
        self._messages: list[Message] = []
        self._bytes = 0

    def _take(self) -> MessageBatch:
        batch = MessageBatch(self._messages)
        self._counters.count_step(self._step, messages_out=len(self._messages))
        self._begin()
        return batch


def message_of(serialized: bytes) -> Message:
    """A serialized google.pubsub.v1.PubsubMessage as a Message; ``publish_time`` is 0 if Dataflow did not set it, and
    ``ordering_key`` empty.

    A missing message id is replaced by a random one. Without it the rows of different events would look like duplicates, and the
    unique views would show only one of them. Dataflow once set none: https://github.com/apache/beam/pull/8370
    """
    wire = _WireMessage.FromString(serialized)
    moment = wire.publish_time.seconds * 1_000_000 + wire.publish_time.nanos // 1000
    message_id = wire.message_id or f"unknown-{uuid.uuid4().hex}"
    return Message(wire.data, dict(wire.attributes), message_id, moment, wire.ordering_key)
