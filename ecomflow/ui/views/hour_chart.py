"""Series of the last hour in; a chart with both axes, and the time and values of each part under the pointer, out. Pure.

The pointer needs no script: each part is an element of its own, which the style marks and whose label it shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import takewhile

import msgspec

from ecomflow.metrics.record import Hour, Series
from ecomflow.terminal.amounts import clock_text
from ecomflow.ui.views.html import Html, tag
from ecomflow.ui.views.svg import Curve as Line
from ecomflow.ui.views.svg import plot

_TICK_SECONDS = 600
_Y_TICKS = 4

Format = Callable[[float | None], str]


class Curve(msgspec.Struct, frozen=True):
    """A series by name. ``tone``: accent, bad or quiet."""

    name: str
    series: Series
    tone: str = "accent"


def hour_chart(
    title: str,
    hour: Hour,
    curves: Sequence[Curve],
    value_text: Format,
    beside: Sequence[tuple[str, Series, Format]] = (),
    least: float = 0.0,
) -> Html:
    """``curves`` from 0 to a round number above their maximum and above ``least``. ``beside``: further series whose values are
    only shown under the pointer.
    """
    known = [value for curve in curves for value in curve.series if value is not None]
    if not known:
        head = tag("figcaption", tag("span", title, class_="chart-title"))
        return tag("figure", head, tag("p", "Nothing was recorded in the last hour.", class_="quiet"), class_="plot")
    high = _round_above(max(*known, least))
    ends = hour.ends
    span = (ends[0] - hour.width, ends[-1])
    lines = [Line(curve.name, list(zip(ends, curve.series, strict=True)), curve.tone) for curve in curves]
    newest = ", ".join(f"{curve.name} {value_text(_newest(curve.series))}" for curve in curves)
    words = f"{title} in the last hour: last {newest}, at most {value_text(max(known))}."
    legend = [tag("span", curve.name, class_="key", data_tone=curve.tone) for curve in curves]
    return tag(
        "figure",
        tag("figcaption", tag("span", title, class_="chart-title"), legend if len(curves) > 1 else None),
        tag(
            "div",
            _y_axis(high, value_text),
            tag(
                "div",
                plot(lines, span, high, "chart", words, _Y_TICKS),
                _pointer(hour, curves, value_text, beside),
                class_="area-of",
            ),
            _x_axis(span),
            class_="axes",
        ),
        class_="plot hour",
    )


def _pointer(hour: Hour, curves: Sequence[Curve], value_text: Format, beside: Sequence[tuple[str, Series, Format]]) -> Html:
    shown = [*((curve.name, curve.series, value_text) for curve in curves), *beside]
    parts = [
        tag("i", data_label=" \u00b7 ".join([clock_text(end), *(f"{name} {text(series[at])}" for name, series, text in shown)]))
        for at, end in enumerate(hour.ends)
    ]
    return tag("div", parts, class_="pointer", aria_hidden="true")


def _y_axis(high: float, value_text: Format) -> Html:
    ticks = [
        tag("text", value_text(high * (1 - at / _Y_TICKS)), x="100%", y=f"{100 * at / _Y_TICKS:g}%", text_anchor="end")
        for at in range(0, _Y_TICKS + 1, 2)
    ]
    return tag("svg", ticks, class_="y-axis", aria_hidden="true", focusable="false")


def _x_axis(span: tuple[float, float]) -> Html:
    """The full ten minutes, without those at the ends, where there is no room for their label."""
    first = math.ceil(span[0] / _TICK_SECONDS) * _TICK_SECONDS
    whole = span[1] - span[0]
    moments = takewhile(lambda at: at <= span[1], (first + _TICK_SECONDS * number for number in range(100)))
    ticks = [
        tag("text", clock_text(at)[:5], x=f"{100 * share:.2f}%", y="1em", text_anchor="middle")
        for at in moments
        for share in [(at - span[0]) / whole]
        if 0.04 < share < 0.96
    ]
    return tag("svg", ticks, class_="x-axis", aria_hidden="true", focusable="false")


def _round_above(value: float) -> float:
    """The smallest of 1, 2, 4, 6, 8 or 10 times a power of ten that is at least ``value``: a half and a quarter are short too."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 4, 6, 8, 10) if factor * power >= value * (1 - 1e-9))


def _newest(series: Series) -> float | None:
    return next((value for value in reversed(series) if value is not None), None)
