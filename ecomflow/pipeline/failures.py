"""Keeps the error that ended a bundle, because Beam passes on only its text.

The local engine reads it to distinguish a failure that a restart can fix (a service that does not answer) from one that it can't
(a missing table).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ecomflow.errors import EcomflowError


class LastFailure:
    """The last EcomflowError that a step raised. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: EcomflowError | None = None

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note an EcomflowError that passes through."""
        try:
            yield
        except EcomflowError as error:
            with self._lock:
                self._last = error
            raise

    def take(self) -> EcomflowError | None:
        """The last error noted, once."""
        with self._lock:
            last, self._last = self._last, None
        return last
