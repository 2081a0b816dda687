"""The pipeline is killed at chosen moments under load: whatever it held comes again, and each event is seen once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from ecomflow.config import Endpoints, Settings
from ecomflow.gcp.target import Target
from ecomflow.local.pubsub.server import read_backlog
from ecomflow.reconciliation.reconcile import Reconciliation
from tests.support.fronts import Hold, HttpHold
from tests.support.running import Fronts, Load, Pipeline, equation_holds, running, settings_in
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


class Killer:
    """Starts the pipeline and kills it at a moment, by what goes through the fronts."""

    def __init__(self, target: Target, fronts: Fronts, random: Random) -> None:
        self._settings, self._stack, self._fronts, self._random = target.settings, target.endpoints, fronts, random
        self.moments: dict[str, Callable[[], None]] = {
            "starting": lambda: None,
            "pulling": self._while_it_holds_messages,
            "appending": lambda: self._at_bigquery(Hold()),
            "appended": lambda: self._at_bigquery(Hold(applied=True)),
            "uploading": lambda: self._at_the_bucket(Hold()),
            "uploaded": lambda: self._at_the_bucket(Hold(applied=True)),
            "acknowledging": lambda: self._at_pubsub(Hold()),
            "acknowledged": lambda: self._at_pubsub(Hold(applied=True)),
        }

    def kill(self, moment: str) -> None:
        pipeline = Pipeline(self._settings).start()
        try:
            self.moments[moment]()
            # Some time later, so that no two kills find the same state: a starting pipeline takes seconds, a bundle parts of one.
            threading.Event().wait(self._random.uniform(0, 3 if moment == "starting" else 0.2))
            assert pipeline.process is not None
            assert pipeline.process.poll() is None, pipeline.said()
        finally:
            pipeline.end()
            self._fronts.heal()

    def _while_it_holds_messages(self) -> None:
        subscription = str(self._stack.pubsub), self._settings.subscription_path
        wait_until(lambda: read_backlog(*subscription).num_outstanding_messages > 0, "the pipeline holds messages")

    def _at_bigquery(self, hold: Hold) -> None:
        passed = self._random.randrange(5)  # which of the next appends
        self._fronts.bigquery.plan = lambda method, _: _after(passed, hold) if method == "AppendRows" else None
        self._reached(hold)

    def _at_pubsub(self, hold: Hold) -> None:
        self._fronts.pubsub.plan = lambda method, _: hold if method == "Acknowledge" else None
        self._reached(hold)

    def _at_the_bucket(self, hold: Hold) -> None:
        self._fronts.storage.plan = lambda method, _: HttpHold(hold) if method == "POST" else None
        self._reached(hold)

    def _reached(self, hold: Hold) -> None:
        wait_until(hold.reached.is_set, "the moment comes")


def _after(passed: int, hold: Hold) -> Hold | None:
    """``hold`` once ``passed`` requests have gone by."""
    hold.seen += 1
    return hold if hold.seen > passed else None


@pytest.fixture
def killer(own_shop: Settings, stack: Endpoints, tmp_path: Path) -> Iterator[Callable[[int], Killer]]:
    fronts = Fronts(stack)
    settings = settings_in(tmp_path / "killed", own_shop, fronts.endpoints)
    yield lambda seed: Killer(Target(settings, stack), fronts, Random(seed))
    fronts.close()


def kill_under_load(killer: Killer, moments: list[str], target: Target, ledger: Path, rate: float) -> Reconciliation:
    """Kill the pipeline at each of ``moments`` while events keep coming; then let it finish, and do the sum."""
    with Load(target, ledger, rate, seed=1):
        for moment in moments:
            killer.kill(moment)
    with running(target.settings):
        return equation_holds(target, ledger)


def test_three_kills_under_load(killer: Callable[[int], Killer], own_shop: Settings, stack: Endpoints, ledger: Path) -> None:
    """Killed in an append, after it, and before its acknowledgement, the pipeline loses no event and shows none twice."""
    kill_under_load(killer(1), ["appending", "appended", "acknowledging"], Target(own_shop, stack), ledger, rate=300)


@pytest.mark.faults
@pytest.mark.parametrize("seed", [1])
def test_twenty_kills_under_load(
    seed: int,
    killer: Callable[[int], Killer],
    own_shop: Settings,
    stack: Endpoints,
    ledger: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Twenty kills at moments drawn at random, every kind of them at least twice."""
    executioner = killer(seed)
    moments = Random(seed).sample([*executioner.moments] * 3, 20)
    assert {*moments} == {*executioner.moments}
    lines = kill_under_load(executioner, moments, Target(own_shop, stack), ledger, rate=1000).lines
    published, facts, letters = (sum(getattr(line, of) for line in lines) for of in ("published", "facts", "dead_letters"))
    with capsys.disabled():
        print(f"\n{len(moments)} kills: {published:,} published = {facts:,} facts + {letters:,} dead letters.")
