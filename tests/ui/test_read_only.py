"""The page's box for GoogleSQL: what it sends only reads, whatever is typed into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bqemulator.domain.errors import InvalidQueryError
from bqemulator.jobs.executor import classify_statement_type
from bqemulator.scripting.ast import SqlStmt
from bqemulator.scripting.parser import parse_script
from hypothesis import HealthCheck, given
from hypothesis import settings as budget
from hypothesis import strategies as st

from ecomflow.config import Endpoints, Settings
from ecomflow.errors import ConfigError, EcomflowError
from ecomflow.gcp.target import Target
from ecomflow.ui.data.read_only import read_only, rewritten
from ecomflow.warehouse import queries
from tests.support.local_bigquery import LocalBigQuery, local_bigquery

READS = (
    "SELECT 1",
    " select 1 ; ",
    "-- a comment; drop\nSELECT ';' /* delete */",
    "WITH a AS (SELECT 1 AS b) SELECT * FROM a",
    "(SELECT 1) UNION ALL (SELECT 2)",
    "SELECT `update`, 'DROP TABLE x' FROM ecomflow.fact_order",
    'SELECT """;delete""" # insert',
    "SELECT status, COUNT(*) AS events FROM ecomflow.fact_order_header_unique GROUP BY status ORDER BY events DESC LIMIT 5",
    "SELECT * FROM UNNEST([1, 2]) AS a WHERE a IN (SELECT 2)",
    "SELECT IF(a, 1, 2), APPROX_QUANTILES(a, 2)[OFFSET(1)] FROM t QUALIFY ROW_NUMBER() OVER (PARTITION BY b) = 1",
    "SELECT r'a\\d+', b'x', DATE '2025-01-01', TIMESTAMP_TRUNC(ts, DAY) FROM `my-project.set.table`",
    "FROM ecomflow.fact_order |> AGGREGATE COUNT(*) AS n",
)
WRITES = (
    "",
    "-- nothing",
    ";",
    "DELETE FROM ecomflow.fact_order WHERE TRUE",
    "SELECT 1; DROP TABLE ecomflow.fact_order",
    "WITH a AS (SELECT 1) DELETE FROM ecomflow.fact_order WHERE TRUE",
    "WITH a AS (INSERT INTO t VALUES (1) RETURNING b) SELECT * FROM a",
    "CREATE TABLE x AS SELECT 1",
    "SELECT * INTO x FROM y",
    "(SELECT * INTO x FROM y) UNION ALL SELECT 1",
    "EXPORT DATA OPTIONS(uri='gs://x') AS SELECT 1",
    "SELECT 1 |> EXPORT DATA",
    "BEGIN SELECT 1; END",
    "DECLARE x INT64",
    "SET x = 1",
    "CALL p()",
    "EXECUTE IMMEDIATE 'DROP TABLE x'",
    "TRUNCATE TABLE x",
    "MERGE a USING b ON TRUE WHEN MATCHED THEN DELETE",
    "COPY x TO '/tmp/x'",
    "ATTACH '/tmp/x'",
    "PRAGMA database_list",
    "EXPLAIN SELECT 1",
    "SELECT '\\'; DROP TABLE x; --'; DROP TABLE x",
    "SELECT 1 AS `\\` ; DROP TABLE ecomflow.fact_order -- `",
    "SELECT 1 AS `a\\`b`",
    "SELECT * FROM enable_logging(storage = 'file', storage_path = '/tmp/x')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM checkpoint()",
    "SELECT nextval('x')",
    "SELECT 'a",
    "SELECT " + "(" * 5000 + "1" + ")" * 5000,
)


def is_one_select(sql: str) -> bool:
    """Whether bqemulator finds one plain statement in ``sql``, and has no other name for it (it has none for a parenthesis)."""
    (statement,) = parse_script(sql).statements
    return isinstance(statement, SqlStmt) and classify_statement_type(sql) in ("SELECT", "")


class TestHere:
    @pytest.mark.parametrize("sql", READS)
    def test_what_reads_is_taken(self, sql: str) -> None:
        """One query, whatever is in its strings, comments and quoted names."""
        assert is_one_select(rewritten(sql))

    @pytest.mark.parametrize("sql", WRITES)
    def test_what_writes_is_refused(self, sql: str) -> None:
        """The page may look, not change: all else is refused before anything is sent."""
        with pytest.raises(ConfigError):
            rewritten(sql)

    def test_nothing_of_what_is_passed_over_is_sent(self) -> None:
        """Where a comment ends is not the same to all readers: a lone carriage return ends it to some."""
        for end in ("\r", "\n", "\u2028", "\x0b"):
            try:
                sent = rewritten(f"SELECT 1 AS a -- x{end}DROP TABLE t")
            except ConfigError:
                continue
            assert "--" not in sent
            assert len(parse_script(sent).statements) == 1


class TestInAProject:
    @pytest.mark.parametrize("kind", ["SELECT", "SCRIPT", "DELETE", "CREATE_TABLE", "CALL", None])
    def test_bigquery_says_what_it_is(self, monkeypatch: pytest.MonkeyPatch, kind: str | None) -> None:
        """Its dry run knows the kind of statement; only SELECT is sent, as it was typed."""
        monkeypatch.setattr(queries, "estimate", lambda *_: queries.Estimate(1, kind))
        query = queries.Query("", "SELECT 1 -- mine", ())
        target = Target(Settings(project="my-project"), Endpoints())
        if kind == "SELECT":
            assert read_only(target, query) == query
        else:
            with pytest.raises(ConfigError, match="Expected a SELECT statement"):
                read_only(target, query)


OUT, SECRET = "/tmp/ecomflow-read-only-out", "/etc/passwd"
HOSTILE = (
    *("SELECT 1 AS a", "SELECT * FROM shop.victim", "SELECT a FROM (", "WITH a AS (", ")", " UNION ALL ", " FROM shop.victim"),
    *(" AS `", "`", "\\", "\\`", "\\'", "'", '"', "'''", '"""', "r'", "b'", ";", ",", "(", "|>", "@@x", "$$", "{", "}"),
    *("--", "#", "/*", "*/", "\r", "\n", "\r\n", "\x0b", "\x00", "\u2028", "\u00a0", "\u200b", "\ufeff", " "),
    *("DROP TABLE shop.victim", "DELETE FROM shop.victim WHERE TRUE", "TRUNCATE TABLE shop.victim"),
    *("INSERT INTO shop.victim VALUES ('x')", "INSERT shop.victim (a) SELECT 'x'", "UPDATE shop.victim SET a = 'x' WHERE TRUE"),
    *("CREATE TABLE shop.made AS SELECT 1 AS a", "CREATE OR REPLACE VIEW shop.seen AS SELECT 1 AS a", "CREATE SCHEMA other"),
    *(
        "SELECT * INTO shop.made FROM shop.victim",
        " INTO shop.made ",
        "ALTER TABLE shop.victim RENAME TO gone",
        "CALL ",
        "BEGIN ",
    ),
    *(f"COPY shop.victim TO '{OUT}'", f"ATTACH '{OUT}'", f"EXPORT DATABASE '{OUT}'", "CHECKPOINT", "SET x = 1", " END"),
    *(f"SELECT * FROM enable_logging(storage = 'file', storage_path = '{OUT}')", f"SELECT * FROM read_text('{SECRET}')"),
    *(f"SELECT * FROM query('COPY shop.victim TO ''{OUT}''')", "EXECUTE IMMEDIATE 'DROP TABLE shop.victim'"),
    *("CREATE SNAPSHOT TABLE shop.snap CLONE shop.victim", "DROP ROW ACCESS POLICY p ON shop.victim", "DROP FUNCTION shop.f"),
)
PIECES = st.lists(st.sampled_from(HOSTILE), min_size=1, max_size=4).map("".join)
WHOLE = ("SELECT 1 AS a", "SELECT a FROM shop.victim", "WITH b AS (SELECT 1 AS a) SELECT a FROM b")
# Where another reader may find an end that the first did not.
AROUND = (
    *("%s -- {}\n", "%s -- {}", "%s /* {} */", "# {}\n%s", "%s WHERE '{}' = 'a'", '%s WHERE "{}" = "a"'),
    *("SELECT `{}` FROM (%s)", "SELECT '''{}''' AS b FROM (%s)", "SELECT r'{}' AS b FROM (%s)"),
)
TYPED = st.one_of(
    st.builds(
        lambda around, whole, pieces: (around % whole).replace("{}", pieces),
        *(st.sampled_from(AROUND), st.sampled_from(WHOLE), PIECES),
    ),
    st.builds("{}{}".format, st.sampled_from(WHOLE), PIECES),
    PIECES,
)


@pytest.mark.slow
@budget(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TYPED)
def test_what_is_sent_is_one_select_to_the_emulator_too(sql: str) -> None:
    """bqemulator splits scripts by a lexer of its own: it finds the one statement as well, and calls it a SELECT."""
    try:
        sent = rewritten(sql)
    except ConfigError:
        return
    try:
        assert is_one_select(sent)
    except InvalidQueryError:
        pass  # it refuses what it can't read


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalBigQuery, Path]]:
    folder = tmp_path_factory.mktemp("read-only")
    with local_bigquery(folder / "data") as server:
        server.query("CREATE TABLE shop.victim (a STRING)")
        server.query("INSERT INTO shop.victim VALUES ('one'), ('two')")
        yield server, folder


def everything(server: LocalBigQuery, folder: Path) -> tuple[Any, ...]:
    """All datasets, tables with their rows, and files."""
    tables = [
        (table.full_table_id, table.table_type, server.query(f"SELECT * FROM `{table.dataset_id}.{table.table_id}` ORDER BY a"))
        for dataset in server.client.list_datasets()
        for table in server.client.list_tables(dataset.dataset_id)
    ]
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    return [one.dataset_id for one in server.client.list_datasets()], tables, files, Path(OUT).exists()


@pytest.mark.stack
def test_nothing_that_the_box_runs_changes_anything(warehouse: tuple[LocalBigQuery, Path]) -> None:
    """Hostile pieces in every order: datasets, tables, rows and files are the same after each query that was sent."""
    server, folder = warehouse
    before = everything(server, folder)
    sent: list[str] = []

    @budget(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(TYPED)
    def run(sql: str) -> None:
        settings = Settings(dataset="shop")
        target = Target(settings, server.endpoints)
        try:
            query = read_only(target, queries.prepare_sql(settings, sql, {}))
        except EcomflowError:
            return
        sent.append(query.sql)
        try:
            queries.taken(queries.send(target, query))
        except EcomflowError:
            pass
        assert everything(server, folder) == before, query.sql

    run()
    assert len(sent) > 20
