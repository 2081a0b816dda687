"""What was published against what landed."""

from __future__ import annotations

from ecomflow.reconciliation.balance import Comparison, adds_up, compare

VALID = {"order": 2, "inventory": 3, "user_activity": 4}
REFUSED = {"malformed_json": 1, "contract_violation": 5}
ROWS = {"fact_order_header": 2, "fact_order_item": 7, "fact_order": 7, "fact_inventory": 3, "fact_user_activity": 4}


class TestCompare:
    def test_a_line_a_table_and_a_line_a_reason(self) -> None:
        """Order tables count orders or their items, the others their events, the dead letters their reasons."""
        lines = compare(VALID, 7, REFUSED, ROWS, REFUSED)
        assert lines == (
            Comparison("fact_order_header", 2, 2),
            Comparison("fact_order_item", 7, 7),
            Comparison("fact_order", 7, 7),
            Comparison("fact_inventory", 3, 3),
            Comparison("fact_user_activity", 4, 4),
            Comparison("dead letters: contract_violation", 5, 5),
            Comparison("dead letters: malformed_json", 1, 1),
        )
        assert adds_up(lines)

    def test_a_lost_row_shows(self) -> None:
        """One row too few in one table is that table's line."""
        lines = compare(VALID, 7, REFUSED, {**ROWS, "fact_order": 6}, REFUSED)
        assert [line for line in lines if line.expected != line.found] == [Comparison("fact_order", 7, 6)]
        assert not adds_up(lines)

    def test_a_row_too_many_shows(self) -> None:
        """More than was published is as wrong as less."""
        assert not adds_up(compare(VALID, 7, REFUSED, {**ROWS, "fact_inventory": 4}, REFUSED))

    def test_letters_of_the_wrong_reason_show_on_both_sides(self) -> None:
        """The sum alone would hide it: five and one are one and five."""
        lines = compare(VALID, 7, REFUSED, ROWS, {"malformed_json": 1, "out_of_range": 5})
        assert [line for line in lines if line.expected != line.found] == [
            Comparison("dead letters: contract_violation", 5, 0),
            Comparison("dead letters: out_of_range", 0, 5),
        ]

    def test_nothing_published_and_nothing_landed_adds_up(self) -> None:
        """All tables are there with 0."""
        lines = compare({}, 0, {}, {}, {})
        assert [(line.expected, line.found) for line in lines] == [(0, 0)] * 5
        assert adds_up(lines)

    def test_a_row_nobody_published_shows(self) -> None:
        """Rows and dead letters out of nothing."""
        assert not adds_up(compare({}, 0, {}, {"fact_order": 1}, {}))
        assert not adds_up(compare({}, 0, {}, {}, {"processing_error": 1}))
