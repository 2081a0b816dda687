"""A question's metrics in, its Markdown tables out: the results, the target, and whether it was met."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from benchmarks import cores, growth
from benchmarks.measure import Metrics, Ratio, median, ratio
from benchmarks.questions import Comparison, Question

P50_UNDER, P99_UNDER = 1.0, 3.0
READY_WITHIN = 1.3
IDLE_UNDER = 0.03
PUBLISHER_UNDER = 0.5
HELP_WITHIN = 2.0
PULLED_AT_LEAST = 5000

Rounds = Mapping[str, Sequence[Metrics]]
Tables = Callable[[Question, Rounds], Iterator[str]]

_THIRD_CORE = """
How the gain is calculated: a run takes at least its total CPU seconds divided by the number of cores, and at least the CPU
seconds of the busiest process (each has one Python interpreter, which runs on one core at a time). With N engines the pipeline's
seconds are divided by N. With one more core, the run is assumed to exceed that bound by the same factor as the measured run."""


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table, line by line."""
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def ratios(question: Question, rounds: Rounds) -> Iterator[str]:
    """A row for each comparison: the ratio's min, median and max; the target, and whether it was met."""
    labels = {subject.key: subject.label for subject in question.subjects}
    columns = ("subject", "compared with", "rounds", "min", "median", "max", "target", "met")
    yield from markdown(
        columns, [(labels[one.ours], labels[one.theirs], *_ratio_cells(one, rounds)) for one in question.comparisons]
    )


def _ratio_cells(one: Comparison, rounds: Rounds) -> tuple[str, ...]:
    found = compared(one, rounds)
    if found is None:
        return ("0", "", "", "", target(one), "not measured")
    count = min(len(good(rounds[one.ours])), len(good(rounds[one.theirs])))
    return (str(count), number(found.minimum), number(found.median), number(found.maximum), target(one), verdict(one, found))


def compared(one: Comparison, rounds: Rounds) -> Ratio | None:
    return ratio(rounds.get(one.ours, ()), rounds.get(one.theirs, ()), one.metric)


def target(one: Comparison) -> str:
    if one.at_least is not None:
        return f"at least {one.at_least:g}"
    return "" if one.at_most is None else f"at most {one.at_most:g}"


def verdict(one: Comparison, found: Ratio) -> str:
    if one.at_least is not None:
        return met(found.median >= one.at_least)
    return "" if one.at_most is None else met(found.median <= one.at_most)


def met(is_met: bool) -> str:
    return "yes" if is_met else "**no**"


def end_to_end(question: Question, rounds: Rounds) -> Iterator[str]:
    yield from ratios(question, rounds)
    yield "\nMedians. Steady: from the first acknowledgement to the last, so without graph construction and the first bundle.\n"
    columns: tuple[str, ...] = ("subject", "events", "events/s", "rows/s", "steady events/s", "s from process start", "peak MB")
    measured = [(subject.label, good(rounds.get(subject.key, ()))) for subject in question.subjects]
    yield from markdown(columns, [_run_cells(label, mine) for label, mine in measured if mine])
    yield "\nCPU use while the backlog was processed, in cores, and the calculated gain from one more core:\n"
    columns = (
        "engines",
        "pipeline",
        "Pub/Sub",
        "BigQuery",
        "storage",
        "benchmark",
        "total",
        "bound by",
        "with a core more",
        "rate then",
    )
    runs = [(engines, good(rounds.get(key, ()))) for key, engines in (("ecomflow", 1), ("two", 2))]
    yield from markdown(columns, [_core_cells(engines, mine) for engines, mine in runs if mine])
    yield _THIRD_CORE


def _run_cells(label: str, mine: Sequence[Metrics]) -> tuple[str, ...]:
    rate, events = median(mine, "rate") or 0.0, mine[0]["events"]
    steady = median(mine, "steady_rate")
    return (
        label,
        f"{events:,}",
        f"{rate:,.0f}",
        f"{rate * mine[0]['rows'] / events:,.0f}",
        "" if steady is None else f"{steady:,.0f}",
        f"{median(mine, 'seconds_from_start'):.1f}",
        f"{median(mine, 'peak_mb'):.0f}",
    )


def _core_cells(engines: int, mine: Sequence[Metrics]) -> tuple[str, ...]:
    cpu = {name: median([metrics["cpu"] for metrics in mine], name) or 0.0 for name in mine[0]["cpu"]}
    found = cores.one_more(cpu, median(mine, "seconds") or 1.0, mine[0]["cores"], engines)
    busy = [f"{found.shares[name]:.2f}" for name in ("pipeline", "pubsub", "bigquery", "storage", "watcher")]
    return (str(engines), *busy, f"{found.busy:.2f}", found.critical, found.critical_then, f"{found.gain:.2f} times")


def latency(question: Question, rounds: Rounds) -> Iterator[str]:
    mine = good(rounds.get("ecomflow", ()))
    if not mine:
        return
    found = {name: median(mine, name) or 0.0 for name in ("p50", "p90", "p99", "max")}
    is_met = found["p50"] < P50_UNDER and found["p99"] < P99_UNDER
    wanted = f"p50 under {P50_UNDER:g} s, p99 under {P99_UNDER:g} s"
    cells = [f"{seconds * 1000:.0f} ms" for seconds in found.values()]
    yield from markdown(("events", *found, "target", "met"), [(f"{mine[0]['events']:,}", *cells, wanted, met(is_met))])
    yield "\n```"
    yield from histogram(mine[-1]["bins"], mine[-1]["bin_seconds"])
    yield "```"


def histogram(bins: Sequence[int], bin_seconds: float) -> Iterator[str]:
    """A line for each 100 ms: its bounds, its count, its bar."""
    joined = max(1, round(0.1 / bin_seconds))
    counts = [sum(bins[start : start + joined]) for start in range(0, len(bins), joined)]
    step = joined * bin_seconds * 1000
    for place, count in enumerate(counts):
        bar = "█" * max(round(60 * count / max(counts)), 1 if count else 0)
        yield f"{place * step:5.0f} to {(place + 1) * step:5.0f} ms {count:8,} {bar}".rstrip()


def publishing(question: Question, rounds: Rounds) -> Iterator[str]:
    yield from ratios(question, rounds)
    mine = good(rounds.get("ecomflow", ()))
    if not mine:
        return
    found = {name: median(mine, name) or 0.0 for name in ("generating", "publishing", "serving", "publisher_share")}
    yield "\nCPU seconds of ecomflow's run. The publisher's share is that of publishing in all three.\n"
    columns = ("generating", "publishing", "the Pub/Sub service", "publisher's share", "target", "met")
    *seconds, share = found.values()
    cells = [f"{value:.2f} s" for value in seconds]
    is_met = share < PUBLISHER_UNDER
    yield from markdown(columns, [(*cells, f"{share:.0%}", f"under {PUBLISHER_UNDER:.0%}", met(is_met))])
    rates = [f"{median(mine, 'rate'):,.0f} events per second", f"the whole command {median(mine, 'command_seconds'):.1f} s"]
    yield f"\n{rates[0]}; {rates[1]}."


def starting(question: Question, rounds: Rounds) -> Iterator[str]:
    columns = ("command", "seconds", "import typer, seconds", "times", "imports Beam", "target", "met")
    measured = [(subject, good(rounds.get(subject.key, ()))) for subject in question.subjects]
    yield from markdown(columns, [_start_cells(subject.key, subject.label, mine) for subject, mine in measured if mine])


def _start_cells(key: str, label: str, mine: Sequence[Metrics]) -> tuple[str, ...]:
    times, has_beam = median(mine, "ratio") or 0.0, any(metrics["beam"] for metrics in mine)
    wanted, is_met = "no Beam", not has_beam
    if key == "help":
        wanted, is_met = f"within {HELP_WITHIN:g} times, no Beam", is_met and times <= HELP_WITHIN
    seconds = (f"{median(mine, 'seconds'):.2f}", f"{median(mine, 'typer_seconds'):.2f}")
    return (label, *seconds, f"{times:.2f}", "yes" if has_beam else "no", wanted, met(is_met))


def growths(question: Question, rounds: Rounds) -> Iterator[str]:
    found = growth.runs(rounds)
    yield "CPU is in microseconds per event. Memory of the services is before and after the run.\n"
    columns: tuple[str, ...] = ("items", "events", "rows", "seconds", "us per event", "rows/s", "pipeline's peak MB")
    columns += ("CPU: pipeline", "Pub/Sub", "BigQuery", "Pub/Sub MB", "BigQuery MB")
    yield from markdown(columns, [_cell_cells(cell) for cell in found])
    yield "\nLarger orders make more rows, so each order size has its own target. Memory spread: largest peak over smallest.\n"
    columns = ("items per order", "start, s", "us per event", "deviation from line", "target", "met")
    columns += ("memory spread", "target", "met")
    sizes = [[cell for cell in found if cell.items == items] for items in sorted({cell.items for cell in found})]
    yield from markdown(columns, [_growth_cells(cells) for cells in sizes])


def _cell_cells(cell: growth.Run) -> tuple[str, ...]:
    return (
        str(cell.items),
        f"{cell.events:,}",
        f"{cell.rows:,}",
        f"{cell.seconds:.2f}",
        f"{cell.seconds / cell.events * 1e6:.1f}",
        f"{cell.rows / cell.seconds:,.0f}",
        f"{cell.peak_mb:.0f}",
        *(f"{cell.cpu_us[name]:.1f}" for name in ("pipeline", "pubsub", "bigquery")),
        *("{:.0f}, {:.0f}".format(*cell.services_mb[name]) for name in ("pubsub", "bigquery")),
    )


def _growth_cells(cells: list[growth.Run]) -> tuple[str, ...]:
    line, more = growth.fit(cells), growth.spread(cells)
    time = ("", "", "", f"within {growth.TIME_WITHIN:.0%}", "not measured")
    if line is not None:
        fitted = (f"{line.start:.2f}", f"{line.per_event * 1e6:.1f}", f"{line.off:.0%}")
        time = (*fitted, time[3], met(line.off <= growth.TIME_WITHIN))
    memory = (f"{more:.0%}", f"within {growth.MEMORY_WITHIN:.0%}", met(more <= growth.MEMORY_WITHIN))
    return (str(cells[0].items), *time, *memory)


def stack(question: Question, rounds: Rounds) -> Iterator[str]:
    mine = good(rounds.get("stack", ()))
    found = {name: median(good(rounds.get(name, ())), "ready") for name in ("pubsub", "storage", "bigquery")}
    alone = {name: seconds for name, seconds in found.items() if seconds is not None}
    if not mine or not alone:
        return
    slowest = max(alone, key=lambda name: alone[name])
    columns: tuple[str, ...] = (
        "all ready, s",
        "command ends, s",
        f"slowest service alone ({slowest}), s",
        "ratio",
        "target",
        "met",
    )
    times = (f"{median(mine, 'ready'):.2f}", f"{median(mine, 'command'):.2f}", f"{alone[slowest]:.2f}")
    if (over := ratio(rounds["stack"], rounds[slowest], "ready")) is not None:
        min_to_max = f"{over.minimum:.2f}, {over.median:.2f}, {over.maximum:.2f}"
        yield from markdown(columns, [(*times, min_to_max, f"median under {READY_WITHIN:g}", met(over.median < READY_WITHIN))])
    yield ""
    columns = ("service", "alone, ready, s", "idle CPU, % of a core", "MB", "target", "met")
    yield from markdown(columns, [(name, f"{alone[name]:.2f}", *_idle_cells(name, mine)) for name in alone])


def _idle_cells(name: str, mine: Sequence[Metrics]) -> tuple[str, ...]:
    idle = [metrics["idle"][name] for metrics in mine]
    share = median(idle, "cpu_share") or 0.0
    return (f"{share:.2%}", f"{median(idle, 'mb'):.0f}", f"under {IDLE_UNDER:.0%}", met(share < IDLE_UNDER))


def cost(question: Question, rounds: Rounds) -> Iterator[str]:
    from benchmarks.cost import table  # imports Beam: only where there is a table to make

    yield table({subject.key: mine[0] for subject in question.subjects if (mine := good(rounds.get(subject.key, ())))})


def pulling(question: Question, rounds: Rounds) -> Iterator[str]:
    yield from ratios(question, rounds)
    yield ""
    rows = []
    for subject in question.subjects:
        if mine := good(rounds.get(subject.key, ())):
            rate = median(mine, "rate") or 0.0
            is_judged = subject.key in ("ecomflow", "pipeline")
            judged = (f"at least {PULLED_AT_LEAST:,}", met(rate >= PULLED_AT_LEAST)) if is_judged else ("", "")
            rows.append((subject.label, f"{mine[0]['events']:,}", f"{rate:,.0f}", *judged))
    yield from markdown(("subject", "events", "events/s, median", "target", "met"), rows)


def good(rounds: Sequence[Metrics]) -> list[Metrics]:
    """The rounds that have metrics."""
    return [metrics for metrics in rounds if "error" not in metrics]


def number(value: float) -> str:
    """Three significant digits or so: more would be noise."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


TABLES: dict[str, Tables] = {
    "end-to-end": end_to_end,
    "latency": latency,
    "publishing": publishing,
    "starting": starting,
    "growth": growths,
    "stack": stack,
    "cost": cost,
    "pulling": pulling,
}
"""The questions that have more than ratios."""
