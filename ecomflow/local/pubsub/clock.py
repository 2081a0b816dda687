"""The clock of the local Pub/Sub, which tests replace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """The wall clock and a monotonic clock.

    The wall clock can jump, for example at the first contact with a time server. Messages have its time; everything that waits,
    such as ack deadlines, uses ``steady``.
    """

    def now(self) -> float:
        """Seconds since the epoch."""

    def steady(self) -> float:
        """Seconds since an arbitrary start; not affected by changes of the wall clock."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` from the event loop when ``steady`` is ``when``; returns a function that cancels it."""


class SystemClock:
    def now(self) -> float:
        return time.time()

    def steady(self) -> float:
        return time.monotonic()

    def call_at(self, when: float, callback: Callable[[], None]) -> Callable[[], None]:
        return asyncio.get_running_loop().call_later(max(0.0, when - time.monotonic()), callback).cancel
