"""Patches for bqemulator 1.4.0, so that it can serve a streaming pipeline.

``apply_repairs`` must run before ``bqemulator.server`` is imported. Each function is one patch and says what fails without it;
``tests/local/bigquery`` has a test for each. The Storage Write path is in ``appends.py``.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

# Maximum size of the write-ahead log. Replaying it after a kill takes about two seconds.
_LOG_BYTES = "256MB"
_RESULTS_KEPT = 100
_JOBS_KEPT = 1000


def apply_repairs() -> None:
    """Replace the failing parts of bqemulator in this process. Call it once, before importing ``bqemulator.server``."""
    _log_failures_only()
    _keep_numeric_exact()
    _bound_query_results()
    from bqemulator import server

    _work_offline(server.DuckDBEngine)
    _fold_the_log_seldom(server.DuckDBEngine)
    _give_each_thread_a_cursor(server.DuckDBEngine)
    _end_each_read(server.DuckDBEngine)
    _confine_files(server.DuckDBEngine)
    _stop_copying_tables(server.SnapshotManager)
    _bound_jobs(server.DuckDBCatalogRepository)
    _report_the_whole_ddl()
    _count_rows_when_asked(server)
    _serve_appends()


def _log_failures_only() -> None:
    """Log only warnings and errors.

    bqemulator logs every request, and sqlglot warns about each PARTITION BY, which DuckDB does not support.
    """
    from bqemulator.config import LogFormat, LogLevel
    from bqemulator.observability.logging_ import configure_logging

    configure_logging(level=LogLevel.WARNING, fmt=LogFormat.JSON)
    logging.getLogger("sqlglot").setLevel(logging.ERROR)


def spatial_extension() -> Path:
    """DuckDB's spatial extension from the installed package. Raises FileNotFoundError if the package has none."""
    import duckdb_extension_spatial

    folder = Path(duckdb_extension_spatial.__file__).parent / "extensions"
    found = sorted(folder.glob("*/spatial.duckdb_extension"))
    if not found:
        raise FileNotFoundError(f"No spatial.duckdb_extension below {folder}.")
    return found[-1]


def _keep_numeric_exact() -> None:
    """NUMERIC in SQL becomes DECIMAL(38, 9).

    sqlglot writes NUMERIC as DuckDB's plain DECIMAL, which is DECIMAL(18, 3), so a column created by DDL would round money to
    three places. A plain DECIMAL can't be distinguished from NUMERIC(18, 3), so the latter gets the wider type too.
    """
    from bqemulator.sql.rules import TranslationRule, register
    from sqlglot import exp

    class NumericTypeRule(TranslationRule):  # type: ignore[misc]  # bqemulator has no types for mypy
        name = "NUMERIC_TYPE"

        def applies_to(self, node: Any) -> bool:
            return isinstance(node, exp.DataType) and node.sql(dialect="duckdb") in ("DECIMAL", "DECIMAL(18, 3)")

        def rewrite(self, node: Any) -> Any:
            return exp.DataType.build("DECIMAL(38, 9)", dialect="duckdb")

    register(NumericTypeRule)


class _LatestResults(OrderedDict[str, Any]):
    def __setitem__(self, job_id: str, result: Any) -> None:
        super().__setitem__(job_id, result)
        while len(self) > _RESULTS_KEPT:
            self.popitem(last=False)


def _bound_query_results() -> None:
    """Keep only the latest results in memory: bqemulator keeps the rows of all queries forever."""
    from bqemulator.jobs import executor

    executor.JOB_RESULTS = _LatestResults()
    executor.JOB_SCHEMAS = _LatestResults()


def _bound_jobs(catalog: Any) -> None:
    """Keep the latest jobs in memory, and none on disk.

    bqemulator writes every job to DuckDB, with one synced transaction per query, and reads all of them back at its start,
    although their results are lost by then.
    """

    def upsert_job(self: Any, job: Any) -> Any:
        jobs = self._cache._jobs
        jobs[(job.project_id, job.job_id)] = job
        while len(jobs) > _JOBS_KEPT:
            del jobs[next(iter(jobs))]
        return job

    catalog.upsert_job = upsert_job


def _work_offline(engine: Any) -> None:
    """DuckDB loads the spatial extension from the installed package and downloads nothing.

    bqemulator runs INSTALL spatial, which downloads the extension from DuckDB's site into the user's home.
    """

    def apply_session_pragmas(self: Any) -> None:
        folder = str(Path(self._settings.data_dir) / "extensions").replace("'", "''")
        self._connection.execute("SET GLOBAL autoinstall_known_extensions = false")
        self._connection.execute(f"SET GLOBAL extension_directory = '{folder}'")
        self._connection.execute("SET GLOBAL TimeZone = 'UTC'")

    def load_spatial(self: Any) -> None:
        path = str(spatial_extension()).replace("'", "''")
        self._connection.execute(f"LOAD '{path}'")

    engine._apply_session_pragmas = apply_session_pragmas
    engine._load_spatial = load_spatial


def _fold_the_log_seldom(engine: Any) -> None:
    """One checkpoint per 256 MB of write-ahead log.

    With DuckDB's 16 MB, about every 100,000 rows, the last rows of each table are compressed again and again: an append then
    costs 6.6 microseconds per row instead of 2.6 (two million rows).
    """
    apply_pragmas = engine._apply_session_pragmas

    def apply_session_pragmas(self: Any) -> None:
        apply_pragmas(self)
        self._connection.execute(f"SET GLOBAL checkpoint_threshold = '{_LOG_BYTES}'")

    engine._apply_session_pragmas = apply_session_pragmas


def _give_each_thread_a_cursor(engine: Any) -> None:
    """Every thread uses its own cursor of the one DuckDB connection.

    A connection has one lock. An append on a worker thread holds it and waits for the GIL, while a query on the event loop holds
    the GIL and waits for the lock: the process deadlocks within seconds.
    """
    cursors = threading.local()

    def connection(self: Any) -> Any:
        cursor = getattr(cursors, "cursor", None)
        if cursor is None or cursors.engine is not self:
            cursor = self._connection.cursor()
            cursors.cursor, cursors.engine = cursor, self
        return cursor

    engine.connection = property(connection)


class _Result:
    """A DuckDB result that is read completely when its first row is fetched."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def fetchone(self) -> Any:
        return next(iter(self._cursor.fetchall()), None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


def _end_each_read(engine: Any) -> None:
    """Fetching one row of a query ends its transaction.

    DuckDB keeps the transaction open for the remaining rows, on a thread that may stay idle, and makes no checkpoint meanwhile,
    so the write-ahead log would grow with each append and never shrink.
    """
    execute_and_hold = engine.execute

    def execute(self: Any, sql: str, parameters: Any = None) -> _Result:
        return _Result(execute_and_hold(self, sql, parameters))

    engine.execute = execute


def _confine_files(engine: Any) -> None:
    """No SQL and no job reads or writes the user's files: see ``files.py``."""
    from bqemulator.jobs import executor

    from ecomflow.local.bigquery.files import confine_files

    confine_files(engine, executor)


def _stop_copying_tables(snapshots: Any) -> None:
    """Keep no copy of a table after a change, and refuse queries of past states.

    For ``FOR SYSTEM_TIME AS OF`` bqemulator copies the whole table after each append, so the cost of an append grows with it.
    """
    from bqemulator.domain.errors import UnsupportedFeatureError

    capture_always = snapshots.capture

    def capture(self: Any, project_id: str, dataset_id: str, table_id: str, *, kind: str = "AUTO") -> Any:
        return capture_always(self, project_id, dataset_id, table_id, kind=kind) if kind == "USER" else None

    def resolve_time_travel(self: Any, *_: Any) -> Any:
        raise UnsupportedFeatureError("FOR SYSTEM_TIME AS OF: the local BigQuery keeps no past states of its tables.")

    snapshots.capture = capture
    snapshots.resolve_time_travel = resolve_time_travel


def _report_the_whole_ddl() -> None:
    """tables.get reports clustering, labels, column descriptions, defaults and the type JSON of a CREATE TABLE.

    bqemulator parses and then drops them, and reads JSON as the STRING that stores it, so a table never matches its DDL. CREATE
    TABLE IF NOT EXISTS on an existing table keeps its metadata, which bqemulator would overwrite.
    """
    from bqemulator.api.routes import tables
    from bqemulator.catalog import ddl_sync
    from bqemulator.jobs import executor
    from bqemulator.scripting import interpreter

    sync_part = ddl_sync.sync_created_table

    def sync_created_table(sql: str, project_id: str, ctx: Any) -> None:
        target = ddl_sync._detect_plain_create_table(sql)
        name = target and ddl_sync._split_target(target, project_id)
        create = name and _parse_create(sql)
        if create and create.args.get("exists") and ctx.catalog.get_table(*name):
            return
        sync_part(sql, project_id, ctx)
        if create and (meta := ctx.catalog.get_table(*name)):
            ctx.catalog.update_table(_described(meta, create))

    executor.sync_created_table = interpreter.sync_created_table = sync_created_table
    field_without_default = tables._field_to_rest

    def field_to_rest(field: Any) -> dict[str, Any]:
        body: dict[str, Any] = field_without_default(field)
        if field.default_value_expression:
            body["defaultValueExpression"] = field.default_value_expression
        return body

    tables._field_to_rest = field_to_rest


def _parse_create(sql: str) -> Any:
    import sqlglot
    from sqlglot import exp

    parsed = sqlglot.parse_one(sql, read="bigquery")
    return parsed if isinstance(parsed, exp.Create) else None


def _described(meta: Any, create: Any) -> Any:
    """``meta`` with the clustering, labels and columns in the DDL ``create``."""
    from bqemulator.catalog.models import Clustering
    from sqlglot import exp

    changes: dict[str, Any] = {}
    if cluster := create.find(exp.ClusterProperty):
        changes["clustering"] = Clustering(fields=tuple(column.name for column in cluster.expressions))
    options = create.args.get("properties")
    changes["labels"] = _labels(options.expressions if options else [])
    columns = {column.name: column for column in create.this.find_all(exp.ColumnDef)}
    fields = tuple(_described_field(field, columns.get(field.name)) for field in meta.schema_.fields)
    changes["schema_"] = meta.schema_.model_copy(update={"fields": fields})
    return meta.model_copy(update=changes)


def _labels(options: list[Any]) -> dict[str, str]:
    from sqlglot import exp

    for option in options:
        if isinstance(option, exp.Property) and option.name.lower() == "labels":
            pairs = option.args["value"].expressions
            return {pair.expressions[0].name: pair.expressions[1].name for pair in pairs}
    return {}


def _described_field(field: Any, column: Any) -> Any:
    from sqlglot import exp

    if column is None:
        return field
    changes: dict[str, Any] = {"type": "JSON"} if column.kind.is_type("json") else {}
    for option in column.find_all(exp.Property):
        if option.name.lower() == "description":
            changes["description"] = option.args["value"].name
    if default := column.find(exp.DefaultColumnConstraint):
        changes["default_value_expression"] = default.this.sql(dialect="bigquery")
    return field.model_copy(update=changes)


def _count_rows_when_asked(server: Any) -> None:
    """Count ``numRows`` when a table's resource is requested.

    bqemulator stores the number in its catalog and updates it after each append: a second transaction per append, which conflicts
    with every other writer of the same row.
    """
    from bqemulator.api.routes import tables
    from bqemulator.storage.sql_identifiers import quoted_table_ref

    create_app, table_to_rest = server.create_app, tables._table_to_rest

    def create_counting_app(context: Any) -> Any:
        def counted_table_to_rest(meta: Any) -> Any:
            body = table_to_rest(meta)
            if meta.table_type == "TABLE":
                table = quoted_table_ref(meta.project_id, meta.dataset_id, meta.table_id)
                (count,) = context.engine.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608  # quoted and checked
                body["numRows"] = str(count)
            return body

        tables._table_to_rest = counted_table_to_rest
        return create_app(context)

    server.create_app = create_counting_app


def _serve_appends() -> None:
    """Replace the Storage Write service: see ``appends.py`` for the problems of bqemulator's."""
    from bqemulator.grpc_api import write_servicer

    from ecomflow.local.bigquery.appends import append_service

    write_servicer.BigQueryWriteHandler = append_service(write_servicer.BigQueryWriteHandler)
