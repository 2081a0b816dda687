"""``ecomflow ui``: the web page."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from ecomflow.commands.job import JobName, Runner, is_here
from ecomflow.commands.query import bytes_of
from ecomflow.commands.setting_options import JOBS, RESOURCES, with_settings
from ecomflow.commands.shared import examples, target_line
from ecomflow.config import Settings
from ecomflow.errors import MissingExtraError, install_extra
from ecomflow.terminal.console import out, plain, say

_PORT = 8377


@examples(
    "ecomflow ui",
    "ecomflow ui --no-open --port 0",
    "ecomflow ui --allow-replay",
    "ecomflow ui --project my-project --max-bytes 5GB",
)
@with_settings(*JOBS, *RESOURCES, "labels", "other_users", "dataflow.job_name")
def ui(
    settings: Settings,
    job: JobName = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: a free port.")] = _PORT,
    no_open: Annotated[bool, typer.Option("--no-open", help="Print the address without opening a browser.")] = False,
    allow_replay: Annotated[
        bool, typer.Option("--allow-replay", help="Allow replaying dead letters from the page, after a preview.")
    ] = False,
    max_bytes: Annotated[
        str, typer.Option(help="Maximum that one query of the page may scan in a project, such as 500MB, 1GB, 2TiB.")
    ] = "1GB",
    runner: Runner = None,
) -> None:
    """Serve a web page on this machine: the graph with its rates, tables, dead letters, questions.

    The page opens in the browser. Its address contains a token that grants access. It is read-only without --allow-replay. Stop
    it with Ctrl-C.
    """
    if not (find_spec("starlette") and find_spec("uvicorn")):
        raise MissingExtraError("The page needs starlette and uvicorn.", install_extra("ui"))
    from ecomflow.ui.app import Options
    from ecomflow.ui.server import serve

    options = Options(is_here(settings, runner, job), job, allow_replay, bytes_of(max_bytes))
    say(target_line(settings))

    def show_address(address: str) -> None:
        out.print(plain(f"The page is at {address}"), soft_wrap=True)
        say("Stop it with Ctrl-C.")
        sys.stdout.flush()

    serve(settings, port, options, show_address, opens=not no_open)
    # Don't wait for threads that still read the bucket or the warehouse. Only a replay writes, and it can be interrupted safely.
    sys.stdout.flush()
    os._exit(0)
