"""The pauses before restarts."""

from __future__ import annotations

from typing import NamedTuple


class Restarts(NamedTuple):
    """In seconds. The pauses double. After a run of ``well_after`` seconds the next failure starts again with the first pause."""

    first_pause: float
    longest_pause: float
    well_after: float


RESTARTS = Restarts(first_pause=1.0, longest_pause=30.0, well_after=60.0)
