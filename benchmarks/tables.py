"""A question's figures in, its Markdown tables out: what was found, the reach, and whether it was reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from benchmarks import cores, growth
from benchmarks.measure import Figures, Ratio, median, ratio
from benchmarks.questions import Comparison, Question

P50_UNDER, P99_UNDER = 1.0, 3.0
READY_WITHIN = 1.3
IDLE_UNDER = 0.03
PUBLISHER_UNDER = 0.5
HELP_WITHIN = 2.0
PULLED_AT_LEAST = 5000

Rounds = Mapping[str, Sequence[Figures]]
Tables = Callable[[Question, Rounds], Iterator[str]]

_THIRD_CORE = """
Reckoned so: a run can't be shorter than all its CPU seconds shared evenly by the cores, nor than those of the process that used
most (each runs one Python interpreter, on one core at a time); with N engines the pipeline's are divided by N. With a core more,
the run is taken to miss that bound by the same factor as the measured one."""


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table, line by line."""
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def ratios(question: Question, rounds: Rounds) -> Iterator[str]:
    """A row for each comparison: the ratio's least, median and most; the reach, and whether it was reached."""
    words = {subject.key: subject.words for subject in question.subjects}
    columns = ("ours", "against", "rounds", "least", "median", "most", "reach", "reached")
    yield from markdown(
        columns, [(words[one.ours], words[one.theirs], *_ratio_cells(one, rounds)) for one in question.comparisons]
    )


def _ratio_cells(one: Comparison, rounds: Rounds) -> tuple[str, ...]:
    found = compared(one, rounds)
    if found is None:
        return ("0", "", "", "", reach(one), "not measured")
    count = min(len(good(rounds[one.ours])), len(good(rounds[one.theirs])))
    return (str(count), number(found.least), number(found.median), number(found.most), reach(one), verdict(one, found))


def compared(one: Comparison, rounds: Rounds) -> Ratio | None:
    return ratio(rounds.get(one.ours, ()), rounds.get(one.theirs, ()), one.figure)


def reach(one: Comparison) -> str:
    if one.at_least is not None:
        return f"at least {one.at_least:g}"
    return "" if one.at_most is None else f"at most {one.at_most:g}"


def verdict(one: Comparison, found: Ratio) -> str:
    if one.at_least is not None:
        return reached(found.median >= one.at_least)
    return "" if one.at_most is None else reached(found.median <= one.at_most)


def reached(is_reached: bool) -> str:
    return "yes" if is_reached else "**no**"


def end_to_end(question: Question, rounds: Rounds) -> Iterator[str]:
    yield from ratios(question, rounds)
    yield "\nMedians; steady: from the first acknowledgement to the last, without its construction and first bundle.\n"
    columns: tuple[str, ...] = ("subject", "events", "events/s", "rows/s", "steady events/s", "s from process start", "peak MB")
    measured = [(subject.words, good(rounds.get(subject.key, ()))) for subject in question.subjects]
    yield from markdown(columns, [_run_cells(words, mine) for words, mine in measured if mine])
    yield "\nWhere the cores went, in cores kept busy while the backlog was worked off, and what a core more would bring:\n"
    columns = ("engines", "pipeline", "Pub/Sub", "BigQuery", "storage", "this watcher", "all", "bound by", "then by", "rate then")
    runs = [(engines, good(rounds.get(key, ()))) for key, engines in (("ecomflow", 1), ("two", 2))]
    yield from markdown(columns, [_core_cells(engines, mine) for engines, mine in runs if mine])
    yield _THIRD_CORE


def _run_cells(words: str, mine: Sequence[Figures]) -> tuple[str, ...]:
    rate, events = median(mine, "rate") or 0.0, mine[0]["events"]
    steady = median(mine, "steady_rate")
    return (
        words,
        f"{events:,}",
        f"{rate:,.0f}",
        f"{rate * mine[0]['rows'] / events:,.0f}",
        "" if steady is None else f"{steady:,.0f}",
        f"{median(mine, 'seconds_from_start'):.1f}",
        f"{median(mine, 'peak_mb'):.0f}",
    )


def _core_cells(engines: int, mine: Sequence[Figures]) -> tuple[str, ...]:
    cpu = {name: median([figures["cpu"] for figures in mine], name) or 0.0 for name in mine[0]["cpu"]}
    found = cores.one_more(cpu, median(mine, "seconds") or 1.0, mine[0]["cores"], engines)
    busy = [f"{found.shares[name]:.2f}" for name in ("pipeline", "pubsub", "bigquery", "storage", "watcher")]
    return (str(engines), *busy, f"{found.busy:.2f}", found.critical, found.critical_then, f"{found.gain:.2f} times")


def latency(question: Question, rounds: Rounds) -> Iterator[str]:
    mine = good(rounds.get("ecomflow", ()))
    if not mine:
        return
    found = {name: median(mine, name) or 0.0 for name in ("p50", "p90", "p99", "most")}
    is_reached = found["p50"] < P50_UNDER and found["p99"] < P99_UNDER
    wanted = f"p50 under {P50_UNDER:g} s, p99 under {P99_UNDER:g} s"
    cells = [f"{seconds * 1000:.0f} ms" for seconds in found.values()]
    yield from markdown(("events", *found, "reach", "reached"), [(f"{mine[0]['events']:,}", *cells, wanted, reached(is_reached))])
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
    yield "\nWhere the CPU seconds of ecomflow's run went; the publisher's share is publishing over all three.\n"
    columns = ("making the events", "publishing", "the Pub/Sub service", "publisher's share", "reach", "reached")
    *seconds, share = found.values()
    cells = [f"{value:.2f} s" for value in seconds]
    is_reached = share < PUBLISHER_UNDER
    yield from markdown(columns, [(*cells, f"{share:.0%}", f"under {PUBLISHER_UNDER:.0%}", reached(is_reached))])
    rates = [f"{median(mine, 'rate'):,.0f} events a second", f"the whole command {median(mine, 'command_seconds'):.1f} s"]
    yield f"\n{rates[0]}; {rates[1]}."


def starting(question: Question, rounds: Rounds) -> Iterator[str]:
    columns = ("command", "seconds", "import typer, seconds", "times", "imports Beam", "reach", "reached")
    measured = [(subject, good(rounds.get(subject.key, ()))) for subject in question.subjects]
    yield from markdown(columns, [_start_cells(subject.key, subject.words, mine) for subject, mine in measured if mine])


def _start_cells(key: str, words: str, mine: Sequence[Figures]) -> tuple[str, ...]:
    times, has_beam = median(mine, "ratio") or 0.0, any(figures["beam"] for figures in mine)
    wanted, is_reached = "no Beam", not has_beam
    if key == "help":
        wanted, is_reached = f"within {HELP_WITHIN:g} times, no Beam", is_reached and times <= HELP_WITHIN
    seconds = (f"{median(mine, 'seconds'):.2f}", f"{median(mine, 'typer_seconds'):.2f}")
    return (words, *seconds, f"{times:.2f}", "yes" if has_beam else "no", wanted, reached(is_reached))


def growths(question: Question, rounds: Rounds) -> Iterator[str]:
    found = growth.runs(rounds)
    yield "CPU is in microseconds an event; the services' megabytes are those before and after the run.\n"
    columns: tuple[str, ...] = ("items", "events", "rows", "seconds", "us an event", "rows/s", "pipeline's peak MB")
    columns += ("CPU: pipeline", "Pub/Sub", "BigQuery", "Pub/Sub MB", "BigQuery MB")
    yield from markdown(columns, [_cell_cells(cell) for cell in found])
    yield "\nLarger orders make more rows, so each order size is judged by itself. Memory's spread: largest peak over least.\n"
    columns = ("items an order", "start, s", "us an event", "off the line", "reach", "reached")
    columns += ("memory's spread", "reach", "reached")
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
        time = (*fitted, time[3], reached(line.off <= growth.TIME_WITHIN))
    memory = (f"{more:.0%}", f"within {growth.MEMORY_WITHIN:.0%}", reached(more <= growth.MEMORY_WITHIN))
    return (str(cells[0].items), *time, *memory)


def stack(question: Question, rounds: Rounds) -> Iterator[str]:
    mine = good(rounds.get("stack", ()))
    found = {name: median(good(rounds.get(name, ())), "ready") for name in ("pubsub", "storage", "bigquery")}
    alone = {name: seconds for name, seconds in found.items() if seconds is not None}
    if not mine or not alone:
        return
    slowest = max(alone, key=lambda name: alone[name])
    columns: tuple[str, ...] = (
        "all ready after s",
        "the command ends after s",
        f"{slowest}, the slowest, alone",
        "ratio",
        "reach",
        "reached",
    )
    times = (f"{median(mine, 'ready'):.2f}", f"{median(mine, 'command'):.2f}", f"{alone[slowest]:.2f}")
    if (over := ratio(rounds["stack"], rounds[slowest], "ready")) is not None:
        least_to_most = f"{over.least:.2f}, {over.median:.2f}, {over.most:.2f}"
        yield from markdown(
            columns, [(*times, least_to_most, f"median under {READY_WITHIN:g}", reached(over.median < READY_WITHIN))]
        )
    yield ""
    columns = ("service", "alone, ready after s", "idle CPU, % of a core", "MB", "reach", "reached")
    yield from markdown(columns, [(name, f"{alone[name]:.2f}", *_idle_cells(name, mine)) for name in alone])


def _idle_cells(name: str, mine: Sequence[Figures]) -> tuple[str, ...]:
    idle = [figures["idle"][name] for figures in mine]
    share = median(idle, "cpu_share") or 0.0
    return (f"{share:.2%}", f"{median(idle, 'mb'):.0f}", f"under {IDLE_UNDER:.0%}", reached(share < IDLE_UNDER))


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
            target = (f"at least {PULLED_AT_LEAST:,}", reached(rate >= PULLED_AT_LEAST)) if is_judged else ("", "")
            rows.append((subject.words, f"{mine[0]['events']:,}", f"{rate:,.0f}", *target))
    yield from markdown(("subject", "events", "events/s, median", "reach", "reached"), rows)


def good(rounds: Sequence[Figures]) -> list[Figures]:
    """The rounds that have figures."""
    return [figures for figures in rounds if "error" not in figures]


def number(value: float) -> str:
    """As many digits as tell something."""
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
"""The questions whose figures are more than ratios."""
