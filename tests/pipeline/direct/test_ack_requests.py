"""Ack ids as requests: how large they are, and what becomes of those that are refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from google.api_core import exceptions

from ecomflow.pipeline.direct.ack_requests import MOST_BYTES, portions, send_in_portions


@pytest.mark.parametrize("length", [1, 220, 500, 5000, 500_000])
def test_portions_are_bounded(length: int) -> None:
    """In ids and in bytes, but for an id that is too long by itself; all come, in order."""
    ack_ids = [f"{number:0{length}}" for number in range(2500 if length <= 5000 else 3)]
    found = [list(part) for part in portions(ack_ids)]
    assert [ack_id for part in found for ack_id in part] == ack_ids
    assert max(map(len, found)) <= 1000
    assert max(sum(len(ack_id) + 4 for ack_id in part) for part in found) <= max(MOST_BYTES, length + 4)
    assert len(found) <= 3 + 2 * sum(map(len, ack_ids)) // MOST_BYTES


def test_no_ids_make_no_request() -> None:
    assert list(portions([])) == []


class Service:
    """Takes requests of ids that are all good, and refuses others as a whole."""

    def __init__(self, bad: set[str]) -> None:
        self.bad = bad
        self.taken: list[str] = []
        self.requests = 0

    def send(self, ack_ids: Sequence[str]) -> None:
        self.requests += 1
        if self.bad.intersection(ack_ids):
            raise exceptions.InvalidArgument("refused by the test")
        self.taken += ack_ids


def test_a_refused_portion_is_halved_down_to_the_id(caplog: pytest.LogCaptureFixture) -> None:
    """All others are accepted, once each and in order, and a warning names the one that is left."""
    ack_ids = [str(number) for number in range(2500)]
    service = Service({"1234"})
    assert sum(send_in_portions(ack_ids, service.send)) == 2499
    assert service.taken == [ack_id for ack_id in ack_ids if ack_id != "1234"]
    assert service.requests <= 3 + 2 * 10
    assert "refused by the test" in caplog.text


def test_where_all_are_refused_the_refusal_is_raised() -> None:
    """It does not ask for each of ten thousand."""
    ack_ids = [str(number) for number in range(10_000)]
    service = Service(set(ack_ids))
    with pytest.raises(exceptions.InvalidArgument):
        list(send_in_portions(ack_ids, service.send))
    assert service.requests == 51
