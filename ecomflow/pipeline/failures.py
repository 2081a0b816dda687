"""The error that ended a bundle, kept as it was: Beam passes on only its text.

The local engine reads it to tell a failure that a restart mends (a service that does not answer) from one that it does not
(a missing table).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ecomflow.errors import EcomflowError

_lock = threading.Lock()
_last: list[EcomflowError] = []


@contextmanager
def noted() -> Iterator[None]:
    """Note an EcomflowError that passes through."""
    try:
        yield
    except EcomflowError as error:
        with _lock:
            _last[:] = [error]
        raise


def take() -> EcomflowError | None:
    """The last error noted, once."""
    with _lock:
        return _last.pop() if _last else None
