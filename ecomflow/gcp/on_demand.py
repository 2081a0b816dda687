"""A connection that is made when it is first asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class OnDemand(Generic[T]):
    """What ``make`` makes, when it is first asked for; after ``close``, when it is asked for again. Safe for several threads."""

    def __init__(self, make: Callable[[], T], close: Callable[[T], object]) -> None:
        self._make, self._close = make, close
        self._lock = threading.Lock()
        self._made: T | None = None

    def get(self) -> T:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def close(self) -> None:
        # Without the lock: a thread that is still making it, such as a check that was given up, must not delay the end.
        made, self._made = self._made, None
        if made is not None:
            self._close(made)
