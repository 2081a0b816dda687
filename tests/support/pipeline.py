"""What the pipeline's tests share: events as messages, writers that keep what they are given, a puller with a script, and a
BigQuery that fails on request.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import apache_beam as beam
import grpc
import pyarrow as pa
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from google.cloud.bigquery_storage_v1 import types

from ecomflow.config import Endpoints
from ecomflow.contract.dead_letter import DeadLetter
from ecomflow.contract.events import Message
from ecomflow.contract.loading import shop_contracts
from ecomflow.local.bigquery.appends import Refusal, check_routing
from ecomflow.pipeline.batches import MessageBatch
from ecomflow.pipeline.config import PipelineConfig
from ecomflow.pipeline.direct.puller import PulledBatch
from ecomflow.pipeline.graph import build_graph
from ecomflow.pipeline.runtime import Runtime
from ecomflow.pipeline.sinks.bigquery import RefusedRow

PUBLISHED = 1_764_547_200_000_000  # 2025-12-01T00:00:00Z


def config_for(deadline: int = 30, **endpoints: str) -> PipelineConfig:
    subscription = "projects/test-project/subscriptions/pipeline"
    return PipelineConfig("test-project", subscription, "test-bucket", "shop", Endpoints(**endpoints), deadline, shop_contracts())


def order(number: int, **changes: Any) -> dict[str, Any]:
    """An order of two items: 2 x 19.99 and 1 x 5."""
    items = [
        {"product_id": "p-1", "product_name": "Blue chair", "quantity": 2, "price": 19.99},
        {"product_id": "p-2", "product_name": "Red table", "quantity": 1, "price": 5},
    ]
    address = {"street": "Main 1", "city": "Paris", "country": "FR"}
    return {
        "event_type": "order",
        "order_id": f"o-{number}",
        "customer_id": "c-1",
        "customer_name": "Jane Doe",
        "order_date": "2026-01-31T23:30:00-02:00",
        "status": "delivered",
        "items": items,
        "shipping_address": address,
        "total_amount": 44.98,
    } | changes


def inventory(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "event_type": "inventory",
        "inventory_id": f"i-{number}",
        "product_id": "p-1",
        "warehouse_id": "w-1",
        "quantity_change": -3,
        "reason": "sale",
        "timestamp": "2026-01-31T10:00:00Z",
    } | changes


def activity(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "event_type": "user_activity",
        "user_id": f"u-{number}",
        "activity_type": "login",
        "ip_address": "10.0.0.1",
        "user_agent": "test",
        "timestamp": "2026-01-31T10:00:00.5Z",
        "metadata": {"session_id": "s-1", "platform": "web"},
    } | changes


def message(event: dict[str, Any] | bytes, event_id: str | None = None, message_id: str = "m-1") -> Message:
    data = event if isinstance(event, bytes) else json.dumps(event).encode()
    return Message(data, {"event_id": event_id} if event_id else {}, message_id, PUBLISHED)


class MemoryWarehouse:
    """The writers of all tables and of the dead letters, in memory. ``calls`` records what happened, in order.

    ``refuse`` gives BigQuery's message for a row that it refuses; ``failures`` are raised by the next ``finish`` calls.
    ``on_start``, ``on_finish`` and ``on_upload`` are called with what a writer is given, and may raise.
    """

    def __init__(self, calls: list[str] | None = None, keep: bool = True) -> None:
        self.calls = [] if calls is None else calls
        self.keep = keep
        self.rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.letters: dict[str, list[DeadLetter]] = defaultdict(list)
        self.refuse: Callable[[str, dict[str, Any]], str | None] = lambda table, row: None
        self.failures: deque[Exception] = deque()
        self.on_start: Callable[[str, pa.RecordBatch], None] = lambda table, rows: None
        self.on_finish: Callable[[str, pa.RecordBatch], None] = lambda table, rows: None
        self.on_upload: Callable[[list[DeadLetter]], None] = lambda letters: None


class MemoryTables:
    """The writers of a warehouse's tables."""

    def __init__(self, warehouse: MemoryWarehouse) -> None:
        self._warehouse = warehouse

    def writer(self, table: str) -> MemoryTable:
        return MemoryTable(self._warehouse, table)

    def close(self) -> None:
        pass


class MemoryTable:
    def __init__(self, warehouse: MemoryWarehouse, table: str) -> None:
        self._warehouse = warehouse
        self._table = table

    def start(self, rows: pa.RecordBatch, events: Any) -> tuple[pa.RecordBatch, list[int]]:
        self._warehouse.on_start(self._table, rows)
        return rows, list(events)

    def finish(self, started: tuple[pa.RecordBatch, list[int]]) -> list[RefusedRow]:
        rows, events = started
        self._warehouse.on_finish(self._table, rows)
        if self._warehouse.failures:
            raise self._warehouse.failures.popleft()
        if not self._warehouse.keep:
            return []
        written = rows.to_pylist()
        refused = [
            RefusedRow(index, words) for index, row in enumerate(written) if (words := self._warehouse.refuse(self._table, row))
        ]
        without = {events[row.row] for row in refused}
        self._warehouse.rows[self._table] += [row for row, event in zip(written, events, strict=True) if event not in without]
        self._warehouse.calls.append(f"write {self._table}")
        return refused


class MemoryLetters:
    def __init__(self, warehouse: MemoryWarehouse) -> None:
        self._warehouse = warehouse

    def start(self, stream: str, letters: list[DeadLetter]) -> list[tuple[str, list[DeadLetter]]]:
        self._warehouse.on_upload(letters)
        return [(stream, letters)]

    def finish(self, uploads: list[tuple[str, list[DeadLetter]]]) -> None:
        for stream, letters in uploads:
            self._warehouse.letters[stream] += letters
            self._warehouse.calls.append(f"dead letters {stream}")

    def close(self) -> None:
        pass


class ScriptedSubscription:
    """A subscription in memory, and the pullers made of it: what a puller has not acknowledged comes again to the next one.

    ``drain`` is set when all is acknowledged.
    """

    def __init__(self, *bundles: list[Message], calls: list[str] | None = None) -> None:
        self.calls = [] if calls is None else calls
        self.waiting = deque(bundles)
        self.leased: list[list[Message]] = []
        self.failures: deque[Exception] = deque()
        self.drain = threading.Event()
        self.open: list[ScriptedPuller] = []
        self.loses: Callable[[list[Message]], bool] = lambda messages: False


class ScriptedPuller:
    """One bundle of the script a ``take``. It raises where the subscription ``loses`` an acknowledgement."""

    def __init__(self, subscription: ScriptedSubscription) -> None:
        self._subscription = subscription
        self._stop = threading.Event()
        subscription.open.append(self)

    def take(self, most: int, wait: float) -> PulledBatch | None:
        if self._subscription.failures:
            raise self._subscription.failures.popleft()
        if self._stop.is_set():
            return None
        if not self._subscription.waiting:
            self._stop.wait(wait)
            return None
        messages = self._subscription.waiting.popleft()
        self._subscription.leased.append(messages)
        self._subscription.calls.append("take")
        return PulledBatch(messages, [], 0)

    def acknowledge(self, batch: PulledBatch) -> None:
        if self._subscription.loses(batch.messages):
            raise ConnectionError("lost by the test")
        self._subscription.leased.remove(batch.messages)
        self._subscription.calls.append("acknowledge")
        if not self._subscription.waiting:
            self._subscription.drain.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        self._stop.set()

    def close(self) -> None:
        """Give back what is not acknowledged."""
        self._subscription.open.remove(self)
        self._subscription.waiting.extendleft(reversed(self._subscription.leased))
        self._subscription.leased = []


def memory_runtime(
    warehouse: MemoryWarehouse,
    subscription: ScriptedSubscription | None = None,
    config: PipelineConfig | None = None,
    **parts: Any,
) -> Runtime:
    """A runtime on ``warehouse`` and ``subscription``. ``parts`` are Runtime's own arguments, and stand before these."""
    doubles: dict[str, Any] = {
        "puller": lambda *_: ScriptedPuller(subscription or ScriptedSubscription()),
        "table_writers": lambda *_: MemoryTables(warehouse),
        "dead_letter_writer": lambda *_: MemoryLetters(warehouse),
    }
    return Runtime(config or config_for(), **doubles | parts)


class Batches(beam.PTransform):  # type: ignore[misc]  # Beam is untyped
    """A source of these batches, and then no more."""

    def __init__(self, *batches: list[Message]) -> None:
        super().__init__()
        self._batches = [MessageBatch(messages) for messages in batches]

    def expand(self, root: Any) -> Any:
        return root | beam.Create(self._batches, reshuffle=False)


def run_graph(runtime: Runtime, *batches: list[Message]) -> Any:
    """Run the real graph over ``batches`` on FnApiRunner; Beam's result."""
    pipeline = beam.Pipeline(runner=FnApiRunner())
    build_graph(pipeline, Batches(*batches), runtime.config)
    with runtime:
        result = pipeline.run()
        result.wait_until_finish()
    return result


# What FakeBigQuery does with a request on demand: one fault per request, in the order of the requests.


class EndsStream(NamedTuple):
    """The stream ends with ``code``; the rows are written before, or they are not."""

    code: grpc.StatusCode
    written: bool = False
    words: str | None = None


class AnswersError(NamedTuple):
    """The answer holds an error; the stream goes on."""

    code: grpc.StatusCode


class ClosesStream:
    """The stream ends well, without an answer."""


class SaysNothing:
    """No answer comes, and the stream stays open."""


class AnswersRowErrors(NamedTuple):
    """The answer holds these row errors, and no error of the whole."""

    rows: list[tuple[int, str]]


Fault = EndsStream | AnswersError | ClosesStream | SaysNothing | AnswersRowErrors | None

_Request, _Response = types.AppendRowsRequest.pb(), types.AppendRowsResponse.pb()


class FakeBigQuery:
    """AppendRows over gRPC, with the answers that the service documents and an emulator does not give.

    ``rows`` holds what was written, by stream; ``requests`` every request; ``faults`` what becomes of the next ones. A row for
    which ``refuse`` has words is answered with them as a row error, and then nothing of its request is written; one for which
    ``refuse_whole`` has words has the request refused without a word about the row, or the stream ended (``whole_ends_stream``).
    """

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.requests: list[Any] = []
        self.faults: deque[Fault] = deque()
        self.always: Fault = None
        self.refuse: Callable[[dict[str, Any]], str | None] = lambda row: None
        self.refuse_whole: Callable[[dict[str, Any]], str | None] = lambda row: None
        self.whole_ends_stream = False
        self.streams = 0
        self._ended = threading.Event()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        """The address that it listens at, while the context is open."""
        server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
        method = grpc.stream_stream_rpc_method_handler(self._append_rows, _Request.FromString, _Response.SerializeToString)
        name = "google.cloud.bigquery.storage.v1.BigQueryWrite"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"AppendRows": method}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            self._ended.set()
            server.stop(0).wait()

    def _append_rows(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        self.streams += 1
        for request in requests:
            _demand_routing(context, request.write_stream)
            with self._lock:
                self.requests.append(request)
                fault = self.faults.popleft() if self.faults else self.always
            if isinstance(fault, ClosesStream):
                return
            if isinstance(fault, SaysNothing):
                self._ended.wait()
                return
            yield self._answer(request, fault, context)

    def _answer(self, request: Any, fault: Fault, context: grpc.ServicerContext) -> Any:
        response = _Response(write_stream=request.write_stream)
        if isinstance(fault, AnswersError):
            response.error.code, response.error.message = fault.code.value[0], f"by the test: {fault.code.name}"
        elif isinstance(fault, AnswersRowErrors):
            _add_row_errors(response, fault.rows)
        elif not isinstance(fault, EndsStream) or fault.written:
            self._write(request, response, context)
        if isinstance(fault, EndsStream):
            context.abort(fault.code, fault.words or f"by the test: {fault.code.name}")
        return response

    def _write(self, request: Any, response: Any, context: grpc.ServicerContext) -> None:
        rows = rows_of(request)
        whole = next((words for row in rows if (words := self.refuse_whole(row))), None)
        if whole is not None and self.whole_ends_stream:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, whole)
        if whole is not None:
            response.error.code, response.error.message = 3, whole
            return
        errors = [(index, words) for index, row in enumerate(rows) if (words := self.refuse(row))]
        if errors:
            response.error.code, response.error.message = 3, "Errors found while processing rows."
            _add_row_errors(response, errors)
            return
        response.append_result.SetInParent()
        with self._lock:
            self.rows[request.write_stream] += rows


def _demand_routing(context: grpc.ServicerContext, write_stream: str) -> None:
    try:
        check_routing(context.invocation_metadata(), write_stream)
    except Refusal as refusal:
        context.abort(refusal.code, refusal.details)


def _add_row_errors(response: Any, errors: list[tuple[int, str]]) -> None:
    for index, words in errors:
        response.row_errors.add(index=index, message=words)


def rows_of(request: Any) -> list[dict[str, Any]]:
    """The rows of an AppendRows request, read with the schema that it carries."""
    arrow = request.arrow_rows
    schema = pa.ipc.read_schema(pa.py_buffer(arrow.writer_schema.serialized_schema))
    return list(pa.ipc.read_record_batch(pa.py_buffer(arrow.rows.serialized_record_batch), schema).to_pylist())
