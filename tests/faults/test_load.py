"""More comes in than BigQuery takes: memory stays as it was, and nothing is lost."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import pytest

from ecomflow.config import Endpoints, Settings
from ecomflow.gcp.target import Target
from tests.support.running import Fronts, drained_dry, equation_holds, events, publish, running, settings_in

pytestmark = [pytest.mark.stack, pytest.mark.faults, pytest.mark.timeout(400)]

ROUNDS = 8_000  # 48,000 events: several bundles, and more than the pipeline pulls ahead


class Peak(threading.Thread):
    """The most resident memory, in megabytes, that a process has had since the last ``take``."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process, self._most, self._ended = psutil.Process(pid), 0.0, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.05):
            self._most = max(self._most, self._process.memory_info().rss / 1e6)

    def take(self) -> float:
        most, self._most = self._most, 0.0
        return most

    def stop(self) -> None:
        self._ended.set()
        self.join()


def test_a_bigquery_ten_times_too_slow(
    own_shop: Settings, stack: Endpoints, tmp_path: Path, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a backlog of many bundles before a BigQuery that takes ten times as long, the pipeline holds no more than before."""
    fronts = Fronts(stack)
    settings = settings_in(tmp_path / "behind", own_shop, fronts.endpoints)
    try:
        with running(settings) as pipeline:
            peak = Peak(pipeline.pid)
            peak.start()
            target = Target(own_shop, stack)
            usual = peak_of_a_backlog(peak, 1, target, ledger)
            fronts.bigquery.slowness = 10
            slow = peak_of_a_backlog(peak, 2, target, ledger)
            fronts.heal()
            peak.stop()
            equation_holds(target, ledger)
    finally:
        fronts.close()
    with capsys.disabled():
        print(f"\nThe pipeline's memory at most: {usual:.0f} MB with BigQuery as it is, {slow:.0f} MB with one ten times slower.")
    assert slow < 1.25 * usual


def peak_of_a_backlog(peak: Peak, seed: int, target: Target, ledger: Path) -> float:
    publish(target, events(ROUNDS, seed=seed), ledger)
    drained_dry(target, 200)
    return peak.take()
