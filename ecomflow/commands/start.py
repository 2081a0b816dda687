"""``ecomflow init`` and ``ecomflow demo``: the first commands that a newcomer runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from ecomflow.commands.contract_copy import copy_builtin
from ecomflow.commands.query import show_answer
from ecomflow.commands.reconcile import show_equation
from ecomflow.commands.shared import AsJson, examples
from ecomflow.config import COMMENTED_CONFIG, CONFIG_FILE, Settings
from ecomflow.contract.loading import SHOP
from ecomflow.errors import AccessError, ConfigError
from ecomflow.generator.seeds import MAX_SEED
from ecomflow.terminal.console import note, say, show_json
from ecomflow.terminal.progress import Progress, interruptible, progress, stopping


@examples("ecomflow init", "ecomflow init --contracts")
def init(
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    contracts: Annotated[
        bool, typer.Option("--contracts", help="Copy the built-in contracts to contracts/, too, where you can change them.")
    ] = False,
) -> None:
    """Write a commented ecomflow.toml to this folder."""
    path = Path(CONFIG_FILE)
    if path.exists() and not force:
        raise ConfigError(f"{path} already exists.", "To overwrite it, run: ecomflow init --force")
    written = copy_builtin(list(SHOP), Path(Settings().contracts), force) if contracts else []
    try:
        path.write_text(COMMENTED_CONFIG, encoding="utf-8")
    except OSError as error:
        raise AccessError(f"{path} can't be written: {error.strerror}.", "Run it in a folder that you can write to.") from error
    say(f"Wrote {path}. Every setting in it is commented out, so the defaults apply.")
    if written:
        say(f"Wrote {', '.join(map(str, written))}. They replace the built-in contracts.")


# The commands after the demo: the same path, on a stack that stays.
_NEXT = ("ecomflow infra up", "ecomflow deploy --detach", "ecomflow publish --n 100")


@examples("ecomflow demo --n 500")
def demo(
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Number of rounds of events to publish.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the shop.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Run the whole path on a temporary local stack: publish, decode, load, count, query. Fails if the counts don't add up."""
    all_gone = "Interrupted: everything that the demo started has been stopped, and its folder is deleted."
    with interruptible(all_gone), progress("Starting") as shown:
        from ecomflow import demo as demonstration

        with stopping("Stopping the services and the pipeline of the demo…", demonstration.end_processes):
            outcome = demonstration.run(n, seed, lambda text: _step(shown, text), shown.count)
    if as_json:
        show_json(outcome)
    else:
        _show(outcome)
    demonstration.check(outcome)
    if not as_json:
        say("\nTry it with services that keep running:")
        for line in _NEXT:
            say(f"  {line}")


def _step(shown: Progress, text: str) -> None:
    note(f"• {text}")
    shown.begin(re.split("[,:]", text)[0])  # the line has little room besides the count


def _show(outcome: Any) -> None:
    summary = outcome.published
    say(f"Published: {sum(summary.valid.values()):,} valid and {sum(summary.invalid.values()):,} invalid events.")
    show_equation(outcome.equation)
    show_answer(outcome.answer, most=10)
