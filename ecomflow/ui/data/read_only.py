"""A query from the page's text box in; the same query out if it only reads, otherwise an error.

The page must not change anything, and whatever executes the SQL decides what it does. In a project a dry run of BigQuery reports
the statement type. Locally the emulator's own parser reads the query, and the SQL that it generates from the result is sent, so
that no comment, escape or second statement remains that another parser could interpret differently.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from ecomflow.errors import ConfigError, MissingExtraError
from ecomflow.gcp.target import Target
from ecomflow.warehouse import queries

_REMEDY = "The page only runs queries that read. Run others with: ecomflow query, or in BigQuery's console."
_INSTALL = "Run: pip install 'ecomflow[local]'"
# Like BigQuery's names: https://cloud.google.com/bigquery/docs/tables#table_naming
_NAME = re.compile(r"[\w\- .:$@*+/]*")


def read_only(target: Target, query: queries.Query) -> queries.Query:
    """``query``, safe to send. Raises ConfigError unless it is a single SELECT, and the same errors as ``queries.estimate``."""
    if target.endpoints.bigquery is not None:
        return msgspec.structs.replace(query, sql=rewritten(query.sql))
    kind = queries.estimate(target, query).statement
    if kind != "SELECT":
        raise ConfigError(f"Expected a SELECT statement, got {kind or 'another kind'}.", _REMEDY)
    return query


def rewritten(sql: str) -> str:
    """``sql``, a single GoogleSQL query, as sqlglot generates it. Raises ConfigError for anything else."""
    written = _written(sql)
    # If it does not parse to the same query again, its meaning is ambiguous.
    if _written(written) != written:
        raise ConfigError("The query can't be parsed unambiguously.", "Simplify it, or run it with: ecomflow query")
    return written


def _written(sql: str) -> str:
    with _parser_errors():
        import sqlglot

        logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns about anything that it parses as a command
        statements = [statement for statement in sqlglot.parse(sql, read="bigquery") if statement is not None]
    if not statements:
        raise ConfigError("The query is empty.", "Write one that starts with SELECT or WITH.")
    if len(statements) > 1:
        raise ConfigError(f"Expected one statement, got {len(statements)}.", _REMEDY)
    _check(statements[0])
    with _parser_errors():
        return str(statements[0].sql(dialect="bigquery", comments=False))


@contextmanager
def _parser_errors() -> Iterator[None]:
    """Translate the parser's errors. For some input (``FROM b'x'``) it raises built-in exceptions."""
    try:
        from sqlglot.errors import SqlglotError
    except ImportError as error:
        raise MissingExtraError("The text box for SQL needs sqlglot, which is not installed.", _INSTALL) from error
    try:
        yield
    except RecursionError as error:
        raise ConfigError("The query is nested too deeply.", "Simplify it.") from error
    except (SqlglotError, ValueError, AttributeError, TypeError, LookupError) as error:
        where = f"{error}".partition("\n")[0].partition(". Line")[0]
        raise ConfigError(f"The query can't be parsed: {where}.", "Correct the SQL.") from error


def _check(tree: Any) -> None:
    from sqlglot import exp

    if not isinstance(tree, (exp.Select, exp.SetOperation, exp.Subquery)):
        raise ConfigError(f"Expected SELECT or WITH, got {tree.key.upper()}.", _REMEDY)
    for node in tree.walk():
        if isinstance(node, (exp.DML, exp.DDL, exp.Command, exp.Into)) or (isinstance(node, exp.Query) and node.args.get("into")):
            raise ConfigError(f"The query has a part that writes: {node.key.upper()}.", _REMEDY)
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Func):
            raise ConfigError(f"The query reads from a function: {node.this.sql(dialect='bigquery')[:80]}.", _REMEDY)
        if isinstance(node, exp.NextValueFor) or (isinstance(node, exp.Anonymous) and node.name.lower() == "nextval"):
            raise ConfigError("The query increments a sequence.", _REMEDY)
        if isinstance(node, exp.Identifier) and not _NAME.fullmatch(node.name):
            raise ConfigError(
                f"'{node.name[:80]}' is not a valid name: expected letters, digits, spaces and - . : $ @ * + /.", _REMEDY
            )
