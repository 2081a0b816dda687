"""A series of numbers in; a line of block characters, one per number, out. Pure."""

from __future__ import annotations

from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(series: Sequence[float | None]) -> str:
    """One character per number, scaled from 0 to the maximum: the lowest block only for 0, a blank for None."""
    highest = max((number for number in series if number is not None), default=0.0)
    return "".join(" " if number is None else _block(number, highest) for number in series)


def _block(number: float, highest: float) -> str:
    if number <= 0:
        return _BLOCKS[0]
    return _BLOCKS[min(len(_BLOCKS) - 1, 1 + int(number / highest * (len(_BLOCKS) - 1)))]
