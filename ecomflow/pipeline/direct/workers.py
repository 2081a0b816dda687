"""Settings in, a pipeline of several processes out: each runs an engine on the same subscription, supervised by this process.

A process that dies is replaced. Their statuses are merged into one status file, so that its readers need not know of them.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

import msgspec

from ecomflow import errors
from ecomflow.config import Settings
from ecomflow.errors import EcomflowError
from ecomflow.metrics.moments import moment
from ecomflow.pipeline.direct import launch, logs
from ecomflow.pipeline.direct.launch import PipelineStatus, Processes, Reporter, retimed
from ecomflow.pipeline.direct.restarts import RESTARTS, Restarts
from ecomflow.pipeline.direct.worker import DRAIN, Failed, LogMessage, Message, StatusReport

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "ecomflow.pipeline.direct.worker")

_NOTHING = PipelineStatus("running")
_decoder = msgspec.json.Decoder(Message)


def run_workers(
    settings: Settings,
    drain: threading.Event,
    on_event: Callable[[str], None],
    on_report: Callable[[PipelineStatus], None] = lambda _: None,
    metrics_port: int | None = None,
    command: Sequence[str] = COMMAND,
    restarts: Restarts = RESTARTS,
    report_seconds: float = launch.REPORT_SECONDS,
) -> PipelineStatus:
    """Run the local pipeline in ``settings.processes`` processes until ``drain`` is set; otherwise like ``launch.run_here``.

    If an error that a restart can't fix ends one of them, ``drain`` is set, the others drain, and the error is raised here.
    """
    with launch.held(settings.state_path):
        workers = [_Worker(settings, command, drain, on_event, restarts) for _ in range(settings.processes)]
        with _alive(workers, drain):
            for worker in workers:
                worker.has_reported.wait()
            first = launch.first_status(settings, Processes(len(workers)), metrics_port)
            reporter = Reporter(first, lambda: _known(workers), launch.in_file(settings.state_path, on_report), report_seconds)
            return launch.report_while(lambda _: _wait(workers), reporter)


def merged(statuses: Iterable[PipelineStatus]) -> dict[str, Any]:
    """The fields that ``statuses`` count, together: counters, restarts and memory summed; of the other gauges the greatest, and
    the last restart of any.

    Their times are by the wall clock as it is set now.
    """
    now = moment()
    counters: Counter[str] = Counter()
    gauges: dict[str, float] = {}
    waits, restarts, last_restarts = None, 0, []
    for status in (retimed(status, now) for status in statuses):
        counters.update(status.counters)
        for name, value in status.gauges.items():
            known = gauges.get(name, 0.0)
            gauges[name] = known + value if name == "memory_bytes" else max(known, value)
        waits, restarts = waits or status.waiting_for, restarts + status.restarts
        last_restarts += [] if status.last_restart is None else [status.last_restart]
    return {
        "counters": dict(counters),
        "gauges": gauges,
        "waiting_for": waits,
        "restarts": restarts,
        "last_restart": max(last_restarts, default=None),
    }


class _Worker:
    """One engine: its process, and the next one if that dies, run by a thread that ends when the pipeline drains."""

    def __init__(
        self,
        settings: Settings,
        command: Sequence[str],
        drain: threading.Event,
        on_event: Callable[[str], None],
        restarts: Restarts,
    ) -> None:
        self.has_reported = threading.Event()
        self.failure: EcomflowError | None = None
        self.last_failure: tuple[float, str] | None = None
        # The merged status of the dead processes, and that of the current one. Replaced together, so that nothing counts twice.
        self.known = (_NOTHING, _NOTHING)
        self.process: subprocess.Popen[bytes] | None = None
        self.thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._settings = settings
        self._command = command
        self._drain = drain
        self._on_event = on_event
        self._restarts = restarts

    def let_go(self) -> None:
        """Drain its process."""
        if (process := self.process) is not None and process.stdin is not None:
            with suppress(OSError, ValueError):  # it is dead, or is already draining
                process.stdin.write(DRAIN)
                process.stdin.close()

    def kill(self) -> None:
        """Kill its process if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()

    def _run(self) -> None:
        pause = self._restarts.first_pause
        while not self._drain.is_set():
            began = time.monotonic()
            try:
                death = self._run_once()
            except OSError as error:
                death = f"A process of the pipeline could not be started: {error.strerror}."
            self.has_reported.set()
            if self._drain.is_set():
                break
            if time.monotonic() - began > self._restarts.well_after:
                pause = self._restarts.first_pause
            self._note(death)
            sentence = f"{death} A new one starts in {pause:.0f} s."
            log.warning(sentence, extra=logs.NOT_ON_TERMINAL)
            self._on_event(sentence)
            self._drain.wait(pause)
            pause = min(pause * 2, self._restarts.longest_pause)
        self.has_reported.set()

    def _run_once(self) -> str:
        """Start a process and handle its messages until it ends. Returns how it ended."""
        pipe = subprocess.PIPE
        # In its own session, because the terminal's Ctrl-C is for the supervising process.
        with subprocess.Popen(self._command, stdin=pipe, stdout=pipe, start_new_session=True, bufsize=0) as process:
            self.process = process
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(OSError):  # it has died already, which shows below as the end of its output
                process.stdin.write(msgspec.json.encode(self._settings) + b"\n")
            if self._drain.is_set():  # set before this process could be drained by ``let_go``
                self.let_go()
            with open(process.stdout.fileno(), "rb", closefd=False) as output:  # buffered, unlike standard input
                self._take_all(output)
            code = process.wait()
        dead, last = self.known
        self.known = (_buried(dead, last, killed=not self._drain.is_set()), _NOTHING)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return f"Process {process.pid} of the pipeline {how}."

    def _take_all(self, output: IO[bytes]) -> None:
        for line in output:
            try:
                message = _decoder.decode(line)
            except msgspec.MsgspecError:  # a truncated message of a process that was killed, or output of something else
                log.warning("A process of the pipeline printed: %s", line.decode("utf-8", "replace").rstrip())
                continue
            self._take(message)

    def _take(self, message: Message) -> None:
        match message:
            case StatusReport(status):
                if status.last_failure is not None and status.last_failure != self.known[1].last_failure:
                    self._note(status.last_failure)
                self.known = (self.known[0], status)
                self.has_reported.set()
            case LogMessage(line):
                logging.getLogger(line.logger).handle(logs.record_of(line))
            case Failed(kind, text, remedy):
                self.failure = getattr(errors, kind, EcomflowError)(text, remedy)
                self._drain.set()

    def _note(self, failure: str) -> None:
        self.last_failure = (time.monotonic(), failure)


def _buried(dead: PipelineStatus, last: PipelineStatus, *, killed: bool) -> PipelineStatus:
    """``dead`` merged with ``last``, the status of a process that has died now; its memory no longer counts."""
    now = moment()
    last = retimed(last, now)
    gauges = {name: value for name, value in last.gauges.items() if name != "memory_bytes"}
    restart: dict[str, Any] = {"restarts": last.restarts + 1, "last_restart": now.wall} if killed else {}
    ended = msgspec.structs.replace(last, gauges=gauges, waiting_for=None, **restart)
    return msgspec.structs.replace(_NOTHING, **merged((dead, ended)), updated=now.wall, updated_steady=now.steady)


def _known(workers: Sequence[_Worker]) -> dict[str, Any]:
    """The merged status of all processes, as fields of the pipeline's status."""
    failures = [worker.last_failure for worker in workers if worker.last_failure is not None]
    pids = tuple(worker.process.pid for worker in workers if worker.process is not None and worker.process.returncode is None)
    return {
        **merged(status for worker in workers for status in worker.known),
        "last_failure": max(failures)[1] if failures else None,
        "processes": Processes(len(workers), pids),
    }


@contextmanager
def _alive(workers: Sequence[_Worker], drain: threading.Event) -> Iterator[None]:
    """Run the workers' processes inside the block. Afterwards none is left, however the block ends."""

    def let_go() -> None:
        drain.wait()
        for worker in workers:
            worker.let_go()

    threads = [*(worker.thread for worker in workers), threading.Thread(target=let_go, name="drain", daemon=True)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        drain.set()
        for worker in workers:
            worker.kill()
        for thread in threads:
            thread.join()


def _wait(workers: Sequence[_Worker]) -> None:
    """Wait until each has drained. Raises the error that ended one of them.

    A join waits for no lock that a signal handler, which sets an event, could need too.
    """
    for worker in workers:
        worker.thread.join()
    for worker in workers:
        if worker.failure is not None:
            raise worker.failure
