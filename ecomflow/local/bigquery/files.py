"""SQL and jobs of whoever may query the local BigQuery come in; no file but its own database is read or written.

bqemulator hands to DuckDB what it does not know (COPY, ATTACH, ``read_text(...)``), and DuckDB opens any file of the user.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

# They escape ``enable_external_access``: the first writes a log to any path (DuckDB then ends the process), the others run SQL
# that they are given as a text, in which the first would not be seen.
_REFUSED_FUNCTIONS = frozenset({"enable_logging", "query", "json_execute_serialized_sql"})
# What DuckDB takes for a space.
_SPACES = re.compile("[\u00a0\u2000-\u200d\u202f\u205f\u2060\u3000\ufeff]")
_WORD = re.compile(r"\w+", re.ASCII)
_MAY_CALL_THEM = re.compile("|".join(_REFUSED_FUNCTIONS), re.IGNORECASE)


def confine_files(engine: Any, executor: Any) -> None:
    """Repairs bqemulator's ``DuckDBEngine`` and ``jobs.executor``: no SQL and no load, extract or EXPORT DATA opens a file."""
    load_spatial, execute_anything = engine._load_spatial, engine.execute

    def load_spatial_and_lock(self: Any) -> None:
        load_spatial(self)
        self._connection.execute("SET GLOBAL enable_external_access = false")
        # Nothing later needs another setting, and what was set here can't be undone.
        self._connection.execute("SET GLOBAL lock_configuration = true")

    def execute(self: Any, sql: str, parameters: Any = None) -> Any:
        if called := refused_function(sql):
            raise _invalid(
                f"{called}() is refused: the local BigQuery opens no files and runs no SQL that it is given as a text."
            )
        return execute_anything(self, sql, parameters)

    def resolve_uri(uri: str, _: Any) -> str:
        raise _invalid(f"{uri} is refused: the local BigQuery loads and exports no files. Insert rows, or append them.")

    engine._load_spatial, engine.execute = load_spatial_and_lock, execute
    # Some formats are read by Python libraries, whatever DuckDB may open.
    executor._resolve_uri = resolve_uri


def refused_function(sql: str) -> str | None:
    """The first function in ``sql`` that the local BigQuery must not call, as DuckDB's own scanner reads it."""
    if not _MAY_CALL_THEM.search(sql):
        return None
    import duckdb

    sql = _SPACES.sub(" ", sql)
    starts = [start for start, _ in duckdb.tokenize(sql)]
    # Offsets are those of the UTF-8 text.
    text = sql.encode()
    tokens = [text[start:end].decode(errors="replace") for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    for token, following in pairwise(tokens):
        # A name keeps its quotes, and what follows it up to the next token: spaces and comments.
        name = _WORD.search(token)
        if name and name[0].lower() in _REFUSED_FUNCTIONS and following.startswith("("):
            return name[0].lower()
    return None


def _invalid(sentence: str) -> Exception:
    from bqemulator.domain.errors import InvalidQueryError

    error: Exception = InvalidQueryError(sentence)
    return error
