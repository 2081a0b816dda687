"""``ecomflow query``: answers of the local warehouse in every form, and what a project is shown and spared before it pays."""

from __future__ import annotations

import csv
import io
import json
import shlex
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest
from click.testing import Result
from typer.testing import CliRunner

from ecomflow import infra
from ecomflow.cli import app
from ecomflow.commands.query import _field, _write_csv, bytes_of, query
from ecomflow.config import Endpoints, Settings
from ecomflow.errors import ConfigError, EcomflowError, NotFoundError
from ecomflow.gcp.clients import bigquery_client
from ecomflow.gcp.target import Target
from ecomflow.sql import QUESTIONS, questions
from ecomflow.sql.parameters import parameters_of, qualify_user_sql
from ecomflow.warehouse.queries import Bound, Query, Reply, _result, prepare, send
from tests.support.cli import ecomflow, environment
from tests.support.contract import written_columns

LOCAL = Settings()


def invoke(*arguments: str, settings: Settings | None = None, **more: str) -> Result:
    """``ecomflow query ARGUMENTS`` in this process, where it went well."""
    result = CliRunner().invoke(app, ["query", *arguments], env=environment(settings, **{"COLUMNS": "100", **more}))
    assert result.exception is None, result.exception
    return result


def refused(*arguments: str, settings: Settings | None = None, **more: str) -> EcomflowError:
    """The error of ``ecomflow query ARGUMENTS``."""
    result = CliRunner().invoke(app, ["query", *arguments], env=environment(settings, **more))
    assert isinstance(result.exception, EcomflowError), result.output
    return result.exception


class TestGoogleSql:
    """SQL of anyone's, of which only parameters and table names are understood."""

    @pytest.mark.parametrize(
        ("sql", "names"),
        [
            ("SELECT @a + @B_2", {"a", "b_2"}),
            ("SELECT '@a', \"@b\", '''@c ' @d''', r'\\'@e' -- @f\n, /* @g */ @h # @i", {"h"}),
            ("SELECT @@project_id, `@x`, x[OFFSET(@n)]", {"n"}),
        ],
    )
    def test_parameters(self, sql: str, names: set[str]) -> None:
        """They are found outside strings, comments, quoted names and system variables, whatever else stands there."""
        assert parameters_of(sql) == names

    @pytest.mark.parametrize(
        ("sql", "qualified"),
        [
            ("SELECT x[0] FROM ecomflow.t, UNNEST([1])", "SELECT x[0] FROM `p.d.t`, UNNEST([1])"),
            ("SELECT * FROM `ecomflow.t` JOIN ecomflow.u", "SELECT * FROM `p.d.t` JOIN `p.d.u`"),
            ("SELECT 'ecomflow.t' -- ecomflow.t", "SELECT 'ecomflow.t' -- ecomflow.t"),
            ("SELECT * FROM other.ecomflow.t, my-ecomflow.t.u", "SELECT * FROM other.ecomflow.t, my-ecomflow.t.u"),
            ("SELECT * FROM `x.ecomflow.t` |> WHERE a % 2 = 0", "SELECT * FROM `x.ecomflow.t` |> WHERE a % 2 = 0"),
        ],
    )
    def test_tables(self, sql: str, qualified: str) -> None:
        """Tables of the dataset ecomflow go under the dataset in force, quoted or not; all else stays."""
        assert qualify_user_sql(sql, "p.d") == qualified


class TestParameters:
    """Texts in, bound values out; nothing is sent."""

    @pytest.mark.parametrize(
        ("kind", "text", "value"),
        [
            ("STRING", "a'; DROP TABLE x; --", "a'; DROP TABLE x; --"),
            ("INT64", "-42", -42),
            ("FLOAT64", "0.5", 0.5),
            ("NUMERIC", "12.345678901", Decimal("12.345678901")),
            ("BOOL", "True", True),
            ("DATE", "2025-12-01", date(2025, 12, 1)),
            ("TIMESTAMP", "2025-12-01T08:30:00Z", datetime(2025, 12, 1, 8, 30, tzinfo=UTC)),
            ("timestamp", "2025-12-01 08:30", datetime(2025, 12, 1, 8, 30, tzinfo=UTC)),
        ],
    )
    def test_types(self, kind: str, text: str, value: Any) -> None:
        """A text becomes a value of the type that stands beside its name; it is no part of the SQL."""
        query = prepare(LOCAL, "SELECT @x", {f"X:{kind}": text})
        assert (query.sql, query.parameters) == ("SELECT @x", (Bound("x", kind.upper(), value),))

    def test_a_question_knows_its_types(self) -> None:
        """Its parameters need no type, and have defaults."""
        asked = prepare(LOCAL, "delivered-orders-per-country", {"date": "2025-12-01"})
        assert asked.parameters == (Bound("date", "DATE", date(2025, 12, 1)),)
        today = prepare(LOCAL, "delivered-orders-per-country", {}).parameters[0].value
        assert abs((today - datetime.now(UTC).date()).days) <= 1

    @pytest.mark.parametrize(
        ("sql", "values", "sentence"),
        [
            ("SELECT @a, @b", {"a": "1"}, "The query needs a value for @b."),
            ("SELECT 1 AS x", {"a": "1"}, "The query has no parameter 'a'."),
            ("sales-per-product", {"date": "2025-12-01"}, "'sales-per-product' has no parameter 'date'."),
            ("delivered-orders-per-country", {"date": "soon"}, "'soon' is not a valid DATE for @date."),
            ("delivered-orders-per-country", {"date:INT64": "1"}, "@date is a DATE, not a INT64."),
            ("SELECT @a", {"a:INT64": "1.5"}, "'1.5' is not a valid INT64 for @a."),
            ("SELECT @a", {"a:NUMERIC": "NaN"}, "'NaN' is not a valid NUMERIC for @a."),
            ("SELECT @a", {"a:BOOL": "maybe"}, "'maybe' is not a valid BOOL for @a."),
            ("SELECT @a", {"a:JSON": "{}"}, "The parameter type JSON is not supported."),
        ],
    )
    def test_what_does_not_fit(self, sql: str, values: dict[str, str], sentence: str) -> None:
        """The parameter, and the value or type, are named."""
        with pytest.raises(ConfigError) as raised:
            prepare(LOCAL, sql, values)
        assert raised.value.message == sentence

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("--param", "a"), "'a' is not a valid parameter."),
            (("--param", "1a=2"), "'1a=2' is not a valid parameter."),
            (("--param", "a=1", "--param", "A:INT64=1"), "The parameter 'a' is set twice."),
            (("--date", "2025-12-01", "--param", "date=2025-12-01"), "The parameter 'date' is set twice."),
            (("--max-bytes", "much"), "'much' is not a valid number of bytes."),
            (("--csv", "--json"), "--csv, --chart and --json are mutually exclusive."),
        ],
    )
    def test_options_that_do_not_fit(self, arguments: tuple[str, ...], sentence: str) -> None:
        """They are refused before anything is asked."""
        nowhere = {"BIGQUERY_EMULATOR_HOST": "127.0.0.1:9"}
        assert refused("SELECT @a", *arguments, "--project", "test-project", **nowhere).message == sentence


@pytest.mark.parametrize(
    ("text", "amount"),
    [("1", 1), ("500MB", 500_000_000), ("1gb", 10**9), ("2TiB", 2 * 1024**4), ("3 KB", 3000), ("7B", 7)],
)
def test_amounts_of_bytes(text: str, amount: int) -> None:
    """Units are decimal, those with an i binary."""
    assert bytes_of(text) == amount


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (None, ""),
        (True, "true"),
        (Decimal("1E+3"), "1000"),
        (Decimal("0.10"), "0.1"),
        (date(2025, 12, 1), "2025-12-01"),
        (datetime(2025, 12, 1, 8, tzinfo=UTC), "2025-12-01T08:00:00Z"),
        (b"ab", "YWI="),
        ([{"a": 1}], '[{"a":1}]'),
        (2.5, "2.5"),
    ],
)
def test_fields_of_csv(value: Any, field: str) -> None:
    """Each type has one text, exact, that BigQuery would load again."""
    assert _field(value) == field


def test_csv_on_a_terminal_is_inert(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a terminal would obey is shown escaped; a file gets it as it is."""
    for is_terminal, shown in ((True, "a\\x1b[2J"), (False, "a\x1b[2J")):
        written = io.StringIO()
        monkeypatch.setattr(written, "isatty", lambda is_terminal=is_terminal: is_terminal)
        monkeypatch.setattr("sys.stdout", written)
        _write_csv(Reply(Query("", "", ()), ("x",), 1, iter([("a\x1b[2J",)])), None)
        assert written.getvalue() == f"x\r\n{shown}\r\n"


@pytest.mark.parametrize("fault", [TimeoutError, KeyboardInterrupt])
def test_what_nobody_waits_for_is_cancelled(fault: type[BaseException]) -> None:
    """A query that takes too long, or is interrupted, does not go on to be paid for."""

    class Job:
        cancelled = 0

        def result(self, timeout: float) -> None:
            raise fault

        def cancel(self, **_: Any) -> None:
            self.cancelled += 1

    job = Job()
    with pytest.raises(fault):
        _result(job)  # type: ignore[arg-type]
    assert job.cancelled == 1


class TestList:
    def test_it_says_what_each_answers_and_reads(self) -> None:
        """Every question stands there with its tables' partitions and clusters, its parameters and an example."""
        shown = " ".join(invoke("--list").stdout.split())
        for question in questions():
            assert all(text in shown for text in (question.name, question.asks, f"Reads {question.reads}"))
        assert "@date: DATE, default today: order_date of the delivered event, UTC" in shown
        assert "$ ecomflow query delivered-orders-per-country --date 2025-12-01 --chart" in shown

    def test_as_json(self) -> None:
        """The same for a program, parameters with their types."""
        listed = json.loads(invoke("--list", "--json").stdout)
        assert [item["name"] for item in listed] == list(QUESTIONS)
        assert [parameter["type"] for item in listed for parameter in item["parameters"]] == ["DATE"]
        assert listed[0]["example"] == "ecomflow query delivered-orders-per-country --date 2025-12-01 --chart"


@pytest.fixture(scope="module")
def warehouse(stack: Endpoints, stack_folder: Any) -> Settings:
    """The local warehouse with orders and movements that are known."""
    settings = Settings(
        topic="query-topic", subscription="query-sub", bucket="query-bucket", dataset="query_facts", state_dir=str(stack_folder)
    )
    target = Target(settings, stack)
    infra.apply(target, infra.plan(target))
    client = bigquery_client(settings.project_id, stack)
    orders = (("1", "DE", "10.5"), ("2", "DE", "0.000000001"), ("3", "FR", "12345678901234567890.5"))
    head = "'c', 'Ann \"A\", x\ny', DATE '2025-12-01', TIMESTAMP '2025-12-01 08:00:00+00', 'delivered', 's', 't'"
    rows = [f"('e{n}', 'o{n}', {head}, '{country}', NUMERIC '{total}', CURRENT_TIMESTAMP())" for n, country, total in orders]
    moves = [
        f"('m{n}', 'i', '{product}', 'w', {change}, 'restock', DATE '2025-12-0{n}', TIMESTAMP '2025-12-0{n} 08:00:00+00', "
        "CURRENT_TIMESTAMP())"
        for n, (product, change) in enumerate((("pen", 5), ("pen", -7), ("cup", 4)), start=1)
    ]
    for table, values in (("fact_order_header", rows), ("fact_inventory", moves)):
        client.query(
            f"INSERT INTO `{settings.dataset_id}.{table}` ({written_columns(table)}) VALUES {', '.join(values)}"
        ).result()
    return settings


@pytest.mark.stack
class TestLocalAnswers:
    def test_a_question_with_its_parameter(self, warehouse: Settings) -> None:
        """--date and --param date= are the same."""
        expected = [
            {"shipping_address_country": "DE", "delivered_orders": 2},
            {"shipping_address_country": "FR", "delivered_orders": 1},
        ]
        for option in (("--date", "2025-12-01"), ("--param", "date=2025-12-01")):
            result = invoke("delivered-orders-per-country", *option, "--json", settings=warehouse)
            assert json.loads(result.stdout) == expected
            assert "scan" not in result.stderr

    def test_sql_with_bound_parameters(self, warehouse: Settings) -> None:
        """Values reach the warehouse as values of their types, whatever characters are in them."""
        sql = "SELECT @text AS text, @n + 1 AS n, @day AS day FROM ecomflow.fact_order_header WHERE total_amount = @total"
        given = {"text": "x' OR '1'='1", "n:INT64": "41", "day:DATE": "2025-12-01", "total:NUMERIC": "0.000000001"}
        options = [part for name, value in given.items() for part in ("--param", f"{name}={value}")]
        result = invoke(sql, *options, "--json", settings=warehouse)
        assert json.loads(result.stdout) == [{"text": "x' OR '1'='1", "n": 42, "day": "2025-12-01"}]

    def test_csv(self, warehouse: Settings) -> None:
        """Fields with commas, quotes and line breaks are quoted, lines end with CRLF, decimals are exact."""
        sql = "SELECT event_id, customer_name, total_amount FROM ecomflow.fact_order_header ORDER BY event_id DESC"
        text = invoke(sql, "--csv", "--limit", "2", settings=warehouse).stdout_bytes.decode()
        name = 'Ann "A", x\ny'
        assert text.startswith('event_id,customer_name,total_amount\r\ne3,"Ann ""A"", x\ny",12345678901234567890.5')
        rows = list(csv.reader(io.StringIO(text, newline="")))
        assert [(row[0], row[1], Decimal(row[2])) for row in rows[1:]] == [
            ("e3", name, Decimal("12345678901234567890.5")),
            ("e2", name, Decimal("0.000000001")),
        ]

    def test_many_rows(self, warehouse: Settings) -> None:
        """The terminal shows 200 and says how many there are and how to get them; --limit shows more, CSV and JSON all."""
        sql = "SELECT n FROM UNNEST(GENERATE_ARRAY(1, 1500)) AS n ORDER BY n"
        short = invoke(sql, settings=warehouse).stdout.split()
        assert ("200" in short, "201" in short) == (True, False)
        assert " ".join(short).endswith("1,500 rows, first 200 shown. For all: --csv or --json; for more: --limit.")
        assert "1,500 rows." in invoke(sql, "--limit", "2000", settings=warehouse).stdout
        assert len(json.loads(invoke(sql, "--json", settings=warehouse).stdout)) == 1500
        assert len(invoke(sql, "--csv", settings=warehouse).stdout.splitlines()) == 1501

    def test_a_chart_of_bars(self, warehouse: Settings) -> None:
        """A question's bars show the amount that it is about, below zero to the left."""
        shown = invoke("stock-movement-and-sales", "--chart", settings=warehouse).stdout.splitlines()
        assert shown[1] == "stock_movement by product_id"
        assert [(line.split()[:2], line.count("│")) for line in shown[2:4]] == [(["cup", "4"], 1), (["pen", "-2"], 1)]
        assert shown[2].endswith("│" + "█" * (shown[2].count("█"))), "to the right"
        assert shown[3].endswith("█│"), "to the left"

    def test_a_chart_of_a_line(self, warehouse: Settings) -> None:
        """Numbers over dates are a line between the first and the last."""
        sql = "SELECT event_date, SUM(quantity_change) AS n FROM ecomflow.fact_inventory GROUP BY event_date ORDER BY event_date"
        shown = invoke(sql, "--chart", settings=warehouse).stdout.splitlines()
        assert (shown[0], shown[1][:4], shown[12][:4], shown[14]) == ("n by event_date", " 5 ┤", "-7 ┤", "3 rows.")
        assert shown[13].split() == ["2025-12-01", "2025-12-03"]

    def test_no_shape_for_a_chart(self, warehouse: Settings) -> None:
        """The answer is shown as a table, and what it lacks is said."""
        result = invoke("SELECT 1 AS a, 2 AS b", "--chart", settings=warehouse)
        assert result.stdout.split()[:2] == ["a", "b"]
        assert "The result can't be drawn as a chart: it has no column of names, dates or times." in result.stderr

    def test_every_question_charts_a_column_of_its_own(self, warehouse: Settings, stack: Endpoints) -> None:
        """The column that a question's header names is among those of its answer."""
        for question in questions():
            reply = send(Target(warehouse, stack), prepare(warehouse, question.name, {}))
            assert question.chart is None or question.chart in reply.columns

    def test_dry_run(self, warehouse: Settings) -> None:
        """On the local stack it says whether the query is valid; there are no bytes to count."""
        result = invoke("sales-per-product", "--dry-run", "--json", settings=warehouse)
        assert json.loads(result.stdout) == {"bytes": 0}
        assert "The local BigQuery does not report bytes, and charges nothing." in result.stderr

    def test_the_examples_run(self, warehouse: Settings) -> None:
        """Each example of the help, but the one for a project, does what it shows."""
        lines = [
            shlex.split(line.strip())[2:]
            for line in query.__dict__["epilog"].splitlines()
            if line.strip().startswith("ecomflow query")
        ]
        assert len(lines) == 5
        for line in lines:
            if "--project" not in line:
                assert invoke(*line, settings=warehouse).stdout

    def test_a_change_is_asked_about(self, warehouse: Settings, stack: Endpoints) -> None:
        """What is no SELECT runs after a yes, and says how many rows it affected; a dry run of it changes nothing either."""
        client = bigquery_client(warehouse.project_id, stack)
        client.query(f"CREATE TABLE `{warehouse.dataset_id}.scratch` (n INT64)").result()
        insert = "INSERT INTO ecomflow.scratch (n) VALUES (1), (2), (3)"
        several = "SELECT 1; INSERT INTO ecomflow.scratch (n) VALUES (4)"
        for statement in (insert, several, "DROP TABLE ecomflow.scratch", "TRUNCATE TABLE ecomflow.scratch"):
            error = refused(statement, settings=warehouse)
            assert (error.exit_code, error.remedy) == (2, "Add --yes to go on.")
            assert "may change data in ecomflow-local. Run it?" in self.asked(statement, "n\n", warehouse)
            invoke(statement, "--dry-run", settings=warehouse)
        assert json.loads(invoke("SELECT COUNT(*) AS n FROM ecomflow.scratch", "--json", settings=warehouse).stdout) == [{"n": 0}]
        assert self.asked(insert, "y\n", warehouse).splitlines()[-1] == "Done. 3 rows affected."
        deleted = invoke("DELETE FROM ecomflow.scratch WHERE n < 3", "--yes", "--json", settings=warehouse)
        assert json.loads(deleted.stdout) == {"affected_rows": 2}
        dropped = invoke("DROP TABLE ecomflow.scratch", "--yes", settings=warehouse)
        assert dropped.stdout == "Done. The statement returns no rows.\n"

    @staticmethod
    def asked(statement: str, answer: str, settings: Settings) -> str:
        """What ``ecomflow query`` prints whose standard input is ``answer``."""
        result = CliRunner().invoke(app, ["query", statement], input=answer, env=environment(settings))
        return result.output

    def test_an_empty_answer_names_the_days_with_rows(self, warehouse: Settings) -> None:
        """With the command that asks about the fullest of them; standard output has the answer alone."""
        result = invoke("delivered-orders-per-country", "--date", "2026-01-01", "--json", settings=warehouse)
        assert (json.loads(result.stdout), result.stderr) == (
            [],
            "fact_order_header has rows on 2025-12-01. Try: ecomflow query delivered-orders-per-country --date 2025-12-01\n",
        )

    def test_numbers_have_one_form(self, warehouse: Settings) -> None:
        """NUMERIC is every digit and none more, in JSON and CSV, also within arrays; large integers are strings in JSON."""
        sql = "SELECT NUMERIC '1790.37' AS a, [NUMERIC '1.50', NUMERIC '2'] AS b, 9007199254740993 AS c"
        assert json.loads(invoke(sql, "--json", settings=warehouse).stdout) == [
            {"a": "1790.37", "b": ["1.5", "2"], "c": "9007199254740993"}
        ]
        assert invoke(sql, "--csv", settings=warehouse).stdout.splitlines()[1] == '1790.37,"[""1.5"",""2""]",9007199254740993'

    def test_a_misspelt_dataset(self, warehouse: Settings) -> None:
        """The one that was meant is named, not only how to create another."""
        settings = msgspec.structs.replace(warehouse, dataset="query_fact")
        error = refused("sales-per-product", settings=settings)
        assert error.remedy == (
            "The dataset is query_fact, did you mean 'query_facts'? "
            "Correct the setting dataset, or create it with: ecomflow infra up"
        )

    def test_sql_that_is_refused(self, warehouse: Settings) -> None:
        """A missing table and an error of syntax end in a sentence and an exit code."""
        missing = refused("SELECT * FROM ecomflow.fact_nothing", settings=warehouse)
        assert (type(missing), "fact_nothing" in missing.message) == (NotFoundError, True)
        shown = ecomflow("query", "SELEC 1", settings=warehouse)
        assert (shown.returncode, shown.stderr.splitlines()[0][:33]) == (2, "Error: The query can't be parsed:")
        assert refused("no-question", settings=warehouse).message == "There is no question 'no-question'."


class FakeBigQuery:
    """BigQuery's jobs over REST: each query would scan ``scanned`` bytes and has ``rows`` of one INT64 column n, in two pages.

    ``error`` is a status and what it says of a query that is run. ``configurations`` keeps those that came, dry runs first.
    """

    def __init__(self) -> None:
        self.scanned = 0
        self.rows: list[int] = []
        self.error: tuple[int, str, str] | None = None
        self.configurations: list[dict[str, Any]] = []

    @property
    def dry_runs(self) -> list[bool]:
        return [configuration.get("dryRun", False) for configuration in self.configurations]

    def post(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.configurations.append(body["configuration"])
        statistics = {"totalBytesProcessed": str(self.scanned), "query": {"totalBytesProcessed": str(self.scanned)}}
        status: dict[str, Any] = {"state": "DONE"}
        if self.error is not None:
            code, reason, message = self.error
            details = {"reason": reason, "message": message, "location": "query"}
            if code == 200:
                status |= {"errorResult": details, "errors": [details]}
            else:
                return code, {"error": {"code": code, "message": message, "errors": [details]}}
        job = body.get("jobReference", {"projectId": "test-project"})
        return 200, {"jobReference": job, "configuration": body["configuration"], "statistics": statistics, "status": status}

    def get(self, path: str, is_second: bool) -> tuple[int, dict[str, Any]]:
        half = len(self.rows) // 2
        page = self.rows[half:] if is_second else self.rows[:half]
        results = {
            "jobComplete": True,
            "jobReference": {"projectId": "test-project", "jobId": path.rsplit("/", 1)[-1], "location": "EU"},
            "schema": {"fields": [{"name": "n", "type": "INTEGER", "mode": "NULLABLE"}]},
            "totalRows": str(len(self.rows)),
            "rows": [{"f": [{"v": str(n)}]} for n in page],
        }
        return 200, results if is_second else results | {"pageToken": "second"}


@pytest.fixture
def google() -> Iterator[FakeBigQuery]:
    """A BigQuery on loopback; ``google.at`` is the environment in which the command line speaks to it for a project."""
    fake = FakeBigQuery()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self._reply(*fake.post(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def do_GET(self) -> None:
            self._reply(*fake.get(self.path.partition("?")[0], "pageToken=second" in self.path))

        def _reply(self, status: int, body: dict[str, Any]) -> None:
            encoded = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.at = {"ECOMFLOW_PROJECT": "test-project", "BIGQUERY_EMULATOR_HOST": f"127.0.0.1:{server.server_port}"}  # type: ignore[attr-defined]
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class TestProject:
    """What BigQuery is asked for a project, and what is said before."""

    def test_bytes_are_shown_first(self, google: Any) -> None:
        """A dry run shows on standard error what the query will scan; then the rows of all pages come."""
        google.scanned, google.rows = 1_234_567_890, [1, 2, 3]
        result = invoke("SELECT n FROM ecomflow.t", "--csv", **google.at)
        assert result.stdout_bytes == b"n\r\n1\r\n2\r\n3\r\n"
        assert result.stderr == "BigQuery would scan 1.2 GB (1,234,567,890 bytes).\n"
        assert google.dry_runs == [True, False]
        assert {each["query"]["query"] for each in google.configurations} == {"SELECT n FROM `test-project.ecomflow.t`"}

    def test_a_dry_run_asks_nothing(self, google: Any) -> None:
        """--dry-run shows the bytes on standard output and runs no query."""
        google.scanned = 10_485_760
        assert invoke("SELECT 1", "--dry-run", **google.at).stdout == "BigQuery would scan 10.5 MB (10,485,760 bytes).\n"
        assert json.loads(invoke("SELECT 1", "--dry-run", "--json", **google.at).stdout) == {"bytes": 10_485_760}
        assert google.dry_runs == [True, True]

    def test_too_many_bytes(self, google: Any) -> None:
        """With --max-bytes what would scan more is not run."""
        google.scanned = 1_000_000_001
        error = refused("SELECT 1", "--max-bytes", "1GB", **google.at)
        assert error.exit_code == 2
        assert error.message == (
            "The query would scan 1.0 GB (1,000,000,001 bytes), which is more than --max-bytes 1.0 GB (1,000,000,000 bytes). "
            "It was not run."
        )
        assert google.dry_runs == [True]

    def test_bigquery_guards_too(self, google: Any) -> None:
        """What is run carries the limit, and parameters are bound in it."""
        google.scanned, google.rows = 5, [7]
        assert json.loads(invoke("SELECT @n", "--param", "n:INT64=7", "--max-bytes", "1GB", "--json", **google.at).stdout)
        run = google.configurations[1]["query"]
        assert (run["query"], run["maximumBytesBilled"]) == ("SELECT @n", "1000000000")
        assert run["queryParameters"] == [{"name": "n", "parameterType": {"type": "INT64"}, "parameterValue": {"value": "7"}}]

    @pytest.mark.parametrize(
        ("error", "code", "said"),
        [
            (
                (400, "invalidQuery", 'Syntax error: Unexpected identifier "SELEC" at [1:1]'),
                2,
                'the query: Syntax error: Unexpected identifier "SELEC" at [1:1]',
            ),
            (
                (404, "notFound", "Not found: Table p:d.t was not found in location EU"),
                3,
                "A table or dataset of the query does not exist",
            ),
            ((403, "accessDenied", "Access Denied: Table p:d.t: User does not have permission"), 5, "roles/bigquery.dataViewer"),
            ((401, "authError", "Request had invalid authentication credentials."), 5, "no usable Google Cloud credentials"),
            ((503, "backendError", "Try again"), 4, "Try again."),
        ],
    )
    def test_refusals(self, google: Any, error: tuple[int, str, str], code: int, said: str) -> None:
        """Google's refusals are ours: the sentence that matters, what to do, an exit code."""
        google.error = error
        raised = refused("SELECT 1", **google.at)
        assert (raised.exit_code, said in str(raised)) == (code, True), str(raised)

    def test_bytes_billed(self, google: Any) -> None:
        """BigQuery bills more than it scans; that it refuses for this is said with what to raise, though it calls it a 500."""
        words = "Query exceeded limit for bytes billed: 1000000. 10485760 or higher required."
        google.error = (200, "bytesBilledLimitExceeded", words)
        raised = refused("SELECT 1", "--max-bytes", "1MB", **google.at)
        assert (raised.exit_code, raised.message) == (2, f"BigQuery refuses the query: {words}")
        assert raised.remedy == "Raise --max-bytes: BigQuery bills at least 10 MB per table."

    def test_nothing_listens(self) -> None:
        """A BigQuery that is not there is said to be so at once."""
        raised = refused("SELECT 1", "--project", "test-project", BIGQUERY_EMULATOR_HOST="127.0.0.1:9")
        assert (raised.exit_code, "BigQuery at http://127.0.0.1:9 does not answer" in raised.message) == (4, True)
