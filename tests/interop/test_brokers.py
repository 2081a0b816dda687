"""The whole path with another broker than the embedded Pub/Sub, named by PUBSUB_EMULATOR_HOST; the rest is the local stack."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ecomflow.config import Settings
from ecomflow.deadletters import store
from ecomflow.gcp.target import Target, open_target
from ecomflow.generator import rounds
from tests.interop.brokers import BROKERS
from tests.interop.programs import MissingError
from tests.support.cli import ecomflow
from tests.support.reference import assert_landed, expected_rows, rows_of
from tests.support.running import running
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.interop, pytest.mark.stack, pytest.mark.timeout(300)]

_ROUNDS, _SEED, _LEDGER = 200, 7, "published.jsonl"


class Shop(NamedTuple):
    """A shop whose pipeline runs, and the events that were published to it."""

    settings: Settings
    target: Target
    events: list[rounds.GeneratedEvent]
    folder: Path

    def says(self, *arguments: str) -> Any:
        """What ``ecomflow ARGUMENTS --json`` prints, ending well."""
        result = ecomflow(*arguments, "--json", settings=self.settings, folder=self.folder)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)


@pytest.fixture(scope="module", params=sorted(BROKERS))
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the broker listens, which PUBSUB_EMULATOR_HOST names."""
    with ExitStack() as stack:
        try:
            host = stack.enter_context(BROKERS[request.param](tmp_path_factory.mktemp("broker")))
        except MissingError as missing:
            pytest.skip(f"{request.param}, because {missing}")
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("PUBSUB_EMULATOR_HOST", host)
        yield host


@pytest.fixture(scope="module")
def settings(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A local stack in a folder of its own, with everything created by infra up."""
    folder = tmp_path_factory.mktemp("shop")
    settings = Settings(ack_deadline_seconds=10, state_dir=str(folder / ".ecomflow"))
    try:
        result = ecomflow("infra", "up", settings=settings, folder=folder)
        assert result.returncode == 0, result.stdout + result.stderr
        yield settings
    finally:
        ecomflow("infra", "down", "--with-data", "--yes", settings=settings, folder=folder)


@pytest.fixture(scope="module")
def shop(settings: Settings) -> Iterator[Shop]:
    """The same with a pipeline, after it has processed 200 rounds of events."""
    yesterday, folder = datetime.now(UTC).date() - timedelta(days=1), settings.state_path.parent
    events = list(rounds.generate(_ROUNDS, seed=_SEED, now=datetime.now(UTC), event_date=yesterday))
    with running(settings), open_target(settings) as target:
        shop = Shop(settings, target, events, folder)
        generated = ("--n", str(_ROUNDS), "--seed", str(_SEED), "--date", str(yesterday))
        published = shop.says("publish", *generated, "--ledger", _LEDGER)
        assert published["summary"]["total"] == len(events)
        wait_until(lambda: is_processed(shop), "every event is a row or a dead letter")
        yield shop


def is_processed(shop: Shop) -> bool:
    """Whether there are as many rows and dead letters as the events give."""
    invalid = sum(event.fault is not None for event in shop.events)
    letters = store.newest(shop.target, limit=len(shop.events))
    tables = expected_rows(shop.events)
    return len(letters) >= invalid and all(len(rows_of(shop.target, name)) >= len(rows) for name, rows in tables.items())


def test_infra_up_creates_everything(settings: Settings) -> None:
    """A second run has nothing to create or to change. It names the retention that the broker does not take."""
    result = ecomflow("infra", "up", "--json", settings=settings, folder=settings.state_path.parent)
    assert result.returncode == 0, result.stderr
    outcome = json.loads(result.stdout)
    assert outcome["steps"] == []
    left = [(one["name"].rsplit("/", 1)[-1], one["difference"]["attribute"]) for one in outcome["left"]]
    assert left == [("ecomflow-events-dead-letter", "retention_days")]


def test_every_event_becomes_its_rows_or_its_dead_letter(shop: Shop) -> None:
    """Value by value, what an independent reading of the published events gives."""
    assert_landed(shop.target, shop.events)


def test_dlq_inspect_lists_the_dead_letters(shop: Shop) -> None:
    """The ids of all invalid events, and no others."""
    letters = [found["letter"] for found in shop.says("dlq", "inspect", "--limit", "10000")]
    assert {letter["event_id"] for letter in letters} == {e.attributes["event_id"] for e in shop.events if e.fault is not None}


def test_reconcile_adds_up_without_the_backlog(shop: Shop) -> None:
    """Such a broker does not tell how many messages wait. Everything else is counted, and it adds up."""
    outcome = shop.says("reconcile", "--ledger", _LEDGER)
    assert outcome["waiting"] is None
    assert outcome["adds_up"] is True
    counts = {line["event_type"]: (line["published"], line["facts"], line["dead_letters"]) for line in outcome["lines"]}
    assert counts == dict.fromkeys(("order", "inventory", "user_activity"), (400, 200, 200))
