"""One engine in a process of its own: ``Settings`` come in on standard input, how it fares and what it logs go out on standard
output, a JSON line each.

``workers.py`` starts it. Its standard input is its life line: the word ``drain`` there, or the line's end, drains it. An end
without the word means that nobody looks after this process any more, so that it then may not stay for long.
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

# A drain takes a second or two; one that waits for a service may take minutes, and nobody would end it.
_ORPHAN_SECONDS = 15.0

log = logging.getLogger("ecomflow.pipeline.direct.worker")  # not __name__, which is __main__ here


class Told(msgspec.Struct, frozen=True, tag="told"):
    """How the engine fares: each second, and at its end."""

    status: PipelineStatus


class Said(msgspec.Struct, frozen=True, tag="said"):
    """What this process logs."""

    line: logs.LogLine


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The error that no restart mends, which has ended the engine: the name of its class in ``errors.py``, and its arguments."""

    kind: str
    message: str
    remedy: str | None


Message = Told | Said | Failed


def main() -> None:
    """Run one engine until it is drained. Exits with the code of the error that ended it, 1 after a crash."""
    send = _sender()
    # Unbuffered: a thread that waits within a buffer at the end of the process would abort it.
    life_line = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115  # as long as the process
    if not (text := life_line.readline()):
        return  # who started it is gone already
    settings = msgspec.json.decode(text, type=Settings)
    drain = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: drain.set())
    threading.Thread(target=_watch, args=(life_line, drain), name="life line", daemon=True).start()
    with logs.handled_by(logs.ToParent(lambda line: send(Said(line)))):
        sys.exit(_run(settings, drain, send))


def _run(settings: Settings, drain: threading.Event, send: Callable[[Message], None]) -> int:
    share_one_arena()
    from ecomflow.pipeline.config import pipeline_config
    from ecomflow.pipeline.direct.engine import run_until_drained
    from ecomflow.pipeline.runtime import Runtime

    runtime = Runtime(pipeline_config(settings))

    def tell(status: PipelineStatus) -> None:
        with suppress(OSError):  # nobody reads it any more: then the life line is cut as well, which drains
            send(Told(status))

    def work(reporter: Reporter) -> None:
        run_until_drained(runtime, drain, lambda why, pause: log.warning(reporter.restarting(why, pause)))

    first = launch.first_status(settings, launch.Processes(1, (os.getpid(),)))
    try:
        launch.tell_while(work, Reporter(first, runtime.counters.snapshot, tell), f"Process {os.getpid()}")
    except EcomflowError as error:
        with suppress(OSError):
            send(Failed(type(error).__name__, error.message, error.remedy))
        return error.exit_code
    except Exception:  # noqa: BLE001  # it is in the log, with its traceback
        return 1
    return 0


def _sender() -> Callable[[Message], None]:
    """What writes messages to standard output, a line each. What others print there goes to standard error from now on."""
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
