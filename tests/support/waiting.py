"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

# Generous, for a machine that others share; a condition that holds ends the wait at once.
PATIENCE = 90.0


def wait_until(condition: Callable[[], Any], what: str = "the condition came true", seconds: float = PATIENCE) -> Any:
    """What ``condition`` gives once it is true. Fails, saying that ``what`` did not happen, after ``seconds``."""
    give_up = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < give_up, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.01)
    return found


def holds(condition: Callable[[], bool], seconds: float = 0.2) -> bool:
    """Whether ``condition`` stays true for ``seconds``: for what must not happen, which nothing announces."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not condition():
            return False
        time.sleep(0.01)
    return True
