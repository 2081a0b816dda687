"""Two versions of one event type: what they share, and what keeps them from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecomflow.contract.language import Contract
from ecomflow.contract.loading import load_text
from ecomflow.contract.versions import conflicts, shared_tables
from tests.support.cli import ecomflow

REFUND = """
event = "refund"
time = "at"
[fields]
at = "timestamp"
amount = "numeric"
reason = "string"
lines = { type = "list", of = "line" }
[records.line]
price = "numeric"
[[tables]]
name = "fact_refund"
cluster = ["reason"]
[[tables]]
name = "fact_refund_line"
each = "lines"
columns = ["lines"]
"""


def version(number: int, *edits: tuple[str, str]) -> Contract:
    text = f"version = {number}{REFUND}"
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return load_text(text, f"refund.v{number}.toml")


class TestConflicts:
    @pytest.mark.parametrize(
        ("edits", "sentence"),
        [
            (
                [('amount = "numeric"', 'amount = "float"')],
                "tables.fact_refund: amount is FLOAT64, in version 1 (refund.v1.toml) NUMERIC: give the column another name",
            ),
            (
                [('amount = "numeric"', 'amount = "numeric"\nshop = "string"')],
                "tables.fact_refund: shop is required, and version 1 (refund.v1.toml) lacks it:"
                " make the field optional, or add it there",
            ),
            (
                [('amount = "numeric"\n', "")],
                "tables.fact_refund: amount is required, and version 2 lacks it: make the field optional, or add it there",
            ),
            (
                [('cluster = ["reason"]\n', "")],
                "tables.fact_refund: clustered by nothing, in version 1 (refund.v1.toml) by reason: give both the same cluster",
            ),
        ],
    )
    def test_what_can_not_stand_together(self, edits: list[tuple[str, str]], sentence: str) -> None:
        """A sentence with what to do."""
        assert conflicts([version(1), version(2, *edits)]) == [f"refund.v2.toml: {sentence}"]

    def test_another_partition(self) -> None:
        """It says all of a table: each of its columns would differ, too."""
        two = version(2, ('time = "at"', 'time = "at"\ntime_prefix = "refund"'))
        assert conflicts([version(1), two]) == [
            f"refund.v2.toml: tables.{table}: partitioned by refund_date, in version 1 (refund.v1.toml) by event_date:"
            " give both the same time_prefix"
            for table in ("fact_refund", "fact_refund_line")
        ]

    def test_what_can(self) -> None:
        """An optional column more, a table more or less, and other fields that are no columns of the other."""
        two = version(2, ('amount = "numeric"', 'amount = "numeric"\nshop = { type = "string", optional = true }'))
        assert conflicts([two, version(1)]) == []

    def test_lint_refuses_them(self, tmp_path: Path) -> None:
        """As whatever reads the contracts in force does."""
        (tmp_path / "contracts").mkdir()
        (tmp_path / "contracts/one.toml").write_text(f"version = 1{REFUND}")
        two = REFUND.replace('amount = "numeric"', 'amount = "float"')
        (tmp_path / "contracts/two.toml").write_text(f"version = 2{two}")
        result = ecomflow("contract", "lint", folder=tmp_path)
        assert (result.returncode, result.stderr.splitlines()[0]) == (
            2,
            "Error: contracts/two.toml: tables.fact_refund: amount is FLOAT64, in version 1 (contracts/one.toml) NUMERIC:"
            " give the column another name",
        )


class TestSharedTables:
    def test_the_union_of_columns(self) -> None:
        """What one version lacks may be NULL; new columns stand before the ingestion, which is the last."""
        one = version(1, ('reason = "string"', 'reason = { type = "string", optional = true }'))
        two = version(
            2,
            ('reason = "string"\n', 'reason = "string"\nshop = { type = "string", optional = true }\n'),
            ('name = "fact_refund_line"', 'name = "fact_line"'),
        )
        header, *others = shared_tables([one, two])
        assert [table.name for table in others] == ["fact_refund_line", "fact_line"]
        assert [(column.name, column.required) for column in header.columns] == [
            ("event_id", True),
            ("event_date", True),
            ("event_timestamp", True),
            ("amount", True),
            ("reason", False),
            ("unknown_fields", False),
            ("shop", False),
            ("ingestion_timestamp", True),
        ]

    def test_of_one_version(self) -> None:
        """Its own tables."""
        assert shared_tables([version(1)]) == version(1).tables
