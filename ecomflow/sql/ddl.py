"""The text of the package's SQL files in; the same SQL with another dataset, or the columns of a CREATE TABLE, out. Pure.

The parser supports only the GoogleSQL that these files use, and raises DdlError for anything else: a misread column would let the
rows and their table diverge unnoticed.
Syntax: https://cloud.google.com/bigquery/docs/reference/standard-sql/data-definition-language#create_table_statement
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

DEFAULT_DATASET = "ecomflow"

# The column types of the fact tables.
COLUMN_TYPES = ("STRING", "INT64", "NUMERIC", "DATE", "TIMESTAMP")

TokenKind = Literal["space", "comment", "string", "number", "word", "symbol"]

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<comment>--[^\n]*)
    |(?P<string>"[^"\\\n]*"|'[^'\\\n]*')
    |(?P<number>\d+(?:\.\d+)?)
    |(?P<word>@?[A-Za-z_]\w*)
    |(?P<symbol><=|>=|!=|<>|[-+*/(),.;=<>\[\]])""",
    re.VERBOSE | re.ASCII,
)
# A project (letters, digits and hyphens, with the domain of an old one), a dot, and the dataset.
_DATASET_ID = re.compile(r"[a-z][a-z0-9.:-]*\.\w+", re.ASCII)


class DdlError(ValueError):
    """An SQL file uses syntax outside the supported subset."""


class Token(msgspec.Struct, frozen=True):
    """A token of SQL; ``text`` is its exact source text."""

    kind: TokenKind
    text: str
    line: int


class Column(msgspec.Struct, frozen=True):
    """A column as declared in the DDL; ``type`` is the GoogleSQL name (INT64, not INTEGER)."""

    name: str
    type: str
    required: bool
    description: str = ""


class TableDefinition(msgspec.Struct, frozen=True):
    """The content of a CREATE TABLE statement; ``partition`` is the DATE column of the daily partitions."""

    name: str
    columns: tuple[Column, ...]
    partition: str
    clustering: tuple[str, ...]
    description: str


def tokens(sql: str) -> Iterator[Token]:
    """All tokens of ``sql`` in order; their texts concatenated are ``sql``."""
    position, line = 0, 1
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        if match is None:
            raise DdlError(f"Line {line}: cannot read SQL at {sql[position : position + 20]!r}.")
        kind: TokenKind = match.lastgroup  # type: ignore[assignment]
        yield Token(kind, match.group(), line)
        position, line = match.end(), line + match.group().count("\n")


def qualify(sql: str, dataset_id: str) -> str:
    """``sql`` with each ``ecomflow.<table>`` replaced by the table in ``dataset_id`` (``project.dataset``), in backticks.

    Only identifiers are replaced, not text in comments or strings. Raises DdlError if ``dataset_id`` is not valid.
    """
    if not _DATASET_ID.fullmatch(dataset_id):
        raise DdlError(f"'{dataset_id}' is not a valid dataset id: expected project.dataset.")
    pieces = list(tokens(sql))
    out: list[str] = []
    index = 0
    while index < len(pieces):
        if _names_table(pieces, index):
            out.append(f"`{dataset_id}.{pieces[index + 2].text}`")
            index += 3
        else:
            out.append(pieces[index].text)
            index += 1
    return "".join(out)


def parse_table(ddl: str) -> TableDefinition:
    """Parse one of the package's CREATE TABLE files; the table's name is without its dataset.

    Raises DdlError with the line and what was expected.
    """
    reader = _Reader(ddl)
    reader.expect("CREATE", "TABLE", "IF", "NOT", "EXISTS", DEFAULT_DATASET, ".")
    name = reader.word("a table name")
    columns = _columns(reader)
    reader.expect("PARTITION", "BY")
    partition = reader.word("a column")
    reader.expect("CLUSTER", "BY")
    clustering = [reader.word("a column")]
    while reader.accept(","):
        clustering.append(reader.word("a column"))
    description = _description(reader)
    reader.expect(";")
    reader.end()
    return _checked(TableDefinition(name, columns, partition, tuple(clustering), description))


def _names_table(pieces: list[Token], at: int) -> bool:
    """Whether ``ecomflow.<table>`` starts at this token, and is not part of a longer path."""
    if [piece.text for piece in pieces[at : at + 2]] != [DEFAULT_DATASET, "."] or at + 2 >= len(pieces):
        return False
    return pieces[at + 2].kind == "word" and (at == 0 or pieces[at - 1].text != ".")


class _Reader:
    """Reads the significant tokens of a statement one by one."""

    def __init__(self, sql: str) -> None:
        self._tokens = [token for token in tokens(sql) if token.kind not in ("space", "comment")]
        self._at = 0

    def accept(self, text: str) -> bool:
        found = self._at < len(self._tokens) and self._tokens[self._at].text == text
        self._at += found
        return found

    def expect(self, *texts: str) -> None:
        for text in texts:
            if not self.accept(text):
                raise self._error(f"'{text}'")

    def word(self, what: str) -> str:
        return self._take("word", what)

    def string(self) -> str:
        return self._take("string", "a quoted text")[1:-1]

    def column_type(self) -> str:
        if self._at < len(self._tokens) and self._tokens[self._at].text not in COLUMN_TYPES:
            raise self._error(f"one of the types {', '.join(COLUMN_TYPES)}")
        return self.word("a type")

    def end(self) -> None:
        if self._at < len(self._tokens):
            raise self._error("the end")

    def _take(self, kind: TokenKind, what: str) -> str:
        if self._at >= len(self._tokens) or self._tokens[self._at].kind != kind:
            raise self._error(what)
        self._at += 1
        return self._tokens[self._at - 1].text

    def _error(self, expected: str) -> DdlError:
        if self._at >= len(self._tokens):
            return DdlError(f"Expected {expected}, found the end.")
        token = self._tokens[self._at]
        return DdlError(f"Line {token.line}: expected {expected}, found {token.text!r}.")


def _columns(reader: _Reader) -> tuple[Column, ...]:
    reader.expect("(")
    columns = [_column(reader)]
    while reader.accept(","):
        columns.append(_column(reader))
    reader.expect(")")
    return tuple(columns)


def _column(reader: _Reader) -> Column:
    name = reader.word("a column name")
    column_type = reader.column_type()
    # BigQuery's grammar has the default before NOT NULL, and nothing else between the two.
    if reader.accept("DEFAULT"):
        reader.expect("CURRENT_TIMESTAMP", "(", ")")
    required = reader.accept("NOT")
    if required:
        reader.expect("NULL")
    return Column(name, column_type, required, _description(reader))


def _description(reader: _Reader) -> str:
    reader.expect("OPTIONS", "(", "description", "=")
    description = reader.string()
    reader.expect(")")
    return description


def _checked(table: TableDefinition) -> TableDefinition:
    names = [column.name for column in table.columns]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DdlError(f"{table.name}: column {', '.join(repeated)} is defined twice.")
    if missing := sorted({table.partition, *table.clustering} - set(names)):
        raise DdlError(f"{table.name}: partitioned or clustered by {', '.join(missing)}, which is not a column.")
    return table
