"""What follows from the shop's contracts, held equal to what is committed: DDL, views, Arrow schemas, JSON Schemas, streams."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from ecomflow import contract, sql
from ecomflow.contract import facts
from ecomflow.contract.ddl import modelled_schema, table_ddl, view_ddl
from ecomflow.contract.json_schema import schema_of, whole_schema
from ecomflow.contract.language import Contract, Table
from ecomflow.contract.loading import shop_contracts
from tests.support.compiled import SHOP, compiled
from tests.support.contract import VALID, message

TABLES = [table for contract in SHOP for table in contract.tables]
SQL = Path(sql.__file__).parent
PUBLISHED = Path(contract.__path__[0])


def named(parts: Any) -> Any:
    return parts.name if isinstance(parts, Table) else parts.event


def as_before(ddl: str) -> str:
    """``ddl`` without the changes that the hand-written files do not have yet: unknown fields are kept, a move of 0 passes."""
    lines = [line for line in ddl.splitlines(keepends=True) if not line.startswith("  unknown_fields ")]
    return "".join(lines).replace("pieces taken out.", "pieces taken out; never 0.")


class TestTables:
    @pytest.mark.parametrize("table", TABLES, ids=named)
    def test_the_ddl_is_the_file(self, table: Table) -> None:
        """To the letter, but for the column of unknown fields and what is said of a quantity_change."""
        assert as_before(table_ddl(table)) == (SQL / "tables" / f"{table.name}.sql").read_text()

    @pytest.mark.parametrize("table", TABLES, ids=named)
    def test_the_view_is_the_file(self, table: Table) -> None:
        """To the letter."""
        assert view_ddl(table) == (SQL / "views" / f"{table.name}_unique.sql").read_text()

    @pytest.mark.parametrize("table", TABLES, ids=named)
    def test_the_rows_are_those_of_facts(self, table: Table) -> None:
        """Names, types, order and nullability."""
        assert [one for one in modelled_schema(table) if one.name != "unknown_fields"] == list(facts.modelled_schema(table.name))

    def test_streams_and_their_tables(self) -> None:
        """The same in the same order."""
        assert {one.event: tuple(table.name for table in one.tables) for one in SHOP} == facts.STREAM_TABLES

    def test_unknown_fields_stand_in_the_first_table_alone(self) -> None:
        """One table of each event type keeps them."""
        keeping = [table.name for table in TABLES if "unknown_fields" in [column.name for column in table.columns]]
        assert keeping == ["fact_order_header", "fact_inventory", "fact_user_activity"]


class TestSchemas:
    @pytest.mark.parametrize("contract", SHOP, ids=named)
    def test_the_json_schema_is_the_file(self, contract: Contract) -> None:
        """But for the example, which no contract holds, and a quantity_change of 0."""
        published = json.loads((PUBLISHED / f"{contract.event}.v1.json").read_text())
        del published["examples"]
        if contract.event == "inventory":
            change = published["properties"]["quantity_change"]
            del change["not"]
            change["description"] = "Written without a decimal point."
        assert schema_of(contract) == published

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
        assert compiled(messages, contracts=back).rows == compiled(messages).rows

    def test_personal_fields(self) -> None:
        """Names, streets, addresses and agents of people."""
        fields = [field for one in SHOP for field in (*one.fields, *(field for record in one.records for field in record.fields))]
        assert [field.name for field in fields if field.personal] == ["customer_name", "street", "ip_address", "user_agent"]
