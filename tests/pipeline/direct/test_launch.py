"""The pipeline's status in its folder: running, drained, failed or gone; one at a time; from elsewhere too."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from ecomflow.config import Settings
from ecomflow.errors import AccessError, PipelineError, SchemaError
from ecomflow.pipeline.config import PipelineConfig
from ecomflow.pipeline.direct import launch
from ecomflow.pipeline.direct.launch import Engine, PipelineStatus, drain_detached, read_status, run_here, start_detached
from ecomflow.pipeline.runtime import Runtime
from tests.support.waiting import wait_until


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=str(tmp_path / "state"))


def no_engine(*_: Any) -> None:
    """Drained at once."""


def run(settings: Settings, engine: Engine = no_engine, on_event: Callable[[str], None] = lambda _: None) -> PipelineStatus:
    return run_here(settings, threading.Event(), on_event, engine=engine, report_seconds=0.01)


def logged(settings: Settings) -> list[tuple[str, str]]:
    """Level and message of each line of the pipeline's log."""
    lines = map(json.loads, (settings.state_path / launch.LOG_FILE).read_text().splitlines())
    return [(line["level"], line["message"]) for line in lines]


class TestHere:
    def test_there_has_been_none(self, settings: Settings) -> None:
        """A folder without a status file, or no folder at all, means no pipeline."""
        assert read_status(settings.state_path) == PipelineStatus("none")

    def test_it_tells_that_it_runs(self, settings: Settings) -> None:
        """While it runs, the status has its process, its subscription and its counters, and follows their changes."""
        found: list[PipelineStatus] = []

        def work(runtime: Runtime, *_: Any) -> None:
            found.append(read_status(settings.state_path))
            for total in (1, 2):
                runtime.counters.count("received")
                wait_until(lambda total=total: read_status(settings.state_path).counters == {"received": total})

        run(settings, work)
        (status,) = found
        assert (status.state, status.pid, status.counters) == ("running", os.getpid(), {})
        assert status.processes == launch.Processes(1, (os.getpid(),))
        assert status.subscription == "projects/ecomflow-local/subscriptions/ecomflow-events-pipeline"

    @pytest.mark.parametrize("step", [86_400, -86_400], ids=["forward", "back"])
    def test_its_status_follows_a_step_of_the_wall_clock(
        self, step: int, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its start and its appends are reported by the clock as it is set now, and do not move again until the next step."""
        real, steps = time.time, [0.0]
        monkeypatch.setattr(time, "time", lambda: real() + steps[0])
        reports: list[PipelineStatus] = []

        def report_again() -> None:
            since = time.monotonic()
            wait_until(lambda: (read_status(settings.state_path).updated_steady or 0.0) > since)
            reports.append(read_status(settings.state_path))

        def work(runtime: Runtime, *_: Any) -> None:
            runtime.counters.appended("fact_order", 1)
            report_again()
            steps[0] = step
            report_again()
            report_again()

        run(settings, work)
        before, *after = reports
        for status in after:
            assert status.updated == pytest.approx(real() + step, abs=60)
            assert status.started == pytest.approx((before.started or 0.0) + step, abs=5)
            assert status.gauges["last_append/fact_order"] == pytest.approx(before.gauges["last_append/fact_order"] + step, abs=5)
        assert after[0].started == after[1].started

    def test_it_tells_that_it_is_drained(self, settings: Settings) -> None:
        """What run_here returns is in the folder, and the settings reached the engine."""
        given: list[PipelineConfig] = []
        ended = run(settings, lambda runtime, drain, on_restart: given.append(runtime.config))
        assert ended.state == "drained"
        assert read_status(settings.state_path) == ended
        assert logged(settings) == [
            ("info", f"The pipeline reads {settings.subscription_path}."),
            ("info", "The pipeline is drained."),
        ]
        assert given[0].subscription_path == settings.subscription_path

    def test_it_tells_of_restarts(self, settings: Settings) -> None:
        """Each restart is a sentence for the user, and is counted in the folder with the last reason."""

        def work(runtime: Runtime, drain: threading.Event, on_restart: Callable[[str, float], None]) -> None:
            on_restart("Pub/Sub is away.", 1.0)
            on_restart("BigQuery is away.", 2.0)

        sentences: list[str] = []
        ended = run(settings, work, sentences.append)
        assert sentences == ["The pipeline restarts in 1 s: Pub/Sub is away.", "The pipeline restarts in 2 s: BigQuery is away."]
        assert (ended.state, ended.restarts, ended.last_failure) == ("drained", 2, "BigQuery is away.")
        assert logged(settings)[1:3] == [("warning", sentence) for sentence in sentences]
        assert read_status(settings.state_path) == ended

    def test_it_tells_that_it_failed(self, settings: Settings) -> None:
        """An error that a restart can't fix is raised, and stays in the folder."""

        def work(*_: Any) -> None:
            raise SchemaError("Table shop.fact_order does not fit.", "Run: ecomflow infra status")

        with pytest.raises(SchemaError):
            run(settings, work)
        status = read_status(settings.state_path)
        assert (status.state, status.last_failure) == ("failed", "Table shop.fact_order does not fit.")
        message = "The pipeline failed: Table shop.fact_order does not fit.\nRun: ecomflow infra status"
        assert logged(settings)[-1] == ("error", message)

    def test_a_crash_is_no_end(self, settings: Settings) -> None:
        """Where it ends without telling its end, it is gone, and its log holds the traceback; the next one runs as ever."""

        def crash(*_: Any) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            run(settings, crash)
        assert read_status(settings.state_path).state == "gone"
        last = json.loads((settings.state_path / launch.LOG_FILE).read_text().splitlines()[-1])
        assert (last["level"], last["message"]) == ("critical", "The pipeline crashed.")
        assert last["traceback"].endswith("\n    raise ZeroDivisionError\nZeroDivisionError")
        assert run(settings).state == "drained"

    def test_a_second_is_refused(self, settings: Settings) -> None:
        """Under one folder one pipeline runs at a time; the refused one leaves the first one's status as it is."""

        def work(*_: Any) -> None:
            with pytest.raises(PipelineError, match="already running"):
                run(settings)
            with pytest.raises(PipelineError, match=f"process {os.getpid()}"):
                start_detached(settings, ["false"])
            assert read_status(settings.state_path).state == "running"

        assert run(settings, work).state == "drained"

    def test_reading_the_status_hinders_no_start(self, settings: Settings) -> None:
        """Pipelines start while others read the status all the time, and no reader takes another for a pipeline."""
        run(settings)
        path = settings.state_path / launch.STATUS_FILE
        dead = msgspec.json.encode(PipelineStatus("running", 1))
        path.write_bytes(dead)
        states: list[str] = []
        readers = [
            threading.Thread(target=lambda: states.extend(read_status(settings.state_path).state for _ in range(200)))
            for _ in range(4)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert set(states) == {"gone"}
        readers = [threading.Thread(target=lambda: [read_status(settings.state_path) for _ in range(200)]) for _ in range(2)]
        for reader in readers:
            reader.start()
        assert [run(settings).state for _ in range(5)] == ["drained"] * 5
        for reader in readers:
            reader.join()

    def test_the_status_of_an_earlier_one_is_dropped(self, settings: Settings) -> None:
        """A pipeline that starts after a killed one never shows the dead one's process as running."""
        settings.state_path.mkdir()
        (settings.state_path / launch.STATUS_FILE).write_bytes(msgspec.json.encode(PipelineStatus("running", 1)))
        with launch.held(settings.state_path):
            assert read_status(settings.state_path).state == "none"

    def test_an_end_reported_late_is_an_end(self, settings: Settings) -> None:
        """A pipeline that drains between the reading of its status and of its lock is drained, not gone."""
        settings.state_path.mkdir()
        path, end = settings.state_path / launch.STATUS_FILE, settings.state_path / "end"
        end.write_bytes(msgspec.json.encode(PipelineStatus("drained", 1)))
        os.mkfifo(path)

        def drain_meanwhile() -> None:
            with path.open("wb") as file:  # as soon as it is read
                file.write(msgspec.json.encode(PipelineStatus("running", 1)))
                end.replace(path)

        draining = threading.Thread(target=drain_meanwhile)
        draining.start()
        assert read_status(settings.state_path).state == "drained"
        draining.join()

    @pytest.mark.parametrize("content", [b"", b"{", bytes(300), b'{"state": "\xff"}', b'{"state": "running", "pid": "x"}'])
    def test_a_damaged_status_file_is_told_and_stops_nothing(self, content: bytes, settings: Settings) -> None:
        """Its report is lost, as a sentence with its path says; the next pipeline starts and reports again."""
        settings.state_path.mkdir()
        (settings.state_path / launch.STATUS_FILE).write_bytes(content)
        status = read_status(settings.state_path)
        assert (status.state, status.pid) == ("gone", None)
        assert f"{settings.state_path / launch.STATUS_FILE} is damaged: " in str(status.last_failure)
        with pytest.raises(PipelineError, match="No local pipeline is running"):
            drain_detached(settings)
        assert run(settings, lambda *_: None).state == "drained"

    def test_a_status_file_that_is_damaged_while_a_pipeline_runs_is_written_anew(self, settings: Settings) -> None:
        """Who reads it waits for the next report, and so knows the process."""

        def work(*_: Any) -> None:
            (settings.state_path / launch.STATUS_FILE).write_bytes(b"{")
            assert read_status(settings.state_path).pid == os.getpid()

        assert run(settings, work).state == "drained"

    @pytest.mark.slow
    def test_a_pipeline_whose_status_stays_damaged_runs_all_the_same(self, settings: Settings) -> None:
        """It holds its lock; which process it is nobody knows, and a drain says so."""
        with launch.locked(settings.state_path):
            (settings.state_path / launch.STATUS_FILE).write_bytes(b"{")
            status = read_status(settings.state_path)
            assert (status.state, status.pid) == ("running", None)
            with pytest.raises(
                PipelineError, match=r"A local pipeline is running\. Its last report is lost, because .* is damaged"
            ):
                drain_detached(settings)

    @pytest.mark.parametrize("start", [run, lambda settings: start_detached(settings, ["true"])], ids=["here", "detached"])
    def test_a_folder_that_can_not_be_written_is_reported(self, start: Callable[[Settings], Any], tmp_path: Path) -> None:
        """Where the state folder can't be made, AccessError says so."""
        (tmp_path / "file").write_text("")
        with pytest.raises(AccessError, match=r"can't be (written|read)") as caught:
            start(Settings(state_dir=str(tmp_path / "file" / "state")))
        assert "ECOMFLOW_STATE_DIR" in str(caught.value.remedy)


# A pipeline without Beam: the real run_here around an engine that only waits for SIGTERM.
CHILD = """
import signal, sys, threading, types
from ecomflow.config import load_settings
from ecomflow.pipeline.direct.launch import run_here

def module(name, **members):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(members)

drain = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: drain.set())
counters = types.SimpleNamespace(snapshot=lambda: {"counters": {"received": 7}})
module("ecomflow.pipeline.runtime", Runtime=lambda config: types.SimpleNamespace(config=config, counters=counters))
module("ecomflow.pipeline.direct.engine", run_until_drained=lambda runtime, drain, on_restart: drain.wait(60))
print("hello from the pipeline", flush=True)
run_here(load_settings({}), drain, print)
"""


def command(source: str) -> list[str]:
    return [sys.executable, "-c", source]


@pytest.fixture
def no_child_left(settings: Settings) -> Iterator[None]:
    """Kill what a failed test would leave running."""
    yield
    status = read_status(settings.state_path)
    if status.state == "running" and status.pid:
        os.kill(status.pid, signal.SIGKILL)


@pytest.mark.stack
@pytest.mark.usefixtures("no_child_left")
class TestDetached:
    def test_it_runs_and_drains(self, settings: Settings) -> None:
        """start_detached returns when it runs, with its own process; drain_detached ends it by SIGTERM, well."""
        started = start_detached(settings, command(CHILD))
        assert (started.state, started.pid != os.getpid()) == ("running", True)
        assert (settings.state_path / launch.OUTPUT_FILE).read_text() == "hello from the pipeline\n"
        with pytest.raises(PipelineError, match=f"process {started.pid}"):
            start_detached(settings, command(CHILD))
        ended = drain_detached(settings, timeout=20)
        assert (ended.state, ended.pid, ended.counters) == ("drained", started.pid, {"received": 7})

    def test_a_killed_one_is_gone(self, settings: Settings) -> None:
        """After SIGKILL the system releases the lock: the status is gone, with the last report, and the next one can start."""
        started = start_detached(settings, command(CHILD))
        assert started.pid is not None
        os.kill(started.pid, signal.SIGKILL)
        wait_until(lambda: read_status(settings.state_path).state != "running")
        status = read_status(settings.state_path)
        assert (status.state, status.pid, status.counters) == ("gone", started.pid, {"received": 7})
        with pytest.raises(PipelineError, match="No local pipeline is running"):
            drain_detached(settings)
        assert start_detached(settings, command(CHILD)).state == "running"
        assert drain_detached(settings, timeout=20).state == "drained"

    def test_an_early_end_shows_its_log(self, settings: Settings) -> None:
        """If a process ends during its start, the error has its last lines, not those of an earlier one."""
        for word in ("first", "second"):
            with pytest.raises(PipelineError) as caught:
                start_detached(settings, command(f"for n in range(20): print('{word}', n)\nraise SystemExit(3)"))
        assert caught.value.message == "The pipeline ended during its start. The end of its output:\n" + "\n".join(
            f"second {n}" for n in range(12, 20)
        )
        assert str(settings.state_path / launch.OUTPUT_FILE) in str(caught.value.remedy)

    def test_it_has_the_settings_of_its_starter(self, settings: Settings) -> None:
        """Those that only an option has set too: they reach the process as variables."""
        chosen = msgspec.structs.replace(settings, dataset="facts", builtin_events=("order",), labels={"team": "shop"})
        names = ("DATASET", "BUILTIN_EVENTS", "LABELS")
        child = f"import os; print(*(os.environ['ECOMFLOW_' + name] for name in {names})); raise SystemExit(3)"
        with pytest.raises(PipelineError) as caught:
            start_detached(chosen, command(child))
        assert caught.value.message.endswith("\nfacts order team=shop")

    def test_one_that_never_runs_is_ended(self, settings: Settings, tmp_path: Path) -> None:
        """Where no pipeline runs in time, the process is killed, and that is said."""
        pid = tmp_path / "pid"
        never = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(60)"
        with pytest.raises(PipelineError, match="did not start within 3 s and was stopped"):
            start_detached(settings, command(never), timeout=3)
        assert not psutil.pid_exists(int(pid.read_text()))

    def test_one_that_does_not_drain_is_reported(self, settings: Settings) -> None:
        """A process that ignores SIGTERM is named, with the command that ends it."""
        deaf = CHILD.replace("lambda *_: drain.set()", "signal.SIG_IGN")
        started = start_detached(settings, command(deaf))
        with pytest.raises(PipelineError, match="has not drained within 0 s") as caught:
            drain_detached(settings, timeout=0.2)
        assert caught.value.remedy == f"Kill it with: kill -9 {started.pid}"

    def test_the_command_is_ecomflow_deploy(self, settings: Settings, tmp_path: Path) -> None:
        """Without a command of its own it is `ecomflow deploy` with the same state folder: here, one without a stack."""
        with pytest.raises(PipelineError) as caught:
            start_detached(settings, folder=tmp_path)
        assert f"The local stack in {settings.state_path}/ is not running" in "".join(caught.value.message.split("\n"))
