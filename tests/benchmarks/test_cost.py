"""The calculation of what a job costs: which graph shuffles, and rows by BigQuery's own sizes."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pyarrow as pa
import pytest

pytestmark = pytest.mark.slow


def test_rows_are_counted_as_bigquery_counts_them() -> None:
    """STRING 2 and its UTF-8 bytes, DATE and INT64 8, NUMERIC 16, NULL nothing."""
    from benchmarks.cost import _sizes

    rows = pa.record_batch(
        {
            "text": pa.array(["é", None]),
            "number": pa.array([1, 2]),
            "day": pa.array([date(2025, 12, 1), None]),
            "money": pa.array([Decimal("1.5"), None], pa.decimal128(38, 9)),
        }
    )
    assert _sizes(rows) == (2 + 2) + 8 + 8 + 8 + 16


def test_the_submitted_graph_shuffles_nothing() -> None:
    """Rows and bytes of a million events follow from the sample; no step moves data between workers."""
    from benchmarks.cost import calculate

    found = calculate("ecomflow")
    assert (found["shuffles"], found["shuffled"], found["requests"]) == (0, 0, 5_000)
    assert found["streaming_engine"] == found["read"]
    assert 2e6 < found["rows"] < 3e6


def test_beams_own_way_shuffles_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """WriteToBigQuery groups by key once a table; every byte that is inserted has crossed workers before."""
    from benchmarks import cost
    from benchmarks.cost import calculate

    monkeypatch.setattr(cost, "EVENTS", cost.BUNDLE)
    ours, beams = calculate("ecomflow"), calculate("write-to-bigquery")
    assert beams["shuffles"] == 5
    assert beams["rows"] == ours["rows"]
    assert beams["shuffled"] > ours["read"]
    assert beams["billed"] == pytest.approx(beams["rows"] * 1_000)
