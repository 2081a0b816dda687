"""Dataflow's source: serialized messages in, batches out at the end of each bundle; and what a worker needs of every step."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.coders import registry
from apache_beam.internal import cloudpickle_pickler
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import PipelineVisitor
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp

from ecomflow.config import Endpoints
from ecomflow.contract.events import Message
from ecomflow.pipeline.batches import BatchCoder, MessageBatch
from ecomflow.pipeline.dataflow import source
from ecomflow.pipeline.dataflow.source import ReadMessages, message_of
from ecomflow.pipeline.graph import build_graph
from tests.support.pipeline import PUBLISHED, config_for, message


def wire(data: bytes, attributes: dict[str, str] | None = None, message_id: str = "m-1", ordering_key: str = "") -> bytes:
    """A message as Dataflow hands it over."""
    published = datetime.fromtimestamp(PUBLISHED / 1e6, UTC)
    serialized: bytes = PubsubMessage(data, attributes or {}, message_id, published, ordering_key)._to_proto_str()
    return serialized


class TestMessageOf:
    def test_all_that_a_message_carries(self) -> None:
        """Bytes, attributes, id and the publish time in microseconds come as the local engine gives them."""
        assert message_of(wire(b'{"a": 1}', {"event_id": "e-1"})) == Message(b'{"a": 1}', {"event_id": "e-1"}, "m-1", PUBLISHED)

    def test_an_ordering_key(self) -> None:
        """Where Dataflow hands one over, its dead letter has it."""
        assert message_of(wire(b"x", ordering_key="O-1")).ordering_key == "O-1"

    def test_bytes_that_are_no_text(self) -> None:
        """Data is never decoded here."""
        assert message_of(wire(b"\xff\x00")).data == b"\xff\x00"

    def test_a_message_without_id_or_time(self) -> None:
        """Where Dataflow gives no id one is made up, so that two events without any stay two; the time is unknown."""
        serialized = PubsubMessage(b"x", {})._to_proto_str(for_publish=True)
        one, two = message_of(serialized), message_of(serialized)
        assert one.publish_time == 0
        assert one.message_id.startswith("unknown-")
        assert one.message_id != two.message_id


class TestBatches:
    def run(self, bundles: list[list[bytes]]) -> list[Any]:
        """What the batching DoFn puts out, each bundle run as a worker does."""
        fn = pickle.loads(pickle.dumps(source._BatchFn(config_for(), "Read messages")))
        fn.setup()
        messages_out: list[Any] = []
        for bundle in bundles:
            fn.start_bundle()
            for second, serialized in enumerate(bundle):
                messages_out += fn.process(serialized, Timestamp(second))
            messages_out += fn.finish_bundle()
        return messages_out

    def test_the_rest_comes_at_the_end_of_the_bundle(self) -> None:
        """A small bundle is one batch, in order, with the time of its last message, in the global window; none is held over."""
        (first, second) = self.run([[wire(b"1"), wire(b"2"), wire(b"3")], [wire(b"4")]])
        assert [message.data for message in first.value.messages] == [b"1", b"2", b"3"]
        assert (first.timestamp, first.windows) == (Timestamp(2), (GlobalWindow(),))
        assert [message.data for message in second.value.messages] == [b"4"]

    def test_a_batch_is_full_by_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Beyond its number of messages a bundle is several batches, and nothing is left when it divides."""
        monkeypatch.setattr(source, "MESSAGES_PER_BATCH", 2)
        batches = self.run([[wire(b"%d" % number) for number in range(4)]])
        assert [len(batch.messages) for batch in batches] == [2, 2]

    def test_a_batch_is_full_by_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Large messages make small batches."""
        monkeypatch.setattr(source, "BYTES_PER_BATCH", 1000)
        first, second = self.run([[wire(b"x" * 600), wire(b"y" * 600), wire(b"z")]])
        assert len(first.messages) == 2
        assert [message.data for message in second.value.messages] == [b"z"]

    def test_an_empty_bundle_puts_out_nothing(self) -> None:
        """Beam starts and ends bundles without elements."""
        assert self.run([[], []]) == []

    def test_in_a_pipeline(self) -> None:
        """On a runner the DoFn gives all messages on, with the coder that does not pickle them to learn their size."""
        gathered: list[bytes] = []
        received: list[Message] = []
        options = PipelineOptions(["--direct_running_mode=in_memory"])
        Gather.received = received
        with beam.Pipeline(runner=FnApiRunner(), options=options) as pipeline:
            serialized = pipeline | beam.Create([wire(b"%d" % number) for number in range(25)])
            (
                serialized
                | beam.ParDo(source._BatchFn(config_for(), "Read messages")).with_output_types(MessageBatch)
                | beam.ParDo(Gather())
            )
        gathered = sorted(message.data for message in received)
        assert gathered == sorted(b"%d" % number for number in range(25))
        assert isinstance(registry.get_coder(MessageBatch), BatchCoder)


class Gather(beam.DoFn):  # type: ignore[misc]
    received: list[Message] = []  # noqa: RUF012  # shared on purpose: the runner makes copies of the DoFn

    def process(self, batch: MessageBatch) -> None:
        self.received.extend(batch.messages)


class TestFitForWorkers:
    def test_every_step_pickles(self) -> None:
        """Each DoFn of the graph survives Dataflow's pickler, by reference: nothing of this process travels with it."""
        pipeline = beam.Pipeline()
        config = config_for()
        build_graph(pipeline, ReadMessages(config, "event_id", None), config)
        found = DoFns()
        pipeline.visit(found)
        assert len(found.fns) >= 13
        for fn in found.fns:
            copy = cloudpickle_pickler.loads(cloudpickle_pickler.dumps(fn))
            assert type(copy) is type(fn)
            assert getattr(copy, "_config", config) == config

    def test_bundles_of_one_step_on_several_threads(self) -> None:
        """Workers give each thread a copy of the DoFn: their bundles don't mix."""
        serialized = pickle.dumps(source._BatchFn(config_for(), "Read messages"))

        def bundle(letter: int) -> list[bytes]:
            fn = pickle.loads(serialized)
            fn.setup()
            fn.start_bundle()
            for _ in range(200):
                list(fn.process(wire(bytes([letter])), Timestamp(0)))
            return [message.data for value in fn.finish_bundle() for message in value.value.messages]

        with ThreadPoolExecutor(4) as threads:
            bundles = list(threads.map(bundle, b"abcd"))
        assert bundles == [[bytes([letter])] * 200 for letter in b"abcd"]


class DoFns(PipelineVisitor):  # type: ignore[misc]
    def __init__(self) -> None:
        self.fns: list[Any] = []

    def visit_transform(self, node: Any) -> None:
        if isinstance(node.transform, beam.ParDo):
            self.fns.append(node.transform.fn)


def test_the_message_support_agrees() -> None:
    """The tests of the steps use messages of the same form."""
    assert message_of(wire(b"x", {"event_id": "e"})) == message(b"x", event_id="e")
    assert config_for().endpoints == Endpoints()
