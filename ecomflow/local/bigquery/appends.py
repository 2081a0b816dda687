"""AppendRows of the local BigQuery: Arrow batches in over gRPC; rows in DuckDB, and responses like BigQuery's, out.

It replaces that of bqemulator 1.4.0, which has these problems:

- Each open stream uses a thread of asyncio's default pool, which has six on two cores: the seventh stream hangs.
- A request without a stream name, which BigQuery allows after the first of a connection, ends it with NOT_FOUND.
- A null in a REQUIRED column or a missing required column ends it with UNKNOWN; extra columns are dropped, text becomes numbers.
- It requires no routing header, and accepts any Arrow type that it can cast.
- DEFAULT values are never applied; appends to all tables wait for one lock; changing a table breaks its open streams.

Sources of the responses: google/cloud/bigquery/storage/v1/storage.proto, and messages of the real service quoted in the issue
trackers of its clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

import grpc
import pyarrow as pa

# Appends wait for DuckDB without the GIL; more workers would only wait for its commit lock.
_WORKERS = 4
_FULL_DISK = "No space left on device"
_ROUTING_HEADER = "x-goog-request-params"
_ROW_ERRORS = "Errors found while processing rows. Please refer to the row_errors field for details."


class Refusal(Exception):  # noqa: N818  # ends a connection; it never leaves this module
    """Ends a connection with a gRPC code and message."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(code, details)
        self.code = code
        self.details = details


class Connection:
    """The state of an AppendRows connection between its requests."""

    def __init__(self) -> None:
        self.name = ""
        self.is_routed = False
        self.stream: Any = None
        self.table: Any = None
        self.target: pa.Schema | None = None
        self.columns: dict[str, Any] = {}
        self.required: list[str] = []
        self.writer: pa.Schema | None = None
        self.writer_bytes = b""
        self.proto_decoder: Any = None
        self.applies_defaults = False


class _Status:
    """Receives the status that bqemulator sets on a gRPC context."""

    code = grpc.StatusCode.UNKNOWN
    details = ""

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details


def append_service(handler: Any) -> Any:
    """bqemulator's ``BigQueryWriteHandler`` with this AppendRows; its other calls are unchanged."""
    from bqemulator.domain.events import TableDataChanged
    from bqemulator.grpc_api import write_servicer
    from bqemulator.storage.sql_identifiers import quoted_table_ref
    from google.cloud.bigquery_storage_v1 import types

    request_type = types.AppendRowsRequest.pb()

    class AppendService(handler):  # type: ignore[misc]  # bqemulator has no types for mypy
        def __init__(self, context: Any, manager: Any = None) -> None:
            super().__init__(context, manager)
            self._workers = ThreadPoolExecutor(_WORKERS, "append")

        def service(self, details: Any) -> Any:
            if details.method == write_servicer._APPEND_ROWS:
                return grpc.stream_stream_rpc_method_handler(self.append_rows)
            return super().service(details)

        async def append_rows(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            loop, connection = asyncio.get_running_loop(), Connection()
            async for request in requests:
                try:
                    if not connection.is_routed:
                        check_routing(context.invocation_metadata(), request_type.FromString(request).write_stream)
                        connection.is_routed = True
                    yield await loop.run_in_executor(self._workers, self.append, connection, request)
                except Refusal as refusal:
                    await context.abort(refusal.code, refusal.details)

        def append(self, connection: Connection, data: bytes) -> bytes:
            """Commit the rows of one request; returns the response. Raises Refusal if the connection ends."""
            limit = self._ctx.settings.write_api_max_request_bytes
            if len(data) > limit:
                raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"The request has {len(data)} bytes: expected {limit} or fewer.")
            request = request_type.FromString(data)
            self.bind(connection, request)
            try:
                rows = self.read_rows(connection, request)
            except (ValueError, TypeError, NotImplementedError) as error:
                return bytes(write_servicer._error_response(connection.name, str(error)))
            if nulls := null_errors(rows, connection.required):
                return refused_rows(connection.name, nulls)
            offset = request.offset.value if request.HasField("offset") else None
            most = self._ctx.settings.write_api_max_stream_rows
            return bytes(self._perform_append(connection.stream, rows, offset, most))

        def bind(self, connection: Connection, request: Any) -> None:
            """Look up the stream and its table; both can change within a connection."""
            name = _full_name(request.write_stream) or connection.name
            if connection.stream is None or name != connection.name:
                status = _Status()
                connection.stream = self._resolve_append_stream(name, status)
                if connection.stream is None:
                    raise Refusal(status.code, f"{status.details or 'Requested entity was not found.'} Entity: {name}")
                connection.name, connection.table = name, None
            stream = connection.stream
            table = self._ctx.catalog.get_table(stream.project_id, stream.dataset_id, stream.table_id)
            if table is None:
                raise Refusal(grpc.StatusCode.NOT_FOUND, f"Requested entity was not found. Entity: {name}")
            if table is not connection.table:
                connection.table, connection.target = table, write_servicer._table_arrow_schema(table)
                connection.columns = {field.name.lower(): field for field in table.schema_.fields}
                connection.required = [field.name for field in table.schema_.fields if field.mode == "REQUIRED"]
                check_columns(connection)

        def read_rows(self, connection: Connection, request: Any) -> pa.Table:
            if not request.HasField("arrow_rows"):
                rows, connection.proto_decoder, _ = write_servicer._rows_for_request(
                    request, connection.proto_decoder, None, connection.target
                )
                return rows
            if request.default_missing_value_interpretation:
                wanted = types.AppendRowsRequest.MissingValueInterpretation.DEFAULT_VALUE
                connection.applies_defaults = request.default_missing_value_interpretation == wanted
            if request.arrow_rows.HasField("writer_schema"):
                connection.writer_bytes = request.arrow_rows.writer_schema.serialized_schema
                connection.writer = pa.ipc.read_schema(pa.py_buffer(connection.writer_bytes))
                check_columns(connection)
            if connection.writer is None:
                raise ValueError("The first request of a connection must carry the writer schema.")
            batch = pa.ipc.read_record_batch(pa.py_buffer(request.arrow_rows.rows.serialized_record_batch), connection.writer)
            return aligned(batch, connection)

        def _flush_to_target(self, stream: Any, rows: pa.Table) -> None:
            """Commit ``rows`` in one transaction on this thread's cursor, so that the next query sees them."""
            import duckdb

            cursor = self._ctx.engine.connection
            target = quoted_table_ref(stream.project_id, stream.dataset_id, stream.table_id)
            cursor.register("ecomflow_rows", rows)
            try:
                cursor.execute(f"INSERT INTO {target} BY NAME SELECT * FROM ecomflow_rows")  # noqa: S608  # quoted and checked
            except duckdb.BinderException as error:  # ALTER TABLE by a query changes the table, but not bqemulator's catalog
                raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"Input schema does not fit the table: {error}") from error
            except (duckdb.TransactionException, duckdb.CatalogException, duckdb.IOException) as error:
                if _FULL_DISK in str(error):
                    raise Refusal(grpc.StatusCode.UNAVAILABLE, f"The disk of the local BigQuery is full: {error}") from error
                raise Refusal(grpc.StatusCode.ABORTED, f"The table changed while rows were appended: {error}") from error
            finally:
                cursor.unregister("ecomflow_rows")
            self._ctx.events.publish(TableDataChanged(stream.project_id, stream.dataset_id, stream.table_id))

    return AppendService


def check_columns(connection: Connection) -> None:
    """Raises Refusal (INVALID_ARGUMENT) if the writer's columns do not match the table's. Their names have no case."""
    writer = connection.writer
    if writer is None or connection.target is None:
        return
    if extra := [name for name in writer.names if name.lower() not in connection.columns]:
        names = ", ".join(f"'{name}'" for name in extra)
        _refuse(connection, f"Input schema has more fields than BigQuery schema, extra fields: {names}")
    written = {name.lower() for name in writer.names}
    missing = [name for name in connection.required if name.lower() not in written]
    if missing and not connection.applies_defaults:
        _refuse(connection, f"Input schema lacks the required fields: {', '.join(missing)}")
    for field in writer:
        column = connection.columns[field.name.lower()]
        if not takes(column.type, column.mode, field.type):
            _refuse(connection, f"Field {field.name} of type {column.type} does not accept the Arrow type {field.type}")


def aligned(batch: pa.RecordBatch, connection: Connection) -> pa.Table:
    """The batch's columns in the table's types. Missing columns become null, or are left out if DEFAULTs apply."""
    assert connection.target is not None
    columns, written = {}, {name.lower(): at for at, name in enumerate(batch.schema.names)}
    for field in connection.target:
        if field.name.lower() in written:
            column = batch.column(written[field.name.lower()])
            columns[field.name] = column if column.type == field.type else column.cast(field.type)
        elif not connection.applies_defaults:
            columns[field.name] = pa.nulls(batch.num_rows, field.type)
    return pa.table(columns)


def null_errors(rows: pa.Table, required: list[str]) -> list[tuple[int, str]]:
    """(row index, message) for each row with a null in a REQUIRED column, by row."""
    found: dict[int, str] = {}
    for name in required:
        if name in rows.column_names and rows.column(name).null_count:
            nulls = rows.column(name).is_null().to_pylist()
            for index in (index for index, is_null in enumerate(nulls) if is_null):
                found.setdefault(index, f"Field {name} is required but is null.")
    return sorted(found.items())


def refused_rows(name: str, errors: list[tuple[int, str]]) -> bytes:
    """The response to a request of which no row was written: an error, with the reasons in row_errors."""
    from google.cloud.bigquery_storage_v1 import types

    fields_error = types.RowError.RowErrorCode.FIELDS_ERROR
    response = types.AppendRowsResponse(
        write_stream=name,
        error={"code": grpc.StatusCode.INVALID_ARGUMENT.value[0], "message": f"{_ROW_ERRORS} Entity: {name}"},
        row_errors=[types.RowError(index=index, code=fields_error, message=message) for index, message in errors],
    )
    return bytes(types.AppendRowsResponse.serialize(response))


def _full_name(name: str) -> str:
    """BigQuery accepts ``<table>/_default`` as ``<table>/streams/_default``."""
    table, default, _ = name.partition("/_default")
    return f"{table}/streams/_default" if default and not table.endswith("/streams") else name


# Google's table of the Arrow types that each column type accepts: https://cloud.google.com/bigquery/docs/supported-data-types
_SIGNED = (pa.int8(), pa.int16(), pa.int32(), pa.int64())
_TAKEN: dict[str, Callable[[pa.DataType], bool]] = {
    "BOOL": pa.types.is_boolean,
    "BYTES": pa.types.is_binary,
    "DATE": pa.types.is_date32,
    "DATETIME": lambda kind: bool(kind == pa.timestamp("us")),
    "FLOAT64": pa.types.is_floating,
    "GEOGRAPHY": pa.types.is_string,
    "INT64": lambda kind: kind in _SIGNED,
    "JSON": pa.types.is_string,
    "NUMERIC": pa.types.is_decimal128,
    "BIGNUMERIC": pa.types.is_decimal256,
    "STRING": pa.types.is_string,
    "STRUCT": pa.types.is_struct,
    "TIME": pa.types.is_time64,
    "TIMESTAMP": lambda kind: bool(kind == pa.timestamp("us", "UTC")),
}
# Other names for some of them in the REST API and in DDL.
_OTHER_NAMES = {"BOOLEAN": "BOOL", "FLOAT": "FLOAT64", "INTEGER": "INT64", "RECORD": "STRUCT", "DECIMAL": "NUMERIC"}


def takes(column_type: str, mode: str, kind: pa.DataType) -> bool:
    """Whether a column of ``column_type`` (``NUMERIC``, ``INTEGER``, ...) and ``mode`` accepts Arrow values of ``kind``."""
    if mode == "REPEATED":
        return bool(pa.types.is_list(kind) and takes(column_type, "NULLABLE", kind.value_type))
    name = column_type.partition("(")[0].upper()
    check = _TAKEN.get(_OTHER_NAMES.get(name, name))
    return check is not None and check(kind)


def check_routing(metadata: Iterable[tuple[str, str]], write_stream: str) -> None:
    """Raises Refusal unless there is a routing header, and every one names ``write_stream``.

    Outside the US multi-region the service needs it: https://cloud.google.com/bigquery/docs/write-api. An additional empty one is
    refused too, because the service might use that one.
    """
    routed = [value for key, value in metadata if key == _ROUTING_HEADER]
    wanted = f"write_stream={write_stream}"
    if not routed or any(unquote(value) != wanted for value in routed):
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"Cannot route on empty project id '': expected {wanted}, got {routed}.")


def _refuse(connection: Connection, message: str) -> None:
    raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"{message} Entity: {connection.name}")
