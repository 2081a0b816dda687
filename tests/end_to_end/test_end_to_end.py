"""The whole path through real processes: the CLI, the pipeline, Pub/Sub, GCS and BigQuery on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from ecomflow.config import Endpoints, Settings
from ecomflow.deadletters import store
from ecomflow.gcp.target import Target
from ecomflow.generator import publisher, rounds
from ecomflow.local.pubsub.server import read_backlog
from ecomflow.processes.detached import processes_of
from tests.support.cli import ecomflow, start
from tests.support.reference import assert_landed, expected_rows, rows_of, sort_key
from tests.support.running import count_waiting, running, settings_in
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]


class TestAThousandRounds:
    """``ecomflow publish --n 1000 --seed 7``: every event in its place, and nothing else."""

    def test_every_event_is_where_it_belongs(self, provisioned: Settings, stack: Endpoints, tmp_path: Path) -> None:
        """All rows and dead letters equal, value by value, what an independent reading of the published events gives."""
        settings = settings_in(tmp_path, provisioned, stack)
        yesterday = datetime.now(UTC).date() - timedelta(days=1)
        target = Target(settings, stack)
        with running(settings):
            published = ecomflow(
                "publish", "--n", "1000", "--seed", "7", "--date", str(yesterday), "--json", settings=settings, folder=tmp_path
            )
            assert published.returncode == 0, published.stderr
            wait_until(lambda: count_waiting(target) == 0)
        events = list(rounds.generate(1000, seed=7, now=datetime.now(UTC), event_date=yesterday))
        assert json.loads(published.stdout)["summary"]["total"] == len(events) == 6000
        assert_landed(target, events)


class TestKilledInMidStream:
    def test_no_event_is_lost_and_each_is_seen_once(self, provisioned: Settings, stack: Endpoints, tmp_path: Path) -> None:
        """Killed three times under load and started again, the pipeline loses nothing; the unique views show each event once."""
        settings = settings_in(tmp_path, provisioned, stack)
        events = list(rounds.generate(3000, seed=11, now=datetime.now(UTC)))
        target = Target(settings, stack)
        publisher.publish(target, events)
        for _ in range(3):
            self.kill_at_work(target, tmp_path)
        with running(settings):
            wait_until(lambda: count_waiting(target) == 0, seconds=90)

        for table, expected in expected_rows(events).items():
            found = rows_of(target, f"{table}_unique")
            assert sorted(found, key=sort_key) == sorted(expected, key=sort_key), table
        letters = {stored.letter.event_id for stored in store.newest(target, limit=100_000)}
        assert letters == {event.attributes["event_id"] for event in events if event.fault is not None}

    @staticmethod
    def kill_at_work(target: Target, folder: Path) -> None:
        """Start the pipeline and kill it as soon as it holds messages that it has not acknowledged."""
        process = start("deploy", settings=target.settings, log=folder / "pipeline.log")
        wait_until(
            lambda: read_backlog(str(target.endpoints.pubsub), target.settings.subscription_path).num_outstanding_messages > 0,
            seconds=30,
        )
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=10)


class TestFoldersBelow:
    def test_the_stack_is_that_of_the_folder_above(self, tmp_path: Path) -> None:
        """A command in a folder below the stack's works on that stack; where there is none, down says so and stops nothing."""
        (below := tmp_path / "shop" / "sql").mkdir(parents=True)
        (beside := tmp_path / "other").mkdir()
        shop = tmp_path / "shop"
        try:
            assert ecomflow("infra", "up", folder=shop).returncode == 0
            refused = ecomflow("infra", "down", "--with-data", "--yes", folder=beside)
            assert refused.returncode == 3
            assert refused.stderr.splitlines()[0] == f"Error: There is no local stack: {beside}/.ecomflow/ does not exist."
            published = ecomflow("publish", "--n", "1", folder=below)
            assert published.returncode == 0, published.stderr
            assert published.stdout.splitlines()[0] == f"Local stack in {shop}/.ecomflow/ (no project is configured)."
            down = ecomflow("infra", "down", "--with-data", "--yes", folder=below)
            assert down.stdout.splitlines()[-1] == "The local stack is stopped and its data is deleted."
            assert processes_of(shop / ".ecomflow") == []
            assert not (shop / ".ecomflow" / "pubsub").exists()
            assert (list(below.iterdir()), list(beside.iterdir())) == ([], [])
        finally:
            ecomflow("infra", "down", folder=shop)


class TestDemo:
    def test_it_adds_up(self, tmp_path: Path) -> None:
        """The demo publishes, loads, counts and answers; it leaves nothing behind in the folder."""
        result = ecomflow("demo", "--n", "20", "--json", folder=tmp_path)
        assert result.returncode == 0, result.stderr
        outcome = json.loads(result.stdout)
        lines = {line["event_type"]: (line["facts"], line["dead_letters"]) for line in outcome["equation"]["lines"]}
        assert lines == dict.fromkeys(("order", "inventory", "user_activity"), (20, 20))
        assert outcome["equation"]["adds_up"] is True
        assert outcome["answer"]["columns"][0] == "product_id"
        assert list(tmp_path.iterdir()) == []

    def test_it_ends_with_the_next_commands(self, tmp_path: Path) -> None:
        """The same path by hand, on services that stay."""
        result = ecomflow("demo", "--n", "1", folder=tmp_path)
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[-4:] == [
            "Try it with services that keep running:",
            "  ecomflow infra up",
            "  ecomflow deploy --detach",
            "  ecomflow publish --n 100",
        ]


class TestCommandsOnTheStack:
    def test_a_second_infra_up_changes_nothing_and_says_so(self, provisioned: Settings, stack: Endpoints, tmp_path: Path) -> None:
        """With everything there, infra up keeps it."""
        result = ecomflow("infra", "up", settings=provisioned, folder=tmp_path)
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[-1] == "All 16 resources are up to date; nothing was changed."

    def test_a_missing_table_stops_the_deploy_before_it_starts(
        self, settings: Settings, stack: Endpoints, tmp_path: Path
    ) -> None:
        """deploy names the tables that are missing and the command that makes them."""
        result = ecomflow("deploy", settings=settings_in(tmp_path, settings, stack), folder=tmp_path)
        assert result.returncode == 3
        assert "fact_order_header" in result.stderr
        assert result.stderr.splitlines()[-1].endswith("ecomflow infra up")

    def test_publishing_to_a_topic_that_is_not_there(self, settings: Settings, stack: Endpoints, tmp_path: Path) -> None:
        """publish names the topic and what to run."""
        result = ecomflow("publish", "--n", "1", settings=settings, folder=tmp_path)
        assert result.returncode == 3
        assert f"{settings.topic_path} does not exist" in result.stderr
        assert result.stderr.splitlines()[-1].endswith("ecomflow infra up")

    def test_a_second_pipeline_is_refused(self, provisioned: Settings, stack: Endpoints, tmp_path: Path) -> None:
        """While one pipeline runs under a state folder, deploy refuses to start another; job status shows the first."""
        settings = settings_in(tmp_path, provisioned, stack)
        with running(settings) as first:
            wait_until(lambda: (tmp_path / "pipeline.json").exists())
            second = ecomflow("deploy", settings=settings, folder=tmp_path)
            shown = json.loads(ecomflow("job", "status", "--json", settings=settings, folder=tmp_path).stdout)
        assert second.returncode == 9
        assert "A pipeline is already running" in second.stderr
        assert (shown["state"], shown["pid"]) == ("running", first.pid)

    def test_drain_ends_a_detached_pipeline(self, provisioned: Settings, stack: Endpoints, tmp_path: Path) -> None:
        """deploy --detach returns once it runs; job drain ends it well, with its counters shown."""
        settings = settings_in(tmp_path, provisioned, stack)
        started = ecomflow("deploy", "--detach", settings=settings, folder=tmp_path)
        assert started.returncode == 0, started.stderr
        target = Target(settings, stack)
        publisher.publish(target, rounds.generate(5, seed=1, now=datetime.now(UTC)))
        wait_until(lambda: count_waiting(target) == 0)
        drained = ecomflow("job", "drain", settings=settings, folder=tmp_path)
        assert drained.returncode == 0, drained.stderr
        assert re.search(r"received\s+30", drained.stdout)
        assert drained.stdout.splitlines()[-1] == "The pipeline is drained."

    def test_dead_letters_and_a_question_as_json(self, provisioned: Settings, stack: Endpoints, tmp_path: Path) -> None:
        """dlq inspect filters by stream and reason, newest first; query answers for a date."""
        settings = settings_in(tmp_path, provisioned, stack)
        day = date(2025, 12, 1)
        with running(settings):
            events = list(rounds.generate(40, seed=3, now=datetime.now(UTC), event_date=day))
            target = Target(settings, stack)
            publisher.publish(target, events)
            wait_until(lambda: count_waiting(target) == 0)
        shown = ecomflow(
            "dlq", "inspect", "--stream", "order", "--reason", "contract_violation", "--limit", "100", "--json", settings=settings
        )
        letters = [stored["letter"] for stored in json.loads(shown.stdout)]
        wanted = [e for e in events if (e.expected_stream, e.expected_reason) == ("order", "contract_violation")]
        assert {letter["event_id"] for letter in letters} == {event.attributes["event_id"] for event in wanted}
        assert [letter["failed_at"] for letter in letters] == sorted((letter["failed_at"] for letter in letters), reverse=True)

        answer = ecomflow("query", "delivered-orders-per-country", "--date", str(day), "--json", settings=settings)
        delivered = Counter(
            row["shipping_address_country"] for row in expected_rows(events)["fact_order_header"] if row["status"] == "delivered"
        )
        assert {row["shipping_address_country"]: row["delivered_orders"] for row in json.loads(answer.stdout)} == delivered
