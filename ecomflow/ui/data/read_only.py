"""A query of the page's box in; the same out, in a form that only reads, else an error.

The page may look, not change, and who decides what a text does is who runs it. In a project BigQuery says by a dry run what kind
of statement it is. Here the emulator's own parser reads it, and what it has read is sent, written anew: a comment, an escape or a
second statement that another reader would see otherwise is no longer there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from ecomflow.config import Endpoints, Settings
from ecomflow.errors import ConfigError, MissingExtraError
from ecomflow.warehouse import queries

_REMEDY = "Here a query can only read. Run others with: ecomflow query, or in BigQuery's console."
_INSTALL = "Run: pip install 'ecomflow[local]'"
# As BigQuery's own names: https://cloud.google.com/bigquery/docs/tables#table_naming
_NAME = re.compile(r"[\w\- .:$@*+/]*")


def read_only(settings: Settings, endpoints: Endpoints, query: queries.Query) -> queries.Query:
    """``query`` as it may be sent. Raises ConfigError where it is anything but one SELECT, and as ``answers.estimate`` does."""
    if endpoints.bigquery is not None:
        return msgspec.structs.replace(query, sql=rewritten(query.sql))
    kind = queries.estimate(settings, endpoints, query).statement
    if kind != "SELECT":
        raise ConfigError(f"Expected a SELECT statement, got {kind or 'another'}.", _REMEDY)
    return query


def rewritten(sql: str) -> str:
    """``sql``, one query of GoogleSQL, as sqlglot writes it. Raises ConfigError for anything else."""
    written = _written(sql)
    # Where it does not read as it was read, nobody can say what it does.
    if _written(written) != written:
        raise ConfigError(
            "The query can't be read in one way alone.", "Write it in simpler terms, or run it with: ecomflow query"
        )
    return written


def _written(sql: str) -> str:
    with _told():
        import sqlglot

        logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns of what it takes for a command
        statements = [statement for statement in sqlglot.parse(sql, read="bigquery") if statement is not None]
    if not statements:
        raise ConfigError("There is no query.", "Write one that begins with SELECT or WITH.")
    if len(statements) > 1:
        raise ConfigError(f"Expected one statement, got {len(statements)}.", _REMEDY)
    _check(statements[0])
    with _told():
        return str(statements[0].sql(dialect="bigquery", comments=False))


@contextmanager
def _told() -> Iterator[None]:
    """What the parser raises, as a sentence. It stumbles over some texts (``FROM b'x'``) with errors of Python's own."""
    try:
        from sqlglot.errors import SqlglotError
    except ImportError as error:
        raise MissingExtraError("Queries of one's own need sqlglot here, which is not installed.", _INSTALL) from error
    try:
        yield
    except RecursionError as error:
        raise ConfigError("The query is nested too deeply.", "Write it in simpler terms.") from error
    except (SqlglotError, ValueError, AttributeError, TypeError, LookupError) as error:
        where = f"{error}".partition("\n")[0].partition(". Line")[0]
        raise ConfigError(f"The query can't be read: {where}.", "Correct the SQL.") from error


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
            raise ConfigError("The query takes a number from a sequence.", _REMEDY)
        if isinstance(node, exp.Identifier) and not _NAME.fullmatch(node.name):
            raise ConfigError(f"'{node.name[:80]}' is no name: expected letters, digits, spaces and - . : $ @ * + /.", _REMEDY)
