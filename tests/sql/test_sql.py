"""The SQL files: that they read as the data contract has them, and that names move to another dataset and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecomflow import sql
from ecomflow.errors import NotFoundError
from ecomflow.sql import DdlError, Parameter
from ecomflow.sql.ddl import tokens
from tests.support.contract import FACT_TABLES

FOLDER = Path(sql.__file__).parent

DDL = """CREATE TABLE IF NOT EXISTS ecomflow.t (
  id STRING NOT NULL OPTIONS (description = "The id, e.g. 'a'."), -- ecomflow.t
  day DATE NOT NULL OPTIONS (description = 'ecomflow.t of the day'),
  at TIMESTAMP DEFAULT CURRENT_TIMESTAMP() OPTIONS (description = "")
)
PARTITION BY day CLUSTER BY id, at OPTIONS (description = "One.");
"""


class TestTables:
    """The five CREATE TABLE files."""

    @pytest.mark.parametrize(
        ("table", "partition", "clustering"),
        [
            ("fact_order_header", "order_date", ("shipping_address_country", "status")),
            ("fact_order_item", "order_date", ("product_id",)),
            ("fact_order", "order_date", ("customer_id", "order_id")),
            ("fact_inventory", "event_date", ("product_id", "reason")),
            ("fact_user_activity", "event_date", ("user_id", "session_id")),
        ],
    )
    def test_partition_and_clustering(self, table: str, partition: str, clustering: tuple[str, ...]) -> None:
        """Each table is partitioned by its event's date and clustered as the data contract says."""
        definition = sql.definition_of(FACT_TABLES[table])
        assert (definition.name, definition.partition, definition.clustering) == (table, partition, clustering)

    def test_columns_every_table_has(self) -> None:
        """Every table has a required event_id first, a DATE and a TIMESTAMP of the event, and ingestion_timestamp last."""
        for table in FACT_TABLES:
            columns = {column.name: column for column in sql.definition_of(FACT_TABLES[table]).columns}
            of_event = "order" if table.startswith("fact_order") else "event"
            assert next(iter(columns)) == "event_id"
            assert list(columns)[-1] == "ingestion_timestamp"
            for name, column_type in (
                ("event_id", "STRING"),
                (f"{of_event}_date", "DATE"),
                (f"{of_event}_timestamp", "TIMESTAMP"),
                ("ingestion_timestamp", "TIMESTAMP"),
            ):
                assert (columns[name].type, columns[name].required) == (column_type, True)

    def test_nullable_columns(self) -> None:
        """Only what the contract calls optional may be null, and what holds the unknown fields."""
        nullable = {
            (table, column.name)
            for table in FACT_TABLES
            for column in sql.definition_of(FACT_TABLES[table]).columns
            if not column.required
        }
        assert nullable == {
            ("fact_order_header", "customer_name"),
            ("fact_order_header", "unknown_fields"),
            ("fact_inventory", "unknown_fields"),
            ("fact_user_activity", "unknown_fields"),
            ("fact_order", "customer_name"),
            ("fact_user_activity", "ip_address"),
            ("fact_user_activity", "user_agent"),
        }

    def test_every_column_is_described(self) -> None:
        """Every column and every table says what it holds."""
        for table in FACT_TABLES:
            definition = sql.definition_of(FACT_TABLES[table])
            assert all(column.description for column in definition.columns)
            assert definition.description

    def test_files_and_names_agree(self) -> None:
        """Every SQL file is one that the loader names, and the other way round."""
        assert {path.stem for path in (FOLDER / "tables").iterdir()} == set(FACT_TABLES)
        assert {path.stem for path in (FOLDER / "views").iterdir()} == {f"{table}_unique" for table in FACT_TABLES}
        assert {path.stem for path in (FOLDER / "queries").iterdir()} == set(sql.QUESTIONS)

    @pytest.mark.parametrize("table", FACT_TABLES)
    def test_view_tells_a_repeat_by_its_key(self, table: str) -> None:
        """A view partitions its window by the table's date, event_id and, where an event has several rows, line_number: of the
        latest delivery only.
        """
        definition = sql.definition_of(FACT_TABLES[table])
        event = f"{definition.partition}, event_id"
        view = sql.view_ddl(FACT_TABLES[table], "p-1.d")
        if any(column.name == "line_number" for column in definition.columns):
            assert f"ingestion_timestamp = MAX(ingestion_timestamp) OVER (PARTITION BY {event})" in view
            event += ", line_number"
        assert f"OVER (PARTITION BY {event} ORDER BY ingestion_timestamp DESC) = 1" in view


class TestQualify:
    """The default dataset gives way to another."""

    def test_only_identifiers(self) -> None:
        """A table's name is put in backticks with its project; comments and strings stay."""
        assert sql.qualify(DDL, "my-project.shop") == DDL.replace("EXISTS ecomflow.t", "EXISTS `my-project.shop.t`")

    def test_not_inside_a_longer_path(self) -> None:
        """A column or dataset of the same name within a longer path is no table of ours."""
        assert (
            sql.qualify("SELECT x.ecomflow.y, ecomflow FROM ecomflow.t", "p-1.d")
            == "SELECT x.ecomflow.y, ecomflow FROM `p-1.d.t`"
        )

    @pytest.mark.parametrize("dataset_id", ["d", "p`.d", "p.d; DROP TABLE x", "", "p.d.", "P.d"])
    def test_refuses_what_is_no_dataset(self, dataset_id: str) -> None:
        """A name that could break out of its backticks is refused."""
        with pytest.raises(DdlError, match=r"is not a valid dataset id: expected project\.dataset"):
            sql.qualify(DDL, dataset_id)

    @pytest.mark.parametrize("path", sorted(FOLDER.glob("*/*.sql")), ids=lambda path: path.stem)
    def test_every_file_is_read_whole(self, path: Path) -> None:
        """Every SQL file consists of known pieces, and no name is left in the default dataset."""
        text = path.read_text(encoding="utf-8")
        assert "".join(token.text for token in tokens(text)) == text
        code = "".join(
            token.text
            for token in tokens(sql.qualify(text.replace("`", ""), "p-1.d").replace("`", ""))
            if token.kind != "comment"
        )
        assert "ecomflow." not in code


class TestQuestions:
    """The analysts' questions."""

    def test_six(self) -> None:
        """There are the six questions of the data contract, each saying what it counts."""
        assert [question.name for question in sql.questions()] == list(sql.QUESTIONS)
        assert len(sql.QUESTIONS) == 6
        assert all(question.asks.endswith("?") and question.counts for question in sql.questions())

    def test_parameter(self) -> None:
        """A parameter has its type and default from the header."""
        (parameter,) = sql.question("delivered-orders-per-country").parameters
        assert parameter == Parameter("date", "DATE", "today", "order_date of the delivered event, UTC")

    def test_header_tells_the_layout_of_its_tables(self) -> None:
        """The partitioning and clustering that a header names are those of the table's DDL."""
        for question in sql.questions():
            read = [table for table in FACT_TABLES if f"{table} (" in question.reads]
            assert read
            for table in read:
                definition = sql.definition_of(FACT_TABLES[table])
                told = question.reads.split(f"{table} (")[1].split(")")[0]
                assert told.startswith(f"partition {definition.partition}: ")
                assert told.endswith(f"; cluster {', '.join(definition.clustering)}")
                assert f"ecomflow.{table}_unique" in question.sql

    def test_unknown_name_lists_the_others(self) -> None:
        """An unknown question is an error that lists the names there are."""
        with pytest.raises(NotFoundError, match="There is no question 'sales'") as caught:
            sql.question("sales")
        assert caught.value.remedy == f"Choose one of: {', '.join(sql.QUESTIONS)}."

    @pytest.mark.parametrize(
        ("header", "error"),
        [
            ("-- Question: a?\n-- Counts: b\n", "expected one Question, one Counts and one Reads line"),
            ("-- Question: a?\n-- Counts: b\n-- Reads: c\n-- Note: d\n", "in the header, found '-- Note: d'"),
            ("-- Question: a?\n-- Counts: b\n-- Reads: c\n-- Parameter: n INT64\n", "found 'n INT64'"),
            (
                "-- Question: a?\n-- Counts: b\n-- Reads: c\n-- Parameter: n INT64 = 3 (d)\n",
                r"names the parameters \['n'\], the query uses \[\]",
            ),
        ],
    )
    def test_header_is_checked(self, header: str, error: str) -> None:
        """A header of another shape, or parameters that are not those of the query, are refused."""
        with pytest.raises(DdlError, match=error):
            sql.parse_question("x", f"{header}SELECT 1;")
