"""Where the graph begins on Dataflow: a subscription in, MessageBatch out.

``ReadMessages`` is Beam's ReadFromPubSub, which Dataflow replaces with its own reader: that acknowledges a message when the
first fused stage, which here is the whole graph, has committed it.
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

# A batch on Dataflow, where the service chooses the bundles: large enough to spread the cost of a step, small beside a worker.
MESSAGES_PER_BATCH = 1_000
BYTES_PER_BATCH = 4_000_000

_WireMessage = type(PubsubMessage.pb(PubsubMessage()))


class ReadMessages(Step):
    """Batches of the subscription's messages, read by Dataflow.

    ``id_attribute`` names the attribute by which Dataflow recognises a repeat, ``timestamp_attribute`` the one that carries the
    event's time; None leaves them to Pub/Sub's message id and publish time.
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
    """ReadFromPubSub whose messages stay as the bytes that Dataflow hands over.

    Beam makes an object of proto-plus of each, which costs 31 us a message; reading the same bytes in ``message_of`` costs 3,
    against some 8 for all else that becomes of an event.
    """

    def expand_continued(self, serialized: Any) -> Any:
        return serialized


class _BatchFn(StepFn):
    """Gathers a bundle's messages. Nothing is held beyond the bundle, or it would be acknowledged before it is written."""

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
            # Like a batch out of process: the time of its last message, for an output may not lie before its input.
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
    """A serialized google.pubsub.v1.PubsubMessage as a Message; ``publish_time`` 0 where Dataflow gave none.

    A message id is made up where there is none, for without one the rows of unlike events would look like repeats: the unique
    views would show but one of them. Dataflow once gave none: https://github.com/apache/beam/pull/8370
    """
    wire = _WireMessage.FromString(serialized)
    moment = wire.publish_time.seconds * 1_000_000 + wire.publish_time.nanos // 1000
    return Message(wire.data, dict(wire.attributes), wire.message_id or f"unknown-{uuid.uuid4().hex}", moment)
