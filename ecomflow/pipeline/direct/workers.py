"""Settings in, a pipeline of several processes out: an engine each on the one subscription, and this process looks after them.

A process that dies is started again. What they tell is summed into the one status file, so that whoever reads it need not know.
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
from ecomflow.pipeline.direct.worker import DRAIN, Failed, Message, Said, Told

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
    """Run the local pipeline in ``settings.processes`` processes until ``drain`` is set: as ``launch.run_here`` otherwise.

    An error that no restart mends ends one of them; then ``drain`` is set, the others drain, and it is raised here.
    """
    with launch.held(settings.state_path):
        workers = [_Worker(settings, command, drain, on_event, restarts) for _ in range(settings.processes)]
        with _alive(workers, drain):
            for worker in workers:
                worker.has_told.wait()
            first = launch.first_status(settings, Processes(len(workers)), metrics_port)
            reporter = Reporter(first, lambda: _known(workers), launch.in_file(settings.state_path, on_report), report_seconds)
            return launch.tell_while(lambda _: _wait(workers), reporter)


def merged(statuses: Iterable[PipelineStatus]) -> dict[str, Any]:
    """The fields that ``statuses`` count, together: counters, restarts and memory summed, of the other gauges the greatest.

    Their times are by the wall clock as it is set now.
    """
    now = moment()
    counters: Counter[str] = Counter()
    gauges: dict[str, float] = {}
    waits, restarts = None, 0
    for status in (retimed(status, now) for status in statuses):
        counters.update(status.counters)
        for name, value in status.gauges.items():
            known = gauges.get(name, 0.0)
            gauges[name] = known + value if name == "memory_bytes" else max(known, value)
        waits, restarts = waits or status.waiting_for, restarts + status.restarts
    return {
        "counters": dict(counters),
        "gauges": gauges,
        "waiting_for": waits,
        "restarts": restarts,
    }


class _Worker:
    """One engine: its process, and the next where that dies, on a thread of its own that ends when all are to drain."""

    def __init__(
        self,
        settings: Settings,
        command: Sequence[str],
        drain: threading.Event,
        on_event: Callable[[str], None],
        restarts: Restarts,
    ) -> None:
        self.has_told = threading.Event()
        self.failure: EcomflowError | None = None
        self.last_failure: tuple[float, str] | None = None
        # What the dead processes had told, summed, and what the living one tells: changed as one, so that nothing counts twice.
        self.known = (_NOTHING, _NOTHING)
        self.process: subprocess.Popen[bytes] | None = None
        self.thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._settings = settings
        self._command = command
        self._drain = drain
        self._on_event = on_event
        self._restarts = restarts

    def let_go(self) -> None:
        """Have its process drain."""
        if (process := self.process) is not None and process.stdin is not None:
            with suppress(OSError, ValueError):  # it is dead, or has been told
                process.stdin.write(DRAIN)
                process.stdin.close()

    def kill(self) -> None:
        """End its process at once, where it lives."""
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
            self.has_told.set()
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
        self.has_told.set()

    def _run_once(self) -> str:
        """Start a process and take what it sends until it ends; then how it ended."""
        pipe = subprocess.PIPE
        # A session of its own: the terminal's Ctrl-C is for the process that looks after it.
        with subprocess.Popen(self._command, stdin=pipe, stdout=pipe, start_new_session=True, bufsize=0) as process:
            self.process = process
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(OSError):  # it has died already, which its output tells
                process.stdin.write(msgspec.json.encode(self._settings) + b"\n")
            if self._drain.is_set():  # since before this process was there to be let go
                self.let_go()
            with open(process.stdout.fileno(), "rb", closefd=False) as output:  # buffered, as standard input must not be
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
            except msgspec.MsgspecError:  # the half of one, of a process that was killed; or what something printed
                log.warning("A process of the pipeline printed: %s", line.decode("utf-8", "replace").rstrip())
                continue
            self._take(message)

    def _take(self, message: Message) -> None:
        match message:
            case Told(status):
                if status.last_failure is not None and status.last_failure != self.known[1].last_failure:
                    self._note(status.last_failure)
                self.known = (self.known[0], status)
                self.has_told.set()
            case Said(line):
                logging.getLogger(line.logger).handle(logs.record_of(line))
            case Failed(kind, text, remedy):
                self.failure = getattr(errors, kind, EcomflowError)(text, remedy)
                self._drain.set()

    def _note(self, failure: str) -> None:
        self.last_failure = (time.monotonic(), failure)


def _buried(dead: PipelineStatus, last: PipelineStatus, *, killed: bool) -> PipelineStatus:
    """What the dead processes had told, with what the one told ``last`` that has died now; its memory is free again."""
    gauges = {name: value for name, value in last.gauges.items() if name != "memory_bytes"}
    ended = msgspec.structs.replace(last, gauges=gauges, waiting_for=None, restarts=last.restarts + killed)
    now = moment()
    return msgspec.structs.replace(_NOTHING, **merged((dead, ended)), updated=now.wall, updated_steady=now.steady)


def _known(workers: Sequence[_Worker]) -> dict[str, Any]:
    """What all processes have told, as fields of the pipeline's status."""
    failures = [worker.last_failure for worker in workers if worker.last_failure is not None]
    pids = tuple(worker.process.pid for worker in workers if worker.process is not None and worker.process.returncode is None)
    return {
        **merged(status for worker in workers for status in worker.known),
        "last_failure": max(failures)[1] if failures else None,
        "processes": Processes(len(workers), pids),
    }


@contextmanager
def _alive(workers: Sequence[_Worker], drain: threading.Event) -> Iterator[None]:
    """Within, each worker's process lives; afterwards none does, however it comes to that."""

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
    """Until each has drained. Raises the error that ended one of them.

    Joining waits on no lock that a signal's handler, which sets an event, could want as well.
    """
    for worker in workers:
        worker.thread.join()
    for worker in workers:
        if worker.failure is not None:
            raise worker.failure
