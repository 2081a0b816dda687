"""Deadlines and a limit for the connections of an HTTP service, so that slow clients can't block the others.

A client that opens a connection and sends nothing, or a byte now and then, uses almost no resources of its own but keeps a file
descriptor of the service open (https://en.wikipedia.org/wiki/Slowloris_(cyber_attack)). uvicorn itself has only a deadline
between two requests.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ecomflow.loopback.web_guard import WAIT_SECONDS

MIN_BYTES = 5_000
"""Minimum that a client must send of a body in WAIT_SECONDS: 500 bytes per second, as in Apache's mod_reqtimeout."""
READ_SECONDS = 60.0
"""How long a client may leave a response unread that does not fit into the buffers."""
MAX_CONNECTIONS = 128
"""Below the usual limit of file descriptors per process: 256 on macOS, 1,024 on Linux."""

_LAST_LOOK_SECONDS = 0.2

_Awaited = Literal["head", "body", "reading"]
# Which connections are closed first to make room: those without a request before those with one.
_TO_CLOSE_FIRST: tuple[_Awaited, ...] = ("head", "body", "reading")
_turns = count()  # the loop's clock does not advance while it accepts many connections at once


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol for ``http=``, with deadlines for the client and a limit on connections.

    There is no deadline while the service prepares a response. Beyond MAX_CONNECTIONS the connection whose client has been
    awaited longest is closed; if no client is awaited, the new one is.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._awaited: _Awaited | None = None
        self._turn, self._bytes = 0, 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._look()
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._await(None)

    def _look(self) -> None:
        if (awaited := self._what_is_awaited()) != self._awaited:
            self._await(awaited)

    def _what_is_awaited(self) -> _Awaited | None:
        if self.flow.write_paused or self.transport.is_closing():
            return "reading"
        if self.conn.their_state is h11.IDLE:
            return "head"
        return "body" if self.conn.their_state is h11.SEND_BODY else None

    def _await(self, awaited: _Awaited | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._awaited, self._turn, self._bytes = awaited, next(_turns), 0
        if awaited is not None:
            seconds = READ_SECONDS if awaited == "reading" else WAIT_SECONDS
            self._timer = self.loop.call_later(seconds, self._overdue, False)

    def _overdue(self, last: bool) -> None:
        if self._awaited == "body" and (self._bytes >= MIN_BYTES or self.flow.read_paused):
            self._await("body")
        elif last:
            self._drop()
        else:
            # If the service itself was busy or stopped meanwhile, data may have arrived that has not been read yet.
            self._timer = self.loop.call_later(_LAST_LOOK_SECONDS, self._overdue, True)

    def _make_room(self) -> None:
        others = (one for one in self.connections if isinstance(one, BoundedProtocol) and one is not self)
        waiting = ((_TO_CLOSE_FIRST.index(one._awaited), one._turn, one) for one in others if one._awaited)
        _, _, one = min(waiting, key=lambda found: found[:2], default=(0, 0, self))
        one._drop()

    def _drop(self) -> None:
        self.connections.discard(self)
        self.transport.abort()
