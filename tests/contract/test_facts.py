"""The Arrow schemas of the rows and the DDL of their tables say the same."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ecomflow.contract.events import EVENT_TYPES
from ecomflow.contract.facts import SCHEMAS, STREAM_TABLES, modelled_schema
from ecomflow.sql import table_definition

# The types that the Storage Write API takes for each type of the DDL.
ARROW_TYPES = {
    "STRING": pa.string(),
    "INT64": pa.int64(),
    "NUMERIC": pa.decimal128(38, 9),
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
}
# The fact tables as specified, written out once more: partition and cluster.
LAYOUT = {
    "fact_order_header": ("order_date", ("shipping_address_country", "status")),
    "fact_order_item": ("order_date", ("product_id",)),
    "fact_order": ("order_date", ("customer_id", "order_id")),
    "fact_inventory": ("event_date", ("product_id", "reason")),
    "fact_user_activity": ("event_date", ("user_id", "session_id")),
}


@pytest.mark.parametrize("table", SCHEMAS)
class TestEachTable:
    def test_rows_and_ddl_have_the_same_columns(self, table: str) -> None:
        """Names, order, types, and NOT NULL just where the row's column is not nullable."""
        columns = table_definition(table).columns
        expected = [pa.field(column.name, ARROW_TYPES[column.type], nullable=not column.required) for column in columns]
        assert list(SCHEMAS[table]) == expected

    def test_partition_and_cluster_are_those_of_the_contract(self, table: str) -> None:
        """By the event's date, and by what analysts filter on."""
        definition = table_definition(table)
        assert (definition.name, definition.partition, definition.clustering) == (table, *LAYOUT[table])

    def test_every_table_has_an_event_id_a_date_a_time_and_the_ingestion(self, table: str) -> None:
        """None of them nullable, event_id first and ingestion_timestamp last."""
        schema = SCHEMAS[table]
        prefix = "order" if "order" in table else "event"
        assert (schema.names[0], schema.names[-1]) == ("event_id", "ingestion_timestamp")
        for name in ("event_id", f"{prefix}_date", f"{prefix}_timestamp", "ingestion_timestamp"):
            assert not schema.field(name).nullable

    def test_modelled_rows_lack_only_the_ingestion_time(self, table: str) -> None:
        """The sink adds the last column."""
        assert list(modelled_schema(table)) == list(SCHEMAS[table])[:-1]


class TestStreams:
    def test_each_event_type_is_a_stream_with_tables(self) -> None:
        """Every table belongs to one stream, and every event type has its stream."""
        assert list(STREAM_TABLES) == list(EVENT_TYPES)
        assert [table for tables in STREAM_TABLES.values() for table in tables] == list(SCHEMAS) == list(LAYOUT)

    def test_optional_fields_are_the_only_nullable_columns(self) -> None:
        """customer_name, ip_address and user_agent."""
        nullable = {field.name for schema in SCHEMAS.values() for field in schema if field.nullable}
        assert nullable == {"customer_name", "ip_address", "user_agent"}
