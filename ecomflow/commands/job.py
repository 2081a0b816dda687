"""``ecomflow job``: the pipeline that runs, on Dataflow or in the background of this machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, get_args

import msgspec
import typer

from ecomflow.commands import job_view as tables
from ecomflow.commands.deploy import DATAFLOW, DIRECT
from ecomflow.commands.job_view import length, print_lines, show_local, show_plan
from ecomflow.commands.shared import AsJson, Project, group_of_commands, moment_of
from ecomflow.config import Settings, load_settings, resolve_endpoints, running_endpoints
from ecomflow.doctor import preflight, require
from ecomflow.errors import ConfigError
from ecomflow.jobs import local
from ecomflow.jobs.records import Level, Metrics
from ecomflow.pipeline.direct.launch import drain_detached, read_status
from ecomflow.terminal.console import err, plain, say, show_counts, show_json, show_table

jobs = group_of_commands("The pipeline that runs: how it fares, its replacement, its end.")

# None of these ends well: what a script asks status for.
_ENDED_BADLY = ("none", "gone", "failed", "cancelled")

JobName = Annotated[
    str | None, typer.Argument(metavar="[JOB]", help="A job's name or id. By default: job_name's newest.", show_default=False)
]
Region = Annotated[str | None, typer.Option("--region", help="Dataflow's region.", show_default=False)]
Runner = Annotated[
    str | None,
    typer.Option("--runner", help=f"{DATAFLOW} (the default in a project) or {DIRECT}: this machine.", show_default=False),
]
Timeout = Annotated[float, typer.Option(min=0, help="How many seconds to wait at most.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")]


@jobs.command("list", epilog="Examples:\n\n  ecomflow job list\n\n  ecomflow job list --all --project my-project")
def list_jobs(
    everything: Annotated[bool, typer.Option("--all", help="All jobs of the region, not only ecomflow's.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    project: Project = None,
    region: Region = None,
    runner: Runner = None,
    as_json: AsJson = False,
) -> None:
    """List the jobs, newest first."""
    settings = settings_in(project, region)
    if is_here(settings, runner):
        found = local.jobs(settings)
    else:
        from ecomflow.jobs import service

        found = service.jobs(_api(settings), job_name=settings.dataflow.job_name, everything=everything, limit=limit)
    if as_json:
        show_json(found)
    elif not found:
        say("There are no jobs. Start one with: ecomflow deploy")
    else:
        rows = [(job.name, job.id, job.state, length(job.age_seconds), job.kind, job.region) for job in found]
        show_table("", ("name", "id", "state", "age", "kind", "region"), rows, right=("age",))


@jobs.command(epilog="Examples:\n\n  ecomflow job status\n\n  ecomflow job status --over 60 --json")
def status(
    job: JobName = None,
    over: Annotated[float, typer.Option(min=0, help="Measure the throughput over so many seconds.")] = 0.0,
    project: Project = None,
    region: Region = None,
    runner: Runner = None,
    as_json: AsJson = False,
) -> None:
    """How a job fares: state, workers, throughput, lag, counters, recent errors. Exits with 4 where it has ended badly."""
    settings = settings_in(project, region)
    if is_here(settings, runner, job):
        found: Any = read_status(settings.state_path)
        state = found.state
        show: Any = tables.show_local
    else:
        from ecomflow.jobs import service

        api = _api(settings)
        found = service.detail(api, _find(api, settings, job), over=over)
        state = found.job.state
        show = tables.show_detail
    if as_json:
        show_json(found)
    else:
        show(found)
    if state in _ENDED_BADLY:
        raise typer.Exit(4)


@jobs.command(epilog="Examples:\n\n  ecomflow job logs --follow\n\n  ecomflow job logs --level warning --since 2h")
def logs(
    job: JobName = None,
    level: Annotated[str, typer.Option(help="The least: debug, detailed, basic, warning or error.")] = "basic",
    since: Annotated[str | None, typer.Option(help="Not older than: 10m, 2h, 3d.", show_default=False)] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    lines: Annotated[int, typer.Option(min=1, help="How many lines of the local pipeline's log.")] = 50,
    project: Project = None,
    region: Region = None,
    runner: Runner = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> None:
    """Show Dataflow's messages about a job, or the end of the local pipeline's log, where basic is info."""
    settings, earliest = settings_in(project, region), moment_of(since)
    if is_here(settings, runner, job):
        found = local.log_lines(settings, lines, least=_level(level), since=earliest, follow=follow)
        print_lines(map(msgspec.to_builtins, found) if as_json else local.for_people(found), as_json)
        return
    from ecomflow.jobs import service

    chosen, api = _level(level), _api(settings)
    read: Any = service.follow if follow else service.messages
    said = read(api, _find(api, settings, job), chosen, earliest)
    print_lines((msgspec.structs.asdict(message) for message in said), as_json)


@jobs.command(epilog="Example:\n\n  ecomflow job metrics")
def metrics(
    job: JobName = None, project: Project = None, region: Region = None, runner: Runner = None, as_json: AsJson = False
) -> None:
    """Show every counter: ecomflow's own, and Dataflow's."""
    settings = settings_in(project, region)
    if is_here(settings, runner, job):
        found = Metrics(dict(sorted(read_status(settings.state_path).counters.items())), {})
    else:
        from ecomflow.jobs import service

        api = _api(settings)
        found = service.metrics(api, _find(api, settings, job))
    if as_json:
        show_json(found)
        return
    if found.own:
        show_counts("ecomflow's counters", found.own)
    else:
        say("There are no counters of ecomflow's yet.")
    if found.system:
        rows = [(name, f"{value:,.3f}".removesuffix(".000")) for name, value in found.system.items()]
        show_table("Dataflow's", ("what", "value"), rows, right=("value",))


@jobs.command(epilog="Examples:\n\n  ecomflow job drain\n\n  ecomflow job drain --wait --timeout 600")
def drain(
    job: JobName = None,
    wait: Wait = False,
    timeout: Timeout = 900.0,
    project: Project = None,
    region: Region = None,
    runner: Runner = None,
    as_json: AsJson = False,
) -> None:
    """Let a job finish what it has in hand, then end it. The local pipeline is always waited for."""
    settings = settings_in(project, region)
    if is_here(settings, runner, job):
        with err.status("Draining…"):
            ended = drain_detached(settings)
        _show_or_json(ended, as_json, show_local)
        return
    from ecomflow.jobs import service

    api = _api(settings)
    asked = service.drain(api, _find(api, settings, job))
    _show_end(api, asked, "drained", wait, timeout, as_json)


@jobs.command(epilog="Examples:\n\n  ecomflow job cancel\n\n  ecomflow job cancel 2025-12-01_00_00_00-123 --wait --yes")
def cancel(
    job: JobName = None,
    wait: Wait = False,
    timeout: Timeout = 600.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    project: Project = None,
    region: Region = None,
    runner: Runner = None,
    as_json: AsJson = False,
) -> None:
    """End a job at once. What it had not acknowledged comes again; rows that it had written meanwhile are written twice."""
    settings = settings_in(project, region)
    here = is_here(settings, runner, job)
    if here:
        _confirm(f"Cancel the local pipeline of {settings.subscription}?", yes)
        _show_or_json(local.cancel(settings), as_json, show_local)
        return
    from ecomflow.jobs import service

    api = _api(settings)
    found = _find(api, settings, job)
    _confirm(f"Cancel {service.named(found)} of {settings.project_id}, which is {found.state}?", yes)
    _show_end(api, service.cancel(api, found), "cancelled", wait, timeout, as_json)


@jobs.command(
    epilog="Examples:\n\n  ecomflow job update --dry-run\n\n  ecomflow job update --map 'Decode=Decode events'\n\n"
    "  ecomflow job update --drain-and-replace"
)
def update(
    job: JobName = None,
    extra: Annotated[list[str] | None, typer.Argument(help="Beam options, after --.", show_default=False)] = None,
    renamed: Annotated[
        list[str] | None, typer.Option("--map", metavar="OLD=NEW", help="A step's name as it runs, and its new name.")
    ] = None,
    anew: Annotated[bool, typer.Option("--drain-and-replace", help="Drain the job, then start the new one.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show how the steps fit.")] = False,
    timeout: Timeout = 900.0,
    project: Project = None,
    region: Region = None,
    runner: Runner = None,
) -> None:
    """Replace a running job by this version and these settings. The local pipeline is drained and started again."""
    beam_options = tuple(extra or ())
    if job is not None and job.startswith("-"):  # after -- the first Beam option stands in the job's place
        beam_options = (job, *beam_options)
        job = None
    settings = settings_in(project, region)
    if is_here(settings, runner, job):
        given = {"--map": bool(renamed), "--dry-run": dry_run, "Beam options": bool(beam_options)}
        _refuse_here(given, "The local pipeline is drained and started again.")
        with err.status("Draining the pipeline, then starting it again…"):
            status = local.replace(settings)
        say(f"The pipeline runs again, as process {status.pid}.")
        return
    if anew and (renamed or dry_run):
        raise ConfigError("--drain-and-replace starts a job of its own: no step is mapped.", "Leave out --map and --dry-run.")
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
    from ecomflow.jobs import service
    from ecomflow.jobs import update as replacement

    api, endpoints = _api(settings), running_endpoints(settings)
    found = _find(api, settings, job)
    settings = msgspec.structs.replace(settings, dataflow=msgspec.structs.replace(settings.dataflow, job_name=found.name))
    if not dry_run:  # before anything is drained: a job that can't be replaced is better left running
        with err.status("Checking…"):
            require(preflight(settings, endpoints, for_dataflow=True))
    if anew:
        with err.status(f"Draining {service.named(found)}, then submitting the new one…"):
            new = replacement.drain_and_replace(api, settings, endpoints, found, timeout, extra)
        say(f"{service.named(found)} is drained.")
    else:
        with err.status("Comparing the steps…"):
            plan = replacement.plan_update(api, found, replacement.graph_steps(settings, extra), mapping)
        show_plan(plan)
        replacement.check_fit(plan)
        if dry_run:
            return
        with err.status("Submitting the update…"):
            new = replacement.send_update(settings, endpoints, plan, extra)
    say(f"Job {new.job_id} takes over. Look at it with: ecomflow job status {new.job_id}")


def settings_in(project: str | None, region: str | None) -> Settings:
    return load_settings({"project": project, "region": region})


def is_here(settings: Settings, runner: str | None, job: str | None = None) -> bool:
    """Whether the pipeline of this machine is meant. Raises ConfigError for a job named there, or a runner that there is not."""
    if runner not in (None, DIRECT, DATAFLOW):
        raise ConfigError(f"The runner {runner} is unknown; expected {DATAFLOW} or {DIRECT}.", f"Write: --runner {DATAFLOW}")
    here = runner == DIRECT or (runner is None and settings.is_local)
    if not here and settings.is_local:
        raise ConfigError("No project is configured, and Dataflow runs in one.", "Name it with: --project my-project")
    if here and job is not None:
        _check_local(settings, job)
    return here


def _check_local(settings: Settings, job: str) -> None:
    """The pipeline of this machine goes by the name and the process that the list shows."""
    listed = local.jobs(settings)
    if any(job in (found.name, found.id) for found in listed):
        return
    there = " and ".join(f"{found.name}, process {found.id}" for found in listed) or "none has run"
    sentence = f"'{job}' is not the pipeline of this machine ({there})"
    if settings.is_local:
        raise ConfigError(f"{sentence}, and no project is configured.", "Name the project of a job with: --project my-project")
    raise ConfigError(f"{sentence}.", "Leave the job out. See: ecomflow job list --runner DirectRunner")


def _api(settings: Settings) -> Any:
    from ecomflow.jobs.client import JobsApi

    return JobsApi(settings, resolve_endpoints(settings))


def _find(api: Any, settings: Settings, job: str | None) -> Any:
    from ecomflow.jobs import service

    return service.find(api, job or settings.dataflow.job_name)


def _level(text: str) -> Any:

    if text not in get_args(Level):
        raise ConfigError(f"There is no level '{text}'.", f"Choose one of: {', '.join(get_args(Level))}.")
    return text


def _mapping(pairs: Iterable[str]) -> dict[str, str]:
    mapping = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not (old and equals and new):
            raise ConfigError(f"'{pair}' maps no step to another.", "Write it as --map 'OLD=NEW'.")
        mapping[old] = new
    return mapping


def _refuse_here(given: dict[str, bool], why: str) -> None:
    if wrong := [name for name, is_given in given.items() if is_given]:
        raise ConfigError(f"{', '.join(wrong)}: only for a job on Dataflow. {why}", "Leave it out.")


def _confirm(question: str, yes: bool) -> None:
    if not yes:
        typer.confirm(f"{plain(question).plain} What it has not acknowledged comes again.", abort=True, err=True)


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
        "" if wait else f" Wait for it with: ecomflow job {verb} --wait {job.id}"
    )
    _show_or_json(job, as_json, lambda _: say(sentence))
