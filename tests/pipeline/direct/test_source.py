"""The source on FnApiRunner: pulled batches come out, and are acknowledged when their bundle is finalized."""

from __future__ import annotations

import pickle
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.coders import registry
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from ecomflow.errors import NotFoundError
from ecomflow.pipeline import failures
from ecomflow.pipeline.batches import BatchCoder, DeadLetterBatch, MessageBatch
from ecomflow.pipeline.direct import source
from ecomflow.pipeline.direct.source import IDLE_SECONDS, PullMessages
from tests.support.pipeline import ScriptedSubscription, config_for, inventory, message

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


def run(subscription: ScriptedSubscription, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run source and Note until all is acknowledged."""
    subscription.install(monkeypatch)
    config = config_for()
    puller = subscription.puller(config)
    monkeypatch.setattr(subscription, "drain", _StopsPuller(puller))
    pipeline = beam.Pipeline(runner=FnApiRunner(), options=beam.options.pipeline_options.PipelineOptions(["--streaming"]))
    pipeline | PullMessages(config) | beam.ParDo(Note())
    pipeline.run().wait_until_finish()


class _StopsPuller:
    def __init__(self, puller: Any) -> None:
        self.set = puller.stop


def test_a_bundle_is_acknowledged_after_it_is_processed(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Take, process, end of the bundle, acknowledge: for each batch in turn; stopping ends the run."""
    run(ScriptedSubscription([ONE, TWO], [THREE], calls=calls), monkeypatch)
    assert calls[:8] == [
        *("take", "process m-1 m-2", "finish", "acknowledge"),
        *("take", "process m-3", "finish", "acknowledge"),
    ]
    assert set(calls[8:]) <= {"finish"}


def test_an_idle_source_waits_in_the_puller(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is there, each try leaves the waiting to the puller, emits nothing, and the run goes on."""
    subscription = ScriptedSubscription(calls=calls)
    waits: list[float] = []

    def take(most: int, wait: float) -> None:
        assert most == source.MESSAGES_PER_BUNDLE
        waits.append(wait)
        if len(waits) == 5:
            subscription.puller(config_for()).stop()

    monkeypatch.setattr(subscription.puller(config_for()), "take", take)
    run(subscription, monkeypatch)
    assert waits == [IDLE_SECONDS] * 5
    assert set(calls) == {"finish"}


def test_an_error_of_the_puller_is_kept_as_it_was(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Beam passes on only the text of a missing subscription's error; the engine finds the error itself in failures."""
    subscription = ScriptedSubscription(calls=calls)
    subscription.failures.append(NotFoundError("Subscription gone.", "Run: ecomflow infra up"))
    with pytest.raises(Exception, match="Subscription gone"):
        run(subscription, monkeypatch)
    error = failures.take()
    assert isinstance(error, NotFoundError)
    assert error.remedy == "Run: ecomflow infra up"
    assert failures.take() is None


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
    pickle.loads(pickle.dumps(source._PullFn("Read messages")))
