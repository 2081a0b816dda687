"""Time as the local Pub/Sub sees it, which tests replace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Time as the server sees it: what the calendar says, and what has passed.

    The calendar steps, when a machine first hears from a time server for instance. What is published bears its time; whatever
    has to wait, ack deadlines first of all, waits by ``steady``.
    """

    def now(self) -> float:
        """Seconds since the epoch."""

    def steady(self) -> float:
        """Seconds since some moment, which no step of the calendar changes."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Have the event loop call ``callback`` when ``steady`` is ``when``; calling what is returned cancels that."""


class SystemClock:
    def now(self) -> float:
        return time.time()

    def steady(self) -> float:
        return time.monotonic()

    def call_at(self, when: float, callback: Callable[[], None]) -> Callable[[], None]:
        return asyncio.get_running_loop().call_later(max(0.0, when - time.monotonic()), callback).cancel
