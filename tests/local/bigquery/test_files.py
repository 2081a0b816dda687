"""Whatever is asked of the local BigQuery, no file of the user is read or written, and it goes on answering."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from google.api_core import exceptions

from ecomflow.local.bigquery.files import refused_function
from tests.support.local_bigquery import LocalBigQuery, batch, local_bigquery, request

SECRET = "the user's own words"
CALLED = "enable_logging(storage = 'file', storage_path = '{out}')"
FILES = (
    "COPY (SELECT 1 AS a) TO '{out}'",
    "COPY (SELECT 1 AS a) TO '{out}' (FORMAT PARQUET)",
    "COPY shop.files FROM '{secret}' (FORMAT CSV)",
    "SELECT content FROM read_text('{secret}')",
    "SELECT * FROM read_blob('{secret}')",
    "SELECT * FROM read_csv('{secret}', header = false)",
    "SELECT * FROM read_json('{secret}')",
    "SELECT * FROM `{secret}`",
    "SELECT * FROM '{secret}'",
    "SELECT * FROM sniff_csv('{secret}')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM st_read('{secret}')",
    "SELECT * FROM st_read('/vsisubfile/0_20,{secret}')",
    "ATTACH '{out}'",
    "ATTACH '{out}' AS other",
    "EXPORT DATABASE '{out}'",
    "IMPORT DATABASE '{folder}'",
    "EXPORT DATA OPTIONS (uri = 'file://{out}-*', format = 'CSV') AS SELECT 1 AS a",
    "INSTALL httpfs",
    "LOAD '{secret}'",
    "SET enable_external_access = true",
    "SET GLOBAL allowed_directories = ['/']",
    "SET profiling_output = '{out}'",
    f"CALL {CALLED}",
    f"SELECT * FROM {CALLED}",
    f'SELECT * FROM system.main."Enable_Logging" /* a */ {CALLED.removeprefix("enable_logging")}',
    "SELECT * FROM query('CALL enable_' || 'logging(storage = ''file'', storage_path = ''{out}'')')",
    "SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')",
    "CREATE OR REPLACE TABLE shop.stolen AS SELECT content FROM read_text('{secret}')",
)


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBigQuery]:
    with local_bigquery(tmp_path_factory.mktemp("files") / "data") as server:
        server.query("CREATE TABLE shop.files (a STRING)")
        yield server


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.csv"
    path.write_text(f"{SECRET}\n")
    return path


def post(warehouse: LocalBigQuery, path: str, body: object) -> requests.Response:
    url = f"{warehouse.endpoints.bigquery}/bigquery/v2/projects/ecomflow-local/{path}"
    return requests.post(url, json=body, timeout=20)


def refused(answer: requests.Response) -> bool:
    """As BigQuery does it: by the status, or within the job that has failed."""
    body = answer.json()
    return answer.status_code >= 400 or bool(body.get("errors") or body.get("status", {}).get("errorResult"))


@pytest.mark.stack
class TestFiles:
    @pytest.mark.parametrize("statement", FILES)
    def test_no_statement_reads_or_writes_a_file(self, warehouse: LocalBigQuery, secret: Path, statement: str) -> None:
        """It is refused; the folder is as it was, nothing of it is in the answer, and the next query is answered."""
        sql = statement.format(out=secret.parent / "out", secret=secret, folder=secret.parent)
        answer = post(warehouse, "queries", {"query": sql, "useLegacySql": False})
        assert refused(answer), answer.text
        assert SECRET not in answer.text
        assert [path.name for path in secret.parent.iterdir()] == [secret.name]
        assert secret.read_text() == f"{SECRET}\n"
        assert warehouse.query("SELECT 1") == [(1,)]
        assert warehouse.query("SELECT count(*) FROM shop.files") == [(0,)]

    @pytest.mark.parametrize("kind", ["CSV", "NEWLINE_DELIMITED_JSON", "PARQUET", "AVRO", "ORC"])
    def test_no_job_loads_or_extracts_a_file(self, warehouse: LocalBigQuery, secret: Path, kind: str) -> None:
        """A load of a path and an extract to one fail, whichever library would open it."""
        table = {"projectId": "ecomflow-local", "datasetId": "shop", "tableId": "files"}
        load = {"sourceUris": [f"file://{secret}"], "destinationTable": table, "sourceFormat": kind}
        into = {"destinationUris": [f"file://{secret.parent}/out/a"], "sourceTable": table, "destinationFormat": kind}
        for configuration in ({"load": load}, {"load": load | {"autodetect": True}}, {"extract": into}):
            answer = post(warehouse, "jobs", {"configuration": configuration})
            assert refused(answer), answer.text
            assert SECRET not in answer.text
        assert [path.name for path in secret.parent.iterdir()] == [secret.name]
        assert warehouse.query("SELECT count(*) FROM shop.files") == [(0,)]

    def test_appends_and_checkpoints_need_no_file_of_the_users(self, warehouse: LocalBigQuery) -> None:
        """Arrow rows are inserted, and the log is folded into the tables, as before."""
        warehouse.make_table("sold")
        assert not any(answer.error.code for answer in warehouse.append(request(batch(["a", "b"]), "sold")))
        warehouse.query("CHECKPOINT")
        assert warehouse.query("SELECT count(*) FROM shop.sold") == [(2,)]

    def test_the_client_gets_the_reason(self, warehouse: LocalBigQuery) -> None:
        """A refusal of ours is a bad request with a sentence."""
        with pytest.raises(exceptions.BadRequest, match=r"enable_logging\(\) is refused"):
            warehouse.query("SELECT * FROM enable_logging()")

    def test_a_string_may_hold_such_a_name(self, warehouse: LocalBigQuery) -> None:
        """Only a call is refused, not a value, a column or a comment."""
        sql = "SELECT 'enable_logging(1)' AS query, (2) AS b -- query(1)"
        assert warehouse.query(sql) == [("enable_logging(1)", 2)]


@pytest.mark.parametrize(
    ("sql", "called"),
    [
        ("call ENABLE_logging()", "enable_logging"),
        ('SELECT * FROM "query" -- c\n (1)', "query"),
        ("SELECT 'é💶', * FROM query\u00a0('x')", "query"),
        ("FROM \u200bquery/**/\u200b('x')", "query"),
        ("SELECT [query(1)]", "query"),
        ("SELECT json_execute_serialized_sql('x')", "json_execute_serialized_sql"),
        ("SELECT query FROM t WHERE x IN (1)", None),
        ("SELECT $$ query( $$, 'query(1)', query1(1)", None),
        (json.dumps({"query": "enable_logging"}), None),
    ],
)
def test_a_call_is_recognised_as_duckdb_reads_it(sql: str, called: str | None) -> None:
    """Case, quotes, comments and foreign spaces hide no call; strings and other names are none."""
    assert refused_function(sql) == called
