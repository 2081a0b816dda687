"""The equation: published = facts + dead letters + waiting, from tables of good and bad, and from the places themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import msgspec
import pytest

from ecomflow.config import Endpoints, Settings
from ecomflow.deadletters import store
from ecomflow.errors import ConfigError, ImbalanceError, UnavailableError
from ecomflow.gcp.target import Target
from ecomflow.generator import publisher, rounds
from ecomflow.jobs.backlog import Waiting, count_waiting, wait_until_empty
from ecomflow.metrics.history import Condition
from ecomflow.pipeline.direct import launch
from ecomflow.reconciliation.ledger import LedgerEntry, default_ledger, read_ledger
from ecomflow.reconciliation.reconcile import (
    Reconciliation,
    TypeBalance,
    _without_ledger,
    balance_by_id,
    balance_others,
    balance_places,
    check,
    reconcile,
)
from ecomflow.reconciliation.shapes import layout_of, type_of
from ecomflow.warehouse.queries import select
from tests.support.cli import ecomflow, write_stack_file
from tests.support.contract import SHOP
from tests.support.fronts import another_broker
from tests.support.waiting import wait_until

ORDER, MOVE, VISIT = (1, 2, 2, 0, 0), (0, 0, 0, 1, 0), (0, 0, 0, 0, 1)
HEADER_ONLY = (1, 0, 0, 0, 0)
LAYOUT = layout_of(SHOP)


def entry(event_type: str, items: int = 0, fault: str | None = None) -> LedgerEntry:
    lists = {"items": items} if items else {}
    return LedgerEntry(None, "m", event_type, fault, None if fault is None else "contract_violation", lists)


LEDGER = {
    "o1": entry("order", 2),
    "o2": entry("order", fault="no_items"),
    "i1": entry("inventory"),
    "i2": entry("inventory", fault="unknown_type"),
    "u1": entry("user_activity"),
}
SHAPES = {"o1": ORDER, "i1": MOVE, "u1": VISIT}
LETTERS = {"o2": "order", "i2": "unknown"}
NOTHING_WAITS = Waiting(0)


def without(mapping: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}


def by_kind(outcome: Reconciliation) -> dict[str, tuple[str, ...]]:
    """The ids that are named, by kind; kinds without any left out."""
    kinds = ("missing", "incomplete", "doubled")
    return {kind: ids for kind in kinds if (ids := getattr(outcome, kind))}


class TestTypeOf:
    @pytest.mark.parametrize(
        ("shape", "items", "expected"),
        [
            (ORDER, None, "order"),
            (ORDER, 2, "order"),
            (MOVE, None, "inventory"),
            (VISIT, 0, "user_activity"),
            (ORDER, 3, None),
            ((1, 2, 1, 0, 0), None, None),
            ((1, 2, 1, 0, 0), 2, None),
            ((1, 3, 3, 0, 0), 2, None),
            (HEADER_ONLY, None, None),
            ((0, 2, 2, 0, 0), None, None),
            ((2, 2, 2, 0, 0), None, None),
            ((0, 0, 0, 2, 0), None, None),
            ((1, 2, 2, 1, 0), None, None),
            ((0, 0, 0, 1, 1), None, None),
            ((0, 0, 0, 0, 0), None, None),
            ((), None, None),
        ],
    )
    def test_only_all_rows_of_one_event_are_an_event(
        self, shape: tuple[int, ...], items: int | None, expected: str | None
    ) -> None:
        """One row in the type's first table, one an item in an order's others, none anywhere else."""
        assert type_of(shape, LAYOUT, None if items is None else {"items": items}) == expected


class TestBalanceById:
    def test_every_event_in_one_place(self) -> None:
        """Published is facts and dead letters, by the ledger's type, wherever the dead letter lies."""
        outcome = balance_by_id(LEDGER, SHAPES, LETTERS, NOTHING_WAITS, LAYOUT)
        assert outcome.lines == (
            TypeBalance("order", 2, 1, 1, 0, True),
            TypeBalance("inventory", 2, 1, 1, 0, True),
            TypeBalance("user_activity", 1, 1, 0, 0, True),
        )
        assert (outcome.adds_up, by_kind(outcome)) == (True, {})

    @pytest.mark.parametrize(
        ("shapes", "letters", "kinds"),
        [
            (without(SHAPES, "u1"), LETTERS, {"missing": ("u1",)}),
            (SHAPES, without(LETTERS, "i2"), {"missing": ("i2",)}),
            ({}, {}, {"missing": ("i1", "i2", "o1", "o2", "u1")}),
            ({**SHAPES, "o1": HEADER_ONLY}, LETTERS, {"incomplete": ("o1",)}),
            ({**SHAPES, "o1": (1, 3, 3, 0, 0)}, LETTERS, {"incomplete": ("o1",)}),
            ({**SHAPES, "i1": (0, 0, 0, 2, 0)}, LETTERS, {"incomplete": ("i1",)}),
            ({**SHAPES, "i1": VISIT}, LETTERS, {"incomplete": ("i1",)}),
            (SHAPES, {**LETTERS, "o1": "order"}, {"doubled": ("o1",)}),
            ({**SHAPES, "o2": (1, 4, 4, 0, 0)}, LETTERS, {"doubled": ("o2",)}),
            (without(SHAPES, "u1"), {**LETTERS, "i1": "unknown"}, {"missing": ("u1",), "doubled": ("i1",)}),
            (without(SHAPES, "o1") | {"o2": ORDER}, LETTERS, {"missing": ("o1",), "doubled": ("o2",)}),
        ],
    )
    def test_what_is_not_in_one_place_is_named(
        self, shapes: dict[str, Any], letters: dict[str, str], kinds: dict[str, tuple[str, ...]]
    ) -> None:
        """With nothing waiting, each id that is in no place, in part of one, or in two, is an imbalance of its type's line."""
        outcome = balance_by_id(LEDGER, shapes, letters, NOTHING_WAITS, LAYOUT)
        assert (outcome.adds_up, by_kind(outcome)) == (False, kinds)
        wrong = {LEDGER[key].event_type for ids in kinds.values() for key in ids}
        assert {line.event_type for line in outcome.lines if not line.adds_up} == wrong

    def test_what_is_in_no_place_may_wait(self) -> None:
        """As many events as messages wait may be nowhere yet, or in some of their tables."""
        shapes = {"o1": HEADER_ONLY, "i1": MOVE}
        outcome = balance_by_id(LEDGER, shapes, LETTERS, Waiting(2), LAYOUT)
        assert outcome.lines[0] == TypeBalance("order", 2, 0, 1, 1, True)
        assert outcome.lines[2] == TypeBalance("user_activity", 1, 0, 0, 1, True)
        assert (outcome.adds_up, by_kind(outcome)) == (True, {"missing": ("u1",), "incomplete": ("o1",)})

    @pytest.mark.parametrize("waiting", [Waiting(1), None])
    def test_more_is_missing_than_waits(self, waiting: Waiting | None) -> None:
        """Then no line is helped by what waits; nor where nobody knows how much does."""
        outcome = balance_by_id(LEDGER, {"o1": HEADER_ONLY, "i1": MOVE}, LETTERS, waiting, LAYOUT)
        assert [line.adds_up for line in outcome.lines] == [False, True, False]
        assert not outcome.adds_up

    def test_an_event_that_landed_and_waits_was_delivered_twice(self) -> None:
        """Messages that wait while every event is in its place are no error."""
        assert balance_by_id(LEDGER, SHAPES, LETTERS, Waiting(7), LAYOUT).adds_up

    def test_a_valid_event_may_be_a_dead_letter(self) -> None:
        """What BigQuery refuses, wholly or in part, is counted as its dead letter."""
        outcome = balance_by_id(LEDGER, {**SHAPES, "o1": HEADER_ONLY}, {**LETTERS, "o1": "order"}, NOTHING_WAITS, LAYOUT)
        assert (outcome.adds_up, outcome.lines[0]) == (True, TypeBalance("order", 2, 0, 2, 0, True))

    def test_events_of_others_are_left_alone(self) -> None:
        """Rows and dead letters that the ledger does not know take no part."""
        outcome = balance_by_id(LEDGER, {**SHAPES, "x": HEADER_ONLY}, {**LETTERS, "y": "unknown"}, NOTHING_WAITS, LAYOUT)
        assert (outcome.adds_up, by_kind(outcome)) == (True, {})


AMOUNTS: dict[tuple[int, ...], int] = {ORDER: 3, MOVE: 2, VISIT: 1}


class TestBalancePlaces:
    def test_places_that_agree(self) -> None:
        """Facts are whole events, dead letters lie by stream, and nothing is said of what was published."""
        outcome = balance_places(AMOUNTS, {}, (), LETTERS, NOTHING_WAITS, LAYOUT)
        assert [(line.event_type, line.facts, line.dead_letters) for line in outcome.lines] == [
            ("order", 3, 1),
            ("inventory", 2, 0),
            ("user_activity", 1, 0),
            ("unknown", 0, 1),
        ]
        assert {(line.published, line.waiting, line.adds_up) for line in outcome.lines} == {(None, None, None)}
        assert outcome.adds_up

    def test_places_that_do_not_agree(self) -> None:
        """An order without its items, and a dead letter of an event that landed, are named."""
        outcome = balance_places(
            {**AMOUNTS, HEADER_ONLY: 1}, {"o9": HEADER_ONLY, "o2": ORDER}, {"o9"}, LETTERS, NOTHING_WAITS, LAYOUT
        )
        assert (outcome.adds_up, by_kind(outcome)) == (False, {"incomplete": ("o9",), "doubled": ("o2",)})

    @pytest.mark.parametrize(("shapes", "waiting", "incomplete"), [({"o9": ORDER}, 0, ()), ({"o9": HEADER_ONLY}, 1, ("o9",))])
    def test_an_order_on_its_way(self, shapes: dict[str, Any], waiting: int, incomplete: tuple[str, ...]) -> None:
        """What was half there at the first look is whole at the second, or still waits."""
        outcome = balance_places({**AMOUNTS, HEADER_ONLY: 1}, shapes, {"o9"}, LETTERS, Waiting(waiting), LAYOUT)
        assert (outcome.adds_up, outcome.incomplete) == (True, incomplete)


class TestBalanceOthers:
    """Events that are in a store, but not in the ledger."""

    OUTCOME = balance_by_id(LEDGER, SHAPES, LETTERS, NOTHING_WAITS, LAYOUT)

    def balanced(self, shapes: dict[str, Any], letters: dict[str, str], waiting: int = 0) -> Reconciliation:
        return balance_others(self.OUTCOME, {*shapes, *letters}, shapes, letters, Waiting(waiting), LAYOUT)

    def test_they_are_no_fault(self) -> None:
        """Whole events and dead letters of another producer change nothing."""
        assert self.balanced({"x": ORDER, "y": HEADER_ONLY}, {"y": "order", "z": "unknown"}) == self.OUTCOME

    @pytest.mark.parametrize(
        ("shapes", "letters", "kinds", "wrong"),
        [
            ({"x": HEADER_ONLY}, {}, {"incomplete": ("x",)}, ["order"]),
            ({"x": ORDER}, {"x": "order"}, {"doubled": ("x",)}, ["order"]),
            ({"x": (1, 2, 2, 1, 0)}, {}, {"incomplete": ("x",)}, ["order", "inventory"]),
        ],
    )
    def test_one_in_part_or_twice_is(
        self, shapes: dict[str, Any], letters: dict[str, str], kinds: dict[str, tuple[str, ...]], wrong: list[str]
    ) -> None:
        """The id is named, and the line of its type does not add up."""
        outcome = self.balanced(shapes, letters)
        assert (outcome.adds_up, by_kind(outcome)) == (False, kinds)
        assert [line.event_type for line in outcome.lines if not line.adds_up] == wrong

    def test_one_on_its_way_is_not(self) -> None:
        """As many as wait may be in some of their tables."""
        assert self.balanced({"x": HEADER_ONLY}, {}, waiting=1) == self.OUTCOME


class TestCheck:
    def test_the_first_ids_of_each_kind_are_named(self) -> None:
        """The error says how many there are, names three, and says where the others are."""
        ledger = {f"e{number:02}": entry("inventory") for number in range(30)}
        outcome = balance_by_id(ledger, {"e00": (0, 0, 0, 2, 0)}, {}, NOTHING_WAITS, LAYOUT)
        with pytest.raises(ImbalanceError) as raised:
            check(outcome)
        assert (
            raised.value.message
            == "The published events do not match the stored ones. 29 missing: e01, e02, e03, …; 1 incomplete: e00."
        )
        assert (raised.value.remedy, raised.value.exit_code) == ("To list every id: ecomflow reconcile --json", 7)

    def test_what_waits_is_not_settled(self) -> None:
        """The equation holds only if the events are in the backlog: another exit code, with what the pipeline does."""
        outcome = balance_by_id(LEDGER, {"o1": HEADER_ONLY, "i1": MOVE}, LETTERS, Waiting(2), LAYOUT)
        outcome = msgspec.structs.replace(outcome, ledger="l.jsonl")
        with pytest.raises(UnavailableError) as raised:
            check(outcome, pipeline=Condition("none", "No pipeline is running. Start it with: ecomflow deploy"))
        assert raised.value.message == (
            "2 events are still waiting in the subscription, so the equation is not complete. "
            "No pipeline is running. Start it with: ecomflow deploy"
        )
        assert raised.value.exit_code == 4
        check(outcome, allow_waiting=True)

    def test_messages_of_others_may_wait(self) -> None:
        """Where every event of the ledger is stored, what waits is somebody else's, or a redelivery."""
        outcome = balance_by_id(LEDGER, SHAPES, LETTERS, Waiting(9), LAYOUT)
        check(msgspec.structs.replace(outcome, ledger="l.jsonl"))

    def test_without_a_ledger_every_message_counts(self) -> None:
        """Nobody knows whose they are."""
        outcome = balance_places(AMOUNTS, {}, (), LETTERS, Waiting(1), LAYOUT)
        with pytest.raises(UnavailableError, match="1 event is still waiting in the subscription"):
            check(outcome)
        check(msgspec.structs.replace(outcome, waiting=NOTHING_WAITS))


class TestLedger:
    def test_entries_are_keyed_as_the_tables_are(self, tmp_path: Path) -> None:
        """By the event id, else by the message id; a repeat counts once; a line that is being written is left out."""
        lines = [
            LedgerEntry("e1", "m1", "order", None, None, {"items": 2}),
            LedgerEntry("e1", "m2", "order", None, None, {"items": 2}),
            LedgerEntry(None, "m3", "inventory", None, None),
        ]
        path = tmp_path / "ledger.jsonl"
        path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines) + b'{"event_id": "e4", "mess')
        assert read_ledger(path) == {"e1": lines[1], "m3": lines[2]}

    @pytest.mark.parametrize("content", [b"{}\n", b"[\n", b"\xff\n", b"\n"])
    def test_a_file_that_is_no_ledger(self, content: bytes, tmp_path: Path) -> None:
        """It is named, with what to give instead."""
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ConfigError, match="is not a ledger"):
            read_ledger(tmp_path / "x")

    def test_a_ledger_that_is_not_there(self, tmp_path: Path) -> None:
        """It is an error of the option."""
        with pytest.raises(ConfigError, match="can't be read: No such file"):
            read_ledger(tmp_path / "x")

    def test_only_the_stack_that_is_ours_has_one_by_default(self, tmp_path: Path) -> None:
        """It lies in the data of the local Pub/Sub, one for each topic and dataset; a project or an emulator has none."""
        own, settings = Endpoints(pubsub="127.0.0.1:1"), Settings(state_dir=str(tmp_path), topic="../t")
        write_stack_file(tmp_path, own)
        assert default_ledger(Target(settings, own)) is None
        (tmp_path / "pubsub").mkdir()
        assert default_ledger(Target(settings, own)) == tmp_path / "pubsub" / "ledger" / "..%2Ft.ecomflow.jsonl"
        assert default_ledger(Target(settings, Endpoints(pubsub="127.0.0.1:2"))) is None
        assert default_ledger(Target(msgspec.structs.replace(settings, project="my-project"), own)) is None


@contextmanager
def deployed(settings: Settings) -> Iterator[None]:
    """A pipeline in the background, drained at the end."""
    started = ecomflow("deploy", "--detach", settings=settings)
    assert started.returncode == 0, started.stderr
    try:
        yield
    finally:
        launch.drain_detached(settings)


@pytest.fixture
def loaded(provisioned: Settings, target: Target) -> Iterator[tuple[Settings, Path]]:
    """Ten rounds published twice by the command and loaded by a pipeline; the settings, and the ledger that the command kept."""
    for _ in range(2):
        published = ecomflow("publish", "--n", "10", "--seed", "5", "--date", "2026-01-05", settings=provisioned)
        assert published.returncode == 0, published.stderr
    with deployed(provisioned):
        assert wait_until_empty(lambda: count_waiting(target), 60)
    ledger = default_ledger(target)
    assert ledger is not None
    yield provisioned, ledger
    ledger.unlink()


def reconciled(settings: Settings, *arguments: str) -> tuple[CompletedProcess[str], Any]:
    """``ecomflow reconcile --json``, and what it printed."""
    result = ecomflow("reconcile", "--json", *arguments, settings=settings)
    assert result.stdout, result.stderr
    return result, json.loads(result.stdout)


def cells(result: CompletedProcess[str], event_type: str) -> list[str]:
    """What the printed table says of an event type."""
    (line,) = (line for line in result.stdout.splitlines() if line.split()[:1] == [event_type])
    return line.split()[1:]


@pytest.mark.stack
class TestOnTheStack:
    def test_it_adds_up_until_something_is_taken_or_added(self, loaded: tuple[Settings, Path], stack: Endpoints) -> None:
        """What was published twice counts once.

        A lost dead letter, a lost row and a row too many are named, these and no others; an event of another producer is counted.
        """
        settings, ledger = loaded
        shown = ecomflow("reconcile", "--wait", "30", settings=settings)
        assert shown.returncode == 0, shown.stderr
        assert cells(shown, "order") == ["20", "10", "10", "0", "yes"]
        assert shown.stdout.splitlines()[-1] == "It adds up: every event is accounted for exactly once."

        orders, moves = self._valid(ledger, "order"), self._valid(ledger, "inventory")
        lost = self._lose_a_letter(Target(settings, stack))
        self._run(
            Target(settings, stack), "DELETE FROM ecomflow.fact_order_item WHERE event_id = '{}' AND line_number = 1", orders[0]
        )
        self._run(Target(settings, stack), "DELETE FROM ecomflow.fact_inventory WHERE event_id = '{}'", moves[0])
        self._run(Target(settings, stack), _COPY_OF.format(id="'stranger'", date="event_date"), moves[1])
        self._run(Target(settings, stack), _COPY_OF.format(id="event_id", date="DATE_ADD(event_date, INTERVAL 1 DAY)"), moves[2])

        result, outcome = reconciled(settings)
        assert result.returncode == 7
        assert outcome["missing"] == sorted({*lost, moves[0]})
        assert outcome["incomplete"] == sorted([orders[0], moves[2]])
        assert (outcome["doubled"], outcome["not_in_ledger"]) == ([], 1)
        assert "2 incomplete: " in result.stderr
        assert orders[0] in result.stderr

        followed = reconcile(Target(settings, stack), ledger)
        assert (list(followed.missing), followed.not_in_ledger) == (outcome["missing"], 1)
        # The same by parts of ids, as in a project, where events of others are not read.
        in_project = msgspec.structs.replace(settings, project="ecomflow-local")
        assert reconcile(Target(in_project, stack), ledger) == msgspec.structs.replace(followed, not_in_ledger=None)
        unaided = reconcile(Target(in_project, stack))
        assert (unaided.incomplete, unaided.doubled, unaided.adds_up) == (followed.incomplete, (), False)
        assert unaided.lines[0].facts == 9

    def test_with_no_pipeline_all_waits(self, provisioned: Settings) -> None:
        """The exit code says that it is not settled, and the error that no pipeline runs; --wait ends after its time."""
        assert ecomflow("publish", "--n", "2", settings=provisioned).returncode == 0
        shown = ecomflow("reconcile", "--wait", "0.5", settings=provisioned)
        assert cells(shown, "order") == ["4", "0", "0", "4", "yes"]
        assert shown.stdout.splitlines()[-1] == "Messages in the subscription: 12."
        assert shown.returncode == 4
        assert "Error: 12 events are still waiting in the subscription, so the equation is not complete." in shown.stderr
        assert shown.stderr.count("12 messages are waiting. Start it with: ecomflow deploy --detach") == 2

        allowed = ecomflow("reconcile", "--allow-waiting", settings=provisioned)
        assert allowed.returncode == 0, allowed.stderr
        assert allowed.stdout.splitlines()[-1] == ("It adds up if all 12 events that were not found are among those messages.")

    def test_what_the_ledger_does_not_know_is_told_apart(self, provisioned: Settings, tmp_path: Path) -> None:
        """Events of another ledger are counted beside the equation, whichever of the two ledgers is read."""
        other = str(tmp_path / "other.jsonl")
        for arguments in (("--n", "1"), ("--n", "2", "--ledger", other)):
            published = ecomflow("publish", *arguments, settings=provisioned)
            assert published.returncode == 0, published.stderr
        with deployed(provisioned):
            own = ecomflow("reconcile", "--wait", "60", settings=provisioned)
            named = ecomflow("reconcile", "--ledger", other, settings=provisioned)
        for shown, counts, others in ((own, ["2", "1", "1", "0", "yes"], 12), (named, ["4", "2", "2", "0", "yes"], 6)):
            assert shown.returncode == 0, shown.stderr
            assert [cells(shown, name) for name in ("order", "inventory", "user_activity")] == [counts] * 3
            assert f"Not in the ledger: {others} of the stored events." in shown.stdout
            assert shown.stdout.splitlines()[-1] == "It adds up: every event is accounted for exactly once."

    def test_at_another_broker(self, provisioned: Settings, stack: Endpoints) -> None:
        """What waits there is not known; everything else is counted."""
        with another_broker(str(stack.pubsub)) as pubsub:
            done = ecomflow("reconcile", settings=provisioned, PUBSUB_EMULATOR_HOST=f"http://{pubsub}")
        assert (done.returncode, done.stderr) == (0, "")
        assert "The number of messages in the subscription is not known: this Pub/Sub emulator does not report it." in done.stdout
        assert "No event is incomplete, and none is both a fact and a dead letter." in done.stdout

    def test_it_adds_up_at_any_moment(self, provisioned: Settings, target: Target) -> None:
        """While a publisher publishes and a pipeline loads: with a ledger and without, what is on its way is not amiss."""
        ledger = default_ledger(target)
        events = rounds.generate(1000, seed=2, now=datetime.now(UTC))
        with ThreadPoolExecutor(1) as pool:
            publishing = pool.submit(publisher.publish, target, events, rate=700, ledger=ledger)
            outcomes = []

            def some_wait() -> bool:
                outcomes.append(reconcile(target))
                return any(line.waiting for line in outcomes[-1].lines)

            wait_until(some_wait, "the ledger has events that wait")
            with deployed(provisioned):
                while not publishing.done():
                    outcomes += [reconcile(target), reconcile(target, ledger), _without_ledger(target)]
        assert [outcome for outcome in outcomes if not outcome.adds_up] == []

    def test_without_a_ledger_the_places_are_held_against_each_other(self, provisioned: Settings, target: Target) -> None:
        """Events that no command published: only facts and dead letters are counted, and the output says so."""
        publisher.publish(target, rounds.generate(2, seed=1, now=datetime.now(UTC)))
        with deployed(provisioned):
            shown = ecomflow("reconcile", "--wait", "30", settings=provisioned)
        assert shown.returncode == 0, shown.stderr
        assert "There is no ledger of published events" in shown.stdout
        assert (cells(shown, "event"), cells(shown, "inventory")[0]) == (["type", "facts", "dead", "letters"], "2")
        assert shown.stdout.splitlines()[-1] == "No event is incomplete, and none is both a fact and a dead letter."

    @staticmethod
    def _valid(ledger: Path, event_type: str) -> list[str]:
        return [key for key, item in read_ledger(ledger).items() if item.event_type == event_type and item.fault is None]

    @staticmethod
    def _lose_a_letter(target: Target) -> set[str]:
        """Delete the objects that hold one event's dead letter; the ids of all that are lost with it."""
        before = list(store.letters(target))
        bucket = target.bucket
        for name in {stored.object_name for stored in before if stored.letter.event_id == before[0].letter.event_id}:
            bucket.blob(name).delete()
        after = {stored.letter.event_id for stored in store.letters(target)}
        return {str(stored.letter.event_id) for stored in before} - after

    @staticmethod
    def _run(target: Target, sql: str, event_id: str) -> None:
        select(target, sql.format(event_id))


_COLUMNS = "inventory_id, product_id, warehouse_id, quantity_change, reason, event_timestamp, ingestion_timestamp"
_COPY_OF = (
    f"INSERT INTO ecomflow.fact_inventory (event_id, event_date, {_COLUMNS}) "
    f"SELECT {{id}}, {{date}}, {_COLUMNS} FROM ecomflow.fact_inventory WHERE event_id = '{{{{}}}}'"
)
