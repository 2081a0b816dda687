"""Event ids in; how many of them were seen recently, out.

It only counts and drops nothing, so 64-bit hashes are enough: among 200,000 ids the probability of a collision is one in a
billion.
"""

from __future__ import annotations

import threading

# Two generations of this many ids each: some 20 MB.
GENERATION = 100_000


class SeenIds:
    """The last 100,000 to 200,000 event ids. Safe for several threads."""

    def __init__(self, generation: int = GENERATION) -> None:
        self._generation = generation
        self._lock = threading.Lock()
        self._young: set[int] = set()
        self._old: set[int] = set()

    def repeats_in(self, event_ids: list[str]) -> int:
        """How many of ``event_ids`` were seen before, here or earlier in the list; all of them are remembered."""
        with self._lock:
            distinct = set(map(hash, event_ids))
            older = set() if self._old.isdisjoint(distinct) else (distinct & self._old) - self._young
            known = len(self._young)
            self._young |= distinct
            repeats = len(event_ids) - (len(self._young) - known) + len(older)
            if len(self._young) >= self._generation:
                self._old, self._young = self._young, set()
            return repeats
