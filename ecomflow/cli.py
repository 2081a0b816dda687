"""The command line. The commands are in ``ecomflow/commands``; errors are printed here."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections import UserDict
from importlib import import_module
from itertools import takewhile
from typing import Annotated, Any, NamedTuple, NoReturn

import typer

from ecomflow import __version__
from ecomflow.commands.shared import CommandGroup, built
from ecomflow.errors import AccessError, ConfigError, EcomflowError
from ecomflow.loopback.proxies import bypass_proxies


class Lazy(NamedTuple):
    """A command that is imported on first use: its module and name in ``ecomflow.commands``, and its line in --help."""

    place: str
    help: str


# In the order of --help. A test compares each line with the command's own help.
COMMANDS = {
    "infra": Lazy("infra:app", "Create, compare, show and delete topic, subscription, bucket, dataset, tables and views."),
    "doctor": Lazy(
        "doctor:doctor", "Check what a pipeline needs: credentials, APIs, topics, subscriptions, bucket, tables and roles."
    ),
    "deploy": Lazy("deploy:deploy", "Run the streaming pipeline: Pub/Sub to BigQuery, refused messages to the bucket."),
    "publish": Lazy("publish:publish", "Publish generated events of each type, valid and invalid, or the events of a file."),
    "contract": Lazy("contract:contract", "Show and change the contracts of your event types, and check events against them."),
    "dlq": Lazy("dlq:dlq", "Inspect, group, replay and export dead letters: the messages that were refused."),
    "query": Lazy("query:query", "Run one of the analysts' questions, or GoogleSQL, against the fact tables."),
    "job": Lazy("job:jobs", "Inspect, update, drain or cancel the running pipeline."),
    "reconcile": Lazy("reconcile:reconcile", "Check that published = facts + dead letters + backlog."),
    "top": Lazy("top:top", "Watch the pipeline live: throughput, latency, backlog, refused messages, rows."),
    "ui": Lazy("ui:ui", "Serve a web page on this machine: the graph with its rates, tables, dead letters, questions."),
    "init": Lazy("start:init", "Write a commented ecomflow.toml to this folder."),
    "demo": Lazy("start:demo", "Run the whole path on a temporary local stack: publish, decode, load, count, query."),
}


class LazyCommands(UserDict[str, Any]):
    """The commands by name, each imported on first use, so that a command doesn't wait for imports of another."""

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
    # Rich's boxes take longer to import than the rest of --help.
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
    """Run the command line. On an error, print its message and remedy to standard error, and exit with its code.

    With --json the error is a line of JSON.
    """
    bypass_proxies()
    _escape_what_cannot_be_encoded()
    as_json = _asks_for_json(sys.argv[1:])
    try:
        code = app(standalone_mode=not as_json)
    except EcomflowError as error:
        _end(error, as_json)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except typer.Abort:
        _end(EcomflowError("Aborted.", None), as_json)
    except OSError as error:
        _end(_refused(error), as_json)
    except Exception as error:  # noqa: BLE001  # the outermost handler: a traceback is shown only with --debug
        _end(_misused(error) or _unexpected(error), as_json)
    sys.exit(code)


def _asks_for_json(arguments: list[str]) -> bool:
    return "--json" in takewhile(lambda argument: argument != "--", arguments)


def _escape_what_cannot_be_encoded() -> None:
    """Escape characters that the output's encoding (such as ASCII) lacks, instead of failing on them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _end(error: EcomflowError, as_json: bool) -> NoReturn:
    from ecomflow.terminal.console import show_error, show_error_as_json

    (show_error_as_json if as_json else show_error)(error)
    if os.environ.get("ECOMFLOW_DEBUG"):
        raise error
    sys.exit(error.exit_code)


def _refused(error: OSError) -> EcomflowError:
    """A full disk or missing permissions as an AccessError; anything else is unexpected."""
    what = error.filename or "A file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return AccessError(f"{what} can't be written: {error.strerror}.", "Free up disk space, then run the command again.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessError(
            f"{what} can't be read or written: {error.strerror}.", "Change its owner or permissions, or work in another folder."
        )
    return _unexpected(error)


def _misused(error: Exception) -> EcomflowError | None:
    """Typer's error for an unknown option or a value that does not fit; its class is not public."""
    if not hasattr(error, "format_message"):
        return None
    path = getattr(getattr(error, "ctx", None), "command_path", "ecomflow")
    wrapped = ConfigError(error.format_message(), f"See: {path} --help")
    wrapped.__cause__ = error
    return wrapped


def _unexpected(error: Exception) -> EcomflowError:
    wrapped = EcomflowError(
        f"Unexpected {type(error).__name__}: {error}",
        "This is a bug in ecomflow. For the traceback, run again with: ecomflow --debug …",
    )
    wrapped.exit_code = _UNEXPECTED
    wrapped.__cause__ = error
    return wrapped
