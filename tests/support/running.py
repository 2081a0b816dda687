"""The whole on this machine: the pipeline as a process behind fronts, load that goes on through faults, and the equation."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from ecomflow.config import Endpoints, Settings
from ecomflow.errors import UnavailableError
from ecomflow.gcp.target import Target
from ecomflow.generator import publisher, rounds
from ecomflow.local.pubsub.server import read_backlog
from ecomflow.pipeline.direct.launch import PipelineStatus, read_status
from ecomflow.reconciliation.ledger import read_ledger
from ecomflow.reconciliation.reconcile import Reconciliation, reconcile
from tests.support.cli import start, write_stack_file
from tests.support.fronts import GrpcFront, HttpFront
from tests.support.waiting import PATIENCE, wait_until


class Fronts:
    """A front before each service that the pipeline uses."""

    def __init__(self, stack: Endpoints) -> None:
        self.pubsub = GrpcFront(str(stack.pubsub))
        self.bigquery = GrpcFront(str(stack.bigquery_storage))
        self.storage = HttpFront(str(stack.storage))
        self.endpoints = msgspec.structs.replace(
            stack, pubsub=self.pubsub.address, bigquery_storage=self.bigquery.address, storage=self.storage.address
        )

    def heal(self) -> None:
        """From now on everything is passed on, and what is held is let go."""
        for front in (self.pubsub, self.bigquery, self.storage):
            front.plan = lambda *_: None
        self.bigquery.slowness = 1.0

    def close(self) -> None:
        for front in (self.pubsub, self.bigquery, self.storage):
            front.close()


def settings_in(folder: Path, settings: Settings, endpoints: Endpoints) -> Settings:
    """``settings`` with the state folder ``folder``, whose stack file names ``endpoints``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_stack_file(folder, endpoints)
    return msgspec.structs.replace(settings, state_dir=str(folder))


class Pipeline:
    """``ecomflow deploy`` as a process, its output in a log."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.log = settings.state_path / "deploy.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Pipeline:
        self.process = start("deploy", "--runner", "DirectRunner", settings=self.settings, log=self.log)
        return self

    def started(self) -> Pipeline:
        """Started, where it does not live already, and waited for until it runs."""
        if not self._lives():
            self.start()
        wait_until(self._runs, "the pipeline runs")
        return self

    def _lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def _runs(self) -> bool:
        assert self._lives(), self.said()[-3000:]
        status = self.status()
        return status.state == "running" and status.pid == self.pid

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def status(self) -> PipelineStatus:
        return read_status(self.settings.state_path)

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def says(self, words: str, since: int = 0) -> None:
        """Wait until its log, from ``since`` on, holds ``words``; it goes on running."""
        wait_until(lambda: words in self.said()[since:] or not self._lives(), f"the pipeline says '{words}'")
        assert words in self.said()[since:], f"expected '{words}', it said {self.said()[since:][-2000:]}"
        assert self._lives(), self.said()[-3000:]

    def kill(self) -> None:
        assert self.process is not None
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait(timeout=30)

    def drain(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=PATIENCE) == 0, self.said()[-3000:]

    def end(self) -> None:
        """Whatever became of it, it is gone after this."""
        if self._lives():
            self.kill()


@contextmanager
def running(settings: Settings) -> Iterator[Pipeline]:
    """A pipeline that runs, drained at the end; killed where the test fails."""
    pipeline = Pipeline(settings)
    try:
        yield pipeline.started()
        pipeline.drain()
    finally:
        pipeline.end()


def events(number: int, seed: int, **options: Any) -> list[rounds.GeneratedEvent]:
    """``number`` rounds of six events."""
    return list(rounds.generate(number, seed=seed, now=datetime.now(UTC), **options))


def publish(target: Target, batch: Iterable[rounds.GeneratedEvent], ledger: Path) -> None:
    """Publish ``batch``, each event at least once, however long Pub/Sub is away."""
    kept, give_up = list(batch), time.monotonic() + PATIENCE
    while True:
        try:
            publisher.publish(target, kept, ledger=ledger)
            return
        except UnavailableError:
            if time.monotonic() > give_up:
                raise


class Load:
    """Publishes rounds at ``rate`` events a second on a thread of its own, until it is stopped; every tenth batch twice.

    Its faults are its own: where Pub/Sub is away it tries again, so that events may be published more than once.
    """

    def __init__(self, target: Target, ledger: Path, rate: float, seed: int) -> None:
        self.published = 0
        self._target, self._ledger, self._rate = target, ledger, rate
        self._events = rounds.generate(10**9, seed=seed, now=datetime.now(UTC))
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load")

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop publishing. Raises what ended it before its time."""
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        size, number = max(1, round(self._rate / 5)), 0
        began = time.monotonic()
        try:
            while not self._stop.is_set():
                batch = list(islice(self._events, size))
                for _ in range(2 if number % 10 == 9 else 1):
                    publish(self._target, batch, self._ledger)
                number, self.published = number + 1, self.published + len(batch)
                self._stop.wait(began + self.published / self._rate - time.monotonic())
        except BaseException as failure:  # noqa: BLE001  # raised again by stop()
            self._failure = failure


def count_waiting(target: Target) -> int:
    """The messages of the subscription that are not acknowledged."""
    return read_backlog(str(target.endpoints.pubsub), target.settings.subscription_path).num_undelivered_messages


def drained_dry(target: Target, seconds: float = PATIENCE) -> None:
    """Wait until nothing waits in the subscription."""
    wait_until(lambda: count_waiting(target) == 0, "the subscription is empty", seconds)


def equation_holds(target: Target, ledger: Path) -> Reconciliation:
    """Wait until nothing waits, then do the sum: each confirmed event of ``ledger`` once, as a fact or as a dead letter."""
    drained_dry(target)
    outcome = reconcile(target, ledger)
    assert (outcome.missing, outcome.incomplete, outcome.doubled, outcome.adds_up) == ((), (), (), True)
    entries = [entry for entry in read_ledger(ledger).values() if entry.message_id is not None]
    valid = Counter(entry.event_type for entry in entries if entry.fault is None)
    invalid = Counter(entry.event_type for entry in entries if entry.fault is not None)
    for line in outcome.lines:
        assert (line.facts, line.dead_letters) == (valid[line.event_type], invalid[line.event_type]), line
    return outcome
