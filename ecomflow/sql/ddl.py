"""SQL that names the dataset ``ecomflow`` in; its tokens, or the same SQL with another dataset, out. Pure.

Only the GoogleSQL of the package's own files and of the contracts' DDL is read; DdlError for anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

DEFAULT_DATASET = "ecomflow"

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


# The REST API's names of types that differ from GoogleSQL's.
_SQL_TYPES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}


def sql_type(name: str) -> str:
    """GoogleSQL's name of a type that the REST API calls ``name``."""
    return _SQL_TYPES.get(name, name)


class DdlError(ValueError):
    """An SQL file uses syntax outside the supported subset."""


class Token(msgspec.Struct, frozen=True):
    """A token of SQL; ``text`` is its exact source text."""

    kind: TokenKind
    text: str
    line: int


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


def _names_table(pieces: list[Token], at: int) -> bool:
    """Whether ``ecomflow.<table>`` starts at this token, and is not part of a longer path."""
    if [piece.text for piece in pieces[at : at + 2]] != [DEFAULT_DATASET, "."] or at + 2 >= len(pieces):
        return False
    return pieces[at + 2].kind == "word" and (at == 0 or pieces[at - 1].text != ".")
