"""The command line: arguments in; a table, a sentence or JSON out. Commands live in ``ecomflow/commands``; errors end here."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ecomflow import __version__
from ecomflow.commands import contract, deploy, dlq, doctor, infra, job, publish, query, reconcile, start, top, ui
from ecomflow.errors import AccessError, EcomflowError
from ecomflow.loopback.proxies import bypass_proxies


class _Group(TyperGroup):
    """Lists its commands with their whole first sentence, which would else be cut off where the line ends."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(limit=300)) for name, command in commands if command])


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Rich's boxes would take longer to import than all the rest of --help together.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    help="E-commerce events from Pub/Sub to BigQuery facts: provision, deploy, publish, inspect.",
    epilog="Start with: ecomflow demo. Without a project everything runs on this machine, without an account.",
)
app.add_typer(infra.app, name="infra", cls=_Group)
app.command(epilog="Examples:\n\n  ecomflow doctor\n\n  ecomflow doctor --project my-project --probe")(doctor.doctor)
app.command(
    epilog="Examples:\n\n  ecomflow deploy\n\n  ecomflow deploy --detach\n\n  ecomflow deploy --project my-project --dry-run\n\n"
    "  ecomflow deploy --project my-project --max-workers 4 --label team=shop -- --disk_size_gb=30"
)(deploy.deploy)
app.command(epilog="Examples:\n\n  ecomflow publish --n 100\n\n  ecomflow publish --n 1000 --seed 7 --rate 200")(publish.publish)
app.add_typer(contract.contract, name="contract", cls=_Group)
app.add_typer(dlq.dlq, name="dlq", cls=_Group)
app.command(epilog=query.EXAMPLES)(query.query)
app.add_typer(job.jobs, name="job", cls=_Group)
app.command(epilog="Examples:\n\n  ecomflow reconcile\n\n  ecomflow reconcile --ledger published.jsonl --wait 60")(
    reconcile.reconcile
)
app.command(epilog=top.EXAMPLES)(top.top)
app.command(epilog=ui.EXAMPLES)(ui.ui)
app.command(epilog="Example:\n\n  ecomflow init")(start.init)
app.command(epilog="Example:\n\n  ecomflow demo --n 500")(start.demo)

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
