"""contract copy, lint and ddl, and init --contracts: files of contracts, and the tables that follow from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecomflow.contract.ddl import table_ddl, view_ddl
from ecomflow.contract.loading import SHOP, load_folder, shop_text
from ecomflow.sql import qualify
from tests.support.cli import ecomflow
from tests.support.compiled import SHOP as SHOP_CONTRACTS

REFUND = 'event = "refund"\ntime = "at"\n[fields]\nat = "timestamp"\nid = "string"\n[[tables]]\nname = "fact_refund"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "contracts").mkdir()
    return tmp_path


@pytest.mark.slow
class TestCopy:
    @pytest.mark.slow
    def test_a_built_in_contract(self, tmp_path: Path) -> None:
        """As it is, to the letter; it is in force from then on."""
        result = ecomflow("contract", "copy", "order", folder=tmp_path)
        assert (result.returncode, result.stdout) == (
            0,
            "Wrote contracts/order.toml. It replaces the built-in contract of order."
            " After a change, run: ecomflow contract lint\n",
        )
        assert (tmp_path / "contracts/order.toml").read_text() == shop_text("order")
        assert ecomflow("contract", "lint", folder=tmp_path).stdout == "3 event types: inventory, order, user_activity.\n"

    @pytest.mark.slow
    def test_a_file_that_is_there(self, folder: Path) -> None:
        """It is overwritten with --force alone."""
        (folder / "contracts/order.toml").write_text("mine")
        result = ecomflow("contract", "copy", "order", folder=folder)
        assert (result.returncode, result.stderr) == (
            2,
            "Error: contracts/order.toml already exists.\nTo overwrite it, add --force.\n",
        )
        assert (folder / "contracts/order.toml").read_text() == "mine"
        assert ecomflow("contract", "copy", "order", "--force", folder=folder).returncode == 0
        assert (folder / "contracts/order.toml").read_text() == shop_text("order")

    def test_another_file_of_the_same_type(self, folder: Path) -> None:
        """It is named: the two could not stand together."""
        (folder / "contracts/mine.toml").write_text(shop_text("order"))
        result = ecomflow("contract", "copy", "order", folder=folder)
        assert (result.returncode, result.stderr.splitlines()[0]) == (2, "Error: contracts/mine.toml describes order already.")

    def test_a_type_that_is_not_built_in(self, tmp_path: Path) -> None:
        """The sentence names those that are."""
        result = ecomflow("contract", "copy", "ordre", folder=tmp_path)
        assert result.returncode == 2
        assert "expected one of order, inventory, user_activity, did you mean 'order'?" in result.stderr

    @pytest.mark.slow
    def test_init_copies_all(self, tmp_path: Path) -> None:
        """Beside ecomflow.toml; where a file exists already, nothing is written."""
        result = ecomflow("init", "--contracts", folder=tmp_path)
        assert result.returncode == 0
        assert sorted(one.event for one in load_folder(tmp_path / "contracts")) == sorted(SHOP)
        (tmp_path / "ecomflow.toml").unlink()
        again = ecomflow("init", "--contracts", folder=tmp_path)
        assert (again.returncode, again.stderr.splitlines()[0]) == (2, "Error: contracts/order.toml already exists.")
        assert not (tmp_path / "ecomflow.toml").exists()
        assert ecomflow("init", "--contracts", "--force", folder=tmp_path).returncode == 0


@pytest.mark.slow
class TestLint:
    @pytest.mark.slow
    def test_every_mistake_of_every_file(self, folder: Path) -> None:
        """One line each, all at once, also those between files; exit code 2."""
        (folder / "contracts/a.toml").write_text(REFUND.replace('"string"', '"strin"').replace("time =", "timee ="))
        (folder / "contracts/b.toml").write_text(REFUND.replace("fact_refund", "fact_order"))
        result = ecomflow("contract", "lint", folder=folder)
        assert (result.returncode, result.stdout) == (2, "")
        assert [line.removeprefix("Error: ") for line in result.stderr.splitlines()[:-1]] == [
            "contracts/a.toml: unknown key 'timee', did you mean 'time'?",
            "contracts/a.toml: fields.id.type: expected one of string, integer, numeric, boolean, float, date, timestamp,"
            " ip_address, json, record, list, found 'strin', did you mean 'string'?",
            "contracts/a.toml: expected time, the name of a timestamp field (at), found none",
        ]
        (folder / "contracts/a.toml").unlink()
        result = ecomflow("contract", "lint", folder=folder)
        assert result.stderr.splitlines()[0] == (
            "Error: contracts/b.toml: tables: fact_order is already a table of order (order.toml)"
        )

    @pytest.mark.slow
    def test_files_by_name(self, folder: Path) -> None:
        """Only those, wherever they are."""
        (folder / "contracts/bad.toml").write_text("event")
        (folder / "good.toml").write_text(REFUND)
        assert ecomflow("contract", "lint", "good.toml", folder=folder).stdout == "1 event type: refund.\n"
        assert ecomflow("contract", "lint", "good.toml", "contracts/bad.toml", folder=folder).returncode == 2
        assert ecomflow("contract", "lint", "none.toml", folder=folder).returncode == 3


@pytest.mark.slow
class TestDdl:
    def test_of_a_type_in_a_project(self, folder: Path) -> None:
        """Its tables, then their views, in the dataset of the settings."""
        result = ecomflow("contract", "ddl", "order", "--project", "my-project", folder=folder)
        order = SHOP_CONTRACTS[0]
        statements = [*map(table_ddl, order.tables), *map(view_ddl, order.tables)]
        assert result.stdout == "\n".join(qualify(one, "my-project.ecomflow") for one in statements)
        assert "`my-project.ecomflow.fact_order_header`" in result.stdout

    def test_of_all(self, folder: Path) -> None:
        """The folder's types included."""
        (folder / "contracts/refund.toml").write_text(REFUND)
        result = ecomflow("contract", "ddl", folder=folder, ECOMFLOW_DATASET="shop")
        created = [line for line in result.stdout.splitlines() if line.startswith("CREATE")]
        assert len(created) == 12
        assert created[-1] == "CREATE OR REPLACE VIEW `ecomflow-local.shop.fact_refund_unique`"
