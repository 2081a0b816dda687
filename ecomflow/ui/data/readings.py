"""Slow reads in other threads: the page shows the last known value, and reads are rare enough to stay cheap."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ecomflow.errors import EcomflowError

T = TypeVar("T")

# Reads take at most this fraction (1/50) of the time, so that their cost for the services stays below 2 %; but see ``most``.
_SHARE = 50


class Reading(Generic[T]):
    """A value that takes seconds to ``read``. ``look`` never waits: it returns the known value, and starts a read if it is old.

    ``least``: minimum seconds between two reads; None: read once, and again only by ``refresh``. ``most``: maximum seconds,
    however long a read took. ``progress``: how much has been read so far, if ``read`` sets it.
    """

    def __init__(
        self,
        read: Callable[[], T],
        least: float | None,
        clock: Callable[[], float] = time.monotonic,
        most: float = float("inf"),
    ) -> None:
        self._read, self._least, self._clock, self._most = read, least, clock, most
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
        """Start a read if the value is missing or old; returns this reading."""
        if self._clock() >= self._next:
            self.refresh()
        return self

    def refresh(self) -> None:
        """Start a read now, unless one is running."""
        with self._lock:
            if not self.is_reading:
                self._thread = threading.Thread(target=self._run, daemon=True, name="reading")
                self._thread.start()

    def expire(self) -> None:
        """Mark the value as old."""
        self._next = 0.0

    def wait(self, seconds: float) -> None:
        """Wait at most ``seconds`` for the running read."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def _run(self) -> None:
        started = self._clock()
        try:
            self.value, self.error = self._read(), None
        except EcomflowError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001  # shown on the page: nothing else handles errors of this thread
            self.error = unexpected(error)
        took = self._clock() - started
        self.read_at = time.time()
        if self.error is not None:
            self._next = self._clock() + max(2.0, took)
        else:
            self._next = float("inf") if self._least is None else self._clock() + max(self._least, min(_SHARE * took, self._most))


def unexpected(error: Exception) -> EcomflowError:
    """A bug in ecomflow, for the page to show."""
    return EcomflowError(f"Unexpected {type(error).__name__}: {error}", "This is a bug in ecomflow. Please report it.")


async def in_thread(work: Callable[[], T]) -> T:
    """Run ``work`` in its own thread, which does not delay the end of the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            value = work()
        except Exception as error:  # noqa: BLE001  # passed to the caller
            _hand(loop, _set_exception, done, error)
        else:
            _hand(loop, _set_result, done, value)

    threading.Thread(target=run, daemon=True, name="request").start()
    return await done


def _hand(loop: asyncio.AbstractEventLoop, how: Callable[..., None], *arguments: Any) -> None:
    try:
        loop.call_soon_threadsafe(how, *arguments)
    except RuntimeError:  # the loop has ended, and the caller with it
        pass


def _set_result(done: asyncio.Future[Any], value: Any) -> None:
    if not done.done():
        done.set_result(value)


def _set_exception(done: asyncio.Future[Any], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
