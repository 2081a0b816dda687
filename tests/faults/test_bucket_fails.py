"""The bucket fails before a pipeline that runs: nothing is acknowledged that is not written, and it goes on by itself."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest

from ecomflow.config import Endpoints, Settings
from ecomflow.gcp.target import Target
from tests.support.fronts import Hold, HttpHold
from tests.support.running import Fronts, Pipeline, count_waiting, equation_holds, events, publish
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.stack]


@pytest.mark.parametrize(
    "status", [pytest.param(429, marks=pytest.mark.faults), pytest.param(500, marks=pytest.mark.faults), 503]
)
def test_a_passing_status_is_waited_for(
    status: int, shop: Settings, stack: Endpoints, fronts: Fronts, pipeline: Pipeline, ledger: Path
) -> None:
    """The pipeline says that it waits for the bucket, tries again, and does not restart."""
    said, restarts = len(pipeline.said()), pipeline.status().restarts
    left = deque([status] * 6)
    fronts.storage.plan = lambda method, path: left.popleft() if method == "POST" and left else None
    target = Target(shop, stack)
    publish(target, events(5, seed=status), ledger)
    equation_holds(target, ledger)
    assert not left
    pipeline.says("Waiting for the bucket to accept dead letters", since=said)
    assert pipeline.status().restarts == restarts


def test_a_bucket_that_hangs(shop: Settings, stack: Endpoints, fronts: Fronts, pipeline: Pipeline, ledger: Path) -> None:
    """While an upload has no answer nothing of its batch is acknowledged; once the bucket answers, all of it is."""
    hold = Hold()
    fronts.storage.plan = lambda method, path: HttpHold(hold) if method == "POST" else None
    target = Target(shop, stack)
    publish(target, events(5, seed=31), ledger)
    wait_until(hold.reached.is_set, "an upload hangs")
    assert count_waiting(target) == 30
    fronts.heal()
    hold.released.set()
    equation_holds(target, ledger)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("status", "sentence", "remedy"),
    [
        (404, "Bucket {} does not exist, so dead letters can't be written.", "Run: ecomflow infra up"),
        (403, "Bucket {} can't be written", "Grant the role roles/storage.objectCreator."),
    ],
    ids=["missing", "read-only"],
)
def test_a_bucket_that_takes_nothing(
    status: int, sentence: str, remedy: str, shop: Settings, stack: Endpoints, fronts: Fronts, pipeline: Pipeline, ledger: Path
) -> None:
    """The pipeline says what is wrong and what to do, keeps everything unacknowledged, and continues once it is fixed."""
    said = len(pipeline.said())
    fronts.storage.plan = lambda method, path: status if method == "POST" else None
    target = Target(shop, stack)
    publish(target, events(5, seed=status), ledger)
    pipeline.says(sentence.format(shop.bucket), since=said)
    pipeline.says(remedy, since=said)
    wait_until(lambda: sentence.format(shop.bucket) in str(pipeline.status().last_failure), "job status says it too")
    assert count_waiting(target) == 30
    fronts.heal()
    equation_holds(target, ledger)


@pytest.mark.faults
def test_a_bucket_that_hangs_beyond_the_timeout(
    shop: Settings, stack: Endpoints, fronts: Fronts, pipeline: Pipeline, ledger: Path
) -> None:
    """An upload whose answer never comes is given up and sent again."""
    hold = Hold()
    fronts.storage.plan = lambda method, path: HttpHold(hold) if method == "POST" and fronts.storage.requests < limit else None
    limit, said = fronts.storage.requests + 4, len(pipeline.said())
    target = Target(shop, stack)
    publish(target, events(5, seed=32), ledger)
    pipeline.says("Read timed out", since=said)
    equation_holds(target, ledger)
    hold.released.set()
