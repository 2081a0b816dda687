"""``ecomflow dlq`` on the local stack: what lies in the bucket, shown, grouped, followed and exported."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from rich.cells import cell_len

from ecomflow.config import Endpoints, Settings
from ecomflow.deadletters import store as deadletters
from ecomflow.deadletters.store import DeadLetterFilter, Unreadable
from ecomflow.gcp.target import Target
from ecomflow.pipeline.direct.launch import STATUS_FILE, PipelineStatus
from tests.support.cli import ecomflow, environment, write_stack_file
from tests.support.dataflow import as_variables, dataflow_beside, in_project
from tests.support.dead_letters import held, letter, names, still, store

pytestmark = pytest.mark.stack


@pytest.fixture
def bucket(settings: Settings, stack: Endpoints) -> Settings:
    """Settings whose bucket exists, and is empty; nothing else is there."""
    from ecomflow.gcp.clients import storage_client

    storage_client(settings.project_id, stack).create_bucket(settings.bucket_name)
    return settings


@pytest.fixture
def filled(bucket: Settings, stack: Endpoints) -> Settings:
    """Three held orders in an object, a still inventory event, and bytes that are no event."""
    target = Target(bucket, stack)
    store(target, [held(number) for number in (1, 2, 3)])
    store(target, [still(1, datetime.now(UTC) - timedelta(hours=3))])
    store(
        target,
        [letter(b"\xff", "$: expected a JSON object in UTF-8, got bytes", "malformed_json", message_id="M-7")],
    )
    return bucket


def inspected(settings: Settings, *arguments: str) -> list[dict[str, str]]:
    result = ecomflow("dlq", "inspect", "--json", *arguments, settings=settings)
    assert result.returncode == 0, result.stderr
    return list(json.loads(result.stdout))


class TestInspect:
    def test_filters(self, filled: Settings) -> None:
        """By event id, by an id that is a message's, by fingerprint, by age; each letter with its path and fingerprint."""
        (found,) = inspected(filled, "--event-id", "E-2")
        assert (found["letter"]["event_id"], found["path"]) == ("E-2", "$.status")
        assert [one["letter"]["reason"] for one in inspected(filled, "--event-id", "M-7")] == ["malformed_json"]
        alike = inspected(filled, "--fingerprint", found["fingerprint"])
        assert {one["letter"]["event_id"] for one in alike} == {"E-1", "E-2", "E-3"}
        assert len(inspected(filled, "--since", "1h")) == 4
        assert len(inspected(filled)) == 5

    def test_a_letter_on_80_columns(self, bucket: Settings, stack: Endpoints) -> None:
        """When, the whole event id and the stream; reason, path and error; the payload as far as the line goes."""
        event_id = "0f8fad5b-d9cb-469f-a165-70867728950e"
        error = "$.metadata.platform: expected one of web, mobile, tablet, got 'television set'"
        body = {"event_type": "user_activity", "text": "東京" * 60}
        store(Target(bucket, stack), [letter(body, error, event_id=event_id)])
        for more in ((), ("--event-id", event_id)):
            lines = ecomflow("dlq", "inspect", *more, settings=bucket, COLUMNS="80").stdout.splitlines()
            assert max(map(cell_len, lines)) <= 80
            assert lines[0].split()[2:] == [event_id, "user_activity"]
            assert " ".join(" ".join(lines[1:3]).split()) == f"contract_violation {error}"
            assert lines[3].startswith('  {"event_type":"user_activity","text":"東京')
            assert lines[4].startswith("For whole payloads: --full.")


class TestStats:
    def test_groups_and_commands(self, filled: Settings) -> None:
        """A group for each cause, the largest first; the command it prints selects the group, and no more."""
        groups = json.loads(ecomflow("dlq", "stats", "--json", settings=filled).stdout)["groups"]
        shape = [(one["count"], one["stream"], one["reason"], one["fingerprint"]["path"]) for one in groups["groups"]]
        assert shape == [
            (3, "order", "contract_violation", "$.status"),
            (1, "inventory", "contract_violation", "$.quantity_change"),
            (1, "unknown", "malformed_json", "$"),
        ]
        assert groups["groups"][0]["example"]["event_id"] in ("E-1", "E-2", "E-3")
        shown = ecomflow("dlq", "stats", "--commands", settings=filled).stdout
        assert groups["groups"][0]["replay"] in shown
        command = [*groups["groups"][0]["replay"].split()[1:], "--dry-run"]
        assert "0 of 3 now pass, 3 fail on $.status." in ecomflow(*command, settings=filled).stdout

    def test_groups_on_80_columns(self, filled: Settings) -> None:
        """Two lines a group, the largest first, as many as --limit says; the commands on request."""
        groups = json.loads(ecomflow("dlq", "stats", "--json", settings=filled).stdout)["groups"]["groups"]
        lines = ecomflow("dlq", "stats", "--limit", "2", settings=filled, COLUMNS="80").stdout.splitlines()
        assert max(map(len, lines)) <= 80
        first = groups[0]["fingerprint"]
        assert lines[0].split()[:5] == ["3", first["id"], "order", "contract_violation", "last"]
        assert lines[1].startswith(f"         $.status: {first['rule'][:20]}")
        assert lines[2].split()[:4] == ["1", groups[1]["fingerprint"]["id"], "inventory", "contract_violation"]
        assert lines[4] == "5 dead letters in 3 groups, 1 of them in smaller groups: --limit or --json."
        assert not any("ecomflow dlq replay" in line for line in lines)

    def test_unknown_fields_of_events_that_passed(self, bucket: Settings, stack: Endpoints, tmp_path: Path) -> None:
        """What the pipeline counted, by type and path; they passed, so there is no letter."""
        settings = msgspec.structs.replace(bucket, state_dir=str(tmp_path))
        write_stack_file(tmp_path, stack)
        counters = {"received": 9, "schema_drift/order/$.coupon": 4, "schema_drift/order/$.items[].gift": 7}
        status = PipelineStatus("drained", counters=counters)
        (tmp_path / STATUS_FILE).write_bytes(msgspec.json.encode(status))
        shown = ecomflow("dlq", "stats", settings=settings).stdout
        assert "No dead letters match." in shown
        lines = [line.split() for line in shown.splitlines()]
        assert [line for line in lines if line[:1] == ["order"]] == [
            ["order", "$.items[].gift", "7"],
            ["order", "$.coupon", "4"],
        ]

    def test_unknown_fields_of_a_job(self, filled: Settings, stack: Endpoints) -> None:
        """For a project they are the counters of its job, summed over the steps."""
        with dataflow_beside(stack) as (stub, endpoints):
            job_id = stub.add_job("ecomflow")
            for step in ("Decode", "Decode again"):
                stub.add_metric(job_id, "schema_drift/order/$.coupon", 4, namespace="ecomflow", step=step)
            result = ecomflow("dlq", "stats", "--json", settings=in_project(filled), **as_variables(endpoints))
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["unknown_fields"] == [{"event_type": "order", "path": "$.coupon", "count": 8}]

    def test_without_a_job_to_ask(self, filled: Settings, stack: Endpoints) -> None:
        """The dead letters of a project are grouped all the same; standard error says why its counters are not shown."""
        with dataflow_beside(stack) as (_, endpoints):
            result = ecomflow("dlq", "stats", "--json", settings=in_project(filled), **as_variables(endpoints))
        assert result.returncode == 0, result.stderr
        assert result.stderr.startswith("Fields that are not in the contract can't be shown: There is no job named ecomflow")
        assert json.loads(result.stdout)["groups"]["total"] == 5


class TestExport:
    def test_a_file_and_standard_output(self, filled: Settings, tmp_path: Path) -> None:
        """A JSON object a line, the same in both; the sentence is on standard error."""
        into = tmp_path / "refused.jsonl"
        written = ecomflow("dlq", "export", str(into), settings=filled)
        assert (written.returncode, written.stdout) == (0, "")
        assert written.stderr.startswith("5 dead letters written to")
        streamed = ecomflow("dlq", "export", "-", settings=filled)
        assert streamed.stdout == into.read_text()
        assert sorted(str(json.loads(line)["event_id"]) for line in into.open()) == ["E-1", "E-2", "E-3", "I-1", "None"]
        only = ecomflow("dlq", "export", "-", "--stream", "inventory", settings=filled)
        assert [json.loads(line)["event_id"] for line in only.stdout.splitlines()] == ["I-1"]

    def test_what_is_exported_can_be_published_and_checked(self, filled: Settings, tmp_path: Path) -> None:
        """The lines are messages for publish and contract check too: their bytes and attributes come back as they were."""
        into = tmp_path / "refused.jsonl"
        ecomflow("dlq", "export", str(into), settings=filled)
        letters = [json.loads(line) for line in into.open()]
        again = ecomflow("publish", "--file", str(into), "--dry-run", settings=filled)
        assert again.returncode == 0, again.stderr
        lines = [json.loads(line) for line in again.stdout.splitlines()]
        assert [one["data"] for one in lines] == [one["payload"] for one in letters]
        assert [one["attributes"].items() >= two["attributes"].items() for one, two in zip(lines, letters, strict=True)] == [
            True
        ] * 5
        (tmp_path / "again.jsonl").write_text(again.stdout)
        counts = []
        for path in (into, tmp_path / "again.jsonl"):
            result = ecomflow("contract", "check", str(path), "--json", settings=filled)
            counts.append(json.loads(result.stdout.splitlines()[-1])["summary"]["refused"])
        assert counts == [{"contract_violation": 4, "malformed_json": 1}] * 2

    def test_a_path_that_cannot_be_written(self, filled: Settings, tmp_path: Path) -> None:
        """It is named, and nothing half written is left."""
        result = ecomflow("dlq", "export", str(tmp_path / "none" / "file"), settings=filled)
        assert (result.returncode, "can't be written: No such file" in result.stderr) == (5, True)
        assert list(tmp_path.iterdir()) == []


class TestFollow:
    def test_an_object_is_shown_once(self, filled: Settings, stack: Endpoints) -> None:
        """What was there at the beginning comes first and never again; what arrives comes after it."""

        looks = iter(range(9))

        target = Target(filled, stack)

        def nap(_: float) -> None:
            store(target, [held(20 + (number := next(looks)))], f"late-{number}")

        found = deadletters.follow(
            target, DeadLetterFilter(streams=("order",)), limit=2, unreadable=list[Unreadable](), sleep=nap
        )
        ids = [next(found).letter.event_id for _ in range(5)]
        assert ids == ["E-2", "E-3", "E-20", "E-21", "E-22"]

    def test_a_clock_that_is_set_back_makes_nothing_new(self, filled: Settings, stack: Endpoints) -> None:
        """The dead letters of the last day are not shown as if they arrived; those that do arrive then are."""
        target = Target(filled, stack)
        store(target, [held(50, datetime.now(UTC) - timedelta(hours=5))], "old")
        looks = iter(range(9))
        back = [timedelta()]

        def nap(_: float) -> None:
            if (number := next(looks)) == 1:
                back[0] = timedelta(days=1)
            elif number in (0, 2):
                store(target, [held(20 + number, datetime.now(UTC) - back[0])], f"late-{number}")

        found = deadletters.follow(
            target,
            DeadLetterFilter(streams=("order",)),
            limit=1,
            unreadable=list[Unreadable](),
            sleep=nap,
            now=lambda: datetime.now(UTC) - back[0],
        )
        assert [next(found).letter.event_id for _ in range(3)] == ["E-3", "E-20", "E-22"]

    def test_ctrl_c_ends_it_well_and_soon(self, filled: Settings) -> None:
        """--follow --json prints an object a line as they come, and ends with 0 soon after Ctrl-C."""
        command = [sys.executable, "-m", "ecomflow", "dlq", "inspect", "--follow", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(filled)) as process:
            assert process.stdout is not None
            lines = [json.loads(process.stdout.readline()) for _ in range(5)]
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            _, errors = process.communicate(timeout=10)
        assert (process.returncode, errors) == (0, b"")
        assert time.monotonic() - began < 3  # a tenth of that on a machine with nothing else to do
        assert {one["letter"]["message_id"] for one in lines} == {"M-1", "M-7"}


class TestTenThousand:
    OBJECTS, LETTERS = 500, 20

    @pytest.fixture
    def many(self, bucket: Settings, stack: Endpoints) -> Iterator[Settings]:
        """10,000 dead letters of two streams in 500 objects, over some hours."""
        start = datetime.now(UTC) - timedelta(minutes=self.OBJECTS)

        def put(number: int) -> None:
            make, at = (held, still)[number % 2], start + timedelta(minutes=number)
            store(Target(bucket, stack), [make(number * self.LETTERS + line, at) for line in range(self.LETTERS)], str(number))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, range(self.OBJECTS)))
        return bucket

    def test_inspected_and_grouped_in_seconds_with_flat_memory(self, many: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        """All are grouped within seconds, in no more memory than one letter takes to be shown."""
        few, few_seconds, few_megabytes = self.measured(many, "inspect", "--limit", "1", "--json")
        stats, seconds, megabytes = self.measured(many, "stats", "--json")
        counts = [(one["stream"], one["count"]) for one in json.loads(stats)["groups"]["groups"]]
        with capsys.disabled():
            print(
                f"\n10,000 letters in 500 objects: grouped in {seconds:.1f} s, {megabytes:.0f} MB; "
                f"the newest shown in {few_seconds:.1f} s, {few_megabytes:.0f} MB"
            )
        assert len(json.loads(few)) == 1
        assert counts == [("inventory", 5000), ("order", 5000)]
        assert seconds < 30
        assert megabytes < few_megabytes + 40

    @staticmethod
    def measured(settings: Settings, *arguments: str) -> tuple[str, float, float]:
        """What the command printed, its seconds, and the most memory that it took, in MB."""
        began = time.monotonic()
        with subprocess.Popen(
            [sys.executable, "-m", "ecomflow", "dlq", *arguments], stdout=subprocess.PIPE, text=True, env=environment(settings)
        ) as process:
            assert process.stdout is not None
            printed = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        assert isinstance(usage, resource.struct_rusage)
        return printed, time.monotonic() - began, usage.ru_maxrss / 1024


def test_the_bucket_has_only_dead_letters(filled: Settings, stack: Endpoints) -> None:
    """Looking changes nothing."""
    target = Target(filled, stack)
    before = names(target, "")
    ecomflow("dlq", "inspect", settings=filled)
    ecomflow("dlq", "stats", settings=filled)
    assert names(target, "") == before
