"""A GoogleSQL text in; what kind of statement it is, and so whether it only reads, out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ecomflow.errors import ConfigError, MissingExtraError, install_extra
from ecomflow.gcp.target import Target
from ecomflow.warehouse.queries import Estimate, Query, estimate

# The kind that changes nothing.
SELECT = "SELECT"
# What BigQuery calls several statements.
SCRIPT = "SCRIPT"


def local_kind(sql: str) -> str:
    """The kind of statement, as BigQuery's dry run would name it: SELECT, DELETE, CREATE, SCRIPT, …

    Raises ConfigError if the parser of the local BigQuery can't read ``sql``.
    """
    trees = parsed(sql)
    if len(trees) > 1:
        return SCRIPT
    tree = trees[0]
    if is_query(tree):
        return next((node.key.upper() for node in tree.walk() if writes(node)), SELECT)
    return str(tree.name if tree.key == "command" else tree.key).upper()


def examined(target: Target, query: Query) -> Estimate:
    """What a dry run says of ``query``. Raises the same errors as ``queries.estimate``.

    An emulator gets a SELECT alone: the dry run of bqemulator runs whatever it can't classify, such as several statements.
    """
    if target.endpoints.bigquery is None:
        return estimate(target, query)
    kind = local_kind(query.sql)
    return Estimate(estimate(target, query).scanned_bytes if kind == SELECT else 0, kind)


def is_query(tree: Any) -> bool:
    from sqlglot import exp

    return isinstance(tree, (exp.Select, exp.SetOperation, exp.Subquery))


def writes(node: Any) -> bool:
    """Whether a part of a statement changes something."""
    from sqlglot import exp

    return isinstance(node, (exp.DML, exp.DDL, exp.Command, exp.Into)) or (
        isinstance(node, exp.Query) and bool(node.args.get("into"))
    )


def parsed(sql: str) -> list[Any]:
    """The statements in ``sql``, at least one, as sqlglot's trees. Raises ConfigError if it can't be read or is empty."""
    with parser_errors():
        import sqlglot

        logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns about anything that it parses as a command
        statements = [statement for statement in sqlglot.parse(sql, read="bigquery") if statement is not None]
    if not statements:
        raise ConfigError("The query is empty.", "Write one that starts with SELECT or WITH.")
    return statements


@contextmanager
def parser_errors() -> Iterator[None]:
    """Translate the parser's errors. For some input (``FROM b'x'``) it raises built-in exceptions."""
    try:
        from sqlglot.errors import SqlglotError
    except ImportError as error:
        sentence = "The local BigQuery's SQL is read with sqlglot, which is not installed."
        raise MissingExtraError(sentence, install_extra("local")) from error
    try:
        yield
    except RecursionError as error:
        raise ConfigError("The query is nested too deeply.", "Simplify it.") from error
    except (SqlglotError, ValueError, AttributeError, TypeError, LookupError) as error:
        where = f"{error}".partition("\n")[0].partition(". Line")[0]
        raise ConfigError(f"The query can't be parsed: {where}.", "Correct the SQL.") from error
