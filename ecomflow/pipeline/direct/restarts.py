"""How soon what has failed starts again."""

from __future__ import annotations

from typing import NamedTuple


class Restarts(NamedTuple):
    """In seconds: the pauses double. What has run for ``well_after`` was well: its next failure is a new one, with the first
    pause again.
    """

    first_pause: float
    longest_pause: float
    well_after: float


RESTARTS = Restarts(first_pause=1.0, longest_pause=30.0, well_after=60.0)
