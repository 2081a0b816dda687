"""A query result in; the lines of a bar or line chart, in block and box characters, out. Pure.

A column of names and a column of numbers become a bar chart; a column of dates or times and a column of numbers, a line chart.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import pairwise
from typing import Any

from rich.cells import cell_len, set_cell_size

from ecomflow.errors import ConfigError
from ecomflow.terminal.console import plain, portable_json
from ecomflow.warehouse.queries import Answer

Point = tuple[Any, Any]

_MAX_BARS = 50
_MIN_BAR_WIDTH = 10
_LINE_HEIGHT = 12
_EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
_REMEDY = "Select a column of distinct names, dates or times, and a column of numbers."


def chart(answer: Answer, width: int) -> list[str]:
    """The lines of a chart of ``answer``, at most ``width`` cells wide, if that leaves at least 10 for the bars.

    The label is the first column of names, dates or times; the amount is the column that the answer names, otherwise the first
    column of numbers. Bars are approximate, the numbers next to them exact. Raises ConfigError, saying what is missing, if the
    result can't be drawn.
    """
    if not answer.rows:
        return ["There are no rows to draw."]
    label, amount = axes(answer)
    points = [(row[label], row[amount]) for row in answer.rows]
    named = f"{plain(answer.columns[amount])} by {plain(answer.columns[label])}"
    is_line = len(points) > 1 and all(isinstance(moment, date) for moment, _ in points)
    return [named, *(_line(points, width) if is_line else _bars(points, width))]


def amount_text(value: int | float | Decimal) -> str:
    """A number in full, with thousands separators; decimals (such as money) with at least two places."""
    if not isinstance(value, Decimal):
        return f"{value:,}"
    if not value.is_finite():
        return str(value)
    # As text: Decimal's own normalize() rounds to the 28 digits of its context, and a BIGNUMERIC has 76.
    whole, _, places = f"{value:,f}".partition(".")
    return f"{whole}.{places.rstrip('0').ljust(2, '0')}"


def json_text(value: list[Any] | dict[str, Any]) -> str:
    """An array, a struct or a JSON value as JSON on one line."""
    return portable_json(value).decode()


def axes(answer: Answer) -> tuple[int, int]:
    """The indices of the label and amount columns. Raises ConfigError if the result has no such columns."""
    every = [[row[index] for row in answer.rows if row[index] is not None] for index in range(len(answer.columns))]
    labels = [index for index, values in enumerate(every) if _are(values, (str, date))]
    amounts = [index for index, values in enumerate(every) if _are(values, (int, float, Decimal))]
    if not labels or not amounts:
        lacking = "numbers" if labels else "names, dates or times"
        raise ConfigError(f"The result can't be drawn as a chart: it has no column of {lacking}.", _REMEDY)
    drawn = [row[labels[0]] for row in answer.rows]
    if len(set(drawn)) < len(drawn):
        name = answer.columns[labels[0]]
        raise ConfigError(f"The result can't be drawn as a chart: column '{name}' has repeated values.", _REMEDY)
    chosen = [index for index in amounts if answer.columns[index] == answer.chart]
    return labels[0], (chosen or amounts)[0]


def _are(values: Sequence[Any], types: tuple[type, ...]) -> bool:
    return bool(values) and all(isinstance(value, types) and not isinstance(value, bool) for value in values)


def _bars(points: Sequence[Point], width: int) -> list[str]:
    """One line for each point: label (at most a third of the width), exact amount, bar. Bars of negative numbers go left."""
    shown = points[:_MAX_BARS]
    labels = ["NULL" if label is None else plain(label).plain for label, _ in shown]
    amounts = ["NULL" if amount is None else amount_text(amount) for _, amount in shown]
    label_width = min(max(map(cell_len, labels)), max(8, width // 3))
    amount_width = max(map(len, amounts))
    bars = _scaled([_number(amount) for _, amount in shown], max(_MIN_BAR_WIDTH, width - label_width - amount_width - 3))
    lines = [
        f"{_clipped(label, label_width)}  {amount:>{amount_width}} {bar}".rstrip()
        for label, amount, bar in zip(labels, amounts, bars, strict=True)
    ]
    more = len(points) - len(shown)
    return [*lines, f"… and {more:,} more"] if more else lines


def _scaled(numbers: Sequence[float], room: int) -> list[str]:
    """A bar for each number, all on one scale that includes 0, in ``room`` cells."""
    low, high = min(0.0, *numbers), max(0.0, *numbers)
    if low == 0:
        return [_blocks(number * (room / high)) if high else "" for number in numbers]
    room -= 1  # for the axis
    left = room if high == 0 else min(room - 1, max(1, round(room * (low / (low - high)))))
    unit = max(-low / left, high / (room - left) if high else 0.0)
    return [
        f"{_blocks_leftward(-number / unit) if number < 0 else '':>{left}}│{_blocks(number / unit) if number > 0 else ''}"
        for number in numbers
    ]


def _blocks(cells: float) -> str:
    eighths = 0 if cells <= 0 else max(1, round(cells * 8))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8]


def _blocks_leftward(cells: float) -> str:
    """Like ``_blocks``, but in halves: Unicode has no finer right-aligned blocks."""
    halves = max(1, round(cells * 2))
    return "▐" * (halves % 2) + "█" * (halves // 2)


def _line(points: Sequence[Point], width: int) -> list[str]:
    """``_LINE_HEIGHT`` lines, with the highest and lowest amounts at the left and the first and last time below.

    The horizontal axis is linear in time. Points that share a column are drawn as their mean.
    """
    kept = sorted(((moment, amount) for moment, amount in points if amount is not None and math.isfinite(amount)), key=_at)
    if len(kept) < 2:
        return _bars(points, width)
    low, high = min(amount for _, amount in kept), max(amount for _, amount in kept)
    scale = [amount_text(high), *[""] * (_LINE_HEIGHT - 2), amount_text(low)]
    margin = max(map(len, scale))
    columns = max(_MIN_BAR_WIDTH, width - margin - 2)
    bottom, step = float(low), (float(high) - float(low)) / (_LINE_HEIGHT - 1)
    levels = [round((value - bottom) / step) if step else _LINE_HEIGHT // 2 for value in _sampled(kept, columns)]
    rows = [f"{mark:>{margin}} ┤{row}".rstrip() for mark, row in zip(scale, _stroke(levels), strict=True)]
    first, last = str(kept[0][0]), str(kept[-1][0])
    between = " " * (columns - len(first) - len(last)) or " … "
    return [*rows, f"{first}{between}{last}".rjust(margin + 2 + columns)]


def _sampled(points: Sequence[Point], columns: int) -> list[float]:
    """A value for each column: the mean of its points, or a linear interpolation between its neighbours."""
    start, end = _at(points[0]), _at(points[-1])
    fallen: dict[int, list[float]] = defaultdict(list)
    for point in points:
        fallen[round((_at(point) - start) / (end - start) * (columns - 1))].append(float(point[1]))
    means = {column: math.fsum(values) / len(values) for column, values in fallen.items()}
    known = sorted(means)
    sampled = [means[0]]
    for before, after in pairwise(known):
        slope = (means[after] - means[before]) / (after - before)
        sampled += [means[before] + slope * step for step in range(1, after - before + 1)]
    return sampled


def _stroke(levels: Sequence[int]) -> list[str]:
    """``levels`` (0 is lowest) as one line of box characters, top row first."""
    grid = [[" "] * len(levels) for _ in range(_LINE_HEIGHT)]
    for column, level in enumerate(levels):
        before = levels[max(0, column - 1)]
        for between in range(min(before, level) + 1, max(before, level)):
            grid[between][column] = "│"
        if before != level:
            grid[before][column] = "╯" if level > before else "╮"
        grid[level][column] = "─" if before == level else "╭" if level > before else "╰"
    return ["".join(row) for row in reversed(grid)]


def _at(point: Point) -> float:
    return seconds_of(point[0])


def seconds_of(moment: date) -> float:
    """Seconds since the epoch. A DATE or DATETIME has no time zone; it is read as UTC, independently of the machine's zone."""
    at = moment if isinstance(moment, datetime) else datetime.combine(moment, time())
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _number(amount: Any) -> float:
    """For the scale; a missing or infinite value has no bar."""
    return float(amount) if amount is not None and math.isfinite(amount) else 0.0


def _clipped(label: str, width: int) -> str:
    return set_cell_size(label, width) if cell_len(label) <= width else f"{set_cell_size(label, width - 1)}…"
