"""The real graph on FnApiRunner, from messages to writers in memory: rows, dead letters, counters, and the shape of it."""

from __future__ import annotations

import json
import pickle
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import apache_beam as beam
import msgspec
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.portability import common_urns
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from ecomflow.contract.columns import TableRows
from ecomflow.contract.dead_letter import DeadLetter
from ecomflow.contract.envelope import CLOUDEVENTS
from ecomflow.contract.events import Message
from ecomflow.contract.modelling import Facts
from ecomflow.errors import SchemaError
from ecomflow.metrics import snapshot
from ecomflow.pipeline import counters, transforms
from ecomflow.pipeline.direct.source import PullMessages
from ecomflow.pipeline.graph import build_graph
from ecomflow.pipeline.runtime import Runtime
from ecomflow.pipeline.sinks.bigquery import RefusedRow
from ecomflow.pipeline.transforms import refused_by_bigquery
from tests.support.pipeline import (
    Batches,
    MemoryWarehouse,
    activity,
    config_for,
    inventory,
    memory_runtime,
    message,
    order,
    run_graph,
)

NOW = datetime(2026, 2, 1, 12, 0, tzinfo=UTC)
TYPES = ("order", "inventory", "user_activity")


@pytest.fixture
def warehouse() -> MemoryWarehouse:
    return MemoryWarehouse()


@pytest.fixture
def runtime(warehouse: MemoryWarehouse) -> Runtime:
    """Writers in memory, and time that stands still."""
    return memory_runtime(warehouse, now=lambda: NOW, steady=lambda: 0.0)


def graph_of(source: beam.PTransform) -> beam.Pipeline:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    build_graph(pipeline, source, config_for())
    return pipeline


def run(runtime: Runtime, *batches: list[Message]) -> dict[str, int]:
    """Run the graph over ``batches``; Beam's counters by name."""
    result = run_graph(runtime, *batches)
    found = result.metrics().query(beam.metrics.MetricsFilter().with_namespace(counters.NAMESPACE))["counters"]
    names: Counter[str] = Counter()
    for counter in found:
        names[counter.key.metric.name] += counter.committed
    return dict(names)


def dead_letters_of(warehouse: MemoryWarehouse) -> dict[str, list[tuple[str, str]]]:
    """The reason and the error of each dead letter, by stream."""
    return {stream: [(letter.reason, letter.error) for letter in letters] for stream, letters in warehouse.letters.items()}


HEADER = {
    "event_id": "e-1",
    "order_id": "o-1",
    "customer_id": "c-1",
    "customer_name": "Jane Doe",
    "order_date": date(2026, 2, 1),
    "order_timestamp": datetime(2026, 2, 1, 1, 30, tzinfo=UTC),
    "status": "delivered",
    "shipping_address_street": "Main 1",
    "shipping_address_city": "Paris",
    "shipping_address_country": "FR",
    "ingestion_timestamp": NOW,
}
LINES = [
    {
        "line_number": 1,
        "product_id": "p-1",
        "product_name": "Blue chair",
        "quantity": 2,
        "price": Decimal("19.99"),
        "total_amount": Decimal("39.98"),
    },
    {
        "line_number": 2,
        "product_id": "p-2",
        "product_name": "Red table",
        "quantity": 1,
        "price": Decimal(5),
        "total_amount": Decimal(5),
    },
]


class TestRows:
    def test_an_order_becomes_rows_of_three_tables(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """A header, a row an item, and a row an item with the header; the date is the UTC date, and nothing is refused."""
        run(runtime, [message(order(1), "e-1")])
        assert warehouse.rows["fact_order_header"] == [HEADER | {"total_amount": Decimal("44.98"), "unknown_fields": None}]
        common = {name: HEADER[name] for name in ("event_id", "order_id", "order_date", "order_timestamp", "ingestion_timestamp")}
        assert warehouse.rows["fact_order_item"] == [common | line for line in LINES]
        assert warehouse.rows["fact_order"] == [HEADER | line | {"order_total_amount": Decimal("44.98")} for line in LINES]
        assert set(warehouse.rows) == {"fact_order_header", "fact_order_item", "fact_order"}
        assert warehouse.letters == {}

    def test_stock_and_activity_become_their_rows(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """One row each; without the event_id attribute the message id replaces it."""
        run(runtime, [message(inventory(1), message_id="m-7"), message(activity(2), "e-2")])
        (stock,) = warehouse.rows["fact_inventory"]
        assert stock == {
            "event_id": "m-7",
            "inventory_id": "i-1",
            "product_id": "p-1",
            "warehouse_id": "w-1",
            "quantity_change": -3,
            "reason": "sale",
            "event_date": date(2026, 1, 31),
            "event_timestamp": datetime(2026, 1, 31, 10, tzinfo=UTC),
            "unknown_fields": None,
            "ingestion_timestamp": NOW,
        }
        (seen,) = warehouse.rows["fact_user_activity"]
        assert seen == {
            "event_id": "e-2",
            "user_id": "u-2",
            "activity_type": "login",
            "ip_address": "10.0.0.1",
            "user_agent": "test",
            "session_id": "s-1",
            "platform": "web",
            "event_date": date(2026, 1, 31),
            "event_timestamp": datetime(2026, 1, 31, 10, 0, 0, 500_000, UTC),
            "unknown_fields": None,
            "ingestion_timestamp": NOW + timedelta(microseconds=1),
        }

    def test_every_batch_of_a_bundle_is_written(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """Several batches, of several streams each, lose nothing."""
        run(
            runtime,
            *(
                [message(make(number), f"{make.__name__}-{number}") for make in (order, inventory, activity)]
                for number in range(5)
            ),
        )
        counts = {table: len(rows) for table, rows in warehouse.rows.items()}
        assert counts == {
            "fact_order_header": 5,
            "fact_order_item": 10,
            "fact_order": 10,
            "fact_inventory": 5,
            "fact_user_activity": 5,
        }


class TestDeadLetters:
    def test_each_step_refuses_into_its_stream(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """Malformed and unknown bytes go to unknown; what breaks a type or a rule goes to the stream of its event type."""
        run(
            runtime,
            [
                message(b'{"event_type": "ord', "e-1"),
                message({"event_type": "refund"}),
                message(order(1, status="lost")),
                message(order(2, order_date="1999-12-31T00:00:00Z")),
                message(inventory(3, quantity_change="3")),
                message(activity(4, ip_address="10.0.0.256")),
            ],
        )
        found = dead_letters_of(warehouse)
        assert {stream: [reason for reason, _ in letters] for stream, letters in found.items()} == {
            "unknown": ["malformed_json", "unknown_event_type"],
            "order": ["contract_violation", "out_of_range"],
            "inventory": ["contract_violation"],
            "user_activity": ["contract_violation"],
        }
        paths = {error.partition(":")[0] for letters in found.values() for _, error in letters}
        assert paths == {"$", "$.event_type", "$.status", "$.order_date", "$.quantity_change", "$.ip_address"}
        assert warehouse.rows == {}

    def test_a_letter_holds_the_message(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """Payload, attributes, ids and times are the message's own, and failed_at is the time of the run."""
        data = json.dumps(inventory(1, reason="theft")).encode()
        run(runtime, [message(data, "e-1", "m-9")])
        (letter,) = warehouse.letters["inventory"]
        assert (letter.payload, letter.payload_encoding) == (data.decode(), "utf-8")
        assert (letter.attributes, letter.event_id, letter.message_id) == ({"event_id": "e-1"}, "e-1", "m-9")
        assert (letter.publish_time, letter.failed_at) == (datetime(2025, 12, 1, tzinfo=UTC), NOW)

    def test_good_neighbours_are_written(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """A refused message takes nothing of its batch with it."""
        run(runtime, [message(order(1)), message(order(2, items=[])), message(order(3, total_amount=-1)), message(order(4))])
        assert [row["order_id"] for row in warehouse.rows["fact_order_header"]] == ["o-1", "o-4"]
        assert len(warehouse.letters["order"]) == 2


def refuse_orders(*numbers: int) -> Callable[[str, dict[str, Any]], str | None]:
    """Words for the header and for the second line of these orders."""
    ids = {f"o-{number}" for number in numbers}

    def words(table: str, row: dict[str, Any]) -> str | None:
        if row.get("order_id") in ids and (table == "fact_order_header" or (table == "fact_order" and row["line_number"] == 2)):
            return f"no {row['order_id']}"
        return None

    return words


def cloud_event(event: dict[str, Any], event_id: str, message_id: str) -> Message:
    body = {name: value for name, value in event.items() if name != "event_type"}
    document = {"specversion": "1.0", "source": "/shop", "type": "order", "id": event_id, "data": body}
    return message(document, message_id=message_id)


class TestIngestionTime:
    def test_a_delivery_has_one_time_in_all_tables(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """Each delivery another one, in the order of the deliveries, though the clock stands still."""
        run(runtime, [message(order(1), "e-1"), message(order(2), "e-2")], [message(order(3), "e-1")])
        for table in ("fact_order_header", "fact_order_item", "fact_order"):
            times = {row["order_id"]: row["ingestion_timestamp"] for row in warehouse.rows[table]}
            assert times == {"o-1": NOW, "o-2": NOW, "o-3": NOW + timedelta(microseconds=1)}

    def test_an_event_that_comes_twice_in_a_batch(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """The later of the two has a later time, on each of its rows."""
        run(runtime, [message(order(1), "e-1"), message(order(2), "e-2"), message(order(3), "e-1")])
        times = {(row["order_id"], row["line_number"]): row["ingestion_timestamp"] for row in warehouse.rows["fact_order_item"]}
        later = NOW + timedelta(microseconds=1)
        assert times == {(f"o-{number}", line): NOW if number < 3 else later for number in (1, 2, 3) for line in (1, 2)}


class TestRefusedByBigQuery:
    def test_a_message_becomes_one_dead_letter(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """However many rows of a message are refused, one dead letter names each row's table and BigQuery's message."""
        warehouse.refuse = refuse_orders(2)
        sent = [message(order(number), f"e-{number}") for number in (1, 2, 3)]
        run(runtime, sent)
        (letter,) = warehouse.letters["order"]
        assert letter.reason == "rejected_by_bigquery"
        assert letter.error == "$: fact_order_header: no o-2; fact_order: no o-2"
        assert (letter.event_id, letter.payload) == ("e-2", sent[1].data.decode())
        assert [row["order_id"] for row in warehouse.rows["fact_order_header"]] == ["o-1", "o-3"]
        assert len(warehouse.rows["fact_order"]) == 4
        assert len(warehouse.rows["fact_order_item"]) == 6

    def test_dead_letters_of_each_batch_are_written_within_the_bundle(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """Refusals that come when the bundle ends, in several batches, still reach the bucket, with those refused before."""
        warehouse.refuse = refuse_orders(1, 4)
        run(runtime, [message(order(1)), message(order(2, items=[]))], [message(order(3))], [message(order(4))])
        assert sorted(error for _, error in dead_letters_of(warehouse)["order"]) == [
            "$.items: expected array of length >= 1, got length 0",
            "$: fact_order_header: no o-1; fact_order: no o-1",
            "$: fact_order_header: no o-4; fact_order: no o-4",
        ]

    def test_an_event_in_an_envelope_keeps_its_id(self, warehouse: MemoryWarehouse) -> None:
        """The dead letter is found by the producer's id, whether BigQuery refuses the rows or a fault of the step's own does."""
        warehouse.refuse = refuse_orders(1)

        def start(table: str, rows: pa.RecordBatch) -> None:
            if "o-2" in rows.column("order_id").to_pylist():
                raise RuntimeError("a fault")

        warehouse.on_start = start
        runtime = memory_runtime(warehouse, config=msgspec.structs.replace(config_for(), envelope=CLOUDEVENTS))
        run(runtime, [cloud_event(order(number), f"E-{number}", f"m-{number}") for number in (1, 2, 3)])
        assert sorted((letter.event_id, letter.reason) for letter in warehouse.letters["order"]) == [
            ("E-1", "rejected_by_bigquery"),
            ("E-2", "processing_error"),
        ]

    def test_rows_are_traced_to_their_message(self) -> None:
        """A row's message is found by the table's sources, not by the row's position; dead letters are in message order."""
        messages = [message(order(number), f"e-{number}") for number in range(3)]
        empty = pa.RecordBatch.from_pylist([])
        header = TableRows("fact_order_header", empty, np.array([0, 1, 2]))
        items = TableRows("fact_order_item", empty, np.array([0, 0, 1, 1, 2, 2]))
        batch = Facts("order", [header, items], messages, [f"e-{number}" for number in range(3)], [], Counter())
        letters = refused_by_bigquery(
            batch,
            [(header, [RefusedRow(2, "a")]), (items, [RefusedRow(4, "b"), RefusedRow(1, "c")])],
            NOW,
        )
        assert [(letter.event_id, letter.error) for letter in letters] == [
            ("e-0", "$: fact_order_item: c"),
            ("e-2", "$: fact_order_header: a; fact_order_item: b"),
        ]


@pytest.mark.slow
class TestCounters:
    def test_counts_add_up(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """What was received is what was decoded and refused; rows are those written, not those refused by BigQuery."""
        warehouse.refuse = refuse_orders(2)
        counts = run(
            runtime,
            [message(order(1), "a"), message(order(2), "b"), message(inventory(3), "c"), message(inventory(3, reason="?"))],
            [message(b"\xff"), message(activity(4, timestamp="2000-01-01T00:00:00Z"), "d")],
        )
        steps = ("in/", "out/", "refused_in/", "reason_in/", "latency/", "bundles")
        assert {name: amount for name, amount in counts.items() if not name.startswith(steps)} == {
            "received": 6,
            "decoded/order": 2,
            "decoded/inventory": 1,
            "decoded/user_activity": 1,
            "rows/fact_order_header": 1,
            "rows/fact_order_item": 4,
            "rows/fact_order": 2,
            "rows/fact_inventory": 1,
            "refused/contract_violation": 1,
            "refused/malformed_json": 1,
            "refused/out_of_range": 1,
            "refused/rejected_by_bigquery": 1,
        }
        assert runtime.counters.totals() == counts

    @pytest.mark.slow
    def test_each_step_counts_what_it_takes_in_puts_out_and_refuses(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """By its label in the graph. What one step refuses no other refuses, and one step's output is the next one's input."""
        warehouse.refuse = refuse_orders(2)
        counts = run(
            runtime,
            [message(order(1), "a"), message(order(2), "b"), message(inventory(3), "c"), message(inventory(3, reason="?"))],
            [message(b"\xff"), message(activity(4, timestamp="2000-01-01T00:00:00Z"), "d")],
        )
        steps = {
            step.step: (step.messages_in, step.messages_out, step.refused)
            for step in snapshot.step_metrics(counts, snapshot.steps_of(config_for().contracts))
        }
        assert {name: found for name, found in steps.items() if any(found)} == {
            "Decode events": (6, 5, 1),
            "Model order facts": (2, 2, 0),
            "Write order facts": (2, 1, 1),
            "Write order dead letters": (1, 1, 0),
            "Model inventory facts": (1, 1, 0),
            "Write inventory facts": (1, 1, 0),
            "Write inventory dead letters": (1, 1, 0),
            "Model user_activity facts": (1, 0, 1),
            "Write user_activity dead letters": (1, 1, 0),
            "Refuse unknown events": (1, 0, 1),
            "Write unknown dead letters": (1, 1, 0),
        }

    def test_latency_is_counted_for_what_was_written(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """From the time of publication to the confirmation; not for what BigQuery refuses, nor where the time is not known."""
        warehouse.refuse = refuse_orders(2)
        now = int(NOW.timestamp() * 1e6)
        ages = ((order(1), 240_000), (order(2), 240_000), (inventory(3), 45 * 60_000_000), (inventory(4), now))
        counts = run(runtime, [msgspec.structs.replace(message(body, f"e-{age}"), publish_time=now - age) for body, age in ages])
        found = {name: amount for name, amount in counts.items() if name.startswith("latency/")}
        assert found == {f"latency/{bisect_left(snapshot.LATENCY_BOUNDS, 0.24)}": 1, f"latency/{len(snapshot.LATENCY_BOUNDS)}": 1}

    def test_the_time_of_the_last_append_is_kept_by_table(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """A gauge a table that has taken rows."""
        run(runtime, [message(inventory(1), "a")])
        gauges = runtime.counters.snapshot()["gauges"]
        assert gauges == {"last_append/fact_inventory": NOW.timestamp(), "memory_bytes": gauges["memory_bytes"]}

    def test_unknown_fields_are_counted_by_type_and_path(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """Fields that the contract does not name are let through, kept in the first table, and counted."""
        drifting = inventory(1, colour="red", metadata={"a": 1})
        counts = run(
            runtime, [message(drifting, "a"), message(inventory(2, colour="blue"), "b"), message(order(3, colour=1), "c")]
        )
        assert {name: count for name, count in counts.items() if name.startswith("schema_drift/")} == {
            "schema_drift/inventory/$.colour": 2,
            "schema_drift/inventory/$.metadata": 1,
            "schema_drift/order/$.colour": 1,
        }
        kept = [row["unknown_fields"] for row in warehouse.rows["fact_inventory"]]
        assert kept == ['{"colour":"red","metadata":{"a": 1}}', '{"colour":"blue"}']

    def test_names_of_unknown_fields_are_bounded(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """Beyond MAX_DRIFT_NAMES names the rest is counted under one, and nothing is lost from the sum."""
        counts = run(runtime, [message(inventory(1, **{f"field{number}": 1 for number in range(300)}), "a")])
        drift = {name: count for name, count in counts.items() if name.startswith("schema_drift/")}
        assert len(drift) == counters.MAX_DRIFT_NAMES + 1
        assert drift[counters.OTHER_DRIFT] == 300 - counters.MAX_DRIFT_NAMES

    def test_repeats_are_counted_and_written(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """An event id seen before counts as a duplicate, within a batch or across batches; its rows are written all the same."""
        counts = run(
            runtime,
            [message(inventory(1), "a"), message(inventory(1), "a")],
            [message(inventory(1), "a"), message(order(1), "b")],
        )
        assert counts["duplicates_seen"] == 2
        assert len(warehouse.rows["fact_inventory"]) == 3


class TestGraph:
    def test_the_metrics_name_its_steps(self) -> None:
        """``snapshot.steps_of`` the contracts are the labels of the graph, all of them."""
        proto = graph_of(PullMessages(config_for())).to_runner_api()
        (root,) = proto.root_transform_ids
        components = proto.components.transforms
        assert sorted(components[name].unique_name for name in components[root].subtransforms) == sorted(
            snapshot.steps_of(config_for().contracts)
        )

    def test_it_is_one_fused_stage(self) -> None:
        """From the pull to the last upload there is one stage: no shuffle and no Flatten, so nothing is acknowledged early."""
        proto = graph_of(PullMessages(config_for())).to_runner_api()
        urns = {transform.spec.urn for transform in proto.components.transforms.values()}
        assert common_urns.primitives.GROUP_BY_KEY.urn not in urns
        assert common_urns.primitives.FLATTEN.urn not in urns
        _, stages = FnApiRunner().create_stages(proto)
        steps = [[transform.unique_name for transform in stage.transforms] for stage in stages]
        (fused,) = [stage for stage in steps if "Read messages/Pull/Process" in stage]
        assert {name for name in fused if not name.endswith("_split/Read")} == {
            "Read messages/Pull/Process",
            "Decode events/Decode/ParDo(_DecodeFn)",
            *(f"Model {stream} facts/Model" for stream in TYPES),
            *(f"Write {stream} facts/Append" for stream in TYPES),
            *(f"Write {stream} dead letters/Upload" for stream in (*TYPES, "unknown")),
            "Refuse unknown events/Refuse",
        }

    def test_its_labels_are_an_interface(self) -> None:
        """A running job's update finds its steps by these names: changing one is a breaking change."""
        proto = graph_of(Batches([])).to_runner_api()
        transforms_of = proto.components.transforms
        (root,) = proto.root_transform_ids
        assert {transforms_of[name].unique_name for name in transforms_of[root].subtransforms} == {
            "Read messages",
            "Decode events",
            *(f"Model {stream} facts" for stream in TYPES),
            *(f"Write {stream} facts" for stream in TYPES),
            *(f"Write {stream} dead letters" for stream in (*TYPES, "unknown")),
            "Refuse unknown events",
        }

    @pytest.mark.parametrize(
        "make",
        [
            lambda: transforms._DecodeFn(config_for(), "Decode events"),
            lambda: transforms._ModelFn(config_for(), "Model order facts"),
            lambda: transforms._WriteFactsFn(config_for(), "Write order facts"),
            lambda: transforms._WriteDeadLettersFn(config_for(), "Write order dead letters"),
            lambda: transforms._RefuseFn(config_for(), "Refuse unknown events"),
        ],
    )
    def test_its_dofns_pickle(self, make: Callable[[], beam.DoFn]) -> None:
        """Every DoFn survives plain pickling, with its settings."""
        copy = pickle.loads(pickle.dumps(make()))
        assert vars(copy) == vars(make())

    def test_an_error_of_a_writer_is_kept_as_it_was(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """What a writer raises ends the run, and the engine finds the error itself in the runtime."""
        error = SchemaError("Table does not fit.", "Run: ecomflow infra status")
        warehouse.failures.append(error)
        with pytest.raises(Exception, match="Table does not fit"):
            run(runtime, [message(inventory(1))])
        assert runtime.failure.take() is error

    def test_a_dead_letter_batch_counts_when_it_is_written(self, warehouse: MemoryWarehouse, runtime: Runtime) -> None:
        """Dead letters reach the writer as one batch a stream and bundle of messages."""
        run(runtime, [message(b"1"), message(b"2")], [message(b"3")])
        letters: list[DeadLetter] = warehouse.letters["unknown"]
        assert [letter.payload for letter in letters] == ["1", "2", "3"]
        assert warehouse.calls == ["dead letters unknown", "dead letters unknown"]
