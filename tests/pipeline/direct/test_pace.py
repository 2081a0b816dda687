"""How many pulls go out at once, and for how many messages each asks."""

from __future__ import annotations

import random

import pytest

from ecomflow.pipeline.direct.pace import MOST_PULLS, PULL_MESSAGES, WAITING_AGE, Pace

OLD, LIVE = WAITING_AGE + 1, WAITING_AGE - 0.1


def pull(pace: Pace, messages: int, youngest: float = OLD, size: int = 100) -> int:
    """One pull that brings ``messages``, read at once; what it asked for."""
    asked = pace.ask(0, 0)
    pace.begin(asked)
    pace.end(asked, messages, messages * size, youngest)
    return asked


def test_old_messages_in_small_portions_take_more_pulls() -> None:
    """One more after each such pull, up to the most."""
    pace = Pace(10_000, 2**24)
    wanted = []
    for _ in range(20):
        pull(pace, 100)
        wanted.append(pace.wanted)
    assert wanted == [*range(2, MOST_PULLS + 1), *[MOST_PULLS] * 5]


@pytest.mark.parametrize("brings", [0, PULL_MESSAGES])
def test_nothing_or_all_that_was_asked_for_takes_fewer(brings: int) -> None:
    """Where one pull brings what fits, or nothing is there, the number goes back to one."""
    pace = Pace(10_000, 2**24)
    for _ in range(5):
        pull(pace, 100)
    assert pace.wanted == 6
    for _ in range(6):
        asked = pace.ask(0, 0)
        pace.begin(asked)
        pace.end(asked, min(brings, asked), 100 * min(brings, asked), OLD)
    assert pace.wanted == 1


def test_live_messages_take_no_more_and_slowly_fewer() -> None:
    """A message or two each are no backlog; what was needed for one is let down by a thousandth a pull."""
    pace = Pace(10_000, 2**24)
    for _ in range(100):
        pull(pace, 1, LIVE)
    assert pace.wanted == 1
    for _ in range(3):
        pull(pace, 100)
    for _ in range(400):
        pull(pace, 1, LIVE)
    assert pace.wanted == 4
    for _ in range(200):
        pull(pace, 1, LIVE)
    assert pace.wanted == 3


def test_a_failure_leaves_one_pull() -> None:
    """A service that is down is asked by one."""
    pace = Pace(10_000, 2**24)
    for _ in range(5):
        pull(pace, 100)
    pace.begin(pace.ask(0, 0))
    pace.fail(100)
    assert pace.wanted == 1


def test_large_messages_are_asked_for_in_smaller_numbers() -> None:
    """A pull asks for an eighth of the bound, in messages as large as those that came; never for none."""
    pace = Pace(10_000, 16_000_000)
    assert pull(pace, 1000, size=20_000) == 1000
    assert pace.ask(0, 0) == 100
    pull(pace, 1, size=16_000_000)
    assert pace.ask(0, 0) == 1


@pytest.mark.parametrize("seed", range(20))
def test_nothing_exceeds_the_bounds(seed: int) -> None:
    """Whatever pulls bring, what is ready and what is asked for stays within the bounds, where all messages are of a size."""
    rng = random.Random(seed)
    messages_bound, size_bound, size = rng.randint(1, 20_000), rng.randint(1000, 2**24), rng.randint(1, 2000)
    pace, ready, outstanding = Pace(messages_bound, size_bound), 0, []
    for _ in range(2000):
        if rng.random() < 0.1:
            ready = 0
        asked = pace.ask(ready, ready * size)
        if asked and rng.random() < 0.7:
            is_alone = not (outstanding or ready)
            pace.begin(asked)
            outstanding.append(asked)
            assert is_alone or ready + sum(outstanding) <= messages_bound
            assert is_alone or (ready + sum(outstanding)) * size <= size_bound
        elif outstanding:
            asked = outstanding.pop(rng.randrange(len(outstanding)))
            brought = rng.choice((0, asked, rng.randint(0, asked)))
            pace.end(asked, brought, brought * size, rng.choice((OLD, LIVE)))
            ready += brought
    assert pace.outstanding == len(outstanding)
