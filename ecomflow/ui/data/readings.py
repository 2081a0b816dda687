"""What is slow to read in, its last known value out: read off the page's own thread, as often as the page stays cheap."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ecomflow.errors import EcomflowError

T = TypeVar("T")

# A reading may take one part in so many of the time: what it costs the services stays below 2 %.
_SHARE = 50


class Reading(Generic[T]):
    """A value that ``read`` gets in seconds. ``look`` never waits: it gives what is known, and begins to read where that is old.

    ``least`` are the seconds between two reads at least; None: read once, and again only by ``refresh``. ``progress`` counts what
    was read so far, where ``read`` notes it.
    """

    def __init__(self, read: Callable[[], T], least: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._read, self._least, self._clock = read, least, clock
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._next = 0.0
        self.value: T | None = None
        self.error: EcomflowError | None = None
        self.read_at: float | None = None
        self.progress = 0

    @property
    def is_reading(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def look(self) -> Reading[T]:
        """Begin to read where the value is missing or old; this reading."""
        if self._clock() >= self._next:
            self.refresh()
        return self

    def refresh(self) -> None:
        """Begin to read now, unless that is under way."""
        with self._lock:
            if not self.is_reading:
                self._thread = threading.Thread(target=self._run, daemon=True, name="reading")
                self._thread.start()

    def expire(self) -> None:
        """What is known is old now."""
        self._next = 0.0

    def wait(self, seconds: float) -> None:
        """Wait so long at most for the read that is under way."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def _run(self) -> None:
        started = self._clock()
        try:
            self.value, self.error = self._read(), None
        except EcomflowError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001  # shown on the page: a thread has nobody else to tell
            self.error = unexpected(error)
        took = self._clock() - started
        self.read_at = time.time()
        if self.error is not None:
            self._next = self._clock() + max(2.0, took)
        else:
            self._next = float("inf") if self._least is None else self._clock() + max(self._least, _SHARE * took)


def unexpected(error: Exception) -> EcomflowError:
    """A fault of our own, for the page to show."""
    return EcomflowError(f"Unexpected {type(error).__name__}: {error}", "This is a fault of ecomflow.")


async def in_thread(work: Callable[[], T]) -> T:
    """``work`` in a thread of its own, which does not hold up the end of the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            value = work()
        except Exception as error:  # noqa: BLE001  # handed to whoever waits
            _hand(loop, _set_exception, done, error)
        else:
            _hand(loop, _set_result, done, value)

    threading.Thread(target=run, daemon=True, name="request").start()
    return await done


def _hand(loop: asyncio.AbstractEventLoop, how: Callable[..., None], *arguments: Any) -> None:
    try:
        loop.call_soon_threadsafe(how, *arguments)
    except RuntimeError:  # the loop has ended, and with it whoever waited
        pass


def _set_result(done: asyncio.Future[Any], value: Any) -> None:
    if not done.done():
        done.set_result(value)


def _set_exception(done: asyncio.Future[Any], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
