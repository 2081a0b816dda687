"""What every command has in common: its options, and settings from them."""

from __future__ import annotations

from typing import Annotated

import typer

from ecomflow.config import Settings, load_settings

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
