"""The local engine with a subscription and writers in memory: when it acknowledges, what it restarts after, and how it ends."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

import psutil
import pytest
from apache_beam.runners.portability.fn_api_runner import fn_runner

from ecomflow.contract.events import Message
from ecomflow.errors import AccessError, EcomflowError, NotFoundError, SchemaError, UnavailableError
from ecomflow.pipeline.counters import Counters
from ecomflow.pipeline.direct import engine
from ecomflow.pipeline.direct.engine import RunSummary, run_until_drained
from ecomflow.pipeline.direct.restarts import Restarts
from ecomflow.pipeline.runtime import Runtime
from tests.support import ROOT
from tests.support.pipeline import MemoryWarehouse, ScriptedSubscription, activity, inventory, memory_runtime, message, order

pytestmark = pytest.mark.slow


@pytest.fixture
def calls() -> list[str]:
    """What happened, in order, to the subscription and to the warehouse."""
    return []


@pytest.fixture
def warehouse(calls: list[str]) -> MemoryWarehouse:
    return MemoryWarehouse(calls)


@pytest.fixture
def subscription(calls: list[str]) -> ScriptedSubscription:
    """A subscription without messages, whose drain is set when all is acknowledged."""
    return ScriptedSubscription(calls=calls)


QUICK = Restarts(first_pause=0.001, longest_pause=0.004, well_after=60.0)


class Restarted:
    """The calls of on_restart."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.pauses: list[float] = []

    def __call__(self, reason: str, pause: float) -> None:
        self.reasons.append(reason)
        self.pauses.append(pause)


def run(
    subscription: ScriptedSubscription,
    warehouse: MemoryWarehouse,
    *bundles: list[Message],
    on_restart: Restarted | None = None,
    runtime: Runtime | None = None,
    **times: Any,
) -> RunSummary:
    """Run the engine over ``bundles`` until they are acknowledged. It restarts without a wait."""
    subscription.waiting.extend(bundles)
    guard = threading.Timer(30, subscription.drain.set)
    guard.start()
    try:
        runtime = runtime or memory_runtime(warehouse, subscription)
        return run_until_drained(runtime, subscription.drain, on_restart or Restarted(), **{"restarts": QUICK} | times)
    finally:
        guard.cancel()


def stock(number: int) -> Message:
    return message(inventory(number), f"e-{number}")


def test_acknowledges_after_everything_is_written(
    subscription: ScriptedSubscription, warehouse: MemoryWarehouse, calls: list[str]
) -> None:
    """Every table and every dead letter of a bundle comes before its acknowledgement, and that before the next bundle."""
    mixed = [message(order(1)), stock(2), message(activity(3)), message(b"?"), message(order(4, items=[]))]
    summary = run(subscription, warehouse, mixed, [stock(5)])
    first, second = calls[: calls.index("acknowledge") + 1], calls[calls.index("acknowledge") + 1 :]
    assert (first[0], first[-1]) == ("take", "acknowledge")
    assert sorted(first[1:-1]) == [
        *("dead letters order", "dead letters unknown"),
        *("write fact_inventory", "write fact_order", "write fact_order_header", "write fact_order_item"),
        "write fact_user_activity",
    ]
    assert second == ["take", "write fact_inventory", "acknowledge"]
    assert summary.restarts == 0
    assert summary.counters["received"] == 6


def test_it_drains(subscription: ScriptedSubscription, warehouse: MemoryWarehouse) -> None:
    """An idle pipeline ends when the event is set; nothing is left running."""
    drain = threading.Event()
    threading.Timer(0.5, drain.set).start()
    assert run_until_drained(memory_runtime(warehouse, subscription), drain, Restarted()) == RunSummary({}, 0)
    assert subscription.open == []
    assert [thread.name for thread in threading.enumerate() if thread.name == "drain"] == []


def test_a_drained_engine_does_not_start(subscription: ScriptedSubscription, warehouse: MemoryWarehouse) -> None:
    """Where the event is set already, no puller is made and nothing is read."""
    subscription.drain.set()
    subscription.waiting.append([stock(1)])
    run_until_drained(memory_runtime(warehouse, subscription), subscription.drain, Restarted())
    assert list(subscription.waiting) == [[stock(1)]]


def test_a_failed_write_is_repeated(subscription: ScriptedSubscription, warehouse: MemoryWarehouse, calls: list[str]) -> None:
    """Restarts with growing pauses that say why; nothing is acknowledged; the messages come again and are written."""
    warehouse.failures.extend(UnavailableError(f"BigQuery is away {number}.") for number in range(4))
    restarted = Restarted()
    summary = run(subscription, warehouse, [stock(1)], [stock(2)], on_restart=restarted)
    assert restarted.reasons == [f"BigQuery is away {number}." for number in range(4)]
    assert restarted.pauses == [0.001, 0.002, 0.004, 0.004]
    assert summary.restarts == 4
    assert calls == ["take"] * 5 + ["write fact_inventory", "acknowledge", "take", "write fact_inventory", "acknowledge"]
    assert [row["inventory_id"] for row in warehouse.rows["fact_inventory"]] == ["i-1", "i-2"]


def test_a_long_good_run_resets_the_pause(subscription: ScriptedSubscription, warehouse: MemoryWarehouse) -> None:
    """A failure after a run that was well is a new one, with the first pause again."""
    warehouse.failures.extend(UnavailableError("away") for _ in range(3))
    restarted = Restarted()
    run(subscription, warehouse, [stock(1)], on_restart=restarted, restarts=QUICK._replace(well_after=0.0))
    assert restarted.pauses == [0.001] * 3


RECOVERABLE = [NotFoundError, SchemaError, AccessError]


@pytest.mark.parametrize("kind", RECOVERABLE)
def test_what_a_person_can_fix_is_waited_for(
    kind: type[EcomflowError], subscription: ScriptedSubscription, warehouse: MemoryWarehouse, calls: list[str]
) -> None:
    """It restarts, saying what is wrong and what to run, with nothing acknowledged; once fixed it continues."""
    warehouse.failures.extend([kind("Table shop.fact_inventory does not fit.", "Run: ecomflow infra up")] * 2)
    restarted = Restarted()
    summary = run(subscription, warehouse, [stock(1)], on_restart=restarted)
    assert restarted.reasons == ["Table shop.fact_inventory does not fit.\nRun: ecomflow infra up"] * 2
    assert summary.restarts == 2
    assert calls == [*["take"] * 3, "write fact_inventory", "acknowledge"]


@pytest.mark.parametrize("kind", RECOVERABLE)
def test_what_nobody_fixes_ends_it(
    kind: type[EcomflowError],
    subscription: ScriptedSubscription,
    warehouse: MemoryWarehouse,
    calls: list[str],
) -> None:
    """When the time to fix it is over, the error is raised unchanged, with nothing acknowledged."""
    errors = [kind(f"Table shop.fact_inventory does not fit {number}.", "Run: ecomflow infra up") for number in range(20)]
    warehouse.failures.extend(errors)
    with pytest.raises(kind) as caught:
        run(subscription, warehouse, [stock(1)], recovery_seconds=0.002)
    assert caught.value in errors[1:]
    assert set(calls) == {"take"}
    assert subscription.open == []


def test_the_time_to_recover_is_that_of_one_trouble() -> None:
    """It starts with the first failure that someone can fix, continues with the next, and ends with a transient one."""
    missing, away, other = NotFoundError("missing"), UnavailableError("away"), EcomflowError("other")
    assert engine._give_up_at(missing, None, 100.0, 600.0) == 700.0
    assert engine._give_up_at(missing, 130.0, 100.0, 600.0) == 130.0
    assert engine._give_up_at(away, 130.0, 100.0, 600.0) is None
    assert engine._give_up_at(None, 130.0, 100.0, 600.0) is None
    assert engine._give_up_at(other, None, 100.0, 600.0) == 100.0


def test_a_lasting_error_of_the_source_ends_it(subscription: ScriptedSubscription, warehouse: MemoryWarehouse) -> None:
    """What neither a restart nor a person can fix is raised unchanged, at once."""
    error = EcomflowError("Subscription pipeline can't be pulled from: no.", "Check it with: ecomflow infra status")
    subscription.failures.append(error)
    with pytest.raises(EcomflowError) as caught:
        run(subscription, warehouse)
    assert caught.value is error


class PoisonedCounters(Counters):
    """Raise the ``faults`` while decoding: faults of no message's, so that none is to blame and all come again."""

    def __init__(self, faults: list[Exception]) -> None:
        super().__init__()
        self.faults = faults

    def count_drift(self, drift: Mapping[tuple[str, str], int]) -> None:
        if self.faults:
            raise self.faults.pop()
        super().count_drift(drift)


@pytest.mark.parametrize(
    ("poison", "words"),
    [
        (RuntimeError("by the test"), "RuntimeError: by the test"),
        (KeyError("colour"), 'KeyError: "colour'),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "by the test"), "UnicodeDecodeError: 'utf-8"),
    ],
)
def test_a_fault_of_a_step_restarts_it(
    poison: Exception,
    words: str,
    subscription: ScriptedSubscription,
    warehouse: MemoryWarehouse,
) -> None:
    """Whatever a step raises, the pipeline restarts, says what and where, and goes on when the fault is gone."""
    runtime = memory_runtime(warehouse, subscription)
    runtime.counters = PoisonedCounters([poison, poison])
    restarted = Restarted()
    run(subscription, warehouse, [stock(1)], on_restart=restarted, runtime=runtime)
    assert len(restarted.reasons) == 2
    for reason in restarted.reasons:
        assert words in reason
        assert "Decode events" in reason
        assert "\n" not in reason
    assert len(warehouse.rows["fact_inventory"]) == 1


def test_a_failed_acknowledgement_stops_nothing(subscription: ScriptedSubscription, warehouse: MemoryWarehouse) -> None:
    """Beam only logs what an acknowledgement raises: the next bundle follows, and the messages are still there to come again."""
    subscription.loses = lambda messages: stock(1) in messages
    restarted = Restarted()
    run(subscription, warehouse, [stock(1)], [stock(2)], on_restart=restarted)
    assert restarted.reasons == []
    assert [row["inventory_id"] for row in warehouse.rows["fact_inventory"]] == ["i-1", "i-2"]
    assert list(subscription.waiting) == [[stock(1)]]


def test_restarts_leave_no_threads(subscription: ScriptedSubscription, warehouse: MemoryWarehouse) -> None:
    """A pipeline that restarts many times does not gather threads."""
    warehouse.failures.extend(UnavailableError("away") for _ in range(3))
    run(subscription, warehouse, [stock(1)])
    before = threading.active_count()
    subscription.drain.clear()
    warehouse.failures.extend(UnavailableError("away") for _ in range(5))
    run(subscription, warehouse, [stock(1)])
    assert threading.active_count() <= before + 1


@pytest.mark.stack
def test_memory_does_not_grow_with_the_bundles() -> None:
    """Over hundreds of bundles the process stays as it is; on Beam's runner without the repair it grows with each of them."""
    command = [sys.executable, "-c", "from tests.pipeline.direct import test_engine; test_engine.print_growth()"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    repaired, plain = (float(word) for word in run.stdout.split())
    assert repaired < 10
    assert plain > 30


def print_growth() -> None:
    """Kilobytes a bundle by which this process grows: with the repair, then without, so that no memory freed before hides it."""
    repaired = _growth(150)
    fold_into_copies = fn_runner.consolidate_monitoring_infos
    engine._flat_memory_runner = fn_runner.FnApiRunner
    fn_runner.consolidate_monitoring_infos = fold_into_copies.folds
    print(repaired, _growth(150))


def _growth(bundles: int, warm_up: int = 50) -> float:
    """Kilobytes a bundle of ``bundles`` that come after ``warm_up`` others."""
    subscription = ScriptedSubscription(*[[message(order(1)), stock(2), message(activity(3))]] * (warm_up + bundles))
    begun: list[int] = []

    class Watch(list[str]):
        def append(self, call: str) -> None:
            if call == "take" and len(subscription.waiting) == bundles:
                begun.append(_resident())

    subscription.calls = Watch()
    run_until_drained(memory_runtime(MemoryWarehouse(keep=False), subscription), subscription.drain, Restarted())
    return (_resident() - begun[0]) / 1024 / bundles


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)
