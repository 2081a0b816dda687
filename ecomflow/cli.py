"""The command line: arguments in; a table, a sentence or JSON out. Commands live in ``ecomflow/commands``; errors end here."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections import UserDict
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer

from ecomflow import __version__
from ecomflow.commands.shared import CommandGroup, built
from ecomflow.errors import AccessError, EcomflowError
from ecomflow.loopback.proxies import bypass_proxies


class Lazy(NamedTuple):
    """A command that is imported when it is asked for: its place in ``ecomflow.commands``, and its line in --help."""

    place: str
    help: str


# The order is that of --help. A test holds each line equal to the command's own.
COMMANDS = {
    "infra": Lazy("infra:app", "Topic, subscription, bucket, dataset, tables and views."),
    "doctor": Lazy(
        "doctor:doctor", "Check what a pipeline needs: credentials, APIs, topics, subscriptions, bucket, tables and roles."
    ),
    "deploy": Lazy("deploy:deploy", "Run the streaming pipeline: Pub/Sub to BigQuery, refused messages to the bucket."),
    "publish": Lazy(
        "publish:publish", "Publish Faker events: customers, products and sessions that come again, and a catalogue of faults."
    ),
    "contract": Lazy("contract:contract", "What producers may publish: show it, check events, compare versions."),
    "dlq": Lazy("dlq:dlq", "The messages that were refused: look at them, group them, replay them."),
    "query": Lazy(
        "query:query",
        "Ask the warehouse one of the analysts' questions, or anything in GoogleSQL (tables under the dataset ecomflow).",
    ),
    "job": Lazy("job:jobs", "The pipeline that runs: how it fares, its replacement, its end."),
    "reconcile": Lazy("reconcile:reconcile", "Prove that published = facts + dead letters + still waiting, asking each place."),
    "top": Lazy("top:top", "Watch the pipeline: what flows, how fast, how late, what was refused, what landed."),
    "ui": Lazy(
        "ui:ui",
        "Serve one page on this machine alone, opened in the browser: the graph with its rates, tables, dead letters, answers.",
    ),
    "init": Lazy("start:init", "Write a commented ecomflow.toml into this folder."),
    "demo": Lazy("start:demo", "The whole path on a throw-away local stack: publish, decode, load, count, ask."),
}


class LazyCommands(UserDict[str, Any]):
    """The commands by name, each imported at its first use: one command must not wait for what only another needs."""

    def __getitem__(self, name: str) -> Any:
        found = self.data[name]
        if isinstance(found, Lazy):
            module, _, attribute = found.place.partition(":")
            found = self.data[name] = built(name, getattr(import_module(f"ecomflow.commands.{module}"), attribute))
        return found

    def lines(self) -> list[tuple[str, str]]:
        """Name and first sentence of each command. Imports nothing."""
        return [
            (name, one.help if isinstance(one, Lazy) else one.get_short_help_str(limit=300)) for name, one in self.data.items()
        ]


class _Root(CommandGroup):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.lazy = LazyCommands(COMMANDS)
        self.commands = self.lazy

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def command_lines(self, ctx: Any) -> list[tuple[str, str]]:
        return self.lazy.lines()


app = typer.Typer(
    cls=_Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Rich's boxes would take longer to import than all the rest of --help together.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    help="E-commerce events from Pub/Sub to BigQuery facts: provision, deploy, publish, inspect.",
    epilog="Start with: ecomflow demo. Without a project everything runs on this machine, without an account.",
)

_UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h
_INTERRUPTED = 130


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ecomflow {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", envvar="ECOMFLOW_DEBUG", help="Show tracebacks of errors.")] = False,
) -> None:
    if debug:
        os.environ["ECOMFLOW_DEBUG"] = "1"


def main() -> None:
    """Run the command line; exit with the error's code, its sentence and what to do on standard error."""
    bypass_proxies()
    _escape_what_cannot_be_encoded()
    try:
        app()
    except EcomflowError as error:
        _end(error)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except OSError as error:
        _end(_refused(error))
    except Exception as error:  # noqa: BLE001  # the last border: nobody is shown a traceback that did not ask for it
        _end(_unexpected(error))


def _escape_what_cannot_be_encoded() -> None:
    """From now on a character that the output's encoding lacks (ASCII, say) is shown escaped, where it would end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _end(error: EcomflowError) -> None:
    from ecomflow.terminal.console import show_error

    show_error(error)
    if os.environ.get("ECOMFLOW_DEBUG"):
        raise error
    sys.exit(error.exit_code)


def _refused(error: OSError) -> EcomflowError:
    """What the system refuses a command for reasons that are the user's to change."""
    what = error.filename or "A file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return AccessError(f"{what} can't be written: {error.strerror}.", "Make room on the disk, then run the same again.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessError(f"{what} can't be read or written: {error.strerror}.", "Make it yours, or work in a folder that is.")
    return _unexpected(error)


def _unexpected(error: Exception) -> EcomflowError:
    wrapped = EcomflowError(
        f"Unexpected {type(error).__name__}: {error}", "This is a fault of ecomflow. Run again with: ecomflow --debug …"
    )
    wrapped.exit_code = _UNEXPECTED
    wrapped.__cause__ = error
    return wrapped
