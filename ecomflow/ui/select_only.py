"""GoogleSQL of the page's box in; nothing out where it only reads, else an error. Pure.

The page may look, not change. So a statement must be one SELECT, with or without WITH, and must hold no word that begins a
statement that writes; a column of such a name stands between backticks. Lexical structure:
https://cloud.google.com/bigquery/docs/reference/standard-sql/lexical
"""

from __future__ import annotations

import re

from ecomflow.errors import ConfigError

_PASSED_OVER = re.compile(
    r"""(?:--|\#)[^\n]*|/\*.*?\*/
    |\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`""",
    re.VERBOSE | re.DOTALL,
)
_WORD = re.compile(r"[A-Za-z_]\w*|\|>|;|\(")
_BEGINS = ("SELECT", "WITH", "(")
_WRITES = frozenset(
    (
        *(
            "ALTER",
            "ASSERT",
            "BEGIN",
            "CALL",
            "CREATE",
            "DECLARE",
            "DELETE",
            "DROP",
            "EXECUTE",
            "EXPORT",
            "GRANT",
            "INSERT",
            "INTO",
        ),
        *("LOAD", "MERGE", "RENAME", "REVOKE", "TRUNCATE", "UNDROP", "UPDATE"),
        # The local warehouse's own.
        *("ATTACH", "COPY", "DETACH", "INSTALL", "PRAGMA", "VACUUM"),
    )
)
_REMEDY = "Here a query can only read. Run others with: ecomflow query, or in BigQuery's console."


def check_reads_only(sql: str) -> None:
    """Raise ConfigError where ``sql`` is anything but one SELECT."""
    words = [word.upper() for word in _WORD.findall(_PASSED_OVER.sub(" '' ", sql))]
    while words and words[-1] == ";":
        words.pop()
    if not words:
        raise ConfigError("There is no query.", "Write one that begins with SELECT or WITH.")
    if words[0] not in _BEGINS:
        raise ConfigError(f"The query begins with {words[0]}: expected SELECT or WITH.", _REMEDY)
    if ";" in words:
        raise ConfigError("Expected one statement, got several.", _REMEDY)
    if written := next((word for word in words if word in _WRITES or word == "|>"), None):
        raise ConfigError(
            f"The query has the word {written}, which begins what writes.", f"{_REMEDY} A column: `{written.lower()}`."
        )
