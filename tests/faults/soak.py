"""A soak: minutes of mixed, invalid and repeated events with a kill every half minute in; memory, files and the equation out.

Run by ``make soak`` (``SOAK_SECONDS=3600 make soak`` for an hour; ``SOAK_RATE`` in events a second; ``SOAK_KILL_EVERY`` in
seconds, of which a large one leaves lives long enough to judge memory by). It uses a throw-away folder and loopback alone,
prints what it measures as Markdown, and exits with 1 where the equation does not hold.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import psutil

from ecomflow import infra
from ecomflow.config import Endpoints, Settings
from ecomflow.gcp.target import Target
from ecomflow.local import supervisor
from tests.support.running import Load, Pipeline, count_waiting, equation_holds
from tests.support.waiting import wait_until

KILL_EVERY = float(os.environ.get("SOAK_KILL_EVERY", "30"))
SAMPLE_EVERY = 2.0
WARM_UP = 60.0  # seconds of a life that are left out of its slope: imports, first tables, pools, what a kill left to catch up
DRAIN_SECONDS = 900.0


class Sample(NamedTuple):
    """A process at a moment: seconds since it started, resident bytes, open files and sockets."""

    age: float
    rss: int
    files: int
    sockets: int


Lives = dict[tuple[str, int], list[Sample]]


def processes(settings: Settings, pipeline: Pipeline) -> dict[str, int]:
    """The pids of the pipeline and of the services that run."""
    services = {report.name: report.pid for report in supervisor.status(settings.state_path).services if report.pid is not None}
    return {"pipeline": pipeline.pid, **services}


def sample(pid: int) -> Sample:
    process = psutil.Process(pid)
    with process.oneshot():
        sockets = len(process.net_connections("all"))
        return Sample(time.time() - process.create_time(), process.memory_info().rss, process.num_fds() - sockets, sockets)


class Watcher(threading.Thread):
    """Samples every process until it is stopped."""

    def __init__(self, settings: Settings, pipeline: Pipeline) -> None:
        super().__init__(name="watch", daemon=True)
        self.lives: Lives = defaultdict(list)
        self._settings, self._pipeline, self._stop_now = settings, pipeline, threading.Event()

    def run(self) -> None:
        while not self._stop_now.wait(SAMPLE_EVERY):
            for name, pid in processes(self._settings, self._pipeline).items():
                try:
                    self.lives[name, pid].append(sample(pid))
                except psutil.Error:
                    pass  # it was killed in between

    def stop(self) -> None:
        self._stop_now.set()
        self.join()


def kill_in_turn(seconds: float, settings: Settings, pipeline: Pipeline) -> int:
    """Kill one process every ``KILL_EVERY`` seconds for ``seconds``, and bring it back; the last minute is left in peace."""
    began, last = time.monotonic(), max(0, int(seconds // KILL_EVERY) - 2)
    victims = cycle(["pipeline", "pubsub", "bigquery", "storage"])
    for number, victim in enumerate(islice(victims, last), start=1):
        threading.Event().wait(max(0.0, began + number * KILL_EVERY - time.monotonic()))
        if victim == "pipeline":
            pipeline.kill()
            pipeline.started()
        else:
            psutil.Process(processes(settings, pipeline)[victim]).kill()
            supervisor.up(settings.state_path)
        print(f"{time.monotonic() - began:6.0f} s: killed {victim}; it is back", file=sys.stderr, flush=True)
    return last


def slope(lives: list[list[Sample]]) -> float | None:
    """Resident megabytes a minute, by least squares over the ages within each life; None where no life was long enough."""
    warm = [[s for s in life if s.age > WARM_UP] for life in lives]
    pairs = [(s.age - _mean([x.age for x in life]), s.rss - _mean([x.rss for x in life])) for life in warm for s in life]
    spread = sum(age * age for age, _ in pairs)
    return None if spread == 0 else sum(age * rss for age, rss in pairs) / spread * 60 / 1e6


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def table(lives: Lives) -> Iterator[str]:
    yield "| process | lives | MB at the end | max MB | slope, MB per minute | max files | max sockets |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name in sorted({name for name, _ in lives}):
        mine = [samples for (process, _), samples in lives.items() if process == name]
        every = [s for life in mine for s in life]
        grows = slope(mine)
        yield (
            f"| {name} | {len(mine)} | {mine[-1][-1].rss / 1e6:.0f} | {max(s.rss for s in every) / 1e6:.0f} "
            f"| {'-' if grows is None else f'{grows:+.2f}'} | {max(s.files for s in every)} | {max(s.sockets for s in every)} |"
        )


def soak(seconds: float, rate: float, folder: Path) -> None:
    settings = Settings(ack_deadline_seconds=10, state_dir=str(folder))
    endpoints: Endpoints | None = supervisor.up(folder).endpoints
    assert endpoints is not None
    target = Target(settings, endpoints)
    infra.apply(target, infra.plan(target))
    pipeline, ledger = Pipeline(settings).started(), folder / "ledger.jsonl"
    watcher = Watcher(settings, pipeline)
    watcher.start()
    try:
        began = time.monotonic()
        with Load(target, ledger, rate, seed=int(time.time())) as load:
            kills = kill_in_turn(seconds, settings, pipeline)
            threading.Event().wait(max(0.0, began + seconds - time.monotonic()))
        published, loaded = load.published, time.monotonic() - began
        behind = count_waiting(target)
        wait_until(lambda: count_waiting(target) == 0, "the subscription is empty", DRAIN_SECONDS)
        caught_up = time.monotonic() - began - loaded
        watcher.stop()
        outcome = equation_holds(target, ledger)
        pipeline.drain()
    finally:
        watcher.stop()
        pipeline.end()
        supervisor.down(folder)
    print(f"{published:,} events in {loaded:.0f} s ({published / loaded:,.0f}/s), every tenth batch twice; {kills} kills.")
    print(f"{behind:,} messages waited when the load ended; they were written in {caught_up:.0f} s.\n")
    print("\n".join(table(watcher.lives)))
    facts, letters = (sum(getattr(line, name) for line in outcome.lines) for name in ("facts", "dead_letters"))
    print(f"\n{published:,} published = {facts:,} facts + {letters:,} dead letters.")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="ecomflow-soak-") as scratch:
        soak(float(os.environ.get("SOAK_SECONDS", "600")), float(os.environ.get("SOAK_RATE", "1000")), Path(scratch))
