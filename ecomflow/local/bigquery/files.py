"""Prevents SQL and jobs of the local BigQuery from reading or writing any file except its own database.

bqemulator passes unknown statements and functions (COPY, ATTACH, ``read_text(...)``) to DuckDB, which opens any of the user's
files.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

# They bypass ``enable_external_access``: the first writes a log to any path (DuckDB then ends the process), and the others run
# SQL from a string, in which the first would go undetected.
_REFUSED_FUNCTIONS = frozenset({"enable_logging", "query", "json_execute_serialized_sql"})
# Characters that DuckDB treats as spaces.
_SPACES = re.compile("[\u00a0\u2000-\u200d\u202f\u205f\u2060\u3000\ufeff]")
_WORD = re.compile(r"\w+", re.ASCII)
_MAY_CALL_THEM = re.compile("|".join(_REFUSED_FUNCTIONS), re.IGNORECASE)


def confine_files(engine: Any, executor: Any) -> None:
    """Patch bqemulator's ``DuckDBEngine`` and ``jobs.executor``: no SQL and no load, extract or EXPORT DATA opens a file."""
    load_spatial, execute_anything = engine._load_spatial, engine.execute

    def load_spatial_and_lock(self: Any) -> None:
        load_spatial(self)
        self._connection.execute("SET GLOBAL enable_external_access = false")
        # Nothing later needs to change a setting, so lock them.
        self._connection.execute("SET GLOBAL lock_configuration = true")

    def execute(self: Any, sql: str, parameters: Any = None) -> Any:
        if called := refused_function(sql):
            raise _invalid(f"{called}() is refused: the local BigQuery opens no files and runs no SQL from a string.")
        return execute_anything(self, sql, parameters)

    def resolve_uri(uri: str, _: Any) -> str:
        raise _invalid(f"{uri} is refused: the local BigQuery loads and exports no files. Insert rows, or append them.")

    engine._load_spatial, engine.execute = load_spatial_and_lock, execute
    # Python libraries read some formats without DuckDB.
    executor._resolve_uri = resolve_uri


def refused_function(sql: str) -> str | None:
    """The first forbidden function in ``sql``, found with DuckDB's own tokenizer."""
    if not _MAY_CALL_THEM.search(sql):
        return None
    import duckdb

    sql = _SPACES.sub(" ", sql)
    starts = [start for start, _ in duckdb.tokenize(sql)]
    # The offsets are in UTF-8 bytes.
    text = sql.encode()
    tokens = [text[start:end].decode(errors="replace") for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    for token, following in pairwise(tokens):
        # A token includes its quotes, and any spaces and comments up to the next token.
        name = _WORD.search(token)
        if name and name[0].lower() in _REFUSED_FUNCTIONS and following.startswith("("):
            return name[0].lower()
    return None


def _invalid(sentence: str) -> Exception:
    from bqemulator.domain.errors import InvalidQueryError

    error: Exception = InvalidQueryError(sentence)
    return error
