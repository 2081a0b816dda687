"""Timeouts and pauses of a sink."""

from __future__ import annotations

from typing import NamedTuple


class Patience(NamedTuple):
    """In seconds: the timeout of an ``answer``, the pauses between attempts, which double, and when to give up."""

    answer: float
    give_up: float
    first_pause: float
    longest_pause: float
