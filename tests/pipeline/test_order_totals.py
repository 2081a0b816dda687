"""Orders whose total is not the sum of their lines: ignored, counted or refused, as ``order_totals`` says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ecomflow.config import load_settings
from ecomflow.contract.check import Tally, check_lines
from ecomflow.contract.decode import decode_messages
from ecomflow.contract.rules import OrderTotals
from ecomflow.errors import ConfigError
from ecomflow.pipeline.config import pipeline_config
from ecomflow.pipeline.model import FactBatch, model_facts
from tests.support.cli import ecomflow
from tests.support.contract import NOW, Body, encoded, inventory, item, message, number, order
from tests.support.pipeline import MemoryWarehouse, config_for, memory_runtime, run_graph


def priced(total: str, *lines: tuple[int, str]) -> Body:
    """An order of ``total`` with lines of (quantity, price)."""
    return order(total_amount=number(total), items=[item(quantity=quantity, price=number(price)) for quantity, price in lines])


def facts_of(order_totals: OrderTotals, *bodies: Body) -> FactBatch:
    messages = [message(body, f"M-{index}") for index, body in enumerate(bodies)]
    return model_facts(decode_messages(messages, NOW).streams["order"], NOW, order_totals)


def accepted(facts: FactBatch) -> list[str]:
    return [one.message_id for one in facts.messages]


GOOD: list[Body] = [
    priced("44.80", (2, "19.90"), (1, "5")),
    priced("44.8", (2, "19.9"), (1, "5.000000000")),
    priced("0.3", (1, "0.1"), (1, "0.2")),
    priced("0", (1, "0")),
    priced("0.000000003", (3, "0.000000001")),
    priced("1e2", (10, "1E1")),
]
# Sums beyond 64 bits of billionths: lines, total, quantities.
LARGE: list[Body] = [
    priced("99999999999999999999999999999.999999999", (1, "99999999999999999999999999999.999999999")),
    priced("30000000000.000000003", (3, "10000000000.000000001")),
    priced("18446744073.709551616", (2, "9223372036.854775808")),
    priced(f"{2**63 - 1}", (2**63 - 1, "1")),
]
BAD: list[tuple[Body, str, str]] = [
    (priced("120.00", (2, "49.90"), (1, "19.60")), "120.00", "119.40"),
    (priced("119.4", (2, "49.90"), (1, "19.61")), "119.4", "119.41"),
    (priced("0.300000001", (1, "0.1"), (1, "0.2")), "0.300000001", "0.30"),
    (priced("0", (1, "0.000000001")), "0", "1E-9"),
    (priced("99", (1, "100")), "99", "100.00"),
    (priced("18446744073.709551615", (2, "9223372036.854775808")), "18446744073.709551615", "18446744073.709551616"),
    (
        priced("99999999999999999999999999999.999999998", (1, "99999999999999999999999999999.999999999")),
        "99999999999999999999999999999.999999998",
        "99999999999999999999999999999.999999999",
    ),
    (priced("1", *[(1, "99999999999999999999999999999")] * 3), "1", "299999999999999999999999999997.00"),
]


class TestModel:
    @pytest.mark.parametrize("body", GOOD + LARGE, ids=lambda body: bytes(body["total_amount"]).decode())
    def test_equal_amounts_differ_in_no_mode(self, body: Body) -> None:
        """Exact, however they are written and however large; as binary floats 0.1 + 0.2 and 0.3 would differ."""
        modes: tuple[OrderTotals, ...] = ("ignore", "count", "refuse")
        for mode in modes:
            facts = facts_of(mode, body)
            assert (accepted(facts), facts.refused, facts.totals_differ) == (["M-0"], [], 0)

    @pytest.mark.parametrize(("body", "found", "lines"), BAD, ids=[found for _, found, _ in BAD])
    def test_an_order_that_differs(self, body: Body, found: str, lines: str) -> None:
        """Ignored, counted though it passes, or refused with both amounts."""
        assert (accepted(facts_of("ignore", body)), facts_of("ignore", body).totals_differ) == (["M-0"], 0)
        assert (accepted(facts_of("count", body)), facts_of("count", body).totals_differ) == (["M-0"], 1)
        facts = facts_of("refuse", body)
        assert (accepted(facts), facts.tables, facts.totals_differ) == ([], [], 0)
        (letter,) = facts.refused
        assert letter.reason == "contract_violation"
        assert letter.error == f"$.total_amount: expected the sum of its lines, got {found} instead of {lines}"

    @pytest.mark.parametrize("others", [GOOD, GOOD + LARGE], ids=["64 bits", "beyond"])
    def test_the_others_of_the_batch_pass(self, others: list[Body]) -> None:
        """Only the orders that differ are counted or refused; the rows of the rest are those that they have alone."""
        bad = [body for body, _, _ in BAD[:2]]
        mixed = [others[0], bad[0], *others[1:], bad[1]]
        assert facts_of("count", *mixed).totals_differ == 2
        facts = facts_of("refuse", *mixed)
        assert [letter.message_id for letter in facts.refused] == ["M-1", f"M-{len(mixed) - 1}"]
        assert accepted(facts) == [f"M-{index}" for index in range(len(mixed) - 1) if index != 1]
        alone = facts_of("ignore", *others)
        for part, expected in zip(facts.tables, alone.tables, strict=True):
            assert part.rows.drop_columns(["event_id"]).equals(expected.rows.drop_columns(["event_id"]))

    def test_another_violation_comes_first(self) -> None:
        """An order that breaks a rule is refused for that rule, whatever its total."""
        body = priced("-1", (1, "1"))
        (letter,) = facts_of("refuse", body).refused
        assert letter.error.startswith("$.total_amount: expected number >= 0")

    def test_other_streams_have_no_totals(self) -> None:
        """Inventory passes in every mode."""
        batch = decode_messages([message(inventory())], NOW).streams["inventory"]
        assert accepted(model_facts(batch, NOW, "refuse")) == ["M-1"]


class TestSetting:
    def test_it_comes_from_file_and_environment(self, tmp_path: Path) -> None:
        """Counted by default; ECOMFLOW_ORDER_TOTALS stands before the file; the pipeline has it."""
        assert load_settings({}, {}, tmp_path).order_totals == "count"
        (tmp_path / "ecomflow.toml").write_text('order_totals = "refuse"\n')
        assert load_settings({}, {}, tmp_path).order_totals == "refuse"
        settings = load_settings({}, {"ECOMFLOW_ORDER_TOTALS": "ignore"}, tmp_path)
        assert (settings.order_totals, pipeline_config(settings).order_totals) == ("ignore", "ignore")

    def test_a_value_that_is_none(self, tmp_path: Path) -> None:
        """The setting is named."""
        with pytest.raises(ConfigError, match=r"Invalid enum value 'maybe' - at `\$.order_totals`"):
            load_settings({"order_totals": "maybe"}, {}, tmp_path)


def run_with(mode: OrderTotals, warehouse: MemoryWarehouse, *bodies: Body) -> dict[str, int]:
    """The graph over one batch of ``bodies``; its counters."""
    runtime = memory_runtime(warehouse, config=msgspec.structs.replace(config_for(), order_totals=mode), now=lambda: NOW)
    run_graph(runtime, [message(body, f"M-{index}") for index, body in enumerate(bodies)])
    return runtime.counters.totals()


class TestGraph:
    @pytest.mark.parametrize(
        ("mode", "rows", "letters", "counted"), [("ignore", 2, 0, 0), ("count", 2, 0, 1), ("refuse", 1, 1, 0)]
    )
    def test_each_mode(self, mode: Any, rows: int, letters: int, counted: int) -> None:
        """The configuration reaches the step: rows, dead letters and the counter order_totals_differ."""
        warehouse = MemoryWarehouse()
        found = run_with(mode, warehouse, GOOD[0], BAD[0][0])
        assert found.get("rows/fact_order_header", 0) == rows
        assert found.get("refused/contract_violation", 0) == letters == len(warehouse.letters.get("order", []))
        assert found.get("order_totals_differ", 0) == counted


class TestCheck:
    def test_contract_check_judges_likewise(self) -> None:
        """Refused with line and error, counted, or passed over."""
        outcome = {}
        modes: tuple[OrderTotals, ...] = ("ignore", "count", "refuse")
        for mode in modes:
            tally = Tally()
            refused = list(check_lines([encoded(GOOD[0]), encoded(BAD[0][0])], "f", NOW, tally, mode))
            outcome[mode] = [(line.line, line.error) for line in refused], tally.accepted["order"], tally.totals_differ
        error = "$.total_amount: expected the sum of its lines, got 120.00 instead of 119.40"
        assert outcome == {"ignore": ([], 2, 0), "count": ([], 2, 1), "refuse": ([(2, error)], 1, 0)}

    def test_the_command_takes_the_setting(self, tmp_path: Path) -> None:
        """A note where it is counted, exit code 10 where it is refused."""
        (tmp_path / "e.jsonl").write_bytes(encoded(BAD[0][0]))
        counted = ecomflow("contract", "check", "e.jsonl", folder=tmp_path)
        assert (counted.returncode, counted.stdout.splitlines()[0]) == (
            0,
            "note: order $.total_amount: differs from the sum of the lines; passes (1 times)",
        )
        assert ecomflow("contract", "check", "e.jsonl", folder=tmp_path, ECOMFLOW_ORDER_TOTALS="refuse").returncode == 10
