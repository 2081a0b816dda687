"""``ecomflow infra``: create, show and delete what the pipeline reads and writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from ecomflow import infra
from ecomflow.commands.confirmation import confirm
from ecomflow.commands.job_view import fields_of
from ecomflow.commands.setting_options import RESOURCE_OPTIONS, RESOURCES, TARGET, with_settings
from ecomflow.commands.shared import AsJson, example_lines, group_of_commands, target_line
from ecomflow.config import EMULATOR_VARIABLES, Settings, external_endpoints
from ecomflow.errors import ConfigError, NotFoundError, UnavailableError
from ecomflow.gcp.target import open_target
from ecomflow.jobs import local
from ecomflow.local import exports, supervisor
from ecomflow.pipeline.direct.launch import drain_detached, read_status
from ecomflow.terminal.console import err, note, out, plain, say, show_json, show_table

app = group_of_commands("Create, compare, show and delete topic, subscription, bucket, dataset, tables and views.")


@app.command(epilog=example_lines("ecomflow infra up", "ecomflow infra up --project my-project"))
@with_settings(*TARGET, *RESOURCES, *RESOURCE_OPTIONS, "dataflow.service_account", "other_users")
def up(settings: Settings, as_json: AsJson = False) -> None:
    """Create missing resources and correct those that differ. Without a project, start the local stack first.

    In a project it also enables the APIs, and prints the commands that grant the job's service account its roles. A second run
    changes nothing.
    """
    say_here = note if as_json else say
    say_here(target_line(settings))
    external = external_endpoints(settings)
    if settings.is_local:
        _start_stack(settings, external, say_here)
    _show_external(external, say_here)
    carried: list[infra.Step] = []
    with err.status("Comparing resources…") as status, open_target(settings) as target:
        planned = infra.plan(target)

        def report(step: infra.Step) -> None:
            carried.append(step)
            status.update(f"{step.kind} {step.name}…")

        done = infra.apply(target, planned, report)
    grants = () if settings.is_local else infra.job_grants(settings)
    left = [(step, difference) for step in carried for difference in step.differences if difference.how in ("accept", "warn")]
    if as_json:
        unchanged = [{"kind": step.kind, "name": step.name, "difference": difference} for step, difference in left]
        show_json({"steps": done.steps, "left": unchanged, "grants": grants})
        return
    if target.endpoints.bigquery is not None:
        say("Skipped the table dead_letters: the local BigQuery has no external tables. Use instead: ecomflow dlq stats")
    if done.steps:
        _show_steps(done)
        say(f"{len(done.steps)} of {len(planned.steps)} resources created or changed.")
    else:
        say(f"All {len(planned.steps)} resources {'exist' if left else 'are up to date'}; nothing was changed.")
    _show_left(left)
    if grants:
        _show_grants(grants)


@app.command(epilog=example_lines("ecomflow infra plan", "ecomflow infra plan --project my-project"))
@with_settings(*TARGET, *RESOURCES, *RESOURCE_OPTIONS)
def plan(settings: Settings, as_json: AsJson = False) -> None:
    """Show what infra up would create (+), change (~), keep (=), only warn of (*) and refuse (!), by resource and column.

    Changes nothing.
    """
    with open_target(settings) as target:
        planned = infra.plan(target)
    if as_json:
        show_json(planned)
        return
    say(target_line(settings))
    _show_diff(planned)


@app.command(epilog=example_lines("ecomflow infra status", "ecomflow infra status --json"))
@with_settings(*TARGET, *RESOURCES, *RESOURCE_OPTIONS)
def status(settings: Settings, as_json: AsJson = False) -> None:
    """Show the state of the local stack's services, the pipeline, and every resource."""
    external = external_endpoints(settings)
    in_use = supervisor.services_in_use(external) if settings.is_local else ()
    services = supervisor.status(settings.state_path, in_use).services
    ready = all(service.state == "ready" for service in services)
    resources = _resources(settings) if ready else ()
    pipeline = local.examine(settings)
    if as_json:
        stack = {"services": services, "external": external}
        show_json({"project": settings.project_id, **stack, "pipeline": fields_of(pipeline), "resources": resources})
    else:
        say(target_line(settings))
        if services:
            show_table(f"Services (logs in {settings.state_path}/logs/)", *_service_rows(services))
            _show_damage(services, say)
        _show_external(external, say)
        if resources:
            rows = [(item.kind, short(item.name), item.state, _count(item.rows), item.detail) for item in resources]
            show_table(
                f"Resources of {settings.project_id}, dataset {settings.dataset}",
                ("kind", "name", "state", "rows", "detail"),
                rows,
                right=("rows",),
            )
        _show_pipeline(pipeline, has_stack=settings.is_local and ready)
        if not ready:
            say("The local stack is not ready. Start it with: ecomflow infra up")
    if not ready:
        raise typer.Exit(4)


@app.command(epilog=example_lines('eval "$(ecomflow infra env)"', "ecomflow infra env --shell fish | source"))
@with_settings("state_dir")
def env(
    settings: Settings,
    shell: Annotated[Literal["sh", "fish", "powershell", "dotenv"], typer.Option(help="Syntax of the output.")] = "sh",
    as_json: AsJson = False,
) -> None:
    """Print the environment variables that point Google's own clients at the running local stack."""
    if not settings.is_local:
        sentence = f"Project {settings.project} is configured, but only the local stack needs these variables."
        raise ConfigError(sentence, "Unset ECOMFLOW_PROJECT and the project in ecomflow.toml.")
    # Ask the stack itself: the shell may have the variables of one that is gone.
    endpoints = supervisor.status(settings.state_path).endpoints
    if endpoints is None:
        raise UnavailableError(f"The local stack in {settings.state_path}/ is not running.", "Run: ecomflow infra up")
    found = exports.variables(endpoints)
    if as_json:
        show_json(found)
        return
    for name, value in found.items():
        typer.echo(exports.export_line(shell, name, value))


@app.command(epilog=example_lines("ecomflow infra down", "ecomflow infra down --with-data --yes"))
@with_settings(*TARGET, *RESOURCES)
def down(
    settings: Settings,
    with_data: Annotated[
        bool, typer.Option("--with-data", help="Also delete the data: tables, dataset, bucket, messages.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")] = False,
) -> None:
    """Stop the local stack, or delete topic and subscription in a project. Keeps the data unless --with-data is given.

    Exits with 3 if there is no local stack.
    """
    if settings.is_local and not supervisor.is_there(settings.state_path):
        sentence = f"There is no local stack: {settings.state_path.absolute()}/ does not exist."
        raise NotFoundError(sentence, "Run it in the folder in which you ran ecomflow infra up, or in a folder below that.")
    say(target_line(settings))
    if with_data or not settings.is_local:
        what = "topics, subscriptions, tables and bucket" if with_data else "topic and subscription, including their messages,"
        confirm(f"Delete {what} of {settings.project_id}?", yes)
    if settings.is_local:
        _stop_stack(settings, with_data)
        return

    with err.status("Deleting…"), open_target(settings) as target:
        removals = infra.down(target, with_data=with_data)
    _show_removals(removals)


def _resources(settings: Settings) -> tuple[infra.ResourceStatus, ...]:
    with open_target(settings) as target:
        return infra.status(target)


def _show_pipeline(pipeline: local.LocalJob, has_stack: bool) -> None:
    status, condition = pipeline.status, pipeline.condition
    process = f", process {status.pid}" if status.state == "running" and status.pid is not None else ""
    say(f"Local pipeline: {condition.name}{process}.")
    if condition.trouble and (has_stack or status.state != "none"):
        say(condition.trouble)


def _start_stack(settings: Settings, external: Collection[str], say_here: Any) -> None:
    """Starts the services that are in use: not those that ``external`` endpoints replace."""
    in_use = supervisor.services_in_use(external)
    with err.status("Starting the local services…") as spinner:
        report = supervisor.up(
            settings.state_path,
            names=in_use,
            others=settings.other_users,
            on_progress=lambda text: spinner.update(f"{text}…"),
        )
    for service in report.services:
        say_here(f"  {service.name:<10} {service.state:<8} {service.endpoint}")
    _show_damage(report.services, say_here)


def _show_external(external: Mapping[str, str], say_here: Any) -> None:
    for field, endpoint in external.items():
        say_here(f"  {field:<10} external {endpoint} ({EMULATOR_VARIABLES[field]})")


def _show_damage(services: Any, say_here: Any) -> None:
    from ecomflow.local.pubsub.log import damage_sentence

    for service in services:
        for damage in service.damage:
            say_here(damage_sentence(damage))


def _stop_stack(settings: Settings, with_data: bool) -> None:
    if read_status(settings.state_path).state == "running":
        with err.status("Draining the pipeline…"):
            drain_detached(settings)
        say("The pipeline is drained.")
    with err.status("Stopping the local services…"):
        supervisor.down(settings.state_path, with_data=with_data)
    say("The local stack is stopped and its data is deleted." if with_data else "The local stack is stopped; its data is kept.")


def _service_rows(services: Any) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    columns = ("service", "state", "endpoint", "pid", "MB")
    return columns, [(s.name, s.state, s.endpoint, s.pid, None if s.rss_mb is None else round(s.rss_mb)) for s in services]


def short(name: str) -> str:
    """The last part of a resource's path or of a table's id."""
    return name.rsplit("/", 1)[-1].rsplit(".", 1)[-1]


def _count(rows: int | None) -> str:
    return "" if rows is None else f"{rows:,}"


def _show_steps(plan: Any) -> None:
    rows = [
        (
            step.action,
            step.kind,
            short(step.name),
            "; ".join(map(_difference, step.differences)) if step.action == "change" else "",
        )
        for step in plan.steps
    ]
    show_table("", ("action", "kind", "name", "differences"), rows)


def _show_left(left: list[tuple[infra.Step, infra.Difference]]) -> None:
    """The differences that were left as they are, with what to do about them."""
    if left:
        say("Left as they are:")
    for step, difference in left:
        out.print(plain(f"  {step.kind} {short(step.name)}: {_difference(difference)}"), soft_wrap=True)
        if difference.remedy:
            out.print(plain(f"    {difference.remedy}"), soft_wrap=True)


_SIGNS = {"create": "+", "change": "~", "keep": "=", "refuse": "!", "add": "+", "accept": "=", "warn": "*"}
_STYLES = {"+": "green", "~": "yellow", "=": "dim", "*": "yellow", "!": "bold red"}


def _show_diff(plan: Any) -> None:
    """The plan as a diff: a line per resource, followed by a line per differing column or attribute."""

    for step in plan.steps:
        sign = _SIGNS[step.action]
        out.print(Text(f"{sign} {step.action:<6} {step.kind:<12} {short(step.name)}", style=_STYLES[sign]))
        for difference in step.differences:
            sign = _SIGNS[difference.how]
            out.print(Text(f"    {sign} ", style=_STYLES[sign]).append_text(plain(_difference(difference))), soft_wrap=True)
            if difference.remedy:
                out.print(Text("      ").append_text(plain(difference.remedy)), soft_wrap=True)
    amounts = Counter(step.action for step in plan.steps)
    say(", ".join(f"{amounts[action]} to {action}" for action in ("create", "change", "refuse", "keep") if amounts[action]) + ".")


def _difference(difference: Any) -> str:
    name, live, wanted = difference.attribute, difference.live, difference.wanted
    if live is None:
        return f"{name}: {wanted}"
    if difference.how in ("accept", "warn"):
        expected = f"expected {wanted}" if wanted else "not in the DDL"
        return f"{name}: {live} ({expected}; left as it is)"
    return f"{name}: {live} -> {wanted or 'none'}"


def _show_grants(grants: Any) -> None:
    say("\nThe job's service account needs exactly these roles. Grant those that are missing (ecomflow doctor shows which):")
    for grant in grants:
        say(f"\n# {grant.resource}: {grant.reason}")
        out.print(plain(grant.command), soft_wrap=True)


def _show_removals(removals: Any) -> None:
    rows = [(removal.outcome, removal.kind, short(removal.name), removal.reason or "") for removal in removals]
    show_table("", ("outcome", "kind", "name", "note"), rows)
