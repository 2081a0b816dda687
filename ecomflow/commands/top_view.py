"""The metrics of the last minutes in; the view of ``ecomflow top``, for the size of the terminal, out. Pure.

If there is not enough room, it drops the last columns of a table first, then its sparklines and rows, and the steps before the
tables.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from rich.console import Group
from rich.text import Text

from ecomflow.metrics.history import History, Report, messages_in_by, report, rows_of
from ecomflow.metrics.snapshot import ENDED, ENDED_BADLY, LOCAL, PipelineMetrics
from ecomflow.terminal.amounts import UNKNOWN, bytes_text, length, rate_text, seconds_text
from ecomflow.terminal.console import plain
from ecomflow.terminal.sparklines import sparkline

_GAP = 2
_LEAST_SPARK, _MOST_SPARK = 8, 60
_MOST_TROUBLE, _MOST_REASONS = 5, 2
# Minimum width of numbers, so that columns do not move with each new digit.
_NUMBER, _NAME = 7, 10
# The view shows the age of older metrics.
_FRESH_SECONDS = 5.0


class _Column(NamedTuple):
    """A column of a table. The highest ``rank`` is dropped first, rank 0 never."""

    title: str
    cells: list[str]
    rank: int = 0
    style: str = ""
    is_name: bool = False


class _Block(NamedTuple):
    """A block of lines: shown completely, or only its first lines, at least ``least`` of them. Rank 0 is placed first."""

    rank: int
    lines: list[Text]
    least: int = 1


def top_view(history: History, width: int, height: int, notice: str | None = None) -> Group:
    """At most ``height`` lines of at most ``width`` cells. ``notice``: why the metrics are not current."""
    found = report(history)
    if found is None:
        return _stacked([_Block(0, _wrapped(notice or "Reading the metrics…", width, ""))], height)
    blocks = [_Block(0, _head(history, found)), _Block(1, _troubles(found, notice, width))]
    if found.metrics.state not in ENDED or found.metrics.received:
        blocks += [
            _Block(2, _flow(history, found, width)),
            _Block(4, _steps(history, found, width), least=3),
            _Block(3, _tables(history, found, width), least=3),
        ]
    return _stacked(blocks, height)


def _head(history: History, found: Report) -> list[Text]:
    metrics = found.metrics
    line = Text.assemble((f"● {plain(found.condition)}", _colour(found)))
    if metrics.name:
        line.append_text(Text.assemble("  ", plain(metrics.name), " ", plain(_place(metrics)), _since(metrics, history.now)))
    age = history.now - metrics.at
    if age > _FRESH_SECONDS and metrics.state not in ENDED:
        line.append(f"  metrics {length(age)} old", "yellow" if metrics.where == LOCAL else "dim")
    counts = [("bundles", metrics.bundles), ("restarts", metrics.restarts), ("retries", metrics.retries)]
    facts = [f"memory {bytes_text(metrics.memory_bytes)}", *(f"{name} {count:,}" for name, count in counts)]
    more = [f"processes {metrics.processes}"] if metrics.processes > 1 else []
    return [line, Text("  ".join(facts + more), "dim")] if metrics.name else [line]


def _colour(found: Report) -> str:
    if found.trouble is None:
        return "bold green"
    return "bold red" if found.condition in ENDED_BADLY else "bold yellow"


def _place(metrics: PipelineMetrics) -> str:
    return "on this machine" if metrics.where == LOCAL else f"in {metrics.where}"


def _since(metrics: PipelineMetrics, now: float) -> str:
    if metrics.started is None or metrics.state in ENDED:
        return ""
    return f" since {datetime.fromtimestamp(metrics.started, UTC):%H:%M:%S} UTC ({length(now - metrics.started)})"


def _troubles(found: Report, notice: str | None, width: int) -> list[Text]:
    lines = [] if notice is None else _wrapped(notice, width, "bold yellow")
    if found.trouble is not None:
        lines += _wrapped(found.trouble, width, _colour(found))
    # Keep the last line, which has the next command.
    return lines if len(lines) <= _MOST_TROUBLE else [*lines[: _MOST_TROUBLE - 2], Text("…"), lines[-1]]


def _flow(history: History, found: Report, width: int) -> list[Text]:
    """Received and refused messages, the backlog and the latency."""
    metrics, rates, latency = found.metrics, found.rates, found.latency
    span = "" if latency.seconds is None else f"  over the last {length(latency.seconds)}"
    taken = f"p50 {seconds_text(latency.p50)}  p99 {seconds_text(latency.p99)}{span}" if latency.messages else UNKNOWN
    return [
        _counted(history, "received", rates.received if rates else None, _received, "cyan", width),
        _counted(history, "refused", rates.refused if rates else None, _all_refused, "red", width),
        *_reasons(metrics, width),
        Text.assemble(f"{'backlog':<{_NAME}}", _backlog(metrics, history.now)),
        Text(f"{'latency':<{_NAME}}{taken}"),
    ]


def _counted(
    history: History, name: str, rate: float | None, of: Callable[[PipelineMetrics], int], style: str, width: int
) -> Text:
    assert history.latest is not None
    count = of(history.latest)
    line = Text.assemble(
        f"{name:<{_NAME}}", (f"{rate_text(rate):>9}  {count:>11,} events", style if style == "red" and count else "")
    )
    return line.append(_spark(history, of, width - line.cell_len), style)


def _spark(history: History, of: Callable[[PipelineMetrics], int], room: int) -> str:
    """A gap and a sparkline in ``room`` cells, if there is enough room and data."""
    columns = min(_MOST_SPARK, room - _GAP)
    return " " * _GAP + sparkline(history.series(of, columns)) if columns >= _LEAST_SPARK and len(history) > 2 else ""


def _received(metrics: PipelineMetrics) -> int:
    return metrics.received


def _all_refused(metrics: PipelineMetrics) -> int:
    return sum(metrics.refused.values())


def _backlog(metrics: PipelineMetrics, now: float) -> Text:
    if metrics.backlog is None:
        return plain(f"unknown: {' '.join((metrics.backlog_unknown or '').split())}")
    oldest = "" if metrics.oldest_unacked_seconds is None else f", the oldest {length(metrics.oldest_unacked_seconds)} old"
    age = now - (metrics.backlog_at or now)
    return Text(f"{metrics.backlog:,} messages{oldest}" + (f", {length(age)} ago" if age > _FRESH_SECONDS else ""))


def _steps(history: History, found: Report, width: int) -> list[Text]:
    steps = found.metrics.steps
    paces = (
        [taken or put for taken, put in ((rate.messages_in, rate.messages_out) for rate in found.rates.steps)]
        if found.rates
        else []
    )
    columns = [
        _Column("step", [step.step for step in steps], is_name=True),
        _Column("in", [f"{step.messages_in:,}" if step.messages_in or not step.messages_out else "" for step in steps], 1),
        _Column("out", [f"{step.messages_out:,}" for step in steps], 3),
        _Column("refused", [f"{step.refused:,}" if step.refused else "" for step in steps], 2, "red"),
        _Column("events/s", [rate_text(pace, "") for pace in paces] or [UNKNOWN] * len(steps)),
    ]
    return _table(columns, [messages_in_by(step.step) for step in steps], history, width)


def _tables(history: History, found: Report, width: int) -> list[Text]:
    tables = found.metrics.tables
    paces = [rate_text(rate.rows, "") for rate in found.rates.tables] if found.rates else [UNKNOWN] * len(tables)
    ages = [
        UNKNOWN if table.last_append is None else f"{length(max(0, history.now - table.last_append))} ago" for table in tables
    ]
    columns = [
        _Column("table", [table.table for table in tables], is_name=True),
        _Column("rows", [f"{table.rows:,}" for table in tables]),
        _Column("rows/s", paces, 1),
        _Column("last append", ages, 2),
    ]
    return _table(columns, [rows_of(table.table) for table in tables], history, width)


def _reasons(metrics: PipelineMetrics, width: int) -> list[Text]:
    """The count of each reason, most frequent first."""
    found = sorted(metrics.refused.items(), key=lambda item: -item[1])
    reasons = "  ".join(f"{plain(reason).plain.replace(' ', '_')}\N{NO-BREAK SPACE}{amount:,}" for reason, amount in found)
    lines = textwrap.wrap(reasons, max(20, width - _NAME), break_on_hyphens=False)
    return [Text.assemble(" " * _NAME, (line, "red")) for line in lines[:_MOST_REASONS]]


def _table(
    columns: Sequence[_Column], series: Sequence[Callable[[PipelineMetrics], int]], history: History, width: int
) -> list[Text]:
    """A line of titles and one line per row, with a sparkline at the end if there is room."""
    shown = list(columns)
    while sum(_width(column) + _GAP for column in shown) - _GAP > width and max(column.rank for column in shown):
        shown.remove(max(shown, key=lambda column: column.rank))
    excess = max(0, sum(_width(column) + _GAP for column in shown) - _GAP - width)
    lines = [Text(no_wrap=True) for _ in range(len(columns[0].cells) + 1)]
    for column in shown:
        room = _width(column) - (excess if column.is_name else 0)
        gap = " " * _GAP if lines[0].cell_len else ""
        for line, cell, style in zip(
            lines, (column.title, *column.cells), ("dim", *[column.style] * len(column.cells)), strict=True
        ):
            text = plain(cell, max(1, room)).plain
            line.append(gap + (f"{text:<{room}}" if column.is_name else f"{text:>{room}}"), style)
    room = width - lines[0].cell_len
    for line, of in zip(lines[1:], series, strict=True):
        line.append(_spark(history, of, room), "cyan")
    title = f"{' ' * _GAP}last {length(history.kept_seconds).removesuffix(' 0 s')}"
    if len(title) <= room and len(history) > 2:
        lines[0].append(title, "dim")
    return lines


def _width(column: _Column) -> int:
    return max(_NUMBER, *map(len, (column.title, *column.cells)))


def _stacked(blocks: Sequence[_Block], height: int) -> Group:
    """``blocks`` in order, with as many lines of each as fit, and blank lines between them if there is room."""
    left, shown = height, [list[Text]() for _ in blocks]
    for index in sorted(range(len(blocks)), key=lambda index: blocks[index].rank):
        shown[index] = _cut(blocks[index], left)
        left -= len(shown[index])
    kept = [lines for lines in shown if lines]
    between = [Text()] if left >= len(kept) - 1 else []
    flat = [line for lines in kept for line in (*between, *lines)][len(between) :]
    for line in flat:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*flat)


def _cut(block: _Block, room: int) -> list[Text]:
    if len(block.lines) <= room:
        return block.lines
    if room < block.least:
        return []
    return [*block.lines[: room - 1], Text(f"… {len(block.lines) - room + 1} more lines", "dim")]


def _wrapped(sentence: str, width: int, style: str) -> list[Text]:
    return [Text(line, style) for line in textwrap.wrap(plain(sentence).plain, max(20, width), break_on_hyphens=False)]
