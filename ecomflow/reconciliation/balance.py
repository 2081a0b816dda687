"""Counts of what was published and what was written in; whether they add up out. Pure.

When the subscription is empty, every valid event has its rows in its tables (seen through the ``_unique`` views), every other
event is a dead letter with its reason, and there is nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ecomflow.contract.facts import STREAM_TABLES

_ITEM_TABLES = ("fact_order_item", "fact_order")


class Comparison(msgspec.Struct, frozen=True):
    """One store: expected and found counts."""

    place: str
    expected: int
    found: int


def compare(
    valid: Mapping[str, int],
    order_items: int,
    refused: Mapping[str, int],
    rows: Mapping[str, int],
    letters: Mapping[str, int],
) -> tuple[Comparison, ...]:
    """One line for each table, and one for each reason of dead letters.

    ``valid``: valid events by type; ``order_items``: items in the valid orders; ``refused``: invalid events by reason; ``rows``:
    rows by table; ``letters``: dead letters by reason.
    """
    tables = [
        Comparison(table, order_items if table in _ITEM_TABLES else valid.get(stream, 0), rows.get(table, 0))
        for stream, names in STREAM_TABLES.items()
        for table in names
    ]
    reasons = sorted({*refused, *letters})
    return (
        *tables,
        *(Comparison(f"dead letters: {reason}", refused.get(reason, 0), letters.get(reason, 0)) for reason in reasons),
    )


def adds_up(lines: tuple[Comparison, ...]) -> bool:
    """Whether every count is as expected."""
    return all(line.expected == line.found for line in lines)
