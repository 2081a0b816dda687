"""Numbers in; lines and bars, as stretchable SVG, out. Pure.

Text would be stretched too, so it is HTML next to the drawing. Every drawing has a text alternative or a table with the same
numbers; with a table it is hidden from screen readers.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from ecomflow.terminal.amounts import clock_text, day_text, rate_text
from ecomflow.ui.views.html import Html, tag

_WIDTH, _HEIGHT = 1000, 100


class Curve(msgspec.Struct, frozen=True):
    """A named series of points (time in seconds, value; None: a gap), in order. ``tone``: accent or bad."""

    name: str
    points: Sequence[tuple[float, float | None]]
    tone: str = "accent"


def sparkline(values: Sequence[float | None]) -> Html | None:
    """A sparkline of ``values``, starting at 0; None if fewer than two are known."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    points = [(float(place), value) for place, value in enumerate(values)]
    return plot([Curve("", points)], (0.0, float(len(values) - 1)), max(*known, 1.0), "spark")


def line_chart(title: str, lines: Sequence[Curve], seconds: float, *, unit: str = "/s", dated: bool = False) -> Html:
    """``lines`` over the last ``seconds`` up to the newest point, from 0 to their maximum. Both ends are labelled with the time,
    or, if ``dated``, with the day.
    """
    known = [value for line in lines for _, value in line.points if value is not None]
    if len(known) < 2:
        return tag("p", "The chart starts with the second reading.", class_="quiet")
    end = max(at for line in lines for at, _ in line.points)
    span = (end - seconds, end)
    high = max(known)
    words = ", ".join(f"{line.name} at most {rate_text(_highest(line), unit)}" for line in lines)
    legend = [tag("span", line.name, class_="key", data_tone=line.tone) for line in lines] if len(lines) > 1 else []
    return tag(
        "figure",
        tag("figcaption", tag("span", title, class_="chart-title"), legend),
        tag("span", rate_text(high, unit), class_="high"),
        plot(lines, span, max(high, 1e-9), "chart", f"{title}: {words}"),
        tag("span", [tag("span", (day_text if dated else clock_text)(at)) for at in span], class_="ends"),
        class_="plot",
    )


def columns_chart(title: str, values: Sequence[tuple[datetime, int]], unit: str) -> Html:
    """A column for each time, with the maximum labelled."""
    high = max((amount for _, amount in values), default=0)
    wide = _WIDTH / max(len(values), 1)
    bars = [
        tag(
            "rect",
            tag("title", f"{moment.astimezone(UTC):%H:%M}: {amount:,} {unit}"),
            x=f"{number * wide:.1f}",
            y=f"{_HEIGHT - tall:.1f}",
            width=f"{max(wide - 3, wide / 2):.1f}",
            height=f"{tall:.1f}",
        )
        for number, (moment, amount) in enumerate(values)
        for tall in [max(_HEIGHT * amount / high, 1.0) if amount else 0.0]
    ]
    label = f"{title}: at most {high:,} {unit}."
    drawing = tag("svg", tag("title", label), bars, class_="columns", **_frame(), role="img", aria_label=label)
    ends = [tag("span", f"{moment.astimezone(UTC):%H:%M}") for moment, _ in values[:: max(len(values) - 1, 1)]]
    return tag(
        "figure",
        tag("figcaption", tag("span", title, class_="chart-title")),
        tag("span", f"{high:,} {unit}", class_="high"),
        drawing,
        tag("span", ends, class_="ends"),
        class_="plot",
    )


def bar(amount: float, low: float, high: float) -> Html:
    """One bar on the scale from ``low`` (at most 0) to ``high`` (at least 0)."""
    whole = (high - low) or 1.0
    zero, end = -low / whole * _WIDTH, (amount - low) / whole * _WIDTH
    left, right = min(zero, end), max(zero, end)
    width = max(right - left, 4.0 if amount else 0.0)
    drawn = tag("rect", x=f"{left:.1f}", y="15", width=f"{width:.1f}", height="70", data_tone="bad" if amount < 0 else None)
    return tag("svg", drawn, class_="bar", **_frame(), aria_hidden="true", focusable="false")


def plot(
    lines: Sequence[Curve], span: tuple[float, float], high: float, kind: str, label: str | None = None, parts: int = 1
) -> Html:
    """``lines`` over the times ``span``, from 0 to ``high``. ``parts``: into how many parts lines of the same value divide it."""
    heights = [_HEIGHT * at / parts for at in range(1, parts)]
    grid = tag("path", class_="grid", d="".join(f"M0 {y:g}H{_WIDTH}" for y in heights), vector_effect="non-scaling-stroke")
    drawn = [_stroke(line, span, high) for line in lines if len(line.points) > 1]
    words = {"role": "img", "aria_label": label} if label else {"aria_hidden": "true"}
    return tag("svg", grid if heights else None, drawn, class_=kind, **_frame(), **words, focusable="false")


def _highest(line: Curve) -> float | None:
    return max((value for _, value in line.points if value is not None), default=None)


def _stroke(line: Curve, span: tuple[float, float], high: float) -> Html:
    """The line and the area under it, split at gaps."""
    whole = (span[1] - span[0]) or 1.0
    parts: list[list[tuple[float, float]]] = [[]]
    for at, value in line.points:
        if value is None:
            parts.append([])
        else:
            x, y = (at - span[0]) / whole * _WIDTH, _HEIGHT * (1 - min(value / high, 1.0))
            parts[-1].append((x, y))
    ways = [[f"{x:.1f} {y:.1f}" for x, y in part] for part in parts if part]
    areas = [f"M{way[0].split()[0]} {_HEIGHT}L{'L'.join(way)}L{way[-1].split()[0]} {_HEIGHT}Z" for way in ways if len(way) > 1]
    lines = [f"M{'L'.join(way)}" if len(way) > 1 else f"M{way[0]}h0" for way in ways]  # a lone point is a dot
    return tag(
        "g",
        tag("path", class_="area", d="".join(areas)),
        tag("path", class_="stroke", d="".join(lines), vector_effect="non-scaling-stroke"),
        data_tone=line.tone,
    )


def _frame() -> dict[str, str]:
    return {"viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "preserveAspectRatio": "none"}
