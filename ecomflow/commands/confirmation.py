"""A question before something is changed: an answer, or --yes, in; nothing or an error out."""

from __future__ import annotations

import sys

import typer

from ecomflow.errors import ConfigError
from ecomflow.terminal.console import plain


def confirm(question: str, yes: bool) -> None:
    """Asks on the terminal, unless ``yes``. Raises ConfigError if nobody can answer."""
    if yes:
        return
    try:
        agreed = typer.confirm(plain(question).plain, err=True)
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        raise ConfigError("Expected a confirmation, but standard input is no terminal.", "Add --yes to go on.") from None
    if not agreed:
        raise typer.Abort
