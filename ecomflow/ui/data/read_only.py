"""A query from the page's text box in; the same query out if it only reads, otherwise an error.

The page must not change anything, and whatever executes the SQL decides what it does. In a project a dry run of BigQuery reports
the statement type. Locally the emulator's own parser reads the query, and the SQL that it generates from the result is sent, so
that no comment, escape or second statement remains that another parser could interpret differently.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ecomflow.errors import ConfigError
from ecomflow.gcp.target import Target
from ecomflow.warehouse import queries
from ecomflow.warehouse.statements import SELECT, is_query, parsed, parser_errors, writes

_REMEDY = "The page only runs queries that read. Run others with: ecomflow query, or in BigQuery's console."
# Like BigQuery's names: https://cloud.google.com/bigquery/docs/tables#table_naming
_NAME = re.compile(r"[\w\- .:$@*+/]*")


def read_only(target: Target, query: queries.Query) -> queries.Query:
    """``query``, safe to send. Raises ConfigError unless it is a single SELECT, and the same errors as ``queries.estimate``."""
    if target.endpoints.bigquery is not None:
        return msgspec.structs.replace(query, sql=rewritten(query.sql))
    kind = queries.estimate(target, query).statement
    if kind != SELECT:
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
    statements = parsed(sql)
    if len(statements) > 1:
        raise ConfigError(f"Expected one statement, got {len(statements)}.", _REMEDY)
    _check(statements[0])
    with parser_errors():
        return str(statements[0].sql(dialect="bigquery", comments=False))


def _check(tree: Any) -> None:
    from sqlglot import exp

    if not is_query(tree):
        raise ConfigError(f"Expected SELECT or WITH, got {tree.key.upper()}.", _REMEDY)
    for node in tree.walk():
        if writes(node):
            raise ConfigError(f"The query has a part that writes: {node.key.upper()}.", _REMEDY)
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Func):
            raise ConfigError(f"The query reads from a function: {node.this.sql(dialect='bigquery')[:80]}.", _REMEDY)
        if isinstance(node, exp.NextValueFor) or (isinstance(node, exp.Anonymous) and node.name.lower() == "nextval"):
            raise ConfigError("The query increments a sequence.", _REMEDY)
        if isinstance(node, exp.Identifier) and not _NAME.fullmatch(node.name):
            raise ConfigError(
                f"'{node.name[:80]}' is not a valid name: expected letters, digits, spaces and - . : $ @ * + /.", _REMEDY
            )
