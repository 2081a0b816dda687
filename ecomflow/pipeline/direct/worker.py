"""One engine in its own process: ``Settings`` in on standard input; its status and its log out on standard output, as JSON lines.

``workers.py`` starts it. It drains when it reads ``drain`` on standard input, or when that is closed. If it is closed without
``drain``, the parent process is gone, so this process ends itself soon.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from io import FileIO

import msgspec

from ecomflow.config import Settings
from ecomflow.errors import EcomflowError
from ecomflow.pipeline.direct import launch, logs
from ecomflow.pipeline.direct.launch import PipelineStatus, Reporter
from ecomflow.pipeline.direct.memory import share_one_arena

DRAIN = b"drain\n"

# A drain takes a second or two. If it waits for a service it may take minutes, and nobody would end it.
_ORPHAN_SECONDS = 15.0

log = logging.getLogger("ecomflow.pipeline.direct.worker")  # not __name__, which is __main__ here


class StatusReport(msgspec.Struct, frozen=True, tag="status"):
    """The status of the engine: every second, and at its end."""

    status: PipelineStatus


class LogMessage(msgspec.Struct, frozen=True, tag="log"):
    """A line of this process's log."""

    line: logs.LogLine


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The error that has ended the engine, because a restart can't fix it: its class in ``errors.py``, and its arguments."""

    kind: str
    message: str
    remedy: str | None


Message = StatusReport | LogMessage | Failed


def main() -> None:
    """Run one engine until it is drained. Exits with the code of the error that ended it, 1 after a crash."""
    send = _sender()
    # Unbuffered, because a thread that waits in a buffered read at the end of the process would abort it.
    life_line = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115  # as long as the process
    if not (text := life_line.readline()):
        return  # the parent process is gone already
    settings = msgspec.json.decode(text, type=Settings)
    drain = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: drain.set())
    threading.Thread(target=_watch, args=(life_line, drain), name="life line", daemon=True).start()
    with logs.handled_by(logs.ToParent(lambda line: send(LogMessage(line)))):
        sys.exit(_run(settings, drain, send))


def _run(settings: Settings, drain: threading.Event, send: Callable[[Message], None]) -> int:
    share_one_arena()
    from ecomflow.pipeline.config import pipeline_config
    from ecomflow.pipeline.direct.engine import run_until_drained
    from ecomflow.pipeline.runtime import Runtime

    runtime = Runtime(pipeline_config(settings))

    def report(status: PipelineStatus) -> None:
        with suppress(OSError):  # the parent process is gone; then standard input is closed too, which drains
            send(StatusReport(status))

    def work(reporter: Reporter) -> None:
        run_until_drained(runtime, drain, lambda why, pause: log.warning(reporter.restarting(why, pause)))

    first = launch.first_status(settings, launch.Processes(1, (os.getpid(),)))
    try:
        launch.report_while(work, Reporter(first, runtime.counters.snapshot, report), f"Process {os.getpid()}")
    except EcomflowError as error:
        with suppress(OSError):
            send(Failed(type(error).__name__, error.message, error.remedy))
        return error.exit_code
    except Exception:  # noqa: BLE001  # it was logged with its traceback
        return 1
    return 0


def _sender() -> Callable[[Message], None]:
    """A function that writes messages as lines to standard output. Whatever else is printed there now goes to standard error."""
    output = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    lock = threading.Lock()

    def send(message: Message) -> None:
        rest = msgspec.json.encode(message) + b"\n"
        with lock:
            while rest:
                rest = rest[os.write(output, rest) :]

    return send


def _watch(life_line: FileIO, drain: threading.Event) -> None:
    word = life_line.readline()
    drain.set()
    if word != DRAIN:
        log.warning("The parent process is gone: draining.")
        threading.Event().wait(_ORPHAN_SECONDS)
        os._exit(1)


if __name__ == "__main__":
    main()
