"""``ecomflow job``: inspect and manage the running pipeline, on Dataflow or on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, get_args

import msgspec
import typer

from ecomflow.commands.confirmation import confirm
from ecomflow.commands.job_view import fields_of, print_lines, show_detail, show_job_here, show_local, show_plan, status_facts
from ecomflow.commands.setting_options import JOB, JOBS, OPTIONS_OF_JOB, RESOURCES, TARGET, with_settings
from ecomflow.commands.shared import (
    DATAFLOW,
    DIRECT,
    AsJson,
    example_lines,
    group_of_commands,
    moment_of,
    options_given,
    runs_here,
)
from ecomflow.config import Settings, flag_of
from ecomflow.doctor import preflight, require
from ecomflow.errors import ConfigError
from ecomflow.gcp.target import Target, open_target
from ecomflow.jobs import local
from ecomflow.jobs.records import Job, Level, Metrics
from ecomflow.metrics.history import FAILING, Condition
from ecomflow.pipeline.direct.launch import drain_detached, read_status
from ecomflow.terminal.amounts import length
from ecomflow.terminal.console import err, say, show_counts, show_json, show_table

if TYPE_CHECKING:
    from ecomflow.jobs.client import JobsApi
    from ecomflow.pipeline.dataflow.submit import SubmittedJob

jobs = group_of_commands("Inspect, update, drain or cancel the running pipeline.")

JobName = Annotated[
    str | None,
    typer.Argument(metavar="[JOB]", help="Name or id of the job. Default: the newest named job_name.", show_default=False),
]
Runner = Annotated[
    str | None,
    typer.Option("--runner", help=f"{DATAFLOW} (default with a project) or {DIRECT} (this machine).", show_default=False),
]
_REDELIVERED = " Unacknowledged messages are delivered again."
Timeout = Annotated[float, typer.Option(min=0, help="Maximum wait in seconds.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")]


@jobs.command("list", epilog=example_lines("ecomflow job list", "ecomflow job list --all --project my-project"))
@with_settings(*JOBS, "dataflow.job_name")
def list_jobs(
    settings: Settings,
    everything: Annotated[bool, typer.Option("--all", help="All jobs in the region, not only ecomflow's.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of jobs.")] = 20,
    runner: Runner = None,
    as_json: AsJson = False,
) -> None:
    """List the jobs, newest first."""
    if is_here(settings, runner):
        found = local.jobs(settings)
    else:
        from ecomflow.jobs import service

        with _api(settings) as api:
            found = service.jobs(api, job_name=settings.dataflow.job_name, everything=everything, limit=limit)
    if as_json:
        show_json(found)
    elif not found:
        say("There are no jobs. Start one with: ecomflow deploy")
    else:
        rows = [(job.name, job.id, job.condition, length(job.age_seconds), job.kind, job.region) for job in found]
        show_table("", ("name", "id", "state", "age", "kind", "region"), rows, right=("age",))


@jobs.command(epilog=example_lines("ecomflow job status", "ecomflow job status --over 60 --json"))
@with_settings(*JOBS)
def status(
    settings: Settings,
    job: JobName = None,
    over: Annotated[float, typer.Option(min=0, help="Seconds over which to measure throughput.")] = 0.0,
    runner: Runner = None,
    as_json: AsJson = False,
) -> None:
    """Show a job's state, workers, throughput, lag, counters and recent errors.

    Exits with 4 if it failed, was killed or cancelled, if there is no local pipeline, and if the local one does not do its work:
    it waits for a service or a fix, restarts, hangs or is stuck.
    """
    if is_here(settings, runner, job):
        here = local.examine(settings)
        condition = here.condition
        found: Any = fields_of(here)
        show = partial(show_job_here, here)
    else:
        from ecomflow.jobs import service

        with _api(settings) as api:
            found = service.detail(api, _find(api, settings, job), over=over)
        condition = Condition(found.job.condition)
        show = partial(show_detail, found)
    if as_json:
        show_json(found)
    else:
        show()
    if condition.name in FAILING:
        raise typer.Exit(4)


@jobs.command(epilog=example_lines("ecomflow job logs --follow", "ecomflow job logs --level warning --since 2h"))
@with_settings(*JOBS)
def logs(
    settings: Settings,
    job: JobName = None,
    level: Annotated[str, typer.Option(help="Minimum level: debug, detailed, basic, warning or error.")] = "basic",
    since: Annotated[str | None, typer.Option(help="Maximum age, such as 10m, 2h, 3d.", show_default=False)] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep showing new lines until the job ends.")] = False,
    lines: Annotated[int, typer.Option(min=1, help="Number of lines of the local pipeline's log.")] = 50,
    runner: Runner = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Show Dataflow's messages about a job, or the end of the local pipeline's log (where basic means info)."""
    earliest = moment_of(since)
    if is_here(settings, runner, job):
        found = local.log_lines(settings, lines, least=_level(level), since=earliest, follow=follow)
        print_lines(map(msgspec.to_builtins, found) if as_json else local.for_people(found), as_json)
        return
    from ecomflow.jobs import service

    chosen = _level(level)
    read: Any = service.follow if follow else service.messages
    with _api(settings) as api:
        said = read(api, _find(api, settings, job), chosen, earliest)
        print_lines((msgspec.structs.asdict(message) for message in said), as_json)


@jobs.command(epilog=example_lines("ecomflow job metrics"))
@with_settings(*JOBS)
def metrics(settings: Settings, job: JobName = None, runner: Runner = None, as_json: AsJson = False) -> None:
    """Show all counters, ecomflow's own and Dataflow's."""
    if is_here(settings, runner, job):
        found = Metrics(dict(sorted(read_status(settings.state_path).counters.items())), {})
    else:
        from ecomflow.jobs import service

        with _api(settings) as api:
            found = service.metrics(api, _find(api, settings, job))
    if as_json:
        show_json(found)
        return
    if found.own:
        show_counts("ecomflow's counters", found.own)
    else:
        say("ecomflow has no counters yet.")
    if found.system:
        rows = [(name, f"{value:,.3f}".removesuffix(".000")) for name, value in found.system.items()]
        show_table("Dataflow's metrics", ("metric", "value"), rows, right=("value",))


@jobs.command(epilog=example_lines("ecomflow job drain", "ecomflow job drain --wait --timeout 600"))
@with_settings(*JOBS)
def drain(
    settings: Settings,
    job: JobName = None,
    wait: Wait = False,
    timeout: Timeout = 900.0,
    runner: Runner = None,
    as_json: AsJson = False,
) -> None:
    """Drain a job: it finishes the messages in flight, then ends. For the local pipeline the command always waits."""
    if is_here(settings, runner, job):
        with err.status("Draining…"):
            ended = drain_detached(settings)
        _show_here(ended, as_json)
        return
    from ecomflow.jobs import service

    with _api(settings) as api:
        asked = service.drain(api, _find(api, settings, job))
        _show_end(api, asked, "drained", wait, timeout, as_json)


@jobs.command(epilog=example_lines("ecomflow job cancel", "ecomflow job cancel 2025-12-01_00_00_00-123 --wait --yes"))
@with_settings(*JOBS)
def cancel(
    settings: Settings,
    job: JobName = None,
    wait: Wait = False,
    timeout: Timeout = 600.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")] = False,
    runner: Runner = None,
    as_json: AsJson = False,
) -> None:
    """Stop a job at once. Unacknowledged messages are delivered again, so rows that are already written may be repeated."""
    here = is_here(settings, runner, job)
    if here:
        confirm(f"Cancel the local pipeline of {settings.subscription}?{_REDELIVERED}", yes)
        _show_here(local.cancel(settings), as_json)
        return
    from ecomflow.jobs import service

    with _api(settings) as api:
        found = _find(api, settings, job)
        confirm(f"Cancel {service.named(found)} of {settings.project_id}, which is {found.state}?{_REDELIVERED}", yes)
        _show_end(api, service.cancel(api, found), "cancelled", wait, timeout, as_json)


@jobs.command(
    epilog=example_lines(
        "ecomflow job update --dry-run",
        "ecomflow job update --map 'Decode=Decode events'",
        "ecomflow job update --drain-and-replace",
    )
)
@with_settings(*TARGET, "region", *RESOURCES, *JOB)
def update(
    settings: Settings,
    context: typer.Context,
    job: JobName = None,
    extra: Annotated[list[str] | None, typer.Argument(help="Beam options, after --.", show_default=False)] = None,
    renamed: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="OLD=NEW", help="Rename of a step: its name in the running job, and its new name."),
    ] = None,
    anew: Annotated[bool, typer.Option("--drain-and-replace", help="Drain the job, then start a new one.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show how old and new steps match.")] = False,
    timeout: Timeout = 900.0,
    runner: Runner = None,
) -> None:
    """Update a running job to this version and these settings. The local pipeline is drained and restarted."""
    beam_options = tuple(extra or ())
    if job is not None and job.startswith("-"):  # after -- the first Beam option is parsed as the job
        beam_options = (job, *beam_options)
        job = None
    if is_here(settings, runner, job):
        of_job = {flag_of(OPTIONS_OF_JOB[name]): True for name in options_given(context, OPTIONS_OF_JOB)}
        given = {"--map": bool(renamed), "--dry-run": dry_run, "Beam options": bool(beam_options)}
        _refuse_here({**given, **of_job}, "The local pipeline is drained and restarted.")
        with err.status("Draining and restarting the pipeline…"):
            status = local.replace(settings)
        say(f"The pipeline has restarted as process {status.pid}.")
        return
    if anew and (renamed or dry_run):
        raise ConfigError("--drain-and-replace starts a new job, so no steps are mapped.", "Omit --map and --dry-run.")
    _update_service(settings, job, beam_options, _mapping(renamed or []), anew=anew, dry_run=dry_run, timeout=timeout)


def _update_service(
    settings: Settings,
    job: str | None,
    extra: tuple[str, ...],
    mapping: dict[str, str],
    *,
    anew: bool,
    dry_run: bool,
    timeout: float,
) -> None:

    with _api(settings) as api:
        found = _find(api, settings, job)
        named = msgspec.structs.replace(settings, dataflow=msgspec.structs.replace(settings.dataflow, job_name=found.name))
        with open_target(named) as target:
            if not dry_run:  # before anything is drained: if the new job can't start, the old one should keep running
                with err.status("Checking…"):
                    require(preflight(target, for_dataflow=True))
            new = _replaced(api, target, found, timeout, extra) if anew else _updated(api, target, found, mapping, extra, dry_run)
    if new is not None:
        say(f"Job {new.job_id} takes over. See how it runs: ecomflow job status {new.job_id}")


def _replaced(api: JobsApi, target: Target, found: Job, timeout: float, extra: tuple[str, ...]) -> SubmittedJob:
    from ecomflow.jobs import service
    from ecomflow.jobs import update as replacement

    with err.status(f"Draining {service.named(found)}, then submitting the new one…"):
        new = replacement.drain_and_replace(api, target, found, timeout, extra)
    say(f"{service.named(found)} is drained.")
    return new


def _updated(
    api: JobsApi, target: Target, found: Job, mapping: dict[str, str], extra: tuple[str, ...], dry_run: bool
) -> SubmittedJob | None:
    """The job that replaces ``found``; None after a dry run, which only compares the steps."""
    from ecomflow.jobs import update as replacement

    with err.status("Comparing the steps…"):
        plan = replacement.plan_update(api, found, replacement.graph_steps(target.settings, extra), mapping)
    show_plan(plan)
    replacement.check_fit(plan)
    if dry_run:
        return None
    with err.status("Submitting the update…"):
        return replacement.send_update(target, plan, extra)


def is_here(settings: Settings, runner: str | None, job: str | None = None) -> bool:
    """Whether the command is for the pipeline on this machine. Raises ConfigError for an unknown runner, or another job here."""
    here = runs_here(settings, runner)
    if here and job is not None:
        _check_local(settings, job)
    return here


def _check_local(settings: Settings, job: str) -> None:
    """The local pipeline has the name and the process id that ``job list`` shows."""
    status = read_status(settings.state_path)
    name, process = local.name_of(settings, status), local.id_of(status)
    if status.state != "none" and job in (name, process):
        return
    there = "none has run" if status.state == "none" else f"{name}, process {process}"
    sentence = f"'{job}' is not the pipeline on this machine ({there})"
    if settings.is_local:
        raise ConfigError(f"{sentence}, and no project is configured.", "For a job on Dataflow add: --project my-project")
    raise ConfigError(f"{sentence}.", "Omit the job. See: ecomflow job list --runner DirectRunner")


@contextmanager
def _api(settings: Settings) -> Iterator[JobsApi]:
    from ecomflow.jobs.client import JobsApi

    with open_target(settings, running=False) as target:
        yield JobsApi(target)


def _find(api: Any, settings: Settings, job: str | None) -> Any:
    from ecomflow.jobs import service

    return service.find(api, job or settings.dataflow.job_name)


def _level(text: str) -> Any:

    if text not in get_args(Level):
        raise ConfigError(f"'{text}' is not a valid level.", f"Use one of: {', '.join(get_args(Level))}.")
    return text


def _mapping(pairs: Iterable[str]) -> dict[str, str]:
    mapping = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not (old and equals and new):
            raise ConfigError(f"'{pair}' is not a valid mapping of steps.", "Write it as --map 'OLD=NEW'.")
        mapping[old] = new
    return mapping


def _refuse_here(given: dict[str, bool], why: str) -> None:
    if wrong := [name for name, is_given in given.items() if is_given]:
        raise ConfigError(f"{', '.join(wrong)}: only for a job on Dataflow. {why}", "Omit it.")


def _show_here(status: Any, as_json: bool) -> None:
    _show_or_json(status_facts(status) if as_json else status, as_json, show_local)


def _show_or_json(found: Any, as_json: bool, show: Any) -> None:
    if as_json:
        show_json(found)
    else:
        show(found)


def _show_end(api: Any, job: Any, goal: str, wait: bool, timeout: float, as_json: bool) -> None:
    from ecomflow.jobs import service

    if wait:
        with err.status(f"{service.named(job)} is {job.state}…"):
            job = service.wait_for(api, job, goal, timeout)
    verb = "drain" if goal == "drained" else "cancel --yes"
    sentence = f"{service.named(job)} is {job.state}." + (
        "" if wait else f" To wait for it, run: ecomflow job {verb} --wait {job.id}"
    )
    _show_or_json(job, as_json, lambda _: say(sentence))
