"""``ecomflow demo``: run the whole path on a temporary local stack, and check that everything published has arrived."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import psutil

from ecomflow import infra
from ecomflow.config import Settings, contracts_of
from ecomflow.errors import ImbalanceError, UnavailableError
from ecomflow.gcp.target import Target
from ecomflow.generator import publisher, rounds
from ecomflow.generator.seeds import SEEDED_UNTIL
from ecomflow.jobs.backlog import Waiting, count_waiting, wait_until_empty
from ecomflow.local import supervisor
from ecomflow.pipeline.direct import launch
from ecomflow.reconciliation import reconcile
from ecomflow.reconciliation.ledger import default_ledger
from ecomflow.warehouse import queries

_QUESTION = "sales-per-product"
_WAIT_SECONDS = 300.0

# Called with a unit (``events``), the number done, and the total if known.
OnCount = Callable[[str, int, int | None], None]


class Outcome(msgspec.Struct, frozen=True):
    """``equation``: what became of each published event, by its id."""

    published: publisher.PublishSummary
    equation: reconcile.Reconciliation
    answer: queries.Answer


def run(n: int, seed: int, on_progress: Callable[[str], None], on_count: OnCount = lambda *_: None) -> Outcome:
    """Publish ``n`` rounds through a pipeline on a temporary local stack, and count the results.

    ``on_progress`` is called with the description of each step, ``on_count`` with its progress. The caller handles Ctrl-C with
    ``end_processes``.
    """
    with _throwaway_folder() as state_path:
        settings = Settings(state_dir=str(state_path), contracts=str(state_path / "contracts"))  # the built-in events alone
        on_progress("Starting Pub/Sub, GCS and BigQuery on this machine")
        with supervisor.running_stack(state_path) as endpoints, Target(settings, endpoints) as target:
            on_progress("Creating topic, subscription, bucket, dataset, tables and views")
            infra.apply(target, infra.plan(target))
            on_progress("Starting the streaming pipeline")
            launch.start_detached(settings, [sys.executable, "-m", "ecomflow", "deploy"], state_path)
            with _draining(settings, on_progress):
                on_progress(f"Publishing {n} rounds: a valid and an invalid event of each type")
                published = _publish(target, n, seed, on_count)
                on_progress("Waiting until every message is acknowledged")
                _wait_until_empty(target, published.total, on_count)
            on_progress("Matching every event by its id with the tables and the dead letters")
            return _outcome(target, published, on_count)


def end_processes() -> None:
    """Kill all child processes, recursively. Their state is temporary."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def check(outcome: Outcome) -> None:
    """Raise ImbalanceError unless every event arrived, the valid ones as facts and the invalid ones as dead letters."""
    reconcile.check(outcome.equation)
    sent = outcome.published
    wrong = [
        f"{line.event_type}: {line.facts:,} facts and {line.dead_letters:,} dead letters"
        for line in outcome.equation.lines
        if (line.facts, line.dead_letters) != (sent.valid.get(line.event_type, 0), sent.invalid.get(line.event_type, 0))
    ]
    if wrong:  # no event is lost, but a valid one was refused or an invalid one loaded
        raise ImbalanceError(
            f"Published: {sum(sent.valid.values()):,} valid and {sum(sent.invalid.values()):,} invalid events. "
            f"Found: {'; '.join(wrong)}.",
            "This is a bug in ecomflow: please report it.",
        )


@contextmanager
def _draining(settings: Settings, on_progress: Callable[[str], None]) -> Iterator[None]:
    """Drains the pipeline at the end, also after an error, but not after Ctrl-C, which has ended it."""
    is_interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        is_interrupted = True
        raise
    finally:
        if not is_interrupted:
            on_progress("Draining the pipeline")
            launch.drain_detached(settings)


def _publish(target: Target, n: int, seed: int, on_count: OnCount) -> publisher.PublishSummary:
    contracts = contracts_of(target.settings)
    events = rounds.generate(n, seed=seed, now=SEEDED_UNTIL, contracts=contracts)
    total = n * 2 * len(rounds.slots_of(contracts))
    published = publisher.publish(
        target,
        events,
        ledger=default_ledger(target),
        on_progress=lambda done: on_count("events", done, total),
    )
    if published.interrupted:
        raise KeyboardInterrupt
    return published


def _outcome(target: Target, published: publisher.PublishSummary, on_count: OnCount) -> Outcome:
    equation = reconcile.reconcile(target, on_count=lambda unit, done: on_count(unit, done, None))
    return Outcome(published, equation, queries.ask(target, _QUESTION, {}))


def _wait_until_empty(target: Target, total: int, on_count: OnCount) -> None:
    def read() -> Waiting | None:
        waiting = count_waiting(target)
        if waiting:
            on_count("events", total - waiting.messages, total)
        if waiting and waiting.messages and launch.read_status(target.settings.state_path).state != "running":
            raise UnavailableError(
                "The pipeline ended before the subscription was empty.",
                f"See its log: {target.settings.state_path / launch.LOG_FILE}",
            )
        return waiting

    if not wait_until_empty(read, _WAIT_SECONDS):
        raise UnavailableError(
            f"The subscription still has messages after {_WAIT_SECONDS:.0f} s.", "Run it again with fewer rounds: --n 10"
        )


@contextmanager
def _throwaway_folder() -> Iterator[Path]:
    """A temporary folder, with the user's settings and emulator variables removed from the environment."""
    kept = dict(os.environ)
    for name in kept:
        if (name.startswith("ECOMFLOW_") and name != "ECOMFLOW_DEBUG") or name.endswith("_EMULATOR_HOST"):
            del os.environ[name]
    try:
        with tempfile.TemporaryDirectory(prefix="ecomflow-demo-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
    finally:
        os.environ.clear()
        os.environ.update(kept)
