"""How long a sink waits for its service."""

from __future__ import annotations

from typing import NamedTuple


class Patience(NamedTuple):
    """In seconds: an ``answer`` is waited for, the pauses between tries double, and all tries together end at ``give_up``."""

    answer: float
    give_up: float
    first_pause: float
    longest_pause: float
