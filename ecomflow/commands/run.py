"""``ecomflow deploy`` and ``ecomflow job``: the pipeline's life."""

from __future__ import annotations

import signal
import threading
from typing import Annotated, Any

import typer

from ecomflow.commands.shared import AsJson, Project, settings_of, target_line

jobs = typer.Typer(no_args_is_help=True, help="The pipeline that runs: its state, and its end.")

DIRECT, DATAFLOW = "DirectRunner", "DataflowRunner"

Runner = Annotated[str, typer.Option("--runner", help=f"{DIRECT}: this machine.")]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Run in the background; see: ecomflow job status.")]


def deploy(project: Project = None, runner: Runner = DIRECT, detach: Detach = False) -> None:
    """Run the streaming pipeline: Pub/Sub to BigQuery, refused messages to the bucket. Ctrl-C drains it.

    It runs on this machine, on Beam's FnApiRunner. Draining finishes the batch in hand, acknowledges it, and gives back the rest.
    """
    from ecomflow.console import err, say
    from ecomflow.errors import ConfigError
    from ecomflow.pipeline import launch

    if runner != DIRECT:
        known = "is not built yet" if runner == DATAFLOW else "is unknown"
        raise ConfigError(f"The runner {runner} {known}; expected {DIRECT}.", f"Run: ecomflow deploy --runner {DIRECT}")
    settings = settings_of(project)
    say(target_line(settings))
    launch.check_ready(settings)
    if detach:
        with err.status("Starting the pipeline…"):
            status = launch.start_detached(settings)
        say(f"The pipeline runs as process {status.pid}; its log is {settings.state_path / launch.LOG_FILE}.")
        say("Look at it with: ecomflow job status. Drain it with: ecomflow job drain")
        return
    say(f"Reading {settings.subscription_path}. Ctrl-C drains.")
    with _drained_by_signals() as drain:
        ended = launch.run_here(settings, drain, say)
    _show(ended)


@jobs.command(epilog="Examples:\n\n  ecomflow job status\n\n  ecomflow job status --json")
def status(as_json: AsJson = False) -> None:
    """How the local pipeline fares: its state, its counters, its restarts."""
    from ecomflow.console import show_json
    from ecomflow.pipeline.launch import read_status

    found = read_status(settings_of(None).state_path)
    if as_json:
        show_json(found)
    else:
        _show(found)
    if found.state in ("none", "gone", "failed"):
        raise typer.Exit(4)


@jobs.command(epilog="Example:\n\n  ecomflow job drain")
def drain() -> None:
    """Let the local pipeline finish what it has in hand, then end it."""
    from ecomflow.console import err
    from ecomflow.pipeline.launch import drain_detached

    with err.status("Draining…"):
        ended = drain_detached(settings_of(None))
    _show(ended)


def _show(status: Any) -> None:
    from ecomflow.console import say, show_counts

    if status.counters:
        show_counts("Counters of this run", dict(sorted(status.counters.items())))
    sentences = {
        "running": f"The pipeline runs as process {status.pid}.",
        "drained": "The pipeline is drained.",
        "failed": f"The pipeline failed: {status.last_failure}",
        "gone": f"The pipeline (process {status.pid}) was killed; what it had not acknowledged comes again. Run: ecomflow deploy",
        "none": "There is no local pipeline. Run: ecomflow deploy",
    }
    say(sentences[status.state] + (f" It restarted {status.restarts} times." if status.restarts else ""))


class _drained_by_signals:  # noqa: N801  # a context manager, used like a function
    """SIGINT and SIGTERM set the event; a second SIGINT interrupts at once."""

    def __enter__(self) -> threading.Event:
        self._drain = threading.Event()
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self._drain

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: object) -> None:
        if self._drain.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        from ecomflow.console import note

        note("Draining: the batch in hand is finished and acknowledged. Ctrl-C again ends at once.")
        self._drain.set()
