"""``ecomflow doctor``: check everything that a pipeline needs, and show how to fix what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.text import Text

from ecomflow.commands.setting_options import RESOURCE_OPTIONS, RESOURCES, TARGET, with_settings
from ecomflow.commands.shared import AsJson, examples, target_line
from ecomflow.config import Settings
from ecomflow.doctor import preflight
from ecomflow.gcp.target import open_target
from ecomflow.terminal.console import err, out, plain, say, show_json

Probe = Annotated[
    bool, typer.Option("--probe", help="Also write rows, a message and an object to temporary resources, and read them back.")
]


@examples(
    "ecomflow doctor",
    "ecomflow doctor --project my-project --probe",
)
@with_settings(*TARGET, *RESOURCES, *RESOURCE_OPTIONS, "dataflow.service_account")
def doctor(settings: Settings, probe: Probe = False, as_json: AsJson = False) -> None:
    """Check what a pipeline needs: credentials, APIs, topics, subscriptions, bucket, tables and roles. Changes nothing.

    --probe writes a row for every fact table, a message and an object to temporary resources, reads them back and removes them.
    The exit code is that of the first failure.
    """
    if not as_json:
        say(target_line(settings))
    with open_target(settings) as target:
        with err.status("Checking…"):
            checks = preflight(target, for_dataflow=not settings.is_local)
        if not as_json:
            _show(checks)
        if probe and _is_reachable(checks):
            from ecomflow.doctor.probe import probe as run_probe

            with err.status("Writing and reading back…"):
                probed = run_probe(target)
            if not as_json:
                _show(probed)
            checks += probed
    if as_json:
        show_json(checks)
    wrong = [check for check in checks if not check.ok]
    if wrong:
        raise typer.Exit(wrong[0].exit_code)
    if not as_json:
        say("All checks passed.")


def _is_reachable(checks: Sequence[Any]) -> bool:
    """Without credentials, or if a service doesn't answer, a probe would take longer to fail in the same way."""
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
