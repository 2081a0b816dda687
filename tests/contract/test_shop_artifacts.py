"""What follows from the shop's contracts, held equal to what is committed: DDL, views, Arrow schemas, JSON Schemas, streams."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ecomflow import sql
from ecomflow.contract.ddl import modelled_schema, table_ddl, table_schema, view_ddl
from ecomflow.contract.json_schema import schema_of, whole_schema
from ecomflow.contract.language import Contract, Table
from ecomflow.contract.loading import shop_contracts
from ecomflow.contract.tables import event_streams, stream_tables, tables_of
from tests.support.contract import SHOP, TYPES, VALID, message, outcome_of

SQL = Path(sql.__file__).parent
RELEASED = Path(__file__).parent / "released"

# The fact tables as specified, written out once more: partition and cluster.
LAYOUT = {
    "fact_order_header": ("order_date", ("shipping_address_country", "status")),
    "fact_order_item": ("order_date", ("product_id",)),
    "fact_order": ("order_date", ("customer_id", "order_id")),
    "fact_inventory": ("event_date", ("product_id", "reason")),
    "fact_user_activity": ("event_date", ("user_id", "session_id")),
}
# The types that the Storage Write API takes for each type of the DDL.
ARROW_TYPES = {
    "STRING": pa.string(),
    "INT64": pa.int64(),
    "NUMERIC": pa.decimal128(38, 9),
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
    "JSON": pa.string(),
}
COLUMN = re.compile(r"  (\w+) +([A-Z0-9]+)( DEFAULT CURRENT_TIMESTAMP\(\))?( NOT NULL)? +OPTIONS")


def named(part: Any) -> Any:
    return part.name if isinstance(part, Table) else part.event


def committed(folder: str, name: str) -> str:
    return (SQL / folder / f"{name}.sql").read_text(encoding="utf-8")


@pytest.mark.parametrize("table", tables_of(SHOP), ids=named)
class TestEachTable:
    def test_the_ddl_is_the_file(self, table: Table) -> None:
        """To the letter; where it differs, run python docs/make_sql.py."""
        assert table_ddl(table) == committed("tables", table.name)

    def test_the_view_is_the_file(self, table: Table) -> None:
        """To the letter."""
        assert view_ddl(table) == committed("views", f"{table.name}_unique")

    def test_rows_and_ddl_have_the_same_columns(self, table: Table) -> None:
        """Names, order, types, and NOT NULL just where the row's column is not nullable."""
        found = [COLUMN.match(line) for line in committed("tables", table.name).splitlines() if " OPTIONS (" in line[1:]]
        expected = [pa.field(one[1], ARROW_TYPES[one[2]], nullable=not one[4]) for one in found if one]
        assert len(expected) == len(found) > 0
        assert list(table_schema(table)) == expected

    def test_partition_and_cluster_are_those_of_the_contract(self, table: Table) -> None:
        """By the event's date, and by what analysts filter on."""
        partition, cluster = LAYOUT[table.name]
        assert f"\n)\nPARTITION BY {partition}\nCLUSTER BY {', '.join(cluster)}\n" in committed("tables", table.name)

    def test_every_table_has_an_event_id_a_date_a_time_and_the_ingestion(self, table: Table) -> None:
        """None of them nullable, event_id first and ingestion_timestamp last."""
        schema = table_schema(table)
        prefix = "order" if "order" in table.name else "event"
        assert (schema.names[0], schema.names[-1]) == ("event_id", "ingestion_timestamp")
        for name in ("event_id", f"{prefix}_date", f"{prefix}_timestamp", "ingestion_timestamp"):
            assert not schema.field(name).nullable

    def test_modelled_rows_lack_only_the_ingestion_time(self, table: Table) -> None:
        """The sink adds the last column."""
        assert list(modelled_schema(table)) == list(table_schema(table))[:-1]


class TestTables:
    def test_no_other_file_is_there(self) -> None:
        """A table that is no more leaves no file behind."""
        assert {path.stem for path in (SQL / "tables").iterdir()} == set(LAYOUT)
        assert {path.stem for path in (SQL / "views").iterdir()} == {f"{name}_unique" for name in LAYOUT}

    def test_each_event_type_is_a_stream_with_tables(self) -> None:
        """In this order, the first table with a row an event."""
        assert event_streams(SHOP) == TYPES
        assert stream_tables(SHOP) == {
            "order": ("fact_order_header", "fact_order_item", "fact_order"),
            "inventory": ("fact_inventory",),
            "user_activity": ("fact_user_activity",),
        }

    def test_unknown_fields_stand_in_the_first_table_alone(self) -> None:
        """One table of each event type keeps them."""
        keeping = [table.name for table in tables_of(SHOP) if "unknown_fields" in [column.name for column in table.columns]]
        assert keeping == ["fact_order_header", "fact_inventory", "fact_user_activity"]

    def test_optional_and_unknown_fields_are_the_only_nullable_columns(self) -> None:
        """customer_name, ip_address, user_agent, and what no column holds."""
        nullable = {field.name for table in tables_of(SHOP) for field in table_schema(table) if field.nullable}
        assert nullable == {"customer_name", "ip_address", "user_agent", "unknown_fields"}


class TestSchemas:
    @pytest.mark.parametrize("contract", SHOP, ids=named)
    def test_the_json_schema_is_that_which_was_released(self, contract: Contract) -> None:
        """But for the example, and a quantity_change of 0, which was refused once."""
        released = json.loads((RELEASED / f"{contract.event}.v1.json").read_text(encoding="utf-8"))
        made = schema_of(contract)
        for one in (released, made):
            one.pop("examples", None)
        if contract.event == "inventory":
            change = released["properties"]["quantity_change"]
            del change["not"]
            change["description"] = "Written without a decimal point."
        assert made == released

    def test_the_whole_schema_holds_each(self) -> None:
        """A message of any type."""
        assert whole_schema(SHOP)["oneOf"] == [schema_of(contract) for contract in SHOP]


class TestContracts:
    def test_the_shop_in_any_choice_and_order(self) -> None:
        """Only those that are asked for."""
        assert [one.event for one in shop_contracts(["inventory", "order"])] == ["inventory", "order"]

    def test_they_travel_with_a_job(self) -> None:
        """A contract is data: it comes back from its pickle as it was, and compiles to the same."""
        back = pickle.loads(pickle.dumps(SHOP))
        assert back == SHOP
        messages = [message(VALID[kind](new=1), kind) for kind in VALID]
        assert outcome_of(messages, contracts=back).rows == outcome_of(messages).rows

    def test_personal_fields(self) -> None:
        """Names, streets, addresses and agents of people."""
        fields = [field for one in SHOP for field in (*one.fields, *(field for record in one.records for field in record.fields))]
        assert [field.name for field in fields if field.personal] == ["customer_name", "street", "ip_address", "user_agent"]
