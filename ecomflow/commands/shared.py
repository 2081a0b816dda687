"""What every command has in common: its options, and settings from them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from ecomflow.config import Settings, load_settings
from ecomflow.errors import ConfigError

Project = Annotated[
    str | None,
    typer.Option("--project", "-p", help="Google Cloud project. Without one: the local stack.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def settings_of(project: str | None) -> Settings:
    """The settings in force, with the flag before the environment before ecomflow.toml."""
    return load_settings({"project": project})


def target_line(settings: Settings) -> str:
    """The first line of what changes anything: which target it speaks to."""
    if settings.is_local:
        return f"Local stack in {settings.state_path}/ (no project is configured)."
    return f"Google Cloud project {settings.project}, {settings.region}."


def moment_of(since: str | None) -> datetime | None:
    """The moment so long ago: ``10m``, ``2h``, ``3d``. Raises ConfigError where ``since`` is no length of time."""
    if since is None:
        return None
    match = re.fullmatch(r"(\d{1,6})([smhd])", since)
    if match is None:
        raise ConfigError(f"'{since}' is no length of time.", "Write it as 30s, 10m, 2h or 3d.")
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[match[2]]
    now, epoch = datetime.now(UTC), datetime.fromtimestamp(0, UTC)
    return now - min(timedelta(**{unit: int(match[1])}), now - epoch)
