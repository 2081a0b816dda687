"""``ecomflow doctor``: whether everything that a pipeline needs is there, and what mends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.text import Text

from ecomflow.commands.shared import AsJson, Project, examples, settings_of, target_line
from ecomflow.config import running_endpoints
from ecomflow.doctor import preflight
from ecomflow.terminal.console import err, out, plain, say, show_json

Probe = Annotated[
    bool, typer.Option("--probe", help="Also write and read back rows, a message and an object, in temporary resources.")
]


@examples(
    "ecomflow doctor",
    "ecomflow doctor --project my-project --probe",
)
def doctor(project: Project = None, probe: Probe = False, as_json: AsJson = False) -> None:
    """Check what a pipeline needs: credentials, APIs, topics, subscriptions, bucket, tables and roles. Changes nothing.

    With --probe a row of every fact table, a message and an object are written to temporary resources, read back and removed. The
    exit code is that of the first failure.
    """
    settings = settings_of(project)
    if not as_json:
        say(target_line(settings))
    endpoints = running_endpoints(settings)
    with err.status("Checking…"):
        checks = preflight(settings, endpoints, for_dataflow=not settings.is_local)
    if not as_json:
        _show(checks)
    if probe and _is_reachable(checks):
        from ecomflow.doctor.probe import probe as run_probe

        with err.status("Writing and reading back…"):
            probed = run_probe(settings, endpoints)
        if not as_json:
            _show(probed)
        checks += probed
    if as_json:
        show_json(checks)
    wrong = [check for check in checks if not check.ok]
    if wrong:
        raise typer.Exit(wrong[0].exit_code)
    if not as_json:
        say("Everything that could be checked is as it should be.")


def _is_reachable(checks: Sequence[Any]) -> bool:
    """Without credentials, or where a service doesn't answer, a probe would only take its time to say the same."""
    return not any(check.exit_code == 4 or (check.name == "credentials" and not check.ok) for check in checks)


def _show(checks: Sequence[Any]) -> None:

    width = max(len(check.name) for check in checks)
    for check in checks:
        state, style = ("FAILED", "bold red") if not check.ok else ("ok", "green") if check.checked else ("?", "yellow")
        took = "" if check.seconds is None else f" ({check.seconds:.1f} s)"
        line = Text.assemble((f"{state:<6}", style), f"  {check.name:<{width}}  ").append_text(plain(check.message + took))
        out.print(line, soft_wrap=True)
        if check.remedy:
            for step in check.remedy.splitlines():
                out.print(Text("        ").append_text(plain(step)), soft_wrap=True)
