"""A contract in; the DDL of its tables and of their views, and the Arrow schemas of their rows, out. Pure: nothing is run.

Each statement runs as it is in BigQuery with a dataset named ``ecomflow``; ``ecomflow.sql.qualify`` writes another. Of the shop's
the files under ``ecomflow/sql`` are committed, and a test compares them.
"""

from __future__ import annotations

import pyarrow as pa

from ecomflow.contract.buffers import NUMERIC
from ecomflow.contract.language import Column, Table
from ecomflow.contract.tables import partition_of

TIMESTAMP = pa.timestamp("us", "UTC")
# What the Storage Write API takes for each type: https://cloud.google.com/bigquery/docs/supported-data-types
ARROW_TYPES = {
    "STRING": pa.string(),
    "INT64": pa.int64(),
    "NUMERIC": NUMERIC,
    "BOOL": pa.bool_(),
    "FLOAT64": pa.float64(),
    "DATE": pa.date32(),
    "TIMESTAMP": TIMESTAMP,
    "JSON": pa.string(),
}

# The last column of every table, which the sink adds.
INGESTION = pa.field("ingestion_timestamp", TIMESTAMP, nullable=False)

_VIEW = """\
-- Shows each event's rows once, as last written. Pub/Sub delivers at least once, and a crash between writing and acknowledging
-- writes rows again. The rows of one delivery have one ingestion_timestamp in every table of the event type: the latest delivery
-- is shown, whole, also where an event came again with other content. PARTITION BY includes {date}, although event_id
-- alone identifies the event: a filter on {date} in a query on this view can then be pushed below the window, so that
-- BigQuery reads only the requested partitions.
CREATE OR REPLACE VIEW ecomflow.{table}_unique
OPTIONS (description = "{description}, each once when a message was delivered twice.")
AS
SELECT *
FROM ecomflow.{table}
WHERE TRUE
{qualify};
"""


def table_schema(table: Table) -> pa.Schema:
    """The rows of ``table`` as Arrow: its columns in the DDL's order; ``ingestion_timestamp``, the last, is the sink's to add."""
    return pa.schema([pa.field(column.name, ARROW_TYPES[column.type], nullable=not column.required) for column in table.columns])


def modelled_schema(table: Table) -> pa.Schema:
    """The same without ``ingestion_timestamp``."""
    schema = table_schema(table)
    return schema.remove(len(schema) - 1)


def table_ddl(table: Table) -> str:
    """The CREATE TABLE IF NOT EXISTS of ``table``, partitioned by the event's UTC date."""
    names = max(len(column.name) for column in table.columns)
    types = max(len(_typed(column)) for column in table.columns if column.source != "ingestion")
    columns = ",\n".join(_column(column, names, types) for column in table.columns)
    cluster = f"CLUSTER BY {', '.join(table.cluster)}\n" if table.cluster else ""
    return (
        f"CREATE TABLE IF NOT EXISTS ecomflow.{table.name} (\n{columns}\n)\n"
        f'PARTITION BY {partition_of(table)}\n{cluster}OPTIONS (description = "{table.description}");\n'
    )


def view_ddl(table: Table) -> str:
    """The CREATE OR REPLACE VIEW ``<table>_unique``, which shows the rows of each event once."""
    date = partition_of(table)
    qualify = f"QUALIFY ROW_NUMBER() OVER (PARTITION BY {date}, event_id ORDER BY ingestion_timestamp DESC) = 1"
    if table.each:
        qualify = (
            f"QUALIFY ingestion_timestamp = MAX(ingestion_timestamp) OVER (PARTITION BY {date}, event_id)\n"
            f"  AND ROW_NUMBER() OVER (PARTITION BY {date}, event_id, line_number ORDER BY ingestion_timestamp DESC) = 1"
        )
    return _VIEW.format(date=date, table=table.name, description=table.description.removesuffix("."), qualify=qualify)


def _typed(column: Column) -> str:
    default = " DEFAULT CURRENT_TIMESTAMP()" if column.source == "ingestion" else ""
    return f"{column.type}{default}{' NOT NULL' if column.required else ''}"


def _column(column: Column, names: int, types: int) -> str:
    return f'  {column.name:{names}} {_typed(column):{types}} OPTIONS (description = "{column.description}")'
