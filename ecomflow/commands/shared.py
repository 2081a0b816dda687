"""Shared by the commands: how they are built, and common options."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from ecomflow.config import Settings
from ecomflow.contract.encodings import encoding_of
from ecomflow.contract.mistakes import nearest
from ecomflow.errors import ConfigError


class CommandGroup(TyperGroup):
    """Lists its commands with their whole first sentence, which Click would otherwise truncate."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(self.command_lines(ctx))

    def command_lines(self, ctx: Any) -> list[tuple[str, str]]:
        return [(name, command.get_short_help_str(limit=300)) for name, command in self.commands.items()]


def group_of_commands(help: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(cls=CommandGroup, no_args_is_help=True, rich_markup_mode=None, add_completion=False, help=help)


F = TypeVar("F", bound=Callable[..., None])


def examples(*lines: str) -> Callable[[F], F]:
    """Show ``lines`` at the end of the help of a command that is in no group."""

    def mark(command: F) -> F:
        command.__dict__["epilog"] = example_lines(*lines)
        return command

    return mark


def example_lines(*lines: str) -> str:
    """``lines`` as the end of a help text."""
    return "\n\n  ".join(("Examples:" if len(lines) > 1 else "Example:", *lines))


def built(name: str, command: typer.Typer | Callable[..., None]) -> Any:
    """The Click command of a group, or of a function that is a single command."""
    if isinstance(command, typer.Typer):
        command.info.name = name
        return typer.main.get_command(command)
    single = typer.Typer(rich_markup_mode=None, add_completion=False)
    single.command(name, epilog=command.__dict__.get("epilog"))(command)
    return typer.main.get_command(single)


STDIN = "-"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def target_line(settings: Settings) -> str:
    """The first line of a command that changes something: its target."""
    if settings.is_local:
        return f"Local stack in {settings.state_path}/ (no project is configured)."
    return f"Google Cloud project {settings.project}, {settings.region}."


def lines_of(file: Path) -> Iterator[bytes]:
    """The lines of ``file``, or of standard input. Raises ConfigError where it can't be read, or is no text in UTF-8."""
    if str(file) == STDIN:
        yield from _in_utf8(sys.stdin.buffer, "Standard input", "FILE")
        return
    try:
        with file.open("rb") as lines:
            yield from _in_utf8(lines, str(file), shlex.quote(str(file)))
    except OSError as error:
        raise ConfigError(
            f"{file} can't be read: {error.strerror}.", "Name a file of JSON lines, or - for standard input."
        ) from error


def _in_utf8(lines: Iterable[bytes], name: str, path: str) -> Iterator[bytes]:
    """``lines`` as they are. Raises ConfigError where the first begins as no UTF-8 does: then no line could be read."""
    rest = iter(lines)
    first = next(rest, b"")
    encoding = encoding_of(first)
    if encoding is not None:
        remedy = (
            f"Convert it first: {encoding.decode} {path} > events.jsonl" if encoding.decode else "Write its events as JSON lines."
        )
        raise ConfigError(f"{name}: expected JSON lines in UTF-8, got {encoding.name}.", remedy)
    yield from chain([first], rest) if first else ()


DIRECT, DATAFLOW = "DirectRunner", "DataflowRunner"


def runs_here(settings: Settings, runner: str | None) -> bool:
    """Whether the pipeline runs on this machine. Raises ConfigError for an unknown runner, and for Dataflow without a project."""
    if runner not in (None, DIRECT, DATAFLOW):
        raise ConfigError(
            f"'{runner}' is not a valid runner: expected {DATAFLOW} or {DIRECT}{nearest(str(runner), (DATAFLOW, DIRECT)) or '.'}",
            f"Write: --runner {DATAFLOW}",
        )
    if runner == DATAFLOW and settings.is_local:
        raise ConfigError("Dataflow needs a project, and none is configured.", "Add: --project my-project")
    return runner == DIRECT or settings.is_local


def options_given(context: typer.Context, names: Iterable[str]) -> list[str]:
    """Those of the parameters ``names`` that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def moment_of(since: str | None) -> datetime | None:
    """The time that long ago: ``10m``, ``2h``, ``3d``. Raises ConfigError if ``since`` is not a valid duration."""
    if since is None:
        return None
    match = re.fullmatch(r"(\d{1,6})([smhd])", since)
    if match is None:
        raise ConfigError(f"'{since}' is not a valid duration.", "Write it as 30s, 10m, 2h or 3d.")
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[match[2]]
    now, epoch = datetime.now(UTC), datetime.fromtimestamp(0, UTC)
    return now - min(timedelta(**{unit: int(match[1])}), now - epoch)
