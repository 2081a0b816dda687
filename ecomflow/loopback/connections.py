"""An HTTP server's connections: one that sends no request is closed, and there are never more than the server can hold.

A client that opens connections and leaves them half open (or sends a byte a second) would otherwise hold all that a server has.
uvicorn has a deadline between two requests, and none for the first one, for a slow head, or for a slow body.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as _Protocol
else:
    _Protocol = AutoHTTPProtocol  # httptools where that is installed, else h11


class BoundedProtocol(_Protocol):
    """uvicorn's protocol with deadlines for requests, and a bound on the connections of a server.

    When more than ``max_connections`` are open, the one that has waited longest for its request is closed. Connections whose
    request is being answered stay, streams of events among them.
    """

    # Seconds for the head of a request to arrive, from when the connection opened or its last request was answered. Generous, for
    # on loopback no network is slow.
    request_seconds = 10.0
    # The longest pause, in seconds, within a request's body.
    body_pause_seconds = 30.0
    # A quarter of the 1,024 files that a process may usually have open.
    max_connections = 256

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._arm(self.request_seconds)
        if len(self.connections) > self.max_connections:
            waiting = [one for one in self.connections if isinstance(one, BoundedProtocol) and one._deadline is not None]
            min(waiting, key=lambda one: one._deadline.when(), default=self)._close()  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_answering:
            self._disarm()
            if self.cycle.more_body:
                self._arm(self.body_pause_seconds)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._disarm()
        if not self._is_answering:  # a request that came meanwhile may be under way already
            self._arm(self.request_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self._close)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        self._disarm()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.abort()
