"""The ingestion times of a batch's events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from ecomflow.pipeline.ingestion import IngestionTimes

NOW = datetime(2026, 2, 1, 12, 30, 15, 123456, UTC)
MICROSECONDS = (NOW - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def test_a_batch_has_one_time() -> None:
    """In whole microseconds since 1970."""
    assert IngestionTimes().of(["a", "b"], NOW) == MICROSECONDS == 1769949015123456


def test_a_later_batch_has_a_later_time() -> None:
    """Also where the clock stands still or steps back."""
    times = IngestionTimes()
    moments = [NOW, NOW, NOW - timedelta(hours=1), NOW + timedelta(seconds=1)]
    assert [times.of(["a"], now) - MICROSECONDS for now in moments] == [0, 1, 2, 1_000_000]


def test_an_id_that_comes_again_has_a_later_time() -> None:
    """In the order of the batch; the next batch is later than all of them."""
    times = IngestionTimes()
    found = times.of(["a", "b", "a", "c", "a", "b"], NOW)
    assert isinstance(found, np.ndarray)
    assert list(found - MICROSECONDS) == [0, 0, 1, 0, 2, 1]
    assert times.of(["a"], NOW) == MICROSECONDS + 3
