"""User SQL in; the names of its parameters, or the same SQL with another dataset, out. Pure.

Unlike ``ddl``, which reads the package's own files and refuses anything unknown, this skips whatever it does not need; BigQuery
validates the rest. Lexical structure: https://cloud.google.com/bigquery/docs/reference/standard-sql/lexical
"""

from __future__ import annotations

import re

from ecomflow.sql.ddl import DEFAULT_DATASET

_LEXEME = re.compile(
    rf"""(?P<comment>(?:--|\#)[^\n]*|/\*.*?\*/)
    |(?P<string>\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    |`{DEFAULT_DATASET}\.(?P<quoted>\w+)`
    |(?P<identifier>`(?:\\.|[^`\\])*`)
    |(?<![\w.-]){DEFAULT_DATASET}\.(?P<table>[A-Za-z_]\w*)
    |(?P<system>@@\w+)
    |@(?P<parameter>[A-Za-z_]\w*)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)


def parameters_of(sql: str) -> set[str]:
    """The names of the query parameters, ``@name``, in lower case, because BigQuery ignores their case."""
    return {match["parameter"].lower() for match in _LEXEME.finditer(sql) if match["parameter"]}


def qualify_user_sql(sql: str, dataset_id: str) -> str:
    """``sql`` with each ``ecomflow.<table>``, backticked or not, moved to ``dataset_id`` (``project.dataset``).

    Comments and strings are not changed.
    """

    def renamed(match: re.Match[str]) -> str:
        table = match["table"] or match["quoted"]
        return f"`{dataset_id}.{table}`" if table else match[0]

    return _LEXEME.sub(renamed, sql)
