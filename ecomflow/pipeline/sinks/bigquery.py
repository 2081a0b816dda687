"""Arrow rows in; appended to BigQuery by the Storage Write API's default stream, at least once; refused rows out.

One connection a table and process, shared by every step. A request that fails for a passing reason is sent again within bounds.
An event of which BigQuery refuses a row is refused with its words, and the other events of the request are sent again; where it
refuses a request without naming a row, the request is halved until it does no more. A missing table or a schema that does not fit
raises.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from google.api_core import exceptions
from google.cloud.bigquery_storage_v1.types import AppendRowsRequest, AppendRowsResponse
from requests.exceptions import RequestException

from ecomflow import __version__
from ecomflow.contract.buffers import at_most_row_bytes
from ecomflow.contract.ddl import ARROW_TYPES, INGESTION
from ecomflow.contract.limits import MAX_ROW_BYTES
from ecomflow.errors import AccessError, EcomflowError, NotFoundError, SchemaError, UnavailableError
from ecomflow.gcp.clients import append_rows, bigquery_client, bigquery_write_client
from ecomflow.gcp.errors import TRANSIENT
from ecomflow.pipeline.config import PipelineConfig
from ecomflow.pipeline.counters import Counters
from ecomflow.pipeline.sinks.patience import Patience
from ecomflow.sql import sql_type

log = logging.getLogger(__name__)

_RawRequest = AppendRowsRequest.pb()

# The bytes of a request's rows. No row is larger.
MAX_REQUEST_BYTES = MAX_ROW_BYTES

# An append that is given up fails its bundle, whose messages are redelivered. A connection that does not answer counts as lost: a
# network that vanished would keep it open forever.
PATIENCE = Patience(answer=60.0, give_up=120.0, first_pause=0.1, longest_pause=10.0)
# An answer that takes longer than this part of the time that it may take is said to be waited for.
_SLOW = 0.05

# A server that shuts down also cancels the streams that it holds open.
_TRANSIENT = (*TRANSIENT, exceptions.Cancelled)
# A connection that reached no region: https://github.com/googleapis/google-cloud-python/issues/16650
_NOT_ROUTED = "Cannot route"
# What BigQuery says of a column that the table lacks, or that appends don't know yet.
_UNKNOWN_COLUMNS = re.compile(r"more fields than|extra fields", re.IGNORECASE)
_LOGIN = "Log in again: gcloud auth application-default login"
_GRANT = "Grant the role roles/bigquery.dataEditor."


class MaybeMissingError(AccessError):
    """BigQuery denies access to a table "(or it may not exist)": without access it does not say which."""


class RefusedRow(NamedTuple):
    """A row that BigQuery does not take: its position in what was given to ``start``, and why. No row of its event that stood in
    the same request is written either.
    """

    row: int
    error: str


class _Append:
    """One request: its rows, each with its index in what was given to ``start`` and its event, in the order of events; once
    answered, the response or the error. ``is_apart``: sent on a connection of its own.
    """

    def __init__(self, rows: pa.RecordBatch, indices: Any, events: Any, *, is_apart: bool = False) -> None:
        self.rows = rows
        self.indices = indices  # numpy int64 array
        self.events = events  # of the same length
        self.is_apart = is_apart
        self.connection: _Connection | None = None
        self.answered = threading.Event()
        self.response: AppendRowsResponse | None = None
        self.error: exceptions.GoogleAPICallError | None = None

    def resolve(self, response: AppendRowsResponse | None, error: exceptions.GoogleAPICallError | None) -> None:
        self.response, self.error = response, error
        self.answered.set()

    def again(self) -> _Append:
        """The same, to be sent once more."""
        return _Append(self.rows, self.indices, self.events, is_apart=self.is_apart)

    def without_events(self, dropped: Any) -> _Append:
        """The same without the rows of these events, to be sent once more."""
        keep = ~np.isin(self.events, dropped)
        return _Append(self.rows.filter(pa.array(keep)), self.indices[keep], self.events[keep], is_apart=self.is_apart)

    def cut(self, at: int) -> tuple[_Append, _Append]:
        """In two, neither of them sent; the second begins with row ``at``."""
        return (
            _Append(self.rows.slice(0, at), self.indices[:at], self.events[:at], is_apart=self.is_apart),
            _Append(self.rows.slice(at), self.indices[at:], self.events[at:], is_apart=self.is_apart),
        )

    def halves(self) -> tuple[_Append, _Append] | None:
        """In two parts of whole events, neither of them sent; None where all rows are of one event."""
        middle = self.events[len(self.events) // 2]
        first, last = (int(np.searchsorted(self.events, middle, side)) for side in ("left", "right"))
        at = first or last
        return None if at == len(self.events) else self.cut(at)


class _Connection:
    """One AppendRows stream. Requests are answered in their order; when the stream ends, whatever is unanswered fails."""

    def __init__(self, client: Any, stream: str, schema: pa.Schema) -> None:
        self._client = client
        self._stream = stream
        self._schema = schema.serialize().to_pybytes()
        self._requests: SimpleQueue[AppendRowsRequest | None] = SimpleQueue()
        self._unanswered: deque[_Append] = deque()
        self._lock = threading.Lock()
        self.is_open = True
        # append_rows blocks until the first response, so it is called where responses are received.
        self._thread = threading.Thread(target=self._receive, name=f"append {stream}", daemon=True)
        self._thread.start()

    def send(self, append: _Append) -> bool:
        """Whether the request was taken; False where the stream has ended."""
        # Of the raw message: proto-plus copies the rows once more for each message that holds them.
        raw = _RawRequest(write_stream=self._stream, trace_id=f"ecomflow:{__version__}")
        raw.arrow_rows.writer_schema.serialized_schema = self._schema
        raw.arrow_rows.rows.serialized_record_batch = append.rows.serialize().to_pybytes()
        request = AppendRowsRequest.wrap(raw)
        with self._lock:
            if self.is_open:
                append.connection = self
                self._unanswered.append(append)
                self._requests.put(request)
            return self.is_open

    def send_last(self, append: _Append) -> None:
        """Send this and nothing after it, on a new connection: an error that ends it is the append's own."""
        self.send(append)
        self.abandon()

    def abandon(self) -> None:
        """Take and send no more; what is unanswered may still be answered."""
        with self._lock:
            self.is_open = False
            self._requests.put(None)

    def close(self) -> None:
        """End the stream, and wait until what is unanswered is answered."""
        self.abandon()
        self._thread.join(timeout=10)

    def _sent(self) -> Iterator[AppendRowsRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def _receive(self) -> None:
        error: exceptions.GoogleAPICallError = exceptions.ServiceUnavailable("the append stream was closed by the server")
        try:
            for response in append_rows(self._client, self._stream, self._sent()):
                self._unanswered.popleft().resolve(response, None)
        except exceptions.GoogleAPICallError as raised:
            error = raised
        finally:  # whatever ended it: an append that is never answered would be waited for
            self.abandon()  # releases gRPC's sending thread
            for append in self._unanswered:
                append.resolve(None, error)


class TableWriter:
    """Appends rows of one schema to one table's default stream. Safe for several threads."""

    def __init__(
        self,
        config: PipelineConfig,
        table: str,
        client: Any,
        counters: Counters,
        patience: Patience = PATIENCE,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        columns: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        self._config = config
        self._columns = columns or self._columns_now
        self._table = table
        self._client = client
        self._counters = counters
        self._patience = patience
        self._sleep = sleep
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: _Connection | None = None

    def start(self, rows: pa.RecordBatch, events: Any = None) -> list[_Append]:
        """Send ``rows`` (with ``ingestion_timestamp``) and return at once; ``finish`` waits for the answers.

        ``events``: the number of each row's event, a numpy int64 array in ascending order; None where each row is one. An event's
        rows are in one request, unless they fit none.
        """
        indices = np.arange(rows.num_rows)
        appends = list(_parts(_Append(rows, indices, indices if events is None else events)))
        for append in appends:
            self._send(append)
        return appends

    def finish(self, appends: list[_Append]) -> list[RefusedRow]:
        """Wait until every row is written or refused; return the refused.

        Raises UnavailableError where BigQuery can't be reached before ``patience.give_up``, NotFoundError or SchemaError where
        the table is missing or does not fit.
        """
        refused: list[RefusedRow] = []
        try:
            for append in appends:
                refused += self._refused_rows_of(append)
        finally:
            self._counters.waiting(self._table, None)
        return refused

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _send(self, append: _Append) -> None:
        if append.is_apart:
            self._new_connection(append.rows.schema).send_last(append)
            return
        while not self._open_connection(append.rows.schema).send(append):
            pass  # it ended in between: the next one is new

    def _open_connection(self, schema: pa.Schema) -> _Connection:
        with self._lock:
            if self._connection is None or not self._connection.is_open:
                self._connection = self._new_connection(schema)
            return self._connection

    def _new_connection(self, schema: pa.Schema) -> _Connection:
        return _Connection(self._client, f"{self._config.table_path(self._table)}/streams/_default", schema)

    def _refused_rows_of(self, append: _Append) -> list[RefusedRow]:
        refused: list[RefusedRow] = []
        pause, give_up = self._patience.first_pause, self._clock() + self._patience.give_up
        while True:
            self._await(append)
            error = append.error or _response_error(append.response)
            row_errors = {row.index: row.message for row in append.response.row_errors} if append.response is not None else {}
            if row_errors:
                refused += [RefusedRow(int(append.indices[row]), words) for row, words in sorted(row_errors.items())]
                append = append.without_events(append.events[list(row_errors)])
                if append.rows.num_rows == 0:
                    return refused
            elif error is None:
                return refused
            elif (awaited := self._awaited(error, append.rows.schema)) is not None and self._clock() < give_up:
                log.warning("Waiting for %s", awaited)
                self._counters.waiting(self._table, awaited)
                self._counters.count("retries")
                self._sleep(pause)
                pause = min(pause * 2, self._patience.longest_pause)
                append = append.again()
            elif self._is_of_rows(error, append):
                return refused + self._refused_apart(append, error)
            else:
                raise self._translated(error, append.rows.schema)
            self._send(append)

    def _refused_apart(self, append: _Append, error: exceptions.GoogleAPICallError) -> list[RefusedRow]:
        """The refused rows of a request that BigQuery refuses as a whole: its events are sent in ever smaller parts, each on a
        connection of its own.

        First the whole once more: the error may be of another request on the same connection, which ended with it.
        """
        if not append.is_apart:
            parts = [_Append(append.rows, append.indices, append.events, is_apart=True)]
        elif (halves := append.halves()) is not None:
            parts = list(halves)
        else:
            return [RefusedRow(int(index), error.message or "") for index in append.indices]
        for part in parts:
            self._send(part)
        return [row for part in parts for row in self._refused_rows_of(part)]

    def _await(self, append: _Append) -> None:
        """Wait for the answer, saying so where it takes long; where none comes, give up its connection."""
        seconds = self._patience.answer
        if append.answered.wait(seconds * _SLOW):
            return
        self._counters.waiting(self._table, f"BigQuery to answer an append to {self._table}")
        if not append.answered.wait(seconds * (1 - _SLOW)):
            assert append.connection is not None  # it was sent, or else it is answered
            append.connection.abandon()
            append.resolve(None, exceptions.DeadlineExceeded(f"no answer in {seconds:.0f} s"))

    def _awaited(self, error: exceptions.GoogleAPICallError, schema: pa.Schema) -> str | None:
        """What to wait for before the same rows are sent again, in words; None where waiting is of no use."""
        if isinstance(error, _TRANSIENT) or _NOT_ROUTED in (error.message or ""):
            return f"BigQuery to accept rows of {self._table}: {error.message}"
        if self._is_new_column(error, schema):
            return f"BigQuery's write API to see a new column of {self._table}, which can take ten minutes"
        return None

    def _is_new_column(self, error: exceptions.GoogleAPICallError, schema: pa.Schema) -> bool:
        """Whether appends miss columns that the table itself has.

        A change of a table's schema reaches the Storage Write API within minutes:
        https://cloud.google.com/bigquery/docs/write-api
        """
        if not (isinstance(error, exceptions.BadRequest) and _UNKNOWN_COLUMNS.search(error.message or "")):
            return False
        return {name.lower() for name in schema.names} <= self._seen_columns().keys()

    def _is_of_rows(self, error: exceptions.GoogleAPICallError, append: _Append) -> bool:
        """Whether a request is refused for some of its rows, though BigQuery names none: the table has all of their columns, in
        the types of the rows. Of the parts of a request that is known.
        """
        is_rows = isinstance(error, (exceptions.InvalidArgument, exceptions.OutOfRange))
        if not is_rows or _UNKNOWN_COLUMNS.search(error.message or ""):
            return False
        if append.is_apart:
            return True
        found = self._seen_columns()
        return all(found.get(field.name.lower()) == field.type for field in append.rows.schema)

    def _seen_columns(self) -> dict[str, pa.DataType | None]:
        """The columns that the table has now, in lower case; none where it can't be looked at."""
        try:
            columns = self._columns()
        except (exceptions.GoogleAPIError, RequestException, EcomflowError):
            return {}
        return {name.lower(): ARROW_TYPES.get(sql_type(kind)) for name, kind in columns.items()}

    def _columns_now(self) -> dict[str, str]:
        """The columns that the table has, by BigQuery's REST API, with their types."""
        client = bigquery_client(self._config.project, self._config.endpoints)
        try:
            table = client.get_table(self._table_id, timeout=self._patience.answer, retry=None)
            return {field.name: field.field_type for field in table.schema}
        finally:
            client.close()

    @property
    def _table_id(self) -> str:
        return f"{self._config.project}.{self._config.dataset}.{self._table}"

    def _translated(self, error: exceptions.GoogleAPICallError, schema: pa.Schema) -> EcomflowError:
        """Not by ``gcp.errors``: what appends are refused for is the schema, or waited for by the engine."""
        table, words = self._table_id, error.message or ""
        if self._awaited(error, schema) is not None:
            return UnavailableError(f"BigQuery accepted no rows of {table}: {words}")
        if isinstance(error, exceptions.NotFound):
            return NotFoundError(f"Table {table} does not exist: {words}", "Run: ecomflow infra up")
        if isinstance(error, exceptions.Unauthorized):
            return AccessError(f"Table {table} can't be written: BigQuery does not accept the credentials: {words}", _LOGIN)
        if isinstance(error, exceptions.Forbidden) and "may not exist" in words:
            return MaybeMissingError(
                f"Table {table} does not exist, or can't be written: {words}",
                f"If it is missing, run: ecomflow infra up\n{_GRANT}",
            )
        if isinstance(error, exceptions.Forbidden):
            return AccessError(f"Table {table} can't be written: {words}", _GRANT)
        if isinstance(error, exceptions.BadRequest):  # INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE
            return SchemaError(
                f"BigQuery refuses the rows of {table}: {words}", "Compare its columns with: ecomflow infra status"
            )
        return UnavailableError(f"BigQuery accepted no rows of {table}: {words}")


def with_ingestion_time(rows: pa.RecordBatch, moments: Any) -> pa.RecordBatch:
    """``rows`` with their last column, ``ingestion_timestamp``: set here, so that every warehouse agrees, emulators too.

    ``moments``: microseconds since 1970, one for all rows or a numpy int64 array of one for each.
    """
    if isinstance(moments, int):
        return rows.append_column(INGESTION, pa.repeat(pa.scalar(moments, INGESTION.type), rows.num_rows))
    return rows.append_column(INGESTION, pa.array(moments).view(INGESTION.type))


def _parts(append: _Append) -> Iterator[_Append]:
    """``append`` in parts that fit a request: of whole events, or of rows where an event fits none."""
    rows = append.rows
    if rows.num_rows <= 1 or at_most_row_bytes(rows) <= MAX_REQUEST_BYTES or rows.nbytes <= MAX_REQUEST_BYTES:
        yield append
        return
    for half in append.halves() or append.cut(rows.num_rows // 2):
        yield from _parts(half)


def _response_error(response: AppendRowsResponse | None) -> exceptions.GoogleAPICallError | None:
    if response is None or not response.error.code:
        return None
    return exceptions.from_grpc_status(response.error.code, response.error.message)


class TableWriters:
    """A pipeline's table writers, on one client, each made when it is first asked for. Safe for several threads."""

    def __init__(self, config: PipelineConfig, counters: Counters, patience: Patience = PATIENCE) -> None:
        self._config = config
        self._counters = counters
        self._patience = patience
        self._lock = threading.Lock()
        self._client = bigquery_write_client(config.endpoints)
        self._writers: dict[str, TableWriter] = {}

    def writer(self, table: str) -> TableWriter:
        with self._lock:
            if table not in self._writers:
                self._writers[table] = TableWriter(self._config, table, self._client, self._counters, self._patience)
            return self._writers[table]

    def close(self) -> None:
        with self._lock:
            writers = list(self._writers.values())
            self._writers.clear()
        for writer in writers:
            writer.close()
        self._client.transport.close()
