"""The local BigQuery through Google's own clients: what it takes, refuses and keeps, and why each repair is there."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from importlib import metadata
from pathlib import Path

import pyarrow as pa
import pytest
import sqlglot
from google.api_core import exceptions
from google.cloud.bigquery_storage_v1 import types

from ecomflow.errors import MissingExtraError, install_extra
from ecomflow.gcp.clients import append_rows
from ecomflow.local.bigquery import server as bigquery
from ecomflow.local.bigquery.appends import takes
from ecomflow.local.bigquery.repairs import spatial_extension
from ecomflow.processes.detached import free_port, stop
from tests.support.local_bigquery import DDL, NOON, LocalBigQuery, batch, local_bigquery, request, stream_of

stack = pytest.mark.stack


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBigQuery]:
    with local_bigquery(tmp_path_factory.mktemp("warehouse") / "data") as server:
        yield server


class TestInstallation:
    def test_another_version_of_the_emulator_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The repairs know one version from inside; with another one nothing starts."""
        monkeypatch.setattr(metadata, "version", lambda _: "1.5.0")
        with pytest.raises(MissingExtraError, match=r"needs bqemulator 1\.4\.0, but 1\.5\.0 is installed"):
            bigquery.check_installed()

    def test_a_missing_emulator_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the extra the sentence names the package and the command that installs it."""

        def missing(name: str) -> str:
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "version", missing)
        with pytest.raises(MissingExtraError) as caught:
            bigquery.check_installed()
        assert caught.value.remedy == install_extra("local")

    def test_the_spatial_extension_is_a_file_of_the_package(self) -> None:
        """DuckDB's extension is there without a download."""
        assert spatial_extension().stat().st_size > 1_000_000

    def test_a_taken_port_is_one_sentence(self, tmp_path: Path) -> None:
        """The launcher ends with the exit code for an unavailable service, and no traceback."""
        import socket

        with socket.create_server(("127.0.0.1", 0)) as holder:
            port = holder.getsockname()[1]
            options = ["--http-port", str(port), "--grpc-port", str(free_port()), "--data-dir", str(tmp_path)]
            command = [sys.executable, "-m", "ecomflow.local.bigquery", *options]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert ended.returncode == 4
        assert ended.stderr.splitlines()[0] == f"Port {port} of 127.0.0.1 is in use by another program."


class TestWhyRepairs:
    @pytest.mark.slow
    def test_threads_that_share_a_connection_hang(self) -> None:
        """DuckDB queries and appends through one connection deadlock (or crash) at once; through cursors they do not."""
        script = """if True:
            import duckdb, os, sys, threading, time
            import pyarrow as pa
            connection = duckdb.connect()
            connection.execute("CREATE TABLE t (a BIGINT)")
            def mine():
                return connection if sys.argv[1] == "shared" else connection.cursor()
            def append(cursor):
                while True:
                    cursor.register("r", pa.table({"a": range(1000)}))
                    cursor.execute("INSERT INTO t SELECT * FROM r")
            threading.Thread(target=append, args=[mine()], daemon=True).start()
            cursor, end = mine(), time.time() + 1
            while time.time() < end:
                cursor.execute("SELECT count(*) FROM t").fetchall()
            os._exit(0)"""

        def run(how: str, seconds: float) -> int:
            try:
                command = [sys.executable, "-c", script, how]
                return subprocess.run(command, capture_output=True, timeout=seconds, check=False).returncode
            except subprocess.TimeoutExpired:
                return -1

        assert run("shared", 5) != 0
        assert run("cursors", 60) == 0  # it ends by itself after a second; a busy machine starts it slowly

    def test_sqlglot_writes_numeric_with_three_decimals(self) -> None:
        """A bare DECIMAL is DECIMAL(18, 3) to DuckDB, which would round money."""
        assert sqlglot.transpile("SELECT CAST(x AS NUMERIC)", read="bigquery", write="duckdb") == ["SELECT CAST(x AS DECIMAL)"]


@stack
class TestTables:
    def test_the_ddl_is_reported_as_written(self, warehouse: LocalBigQuery) -> None:
        """Columns, modes, defaults, partitioning, clustering, labels and descriptions come back from tables.get."""
        warehouse.make_table("reported")
        warehouse.make_table("reported")
        table = warehouse.client.get_table("shop.reported")
        assert [(field.name, field.field_type, field.mode) for field in table.schema][:3] == [
            ("event_id", "STRING", "REQUIRED"),
            ("quantity", "INTEGER", "REQUIRED"),
            ("price", "NUMERIC", "NULLABLE"),
        ]
        assert table.schema[0].description == "The event."
        assert table.schema[5].default_value_expression == "CURRENT_TIMESTAMP()"
        assert table.time_partitioning.field == "day"
        assert table.clustering_fields == ["event_id", "quantity"]
        assert (table.description, table.labels) == ("Sales.", {"team": "shop"})

    def test_a_default_is_applied_by_insert(self, warehouse: LocalBigQuery) -> None:
        """A column left out of an INSERT takes its DEFAULT."""
        warehouse.make_table("defaults")
        columns = "event_id, quantity, price, day, sold_at"
        warehouse.query(f"INSERT INTO shop.defaults ({columns}) VALUES ('a', 1, 1.5, '2025-12-01', '2025-12-01T12:00:00Z')")
        assert warehouse.query("SELECT count(*) FROM shop.defaults WHERE ingestion_timestamp > '2025-12-01'") == [(1,)]

    def test_numeric_keeps_nine_decimals(self, warehouse: LocalBigQuery) -> None:
        """Columns and casts of type NUMERIC, and sums and products with them, are exact."""
        warehouse.make_table("money")
        warehouse.append(request(batch(["a", "b"]), "money"))
        sums = warehouse.query("SELECT price, quantity * price, CAST('0.123456789' AS NUMERIC) FROM shop.money LIMIT 1")
        assert sums == [(Decimal("1.234567891"), Decimal("2.469135782"), Decimal("0.123456789"))]
        assert warehouse.query("SELECT SUM(price) FROM shop.money") == [(Decimal("2.469135782"),)]

    def test_a_view_with_qualify_shows_each_event_once(self, warehouse: LocalBigQuery) -> None:
        """CREATE OR REPLACE VIEW takes QUALIFY ROW_NUMBER(), twice over."""
        warehouse.make_table("twice")
        warehouse.append(request(batch(["a", "b", "a"]), "twice"))
        window = "ROW_NUMBER() OVER (PARTITION BY event_id ORDER BY ingestion_timestamp)"
        for _ in range(2):
            warehouse.query(f"CREATE OR REPLACE VIEW shop.once AS SELECT * FROM shop.twice WHERE TRUE QUALIFY {window} = 1")
        assert warehouse.query("SELECT event_id FROM shop.once ORDER BY event_id") == [("a",), ("b",)]

    def test_the_past_is_refused(self, warehouse: LocalBigQuery) -> None:
        """No past states are kept, so that FOR SYSTEM_TIME AS OF says so, rather than showing the present."""
        warehouse.make_table("present")
        with pytest.raises(exceptions.GoogleAPICallError, match="keeps no past states"):
            warehouse.client.query(
                "SELECT * FROM shop.present FOR SYSTEM_TIME AS OF TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 1 SECOND)",
                retry=None,
            ).result(retry=None)

    def test_geography_works_without_a_download(self, warehouse: LocalBigQuery) -> None:
        """The spatial extension is loaded from the installed package."""
        assert warehouse.query("SELECT ST_ASTEXT(ST_GEOGPOINT(1, 2))")[0][0].replace(" ", "") == "POINT(12)"


@stack
class TestAppends:
    def test_arrow_rows_are_visible_at_once(self, warehouse: LocalBigQuery) -> None:
        """The answered rows are in the next query, to the microsecond."""
        warehouse.make_table("visible")
        (answer,) = warehouse.append(request(batch(["a"]), "visible"))
        assert answer.error.code == 0
        rows = warehouse.query("SELECT event_id, quantity, price, sold_at FROM shop.visible")
        assert rows == [("a", 2, Decimal("1.234567891"), NOON)]
        assert warehouse.client.get_table("shop.visible").num_rows == 1

    def test_a_connection_without_its_routing_header_is_refused(self, warehouse: LocalBigQuery) -> None:
        """As outside the US multi-region: by Google's raw client, which sends it empty, also beside one that names the stream."""
        warehouse.make_table("routed")
        sent, named = request(batch(["a"]), "routed"), ("x-goog-request-params", f"write_stream={stream_of('routed')}")
        for headers in ((), (named,)):
            with pytest.raises(exceptions.InvalidArgument, match="Cannot route on empty project id ''"):
                list(warehouse.writer.append_rows(iter([sent]), timeout=20, metadata=headers))
        with pytest.raises(exceptions.InvalidArgument, match="Cannot route"):
            list(append_rows(warehouse.writer, stream_of("first"), iter([sent])))
        assert warehouse.query("SELECT count(*) FROM shop.routed") == [(0,)]

    def test_only_the_first_request_names_stream_and_schema(self, warehouse: LocalBigQuery) -> None:
        """Later requests of a connection go to the same table; a name changes it."""
        warehouse.make_table("first")
        warehouse.make_table("second")
        rows = batch(["a"])
        answers = warehouse.append(request(rows, "first"), request(rows, schema=False), request(rows, "second"))
        assert [answer.error.code for answer in answers] == [0, 0, 0]
        assert warehouse.query("SELECT (SELECT count(*) FROM shop.first), (SELECT count(*) FROM shop.second)") == [(2, 1)]

    def test_rows_with_a_null_in_a_required_column_are_named(self, warehouse: LocalBigQuery) -> None:
        """The request is refused whole with row_errors by index, and the connection takes the next one."""
        warehouse.make_table("nulls")
        refused, taken = warehouse.append(request(batch(["a", None, "c", None]), "nulls"), request(batch(["a", "c"]), "nulls"))
        assert refused.error.code == 3
        assert [(error.index, error.message) for error in refused.row_errors] == [
            (1, "Field event_id is required but is null."),
            (3, "Field event_id is required but is null."),
        ]
        assert taken.error.code == 0
        assert warehouse.query("SELECT event_id FROM shop.nulls ORDER BY 1") == [("a",), ("c",)]

    def test_a_missing_table_is_not_found(self, warehouse: LocalBigQuery) -> None:
        """The connection ends with NOT_FOUND and the stream's name."""
        with pytest.raises(exceptions.NotFound, match="shop/tables/nowhere/streams/_default"):
            warehouse.append(request(batch(["a"]), "nowhere"))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda rows: rows.append_column("colour", pa.array(["red"])),
                "more fields than BigQuery schema, extra fields: 'colour'",
            ),
            (lambda rows: rows.drop_columns(["quantity"]), "lacks the required fields: quantity"),
            (
                lambda rows: rows.set_column(1, "quantity", pa.array(["2"])),
                "quantity of type INTEGER does not accept the Arrow type string",
            ),
        ],
        ids=["extra", "missing", "type"],
    )
    def test_columns_that_do_not_fit_are_refused(
        self, warehouse: LocalBigQuery, change: Callable[[pa.RecordBatch], pa.RecordBatch], message: str
    ) -> None:
        """The connection ends with INVALID_ARGUMENT, and nothing is written."""
        warehouse.make_table("strict")
        with pytest.raises(exceptions.InvalidArgument, match=message):
            warehouse.append(request(change(batch(["a"])), "strict"))
        assert warehouse.query("SELECT count(*) FROM shop.strict") == [(0,)]

    def test_defaults_are_applied_where_the_request_wants_them(self, warehouse: LocalBigQuery) -> None:
        """default_missing_value_interpretation DEFAULT_VALUE fills a column that the writer does not have."""
        warehouse.make_table("filled")
        wanted = request(batch(["a"]).drop_columns(["ingestion_timestamp", "price"]), "filled")
        wanted.default_missing_value_interpretation = types.AppendRowsRequest.MissingValueInterpretation.DEFAULT_VALUE
        warehouse.append(wanted)
        assert warehouse.query("SELECT price, ingestion_timestamp IS NULL FROM shop.filled") == [(None, False)]

    def test_a_column_added_meanwhile_is_known(self, warehouse: LocalBigQuery) -> None:
        """A table that changes while a stream is open takes the rows that follow."""
        warehouse.make_table("grows")

        def requests() -> Iterator[types.AppendRowsRequest]:
            yield request(batch(["a"]), "grows")
            assert answered.wait(10)
            warehouse.query(
                DDL.format(table="grows")
                .replace("price NUMERIC", "price NUMERIC, note STRING")
                .replace("CREATE TABLE IF NOT EXISTS", "CREATE OR REPLACE TABLE")
            )
            yield request(batch(["b"]), schema=False)

        answered = threading.Event()
        codes = []
        for answer in warehouse.appended(requests(), stream_of("grows")):
            codes.append(answer.error.code)
            answered.set()
        assert codes == [0, 0]
        assert warehouse.query("SELECT event_id, note FROM shop.grows") == [("b", None)]


class TestArrowTypes:
    """Google's table of the Arrow types that a column takes."""

    @pytest.mark.parametrize(
        ("column_type", "taken", "refused"),
        [
            (
                "TIMESTAMP",
                [pa.timestamp("us", "UTC")],
                [pa.timestamp("us"), pa.timestamp("ns", "UTC"), pa.timestamp("us", "CET")],
            ),
            ("DATETIME", [pa.timestamp("us")], [pa.timestamp("us", "UTC"), pa.string()]),
            ("JSON", [pa.string()], [pa.binary(), pa.struct([])]),
            ("STRING", [pa.string()], [pa.large_string(), pa.binary(), pa.dictionary(pa.int8(), pa.string())]),
            (
                "NUMERIC",
                [pa.decimal128(38, 9), pa.decimal128(10, 2)],
                [pa.decimal256(38, 9), pa.float64(), pa.int64(), pa.string()],
            ),
            ("NUMERIC(10, 2)", [pa.decimal128(10, 2)], [pa.float64()]),
            ("BIGNUMERIC", [pa.decimal256(76, 38)], [pa.decimal128(38, 9)]),
            ("DATE", [pa.date32()], [pa.date64(), pa.int32(), pa.string()]),
            ("INT64", [pa.int8(), pa.int16(), pa.int32(), pa.int64()], [pa.uint64(), pa.float64(), pa.string()]),
            ("INTEGER", [pa.int64()], [pa.uint8()]),
            ("FLOAT", [pa.float64(), pa.float32()], [pa.int64()]),
            ("BOOLEAN", [pa.bool_()], [pa.int8()]),
            ("A_TYPE_TO_COME", [], [pa.string()]),
        ],
    )
    def test_as_google_lists_them(self, column_type: str, taken: list[pa.DataType], refused: list[pa.DataType]) -> None:
        """Those of the table are taken, near ones are not."""
        assert [kind for kind in taken if not takes(column_type, "REQUIRED", kind)] == []
        assert [kind for kind in refused if takes(column_type, "NULLABLE", kind)] == []

    def test_a_repeated_column_takes_a_list(self) -> None:
        """Of what a single one takes."""
        assert takes("DATE", "REPEATED", pa.list_(pa.date32()))
        assert not takes("DATE", "REPEATED", pa.date32())
        assert not takes("DATE", "REPEATED", pa.list_(pa.int64()))

    @stack
    def test_a_timestamp_without_a_zone_is_refused(self, warehouse: LocalBigQuery) -> None:
        """By name and type, and nothing is written."""
        warehouse.make_table("zoned")
        with pytest.raises(exceptions.InvalidArgument, match=r"sold_at of type TIMESTAMP does not accept .*timestamp\[us\]"):
            warehouse.append(request(batch(["a"], zone=None), "zoned"))
        assert warehouse.query("SELECT count(*) FROM shop.zoned") == [(0,)]


@stack
class TestUnderLoad:
    def test_appends_queries_and_ddl_at_once(self, warehouse: LocalBigQuery) -> None:
        """Four append streams, two query loops and DDL for three seconds: no error, no hang, every row counted."""
        end, errors, sent = time.monotonic() + 3, [], dict.fromkeys(range(4), 0)
        for table in sent:
            warehouse.make_table(f"load_{table}")
        rows = batch(f"e{n}" for n in range(500))

        def append(table: int) -> None:
            in_flight = threading.Semaphore(4)

            def requests() -> Iterator[types.AppendRowsRequest]:
                while time.monotonic() < end:
                    in_flight.acquire(timeout=10)
                    sent[table] += rows.num_rows
                    yield request(rows, f"load_{table}")

            for answer in warehouse.appended(requests(), stream_of(f"load_{table}")):
                errors.extend([answer.error] if answer.error.code else [])
                in_flight.release()

        def query(table: int) -> None:
            while time.monotonic() < end:
                ((count,),) = warehouse.query(f"SELECT count(*) FROM shop.load_{table}")
                assert (count <= sent[table], count % rows.num_rows) == (True, 0)

        def define(_: int) -> None:
            while time.monotonic() < end:
                warehouse.make_table("load_ddl")
                warehouse.query("CREATE OR REPLACE VIEW shop.load_view AS SELECT * FROM shop.load_0")
                warehouse.query("DROP TABLE shop.load_ddl")

        def guarded(work: Callable[[int], None], table: int) -> None:
            try:
                work(table)
            except Exception as error:  # noqa: BLE001  # raised in the test's thread
                errors.append(error)

        work = [(append, table) for table in sent] + [(query, 0), (query, 1), (define, 0)]
        threads = [threading.Thread(target=guarded, args=item, daemon=True) for item in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
        assert errors == []
        counts = {table: warehouse.query(f"SELECT count(*) FROM shop.load_{table}")[0][0] for table in sent}
        assert counts == sent
        assert min(sent.values()) > 0

    def test_more_streams_than_pool_threads_stay_open(self, warehouse: LocalBigQuery) -> None:
        """Twelve connections held open at once all get answers; a thread each would stop at six on two cores."""
        warehouse.make_table("many")
        release = threading.Event()

        def held() -> Iterator[types.AppendRowsRequest]:
            yield request(batch(["a"]), "many")
            release.wait(20)

        streams = [warehouse.appended(held(), stream_of("many")) for _ in range(12)]
        assert [next(iter(stream)).error.code for stream in streams] == [0] * 12
        release.set()

    def test_an_append_costs_the_same_on_a_large_table(self, warehouse: LocalBigQuery) -> None:
        """Appends to a table of a million rows take no more than a few times what they took on the empty one."""
        warehouse.make_table("large")
        small, million = request(batch(["a"]), "large"), request(batch(str(n) for n in range(50_000)), "large")

        def cost() -> float:
            begin = time.perf_counter()
            warehouse.append(*[small] * 20)
            return time.perf_counter() - begin

        first = cost()
        warehouse.append(*[million] * 20)
        assert min(cost() for _ in range(3)) < 4 * first + 0.1
        assert warehouse.query("SELECT count(*) FROM shop.large") == [(1_000_080,)]

    def test_old_results_are_let_go(self, warehouse: LocalBigQuery) -> None:
        """After a hundred more queries a result is no longer kept in memory; the latest is."""
        connection = http.client.HTTPConnection(str(warehouse.endpoints.bigquery).removeprefix("http://"))

        def call(method: str, path: str, body: str | None = None) -> tuple[int, str]:
            connection.request(
                method, f"/bigquery/v2/projects/ecomflow-local/queries{path}", body, {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            content = json.loads(response.read())
            return response.status, content.get("jobReference", {}).get("jobId", "")

        jobs = [call("POST", "", '{"query": "SELECT 1", "useLegacySql": false}')[1] for _ in range(101)]
        assert call("GET", f"/{jobs[-1]}")[0] == 200
        assert call("GET", f"/{jobs[0]}")[0] == 404
        connection.close()


@stack
class TestRestart:
    def test_rows_survive_sigkill_and_the_log_is_folded_in(self, tmp_path: Path) -> None:
        """Answered rows, tables, views and their metadata are there after SIGKILL; the write-ahead log stays below its limit."""
        data_dir = tmp_path / "data"
        with local_bigquery(data_dir) as server:
            server.make_table("kept")
            server.query("CREATE OR REPLACE VIEW shop.kept_view AS SELECT event_id FROM shop.kept")
            rows = request(batch(f"{n:01000}" for n in range(8_000)), "kept")  # 8 MB
            server.client.get_table("shop.kept")
            for _ in range(4):
                server.append(*[rows] * 10)
                server.client.get_table("shop.kept")
            assert (data_dir / "bqemulator.duckdb.wal").stat().st_size < 265_000_000
            stop([server.identity], 0.0)
        with local_bigquery(data_dir) as server:
            assert list(server.client.list_jobs()) == []
            assert server.query("SELECT count(*) FROM shop.kept_view") == [(320_000,)]
            table = server.client.get_table("shop.kept")
            assert (table.num_rows, table.clustering_fields) == (320_000, ["event_id", "quantity"])
