"""Reads what the view of the tables shows: counts, newest rows, rows per minute, partitions.

The local warehouse is queried, which is free. In a project the counts come from the tables' metadata, which is free too; the rest
is queries over the partitions of the last two days, and ``scanned`` returns their bytes beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from ecomflow.config import Settings
from ecomflow.errors import ConfigError, EcomflowError, NotFoundError
from ecomflow.gcp.target import Target
from ecomflow.infra.resources import fact_tables
from ecomflow.sql import definition_of
from ecomflow.warehouse import queries

NEWEST_ROWS = 10
MOST_PARTITIONS = 31
MINUTES = 60
_METADATA_SECONDS = 10.0


class TableCount(msgspec.Struct, frozen=True):
    """The rows of a table, including those in BigQuery's streaming buffer; ``newest``: when the last one was appended, or, in a
    project, when BigQuery last recorded a change.
    """

    table: str
    rows: int
    newest: datetime | None


class TableDetail(msgspec.Struct, frozen=True):
    """``rows``: the newest ones under ``columns``. ``minutes``: rows appended in each of the last ``MINUTES``. ``partitions``:
    (day, rows), newest first, at most ``MOST_PARTITIONS``; an error if the warehouse can't list them.
    """

    table: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    minutes: tuple[tuple[datetime, int], ...]
    partitions: tuple[tuple[str, int], ...] | EcomflowError


def read_counts(target: Target) -> tuple[TableCount, ...]:
    """The count of every fact table. Raises the same errors as ``queries.send``."""
    if not target.settings.is_local:
        return _from_metadata(target)
    selects = [
        f"SELECT '{table}' AS place, COUNT(*) AS amount, MAX(ingestion_timestamp) AS newest FROM ecomflow.{table}"  # noqa: S608  # fixed names
        for table in fact_tables(target.settings)
    ]
    found = {row[0]: row for row in queries.ask(target, " UNION ALL ".join(selects), {}).rows}
    return tuple(TableCount(table, int(found[table][1]), found[table][2]) for table in fact_tables(target.settings))


def read_detail(target: Target, table: str) -> TableDetail:
    """The details of the fact table ``table``. Raises the same errors as ``queries.send``."""
    now = datetime.now(UTC)
    newest, minutes = (queries.taken(queries.send(target, query)) for query in _row_queries(target.settings, table, now))
    return TableDetail(
        table,
        newest.columns,
        newest.rows,
        _filled([(row[0], int(row[1])) for row in minutes.rows], now),
        _read_partitions(target, table),
    )


def scanned(target: Target, table: str) -> int:
    """The bytes that ``read_detail`` would scan for the rows, by dry runs, which are free. Listing the partitions costs at least
    10 MB more: https://cloud.google.com/bigquery/docs/information-schema-intro#pricing
    """
    row_queries = _row_queries(target.settings, table, datetime.now(UTC))
    return sum(queries.scanned_bytes(target, query) for query in row_queries)


def _from_metadata(target: Target) -> tuple[TableCount, ...]:
    from ecomflow.gcp.errors import google_errors

    counts = []
    for table in fact_tables(target.settings):
        with google_errors(target.bigquery_service, f"table {table}"):
            found = target.bigquery.get_table(f"{target.settings.dataset_id}.{table}", timeout=_METADATA_SECONDS)
        buffered = found.streaming_buffer.estimated_rows if found.streaming_buffer else 0
        counts.append(TableCount(table, (found.num_rows or 0) + (buffered or 0), found.modified))
    return tuple(counts)


def _row_queries(settings: Settings, table: str, now: datetime) -> tuple[queries.Query, queries.Query]:
    """Queries of the newest rows and of the rows per minute; in a project only over the last two days."""
    day = definition_of(fact_tables(settings)[table]).partition
    recent = "TRUE" if settings.is_local else f"{day} >= DATE_SUB(CURRENT_DATE(), INTERVAL 1 DAY)"
    newest = f"SELECT * FROM ecomflow.{table} WHERE {recent} ORDER BY ingestion_timestamp DESC LIMIT {NEWEST_ROWS}"  # noqa: S608
    minutes = (
        "SELECT TIMESTAMP_TRUNC(ingestion_timestamp, MINUTE) AS minute, COUNT(*) AS amount "  # noqa: S608
        f"FROM ecomflow.{table} WHERE {recent} AND ingestion_timestamp >= @since GROUP BY minute ORDER BY minute"
    )
    since = {"since:TIMESTAMP": (now - timedelta(minutes=MINUTES)).isoformat()}
    return queries.prepare(settings, newest, {}), queries.prepare(settings, minutes, since)


def _read_partitions(target: Target, table: str) -> tuple[tuple[str, int], ...] | EcomflowError:
    """From the rows themselves, or, in a project, from BigQuery's metadata."""
    if target.settings.is_local:
        day = definition_of(fact_tables(target.settings)[table]).partition
        what, where = f"{day} AS day, COUNT(*) AS amount", f"ecomflow.{table} GROUP BY day"
    else:
        what = "partition_id AS day, total_rows AS amount"
        where = f"`{target.settings.dataset_id}.INFORMATION_SCHEMA.PARTITIONS` WHERE table_name = '{table}'"
    sql = f"SELECT {what} FROM {where} ORDER BY day DESC LIMIT {MOST_PARTITIONS}"  # noqa: S608
    try:
        found = queries.ask(target, sql, {})
    except (ConfigError, NotFoundError) as error:
        return error
    return tuple((str(day), int(amount)) for day, amount in found.rows)


def _filled(found: Sequence[tuple[datetime, int]], now: datetime) -> tuple[tuple[datetime, int], ...]:
    """Every minute up to ``now``, including those without rows."""
    counts = {moment.astimezone(UTC).replace(tzinfo=UTC): amount for moment, amount in found}
    last = now.replace(second=0, microsecond=0)
    moments = [last - timedelta(minutes=back) for back in range(MINUTES - 1, -1, -1)]
    return tuple((moment, counts.get(moment, 0)) for moment in moments)
