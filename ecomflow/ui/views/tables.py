"""Counts, rows and partitions in; the view of the tables out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from ecomflow.errors import EcomflowError
from ecomflow.metrics.history import TableRates, rows_of
from ecomflow.sql import TableDefinition
from ecomflow.terminal.amounts import UNKNOWN, bytes_text, clock_text, count_text, moment_text, rate_text
from ecomflow.ui.data.readings import Reading
from ecomflow.ui.data.sampler import Sample
from ecomflow.ui.data.warehouse import MINUTES, MOST_PARTITIONS, NEWEST_ROWS, TableCount, TableDetail
from ecomflow.ui.views.html import Html, join, shown, table, tag
from ecomflow.ui.views.layout import button, notice, section, trouble
from ecomflow.ui.views.state import state_line
from ecomflow.ui.views.svg import bar, columns_chart, sparkline
from ecomflow.warehouse.charts import amount_text, json_text

_CELL_CHARACTERS = 80
_MINUTE = 60


def tables_view(sample: Sample, counts: Reading[tuple[TableCount, ...]]) -> Html:
    """Every fact table: its rows in the warehouse, and the rows per minute that the pipeline appends."""
    return join([state_line(sample), section("Fact tables", _counts(sample, counts), note=_as_of(counts))])


def table_view(sample: Sample, found: TableDefinition, detail: Reading[TableDetail] | None) -> Html:
    """One table. ``detail`` None: it is read only on request."""
    name, clustered = found.name, f", clustered by {', '.join(found.clustering)}" if found.clustering else ""
    note = f"Partitioned by {found.partition}{clustered}."
    parts: list[Any] = [state_line(sample), tag("p", tag("a", "All tables", href="/tables"), class_="back")]
    if detail is None:
        return join([*parts, section(name, tag("p", found.description), note=note)])
    if detail.value is None:
        waiting = trouble(detail.error) if detail.error else notice("Reading the table…")
        return join([*parts, section(name, waiting, note=note)])
    if detail.error:
        parts.append(trouble(detail.error))
    return join([*parts, section(name, detail_view(detail.value), note=f"{note} {_as_of(detail)}")])


def detail_view(detail: TableDetail) -> Html:
    """Rows per minute, partitions, and the newest rows."""
    chart = columns_chart(f"Rows per minute, last {MINUTES} minutes (UTC)", detail.minutes, "rows")
    return join([chart, tag("h3", "Newest rows"), _newest(detail), tag("h3", "Partitions"), _partitions(detail)])


def weighed_view(name: str, scanned: int | None, form_token: str) -> Html:
    """In a project: the button that reads the table, with the bytes that BigQuery will scan once these are known."""
    if scanned is None:
        offer = button("Show what it would scan", form_token, f"/tables/{name}", step="weigh")
        return tag("div", tag("p", "Newest rows and partitions are queries, which BigQuery charges for."), offer)
    estimate = tag("p", f"BigQuery would scan {bytes_text(scanned)} of the last two days' partitions, and 10 MB to list them.")
    return tag("div", estimate, button("Read it", form_token, f"/tables/{name}", kind="primary", step="read"))


def cell(value: Any, width: int | None = _CELL_CHARACTERS) -> str:
    """A value of the warehouse as text: numbers in full, times in UTC."""
    match value:
        case None:
            return "NULL"
        case bool():
            return str(value).lower()
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        case int() | float() | Decimal():
            return amount_text(value)
        case list() | dict():
            return shown(json_text(value), width)
    return shown(value, width)


def is_number(value: Any) -> bool:
    """Whether ``value`` is right-aligned in its column."""
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def rows_table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Html:
    """The warehouse's rows; columns of numbers are right-aligned."""
    right = [
        column
        for place, column in enumerate(columns)
        if rows and all(is_number(row[place]) or row[place] is None for row in rows)
    ]
    drawn = table(caption, columns, [[cell(value) for value in row] for row in rows], right=right, quiet=True)
    return tag("div", drawn, class_="rows")


def _counts(sample: Sample, counts: Reading[tuple[TableCount, ...]]) -> Html:
    if counts.value is None:
        return trouble(counts.error) if counts.error else notice("Counting the rows…")
    rows = [_count_row(found, sample) for found in counts.value]
    columns = ("table", "rows", "per minute", "last hour", "newest row (UTC)")
    drawn = table("Fact tables and their rows", columns, rows, right=("rows", "per minute"), quiet=True)
    return join([trouble(counts.error) if counts.error else None, drawn])


def _count_row(found: TableCount, sample: Sample) -> tuple[Any, ...]:
    rates: Sequence[TableRates] = sample.report.rates.tables if sample.report and sample.report.rates else ()
    a_second = next((one.rows for one in rates if one.table == found.table), None)
    return (
        tag("a", found.table, href=f"/tables/{found.table}"),
        count_text(found.rows),
        rate_text(None if a_second is None else a_second * _MINUTE, ""),
        None if sample.hour is None else sparkline(sample.hour.rate(rows_of(found.table))),
        UNKNOWN if found.newest is None else tag("span", moment_text(found.newest), class_="moment"),
    )


def _newest(detail: TableDetail) -> Html:
    if not detail.rows:
        return notice("There are no rows.")
    order = sorted(range(len(detail.columns)), key=lambda place: _rank(detail.columns[place]))
    columns, *rows = ([row[place] for place in order] for row in (detail.columns, *detail.rows))
    return rows_table(f"The newest {NEWEST_ROWS} rows of {detail.table}", columns, rows)


def _rank(column: str) -> int:
    """What a row says comes first, what it is identified by last."""
    return 0 if column == "status" else 2 if column.endswith("_id") else 1


def _partitions(detail: TableDetail) -> Html:
    if isinstance(detail.partitions, EcomflowError):
        return trouble(detail.partitions)
    if not detail.partitions:
        return notice("There are no partitions.")
    high = max(amount for _, amount in detail.partitions)
    rows = [(tag("span", day, class_="moment"), count_text(amount), bar(amount, 0, high)) for day, amount in detail.partitions]
    caption = f"Partitions of {detail.table} by day, newest first, at most {MOST_PARTITIONS}"
    return tag("div", table(caption, ("partition", "rows", ""), rows, right=("rows",), quiet=True), class_="narrow")


def _as_of(reading: Reading[Any]) -> str | None:
    return None if reading.read_at is None else f"In the warehouse as of {clock_text(reading.read_at)} UTC."
