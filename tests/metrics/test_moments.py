"""Moments noted before the wall clock was set, by the clock as it is set now."""

from __future__ import annotations

import pytest

from ecomflow.metrics.moments import Moment, moment, rebased, step_between

DAY = 86_400.0


@pytest.mark.parametrize("step", [0.0, DAY, -DAY])
def test_a_step_is_what_the_wall_clock_gained_on_the_steady_one(step: float) -> None:
    """However long lies between; and a noted moment moves with it."""
    noted, now = Moment(5000.0, 10.0), Moment(5090.0 + step, 100.0)
    assert step_between(noted, now) == step
    assert rebased(noted, now) == Moment(5000.0 + step, 10.0)


@pytest.mark.parametrize("gained", [0.9, -0.9])
def test_what_lies_between_two_readings_is_no_step(gained: float) -> None:
    """A moment stays the same number, so that it can be compared."""
    noted = Moment(5000.0, 10.0)
    assert rebased(noted, Moment(5001.0 + gained, 11.0)) == noted


def test_two_moments_of_this_machine_have_no_step_between() -> None:
    """Both clocks are its own."""
    assert step_between(moment(), moment()) == 0
