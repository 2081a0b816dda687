"""GoogleSQL of anyone's flows in; the parameters that it names, and the same under another dataset, flow out. Pure.

Unlike ``ddl``, which reads our own files and refuses what it does not know, this passes over all that it does not need to know:
BigQuery judges the rest. Lexical structure: https://cloud.google.com/bigquery/docs/reference/standard-sql/lexical
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
    """The names of the query parameters, ``@name``, in lower case: BigQuery does not tell case apart in them."""
    return {match["parameter"].lower() for match in _LEXEME.finditer(sql) if match["parameter"]}


def qualify_anyones(sql: str, dataset_id: str) -> str:
    """``sql`` with each ``ecomflow.<table>``, backticked or not, under ``dataset_id`` (``project.dataset``); comments and strings
    stay as they are.
    """

    def renamed(match: re.Match[str]) -> str:
        table = match["table"] or match["quoted"]
        return f"`{dataset_id}.{table}`" if table else match[0]

    return _LEXEME.sub(renamed, sql)
