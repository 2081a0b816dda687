"""The external table over the dead letters: its DDL, its step in the plan, and why the local warehouse goes without."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ecomflow import sql
from ecomflow.config import Settings
from ecomflow.contract.dead_letter import DeadLetter
from ecomflow.gcp.target import Target
from ecomflow.infra.changes import carry_out
from ecomflow.infra.differences import Step, plan_step
from ecomflow.infra.observe import observe_dead_letters
from ecomflow.infra.resources import ExternalTable, dead_letters_table
from tests.support.cli import ecomflow

WANTED = dead_letters_table(Settings(project="my-project", dataset="shop", bucket="letters"))


class TestDdl:
    def test_a_column_for_each_field_of_a_dead_letter(self) -> None:
        """What a letter has can be asked for, under the same name."""
        body = sql.dead_letters_ddl("my-project.shop", "letters").split("(", 1)[1]
        assert tuple(re.findall(r"^  (\w+) [A-Z]+,?$", body, re.MULTILINE)) == DeadLetter.__struct_fields__

    def test_names_are_those_of_the_settings(self) -> None:
        """The dataset's table, over the bucket's dead letters and not over what was replayed."""
        ddl = sql.dead_letters_ddl("my-project.shop", "letters")
        assert "CREATE OR REPLACE EXTERNAL TABLE `my-project.shop.dead_letters`" in ddl
        assert f'uris = ["{WANTED.uris[0]}"]' in ddl
        assert ExternalTable("my-project.shop.dead_letters", ("gs://letters/dlq/*",), ()) == WANTED


class TestStep:
    @pytest.mark.parametrize(
        ("live", "action"),
        [
            (None, "create"),
            (WANTED, "keep"),
            (ExternalTable(WANTED.name, ("gs://other/dlq/*",)), "change"),
            (ExternalTable(WANTED.name, (), table_type="TABLE"), "refuse"),
        ],
    )
    def test_what_up_does(self, live: ExternalTable | None, action: str) -> None:
        """It is made, kept, made again over another bucket; a table of the same name that is no such table is left alone."""
        assert plan_step(WANTED, live).action == action


@pytest.mark.stack
class TestLocally:
    def test_the_emulator_makes_another_table_of_it(self, provisioned: Settings, target: Target) -> None:
        """It takes the statement, but the table reads no object: so the local stack goes without."""
        wanted = dead_letters_table(provisioned)
        carry_out(Step("external table", wanted.name, "create"), target)
        assert observe_dead_letters(target) == ExternalTable(wanted.name, (), (), "TABLE")

    def test_up_says_so(self, provisioned: Settings, tmp_path: Path) -> None:
        """One line, before the summary."""
        shown = ecomflow("infra", "up", settings=provisioned, folder=tmp_path).stdout
        assert "Skipped the table dead_letters: the local BigQuery has no external tables." in shown
