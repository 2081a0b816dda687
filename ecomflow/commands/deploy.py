"""``ecomflow deploy``: start the pipeline, on this machine or on Dataflow."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.tree import Tree

from ecomflow.commands.job_view import show_local
from ecomflow.commands.setting_options import JOB, OPTIONS_OF_JOB, RESOURCES, TARGET, with_settings
from ecomflow.commands.shared import DATAFLOW, DIRECT, AsJson, examples, options_given, runs_here, target_line
from ecomflow.config import Settings, flag_of
from ecomflow.doctor import preflight, require
from ecomflow.errors import ConfigError
from ecomflow.gcp.target import LiveTarget, open_target
from ecomflow.jobs.metrics import MetricsReader
from ecomflow.metrics.prometheus import served
from ecomflow.metrics.record import recorded
from ecomflow.pipeline.direct import launch, logs, workers
from ecomflow.pipeline.direct.launch import OUTPUT_FILE
from ecomflow.pipeline.direct.memory import share_one_arena
from ecomflow.terminal.console import err, note, out, plain, say, show_json

Runner = Annotated[
    str | None,
    typer.Option("--runner", help=f"{DIRECT}: this machine. {DATAFLOW}: default with a project.", show_default=False),
]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="On this machine: run in the background.")]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        help="On this machine: serve Prometheus metrics on this port of 127.0.0.1; 0: a free port.",
        show_default=False,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the graph and all options without starting anything. Works offline.")
]
BeamOptions = Annotated[
    list[str] | None, typer.Argument(metavar="[-- BEAM OPTIONS]", help="Additional Beam options, as --name=value.")
]


@examples(
    "ecomflow deploy",
    "ecomflow deploy --detach",
    "ecomflow deploy --project my-project --dry-run",
    "ecomflow deploy --project my-project --max-workers 4 --label team=shop -- --disk_size_gb=30",
)
@with_settings(*TARGET, "region", "processes", *RESOURCES, "other_users", *JOB)
def deploy(
    settings: Settings,
    context: typer.Context,
    runner: Runner = None,
    detach: Detach = False,
    metrics_port: MetricsPort = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    beam_options: BeamOptions = None,
) -> None:
    """Run the streaming pipeline: Pub/Sub to BigQuery, refused messages to the bucket.

    With a project it submits a job to Dataflow, which keeps running when the command has ended. Without one the pipeline runs on
    this machine, on Beam's FnApiRunner. Ctrl-C finishes and acknowledges the current batch and releases the remaining messages; a
    second Ctrl-C stops at once.
    """
    if runs_here(settings, runner):
        of_job = {flag_of(OPTIONS_OF_JOB[name]): True for name in options_given(context, OPTIONS_OF_JOB)}
        _check_here({**of_job, "--dry-run": dry_run, "--json": as_json, "Beam options": bool(beam_options)})
        _run_here(settings, detach, metrics_port)
        return
    processes = bool(options_given(context, ["processes"]))
    _check_there({"--processes": processes, "--detach": detach, "--metrics-port": metrics_port is not None})
    _submit(settings, beam_options or [], dry_run=dry_run, as_json=as_json)


def _check_here(given: dict[str, bool]) -> None:
    if strangers := [name for name, is_given in given.items() if is_given]:
        raise ConfigError(
            f"{strangers[0]} can only be used on Dataflow, but the pipeline would run on this machine.",
            f"Omit it, or run: ecomflow deploy --runner {DATAFLOW} --project my-project",
        )


def _check_there(given: dict[str, bool]) -> None:
    for name, is_given in given.items():
        if is_given:
            raise ConfigError(
                f"{name} can only be used on this machine, but the pipeline would run on Dataflow, where it is always detached.",
                f"Omit it, or run: ecomflow deploy --runner {DIRECT}",
            )


def _run_here(settings: Settings, detach: bool, metrics_port: int | None) -> None:
    share_one_arena()  # before any thread creates its own
    say(target_line(settings))
    launch.check_ready(settings)
    if detach:
        with err.status("Starting the pipeline…"):
            status = launch.start_detached(settings, metrics_port=metrics_port)
        say(f"The pipeline runs as process {status.pid}; its log is {settings.state_path / launch.LOG_FILE}.")
        _say_where_metrics_are(status.metrics_port)
        say("See how it runs: ecomflow job status. Drain it: ecomflow job drain")
        return
    run = launch.run_here if settings.processes == 1 else workers.run_workers
    with (
        _drained_by_signals() as drain,
        _metrics_served(settings, metrics_port) as port,
        _metrics_recorded(settings),
        _logged_here(settings),
    ):
        say(f"Reading {settings.subscription_path}. Ctrl-C drains.")
        _say_where_metrics_are(port)
        with err.status("Starting…") as line:
            ended = run(settings, drain, say, _live(line), port)
    show_local(ended)


def _say_where_metrics_are(port: int | None) -> None:
    if port is not None:
        say(f"Metrics: http://127.0.0.1:{port}/metrics")


@contextmanager
def _metrics_served(settings: Settings, port: int | None) -> Iterator[int | None]:
    """Serves the pipeline's metrics if ``port`` is given; yields the bound port."""
    if port is None:
        yield None
        return

    with LiveTarget(settings) as target:
        reader = MetricsReader(settings, target.resolved, here=True)
        with served(reader.read, port, settings.other_users) as bound:
            yield bound


@contextmanager
def _metrics_recorded(settings: Settings) -> Iterator[None]:
    """Records the pipeline's metrics in the state folder, for the charts of the page."""
    with (
        LiveTarget(settings) as target,
        recorded(MetricsReader(settings, target.resolved, here=True).read, settings.state_path),
    ):
        yield


@contextmanager
def _logged_here(settings: Settings) -> Iterator[None]:
    """Also logs warnings to standard error, unless that is the output file of a background pipeline."""
    output = settings.state_path / OUTPUT_FILE
    if output.exists() and os.path.samestat(os.fstat(2), output.stat()):
        yield
        return
    with logs.handled_by(logs.ToTerminal()):
        yield


def _live(line: Any) -> Callable[[Any], None]:
    """Updates one line of the terminal: events received and their rate, rows written, events refused."""
    last = [0, 0.0]

    def show(status: Any) -> None:
        received = status.counters.get("received", 0)
        took = status.updated_steady - last[1]
        pace = (received - last[0]) / took if last[1] and took > 0 else 0.0
        last[:] = [received, status.updated_steady]
        rows, refused = (_sum_of(status.counters, kind) for kind in ("rows/", "refused/"))
        line.update(plain(f"{received:,} events received ({pace:,.0f}/s), {rows:,} rows written, {refused:,} refused"))

    return show


def _sum_of(counters: dict[str, int], prefix: str) -> int:
    return sum(amount for name, amount in counters.items() if name.startswith(prefix))


def _submit(settings: Settings, extra: list[str], *, dry_run: bool, as_json: bool) -> None:
    note(target_line(settings)) if as_json else say(target_line(settings))
    with err.status("Building the graph…"):  # importing Beam takes most of the time
        from ecomflow.pipeline.dataflow import submit
    with open_target(settings, running=False) as target:
        submit.check(target, extra)
        if dry_run:
            planned = submit.dry_run(settings, extra)
            show_json(planned) if as_json else _show_plan(planned)
            return
        with err.status("Checking…"):
            require(preflight(target, for_dataflow=True))
        with err.status("Staging and submitting…"):
            job = submit.submit(target, extra=extra)
    if as_json:
        show_json(job)
        return
    say(f"Dataflow has accepted job {job.name} ({job.job_id}); it is {job.state}.")
    say(job.url)
    say("See how it runs: ecomflow job status. See its errors: ecomflow job logs. Drain it: ecomflow job drain")


def _show_plan(planned: Any) -> None:

    def grow(branch: Tree, steps: Any) -> Tree:
        for step in steps:
            label = plain(step.name).append(f"  {', '.join(step.parts)}", style="dim")
            grow(branch.add(label), step.then)
        return branch

    out.print(grow(Tree("The graph (each step with the steps that read its output below it)", style="default"), planned.graph))
    say("\nThe options:")
    for option in planned.options:
        say(f"  {option}")
    say("\nNothing was started.")


class _drained_by_signals:  # noqa: N801  # a context manager, used like a function
    """SIGINT and SIGTERM set the event. A second SIGINT raises KeyboardInterrupt."""

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

        note("Draining: finishing and acknowledging the current batch. Ctrl-C again stops at once.")
        self._drain.set()
