"""What the processes of the local services share: their command line, the check of their ports, and their exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from ecomflow.errors import EcomflowError, UnavailableError
from ecomflow.processes.detached import is_free


def service_parser(name: str, title: str, content: str) -> argparse.ArgumentParser:
    """The command line of ``python -m ecomflow.local.<name>``, without its ports; ``content``: what its data folder has."""
    parser = argparse.ArgumentParser(prog=f"python -m ecomflow.local.{name}", description=f"Serve a local {title} on loopback.")
    parser.add_argument("--data-dir", type=Path, required=True, help=f"folder of {content}; created if missing")
    parser.add_argument(
        "--other-users", choices=("refuse", "allow"), default="refuse", help="whether to answer other users of this machine"
    )
    return parser


def check_free(*ports: int) -> None:
    """Raises UnavailableError if another program listens on one of ``ports``."""
    for port in ports:
        if not is_free(port):
            raise port_in_use(port)


def port_in_use(port: int) -> UnavailableError:
    return UnavailableError(
        f"Port {port} of 127.0.0.1 is in use by another program.", "Choose another port, or stop that program."
    )


def exit_code(serve: Callable[[], object]) -> int:
    """Call ``serve``, which returns when the service has ended; the exit code. An EcomflowError is printed to standard error."""
    try:
        serve()
    except EcomflowError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0
