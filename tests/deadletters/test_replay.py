"""``ecomflow dlq replay``: refused messages go their way again, and none is lost or seen twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ecomflow.config import Endpoints, Settings
from ecomflow.contract.codec import Codec, DecodedBatch
from ecomflow.contract.dead_letter import DeadLetter, original, to_lines
from ecomflow.contract.events import Message
from ecomflow.deadletters import store as deadletters
from ecomflow.deadletters.replay import ATTEMPT, message_of, plan_replay, refusals, replay
from ecomflow.deadletters.store import ANY, DeadLetterFilter
from ecomflow.errors import AccessError, ConfigError
from ecomflow.gcp.clients import subscriber_client
from ecomflow.gcp.target import Target
from ecomflow.generator import publisher
from ecomflow.warehouse.queries import select
from tests.support.cli import customised, ecomflow
from tests.support.contract import NOW, SHOP, number, order, refusing_totals
from tests.support.dead_letters import STATUS_ERROR, held, letter, names, published_order, still, store
from tests.support.running import count_waiting, settings_in
from tests.support.waiting import wait_until

SHOP_CODEC = Codec(SHOP)
# Killed in the middle: as soon as the replay reaches one of its steps.
KILLED_AT = "import os, ecomflow.deadletters.replay as r; r._Mover.{step} = lambda *_: os.kill(os.getpid(), 9)\n"


def with_another_status(folder: Path) -> Path:
    """A folder with the built-in contract of orders, to which the status on_hold is added."""
    built_in = (resources.files("ecomflow.contract") / "shop" / "order.toml").read_text()
    known = '"cancelled", "returned"]'
    assert known in built_in
    folder.mkdir()
    (folder / "order.toml").write_text(built_in.replace(known, known[:-1] + ', "on_hold"]'))
    return folder


class TestMessageOf:
    """The message that a letter becomes."""

    def test_the_very_bytes_and_attributes_and_an_attempt(self) -> None:
        """Bytes that are no UTF-8 come back as they were; the attempt is one more than the last."""
        refused = letter(b'{"a": \xff}', "$: none", "malformed_json", event_id="E-1", tenant="é")
        assert message_of(refused) == Message(b'{"a": \xff}', {"event_id": "E-1", "tenant": "é", ATTEMPT: "1"}, "M-1", 0)
        again = msgspec.structs.replace(refused, attributes={"event_id": "E-1", ATTEMPT: "6"})
        assert attributes_of(again)[ATTEMPT] == "7"

    @pytest.mark.parametrize("given", ["", "many", "-1", "9" * 400])
    def test_an_attempt_that_is_no_count(self, given: str) -> None:
        """A producer may write there what it likes."""
        refused = msgspec.structs.replace(held(1), attributes={"event_id": "E-1", ATTEMPT: given})
        assert attributes_of(refused)[ATTEMPT] == "1"

    def test_the_message_id_becomes_the_event_id(self) -> None:
        """Without an event_id of its own an event is known by its first message id, also when it comes again."""
        assert attributes_of(letter(order(), STATUS_ERROR, message_id="M-77"))["event_id"] == "M-77"
        assert attributes_of(letter(order(), STATUS_ERROR, message_id="M-77", event_id=""))["event_id"] == "M-77"

    def test_the_ordering_key_is_kept(self) -> None:
        """A letter without one becomes a message without one."""
        keyed = message_of(msgspec.structs.replace(held(1), ordering_key="O-1"))
        plain = message_of(held(1))
        assert isinstance(keyed, Message)
        assert isinstance(plain, Message)
        assert (keyed.ordering_key, plain.ordering_key) == ("O-1", "")

    def test_the_trace_of_the_first_publication_is_left_out(self) -> None:
        """Google's clients set it for each publication; a service that is asked to publish it again may refuse it."""
        traced = msgspec.structs.replace(held(1), attributes={"event_id": "E-1", "googclient_traceparent": "00-1", "a": "b"})
        assert attributes_of(traced) == {"event_id": "E-1", "a": "b", ATTEMPT: "1"}

    def test_a_patch_keeps_exact_numbers(self) -> None:
        """Only what the patch names is changed; digits stay as they were."""
        message = message_of(letter(order(total_amount=number("44.800")), STATUS_ERROR), {"status": "pending"})
        assert isinstance(message, Message)
        assert b'"total_amount":44.800' in message.data
        assert json.loads(message.data)["status"] == "pending"

    @pytest.mark.parametrize(
        ("changes", "patch", "sentence"),
        [
            ({"payload": "abc", "payload_encoding": "base64"}, None, "expected a payload in valid base64"),
            ({"payload": "{"}, {"a": 1}, "expected a JSON document that can be patched"),
            ({"message_id": None, "attributes": {}}, None, "got one with neither"),
        ],
    )
    def test_what_can_be_no_message(self, changes: dict[str, Any], patch: Any, sentence: str) -> None:
        """A sentence says why: one such letter must not stop the others of its request."""
        refused = message_of(msgspec.structs.replace(held(1), **changes), patch)
        assert isinstance(refused, str)
        assert sentence in refused


class TestRefusals:
    def test_each_by_its_place(self) -> None:
        """The pipeline's own steps say which dead letters they would refuse again, and where."""
        at = datetime.now(UTC)
        good = letter(order(order_date=at.isoformat()), "$: expected a table", "rejected_by_bigquery", event_id="E-9")
        wrong_total = letter(order(order_date=at.isoformat(), total_amount=1), "$: expected a table", "rejected_by_bigquery")
        letters = [held(1), good, still(1), letter(b"{", "$: none", "malformed_json"), wrong_total]
        assert {place: path for place, (path, _) in refusals(letters, SHOP_CODEC, at).failing.items()} == {
            0: "$.status",
            2: "$.quantity_change",
            3: "$",
        }
        assert refusals(letters, SHOP_CODEC, at, {"status": "returned"}).failing.keys() == {2, 3}
        assert refusals(letters, Codec(refusing_totals()), at).failing.keys() == {0, 2, 3, 4}

    def test_what_pubsub_would_not_take(self) -> None:
        """Told apart from what the pipeline would refuse: that may be fixed by a contract or a patch, this not."""
        reserved = msgspec.structs.replace(still(1), attributes={"event_id": "I-1", "GOOG_id": "1"})
        many = msgspec.structs.replace(held(1), attributes={f"a{n}": "" for n in range(99)})
        found = refusals([held(2), reserved, many, held(3)], SHOP_CODEC, datetime.now(UTC), {"status": "returned"})
        assert found.failing.keys() == {1}
        assert found.unpublishable == {2: "expected at most 100 attributes, got 101"}

    def test_a_fault_of_ours_refuses_one_letter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where a step still raises for a message, that letter alone does not pass."""
        codec = Codec(SHOP)
        decode = codec.decode

        def raising(messages: Sequence[Message], now: datetime) -> DecodedBatch:
            assert not any(b"poison" in message.data for message in messages), "poison"
            return decode(messages, now)

        monkeypatch.setattr(codec, "decode", raising)
        letters = [held(1), letter(order(customer_id="poison"), "$: expected", "processing_error"), held(2)]
        assert (
            refusals(letters, codec, NOW, {"status": "returned"})
            .failing[1][1]
            .startswith("$: expected a message that the decode step can process")
        )
        assert refusals(letters, codec, NOW, {"status": "returned", "order_date": "2025-12-01T00:00:00Z"}).failing.keys() == {1}


def attributes_of(refused: DeadLetter) -> dict[str, str]:
    message = message_of(refused)
    assert isinstance(message, Message)
    return message.attributes


def arrived(target: Target, count: int) -> list[Any]:
    """The messages in the subscription, ``count`` of them, acknowledged."""
    got: list[Any] = []
    with subscriber_client(target.endpoints) as client:
        while len(got) < count:
            response = client.pull(subscription=target.settings.subscription_path, max_messages=1000, timeout=20)
            ids = [received.ack_id for received in response.received_messages]
            client.acknowledge(subscription=target.settings.subscription_path, ack_ids=ids)
            got += [received.message for received in response.received_messages]
    return got


@pytest.mark.stack
class TestReplayed:
    """What is published, and what lies where afterwards."""

    def test_only_what_was_chosen_and_passes_leaves_its_object(self, provisioned: Settings, target: Target) -> None:
        """Of one object: what passes is published and copied, what fails or was not chosen stays, byte for byte."""
        wrong = letter(order(status="on_hold", items=[]), STATUS_ERROR, event_id="E-3")
        letters = [held(1), wrong, held(2)]
        name = store(target, letters)
        patch = {"status": "returned"}
        plan = plan_replay(target, DeadLetterFilter(event_id="E-1"), patch=patch)
        assert (plan.chosen, plan.passing, plan.failing) == (1, 1, {})
        assert replay(target, plan, patch=patch).moved == 1
        assert lines_of(name, target) == to_lines(letters[1:]).splitlines()
        (message,) = arrived(target, 1)
        assert dict(message.attributes) == {"event_id": "E-1", ATTEMPT: "1"}
        assert json.loads(message.data)["status"] == "returned"

        plan = plan_replay(target, ANY, patch=patch)
        assert (plan.chosen, plan.passing, plan.failing) == (2, 1, {"$.items": 1})
        replay(target, plan, patch=patch)
        assert ids_in(target) == ["E-3"]
        aside = [line for one in names(target, "replayed/") for line in lines_of(one, target)]
        assert sorted(json.loads(line)["event_id"] for line in aside) == ["E-1", "E-2"]
        assert {original(msgspec.json.decode(line, type=DeadLetter))[0] for line in aside} == {original(held(1))[0]}

    def test_ordering_keys_are_published_again(self, provisioned: Settings, target: Target) -> None:
        """Several keys, and letters without one, in one object: each message has its own."""
        keys = {"E-1": "O-1", "E-2": "O-2", "E-3": None, "E-4": "O-1"}
        store(target, [msgspec.structs.replace(held(n), ordering_key=keys[f"E-{n}"]) for n in range(1, 5)])
        patch = {"status": "returned"}
        assert replay(target, plan_replay(target, ANY, patch=patch), patch=patch).moved == 4
        messages = arrived(target, 4)
        assert {message.attributes["event_id"]: message.ordering_key or None for message in messages} == keys

    def test_what_cannot_be_published_stops_nothing(self, provisioned: Settings, target: Target, tmp_path: Path) -> None:
        """The dry run names it and why, exit code 1; so does the replay, which publishes all else of the object."""
        reserved = msgspec.structs.replace(held(2), attributes={"event_id": "E-2", "Google-Id": "1"})
        name = store(target, [held(1), reserved, held(3)])
        (tmp_path / "patch.json").write_text('{"status": "returned"}')
        command = ("dlq", "replay", "--patch", str(tmp_path / "patch.json"))
        why = f"E-2 in {name}: expected no attribute whose name begins with goog, which Pub/Sub reserves, got 'Google-Id'"
        before = ecomflow(*command, "--dry-run", settings=provisioned)
        assert (before.returncode, why in before.stderr) == (1, True)
        assert "2 of 3 now pass, 1 can't be published." in before.stdout
        after = ecomflow(*command, settings=provisioned)
        assert (after.returncode, why in after.stderr) == (1, True)
        assert f"2 published, 2 moved to gs://{provisioned.bucket_name}/replayed/." in after.stdout
        assert ids_in(target) == ["E-2"]
        assert sorted(message.attributes["event_id"] for message in arrived(target, 2)) == ["E-1", "E-3"]
        as_json = json.loads(ecomflow(*command, "--json", settings=provisioned).stdout)
        assert [one["event_id"] for one in as_json["plan"]["unpublishable"]] == ["E-2"]

    def test_what_pubsub_refuses_against_expectation_stays(
        self, provisioned: Settings, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It refuses a request as a whole, for a reason of its own, such as a topic's schema: the one message is found."""
        store(target, [held(number) for number in range(1, 8)])
        monkeypatch.setattr(
            "ecomflow.deadletters.replay.without_tracing", lambda attributes: {**attributes, **reserved_in(attributes)}
        )
        monkeypatch.setattr("ecomflow.deadletters.replay.unpublishable", lambda _: None)
        patch = {"status": "returned"}
        summary = replay(target, plan_replay(target, ANY, patch=patch), patch=patch)
        assert (summary.published, summary.moved, summary.left) == (6, 6, 0)
        (refused,) = summary.unpublishable
        assert (refused.event_id, refused.error[:20]) == ("E-5", "Pub/Sub refuses it: ")
        assert ids_in(target) == ["E-5"]
        assert len(arrived(target, 6)) == 6

    def test_the_newest_only(self, provisioned: Settings, target: Target) -> None:
        """--limit counts dead letters, over objects and within one."""
        now = datetime.now(UTC)
        for age in (3, 2, 1):
            store(target, [held(age * 10 + line, now - timedelta(minutes=age)) for line in range(2)])
        plan = plan_replay(target, ANY, patch={"status": "returned"}, limit=3)
        assert (plan.chosen, plan.passing, [len(planned.lines) for planned in plan.objects]) == (3, 3, [2, 1])

    def test_what_another_replay_moved_meanwhile_is_left(self, provisioned: Settings, target: Target) -> None:
        """A plan that is no longer true moves nothing away from where the other has left it."""
        store(target, [held(1)])
        patch = {"status": "returned"}
        plans = [plan_replay(target, ANY, patch=patch) for _ in range(2)]
        first, second = (replay(target, plan, patch=patch) for plan in plans)
        assert (first.published, first.moved, first.left) == (1, 1, 0)
        assert (second.published, second.moved, second.left) == (0, 0, 1)

    def test_a_topic_that_is_not_there(self, provisioned: Settings, target: Target) -> None:
        """Nothing is moved where nothing can be published."""
        store(target, [held(1)])
        (patch := Path(provisioned.state_dir) / "patch.json").write_text('{"status": "returned"}')
        elsewhere = msgspec.structs.replace(provisioned, topic="topic-none")
        result = ecomflow("dlq", "replay", "--patch", str(patch), settings=elsewhere)
        assert (result.returncode, "topic-none does not exist" in result.stderr) == (3, True)
        assert (ids_in(target), names(target, "replayed/")) == (["E-1"], [])

    @pytest.mark.parametrize(
        ("hold", "why"),
        [
            ({"retention_period": 3600}, r"1 under a retention policy, until 20\d\d-\d\d-\d\d \d\d:\d\d UTC at the latest"),
            ({"default_event_based_hold": True}, "1 are held"),
        ],
    )
    def test_objects_that_must_stay(self, hold: dict[str, Any], why: str, provisioned: Settings, target: Target) -> None:
        """What can't be moved out of dlq/ is not published: else each replay would publish it again."""
        bucket = target.storage.get_bucket(provisioned.bucket_name)
        for name, value in hold.items():
            setattr(bucket, name, value)
        bucket.patch()
        store(target, [held(1)])
        plan = plan_replay(target, ANY, patch={"status": "returned"})
        with pytest.raises(ConfigError, match=rf"^Nothing was published: 1 of 1 objects can't be moved .* \({why}\)\.") as error:
            replay(target, plan, patch={"status": "returned"})
        assert "--clear-retention-period" in str(error.value.remedy)
        assert (ids_in(target), count_waiting(target)) == (["E-1"], 0)

    def test_objects_that_had_to_stay(self, provisioned: Settings, target: Target) -> None:
        """Once the period of the policy is over, they are replayed."""
        store(target, [held(1)])
        bucket = target.storage.get_bucket(provisioned.bucket_name)
        bucket.retention_period = 1
        bucket.patch()
        plan = plan_replay(target, ANY, patch={"status": "returned"})
        (until,) = [planned.kept_until for planned in plan.objects]
        assert until is not None
        wait_until(lambda: datetime.now(UTC) > until)
        assert replay(target, plan, patch={"status": "returned"}).moved == 1

    def test_a_hold_that_comes_after_the_plan(self, provisioned: Settings, target: Target) -> None:
        """By then they are published: the error says so, and what Cloud Storage says."""
        name = store(target, [held(1)])
        plan = plan_replay(target, ANY, patch={"status": "returned"})
        blob = target.bucket.blob(name)
        blob.temporary_hold = True
        blob.patch()
        with pytest.raises(AccessError, match=r"under active Temporary hold .* They are published, but still in dlq/\.") as error:
            replay(target, plan, patch={"status": "returned"})
        assert "remove the hold or retention policy; then replay again" in str(error.value.remedy)

    def test_a_project_waits_until_dataflow_has_forgotten(self, provisioned: Settings, target: Target) -> None:
        """Dataflow drops an event_id that it has seen within ten minutes, so dead letters that young are not replayed."""
        now = datetime.now(UTC)
        store(target, [held(1, now - timedelta(minutes=5))])
        store(target, [held(2, now - timedelta(minutes=20))])
        project = msgspec.structs.replace(provisioned, project=provisioned.project_id)
        plan = plan_replay(Target(project, target.endpoints), ANY, patch={"status": "returned"})
        assert (plan.chosen, plan.passing, plan.too_recent) == (2, 1, 1)
        other = msgspec.structs.replace(project, dataflow=msgspec.structs.replace(project.dataflow, at_least_once=True))
        assert plan_replay(Target(other, target.endpoints), ANY, patch={"status": "returned"}).passing == 2

    @pytest.mark.parametrize("step", ["_copy", "_take_out"])
    def test_killed_in_the_middle_none_is_lost(self, step: str, provisioned: Settings, tmp_path: Path, target: Target) -> None:
        """After publishing, before or after the copy: each letter still lies in dlq/; replayed again it has the same event_id."""
        store(target, [held(1), held(2)])
        (tmp_path / "patch.json").write_text('{"status": "returned"}')
        command = ("dlq", "replay", "--patch", str(tmp_path / "patch.json"))
        killed = ecomflow(*command, settings=provisioned, **customised(tmp_path / "site", KILLED_AT.format(step=step)))
        assert killed.returncode == -9
        assert ids_in(target) == ["E-1", "E-2"]
        again = ecomflow(*command, settings=provisioned)
        assert "2 published, 2 moved to" in again.stdout, again.stderr
        assert ids_in(target) == []
        assert sum(len(lines_of(one, target)) for one in names(target, "replayed/")) == 2
        messages = arrived(target, 4)
        assert sorted(message.attributes["event_id"] for message in messages) == ["E-1", "E-1", "E-2", "E-2"]
        assert {message.attributes[ATTEMPT] for message in messages} == {"1"}


def reserved_in(attributes: dict[str, str]) -> dict[str, str]:
    """An attribute that the service refuses, for the fifth event."""
    return {"goog": "1"} if attributes["event_id"] == "E-5" else {}


def ids_in(target: Target) -> list[str]:
    return sorted(str(stored.letter.event_id) for stored in deadletters.letters(target))


def lines_of(name: str, target: Target) -> list[bytes]:
    content = target.bucket.blob(name).download_as_bytes()
    return bytes(content).splitlines()


@pytest.mark.stack
@pytest.mark.timeout(240)
class TestTheStory:
    """Orders with a new status are refused; the contract learns it; they are replayed; the equation holds."""

    @staticmethod
    @contextmanager
    def running(settings: Settings, **more: str) -> Iterator[None]:
        """A pipeline in the background, drained at the end."""
        assert ecomflow("deploy", "--detach", settings=settings, **more).returncode == 0
        try:
            yield
        finally:
            drained = ecomflow("job", "drain", settings=settings)
            assert drained.returncode == 0, drained.stderr

    def test_refused_fixed_replayed(self, provisioned: Settings, stack: Endpoints, tmp_path: Path) -> None:
        """In the end each event is a fact once, or a dead letter; a second replay of the same adds nothing."""
        settings = settings_in(tmp_path, provisioned, stack)
        fixed = {"ECOMFLOW_CONTRACTS": str(with_another_status(tmp_path / "contracts"))}
        (tmp_path / "patch.json").write_text('{"total_amount": 44.80}')
        events = [published_order(n) for n in range(10)]
        held_back = [published_order(n, fault="new_status", status="on_hold") for n in range(10, 18)]
        events += [msgspec.structs.replace(one, ordering_key=f"customer-{n % 2}") for n, one in enumerate(held_back)]
        events += [published_order(n, fault="negative", total_amount=number("-44.80")) for n in range(18, 21)]

        def reconciled() -> dict[str, Any]:
            result = ecomflow("reconcile", "--ledger", str(tmp_path / "ledger"), "--json", settings=settings)
            assert result.returncode == 0, result.stderr
            (line,) = [one for one in json.loads(result.stdout)["lines"] if one["event_type"] == "order"]
            return {name: line[name] for name in ("published", "facts", "dead_letters", "waiting", "adds_up")}

        def replayed(*arguments: str, **more: str) -> list[str]:
            result = ecomflow("dlq", "replay", *arguments, settings=settings, **more)
            assert result.returncode == 0, result.stderr
            return result.stdout.splitlines()[1:]

        target = Target(settings, stack)
        with self.running(settings):
            publisher.publish(target, events, ledger=tmp_path / "ledger")
            wait_until(lambda: count_waiting(target) == 0)
        assert reconciled() == {"published": 21, "facts": 10, "dead_letters": 11, "waiting": 0, "adds_up": True}
        keys = Counter(stored.letter.ordering_key for stored in deadletters.letters(target))
        assert keys == {"customer-0": 4, "customer-1": 4, None: 3}
        before = replayed("--dry-run")
        assert before[0] == "0 of 11 now pass, 11 fail: 8 on $.status, 3 on $.total_amount."
        assert before[-1] == "Nothing was published."

        with self.running(settings, **fixed):
            moved = replayed(**fixed)
            assert moved[0] == "8 of 11 now pass, 3 fail on $.total_amount."
            assert moved[-1] == f"8 published, 8 moved to gs://{settings.bucket_name}/replayed/."
            wait_until(lambda: count_waiting(target) == 0)
            assert reconciled() == {"published": 21, "facts": 18, "dead_letters": 3, "waiting": 0, "adds_up": True}

            patched = replayed("--patch", str(tmp_path / "patch.json"), **fixed)
            assert patched[0] == "3 of 3 now pass."
            wait_until(lambda: count_waiting(target) == 0)
            whole = {"published": 21, "facts": 21, "dead_letters": 0, "waiting": 0, "adds_up": True}
            assert reconciled() == whole
            rows = self.rows(target)

            self.put_back(target)
            assert replayed("--patch", str(tmp_path / "patch.json"), **fixed)[0] == "11 of 11 now pass."
            wait_until(lambda: count_waiting(target) == 0)
        assert reconciled() == whole
        assert self.rows(target) == rows
        (written,) = select(target, "SELECT COUNT(*) FROM ecomflow.fact_order_header")
        assert (written, len(rows)) == ((32,), 21)

    @staticmethod
    def rows(target: Target) -> list[tuple[Any, ...]]:
        sql = "SELECT event_id, status, total_amount FROM ecomflow.fact_order_header_unique ORDER BY event_id"
        return list(select(target, sql))

    @staticmethod
    def put_back(target: Target) -> None:
        """What was replayed lies in dlq/ once more."""
        bucket = target.bucket
        for name in names(target, "replayed/"):
            bucket.copy_blob(bucket.blob(name), bucket, f"dlq/{name.removeprefix('replayed/')}")
