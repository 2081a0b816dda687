"""Results in, an SVG picture a question out, legible on light and on dark pages; the same results give the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from benchmarks import growth
from benchmarks.measure import median
from benchmarks.questions import QUESTIONS, Question
from benchmarks.results import Results
from benchmarks.tables import HELP_WITHIN, IDLE_UNDER, P50_UNDER, P99_UNDER, Rounds, compared, good, number

# Contrast of 4 and more on white and on near black.
INK, OURS, THEIRS, TARGET = "#7a7a7a", "#1a936f", "#8a8fb5", "#d1495b"
_STYLE: Any = {
    "svg.hashsalt": "ecomflow",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(results: Results, folder: Path) -> list[Path]:
    """A picture of each question that has metrics, in ``folder``; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for question in QUESTIONS.values():
        if question.key in results:
            with mpl.rc_context(_STYLE):
                figure = DRAWINGS.get(question.key, ratio_dots)(question, results[question.key]["rounds"])
                path = folder / f"performance-{question.key}.svg"
                figure.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
            path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
            paths.append(path)
    return paths


def _figure(height: float, columns: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def ratio_dots(question: Question, rounds: Rounds) -> Figure:
    """A row for each comparison: a dot at the median, a bar from minimum to maximum, the target; 1 is as fast as the other."""
    labels = {subject.key: subject.label for subject in question.subjects}
    found = [(one, ratio) for one in question.comparisons if (ratio := compared(one, rounds)) is not None][::-1]
    figure, (axes,) = _figure(0.9 + 0.6 * len(found))
    for place, (one, ratio) in enumerate(found):
        axes.plot([ratio.minimum, ratio.maximum], [place, place], color=OURS, linewidth=5, alpha=0.5, solid_capstyle="butt")
        axes.plot(ratio.median, place, "o", color=OURS, markersize=9)
        axes.annotate(number(ratio.median), (ratio.median, place), (0, 9), textcoords="offset points", ha="center")
        wanted = one.at_least if one.at_least is not None else one.at_most
        if wanted is not None:
            axes.plot([wanted, wanted], [place - 0.3, place + 0.3], color=TARGET, linewidth=2)
    names = [f"{_short(labels[one.ours])}\nagainst {_short(labels[one.theirs])}" for one, _ in found]
    axes.set_yticks(range(len(found)), names)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
    axes.margins(x=0.12, y=0.35)
    metrics = sorted({one.metric for one, _ in found})
    axes.set_xlabel(f"{', '.join(metrics)}, ours over theirs: median, min to max; red: target")
    return figure


def _short(label: str) -> str:
    """The text before a colon, if all of it is too long for the axis."""
    return label if len(label) <= 42 else label.partition(":")[0][:60]


def latency_histogram(question: Question, rounds: Rounds) -> Figure:
    figure, (axes,) = _figure(3)
    if mine := good(rounds.get("ecomflow", ())):
        last = mine[-1]
        width = last["bin_seconds"]
        axes.bar([place * width for place in range(len(last["bins"]))], last["bins"], width=width, align="edge", color=OURS)
        for name, target, height in (("p50", P50_UNDER, 0.95), ("p99", P99_UNDER, 0.8)):
            value = median(mine, name) or 0.0
            axes.axvline(value, color=INK, linestyle="--", linewidth=1)
            axes.annotate(f" {name} {value * 1000:.0f} ms", (value, max(last["bins"]) * height))
            axes.axvline(target, color=TARGET, linewidth=2)
            axes.annotate(f" target of {name}", (target, max(last["bins"]) * height), color=TARGET)
        axes.set_xlim(0, P99_UNDER * 1.15)
    axes.set_xlabel("seconds from publish to row readable")
    axes.set_ylabel("events")
    return figure


def start_bars(question: Question, rounds: Rounds) -> Figure:
    """How many times as long as the import each command takes."""
    figure, (axes,) = _figure(1.7)
    names = [subject.label for subject in question.subjects][::-1]
    times = [median(good(rounds.get(subject.key, ())), "ratio") or 0.0 for subject in question.subjects][::-1]
    axes.barh(names, times, height=0.5, color=OURS)
    axes.plot([HELP_WITHIN, HELP_WITHIN], [0.6, 1.4], color=TARGET, linewidth=2)
    axes.set_xlabel('times as long as python -c "import typer"; red: target')
    return figure


def growth_lines(question: Question, rounds: Rounds) -> Figure:
    """Seconds and peak memory over the number of events, a line an order size."""
    figure, (times, memory) = _figure(3.2, 2)
    found = growth.runs(rounds)
    for items, mark in zip(growth.ITEMS, "os^", strict=True):
        cells = [cell for cell in found if cell.items == items]
        label = f"{items} {'item' if items == 1 else 'items'} an order"
        for axes, values in ((times, [cell.seconds for cell in cells]), (memory, [cell.peak_mb for cell in cells])):
            axes.plot([cell.events for cell in cells], values, marker=mark, label=label)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.set_xlabel("events")
    times.set_yscale("log")
    times.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    times.yaxis.set_major_formatter("{x:g}")
    times.yaxis.set_minor_formatter(NullFormatter())
    times.set_ylabel("seconds")
    memory.set_ylabel("peak MB of the pipeline")
    memory.set_ylim(bottom=0)
    times.legend(frameon=False, labelcolor=INK)
    return figure


def stack_bars(question: Question, rounds: Rounds) -> Figure:
    """Seconds until ready, alone and together; idle CPU of each service."""
    figure, (times, idle) = _figure(2.4, 2)
    names = ["stack", "bigquery", "pubsub", "storage"]
    ready = [median(good(rounds.get(name, ())), "ready") or 0 for name in names]
    times.barh(names[::-1], ready[::-1], color=[THEIRS, THEIRS, THEIRS, OURS])
    times.set_xlabel("seconds until ready: all together, each alone")
    mine = good(rounds.get("stack", ()))
    shares = [100 * (median([metrics["idle"][name] for metrics in mine], "cpu_share") or 0) for name in names[1:]]
    idle.barh(names[:0:-1], shares[::-1], color=OURS)
    idle.axvline(100 * IDLE_UNDER, color=TARGET, linewidth=2)
    idle.set_xlabel("idle: % of a core; red: target")
    return figure


def cost_bars(question: Question, rounds: Rounds) -> Figure:
    """Some metrics of a million events, ours beside the other's."""
    shown = {"shuffled": "GB shuffled", "sent": "GB sent", "requests": "requests", "dollars": "dollars"}
    figure, panels = _figure(1.9, len(shown))
    measured = [(subject, mine[0]) for subject in question.subjects if (mine := good(rounds.get(subject.key, ())))][::-1]
    colors = [OURS if subject.key == "ecomflow" else THEIRS for subject, _ in measured]
    for axes, (name, words) in zip(panels, shown.items(), strict=True):
        scale = 1e9 if words.startswith("GB") else 1
        axes.barh([subject.key for subject, _ in measured], [found[name] / scale for _, found in measured], color=colors)
        axes.set_xlabel(words)
        axes.tick_params(labelleft=axes is panels[0])
        axes.xaxis.set_major_locator(MaxNLocator(3))
    return figure


DRAWINGS: dict[str, Callable[[Question, Rounds], Figure]] = {
    "latency": latency_histogram,
    "starting": start_bars,
    "growth": growth_lines,
    "stack": stack_bars,
    "cost": cost_bars,
}
