"""``ecomflow top``: the pipeline's metrics, redrawn in the terminal until it is stopped, or printed once for a script."""

from __future__ import annotations

import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
import typer
from rich.live import Live

from ecomflow.commands.job import JobName, Runner, is_here
from ecomflow.commands.setting_options import EVENTS, JOBS, with_settings
from ecomflow.commands.shared import AsJson, examples
from ecomflow.commands.top_view import top_view
from ecomflow.config import Settings
from ecomflow.errors import EcomflowError
from ecomflow.gcp.target import LiveTarget
from ecomflow.jobs.metrics import MetricsReader
from ecomflow.metrics.history import FAILING, History, Report, report
from ecomflow.metrics.snapshot import ENDED
from ecomflow.terminal.amounts import time_at
from ecomflow.terminal.console import err, out, show_json

# The local pipeline reports metrics every second, Dataflow about twice a minute.
_LOCAL_INTERVAL, _CLOUD_INTERVAL = 1.0, 30.0
_REDRAW_SECONDS = 0.7
# On a terminal that can't redraw, every view is printed below the last one.
_PLAIN_INTERVAL = 5.0
# A reading that is later than this is reported.
_SLOW_SECONDS = 5.0
_ANY_HEIGHT = 10_000


@examples(
    "ecomflow top",
    "ecomflow top --once",
    "ecomflow top --project my-project --json",
)
@with_settings(*JOBS, *EVENTS, "dataflow.job_name")
def top(
    settings: Settings,
    job: JobName = None,
    once: Annotated[bool, typer.Option("--once", help="Print one view and exit, as if the output were not a terminal.")] = False,
    interval: Annotated[
        float | None,
        typer.Option(min=0.2, help="Seconds between readings. Default: 1 on this machine, 30 on Dataflow.", show_default=False),
    ] = None,
    runner: Runner = None,
    as_json: AsJson = False,
) -> None:
    """Watch the pipeline live: throughput, latency, backlog, refused messages, rows. Quit with q or Ctrl-C.

    On a terminal that can't redraw (TERM=dumb), a new view is printed every 5 seconds, or every --interval.

    --once and --json take two readings, because rates need two. They exit with 4 if no pipeline runs, if it failed, was killed or
    cancelled, and if it does not do its work: it waits, restarts, hangs or is stuck.
    """
    here = is_here(settings, runner, job)
    seconds = interval or (_LOCAL_INTERVAL if here else _CLOUD_INTERVAL)
    with LiveTarget(settings) as target:
        reader = MetricsReader(settings, target.resolved, here=here, job=job)
        if once or as_json or not out.is_terminal:
            _show_once(reader, seconds, as_json)
        elif out.is_dumb_terminal:
            _print_repeatedly(reader, interval or max(seconds, _PLAIN_INTERVAL))
        else:
            _watch(_Readings(reader, seconds))


def _show_once(reader: Any, seconds: float, as_json: bool) -> None:
    history = History()
    with err.status("Reading the metrics twice…"):
        metrics = reader.read()
        history.add(metrics, time.time())
        if metrics.state not in ENDED:
            time.sleep(seconds)  # a rate needs two readings
            metrics = reader.read()
            history.add(metrics, time.time())
    found = report(history)
    if as_json:
        show_json(_facts(found))
    else:
        out.print(top_view(history, out.width, _ANY_HEIGHT))
    if found is None or found.condition in FAILING:
        raise typer.Exit(4)


def _facts(found: Report | None) -> dict[str, Any] | None:
    """The report for a program, with times as times."""
    if found is None:
        return None
    metrics = found.metrics
    times = {name: time_at(getattr(metrics, name)) for name in ("at", "started", "backlog_at")}
    tables = [msgspec.structs.asdict(one) | {"last_append": time_at(one.last_append)} for one in metrics.tables]
    return msgspec.structs.asdict(found) | {"metrics": msgspec.structs.asdict(metrics) | times | {"tables": tables}}


def _print_repeatedly(reader: Any, seconds: float) -> None:
    """Prints a view after each reading but the first, until Ctrl-C, for a terminal that can't redraw."""
    history = History()
    try:
        history.add(reader.read(), time.time())
        while True:
            time.sleep(seconds)
            history.add(reader.read(), time.time())
            out.print(top_view(history, out.width, _ANY_HEIGHT))
    except KeyboardInterrupt:
        return


def _watch(readings: _Readings) -> None:

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the terminal is restored on exit
    try:
        with readings, _keys() as keys, Live(console=out, screen=True, auto_refresh=False) as live:
            while True:
                live.update(readings.view(*out.size), refresh=True)
                if keys.pressed("q", _REDRAW_SECONDS):
                    return
    except KeyboardInterrupt:
        return


class _Readings:
    """Reads the metrics on a separate thread, so that a service that does not answer blocks neither the view nor the keys."""

    def __init__(self, reader: Any, seconds: float) -> None:
        self._reader = reader
        self._seconds = seconds
        self._history = History()
        self._notice: str | None = None
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read_on, name="metrics", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()  # without joining the thread, which may be waiting for a service

    def view(self, width: int, height: int) -> Any:
        with self._lock:
            late = time.monotonic() - self._begun - self._seconds
            slow = f"Waiting for the metrics: no answer for {late:.0f} s." if late > _SLOW_SECONDS else None
            return top_view(self._history, width, height, slow or self._notice)

    def _read_on(self) -> None:
        while not self._ended.is_set():
            notice = metrics = None
            try:
                metrics = self._reader.read()
            except EcomflowError as error:
                notice = str(error)
            with self._lock:
                self._begun, self._notice = time.monotonic(), notice
                if metrics is not None:
                    self._history.add(metrics, time.time())
            self._ended.wait(self._seconds)


class _Keys:
    """Key presses; none if the input is not a terminal."""

    def __init__(self, is_terminal: bool) -> None:
        self._is_terminal = is_terminal

    def pressed(self, key: str, seconds: float) -> bool:
        """Whether ``key`` is pressed within ``seconds``. Another one ends the wait too."""
        if not self._is_terminal:
            time.sleep(seconds)
            return False
        readable, _, _ = select.select([sys.stdin], [], [], seconds)
        return bool(readable) and key in sys.stdin.read(1).lower()


@contextmanager
def _keys() -> Iterator[_Keys]:
    """Switches the terminal to deliver keys unbuffered and without echo, and restores it at the end."""
    import termios
    import tty

    if not sys.stdin.isatty():
        yield _Keys(False)
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield _Keys(True)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
