"""Settings in, a running local pipeline out: in this process until it is drained, or in a process of its own.

Only one pipeline runs in a state folder at a time. It holds a lock there while it runs, and writes its status to
``pipeline.json``, which ``status`` reads.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import msgspec

from ecomflow.config import Settings, variables_of
from ecomflow.errors import EcomflowError, PipelineError
from ecomflow.gcp.target import open_target
from ecomflow.metrics.moments import Moment, moment, step_between
from ecomflow.metrics.snapshot import LAST_APPEND
from ecomflow.pipeline.direct import logs
from ecomflow.processes.detached import Identity, find, identity_of
from ecomflow.processes.lifeline import tied_to
from ecomflow.processes.state_folder import access_error, check_own

if TYPE_CHECKING:  # it imports Beam, which takes seconds
    from ecomflow.pipeline.runtime import Runtime

log = logging.getLogger(__name__)

STATUS_FILE = "pipeline.json"
LOCK_FILE = "pipeline.lock"
LOG_FILE = "logs/pipeline.jsonl"
# The output of a pipeline in the background, besides its log: its messages, and the last output of a process that crashes.
OUTPUT_FILE = "logs/pipeline.log"

REPORT_SECONDS = 1.0
_LOCK_SECONDS = 0.5
_START_SECONDS = 60.0
_DRAIN_SECONDS = 120.0

State = Literal["running", "drained", "failed", "gone", "none"]
Engine = Callable[["Runtime", threading.Event, Callable[[str, float], None]], object]


class Processes(msgspec.Struct, frozen=True):
    """The processes of the engines: how many there should be, and the pids of those that run."""

    wanted: int = 1
    pids: tuple[int, ...] = ()


class PipelineStatus(msgspec.Struct, frozen=True):
    """The status of the local pipeline. ``gone``: it was killed; ``none``: there has been none.

    ``pid`` is the process that holds the lock, and ``mark`` identifies its start (``detached.Identity``). ``started``,
    ``updated`` and ``last_restart`` (of an engine) are in seconds since the epoch; ``counters`` and ``gauges`` are those of
    ``counters.py``. ``waiting_for``: what it waits for now. ``metrics_port``: the loopback port for Prometheus.
    ``updated_steady`` is ``updated`` by the monotonic clock; all other times are those of the wall clock as it was set then.
    """

    state: State
    pid: int | None = None
    subscription: str | None = None
    counters: dict[str, int] = {}
    gauges: dict[str, float] = {}
    restarts: int = 0
    last_restart: float | None = None
    last_failure: str | None = None
    waiting_for: str | None = None
    started: float | None = None
    updated: float | None = None
    processes: Processes = Processes()
    metrics_port: int | None = None
    mark: str | None = None
    updated_steady: float | None = None


def retimed(status: PipelineStatus, now: Moment) -> PipelineStatus:
    """``status`` by the wall clock as it is set ``now``, which may have been set since the status was reported."""
    if status.updated is None or status.updated_steady is None:
        return status
    step = step_between(Moment(status.updated, status.updated_steady), now)
    if not step:
        return status
    appends = {name: at + step for name, at in status.gauges.items() if name.startswith(LAST_APPEND)}
    times = ("started", "updated", "last_restart")
    moved = {name: at + step for name in times if (at := getattr(status, name)) is not None}
    return msgspec.structs.replace(status, **moved, gauges={**status.gauges, **appends})


def run_here(
    settings: Settings,
    drain: threading.Event,
    on_event: Callable[[str], None],
    on_report: Callable[[PipelineStatus], None] = lambda _: None,
    metrics_port: int | None = None,
    engine: Engine | None = None,
    report_seconds: float = REPORT_SECONDS,
) -> PipelineStatus:
    """Run the local pipeline in this process until ``drain`` is set.

    ``on_event`` gets a sentence about each restart, ``on_report`` the status every ``report_seconds``. ``metrics_port`` only
    becomes part of the status. ``engine`` is ``engine.run_until_drained`` by default.

    Raises PipelineError if one is already running, and errors that a restart can't fix.
    """
    with held(settings.state_path):
        from ecomflow.pipeline.config import pipeline_config
        from ecomflow.pipeline.direct.engine import run_until_drained
        from ecomflow.pipeline.runtime import Runtime

        runtime = Runtime(pipeline_config(settings))

        def work(reporter: Reporter) -> None:
            def restarting(why: str, pause: float) -> None:
                sentence = reporter.restarting(why, pause)
                log.warning(sentence, extra=logs.NOT_ON_TERMINAL)
                on_event(sentence)

            (engine or run_until_drained)(runtime, drain, restarting)

        first = first_status(settings, Processes(1, (os.getpid(),)), metrics_port)
        report = in_file(settings.state_path, on_report)
        return report_while(work, Reporter(first, runtime.counters.snapshot, report, report_seconds))


def first_status(settings: Settings, processes: Processes, metrics_port: int | None = None) -> PipelineStatus:
    """The status of this process, which now runs the pipeline, before it has counted anything."""
    this, now = identity_of(os.getpid()), moment()
    return PipelineStatus(
        "running",
        this.pid,
        settings.subscription_path,
        started=now.wall,
        updated=now.wall,
        processes=processes,
        metrics_port=metrics_port,
        mark=this.mark,
        updated_steady=now.steady,
    )


def report_while(work: Callable[[Reporter], None], reporter: Reporter, name: str = "The pipeline") -> PipelineStatus:
    """Do ``work`` while ``reporter`` reports the status; then report, log (with ``name``) and return the final status.

    Raises what ``work`` raises. A crash is logged with its traceback but not reported, so the pipeline is then ``gone``.
    """
    log.info("%s reads %s.", name, reporter.subscription)
    try:
        with reporter:
            work(reporter)
    except EcomflowError as error:
        log.error("%s failed: %s", name, error, extra=logs.NOT_ON_TERMINAL)
        reporter.finish("failed", error.message)
        raise
    except Exception:
        log.critical("%s crashed.", name, exc_info=True, extra=logs.NOT_ON_TERMINAL)
        raise
    log.info("%s is drained.", name)
    return reporter.finish("drained", None)


def start_detached(
    settings: Settings,
    command: list[str] | None = None,
    folder: Path | None = None,
    metrics_port: int | None = None,
    timeout: float = _START_SECONDS,
) -> PipelineStatus:
    """Start the local pipeline in its own process, in ``folder``, and wait until it runs.

    Raises PipelineError if one is already running, or if the process ends during its start, with the end of its output.
    """
    if (found := read_status(settings.state_path)).state == "running":
        which = "" if found.pid is None else f" (process {found.pid})"
        raise PipelineError(f"A pipeline is already running{which}.", "Drain it first: ecomflow job drain")
    output_path = settings.state_path / OUTPUT_FILE
    with _open_output(output_path) as output:
        began = output_path.stat().st_size
        process = subprocess.Popen(
            command or [sys.executable, "-m", "ecomflow", *_deploy_arguments(settings, metrics_port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=folder,
            env={**os.environ, **variables_of(settings), "ECOMFLOW_STATE_DIR": str(settings.state_path.resolve())},
        )
    give_up = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < give_up:
        status = read_status(settings.state_path)
        if status.state == "running" and status.pid == process.pid:
            return status
        time.sleep(0.05)  # there is nothing to wait on but the status file, which the process writes when it runs
    what = "ended during its start" if process.poll() is not None else f"did not start within {timeout:.0f} s and was stopped"
    process.kill()
    process.wait()
    tail = output_path.read_bytes()[began:].decode("utf-8", "replace").splitlines()[-8:]
    raise PipelineError(
        f"The pipeline {what}. The end of its output:\n" + "\n".join(tail), f"Read its whole output: {output_path}"
    )


def drain_detached(settings: Settings, timeout: float = _DRAIN_SECONDS) -> PipelineStatus:
    """Drain the running pipeline, and wait until it has ended. Raises PipelineError if none is running or it takes too long."""
    status = read_status(settings.state_path)
    check_running(status)
    signal_pipeline(status, signal.SIGTERM)
    give_up = time.monotonic() + timeout
    while (now := read_status(settings.state_path)).state == "running":
        if time.monotonic() > give_up:
            raise PipelineError(
                f"Process {status.pid} has not drained within {timeout:.0f} s.", f"Kill it with: kill -9 {status.pid}"
            )
        time.sleep(0.05)
    return now


def check_running(status: PipelineStatus) -> None:
    """Raises PipelineError if no pipeline is running, or if one is whose process is unknown because its status is damaged."""
    if status.state != "running":
        raise PipelineError("No local pipeline is running.", "Start one with: ecomflow deploy --detach")
    if status.pid is None:
        raise PipelineError(f"A local pipeline is running. {status.last_failure}", "Find its process with: pgrep -af ecomflow")


def signal_pipeline(status: PipelineStatus, number: int) -> None:
    """Send signal ``number`` to the running pipeline, unless it has ended meanwhile or its pid was reused."""
    if status.pid is None or status.mark is None or find(Identity(status.pid, status.mark)) is None:
        return
    with suppress(ProcessLookupError):
        os.kill(status.pid, number)


def read_status(state_path: Path) -> PipelineStatus:
    """The last reported status of the pipeline in ``state_path``; ``gone`` if it never reported an end but its lock is free.

    If the status file is damaged, ``pid`` is None and ``last_failure`` says so. A running pipeline replaces the file within a
    second, which this waits for.
    """
    status = _last_reported(state_path)
    give_up = time.monotonic() + 2 * REPORT_SECONDS
    while _is_damaged(status) and _is_locked(state_path) and time.monotonic() < give_up:
        time.sleep(0.05)  # the pipeline replaces its status file without a notification
        status = _last_reported(state_path)
    if status.state == "running" and not _is_locked(state_path):
        status = _last_reported(state_path)  # it may have reported its end in between
        return msgspec.structs.replace(status, state="gone") if status.state == "running" else status
    return status


def _last_reported(state_path: Path) -> PipelineStatus:
    check_own(state_path)
    try:
        return msgspec.json.decode((state_path / STATUS_FILE).read_bytes(), type=PipelineStatus)
    except FileNotFoundError:
        return PipelineStatus("none")
    except OSError as error:
        raise access_error(state_path / STATUS_FILE, error, "read") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        sentence = f"Its last report is lost, because {state_path / STATUS_FILE} is damaged: {error}."
        return PipelineStatus("running", last_failure=sentence)


def _is_damaged(status: PipelineStatus) -> bool:
    return status.state == "running" and status.pid is None


class Reporter:
    """Reports the status every ``seconds`` while the pipeline runs: ``first``, updated with the fields from ``counted``."""

    def __init__(
        self,
        first: PipelineStatus,
        counted: Callable[[], dict[str, Any]],
        report_to: Callable[[PipelineStatus], None],
        seconds: float = REPORT_SECONDS,
    ) -> None:
        self._seconds = seconds
        self._status = first
        self._counted = counted
        self._report_to = report_to
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._report, name="status", daemon=True)

    def __enter__(self) -> None:
        self._now()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def subscription(self) -> str | None:
        return self._status.subscription

    def restarting(self, why: str, pause: float) -> str:
        again = self._status.restarts + 1
        self._status = msgspec.structs.replace(self._status, restarts=again, last_restart=moment().wall, last_failure=why)
        return f"The pipeline restarts in {pause:.0f} s: {why}"

    def finish(self, state: State, failure: str | None) -> PipelineStatus:
        self._status = msgspec.structs.replace(self._status, state=state, last_failure=failure or self._status.last_failure)
        return self._now()

    def _report(self) -> None:
        while not self._ended.wait(self._seconds):
            self._now()

    def _now(self) -> PipelineStatus:
        now = moment()
        known = retimed(self._status, now)
        self._status = msgspec.structs.replace(known, updated=now.wall, updated_steady=now.steady)
        status = msgspec.structs.replace(self._status, **self._counted())
        self._report_to(status)
        return status


def in_file(state_path: Path, on_report: Callable[[PipelineStatus], None]) -> Callable[[PipelineStatus], None]:
    """A function that writes each status to the status file, then passes it to ``on_report``.

    If the disk is full or can't be written, that is logged once, and the pipeline continues: its data is elsewhere.
    """
    path = state_path / STATUS_FILE
    draft = path.with_suffix(".tmp")
    writable = True

    def report(status: PipelineStatus) -> None:
        nonlocal writable
        try:
            draft.write_bytes(msgspec.json.encode(status))
            draft.replace(path)
        except OSError as error:
            if writable:
                log.warning("The pipeline continues, but can't write its status: %s: %s", path, error.strerror)
            writable = False
        else:
            writable = True
        on_report(status)

    return report


@contextmanager
def held(state_path: Path) -> Iterator[None]:
    """Inside the block this process is the state folder's pipeline: it holds the lock, and logs to the folder.

    Raises PipelineError if another process is, AccessError if the folder can't be written.
    """
    with locked(state_path), logs.handled_by(logs.ToFile(state_path / LOG_FILE)):
        (state_path / STATUS_FILE).unlink(missing_ok=True)  # the status of an earlier pipeline is outdated
        with tied_to(state_path):
            yield


@contextmanager
def locked(state_path: Path) -> Iterator[None]:
    """Hold the state folder's pipeline lock. The system releases it when the process ends, however it ends."""
    path = state_path / LOCK_FILE
    try:
        state_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_own(state_path)
        file = path.open("a")
    except OSError as error:
        raise access_error(path, error, "written") from error
    with file:
        give_up = time.monotonic() + _LOCK_SECONDS
        while not _try_lock(file, fcntl.LOCK_EX):
            if time.monotonic() > give_up:
                raise PipelineError("A pipeline is already running in this state folder.", "See: ecomflow job status")
            time.sleep(0.02)  # a reader of the status holds the lock for a moment, and there is no notification of its release
        yield


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(state_path: Path) -> bool:
    """Whether a pipeline holds the lock. Readers lock it shared, so that they do not mistake each other for a pipeline."""
    try:
        with (state_path / LOCK_FILE).open() as file:
            return not _try_lock(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise access_error(state_path / LOCK_FILE, error, "read") from error


def _open_output(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        raise access_error(path, error, "written") from error


def _deploy_arguments(settings: Settings, metrics_port: int | None) -> list[str]:
    project = [] if settings.project is None else ["--project", settings.project]
    metrics = [] if metrics_port is None else ["--metrics-port", str(metrics_port)]
    return ["deploy", "--runner", "DirectRunner", "--processes", str(settings.processes), *project, *metrics]


def check_ready(settings: Settings) -> None:
    """Fails before anything starts if the pipeline could not run: no stack, wrong tables, another project's bucket."""
    from ecomflow.infra import check_owner, check_tables

    with open_target(settings) as target:
        check_tables(target)
        check_owner(target)
