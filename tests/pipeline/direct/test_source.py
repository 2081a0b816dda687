"""The source on FnApiRunner: pulled batches come out, and are acknowledged when their bundle is finalized."""

from __future__ import annotations

import pickle

import apache_beam as beam
import pytest
from apache_beam.coders import registry
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from ecomflow.errors import NotFoundError
from ecomflow.pipeline.batches import BatchCoder, DeadLetterBatch, MessageBatch
from ecomflow.pipeline.direct import source
from ecomflow.pipeline.direct.puller import PulledBatch
from ecomflow.pipeline.direct.source import IDLE_SECONDS, PullMessages
from ecomflow.pipeline.runtime import Runtime
from tests.support.pipeline import (
    MemoryWarehouse,
    ScriptedPuller,
    ScriptedSubscription,
    config_for,
    inventory,
    memory_runtime,
    message,
)

ONE, TWO, THREE = (message(inventory(number), message_id=f"m-{number}") for number in (1, 2, 3))


class Note(beam.DoFn):  # type: ignore[misc]
    """Notes in ``calls`` what it is given, and when its bundle ends."""

    calls: list[str] = []  # noqa: RUF012  # shared on purpose: the runner makes copies of the DoFn

    def process(self, batch: MessageBatch) -> None:
        self.calls.append("process " + " ".join(message.message_id for message in batch.messages))

    def finish_bundle(self) -> None:
        self.calls.append("finish")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    monkeypatch.setattr(Note, "calls", calls)
    return calls


def run(runtime: Runtime) -> None:
    """Run source and Note until the puller stops."""
    pipeline = beam.Pipeline(runner=FnApiRunner(), options=beam.options.pipeline_options.PipelineOptions(["--streaming"]))
    pipeline | PullMessages(runtime.config) | beam.ParDo(Note())
    with runtime:
        pipeline.run().wait_until_finish()


class Pulled(ScriptedPuller):
    """Stops when all is acknowledged."""

    def acknowledge(self, batch: PulledBatch) -> None:
        super().acknowledge(batch)
        if self._subscription.drain.is_set():
            self.stop()


class Idle(ScriptedPuller):
    """Finds nothing five times, then stops."""

    def __init__(self) -> None:
        super().__init__(ScriptedSubscription())
        self.asked: list[tuple[int, float]] = []

    def take(self, most: int, wait: float) -> None:
        self.asked.append((most, wait))
        if len(self.asked) == 5:
            self.stop()


def runtime_on(puller: ScriptedPuller) -> Runtime:
    return memory_runtime(MemoryWarehouse(), puller=lambda *_: puller)


def test_a_bundle_is_acknowledged_after_it_is_processed(calls: list[str]) -> None:
    """Take, process, end of the bundle, acknowledge: for each batch in turn; stopping ends the run."""
    run(runtime_on(Pulled(ScriptedSubscription([ONE, TWO], [THREE], calls=calls))))
    assert calls[:8] == [
        *("take", "process m-1 m-2", "finish", "acknowledge"),
        *("take", "process m-3", "finish", "acknowledge"),
    ]
    assert set(calls[8:]) <= {"finish"}


def test_an_idle_source_waits_in_the_puller(calls: list[str]) -> None:
    """Where nothing is there, each try leaves the waiting to the puller, emits nothing, and the run goes on."""
    puller = Idle()
    run(runtime_on(puller))
    assert puller.asked == [(source.MESSAGES_PER_BUNDLE, IDLE_SECONDS)] * 5
    assert set(calls) == {"finish"}


def test_an_error_of_the_puller_is_kept_as_it_was(calls: list[str]) -> None:
    """Beam passes on only the text of a missing subscription's error; the engine finds the error itself in the runtime."""
    subscription = ScriptedSubscription(calls=calls)
    subscription.failures.append(NotFoundError("Subscription gone.", "Run: ecomflow infra up"))
    runtime = memory_runtime(MemoryWarehouse(), subscription)
    with pytest.raises(Exception, match="Subscription gone"):
        run(runtime)
    error = runtime.failure.take()
    assert isinstance(error, NotFoundError)
    assert error.remedy == "Run: ecomflow infra up"
    assert runtime.failure.take() is None


def test_batches_have_a_cheap_coder() -> None:
    """A batch is pickled only in earnest: the size that Beam samples is an estimate, without encoding anything."""
    coder = registry.get_coder(MessageBatch)
    assert isinstance(coder, BatchCoder)
    batch = MessageBatch([ONE, TWO, THREE])
    assert coder.decode(coder.encode(batch)) == batch
    assert coder.estimate_size(batch) == 3 * 512
    assert coder.estimate_size(DeadLetterBatch("order", [])) == 0


def test_the_source_pickles() -> None:
    """The DoFn and the settings in it survive pickling."""
    assert pickle.loads(pickle.dumps(config_for(pubsub="127.0.0.1:1"))) == config_for(pubsub="127.0.0.1:1")
    pickle.loads(pickle.dumps(source._PullFn(config_for(), "Read messages")))
