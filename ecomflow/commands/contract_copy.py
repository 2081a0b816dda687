"""``ecomflow contract copy``: the built-in contract files, in the user's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecomflow.commands.setting_options import with_settings
from ecomflow.commands.shared import example_lines
from ecomflow.config import Settings
from ecomflow.contract.loading import SHOP, check_no_other_file, shop_text
from ecomflow.contract.mistakes import nearest
from ecomflow.errors import AccessError, ConfigError
from ecomflow.terminal.console import say

EPILOG = example_lines("ecomflow contract copy order")

Folder = Annotated[
    Path | None, typer.Option("--to", help="Folder of your contracts. Default: the setting contracts.", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]


@with_settings()
def copy(
    settings: Settings,
    event: Annotated[str, typer.Argument(help=f"The built-in event type: {', '.join(SHOP)}.")],
    to: Folder = None,
    force: Force = False,
) -> None:
    """Copy a built-in contract to your folder, where you can change it. It then replaces the built-in one."""
    folder = to or Path(settings.contracts)
    for path in copy_builtin([event], folder, force):
        say(f"Wrote {path}. It replaces the built-in contract of {event}. After a change, run: ecomflow contract lint")


def copy_builtin(events: list[str], folder: Path, force: bool) -> list[Path]:
    """The files written, one for each of the built-in ``events``. Writes none where one of them can't be."""
    for event in events:
        if event not in SHOP:
            raise ConfigError(
                f"There is no built-in event type '{event}': expected one of {', '.join(SHOP)}{nearest(event, SHOP) or '.'}",
                "To describe a new one, run: ecomflow contract new",
            )
        check_free(folder, event, folder / f"{event}.toml", force)
    return [write_contract(folder / f"{event}.toml", shop_text(event)) for event in events]


def check_free(folder: Path, event: str, path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise ConfigError(f"{path} already exists.", "To overwrite it, add --force.")
    check_no_other_file(folder, event, path)


def write_contract(path: Path, text: str) -> Path:
    """Writes the file, its folder where there is none. Raises AccessError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise AccessError(f"{path} can't be written: {error.strerror}.", "Name a folder that you can write to.") from error
    return path
