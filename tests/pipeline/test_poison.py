"""A message that makes our own code raise, in any step: it becomes a dead letter with its traceback, and the rest flows."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest
from google.api_core.exceptions import ServiceUnavailable

from ecomflow.config import Endpoints, Settings
from ecomflow.contract.codec import Codec, DecodedBatch, TypedBatch
from ecomflow.contract.dead_letter import DeadLetter, from_line, original, to_lines
from ecomflow.contract.events import Message
from ecomflow.contract.loading import shop_contracts
from ecomflow.deadletters import store
from ecomflow.errors import UnavailableError
from ecomflow.gcp.clients import publisher_client
from ecomflow.gcp.target import Target
from ecomflow.local.pubsub.server import read_backlog
from ecomflow.pipeline import quarantine
from ecomflow.pipeline.quarantine import ATTEMPTS, MAX_MESSAGE, MAX_TRACEBACK, Failure, isolate
from tests.support.cli import customised, ecomflow, environment, write_stack_file
from tests.support.contract import part_of
from tests.support.pipeline import MemoryWarehouse, activity, inventory, memory_runtime, message, order, run_graph

NOW = datetime(2026, 2, 1, 12, 0, tzinfo=UTC)
SHOP = shop_contracts()
MARK = "poison"
MAKERS = {"order": order, "inventory": inventory, "user_activity": activity}
PRODUCT = {"order": "order_id", "inventory": "inventory_id", "user_activity": "user_id"}


@pytest.fixture
def warehouse() -> MemoryWarehouse:
    return MemoryWarehouse()


def run(warehouse: MemoryWarehouse, *batches: list[Message], codec: Codec | None = None) -> dict[str, int]:
    """Run the real graph over ``batches``, into ``warehouse``; the process's counters."""
    runtime = memory_runtime(warehouse, now=lambda: NOW)
    runtime.codec = codec or runtime.codec
    run_graph(runtime, *batches)
    return runtime.counters.totals()


def bug(words: str = "list index out of range") -> NoReturn:
    raise IndexError(words)


class PoisonedCodec(Codec):
    """Raises where a message of the batch is marked."""

    def decode(self, messages: Sequence[Message], now: datetime) -> DecodedBatch:
        return bug() if any(MARK.encode() in one.data for one in messages) else super().decode(messages, now)


def break_model(_: MemoryWarehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = quarantine.model

    def model(batch: TypedBatch, now: datetime) -> Any:
        return bug() if any(MARK.encode() in one.data for one in batch.messages) else honest(batch, now)

    monkeypatch.setattr(quarantine, "model", model)


def break_starting(warehouse: MemoryWarehouse, _: pytest.MonkeyPatch, tables: tuple[str, ...] | None = None) -> None:
    def start(table: str, rows: Any) -> None:
        if (tables is None or table in tables) and any(MARK in row.values() for row in rows.to_pylist()):
            bug()

    warehouse.on_start = start


def break_finishing(warehouse: MemoryWarehouse, _: pytest.MonkeyPatch) -> None:
    def finish(table: str, rows: Any) -> None:
        if any(MARK in row.values() for row in rows.to_pylist()):
            bug()

    warehouse.on_finish = finish


BREAKS: dict[str, Callable[[MemoryWarehouse, pytest.MonkeyPatch], None]] = {
    "decode": lambda *_: None,
    "model": break_model,
    "building a request": break_starting,
    "awaiting its answer": break_finishing,
}
CODECS = {"decode": PoisonedCodec}
STEP = {"decode": "decode", "model": "model", "building a request": "write", "awaiting its answer": "write"}


class TestIsolate:
    """The halving itself, on lists of numbers."""

    @staticmethod
    def isolated(numbers: list[int], work: Callable[[list[int]], Any]) -> tuple[list[Any], list[list[int]]]:
        """What came out, and the batches that were tried."""
        tried: list[list[int]] = []

        def noted(part: list[int]) -> Any:
            tried.append(part)
            return work(part)

        outputs = list(isolate(numbers, noted, quarantine._halves, lambda part, failure: (part[0], failure.error)))
        return outputs, tried

    def test_a_batch_that_works_is_tried_once(self) -> None:
        """The common case costs one call."""
        assert self.isolated([1, 2, 3], sum) == ([6], [[1, 2, 3]])

    def test_the_one_that_raises_is_isolated(self) -> None:
        """The others come out in their order; the poison is tried by itself a bounded number of times."""
        outputs, tried = self.isolated(list(range(1000)), lambda part: bug() if 777 in part else part)
        assert [one for out in outputs for one in (out if isinstance(out, list) else [out[0]])] == list(range(1000))
        assert (777, "IndexError: list index out of range") in outputs
        assert tried.count([777]) == ATTEMPTS
        assert len(tried) < 2 * 10 + ATTEMPTS + 1

    def test_what_fails_once_is_no_poison(self) -> None:
        """A passing failure of a message that stands alone is forgiven."""
        failures = iter([True, False])
        assert self.isolated([1], lambda part: bug() if next(failures) else part) == ([[1]], [[1], [1]])

    def test_memory_that_runs_out_halves_the_batch(self) -> None:
        """A MemoryError is one of those that a smaller batch may avoid."""

        def work(part: list[int]) -> list[int]:
            if len(part) > 2:
                raise MemoryError
            return part

        assert self.isolated([1, 2, 3, 4], work)[0] == [[1, 2], [3, 4]]

    @pytest.mark.parametrize(
        "error", [UnavailableError("no"), ServiceUnavailable("no"), ConnectionResetError(), KeyboardInterrupt(), SystemExit()]
    )
    def test_what_says_nothing_of_a_message_passes_through(self, error: BaseException) -> None:
        """Services that fail, files and sockets, and the end of the process are nobody's poison: one try, no dead letter."""
        tried = []

        def work(part: list[int]) -> None:
            tried.append(part)
            raise error

        with pytest.raises(type(error)):
            self.isolated([1, 2], work)
        assert tried == [[1, 2]]


class TestFailures:
    @staticmethod
    def failure_of(error: Exception) -> Failure:
        with pytest.raises(type(error)) as caught:
            raise error
        return quarantine._failure(caught.value)

    def test_words_are_one_line_without_folders(self) -> None:
        """Type and message, no absolute path, no line break, no lone surrogate, nothing that a terminal obeys."""
        failure = self.failure_of(ValueError("cannot read '/home/jane/.secret/key.json':\n  \x1b[2J\u202e \ud800 é"))
        assert failure.error == r"ValueError: cannot read 'key.json': \x1b[2J\u202e \ud800 é"
        failure.traceback.encode()

    def test_a_traceback_names_modules_not_folders(self) -> None:
        """The frames are there, by package and module; the folders before them are not."""
        failure = self.failure_of(IndexError("x"))
        assert failure.traceback.startswith("Traceback (most recent call last):\n  File ")
        assert "test_poison.py" in failure.traceback
        assert f'"{Path(__file__).anchor}' not in failure.traceback
        assert failure.traceback.endswith("IndexError: x")

    def test_both_are_bounded(self) -> None:
        """Words of megabytes, and a recursion without an end, stay small."""
        assert len(self.failure_of(ValueError("x" * 10_000_000)).error) == MAX_MESSAGE

        def endless() -> Any:
            return endless()

        with pytest.raises(RecursionError) as caught:
            endless()
        assert len(quarantine._failure(caught.value).traceback) <= MAX_TRACEBACK

    def test_an_exception_that_cannot_be_printed(self) -> None:
        """Even its words may be broken."""

        class BrokenError(Exception):
            def __str__(self) -> str:
                return bug()

        assert "BrokenError" in self.failure_of(BrokenError()).error

    def test_an_event_in_an_envelope_keeps_its_id(self) -> None:
        """That of the event, where no attribute says it."""
        batch = TypedBatch(
            "order", None, [None, None], ["E-1", "m-2"], [message(order(1)), message(order(2), None, "m-2")], [], []
        )
        letters = quarantine._refuse_events(batch, Failure("X: y", "Traceback"), NOW).refused
        assert [(letter.event_id, letter.message_id) for letter in letters] == [("E-1", "m-1"), (None, "m-2")]

    def test_only_a_processing_error_has_the_field(self) -> None:
        """The JSON of every other letter is what the contract says, and both read back."""
        sent = message(inventory(1), "e-1")
        letter = quarantine.failed_letter(sent, "model", Failure("X: y", "Traceback"), "inventory", NOW)
        assert json.loads(to_lines([letter]))["traceback"] == "Traceback"
        assert from_line(to_lines([letter])) == letter
        sent = message(inventory(1, product_id=MARK), "e-1")
        (decoded,) = quarantine.decoded_parts(PoisonedCodec(SHOP), [sent], NOW)
        (other,) = part_of(decoded, "unknown").refused
        assert (other.reason, other.event_type, original(other)) == ("processing_error", None, (sent.data, {"event_id": "e-1"}))
        plain = to_lines([DeadLetter("out_of_range", "$: x", None, None, None, None, {}, "", "utf-8", NOW, "1")])
        assert "traceback" not in json.loads(plain)


@pytest.mark.slow
@pytest.mark.parametrize("step", BREAKS)
class TestPoisonInAStep:
    """The same bug in each step, over the real graph on FnApiRunner."""

    @pytest.mark.parametrize("stream", MAKERS)
    def test_one_becomes_a_dead_letter_and_the_rest_flows(
        self, step: str, stream: str, warehouse: MemoryWarehouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every other message's rows are written once; the dead letter has the error, where it was raised, and the message."""
        BREAKS[step](warehouse, monkeypatch)
        bodies = [MAKERS[stream](number) for number in range(33)]
        bodies[20][PRODUCT[stream]] = MARK
        sent = [message(body, f"e-{number}") for number, body in enumerate(bodies)]
        refused = message(b"{", "e-bad")
        later = [message(MAKERS[stream](90), "e-90")]
        totals = run(warehouse, [*sent[:10], refused, *sent[10:]], later, codec=CODECS.get(step, Codec)(SHOP))

        folder = "unknown" if step == "decode" else stream
        letters = [letter for letters in warehouse.letters.values() for letter in letters]
        assert {letter.event_id: letter.reason for letter in letters} == {"e-20": "processing_error", "e-bad": "malformed_json"}
        (letter,) = (letter for letter in warehouse.letters[folder] if letter.event_id == "e-20")
        assert letter.error == (
            f"$: expected a message that the {STEP[step]} step can process, but it raised IndexError: list index out of range"
        )
        assert letter.event_type == (None if step == "decode" else stream)
        assert original(letter) == (sent[20].data, sent[20].attributes)
        assert letter.traceback is not None
        assert 'File "ecomflow/pipeline/quarantine.py"' in letter.traceback
        assert "in bug" in letter.traceback

        expected = Counter(f"e-{number}" for number in [*range(20), *range(21, 33), 90])
        for table, rows in warehouse.rows.items():
            lines = 1 if table in ("fact_order_header", "fact_inventory", "fact_user_activity") else 2
            assert Counter(row["event_id"] for row in rows) == Counter({e: n * lines for e, n in expected.items()}), table
        assert (totals["received"], totals["refused/processing_error"]) == (35, 1)

    def test_a_batch_of_nothing_but_poison(self, step: str, warehouse: MemoryWarehouse, monkeypatch: pytest.MonkeyPatch) -> None:
        """A bug that every message meets refuses every message, once; the other streams of the batch flow."""
        BREAKS[step](warehouse, monkeypatch)
        poison = [message(inventory(n, warehouse_id=MARK), f"e-{n}") for n in range(20)]
        others = [message(activity(1), "e-a"), message(order(1), "e-o")]
        run(warehouse, [*poison, *others], codec=CODECS.get(step, Codec)(SHOP))
        letters = [letter for letters in warehouse.letters.values() for letter in letters]
        assert sorted(letter.event_id or "" for letter in letters) == sorted(f"e-{n}" for n in range(20))
        assert {letter.reason for letter in letters} == {"processing_error"}
        assert warehouse.rows["fact_inventory"] == []
        assert [row["event_id"] for row in warehouse.rows["fact_user_activity"]] == ["e-a"]
        assert len(warehouse.rows["fact_order"]) == 2


class TestPoisonInTheWriting:
    def test_a_message_has_one_letter_whatever_its_tables_say(
        self, warehouse: MemoryWarehouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Refused by BigQuery in one table and poison in another: our own failure is reported, once."""
        break_starting(warehouse, monkeypatch, ("fact_order",))
        warehouse.refuse = lambda table, row: "no" if table == "fact_order_header" and row["order_id"] == MARK else None
        run(warehouse, [message(order(1), "e-1"), message(order(2, order_id=MARK), "e-2")])
        (letter,) = warehouse.letters["order"]
        assert (letter.event_id, letter.reason) == ("e-2", "processing_error")
        assert {row["event_id"] for row in warehouse.rows["fact_order"]} == {"e-1"}

    def test_a_table_that_is_sent_later_leaves_the_poison_out(
        self, warehouse: MemoryWarehouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Poison at the first table has no rows in the other two."""
        break_starting(warehouse, monkeypatch, ("fact_order_header",))
        run(warehouse, [message(order(1), "e-1"), message(order(2, order_id=MARK), "e-2"), message(order(3), "e-3")])
        for table, rows in warehouse.rows.items():
            assert {row["event_id"] for row in rows} == {"e-1", "e-3"}, table

    def test_a_service_that_fails_still_restarts(self, warehouse: MemoryWarehouse) -> None:
        """BigQuery's absence is no poison: the bundle fails, and nothing is refused."""
        warehouse.failures.append(UnavailableError("BigQuery is away."))
        with pytest.raises(Exception, match="BigQuery is away"):
            run(warehouse, [message(inventory(1), "e-1"), message(inventory(2), "e-2")])
        assert warehouse.letters == {}

    def test_a_letter_that_cannot_be_written_is_replaced(self, warehouse: MemoryWarehouse) -> None:
        """A bug in the dead letters' own step: the message still arrives there, in base64, and its neighbours as they are."""

        def upload(letters: list[DeadLetter]) -> None:
            if any(MARK in letter.payload for letter in letters):
                bug()

        warehouse.on_upload = upload
        totals = run(warehouse, [message(b"{", "e-1"), message(b'{"poison"', "e-2"), message(b"[", "e-3")])
        letters = {letter.event_id: letter for letter in warehouse.letters["unknown"]}
        assert {name: letter.reason for name, letter in letters.items()} == {
            "e-1": "malformed_json",
            "e-2": "processing_error",
            "e-3": "malformed_json",
        }
        assert letters["e-2"].error == (
            "$: expected a dead letter (malformed_json) that can be written, but IndexError: list index out of range"
        )
        assert original(letters["e-2"])[0] == b'{"poison"'
        assert (totals["refused/malformed_json"], totals["refused/processing_error"]) == (2, 1)

    def test_a_publish_time_of_no_calendar_is_none(self) -> None:
        """What makes a letter must not raise itself."""
        sent = Message(b"{", {}, "m", 2**62)
        (letter,) = part_of(Codec(SHOP).decode([sent], NOW), "unknown").refused
        assert letter.publish_time is None


SITECUSTOMIZE = """
import sys
if "deploy" in sys.argv or "-m" in sys.orig_argv and "deploy" in sys.orig_argv:
    from ecomflow.contract.codec import Codec
    from ecomflow.pipeline import quarantine

    honest_decode, honest_model = Codec.decode, quarantine.model

    def decode(codec, messages, now):
        if any(b"poison-decode" in message.data for message in messages):
            raise ZeroDivisionError("a bug in decode")
        return honest_decode(codec, messages, now)

    def model(batch, now):
        if any(b"poison-model" in message.data for message in batch.messages):
            raise MemoryError
        return honest_model(batch, now)

    Codec.decode, quarantine.model = decode, model
"""


@pytest.mark.stack
def test_the_pipeline_process_goes_on(provisioned: Settings, stack: Endpoints, tmp_path: Path) -> None:
    """Poison of two steps in the real process, from Pub/Sub to the bucket: no restart, the rest loaded, all acknowledged."""
    import msgspec

    bugs = customised(tmp_path / "site", SITECUSTOMIZE)
    write_stack_file(tmp_path, stack)
    settings = msgspec.structs.replace(provisioned, state_dir=str(tmp_path))
    today = f"{datetime.now(UTC):%Y-%m-%dT00:00:00Z}"
    bodies = [inventory(n, timestamp=today) for n in range(40)]
    bodies[7]["product_id"], bodies[21]["product_id"] = "poison-decode", "poison-model"
    publisher = publisher_client(stack)
    for number, body in enumerate(bodies):
        publisher.publish(settings.topic_path, json.dumps(body).encode(), event_id=f"e-{number}").result(30)

    log = tmp_path / "deploy.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ecomflow", "deploy"],
            stdout=output,
            stderr=output,
            env=environment(settings, **bugs),
        )
    try:
        give_up = time.monotonic() + 60
        while read_backlog(str(stack.pubsub), settings.subscription_path).num_undelivered_messages:
            assert time.monotonic() < give_up, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
    finally:
        process.terminate()
        code = process.wait(timeout=60)
    assert code == 0, log.read_text()
    letters = {found.letter.event_id: found.letter for found in store.newest(Target(settings, stack), limit=100)}
    assert {name: (letter.reason, letter.error.partition("raised ")[2]) for name, letter in letters.items()} == {
        "e-7": ("processing_error", "ZeroDivisionError: a bug in decode"),
        "e-21": ("processing_error", "MemoryError"),
    }
    assert json.loads((tmp_path / "pipeline.json").read_bytes())["restarts"] == 0
    assert "A message is refused as a processing_error: ZeroDivisionError; for details see its dead letter." in log.read_text()
    assert "ZeroDivisionError: a bug" not in log.read_text()  # an exception's words may quote a message
    shown = ecomflow("dlq", "inspect", "--reason", "processing_error", "--full", settings=settings)
    assert "in decode" in shown.stdout
    counted = ecomflow("query", "SELECT COUNT(DISTINCT event_id) AS n FROM ecomflow.fact_inventory", "--json", settings=settings)
    assert json.loads(counted.stdout) == [{"n": 38}]
