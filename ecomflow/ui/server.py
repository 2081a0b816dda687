"""Serves the page on loopback until Ctrl-C, and opens it in the browser."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable

import uvicorn

from ecomflow.config import Settings
from ecomflow.errors import UnavailableError
from ecomflow.loopback.connections import BoundedProtocol
from ecomflow.loopback.peers import OwnUser
from ecomflow.loopback.web_guard import UserGuard
from ecomflow.ui.app import Options, make_app
from ecomflow.ui.guard import Gate

HOST = "127.0.0.1"


def serve(settings: Settings, port: int, options: Options, on_address: Callable[[str], None], *, opens: bool) -> None:
    """Serve until SIGINT or SIGTERM, which abort requests in flight. ``on_address`` gets the address with its token.

    ``port`` 0: any free port. Raises UnavailableError if the port is in use.
    """
    with _listening(port) as listener:
        gate = Gate(listener.getsockname()[1])
        app, pages = make_app(settings, gate, options)
        server = uvicorn.Server(_config(UserGuard(app, OwnUser(listener.getsockname(), settings.other_users))))
        pages.steps.look()  # takes seconds, so start it before the first request
        # uvicorn re-raises the signal that ended it.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            on_address(gate.address(gate.printed))
            if opens:
                # Some browsers block the process that starts them. Their requests wait in the socket's queue meanwhile.
                threading.Thread(target=webbrowser.open, args=(gate.address(gate.once()),), daemon=True).start()
            server.run(sockets=[listener])
        signal.signal(signal.SIGTERM, before)
        pages.close()


def _config(app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        loop="asyncio",
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=0,
    )


def _listening(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise UnavailableError(
            f"The page can't listen on {HOST}:{port}: {error.strerror}.",
            "Choose another port, or use a free one: ecomflow ui --port 0",
        ) from error
    return listener
