"""Charts as text: what is drawn of which answer, and how wide."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings, strategies
from rich.cells import cell_len

from ecomflow.errors import ConfigError
from ecomflow.warehouse.charts import amount_text, chart, json_text
from ecomflow.warehouse.queries import Answer


def answer(columns: str, *rows: tuple[Any, ...], drawn: str | None = None) -> Answer:
    return Answer("", tuple(columns.split()), rows, drawn)


class TestBars:
    def test_a_bar_is_as_long_as_its_amount(self) -> None:
        """The greatest amount fills the width, the others their share in eighths of a cell, and labels and amounts line up."""
        assert chart(answer("country orders", ("DE", 1600), ("FR", 700), ("Italy", 0)), 29) == [
            "orders by country",
            "DE     1,600 ████████████████",
            "FR       700 ███████",
            "Italy      0",
        ]

    def test_negative_amounts_go_to_the_left(self) -> None:
        """Both sides of the axis have one scale, and what is too small for a bar still shows as a sliver."""
        rows = (("pen", -50), ("cup", 100), ("hat", Decimal("0.001")), ("bag", Decimal("-0.001")))
        assert chart(answer("product stock", *rows), 42) == [
            "stock by product",
            "pen     -50 ▐█████████│",
            "cup     100           │███████████████████",
            "hat   0.001           │▏",
            "bag  -0.001          ▐│",
        ]

    def test_only_negative_amounts(self) -> None:
        """Without an amount above zero the axis stands at the right end."""
        assert chart(answer("p n", ("a", -10), ("b", -5)), 20) == [
            "n by p",
            "a  -10 ████████████│",
            "b   -5       ██████│",
        ]

    def test_only_zeros(self) -> None:
        """Amounts of zero have no bars."""
        assert chart(answer("p n", ("a", 0), ("b", 0)), 20) == ["n by p", "a  0", "b  0"]

    def test_amounts_are_exact(self) -> None:
        """A NUMERIC of 38 digits is shown with all of them, though its bar is approximate."""
        exact = Decimal("12345678901234567890123456789.123456789")
        assert "12,345,678,901,234,567,890,123,456,789.123456789 █" in chart(answer("p n", ("a", exact)), 80)[1]

    def test_missing_values_are_named(self) -> None:
        """NULL as a label or an amount is drawn as such, without a bar."""
        assert chart(answer("p n", (None, 4), ("b", None)), 20)[1:] == ["NULL     4 ██████████", "b     NULL"]

    def test_long_labels_are_clipped(self) -> None:
        """A label takes a third of the width at most, and wide characters count as two cells."""
        lines = chart(answer("p n", ("a very long name indeed", 5), ("日本日本日本日本日本", 5)), 36)
        assert lines[1:] == ["a very long…  5 ████████████████████", "日本日本日 …  5 ████████████████████"]
        assert [cell_len(line) for line in lines[1:]] == [36, 36]

    def test_labels_are_inert(self) -> None:
        """A label's control characters are shown, not obeyed."""
        assert chart(answer("p n", ("a\x1b[2J", 1)), 40)[1].startswith("a\\x1b[2J  1 █")

    def test_many_rows(self) -> None:
        """Fifty bars are drawn; a line says how many more there are."""
        lines = chart(answer("p n", *((f"p{n}", n) for n in range(1050))), 40)
        assert (len(lines), lines[-1]) == (52, "… and 1,000 more")

    def test_the_answers_own_column_is_drawn(self) -> None:
        """Where the question names a column, it stands before the first of numbers."""
        rows = (("a", 1, 20),)
        assert chart(answer("p orders revenue", *rows), 20)[0] == "orders by p"
        assert chart(answer("p orders revenue", *rows, drawn="revenue"), 20)[:2] == ["revenue by p", "a  20 ██████████████"]

    @given(
        strategies.lists(
            strategies.tuples(strategies.text(), strategies.decimals(-(10**9), 10**9, places=2)), unique_by=lambda r: r[0]
        ),
        strategies.integers(50, 200),
    )
    @settings(max_examples=60, deadline=None)
    def test_the_width_holds(self, rows: list[tuple[str, Decimal]], width: int) -> None:
        """Whatever the names and amounts, no line is wider than it may be."""
        assert [line for line in chart(answer("p n", *rows), width)[1:] if cell_len(line) > width] == []


class TestLine:
    def test_it_goes_through_the_points(self) -> None:
        """Moments are as far apart as their times, with straight lines between, in whatever order the rows come."""
        rows = ((date(2025, 12, 13), 11), (date(2025, 12, 1), 0), (date(2025, 12, 2), 11))
        lines = chart(answer("day orders", *rows), 17)
        assert lines[0] == "orders by day"
        assert lines[1] == "11 ┤ ╭───────────"
        assert lines[2:12] == ["   ┤ │"] * 10
        assert lines[12:] == [" 0 ┤─╯", "2025-12-01 … 2025-12-13"]

    def test_a_flat_line(self) -> None:
        """Equal amounts are a line in the middle."""
        rows = ((datetime(2025, 12, day, tzinfo=UTC), 7) for day in (1, 2, 3))
        lines = chart(answer("moment n", *rows), 60)
        assert [line for line in lines if "─" in line] == ["  ┤" + "─" * 57]

    def test_many_points(self) -> None:
        """A thousand points are drawn in the width that there is, the highest and lowest named exactly."""
        start = datetime(2025, 12, 1, tzinfo=UTC)
        rows = ((start + timedelta(minutes=n), Decimal(n * n) / 7) for n in range(1000))
        lines = chart(answer("moment n", *rows), 80)
        assert {cell_len(line) for line in lines[1:2]} == {80}
        assert max(map(cell_len, lines)) == 80
        assert lines[1].split(" ┤")[0] == "142,571.5714285714285714285714"
        assert lines[12].split(" ┤")[0].strip() == "0.00"

    def test_missing_amounts_are_passed_over(self) -> None:
        """A point without an amount, or with none that is a number, leaves no hole."""
        rows = tuple((date(2025, 12, day), amount) for day, amount in ((1, 1.5), (2, None), (3, float("nan")), (4, 2.5)))
        assert [line[:4] for line in chart(answer("day n", *rows), 40)[1:13:11]] == [" 2.5"[1:] + " ", "1.5 "]

    def test_one_moment_is_a_bar(self) -> None:
        """A single point makes no line."""
        assert chart(answer("day n", (date(2025, 12, 1), 3)), 30) == ["n by day", "2025-12-01  3 ████████████████"]


class TestShape:
    def test_no_rows(self) -> None:
        """An answer without rows is said to have none."""
        assert chart(answer("p n"), 40) == ["There are no rows to draw."]

    @pytest.mark.parametrize(
        ("columns", "rows", "lacking"),
        [
            ("a b", [("x", "y")], "it has no column of numbers"),
            ("a b", [(1, 2)], "it has no column of names, dates or times"),
            ("a b", [("x", True)], "it has no column of numbers"),
            ("a b", [("x", None)], "it has no column of numbers"),
            ("user step", [("u", 1), ("u", 2)], "column 'user' has repeated values"),
        ],
    )
    def test_no_shape(self, columns: str, rows: list[tuple[Any, ...]], lacking: str) -> None:
        """What keeps an answer from being drawn is said, and what to select instead."""
        with pytest.raises(ConfigError, match=lacking):
            chart(answer(columns, *rows), 40)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"),
        (Decimal("1234.5"), "1,234.50"),
        (Decimal("0.123456789"), "0.123456789"),
        (Decimal("1E+3"), "1,000.00"),
        (Decimal("-5.100"), "-5.10"),
        (Decimal("NaN"), "NaN"),
        (1234.5, "1,234.5"),
    ],
)
def test_amounts_as_text(value: int | float | Decimal, text: str) -> None:
    """Thousands are apart; decimals have two places, or as many as they need."""
    assert amount_text(value) == text


def test_json_is_written_as_json() -> None:
    """An array, a struct or a JSON value of the warehouse, not as Python prints it."""
    assert json_text({"note": None, "at": [date(2026, 1, 2), True]}) == '{"note":null,"at":["2026-01-02",true]}'
