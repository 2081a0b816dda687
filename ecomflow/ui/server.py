"""Settings in; the page served on loopback until Ctrl-C, and opened in the browser."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable

import uvicorn

from ecomflow.config import Settings
from ecomflow.connections import BoundedProtocol
from ecomflow.errors import UnavailableError
from ecomflow.peers import OwnUser
from ecomflow.ui.app import Options, make_app
from ecomflow.ui.guard import Gate
from ecomflow.web_guard import UserGuard

HOST = "127.0.0.1"


def serve(settings: Settings, port: int, options: Options, on_address: Callable[[str], None], *, opens: bool) -> None:
    """Serve until SIGINT or SIGTERM; requests in flight are cut then. ``on_address`` gets the address with its token.

    ``port`` 0: any that is free. Raises UnavailableError where the port is taken.
    """
    with _listening(port) as listener:
        gate = Gate(listener.getsockname()[1])
        app, pages = make_app(settings, gate, options)
        server = uvicorn.Server(_config(UserGuard(app, OwnUser(listener.getsockname(), settings.other_users))))
        pages.steps.look()  # takes seconds, so it begins before anybody looks
        # uvicorn raises the signal that ended it once more.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            on_address(gate.address(gate.printed))
            if opens:
                # Some browsers hold up whoever starts them. What they ask for meanwhile waits in the socket's queue.
                threading.Thread(target=webbrowser.open, args=(gate.address(gate.once()),), daemon=True).start()
            server.run(sockets=[listener])
        signal.signal(signal.SIGTERM, before)
        pages.sampler.stop()


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
            "Choose another port, or any that is free: ecomflow ui --port 0",
        ) from error
    return listener
