"""``ecomflow query``: query the warehouse, with the result as a table, a chart, CSV or JSON."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Sequence
from decimal import Decimal
from itertools import islice
from typing import Annotated, Any

import msgspec
import typer
from rich.padding import Padding

from ecomflow.commands.confirmation import confirm
from ecomflow.commands.setting_options import TABLES, TARGET, with_settings
from ecomflow.commands.shared import AsJson, examples
from ecomflow.config import Settings
from ecomflow.errors import ConfigError
from ecomflow.gcp.target import Target, open_target
from ecomflow.sql import Question, questions
from ecomflow.terminal.amounts import bytes_text, counted, decimal_text
from ecomflow.terminal.console import err, note, out, plain, plain_lines, say, show_json, show_table
from ecomflow.warehouse import queries
from ecomflow.warehouse.charts import amount_text, chart, json_text
from ecomflow.warehouse.days import days_with_rows
from ecomflow.warehouse.queries import Answer, Query, Reply
from ecomflow.warehouse.statements import SELECT, examined, local_kind

_MOST_SHOWN = 200
_MOST_DRAWN = 10_000
_UNITS: dict[str, int] = {"": 1, "B": 1} | {
    f"{letter}{unit}": base**power for power, letter in enumerate("KMGT", start=1) for unit, base in (("B", 1000), ("iB", 1024))
}
_SIZE = re.compile(r"(\d{1,15})\s*([A-Za-z]*)")


@examples(
    "ecomflow query --list",
    "ecomflow query delivered-orders-per-country --date 2025-12-01 --chart",
    'ecomflow query "SELECT status, COUNT(*) AS events FROM ecomflow.fact_order_header_unique GROUP BY status"',
    'ecomflow query "SELECT * FROM ecomflow.fact_order WHERE quantity >= @least" --param least:INT64=3 --csv',
    "ecomflow query sales-per-product --project my-project --max-bytes 1GB",
)
@with_settings(*TARGET, *TABLES, "labels")
def query(
    settings: Settings,
    question: Annotated[
        str | None, typer.Argument(help="Name of a question, or GoogleSQL in quotes.", show_default=False)
    ] = None,
    date: Annotated[str | None, typer.Option(help="Short for --param date:DATE=….", show_default=False)] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:TYPE]=VALUE", help="Value of @NAME. Can be repeated.", show_default=False),
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="List the questions.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of rows. Default: 200 in a table, else all.", show_default=False)
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV (RFC 4180) instead of a table.")] = False,
    as_chart: Annotated[
        bool, typer.Option("--chart", help="Draw a bar or line chart, if the result has the shape for one.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the bytes that BigQuery would scan, without running the query.")
    ] = False,
    max_bytes: Annotated[
        str | None, typer.Option(help="Refuse queries that would scan more, such as 500MB, 1GB, 2TiB.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before a statement that may change data.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run one of the analysts' questions, or GoogleSQL, against the fact tables. In SQL their dataset is called ecomflow. In a
    project the bytes that BigQuery will scan are shown first. A statement that is no SELECT is run only after a confirmation.
    """
    if as_csv + as_chart + as_json > 1:
        raise ConfigError("--csv, --chart and --json are mutually exclusive.", "Use one of them.")
    if list_them:
        _show_questions(as_json)
        return
    if question is None:
        raise ConfigError("Expected a question's name or GoogleSQL, found nothing.", "See: ecomflow query --list")
    most = None if max_bytes is None else bytes_of(max_bytes)
    with open_target(settings) as target:
        asked = queries.prepare(settings, question, _values(date, param or []))
        if dry_run or most is not None or not settings.is_local:
            kind = _weigh(target, asked, most, is_dry_run=dry_run, as_json=as_json)
        else:
            kind = local_kind(asked.sql)
        if dry_run:
            return
        if kind != SELECT:
            confirm(f"{kind or 'This statement'} may change data in {settings.project_id}. Run it?", yes)
        with err.status("Running the query…"):
            reply = queries.send(target, asked, most)
        if not reply.columns:
            _show_effect(reply, as_json)
        elif as_csv:
            _write_csv(reply, limit)
        elif as_json:
            _write_json(queries.taken(reply, limit))
        elif as_chart:
            _draw(queries.taken(reply, limit or _MOST_DRAWN), reply.total)
        else:
            show_answer(queries.taken(reply, limit or _MOST_SHOWN), total=reply.total)
        if asked.question and not reply.total:
            _show_days(target, asked.question, most)


def _show_effect(reply: Reply, as_json: bool) -> None:
    """What a statement without rows has done."""
    if as_json:
        show_json({"affected_rows": reply.affected})
    elif reply.affected is None:
        say("Done. The statement returns no rows.")
    else:
        say(f"Done. {counted(reply.affected, 'row')} affected.")


def _show_days(target: Target, question: str, most: int | None) -> None:
    """Where an answer is empty: for which days it would not be."""
    found = days_with_rows(target, question, most)
    if found is None:
        return
    if found.first is None:
        note(f"{found.table} is empty. Run the pipeline with: ecomflow deploy --detach, and publish with: ecomflow publish")
        return
    days = f"on {found.first}" if found.first == found.last else f"from {found.first} to {found.last}, most on {found.fullest}"
    note(f"{found.table} has rows {days}. Try: ecomflow query {question} --date {found.fullest}")


def show_answer(answer: Answer, most: int | None = None, total: int | None = None) -> None:
    """Prints the first ``most`` rows of an answer as a table, and the number of rows, ``total`` if given."""
    shown = answer.rows[:most]
    numbers = [
        name for index, name in enumerate(answer.columns) if any(isinstance(row[index], int | float | Decimal) for row in shown)
    ]
    show_table(answer.title, answer.columns, [[_cell(value) for value in row] for row in shown], right=numbers)
    say(_count(len(shown), len(answer.rows) if total is None else total))


def _count(shown: int, total: int) -> str:
    count = f"{total:,} row{'' if total == 1 else 's'}"
    return f"{count}." if shown >= total else f"{count}, first {shown:,} shown. For all: --csv or --json; for more: --limit."


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json_text(value)
    is_number = isinstance(value, int | Decimal) and not isinstance(value, bool)
    return amount_text(value) if is_number else value


def _draw(answer: Answer, total: int) -> None:
    """The chart, or a table if the answer has no shape for one: the query may have cost money, so its rows are shown."""
    try:
        lines = chart(answer, out.width)
    except ConfigError as error:
        note(str(error))
        show_answer(answer, _MOST_SHOWN, total)
        return
    if answer.title:
        out.print(plain(answer.title), style="bold")
    out.print(plain_lines("\n".join(lines)), soft_wrap=True)
    say(f"{total:,} row{'' if total == 1 else 's'}.")


def _write_csv(reply: Reply, limit: int | None) -> None:
    """Streams the rows, so that memory stays constant."""

    # A terminal gets control characters escaped; a file or a program gets the values as they are, in UTF-8.
    shown = (lambda text: plain(text).plain) if sys.stdout.isatty() else str
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8")
    writer = csv.writer(sys.stdout)
    writer.writerow(reply.columns)
    writer.writerows([shown(_field(value)) for value in row] for row in islice(reply.rows, limit))


def _field(value: Any) -> str:
    """A value as in BigQuery's own CSV exports: NULL is empty, an array or struct is JSON, bytes are base64."""
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return str(value).lower()
        case Decimal():
            return decimal_text(value)
        case int() | float():
            return str(value)
    return json_text(value) if isinstance(value, list | dict) else msgspec.json.encode(value, enc_hook=str).decode().strip('"')


def _write_json(answer: Answer) -> None:
    show_json([dict(zip(answer.columns, row, strict=True)) for row in answer.rows])


def _values(day: str | None, given: Sequence[str]) -> dict[str, str]:
    """The given values, by NAME or NAME:TYPE."""
    pairs = [] if day is None else [("date:DATE", day)]
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*(:\w+)?", name, re.ASCII):
            raise ConfigError(f"'{text}' is not a valid parameter.", "Write it as NAME=VALUE, or NAME:INT64=VALUE.")
        pairs.append((name, value))
    names = [name.partition(":")[0].lower() for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"The parameter '{name}' is set twice.", "Set it once.")
    return dict(pairs)


def _weigh(target: Target, asked: Query, most: int | None, *, is_dry_run: bool, as_json: bool) -> str | None:
    """Shows what the query would scan, on standard error if rows follow; returns the kind of statement, if it is reported.

    Raises ConfigError if the query would scan more than ``most``.
    """
    with err.status("Estimating the bytes to scan…"):
        estimated = examined(target, asked)
    scanned = estimated.scanned_bytes
    if target.settings.is_local and estimated.statement != SELECT:
        note(f"The local BigQuery has no dry run of {estimated.statement}: it was not checked.")
    elif target.settings.is_local:
        note("The query is valid. The local BigQuery does not report bytes, and charges nothing.")
    if is_dry_run and as_json:
        show_json({"bytes": scanned})
    else:
        (say if is_dry_run else note)(f"BigQuery would scan {_size(scanned)}.")
    if most is not None and scanned > most:
        sentence = f"The query would scan {_size(scanned)}, which is more than --max-bytes {_size(most)}. It was not run."
        raise ConfigError(sentence, "Select fewer columns, or fewer days of the table's partition column; or raise the limit.")
    return estimated.statement


def bytes_of(text: str) -> int:
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].lower() not in units:
        raise ConfigError(f"'{text}' is not a valid number of bytes.", "Write it as 500MB, 1GB or 2TiB.")
    return int(match[1]) * units[match[2].lower()]


def _size(amount: int) -> str:
    """1234567 as "1.2 MB (1,234,567 bytes)"."""
    exact = counted(amount, "byte")
    return exact if amount < 1000 else f"{bytes_text(amount)} ({exact})"


def _show_questions(as_json: bool) -> None:

    found = [_facts(item) for item in questions()]
    if as_json:
        show_json(found)
        return
    for item in found:
        out.print(plain(item["name"]), style="bold")
        said = [f"@{one['name']}: {one['type']}, default {one['default']}: {one['description']}" for one in item["parameters"]]
        lines = (item["asks"], item["counts"], f"Reads {item['reads']}", *said, f"$ {item['example']}")
        out.print(Padding(plain_lines("\n".join(lines)), (0, 0, 1, 2), expand=False))


def _facts(item: Question) -> dict[str, Any]:
    facts: dict[str, Any] = msgspec.to_builtins(item)
    options = [_example(one.name, one.type, one.default) for one in item.parameters]
    example = " ".join(["ecomflow query", item.name, *options, *(["--chart"] if item.chart else [])])
    return {name: value for name, value in facts.items() if name != "sql"} | {"example": example}


def _example(name: str, kind: str, default: str) -> str:
    value = "2025-12-01" if kind == "DATE" else default
    return f"--date {value}" if name == "date" else f"--param {name}={value}"
