# ruff: noqa: E501  # sentences stand on a line
"""The tables of several contracts together: versions of one event joined, and versions that can't be."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from ecomflow.contract.ddl import table_ddl, table_schema
from ecomflow.contract.language import Table
from ecomflow.contract.loading import contracts_in_force, load_text, mistakes_between
from ecomflow.contract.tables import event_streams, stream_tables, tables_of, versions_of
from ecomflow.errors import ConfigError
from tests.support.compiled import SHOP
from tests.support.two_versions import V1, V2, first, second


def columns(table: Table) -> dict[str, bool]:
    """The names of the columns in their order, and whether each is required."""
    return {column.name: column.required for column in table.columns}


class TestJoined:
    def test_columns_are_those_of_all_versions(self) -> None:
        """The lowest version's come first, then what others add; what one lacks or may leave null is nullable."""
        header, line = tables_of([second(), first()])
        assert columns(header) == {
            "event_id": True,
            "event_date": True,
            "event_timestamp": True,
            "id": True,
            "amount": False,
            "note": False,
            "unknown_fields": False,
            "currency": False,
            "ingestion_timestamp": True,
        }
        assert (header.name, line) == ("fact_refund", second().tables[1])

    def test_the_ddl_and_the_schema_are_of_the_joined_table(self) -> None:
        """Both take it as any other table."""
        header = tables_of([first(), second()])[0]
        assert re.search(r"^  currency +STRING +OPTIONS", table_ddl(header), re.MULTILINE)
        schema = table_schema(header)
        assert schema.names == list(columns(header))
        assert schema.field("currency") == pa.field("currency", pa.string())
        assert schema.field("id") == pa.field("id", pa.string(), nullable=False)

    def test_the_shops_are_its_own(self) -> None:
        """Contracts with one version are as they are, in their order."""
        assert tables_of(SHOP) == tuple(table for contract in SHOP for table in contract.tables)
        assert event_streams(SHOP) == ("order", "inventory", "user_activity")
        assert stream_tables(SHOP)["order"] == ("fact_order_header", "fact_order_item", "fact_order")

    def test_events_stand_once(self) -> None:
        """However many versions they have, and wherever these stand."""
        contracts = [second(), *SHOP, first()]
        assert event_streams(contracts) == ("refund", "order", "inventory", "user_activity")
        assert stream_tables(contracts)["refund"] == ("fact_refund", "fact_refund_line")
        assert [one.version for one in versions_of(contracts)["refund"]] == [1, 2]

    def test_names_need_no_arrow(self) -> None:
        """Commands that only list tables start without it."""
        program = "import sys; import ecomflow.contract.tables, ecomflow.contract.loading; print('pyarrow' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout == "False\n"


class TestWhatCantStandTogether:
    def test_nothing_is_wrong_with_these(self) -> None:
        """A column more, one less, one that becomes required, a table more, a field more that is required."""
        assert mistakes_between([first(), second()]) == []

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            (
                ('note = "string"', 'note = "integer"'),
                "tables.fact_refund.note: expected STRING, as in refund.toml, found INT64; give the column a name of its own",
            ),
            (
                ('cluster = ["id"]', 'cluster = ["id", "note"]'),
                "tables.fact_refund.cluster: expected id, as in refund.toml, found id, note; use the same ones, or give the table a name of its own",
            ),
            (
                ('name = "fact_refund"', 'name = "fact_refunds"\n[[tables]]\nname = "fact_refund"\neach = "lines"'),
                "tables.fact_refund.each: expected a row for each event, as in refund.toml, found lines; give the table a name of its own",
            ),
            (
                ('time = "at"', 'time = "at"\ntime_prefix = "refund"'),
                "time_prefix: expected 'event', as in refund.toml, found 'refund'; use the same one",
            ),
            (
                ('name = "fact_refund"', 'name = "Fact_Refund"'),
                "tables.Fact_Refund: expected fact_refund, as in refund.toml, found Fact_Refund; spell it the same, or give the table a name of its own",
            ),
            (
                ('note = "string"', 'Note = "string"'),
                "tables.fact_refund: expected note, as in refund.toml, found Note; BigQuery ignores case: spell it the same",
            ),
        ],
    )
    def test_each_difference_is_a_sentence(self, changes: tuple[str, str], sentence: str) -> None:
        """What is expected, which file says so, and what to do."""
        assert mistakes_between([first(), second(changes)])[0] == f"refund.v2.toml: {sentence}"

    def test_each_is_told_once(self) -> None:
        """A third version that differs from both others says it of the first."""
        third = load_text(
            V2.replace("version = 2", "version = 3").replace('note = "string"', 'note = "integer"'), "refund.v3.toml"
        )
        assert mistakes_between([first(), second(), third]) == [
            "refund.v3.toml: tables.fact_refund.note: expected STRING, as in refund.toml, found INT64; give the column a name of its own"
        ]

    def test_the_columns_of_all_versions_are_bounded(self) -> None:
        """BigQuery's bound holds for the table."""
        many = [", ".join(f'{{ name = "{letter}{n}", value = 1 }}' for n in range(6_000)) for letter in "ab"]
        texts = [
            text.replace('["id"]', f'["id"]\ncolumns = ["id", "note", {more}]') for text, more in zip((V1, V2), many, strict=True)
        ]
        contracts = [
            load_text(texts[0].replace('amount = "numeric"\n', ""), "refund.toml"),
            load_text(texts[1].replace('currency = "string"\n', ""), "refund.v2.toml"),
        ]
        assert mistakes_between(contracts) == [
            "refund.v2.toml: tables.fact_refund: expected at most 10000 columns of all versions together, found 12007"
        ]

    def test_a_table_called_as_anothers_view(self) -> None:
        """Of another event; within one file the loader says so."""
        other = load_text(V1.replace('"refund"', '"other"').replace("fact_refund", "fact_refund_unique"), "other.toml")
        assert mistakes_between([other, first()]) == [
            "other.toml: tables: fact_refund_unique is the view of fact_refund, a table of refund (refund.toml)"
        ]


class TestInForce:
    def test_a_second_version_stands_beside_the_built_in_first(self, tmp_path: Path) -> None:
        """A file replaces the built-in contract of its very version only."""
        text = (Path(__file__).parents[2] / "ecomflow/contract/shop/inventory.toml").read_text()
        (tmp_path / "inventory.v2.toml").write_text(text.replace("version = 1", "version = 2"))
        found = contracts_in_force(tmp_path, ["inventory"])
        assert [(one.event, one.version, Path(one.file).name) for one in found] == [
            ("inventory", 1, "inventory.toml"),
            ("inventory", 2, "inventory.v2.toml"),
        ]

    def test_versions_that_differ_are_refused(self, tmp_path: Path) -> None:
        """With all other mistakes, exit code 2."""
        (tmp_path / "refund.toml").write_text(V1)
        (tmp_path / "refund.v2.toml").write_text(V2.replace('note = "string"', 'note = "date"'))
        with pytest.raises(ConfigError, match=r"tables\.fact_refund\.note: expected STRING"):
            contracts_in_force(tmp_path, [])
