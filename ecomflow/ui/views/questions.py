"""Questions and query results in; the view of the questions out. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from ecomflow.errors import ConfigError
from ecomflow.sql import Parameter, Question
from ecomflow.terminal.amounts import bytes_text, count_text
from ecomflow.ui.views.html import Exact, Html, join, lines, shown, tag
from ecomflow.ui.views.layout import button, command, notice, section
from ecomflow.ui.views.svg import Curve, bar, line_chart
from ecomflow.ui.views.tables import cell, rows_table
from ecomflow.warehouse.charts import axes, seconds_of
from ecomflow.warehouse.queries import Answer

MOST_ROWS = 200
_MOST_BARS = 20
_SQL_EXAMPLE = """SELECT status, COUNT(*) AS events
FROM ecomflow.fact_order_header_unique
GROUP BY status
ORDER BY events DESC"""


def questions_view(questions: Sequence[Question], form_token: str, sql: str = _SQL_EXAMPLE) -> Html:
    """The named questions, and the text box for SQL."""
    links = [
        tag("li", tag("a", one.asks, href=f"/questions/{one.name}"), tag("p", tag("code", one.name), class_="quiet"))
        for one in questions
    ]
    return join([section("Questions", tag("ul", links, class_="questions")), sql_form(form_token, sql)])


def sql_form(form_token: str, sql: str) -> Html:
    """The text box for GoogleSQL."""
    field = tag(
        "label",
        tag("span", "A query in GoogleSQL; the tables are in the dataset ecomflow"),
        tag(
            "textarea",
            Exact(f"\n{sql}"),
            name="sql",
            rows=str(min(max(sql.count("\n") + 2, 6), 20)),
            spellcheck="false",
            autocomplete="off",
        ),
    )
    note = "Read only: a single SELECT."
    return section("Your own query", button("Run", form_token, "/questions", field, kind="primary"), note=note)


def question_view(question: Question, values: Mapping[str, str], form_token: str, answer: Html | None = None) -> Html:
    """A question with its parameters, and its result after it was run."""
    fields = [_field(one, values.get(one.name, "")) for one in question.parameters]
    return join(
        [
            tag("p", tag("a", "All questions", href="/questions"), class_="back"),
            section(
                question.asks,
                tag("p", question.counts),
                tag("p", f"Reads {question.reads}.", class_="quiet"),
                button("Run", form_token, f"/questions/{question.name}", *fields, kind="primary"),
            ),
            answer,
            tag(
                "details", tag("summary", "The SQL"), tag("pre", tag("code", lines(question.sql)), class_="payload", tabindex="0")
            ),
        ]
    )


def sql_view(sql: str, form_token: str, answer: Html) -> Html:
    """The query that was run, and its result."""
    return join([tag("p", tag("a", "All questions", href="/questions"), class_="back"), sql_form(form_token, sql), answer])


def weighed(scanned: int, most: int, form_token: str, action: str, fields: Mapping[str, str]) -> Html:
    """In a project, before the query runs: the bytes that BigQuery would scan, and the button that runs it."""
    estimate = f"BigQuery would scan {bytes_text(scanned)} ({count_text(scanned)} bytes)."
    if scanned > most:
        more = f" That exceeds the limit of this page ({bytes_text(most)}): start it with a higher --max-bytes."
        return section("Before the query runs", notice(estimate + more))
    return section(
        "Before the query runs", tag("p", estimate), button("Run it", form_token, action, kind="primary", sure="yes", **fields)
    )


def answer_view(answer: Answer, total: int, shown_command: str | None = None) -> Html:
    """A result as a table, and as a chart if it can be drawn."""
    if not answer.rows:
        return section("Result", notice("There are no rows."), id_="answer")
    more = f"{count_text(total)} rows" + (f"; the first {len(answer.rows)} are shown." if total > len(answer.rows) else ".")
    parts = [chart(answer), rows_table("The result", answer.columns, answer.rows)]
    if shown_command:
        parts += [tag("p", "The complete result in a terminal, also as CSV or JSON:", class_="quiet"), command(shown_command)]
    return section("Result", parts, note=more, id_="answer")


def chart(answer: Answer) -> Html | None:
    """Bars by name, or a line by date, of the column that the answer names or the first column of numbers."""
    try:
        label, amount = axes(answer)
    except ConfigError:  # it can't be drawn
        return None
    points = [(row[label], row[amount]) for row in answer.rows if _is_drawn(row[amount])]
    if not points:
        return None
    title = f"{shown(answer.columns[amount], 60)} by {shown(answer.columns[label], 60)}"
    if len(points) > 1 and all(isinstance(moment, date) for moment, _ in points):
        return _line(title, points)
    return _bars(title, points[:_MOST_BARS], len(points))


def _is_drawn(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool) and math.isfinite(value)


def _bars(title: str, points: Sequence[tuple[Any, Any]], total: int) -> Html:
    low, high = min(0.0, *(float(amount) for _, amount in points)), max(0.0, *(float(amount) for _, amount in points))
    rows = [
        tag(
            "li",
            tag("span", cell(name, 60), class_="of"),
            bar(float(amount), low, high),
            tag("span", cell(amount), class_="value"),
        )
        for name, amount in points
    ]
    more = tag("p", f"and {count_text(total - len(points))} more in the table", class_="quiet") if total > len(points) else None
    caption = tag("figcaption", tag("span", title, class_="chart-title"))
    return tag("figure", caption, tag("ul", rows, class_="bars", aria_label=title), more)


def _line(title: str, points: Sequence[tuple[Any, Any]]) -> Html:
    course = sorted((seconds_of(moment), float(amount)) for moment, amount in points)
    return line_chart(title, [Curve(title, course)], course[-1][0] - course[0][0], unit="", dated=True)


def _field(parameter: Parameter, value: str) -> Html:
    given = value or parameter.default
    if parameter.type == "DATE" and given == "today":
        given = f"{datetime.now(UTC).date()}"
    kinds = {"DATE": "date", "INT64": "number"}
    field = tag(
        "input",
        type=kinds.get(parameter.type, "text"),
        name=f"p_{parameter.name}",
        value=Exact(given),
        step="1" if parameter.type == "INT64" else None,
        required=True,
    )
    return tag("label", tag("span", f"{parameter.name}: {parameter.description}"), field)
