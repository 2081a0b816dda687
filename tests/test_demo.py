"""The verdict of ``ecomflow demo``."""

from __future__ import annotations

import pytest

from ecomflow.demo import Outcome, check
from ecomflow.errors import ImbalanceError
from ecomflow.generator.publisher import PublishSummary
from ecomflow.reconciliation.reconcile import Reconciliation, TypeBalance
from ecomflow.warehouse.queries import Answer


def outcome(facts: int, dead_letters: int, missing: tuple[str, ...] = ()) -> Outcome:
    """Two valid orders and one invalid one were published; ``facts`` and ``dead_letters`` of them were found."""
    published = PublishSummary(3, {"order": 2}, {"order": 1}, {}, {}, {}, 4, 1.0, False)
    line = TypeBalance("order", 3, facts, dead_letters, 0, not missing)
    equation = Reconciliation("ledger.jsonl", (line,), None, missing, (), (), not missing)
    return Outcome(published, equation, Answer("", (), ()))


class TestCheck:
    def test_valid_events_are_facts_and_invalid_ones_dead_letters(self) -> None:
        """The demo succeeds if each event is where its validity says."""
        check(outcome(2, 1))

    @pytest.mark.parametrize(("facts", "dead_letters"), [(3, 0), (1, 2)])
    def test_an_event_that_was_wrongly_loaded_or_refused(self, facts: int, dead_letters: int) -> None:
        """The demo fails, although no event is lost, if an invalid event was loaded or a valid one refused."""
        with pytest.raises(ImbalanceError, match=f"order: {facts} facts and {dead_letters} dead letters"):
            check(outcome(facts, dead_letters))

    def test_a_lost_event(self) -> None:
        """The demo fails with the id of an event that is nowhere."""
        with pytest.raises(ImbalanceError, match="1 missing: e1"):
            check(outcome(1, 1, missing=("e1",)))
