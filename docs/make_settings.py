"""Writes the table of options in docs/settings.md: ``python docs/make_settings.py``. A test holds the page equal to this."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import typer
from make_cli_reference import leaf_commands

from ecomflow.cli import app
from ecomflow.commands.setting_options import SETTING_OPTIONS
from ecomflow.config import flag_of

TARGET = Path(__file__).parent / "settings.md"
_TABLE = re.compile(r"(?<=\| setting \| option \| commands \|\n\| --- \| --- \| --- \|\n)(?:\|.*\n)*")


def page(text: str) -> str:
    """``text``, the page, with the table that follows from the commands."""
    return _TABLE.sub("".join(_rows()).replace("\\", r"\\"), text)


def takers() -> dict[str, list[str]]:
    """By the path of a setting: the commands that have its option, as ``job list``."""
    found: dict[str, list[str]] = {path: [] for path in SETTING_OPTIONS}
    for name, command in leaf_commands(typer.main.get_command(app), ""):
        for parameter in command.params:
            for path in found:
                if (parameter.help, parameter.opts) == (SETTING_OPTIONS[path].help, _long_and_short(path)):
                    found[path].append(name.strip())
    return found


def _long_and_short(path: str) -> list[str]:
    return [flag.partition("/")[0] for flag in SETTING_OPTIONS[path].flags] or [flag_of(path)]


def _rows() -> Iterator[str]:
    sizes = {group: len(list(names)) for group, names in groupby(_all_commands(), _group)}
    for path, names in takers().items():
        shown = []
        for group, some in groupby(names, _group):
            found = list(some)
            shown += [group] if len(found) == sizes[group] else found
        table, _, name = path.rpartition(".")
        named = f"`{name}` under `[{table}]`" if table else f"`{name}`"
        flags = "/".join(f"`{flag}`" for flag in (SETTING_OPTIONS[path].flags or (flag_of(path),))[0].split("/"))
        yield f"| {named} | {flags} | {', '.join(f'`{one}`' for one in shown)} |\n"


def _all_commands() -> list[str]:
    return [name.strip() for name, _ in leaf_commands(typer.main.get_command(app), "")]


def _group(name: str) -> str:
    return name.partition(" ")[0]


if __name__ == "__main__":
    TARGET.write_text(page(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
