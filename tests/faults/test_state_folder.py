"""The state folder is full, read-only, or wanted by two commands at once."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ecomflow import infra
from ecomflow.config import Endpoints, Settings
from ecomflow.gcp.target import Target
from ecomflow.local import supervisor
from tests.support.cli import ecomflow, ecomflow_that_obeys
from tests.support.running import Pipeline, equation_holds, events, publish, running, settings_in
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.stack]


def test_a_folder_that_is_read_only(own_shop: Settings) -> None:
    """Each command says in a sentence which path can't be written and what to set, and ends with the code of a missing access."""
    own_shop.state_path.chmod(0o555)
    try:
        results = [ecomflow_that_obeys(*words, settings=own_shop) for words in (("infra", "up"), ("deploy",), ("deploy", "-d"))]
    finally:
        own_shop.state_path.chmod(0o755)
    for result in results:
        assert result.returncode == 5, result.stderr
        assert own_shop.state_dir in result.stderr
        assert "Permission denied" in result.stderr
        assert "ECOMFLOW_STATE_DIR" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.faults
def test_a_full_disk_under_a_pipeline_that_runs(own_shop: Settings, stack: Endpoints, ledger: Path) -> None:
    """It says that it can't write its status, and continues; with room again job status is up to date."""
    with running(own_shop) as pipeline:
        draft = own_shop.state_path / "pipeline.tmp"
        wait_until(lambda: _linked(draft, Path("/dev/full")), "the disk is full for the status file")
        pipeline.says("can't write its status")
        pipeline.says("No space left on device")
        target = Target(own_shop, stack)
        publish(target, events(5, seed=1), ledger)
        equation_holds(target, ledger)
        draft.unlink()
        room = time.time()
        wait_until(lambda: (pipeline.status().updated or 0) > room, "job status is up to date")
        assert pipeline.status().counters["received"] == 30
        assert pipeline.said().count("can't write its status") == 1


def _linked(path: Path, target: Path) -> bool:
    """Whether ``path`` is a link to ``target`` now: a draft that is being written is in the way."""
    try:
        path.symlink_to(target)
    except FileExistsError:
        return False
    return True


@pytest.mark.faults
def test_two_deploys_under_one_folder(own_shop: Settings, stack: Endpoints, ledger: Path) -> None:
    """Of two that start at once one runs and the other says that one runs; nothing is lost to their meeting."""
    pipelines = [Pipeline(own_shop).start(), Pipeline(own_shop).start()]
    try:
        wait_until(lambda: any(_has_ended(pipeline) for pipeline in pipelines), "one of them ends")
        (loser,), (winner,) = ([p for p in pipelines if _has_ended(p) is ended] for ended in (True, False))
        assert loser.process is not None
        assert loser.process.returncode == 9
        assert "A pipeline is already running" in loser.said()
        target = Target(own_shop, stack)
        publish(target, events(5, seed=2), ledger)
        equation_holds(target, ledger)
        winner.drain()
    finally:
        for pipeline in pipelines:
            pipeline.end()


def _has_ended(pipeline: Pipeline) -> bool:
    return pipeline.process is not None and pipeline.process.poll() is not None


@pytest.mark.faults
def test_two_deploys_on_one_subscription(own_shop: Settings, stack: Endpoints, tmp_path: Path, ledger: Path) -> None:
    """Two pipelines with folders of their own share a subscription: each event is seen once."""
    one, two = (settings_in(tmp_path / name, own_shop, stack) for name in ("one", "two"))
    with running(one) as first, running(two) as second:
        target = Target(own_shop, stack)
        for seed in range(10):
            publish(target, events(20, seed=seed), ledger)
        equation_holds(target, ledger)
        wait_until(lambda: _received(first) + _received(second) >= 1200, "both have reported what they received")


def _received(pipeline: Pipeline) -> int:
    return pipeline.status().counters.get("received", 0)


@pytest.mark.faults
def test_two_infra_ups_at_once(tmp_path: Path) -> None:
    """Both end well, and there is one stack, with everything on it."""
    settings = Settings(state_dir=str(tmp_path / "state"))
    try:
        with ThreadPoolExecutor(2) as pool:
            results = [call.result() for call in [pool.submit(ecomflow, "infra", "up", settings=settings) for _ in range(2)]]
        assert [result.returncode for result in results] == [0, 0], [result.stderr for result in results]
        third = ecomflow("infra", "up", settings=settings)
        assert re.search(r"All \d+ resources are up to date; nothing was changed", third.stdout)
        assert supervisor.status(settings.state_path).ready
    finally:
        supervisor.down(settings.state_path)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own at ``folder``."""
    folder.mkdir(mode=0o700)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.faults
def test_a_full_disk_under_the_whole_stack(tmp_path: Path, ledger: Path) -> None:
    """Each service says that its disk is full, nothing that was confirmed is lost, and with room again all is well by itself."""
    with small_disk(tmp_path / "disk", 60) as disk:
        settings = Settings(state_dir=str(disk / "state"))
        with supervisor.running_stack(settings.state_path) as endpoints:
            target = Target(settings, endpoints)
            infra.apply(target, infra.plan(target))
            with running(settings) as pipeline:
                publish(target, events(20, seed=1), ledger)
                equation_holds(target, ledger)
                _fill(disk, leaving=1_200_000)  # for two publish requests, and not for all that becomes of them
                result = ecomflow("publish", "--n", "5000", "--ledger", str(ledger), settings=settings)
                assert result.returncode == 4
                assert "The disk of the Pub/Sub at" in result.stderr
                assert "Free up disk space there, then publish again." in result.stderr
                pipeline.says("The disk of the local BigQuery is full")
                (disk / "fill").unlink()
                equation_holds(target, ledger)


def _fill(disk: Path, leaving: int) -> None:
    room = os.statvfs(disk)
    (disk / "fill").write_bytes(bytes(room.f_bavail * room.f_frsize - leaving))
