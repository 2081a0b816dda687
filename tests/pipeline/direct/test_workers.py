"""A pipeline of several processes: started, summed, started again, drained and ended together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from typer.testing import CliRunner

from ecomflow.cli import app
from ecomflow.config import Endpoints, Settings
from ecomflow.errors import ConfigError, PipelineError, SchemaError
from ecomflow.gcp.target import Target
from ecomflow.metrics.moments import Moment
from ecomflow.pipeline.direct import launch, workers
from ecomflow.pipeline.direct.launch import PipelineStatus, Processes, read_status
from ecomflow.pipeline.direct.restarts import Restarts
from tests.support.cli import environment
from tests.support.running import Load, equation_holds, running, settings_in
from tests.support.waiting import wait_until

# A worker without Beam: the real process around an engine that the test gives, as the body of a function of runtime and drain.
WORKER = """
import logging, os, sys, time, types
from pathlib import Path

def module(name, **members):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(members)

def run_until_drained(runtime, drain, on_restart):
    {engine}

counted = dict(counters={{"received": 7}}, gauges={{"memory_bytes": 100.0, "last_append/a": float(os.getpid())}})
counters = types.SimpleNamespace(snapshot=lambda: counted)
module("ecomflow.pipeline.runtime", Runtime=lambda config: types.SimpleNamespace(config=config, counters=counters))
module("ecomflow.pipeline.direct.engine", run_until_drained=run_until_drained)
from ecomflow.pipeline.direct import worker
{setting}
worker.main()
"""

# Two of those, looked after by a process of its own, which handles signals as ecomflow deploy does.
PARENT = """
import sys
from ecomflow.commands.deploy import _drained_by_signals
from ecomflow.config import load_settings
from ecomflow.pipeline.direct.workers import run_workers
with _drained_by_signals() as drain:
    run_workers(load_settings({"processes": 2}), drain, print, command=[sys.executable, "-c", sys.argv[1]])
"""


def command(engine: str = "drain.wait()", setting: str = "") -> list[str]:
    return [sys.executable, "-c", WORKER.format(engine=engine, setting=setting)]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=str(tmp_path / "state"), processes=2)


QUICK = Restarts(first_pause=0.02, longest_pause=30.0, well_after=60.0)


class Run:
    """``run_workers`` on a thread of the test. It reports and restarts without the pauses for people and services."""

    def __init__(self, settings: Settings, worker: list[str]) -> None:
        self.settings = settings
        self.drain = threading.Event()
        self.said: list[str] = []
        self.ended: PipelineStatus | None = None
        self.failure: Exception | None = None
        self._worker = worker
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.ended = workers.run_workers(
                self.settings, self.drain, self.said.append, command=self._worker, restarts=QUICK, report_seconds=0.02
            )
        except Exception as failure:  # noqa: BLE001  # the test looks at it
            self.failure = failure

    def status_where(self, holds: Callable[[PipelineStatus], Any], what: str) -> PipelineStatus:
        def look() -> PipelineStatus | None:
            assert self.failure is None, self.failure
            status = read_status(self.settings.state_path)
            return status if holds(status) else None

        return wait_until(look, what)

    def runs(self) -> PipelineStatus:
        wanted = self.settings.processes
        return self.status_where(lambda now: now.state == "running" and len(now.processes.pids) == wanted, "all live")

    def end(self) -> PipelineStatus:
        self.drain.set()
        self._thread.join(60)
        assert self.failure is None, self.failure
        assert self.ended is not None
        return self.ended


@contextmanager
def run(settings: Settings, worker: list[str]) -> Iterator[Run]:
    found = Run(settings, worker)
    try:
        yield found
    finally:
        found.drain.set()
        found._thread.join(60)


def gone(pids: tuple[int, ...]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


class TestMerged:
    @pytest.mark.parametrize("step", [86_400.0, -86_400.0], ids=["forward", "back"])
    def test_what_was_told_before_a_step_of_the_wall_clock_follows_it(self, step: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also the status of a process that has died since: otherwise its last append would be in the future."""
        reported = Moment(time.time(), time.monotonic())
        status = PipelineStatus("running", gauges={"last_append/t": reported.wall - 5, "memory_bytes": 7}, updated=reported.wall)
        status = msgspec.structs.replace(status, updated_steady=reported.steady, restarts=1, last_restart=reported.wall - 3)
        dead = workers._buried(workers._NOTHING, status, killed=True)
        assert dead.gauges == {"last_append/t": reported.wall - 5}
        monkeypatch.setattr(workers, "moment", lambda: Moment(reported.wall + 60 + step, reported.steady + 60))
        for one in (status, dead):
            assert workers.merged([one])["gauges"]["last_append/t"] == pytest.approx(reported.wall - 5 + step, abs=0.1)
        assert workers.merged([status])["last_restart"] == pytest.approx(reported.wall - 3 + step, abs=0.1)

    def test_counts_are_summed(self) -> None:
        """Counters, restarts and memory are summed, of other gauges and restarts the latest is taken, of waits the first."""
        one = PipelineStatus(
            "running",
            counters={"a": 1, "b": 2},
            gauges={"memory_bytes": 10, "last_append/t": 5},
            restarts=1,
            last_restart=9.0,
        )
        two = PipelineStatus(
            "running",
            counters={"b": 3, "c": 4},
            gauges={"memory_bytes": 20, "last_append/t": 4, "last_append/u": 6},
            restarts=2,
            last_restart=7.0,
            waiting_for="Pub/Sub",
        )
        assert workers.merged((one, two)) == {
            "counters": {"a": 1, "b": 5, "c": 4},
            "gauges": {"memory_bytes": 30, "last_append/t": 5, "last_append/u": 6},
            "waiting_for": "Pub/Sub",
            "restarts": 3,
            "last_restart": 9.0,
        }

    def test_a_death_is_a_restart(self) -> None:
        """As the status of one engine that has restarted, with its time; a process that drained has not."""
        before = time.time()
        killed = workers._buried(workers._NOTHING, PipelineStatus("running", restarts=2, last_restart=5.0), killed=True)
        assert killed.restarts == 3
        assert before <= (killed.last_restart or 0) <= time.time()
        drained = workers._buried(workers._NOTHING, PipelineStatus("running", restarts=2, last_restart=5.0), killed=False)
        assert (drained.restarts, drained.last_restart) == (2, 5.0)

    def test_of_none_there_is_nothing(self) -> None:
        """Before any process has reported, nothing is counted."""
        assert PipelineStatus("running", **workers.merged(())) == PipelineStatus("running")


@pytest.mark.slow
class TestWorkers:
    def test_they_run_and_drain_as_one(self, settings: Settings) -> None:
        """The status is that of one pipeline: this process, the two that run, and their sums; then it is drained."""
        with run(settings, command()) as pipeline:
            status = pipeline.runs()
            assert (status.state, status.pid, status.processes.wanted) == ("running", os.getpid(), 2)
            pids = status.processes.pids
            assert len({os.getpid(), *pids}) == 3
            assert (status.counters, status.restarts) == ({"received": 14}, 0)
            assert status.gauges == {"memory_bytes": 200.0, "last_append/a": float(max(pids))}
            assert [psutil.Process(pid).status() for pid in pids] != []
            ended = pipeline.end()
        assert (ended.state, ended.counters, ended.processes) == ("drained", {"received": 14}, Processes(2, ()))
        assert read_status(settings.state_path) == ended
        assert (gone(pids), pipeline.said) == (True, [])

    def test_a_killed_one_is_started_again(self, settings: Settings) -> None:
        """Another takes its place; what it had counted stays in the sum, its memory does not, and the reason is reported."""
        with run(settings, command()) as pipeline:
            victim, other = pipeline.runs().processes.pids
            os.kill(victim, signal.SIGKILL)
            status = pipeline.status_where(lambda status: status.counters == {"received": 21}, "a third process counts")
            assert (victim in status.processes.pids, other in status.processes.pids) == (False, True)
            why = f"Process {victim} of the pipeline was ended by SIGKILL."
            assert (status.restarts, status.last_failure, status.gauges["memory_bytes"]) == (1, why, 200.0)
            assert pipeline.said == [f"{why} A new one starts in 0 s."]
            assert pipeline.end().counters == {"received": 21}
        assert f"{why} A new one starts in 0 s." in (settings.state_path / launch.LOG_FILE).read_text()

    def test_an_error_that_no_restart_fixes_ends_all(self, settings: Settings, tmp_path: Path) -> None:
        """One fails, the other drains, and the error is raised here as it was there."""
        engine = f"""
    from ecomflow.errors import SchemaError
    try:
        Path({str(tmp_path)!r}, "first").touch(exist_ok=False)
    except FileExistsError:
        drain.wait()
        Path({str(tmp_path)!r}, "drained").touch()
    else:
        raise SchemaError("It does not fit.", "Run: ecomflow infra status")
"""
        with run(settings, command(engine)) as pipeline:
            wait_until(lambda: pipeline.failure, "it fails")
        assert (type(pipeline.failure), pipeline.failure and pipeline.failure.args) == (
            SchemaError,
            ("It does not fit.", "Run: ecomflow infra status"),
        )
        status = read_status(settings.state_path)
        assert (status.state, status.last_failure, status.processes.pids) == ("failed", "It does not fit.", ())

    def test_restarts_within_a_process_are_reported(self, settings: Settings) -> None:
        """An engine that restarts is counted and its reason is the last failure; what it logs is in the one log, with its pid."""
        engine = 'on_restart("Pub/Sub is away.", 1.0); print("a stray print"); drain.wait()'
        with run(settings, command(engine)) as pipeline:
            status = pipeline.status_where(lambda status: status.restarts == 2, "both have restarted")
            pids = set(status.processes.pids)
        assert status.last_failure == "Pub/Sub is away."
        lines = map(json.loads, (settings.state_path / launch.LOG_FILE).read_text().splitlines())
        said = [
            (line["process"], line["level"])
            for line in lines
            if line["message"] == "The pipeline restarts in 1 s: Pub/Sub is away."
        ]
        assert sorted(said) == sorted((pid, "warning") for pid in pids)

    def test_a_crash_is_logged_and_recovered_from(self, settings: Settings, tmp_path: Path) -> None:
        """One that ends by a fault of ours is started again, and its traceback is in the log."""
        mark = f'Path({str(tmp_path)!r}, "crashed")'
        engine = f"drain.wait() if {mark}.exists() else ({mark}.touch(), 1 / 0)"
        settings = msgspec.structs.replace(settings, processes=1)
        with run(settings, command(engine)) as pipeline:
            status = pipeline.status_where(lambda status: status.restarts == 1 and status.processes.pids, "it runs again")
        assert "of the pipeline ended with code 1." in str(status.last_failure)
        lines = [json.loads(line) for line in (settings.state_path / launch.LOG_FILE).read_text().splitlines()]
        (crash,) = [line for line in lines if line["message"] == f"Process {line['process']} crashed."]
        assert (crash["level"], crash["traceback"].splitlines()[-1]) == ("critical", "ZeroDivisionError: division by zero")

    def test_one_that_can_not_be_started_is_reported(self, settings: Settings) -> None:
        """If no process can be started, that is reported, and tried again until the pipeline drains."""
        with run(settings, ["/nowhere/python"]) as pipeline:
            wait_until(lambda: len(pipeline.said) > 3, "it is tried again")
            assert pipeline.end().state == "drained"
        assert (
            pipeline.said[0]
            == "A process of the pipeline could not be started: No such file or directory. A new one starts in 0 s."
        )

    def test_there_is_one_under_a_folder(self, settings: Settings) -> None:
        """A second pipeline is refused while they run."""
        with run(settings, command()) as pipeline:
            pipeline.runs()
            with pytest.raises(PipelineError, match="already running"):
                workers.run_workers(settings, threading.Event(), print, command=command())

    def test_drained_before_they_run(self, settings: Settings) -> None:
        """A drain in the first moment ends well."""
        with run(settings, command()) as pipeline:
            assert pipeline.end().state == "drained"


@pytest.mark.slow
class TestTheirParent:
    @pytest.fixture
    def parent(self, settings: Settings) -> Iterator[Callable[[list[str]], subprocess.Popen[bytes]]]:
        started: list[subprocess.Popen[bytes]] = []

        def start(worker: list[str]) -> subprocess.Popen[bytes]:
            settings.state_path.mkdir()
            with (settings.state_path / "output").open("wb") as output:
                whole = [sys.executable, "-c", PARENT, worker[2]]
                started.append(subprocess.Popen(whole, stdout=output, stderr=output, env=environment(settings)))
            wait_until(lambda: len(read_status(settings.state_path).processes.pids) == 2, "both live")
            return started[-1]

        yield start
        for process in started:
            process.kill()
            process.wait()

    def test_killed_its_workers_drain(self, settings: Settings, parent: Any, tmp_path: Path) -> None:
        """Without the process that looks after them they drain and end by themselves, and the next pipeline runs."""
        process = parent(command(f"drain.wait(); Path({str(tmp_path)!r}, str(os.getpid())).touch()"))
        pids = read_status(settings.state_path).processes.pids
        process.kill()
        process.wait()
        wait_until(lambda: gone(pids), "the workers end")
        assert {path.name for path in tmp_path.iterdir()} == {"state", *map(str, pids)}
        assert read_status(settings.state_path).state == "gone"
        with run(settings, command()) as pipeline:
            assert pipeline.runs().state == "running"

    def test_killed_a_worker_that_can_not_drain_ends_too(self, settings: Settings, parent: Any) -> None:
        """One whose drain takes too long ends without it: nobody else would end it."""
        process = parent(command("time.sleep(600)", "worker._ORPHAN_SECONDS = 0.1"))
        pids = read_status(settings.state_path).processes.pids
        process.kill()
        process.wait()
        wait_until(lambda: gone(pids), "the workers end")

    def test_a_second_interrupt_ends_at_once(self, settings: Settings, parent: Any) -> None:
        """The first Ctrl-C drains; where that lasts, the second ends this process and the workers."""
        process = parent(command("drain.wait(); time.sleep(600)"))
        pids = read_status(settings.state_path).processes.pids
        process.send_signal(signal.SIGINT)
        wait_until(lambda: b"Draining" in (settings.state_path / "output").read_bytes(), "it says that it drains")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) != 0
        assert (gone(pids), read_status(settings.state_path).state) == (True, "gone")

    def test_a_signal_drains_all(self, settings: Settings, parent: Any) -> None:
        """SIGTERM to the one process ends all of them well."""
        process = parent(command())
        pids = read_status(settings.state_path).processes.pids
        process.terminate()
        assert process.wait(30) == 0
        assert (gone(pids), read_status(settings.state_path).state) == (True, "drained")


class TestFlags:
    @pytest.mark.parametrize("flag", ["--processes=2", "--metrics-port=0"])
    def test_they_are_for_this_machine(self, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With Dataflow they are refused before anything is made."""
        monkeypatch.chdir(tmp_path)
        arguments = ["deploy", flag, "--project", "my-project", "--dry-run"]
        error = CliRunner().invoke(app, arguments).exception
        assert (type(error), str(error).startswith(f"{flag.split('=')[0]} can only be used on this machine")) == (
            ConfigError,
            True,
        )

    def test_the_file_may_say_how_many(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """processes is set in ecomflow.toml; fewer than one is refused."""
        monkeypatch.chdir(tmp_path)
        Path("ecomflow.toml").write_text("processes = 0")
        error = CliRunner().invoke(app, ["deploy"]).exception
        assert (type(error), str(error).splitlines()[0]) == (ConfigError, "processes is 0: expected 1 or more.")


@pytest.mark.stack
@pytest.mark.timeout(300)
def test_every_event_is_in_one_place(provisioned: Settings, stack: Endpoints, tmp_path: Path) -> None:
    """Two real engines on one subscription, one of them killed under load: each event is seen once, and both drain."""
    settings = settings_in(tmp_path / "state", msgspec.structs.replace(provisioned, processes=2), stack)
    ledger = tmp_path / "published.jsonl"
    with running(settings) as pipeline:
        wait_until(lambda: len(pipeline.status().processes.pids) == 2, "both live")
        victim = pipeline.status().processes.pids[0]
        target = Target(settings, stack)
        with Load(target, ledger, rate=600, seed=1):
            wait_until(lambda: pipeline.status().counters.get("received", 0) > 600, "events flow")
            os.kill(victim, signal.SIGKILL)
            wait_until(
                lambda: (now := pipeline.status().processes.pids) != () and victim not in now and len(now) == 2, "both live"
            )
        outcome = equation_holds(target, ledger)
        status = pipeline.status()
        pids = status.processes.pids
    assert sum(line.published for line in outcome.lines) > 600
    assert (status.restarts, str(status.last_failure)) == (1, f"Process {victim} of the pipeline was ended by SIGKILL.")
    assert (gone(pids), read_status(settings.state_path).state) == (True, "drained")
