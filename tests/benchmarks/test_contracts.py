"""The yardstick of compiled contracts: it does the same work, and each case is what it says."""

from __future__ import annotations

import pytest

from benchmarks import contracts, hand_written
from benchmarks.core import SHOP, modelled
from benchmarks.events import NOW, messages
from ecomflow.contract.codec import Codec


def test_the_yardstick_makes_the_same_rows() -> None:
    """Value for value, but for the column that keeps unknown fields."""
    batch = messages(300)
    compiled = {part.table: part.rows for facts in modelled(batch) for part in facts.tables}
    found = hand_written.model(hand_written.decode(batch), NOW)
    assert found.keys() == compiled.keys()
    for table, rows in found.items():
        assert rows.equals(compiled[table].select(rows.schema.names))
        assert set(compiled[table].schema.names) - set(rows.schema.names) <= {"unknown_fields"}


@pytest.mark.parametrize(("name", "refused"), [("refused_5_percent", 15), ("refused_half", 150), ("refused", 300)])
def test_so_many_are_refused(name: str, refused: int) -> None:
    """Evenly spread over the types."""
    batch = contracts.with_faults(messages(300), contracts.EVERY[name])
    assert contracts.compiled(Codec(SHOP), batch) == (300 - refused, refused)


def test_unknown_fields_are_in_each() -> None:
    """And each is kept."""
    parts = Codec(SHOP).decode(contracts.with_unknown(messages(300)), NOW).streams
    assert [len(part.kept) for part in parts.values()] == [100, 100, 100]
    assert {text for part in parts.values() for text in part.kept} == {
        b'{"coupon":"WELCOME-10","client":{"version":"3.1.4","beta":false}}'
    }


def test_thirty_types_share_the_events() -> None:
    """Ten copies of each type of the shop, each with its part of them."""
    made, names = contracts.many_types(10)
    parts = Codec(made).decode(contracts.spread(messages(300), names), NOW).streams
    assert {name: len(part.events) for name, part in parts.items()} == {one.event: 10 for one in made}


def test_every_ratio_has_a_target() -> None:
    """Of what is measured."""
    took = dict.fromkeys(("hand_written", "compiled", "unknown", *contracts.EVERY, "three_types", "thirty_types"), 1.0)
    assert contracts.ratios(took).keys() == contracts.TARGETS.keys()
