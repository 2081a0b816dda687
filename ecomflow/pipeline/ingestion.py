"""The ids of a batch's events in; the ingestion time of each event's rows out.

All rows of an event that one delivery writes have the same ingestion time, in every table of its type, and the rows of another
delivery another one. By it the ``_unique`` views tell the rows of an event that was written several times apart, whether its
content was the same each time or not.
"""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class IngestionTimes:
    """Gives each batch of a process a later time than the one before, be it by a microsecond. Safe for several threads.

    Two processes may give the same one; that matters only where both write the same event in the same microsecond.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0

    def of(self, event_ids: list[str], now: datetime) -> Any:
        """Microseconds since 1970: one integer for the whole batch or, where an id comes more than once in it, a numpy int64
        array with one for each event. A later event of an id has a later time.
        """
        earlier = _earlier(event_ids)
        with self._lock:
            first = max((now - _EPOCH) // _MICROSECOND, self._next)
            self._next = first + 1 + (0 if earlier is None else int(earlier.max()))
        return first if earlier is None else first + earlier


def _earlier(event_ids: list[str]) -> Any:
    """How many events of the same id come before each in the list; None where no id comes twice."""
    if len(set(event_ids)) == len(event_ids):
        return None
    seen: Counter[str] = Counter()
    earlier = np.zeros(len(event_ids), np.int64)
    for index, event_id in enumerate(event_ids):
        earlier[index] = seen[event_id]
        seen[event_id] += 1
    return earlier
