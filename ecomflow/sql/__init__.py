"""A contract's tables in; their DDL for a dataset out, and the analysts' questions. Pure: runs nothing.

Each file in ``queries/`` is a question about the built-in tables. ``tables/`` and ``views/`` show the DDL that follows from the
built-in contracts; a test compares them. All run unchanged in BigQuery if the dataset is named ``ecomflow``.
"""

from __future__ import annotations

import re
from importlib import resources

import msgspec

from ecomflow.contract import ddl as contract_ddl
from ecomflow.contract.language import Table
from ecomflow.contract.tables import partition_of
from ecomflow.errors import NotFoundError
from ecomflow.sql.ddl import DdlError, qualify, sql_type, tokens

__all__ = [
    "QUESTIONS",
    "Column",
    "DdlError",
    "Parameter",
    "Question",
    "TableDefinition",
    "dead_letters_ddl",
    "definition_of",
    "parse_question",
    "qualify",
    "question",
    "questions",
    "sql_type",
    "table_ddl",
    "view_ddl",
]

QUESTIONS = (
    "delivered-orders-per-country",
    "sales-per-product",
    "sales-per-customer",
    "most-returned-products",
    "session-steps",
    "stock-movement-and-sales",
)

_HEADER_LINE = re.compile(r"-- (Question|Counts|Parameter|Reads|Chart): (\S.*)")
_PARAMETER = re.compile(r"(?P<name>\w+) (?P<type>[A-Z0-9]+) = (?P<default>\S+) \((?P<description>.+)\)")


class Column(msgspec.Struct, frozen=True):
    """A column as declared in the DDL, or as BigQuery reports it; ``type`` is the GoogleSQL name (INT64, not INTEGER)."""

    name: str
    type: str
    required: bool
    description: str = ""


class TableDefinition(msgspec.Struct, frozen=True):
    """What a CREATE TABLE statement declares; ``partition`` is the DATE column of the daily partitions."""

    name: str
    columns: tuple[Column, ...]
    partition: str
    clustering: tuple[str, ...]
    description: str


class Parameter(msgspec.Struct, frozen=True):
    """A named query parameter: ``@name`` in the SQL, with its GoogleSQL ``type``. ``default`` is ``today`` or a value as text."""

    name: str
    type: str
    default: str
    description: str


class Question(msgspec.Struct, frozen=True):
    """An analyst's question.

    ``asks``: what it answers; ``counts``: what is counted once or left out; ``reads``: the table, and how its partitioning and
    clustering help; ``chart``: the column of numbers to draw, or None. ``sql`` uses the dataset ``ecomflow``; replace it with
    ``qualify``.
    """

    name: str
    asks: str
    counts: str
    reads: str
    parameters: tuple[Parameter, ...]
    chart: str | None
    sql: str


def table_ddl(table: Table, dataset_id: str) -> str:
    """The CREATE TABLE IF NOT EXISTS of ``table``, for ``dataset_id`` (``project.dataset``)."""
    return qualify(contract_ddl.table_ddl(table), dataset_id)


def view_ddl(table: Table, dataset_id: str) -> str:
    """The CREATE OR REPLACE VIEW that shows each event of ``table`` once (``<name>_unique``), for ``dataset_id``."""
    return qualify(contract_ddl.view_ddl(table), dataset_id)


def dead_letters_ddl(dataset_id: str, bucket: str) -> str:
    """The CREATE OR REPLACE EXTERNAL TABLE ``dead_letters`` over the dead letters in ``bucket``, for ``dataset_id``."""
    return qualify(_read("external", "dead_letters"), dataset_id).replace("gs://BUCKET/", f"gs://{bucket}/")


def definition_of(table: Table) -> TableDefinition:
    """The columns, partitioning and clustering of ``table``, as its DDL declares them."""
    columns = tuple(Column(column.name, column.type, column.required, column.description) for column in table.columns)
    return TableDefinition(table.name, columns, partition_of(table), table.cluster, table.description)


def questions() -> tuple[Question, ...]:
    """All questions, in the order of ``QUESTIONS``."""
    return tuple(question(name) for name in QUESTIONS)


def question(name: str) -> Question:
    """The question with this name. Raises NotFoundError, which lists the valid names."""
    if name not in QUESTIONS:
        raise NotFoundError(f"There is no question '{name}'.", f"Choose one of: {', '.join(QUESTIONS)}.")
    return parse_question(name, _read("queries", name))


def parse_question(name: str, sql: str) -> Question:
    """Parse ``sql`` and its header: the comment lines at the top, ``-- <Key>: <text>``.

    The keys are Question, Counts and Reads (once each), Chart (at most once) and Parameter (any number). Raises DdlError for any
    other header line, a missing or repeated key, and parameters that differ from those in the query.
    """
    header: dict[str, list[str]] = {"Question": [], "Counts": [], "Parameter": [], "Reads": [], "Chart": []}
    for line in sql.splitlines():
        if not line.startswith("--"):
            break
        match = _HEADER_LINE.fullmatch(line)
        if match is None:
            raise DdlError(f"{name}: expected '-- Question|Counts|Parameter|Reads|Chart: ...' in the header, found {line!r}.")
        header[match[1]].append(match[2])
    if any(len(header[key]) != 1 for key in ("Question", "Counts", "Reads")):
        raise DdlError(f"{name}: expected one Question, one Counts and one Reads line in the header.")
    if len(header["Chart"]) > 1:
        raise DdlError(f"{name}: expected at most one Chart line in the header.")
    parameters = tuple(_parameter(name, text) for text in header["Parameter"])
    _check_parameters(name, parameters, sql)
    asks, counts, reads = (header[key][0] for key in ("Question", "Counts", "Reads"))
    return Question(name, asks, counts, reads, parameters, next(iter(header["Chart"]), None), sql)


def _parameter(name: str, text: str) -> Parameter:
    match = _PARAMETER.fullmatch(text)
    if match is None:
        raise DdlError(f"{name}: expected 'name TYPE = default (description)', found {text!r}.")
    return Parameter(**match.groupdict())


def _check_parameters(name: str, parameters: tuple[Parameter, ...], sql: str) -> None:
    named = {parameter.name for parameter in parameters}
    used = {token.text[1:] for token in tokens(sql) if token.text.startswith("@")}
    if named != used:
        raise DdlError(f"{name}: the header names the parameters {sorted(named)}, the query uses {sorted(used)}.")


def _read(folder: str, name: str) -> str:
    return (resources.files(__name__) / folder / f"{name}.sql").read_text(encoding="utf-8")
