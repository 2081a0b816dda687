"""The events that came with more than one content under the same id: tables in, ids out.

A redelivery writes the same rows again. Where the rows differ, a producer used an id twice, or a dead letter was replayed with a
correction after BigQuery had refused the event in one of its tables. The ``_unique`` views show the last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date

from ecomflow.config import contracts_of
from ecomflow.contract.language import Contract, Table
from ecomflow.contract.tables import joined_tables, partition_of, tables_of, versions_of
from ecomflow.gcp.target import Target
from ecomflow.warehouse.queries import select

# A request to BigQuery can have 10 MB (https://cloud.google.com/bigquery/quotas#query_jobs), and an id takes about 50 bytes. Each
# query has as many as fit, because event_id is not the partition column: every query reads the whole column anyway.
_IDS_PER_QUERY = 50_000


def differing_ids(target: Target) -> tuple[str, ...]:
    """The ids, in their order, of events whose deliveries wrote different rows into a table.

    Reads the ids and times of the first table of each event type; and the rows of only those dates on which an event was written
    more than once.
    """
    contracts = contracts_of(target.settings)
    days = {event_id: (first, last) for event_id, first, last in select(target, repeated_sql(contracts))}
    found: set[str] = set()
    for ids in parts(sorted(days)):
        first, last = min(days[event_id][0] for event_id in ids), max(days[event_id][1] for event_id in ids)
        sql = differing_sql(tables_of(contracts), first, last)
        found |= {event_id for (event_id,) in select(target, sql, ids=ids)}
    return tuple(sorted(found))


def repeated_sql(contracts: Iterable[Contract]) -> str:
    """The id, the first date and the last of each event that was written more than once."""
    firsts = [joined_tables(versions)[0] for versions in versions_of(contracts).values()]
    written = " UNION ALL ".join(
        f"SELECT event_id, {partition_of(table)} AS day, ingestion_timestamp FROM ecomflow.{table.name}"  # noqa: S608  # names from the contracts
        for table in firsts
    )
    return (
        f"SELECT event_id, MIN(day), MAX(day) FROM ({written}) GROUP BY event_id "  # noqa: S608  # names from the contracts
        "HAVING COUNT(DISTINCT ingestion_timestamp) > 1"
    )


def differing_sql(tables: Sequence[Table], first: date, last: date) -> str:
    """Of the events ``@ids`` from ``first`` to ``last``: those of which two deliveries wrote different rows into a table."""
    rows = " UNION ALL ".join(
        f"{_rows_sql(place, table)} AND {partition_of(table)} BETWEEN DATE '{first}' AND DATE '{last}'"
        for place, table in enumerate(tables)
    )
    contents = (
        "SELECT place, event_id, ingestion_timestamp, STRING_AGG(content, ' ' ORDER BY content) AS contents "  # noqa: S608  # names from the contracts
        f"FROM ({rows}) GROUP BY place, event_id, ingestion_timestamp"
    )
    return (
        f"SELECT DISTINCT event_id FROM ({contents}) GROUP BY place, event_id "  # noqa: S608  # names from the contracts
        "HAVING COUNT(DISTINCT contents) > 1"
    )


def _rows_sql(place: int, table: Table) -> str:
    """Each row once that a delivery wrote into ``table``, as text."""
    columns = ", ".join(column.name for column in table.columns if column.source != "ingestion")
    return (
        f"SELECT DISTINCT {place} AS place, event_id, ingestion_timestamp, TO_JSON_STRING(STRUCT({columns})) AS content "  # noqa: S608  # names from the contracts
        f"FROM ecomflow.{table.name} WHERE event_id IN UNNEST(@ids)"
    )


def parts(ids: list[str]) -> Iterator[list[str]]:
    """``ids`` in lists that fit a query each."""
    for start in range(0, len(ids), _IDS_PER_QUERY):
        yield ids[start : start + _IDS_PER_QUERY]
