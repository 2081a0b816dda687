"""Orders whose total is not the sum of their lines: counted, or refused where the rule ``order_totals`` says so."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from ecomflow.contract.codec import Codec
from ecomflow.contract.language import Contract
from ecomflow.contract.modelling import Facts, model
from tests.support.contract import NOW, SHOP, Body, inventory, item, message, number, order, refusing_totals
from tests.support.pipeline import MemoryWarehouse, config_for, memory_runtime, run_graph

COUNTING, REFUSING = SHOP, refusing_totals()
WITHOUT = tuple(msgspec.structs.replace(one, rules=()) for one in SHOP)


def priced(total: str, *lines: tuple[int, str]) -> Body:
    """An order of ``total`` with lines of (quantity, price)."""
    return order(total_amount=number(total), items=[item(quantity=quantity, price=number(price)) for quantity, price in lines])


def facts_of(contracts: Sequence[Contract], *bodies: Body) -> Facts:
    messages = [message(body, f"M-{index}") for index, body in enumerate(bodies)]
    (batch,) = Codec(contracts).decode(messages, NOW).streams.values()
    return model(batch, NOW)


def accepted(facts: Facts) -> list[str]:
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
    (priced("119.4", (2, "49.90"), (1, "19.61")), "119.40", "119.41"),
    (priced("0.300000001", (1, "0.1"), (1, "0.2")), "0.300000001", "0.30"),
    (priced("0", (1, "0.000000001")), "0.00", "1E-9"),
    (priced("99", (1, "100")), "99.00", "100.00"),
    (priced("18446744073.709551615", (2, "9223372036.854775808")), "18446744073.709551615", "18446744073.709551616"),
    (
        priced("99999999999999999999999999999.999999998", (1, "99999999999999999999999999999.999999999")),
        "99999999999999999999999999999.999999998",
        "99999999999999999999999999999.999999999",
    ),
    (priced("1", *[(1, "99999999999999999999999999999")] * 3), "1.00", "299999999999999999999999999997.00"),
]


class TestModel:
    @pytest.mark.parametrize("body", GOOD + LARGE, ids=lambda body: bytes(body["total_amount"]).decode())
    def test_equal_amounts_differ_in_no_way(self, body: Body) -> None:
        """Exact, however they are written and however large; as binary floats 0.1 + 0.2 and 0.3 would differ."""
        for contracts in (COUNTING, REFUSING, WITHOUT):
            facts = facts_of(contracts, body)
            assert (accepted(facts), facts.refused, facts.rules_broken) == (["M-0"], [], {})

    @pytest.mark.parametrize(("body", "found", "lines"), BAD, ids=[found for _, found, _ in BAD])
    def test_an_order_that_differs(self, body: Body, found: str, lines: str) -> None:
        """Passed over without the rule, counted though it passes, or refused with both amounts."""
        assert (accepted(facts_of(WITHOUT, body)), facts_of(WITHOUT, body).rules_broken) == (["M-0"], {})
        assert (accepted(facts_of(COUNTING, body)), facts_of(COUNTING, body).rules_broken) == (["M-0"], {"order_totals": 1})
        facts = facts_of(REFUSING, body)
        assert (accepted(facts), facts.tables, facts.rules_broken) == ([], [], {})
        (letter,) = facts.refused
        assert letter.reason == "contract_violation"
        assert letter.error == (
            f"$.total_amount: expected total_amount == sum(items.quantity * items.price), got {found} and {lines}"
        )

    @pytest.mark.parametrize("others", [GOOD, GOOD + LARGE], ids=["64 bits", "beyond"])
    def test_the_others_of_the_batch_pass(self, others: list[Body]) -> None:
        """Only the orders that differ are counted or refused; the rows of the rest are those that they have alone."""
        bad = [body for body, _, _ in BAD[:2]]
        mixed = [others[0], bad[0], *others[1:], bad[1]]
        assert facts_of(COUNTING, *mixed).rules_broken == {"order_totals": 2}
        facts = facts_of(REFUSING, *mixed)
        assert [letter.message_id for letter in facts.refused] == ["M-1", f"M-{len(mixed) - 1}"]
        assert accepted(facts) == [f"M-{index}" for index in range(len(mixed) - 1) if index != 1]
        alone = facts_of(WITHOUT, *others)
        for part, expected in zip(facts.tables, alone.tables, strict=True):
            assert part.rows.drop_columns(["event_id"]).equals(expected.rows.drop_columns(["event_id"]))

    def test_another_violation_comes_first(self) -> None:
        """An order that breaks a rule is refused for that rule, whatever its total."""
        body = priced("-1", (1, "1"))
        (letter,) = facts_of(REFUSING, body).refused
        assert letter.error.startswith("$.total_amount: expected number >= 0")

    def test_other_streams_have_no_totals(self) -> None:
        """Inventory passes whatever the rule says."""
        assert accepted(facts_of(REFUSING, inventory())) == ["M-0"]


class TestGraph:
    @pytest.mark.parametrize(
        ("contracts", "rows", "letters", "counted"),
        [(WITHOUT, 2, 0, 0), (COUNTING, 2, 0, 1), (REFUSING, 1, 1, 0)],
        ids=["without", "count", "refuse"],
    )
    def test_each_way(self, contracts: tuple[Contract, ...], rows: int, letters: int, counted: int) -> None:
        """The contracts of the configuration reach the step: rows, dead letters and the rule's counter."""
        warehouse = MemoryWarehouse()
        runtime = memory_runtime(warehouse, config=msgspec.structs.replace(config_for(), contracts=contracts), now=lambda: NOW)
        run_graph(runtime, [message(GOOD[0], "M-0"), message(BAD[0][0], "M-1")])
        found = runtime.counters.totals()
        assert found.get("rows/fact_order_header", 0) == rows
        assert found.get("refused/contract_violation", 0) == letters == len(warehouse.letters.get("order", []))
        assert found.get("rules_broken/order/order_totals", 0) == counted
