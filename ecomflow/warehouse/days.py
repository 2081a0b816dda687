"""A question about one day that has no rows in; the days of which its table has rows out."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import date

import msgspec

from ecomflow.errors import EcomflowError
from ecomflow.gcp.target import Target
from ecomflow.sql import qualify, question
from ecomflow.warehouse.queries import Query, send, taken

# In a project, more is not scanned for a hint.
_MOST_BYTES = 1_000_000_000
_TABLE = re.compile(r"\bFROM ecomflow\.(\w+?)(?:_unique)?\b")
_DAY = re.compile(r"\b(\w+) = @(date)\b")


class Days(msgspec.Struct, frozen=True):
    """The days of which ``table`` has rows, by the column of the question: the first, the last, and the ``fullest``. None: the
    table is empty.
    """

    table: str
    first: date | None
    last: date | None
    fullest: date | None


def days_with_rows(target: Target, name: str, max_bytes: int | None = None) -> Days | None:
    """The days for the question ``name``; None if it asks for no day, or if they can't be read within ``max_bytes``."""
    sql = question(name).sql
    table, column = _TABLE.search(sql), _DAY.search(sql)
    if table is None or column is None:
        return None
    select = f"SELECT {column[1]}, COUNT(*) FROM ecomflow.{table[1]} GROUP BY 1 ORDER BY 1"  # noqa: S608  # the package's own names
    with suppress(EcomflowError):
        query = Query("", qualify(select, target.settings.dataset_id), ())
        counts = dict(taken(send(target, query, min(max_bytes or _MOST_BYTES, _MOST_BYTES))).rows)
        if not counts:
            return Days(table[1], None, None, None)
        return Days(table[1], min(counts), max(counts), max(counts, key=counts.__getitem__))
    return None
