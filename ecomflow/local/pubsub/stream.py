"""Flow control of one StreamingPull: the client's remaining capacity, and the ordering keys with more messages for it."""

from __future__ import annotations

import asyncio
import sys


class Stream:
    def __init__(self, max_messages: int = 0, max_bytes: int = 0, deadline_seconds: int = 0) -> None:
        self.deadline_seconds = deadline_seconds
        self.keys: dict[str, None] = {}  # ordering keys whose next message can only go to this stream, in order
        self._free_messages = max_messages if max_messages > 0 else sys.maxsize
        self._free_bytes = max_bytes if max_bytes > 0 else sys.maxsize
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._waiter: asyncio.Future[None] | None = None

    async def room(self) -> tuple[int, int]:
        """Wait for capacity; returns how many messages and bytes fit."""
        await self._has_room.wait()
        return self._free_messages, self._free_bytes

    def occupy(self, messages: int, size: int) -> None:
        """Count ``messages`` with a total of ``size`` bytes as outstanding; negative numbers release capacity."""
        self._free_messages -= messages
        self._free_bytes -= size
        if self._free_messages > 0 and self._free_bytes > 0:
            self._has_room.set()
        else:
            self._has_room.clear()

    def wait_with(self, waiter: asyncio.Future[None]) -> None:
        """Set the future on which this stream waits for its next message."""
        self._waiter = waiter

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
