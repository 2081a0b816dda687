"""The local stack by its real processes: up, status, down, and what goes wrong between them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from ecomflow.config import Settings, read_stack_endpoints
from ecomflow.errors import AccessError, MissingExtraError, UnavailableError
from ecomflow.local import probes, supervisor
from ecomflow.processes import detached
from ecomflow.processes.detached import Identity, identity_of
from ecomflow.processes.state_folder import folder_mark
from tests.support.cli import ecomflow

stack = pytest.mark.stack


def pids(report: supervisor.StackReport) -> dict[str, int | None]:
    return {service.name: service.pid for service in report.services}


def states(report: supervisor.StackReport) -> dict[str, str]:
    return {service.name: service.state for service in report.services}


class TestProcess:
    def test_a_reused_pid_is_another_process(self) -> None:
        """A pid whose process started at another time is not the one that was started, and is never signalled."""
        this = psutil.Process()
        assert detached.find(identity_of(this.pid)) is not None
        stranger = Identity(this.pid, "another start")
        assert detached.find(stranger) is None
        detached.stop([stranger], 0.0)

    def test_a_step_of_the_wall_clock_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first NTP answer after a boot moves the boot time, from which psutil calculates the start of each process."""
        identity = identity_of(os.getpid())
        before = psutil.Process().create_time()
        boot = psutil.boot_time()
        monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot + 7200)
        assert psutil.Process().create_time() == pytest.approx(before + 7200)
        assert detached.find(identity) is not None
        assert identity_of(os.getpid()) == identity

    def test_it_does_not_hold_the_callers_output_open(self, tmp_path: Path) -> None:
        """A command whose output is read to its end ends, though the service it started runs on."""
        script = """if True:
            from ecomflow.processes.detached import spawn
            from pathlib import Path
            print(spawn(["sleep", "60"], Path("log"), Path()).pid)"""
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=10, check=True
        )
        service = psutil.Process(int(done.stdout))
        try:
            assert os.getsid(service.pid) == service.pid
        finally:
            detached.stop([identity_of(service.pid)], 2.0)

    def test_one_that_ignores_sigterm_is_killed(self, tmp_path: Path) -> None:
        """After the grace time SIGKILL ends it."""
        script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('set', flush=True); time.sleep(60)"
        identity = detached.spawn([sys.executable, "-c", script], tmp_path / "log", tmp_path)
        while not (tmp_path / "log").read_text():
            time.sleep(0.01)
        detached.stop([identity], 0.2)
        assert detached.find(identity) is None

    def test_a_port_that_is_listened_on_is_not_free(self) -> None:
        """It is free again when the listener is gone."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            assert not detached.is_free(port)
        assert detached.is_free(port)


class TestProbes:
    @pytest.mark.parametrize("service", ["pubsub", "storage", "bigquery"])
    def test_silence_is_no_answer(self, service: str) -> None:
        """A port that accepts and says nothing, and one that nothing listens on, do not answer within the time."""
        with socket.create_server(("127.0.0.1", 0)) as mute:
            port = mute.getsockname()[1]
            begin = time.monotonic()
            assert not probes.answers(service, (port, port), 0.2)
            assert time.monotonic() - begin < 1
        assert not probes.answers(service, (port, port), 0.2)


class TestWithoutStack:
    def test_nothing_is_down_and_no_folder_made(self, tmp_path: Path) -> None:
        """status and down of a folder that is not there report three services down, and leave it so."""
        for report in (supervisor.status(tmp_path / "none"), supervisor.down(tmp_path / "none")):
            assert states(report) == {"pubsub": "down", "storage": "down", "bigquery": "down"}
            assert (report.ready, report.endpoints) == (False, None)
        assert not (tmp_path / "none").exists()

    def test_a_folder_that_cannot_be_written_is_a_sentence(self, tmp_path: Path) -> None:
        """A state folder below a file is an AccessError that says what to do."""
        (tmp_path / "file").touch()
        with pytest.raises(AccessError, match="can't be written: Not a directory") as caught:
            supervisor.up(tmp_path / "file" / "state")
        assert "ECOMFLOW_STATE_DIR" in str(caught.value.remedy)

    def test_a_missing_extra_is_reported_before_anything_starts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a package of the local GCS no folder is made and no process started."""

        def missing() -> None:
            raise MissingExtraError("not installed")

        monkeypatch.setattr(supervisor, "check_storage_installed", missing)
        with pytest.raises(MissingExtraError):
            supervisor.up(tmp_path / "state")
        assert not (tmp_path / "state").exists()

    @stack
    def test_a_service_that_ends_at_once_shows_its_log(self, tmp_path: Path) -> None:
        """The error has the last lines of this start and the log's path; the services beside it are stopped again."""
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs" / "bigquery.log").write_text("of an earlier start\n")
        (tmp_path / "bigquery").mkdir()
        (tmp_path / "bigquery" / "bqemulator.duckdb").write_text("no database")
        with pytest.raises(UnavailableError, match="bigquery ended during its start") as caught:
            supervisor.up(tmp_path)
        assert "bqemulator.duckdb" in caught.value.message
        assert "of an earlier start" not in caught.value.message
        assert str(tmp_path / "logs" / "bigquery.log") in str(caught.value.remedy)
        assert not (tmp_path / "stack.json").exists()
        assert not [child for child in psutil.Process().children() if str(tmp_path) in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def state_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("stack") / "state"
    supervisor.up(path)
    yield path
    supervisor.down(path)


@pytest.fixture
def running(state_path: Path) -> supervisor.StackReport:
    return supervisor.up(state_path)


class TestServicesInUse:
    @pytest.mark.parametrize(
        ("external", "expected"),
        [
            ((), ("pubsub", "storage", "bigquery")),
            (("pubsub",), ("storage", "bigquery")),
            (("bigquery",), ("pubsub", "storage", "bigquery")),
            (("pubsub", "storage", "bigquery", "bigquery_storage", "dataflow"), ()),
        ],
    )
    def test_those_that_nothing_replaces(self, external: tuple[str, ...], expected: tuple[str, ...]) -> None:
        """The local BigQuery is used until both its endpoints are another's."""
        assert supervisor.services_in_use(external) == expected

    def test_none(self, tmp_path: Path) -> None:
        """Nothing is started, and no folder is made."""
        report = supervisor.up(tmp_path / "state", names=())
        assert (report.ready, report.services, report.started) == (True, (), ())
        assert not (tmp_path / "state").exists()

    @stack
    def test_some(self, tmp_path: Path) -> None:
        """The others are started when they are needed, and those that run are kept."""
        try:
            first = supervisor.up(tmp_path, names=("storage",))
            assert (first.started, states(first)) == (("storage",), {"storage": "ready"})
            assert states(supervisor.status(tmp_path)) == {"pubsub": "down", "storage": "ready", "bigquery": "down"}
            second = supervisor.up(tmp_path, names=("pubsub", "storage"))
            assert second.started == ("pubsub",)
            assert pids(second)["storage"] == pids(first)["storage"]
            assert supervisor.up(tmp_path, names=("storage",)).started == ()
            assert states(supervisor.status(tmp_path)) == {"pubsub": "ready", "storage": "ready", "bigquery": "down"}
        finally:
            supervisor.down(tmp_path)


@stack
class TestRunningStack:
    def test_the_file_tells_where_it_listens(self, state_path: Path, running: supervisor.StackReport) -> None:
        """stack.json has the endpoints that the commands read, and the folder is the user's alone."""
        assert read_stack_endpoints(state_path) == running.endpoints
        assert state_path.stat().st_mode & 0o777 == 0o700
        assert {"pubsub", "storage", "bigquery", "logs"} <= {path.name for path in state_path.iterdir()}

    def test_a_ready_stack_is_kept(self, state_path: Path, running: supervisor.StackReport) -> None:
        """A second up starts nothing; status reports the same processes with their memory."""
        again = supervisor.up(state_path)
        assert (again.started, pids(again), again.endpoints) == ((), pids(running), running.endpoints)
        assert all(service.rss_mb and service.rss_mb > 5 for service in supervisor.status(state_path).services)

    @pytest.mark.parametrize("content", [b"", b"{", bytes(300), b'{"version": "\xff"}'])
    def test_a_damaged_file_stops_no_command(self, content: bytes, state_path: Path, running: supervisor.StackReport) -> None:
        """Nothing is known of the services then, so they are down; up ends them and starts others."""
        before = [identity_of(pid) for pid in pids(running).values() if pid]
        (state_path / "stack.json").write_bytes(content)
        assert set(states(supervisor.status(state_path)).values()) == {"down"}
        settings = Settings(state_dir=str(state_path))
        assert ecomflow("infra", "status", settings=settings).returncode == 4
        assert ecomflow("infra", "up", settings=settings).returncode == 0
        assert supervisor.status(state_path).ready
        assert [detached.find(identity) for identity in before] == [None] * 3

    def test_damaged_endpoints_are_written_anew(self, state_path: Path, running: supervisor.StackReport) -> None:
        """The services run on where they are."""
        path = state_path / "stack.json"
        assert running.endpoints is not None
        path.write_text(path.read_text().replace(f'"pubsub": "{running.endpoints.pubsub}"', '"pubsub": "127.0.0.1:1"'))
        assert read_stack_endpoints(state_path) != running.endpoints
        assert pids(supervisor.up(state_path)) == pids(running)
        assert read_stack_endpoints(state_path) == running.endpoints

    def test_a_killed_service_alone_is_replaced_on_its_port(self, state_path: Path, running: supervisor.StackReport) -> None:
        """After SIGKILL of the local GCS status says down, and up starts it again where its clients look for it."""
        killed = pids(running)["storage"]
        assert killed
        os.kill(killed, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(killed)] if psutil.pid_exists(killed) else [], timeout=5)
        assert states(supervisor.status(state_path)) == {"pubsub": "ready", "storage": "down", "bigquery": "ready"}
        repaired = supervisor.up(state_path)
        assert repaired.started == ("storage",)
        assert repaired.endpoints == running.endpoints
        assert pids(repaired) == pids(running) | {"storage": pids(repaired)["storage"]}

    def test_a_suspended_service_is_replaced(self, state_path: Path, running: supervisor.StackReport) -> None:
        """After SIGSTOP of Pub/Sub status says unresponsive, and up replaces it and ends the old process."""
        suspended = pids(running)["pubsub"]
        assert suspended
        identity = identity_of(suspended)
        os.kill(suspended, signal.SIGSTOP)
        assert states(supervisor.status(state_path))["pubsub"] == "unresponsive"
        repaired = supervisor.up(state_path)
        assert (repaired.ready, repaired.started, repaired.endpoints) == (True, ("pubsub",), running.endpoints)
        assert detached.find(identity) is None

    def test_a_taken_port_is_given_up(self, state_path: Path, running: supervisor.StackReport) -> None:
        """A service whose old port another program has taken comes up on a new one, and stack.json says so."""
        service = next(service for service in running.services if service.name == "storage")
        assert service.pid
        assert service.endpoint
        detached.stop([identity_of(service.pid)], 5.0)
        with socket.create_server(("127.0.0.1", int(service.endpoint.rsplit(":")[-1]))):
            moved = supervisor.up(state_path)
        assert moved.ready
        assert moved.endpoints != running.endpoints
        assert read_stack_endpoints(state_path) == moved.endpoints


@stack
class TestLifecycle:
    def test_two_ups_at_once_start_one_stack(self, tmp_path: Path) -> None:
        """The second waits for the first and finds its stack ready; down leaves no process and, with_data, no data."""
        reports, said = [], []
        threads = [
            threading.Thread(target=lambda: reports.append(supervisor.up(tmp_path / "state", on_progress=said.append)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        first, second = reports
        assert (len(first.started), second.started) == (3, ())
        assert pids(first) == pids(second)
        assert "Waiting for another command that starts or stops the local stack" in said
        running = [identity_of(pid) for pid in pids(first).values() if pid]
        report = supervisor.down(tmp_path / "state", with_data=True)
        assert set(states(report).values()) == {"down"}
        assert [detached.find(identity) for identity in running] == [None] * 3
        assert {path.name for path in (tmp_path / "state").iterdir()} == {"logs", "stack.lock"}

    def test_down_removes_only_data_folders_of_its_own(self, tmp_path: Path) -> None:
        """A folder of the user's that happens to be named like one of ours stays."""
        (tmp_path / "storage").mkdir()
        (tmp_path / "storage" / "mine").touch()
        supervisor.down(tmp_path, with_data=True)
        assert (tmp_path / "storage" / "mine").exists()

    def test_a_stale_file_is_recognised(self, tmp_path: Path) -> None:
        """A stack.json whose pids belong to other programs now is replaced, and those programs are left alone."""
        this = psutil.Process()
        services = {
            name: supervisor.Service(this.pid, "another start", (detached.free_port(),), "log") for name in supervisor.SERVICES
        }
        stale = supervisor.Stack(2, folder_mark(tmp_path), supervisor.Endpoints(), services)
        (tmp_path / "stack.json").write_bytes(msgspec.json.encode(stale))
        assert set(states(supervisor.status(tmp_path)).values()) == {"down"}
        with supervisor.running_stack(tmp_path) as endpoints:
            assert read_stack_endpoints(tmp_path) == endpoints
            assert supervisor.status(tmp_path).ready
        assert not (tmp_path / "stack.json").exists()
        assert (tmp_path / "bigquery").is_dir()

    def test_a_forged_file_gets_nobody_stopped(self, tmp_path: Path) -> None:
        """It names, by their right identities, a process of this user's and a service of another folder: neither is touched."""
        (tmp_path / "elsewhere").mkdir()
        victims = [
            detached.spawn(["sleep", "60"], tmp_path / "log", tmp_path),
            detached.spawn(["sleep", "60"], tmp_path / "log", tmp_path / "elsewhere", role="pubsub"),
        ]
        state = tmp_path / "state"
        state.mkdir(mode=0o700)
        names = ("storage", "pubsub")
        services = {
            name: supervisor.Service(victim.pid, victim.mark, (1,), "log") for name, victim in zip(names, victims, strict=True)
        }
        forged = supervisor.Stack(2, folder_mark(state), supervisor.Endpoints(), services)
        (state / "stack.json").write_bytes(msgspec.json.encode(forged))
        try:
            assert set(states(supervisor.status(state)).values()) == {"down"}
            supervisor.down(state)
            assert all(detached.find(victim) for victim in victims)
        finally:
            detached.stop(victims, 5.0)

    def test_a_copied_folder_leaves_the_original_alone(self, tmp_path: Path) -> None:
        """Its status is down; its down stops nothing, its up starts services of its own."""
        with supervisor.running_stack(tmp_path / "one"):
            first = pids(supervisor.status(tmp_path / "one"))
            shutil.copytree(tmp_path / "one", tmp_path / "two")
            assert set(states(supervisor.status(tmp_path / "two")).values()) == {"down"}
            supervisor.down(tmp_path / "two")
            with supervisor.running_stack(tmp_path / "two"):
                second = pids(supervisor.status(tmp_path / "two"))
                assert set(first.values()).isdisjoint(second.values())
            assert pids(supervisor.status(tmp_path / "one")) == first
            assert supervisor.status(tmp_path / "one").ready

    def test_services_whose_starter_was_killed_are_replaced(self, tmp_path: Path) -> None:
        """An infra up that is killed after it started them, before they are in stack.json, does not block a later one."""
        with supervisor.running_stack(tmp_path):
            orphans = [identity_of(pid) for pid in pids(supervisor.status(tmp_path)).values() if pid]
            (tmp_path / "stack.json").unlink()
            report = supervisor.up(tmp_path)
            assert (report.ready, set(report.started)) == (True, {"pubsub", "storage", "bigquery"})
            assert [detached.find(orphan) for orphan in orphans] == [None] * 3

    @pytest.mark.parametrize("next_command", [supervisor.down, supervisor.up])
    def test_services_of_a_deleted_folder_are_ended(
        self, next_command: Callable[[Path], supervisor.StackReport], tmp_path: Path
    ) -> None:
        """``rm -r .ecomflow`` under a running stack: the next command at that path ends what is left of it."""
        state = tmp_path / "state"
        before = supervisor.up(state)
        orphans = [identity_of(pid) for pid in pids(before).values() if pid]
        shutil.rmtree(state)
        try:
            next_command(state)
            assert [detached.find(orphan) for orphan in orphans] == [None] * 3
        finally:
            supervisor.down(state)

    def test_a_broken_file_is_no_stack(self, tmp_path: Path) -> None:
        """A stack.json that is not ours to read counts as no stack."""
        (tmp_path / "stack.json").write_text('{"version": 1, "services":')
        assert set(states(supervisor.status(tmp_path)).values()) == {"down"}
