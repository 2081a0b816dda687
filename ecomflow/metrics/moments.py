"""A moment noted earlier in; by how much the wall clock has been set since then out.

The wall clock can jump, by hours at the first contact with a time server after boot. The monotonic clock can't, and all processes
of a machine share it. Times that are shown or stored are those of the wall clock, as it is set when they are reported.
"""

from __future__ import annotations

import time
from typing import NamedTuple

# A smaller difference between the clocks, in seconds, is the time between their readings or a gradual correction.
LEAST_STEP = 1.0


class Moment(NamedTuple):
    """``wall``: seconds since the epoch; ``steady``: ``time.monotonic``."""

    wall: float
    steady: float


def moment() -> Moment:
    """The current moment."""
    return Moment(time.time(), time.monotonic())


def step_between(earlier: Moment, later: Moment) -> float:
    """By how many seconds the wall clock was set forward in between (negative: back); 0 if it was not set.

    A suspension of the machine counts as a step, because the monotonic clock stands still meanwhile.
    """
    step = (later.wall - earlier.wall) - (later.steady - earlier.steady)
    return step if abs(step) >= LEAST_STEP else 0.0


def rebased(noted: Moment, now: Moment) -> Moment:
    """The same moment by the wall clock as it is set ``now``."""
    return Moment(noted.wall + step_between(noted, now), noted.steady)
