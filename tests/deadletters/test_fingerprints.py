"""Dead letters in; what those of one cause have in common out, and their groups."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from ecomflow.config import Settings
from ecomflow.contract.dead_letter import DeadLetter, Reason, dead_letter
from ecomflow.deadletters.fingerprints import fingerprint
from ecomflow.deadletters.groups import MAX_GROUPS, group, unknown_fields
from ecomflow.deadletters.store import StoredDeadLetter
from tests.support.contract import NOW, inventory, item, message, order, refusal_of


def dead_letter_of(
    error: str, reason: Reason = "contract_violation", event_type: str | None = "order", minutes: int = 0
) -> DeadLetter:
    return dead_letter(message(order(), event_id="E-1"), reason, error, event_type, NOW + timedelta(minutes=minutes))


class TestFingerprint:
    @pytest.mark.parametrize(
        ("body", "path", "rule"),
        [
            (order(items=[item(), item(quantity=0)]), "$.items[].quantity", "expected int >= 1"),
            (order(items=[]), "$.items", "expected array of length >= 1"),
            (order(total_amount="12"), "$.total_amount", "expected number >= 0 with at most 29 integer and 9 decimal digits"),
            (order(order_date="1999-01-01T00:00:00Z"), "$.order_date", "expected a UTC date from <date> to <date>"),
            (inventory(quantity_change="x"), "$.quantity_change", "expected int"),
            ({"event_type": "refund"}, "$.event_type", "expected one of order, inventory, user_activity"),
            (b'{"event_type": "ord', "$", "expected a JSON object in UTF-8"),
        ],
    )
    def test_path_and_rule_of_what_the_pipeline_says(self, body: Any, path: str, rule: str) -> None:
        """The path has no indices, the rule no value of the message and no date that moves with the day."""
        cause = fingerprint(refusal_of(body))
        assert (cause.path, cause.rule) == (path, rule)

    def test_one_cause_has_one_fingerprint(self) -> None:
        """Other items, other values and other days make no difference; another type, path or rule does."""
        same = {
            fingerprint(dead_letter_of(error)).id
            for error in ("$.items[0].quantity: expected int >= 1, got 0", "$.items[17].quantity: expected int >= 1, got -5")
        }
        assert len(same) == 1
        others = [
            dead_letter_of("$.items[0].quantity: expected int >= 1", event_type="inventory"),
            dead_letter_of("$.items[0].price: expected int >= 1"),
            dead_letter_of("$.items[0].quantity: expected int >= 2"),
        ]
        assert len(same | {fingerprint(letter).id for letter in others}) == 4

    def test_a_services_words_lose_their_values(self) -> None:
        """BigQuery's and Python's sentences quote what they please."""
        first = dead_letter_of("$: fact_order: Field 'a': 12 is too long for row 3", "rejected_by_bigquery")
        second = dead_letter_of("$: fact_order: Field 'bb': 9 is too long for row 41", "rejected_by_bigquery")
        assert fingerprint(first) == fingerprint(second)
        assert fingerprint(first).rule == "fact_order: Field '…': N is too long for row N"

    def test_words_from_outside_are_bounded(self) -> None:
        """Neither a type of a megabyte nor an error of one makes a fingerprint large."""
        cause = fingerprint(dead_letter_of(f"$.event_type: {'x' * 10**6}", "unknown_event_type", "y" * 10**6))
        assert (len(cause.rule), len(cause.event_type or "")) == (160, 64)


class TestGroup:
    def test_groups_count_and_tell_when_and_how_to_replay(self) -> None:
        """Largest first; first and last seen; the newest as the example; the command that replays the group."""
        found = [
            StoredDeadLetter(
                dead_letter_of(f"$.status: expected one of a, got '{minute}'", minutes=minute), f"dlq/order/{minute}"
            )
            for minute in (9, 5, 2)
        ]
        found.append(StoredDeadLetter(dead_letter_of("$: expected a table", "rejected_by_bigquery"), "dlq/order/0"))
        groups = group(found, Settings(project="my-project"))
        assert (groups.total, groups.other, [one.count for one in groups.groups]) == (4, 0, [3, 1])
        first = groups.groups[0]
        assert (first.first_seen, first.last_seen) == (NOW + timedelta(minutes=2), NOW + timedelta(minutes=9))
        assert (first.example.object_name, first.example.error) == ("dlq/order/9", "$.status: expected one of a, got '9'")
        assert first.replay == (
            "ecomflow dlq replay --stream order --reason contract_violation"
            f" --fingerprint {first.fingerprint.id} --project my-project"
        )

    def test_the_groups_are_bounded(self) -> None:
        """A producer that makes up event types fills no memory: those beyond the bound are counted as others."""
        found = (
            StoredDeadLetter(
                dead_letter_of("$.event_type: expected one of order", "unknown_event_type", f"type-{n}"), "dlq/unknown/x"
            )
            for n in range(MAX_GROUPS + 5)
        )
        groups = group(found, Settings())
        assert (groups.total, len(groups.groups), groups.other) == (MAX_GROUPS + 5, MAX_GROUPS, 5)


class TestUnknownFields:
    def test_they_are_read_from_the_counters(self) -> None:
        """By type and path, the most frequent first; other counters are none of them."""
        counters = {
            "received": 9,
            "schema_drift/order/$.coupon": 2,
            "schema_drift/order/$.items[].a/b": 7,
            "schema_drift/other": 1,
            "schema_drift/inventory/other": 3,
        }
        assert [(one.event_type, one.path, one.count) for one in unknown_fields(counters)] == [
            ("order", "$.items[].a/b", 7),
            ("inventory", "other", 3),
            ("order", "$.coupon", 2),
            ("any", "other", 1),
        ]
