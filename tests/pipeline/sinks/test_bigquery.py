"""The BigQuery sink against a gRPC server that speaks AppendRows: every row is written at least once, or refused."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest
from google.api_core import exceptions

from ecomflow import __version__
from ecomflow.contract.codec import Codec
from ecomflow.contract.ddl import table_schema
from ecomflow.contract.loading import shop_contracts
from ecomflow.contract.modelling import model
from ecomflow.contract.tables import tables_of
from ecomflow.errors import AccessError, EcomflowError, NotFoundError, SchemaError, UnavailableError
from ecomflow.gcp.clients import bigquery_write_client
from ecomflow.pipeline.counters import Counters
from ecomflow.pipeline.sinks import bigquery as bigquery_sink
from ecomflow.pipeline.sinks.bigquery import (
    PATIENCE,
    MaybeMissingError,
    RefusedRow,
    TableWriter,
    TableWriters,
    with_ingestion_time,
)
from tests.support.contract import part_of
from tests.support.pipeline import (
    AnswersError,
    AnswersRowErrors,
    ClosesStream,
    EndsStream,
    FakeBigQuery,
    Fault,
    SaysNothing,
    config_for,
    inventory,
    message,
    rows_of,
)
from tests.support.waiting import wait_until

SHOP = shop_contracts()
TABLE = "fact_inventory"
FACTS = next(table for table in tables_of(SHOP) if table.name == TABLE)
SCHEMA = table_schema(FACTS)
STREAM = f"projects/test-project/datasets/shop/tables/{TABLE}/streams/_default"
NOW = datetime(2026, 2, 1, 12, 30, 15, 123456, UTC)
MICROSECONDS = (NOW - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
# As BigQuery's REST API names them.
COLUMNS = {name: {"INT64": "INTEGER"}.get(kind, kind) for name, kind in ((one.name, one.type) for one in FACTS.columns)}

TRANSIENT = [
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
]


class PassedTime:
    """Time that passes only in ``sleep``."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def clock(self) -> float:
        return sum(self.slept)


@pytest.fixture
def bigquery() -> FakeBigQuery:
    return FakeBigQuery()


@pytest.fixture
def passed() -> PassedTime:
    return PassedTime()


@pytest.fixture
def writer(bigquery: FakeBigQuery, passed: PassedTime) -> Iterator[TableWriter]:
    with bigquery.serve() as host:
        config = config_for(bigquery_storage=host)
        client = bigquery_write_client(config.endpoints)
        writer = TableWriter(config, TABLE, client, Counters(), sleep=passed.sleep, clock=passed.clock)
        yield writer
        client.transport.close()
        writer.close()


def rows(*numbers: int, **changes: Any) -> pa.RecordBatch:
    """Rows of inventory events with these numbers, as the pipeline models them."""
    messages = [message(inventory(number, **changes), message_id=f"m-{number}") for number in numbers]
    facts = model(part_of(Codec(SHOP).decode(messages, NOW), "inventory"), NOW)
    return with_ingestion_time(facts.tables[0].rows, MICROSECONDS)


def append(writer: TableWriter, batch: pa.RecordBatch) -> list[RefusedRow]:
    return writer.finish(writer.start(batch))


def written(bigquery: FakeBigQuery) -> list[str]:
    return [row["inventory_id"] for row in bigquery.rows[STREAM]]


def refuse(*numbers: int) -> Callable[[dict[str, Any]], str | None]:
    return lambda row: f"no {row['inventory_id']}" if row["inventory_id"] in {f"i-{number}" for number in numbers} else None


def test_rows_arrive_whole(writer: TableWriter, bigquery: FakeBigQuery) -> None:
    """A row's values, with the schema, the stream and the trace id in its request, are what was given."""
    assert append(writer, rows(1)) == []
    assert bigquery.rows[STREAM] == [
        {
            "event_id": "m-1",
            "inventory_id": "i-1",
            "product_id": "p-1",
            "warehouse_id": "w-1",
            "quantity_change": -3,
            "reason": "sale",
            "event_date": datetime(2026, 1, 31, tzinfo=UTC).date(),
            "event_timestamp": datetime(2026, 1, 31, 10, tzinfo=UTC),
            "unknown_fields": None,
            "ingestion_timestamp": NOW,
        }
    ]
    (request,) = bigquery.requests
    assert request.write_stream == STREAM
    assert request.trace_id == f"ecomflow:{__version__}"
    assert pa.ipc.read_schema(pa.py_buffer(request.arrow_rows.writer_schema.serialized_schema)) == SCHEMA


@pytest.mark.parametrize("moments", [MICROSECONDS, np.array([MICROSECONDS, MICROSECONDS + 1])])
def test_ingestion_time(moments: Any) -> None:
    """The last column is the moment given, in UTC: one for all rows, or one for each."""
    facts = rows(1, 2).drop_columns(["ingestion_timestamp"])
    stamped = with_ingestion_time(facts, moments)
    assert stamped.schema == SCHEMA
    later = timedelta(microseconds=0 if isinstance(moments, int) else 1)
    assert stamped.column("ingestion_timestamp").to_pylist() == [NOW, NOW + later]


def test_batches_share_a_connection_in_order(writer: TableWriter, bigquery: FakeBigQuery) -> None:
    """Appends are sent without waiting for answers, on one stream, and each finish gets its own answer."""
    bigquery.refuse = refuse(3, 20)
    started = [writer.start(rows(number, number + 10)) for number in range(1, 6)] + [writer.start(rows(20))]
    refused = [writer.finish(appends) for appends in started]
    assert refused == [[], [], [RefusedRow(0, "no i-3")], [], [], [RefusedRow(0, "no i-20")]]
    assert sorted(written(bigquery)) == sorted(f"i-{number}" for number in [1, 11, 2, 12, 13, 4, 14, 5, 15])
    assert bigquery.streams == 1


def _ends(code: grpc.StatusCode) -> Fault:
    return EndsStream(code)


@pytest.mark.parametrize("code", TRANSIENT, ids=lambda code: code.name)
@pytest.mark.parametrize("fault", [_ends, AnswersError], ids=["stream", "answer"])
def test_a_passing_error_is_tried_again(
    fault: Callable[[grpc.StatusCode], Fault],
    code: grpc.StatusCode,
    writer: TableWriter,
    bigquery: FakeBigQuery,
    passed: PassedTime,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ended streams and errors in an answer are met with growing pauses, a warning each, and each row is written once."""
    bigquery.faults.extend([fault(code), fault(code), fault(code)])
    with caplog.at_level(logging.WARNING):
        assert append(writer, rows(1, 2)) == []
    assert written(bigquery) == ["i-1", "i-2"]
    assert passed.slept == [0.1, 0.2, 0.4]
    assert caplog.text.count("Waiting for BigQuery to accept rows of fact_inventory") == 3


def test_a_closed_stream_is_opened_again(writer: TableWriter, bigquery: FakeBigQuery) -> None:
    """Where the server ends the stream well, before an answer or between two appends, the rows go out on a new one."""
    bigquery.faults.extend([ClosesStream(), None, ClosesStream()])
    assert append(writer, rows(1)) == []
    assert append(writer, rows(2)) == []
    assert written(bigquery) == ["i-1", "i-2"]
    assert bigquery.streams == 3


def test_everything_in_flight_is_sent_again(writer: TableWriter, bigquery: FakeBigQuery) -> None:
    """When a stream ends, all of its unanswered appends are written on the next, none lost."""
    bigquery.faults.extend([None, EndsStream(grpc.StatusCode.UNAVAILABLE)])
    started = [writer.start(rows(number)) for number in range(10)]
    assert [writer.finish(appends) for appends in started] == [[]] * 10
    assert sorted(written(bigquery)) == [f"i-{number}" for number in range(10)]
    assert bigquery.streams == 2


def test_a_lost_answer_is_a_repeat_and_no_loss(writer: TableWriter, bigquery: FakeBigQuery) -> None:
    """Rows that were written, but whose answer never came, are written again."""
    bigquery.faults.append(EndsStream(grpc.StatusCode.UNAVAILABLE, written=True))
    assert append(writer, rows(1)) == []
    assert written(bigquery) == ["i-1", "i-1"]


class RecordingCounters(Counters):
    """Keeps what was said to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.sentences: list[str | None] = []

    def waiting(self, place: str, sentence: str | None) -> None:
        self.sentences.append(sentence)


IMPATIENT = PATIENCE._replace(answer=0.1)


def test_silence_is_a_lost_connection(bigquery: FakeBigQuery, caplog: pytest.LogCaptureFixture) -> None:
    """Where no answer comes in time, that is said, the connection is given up, and the rows are written on a new one."""
    counters = RecordingCounters()
    bigquery.faults.append(SaysNothing())
    with bigquery.serve() as host, closing(TableWriters(config_for(bigquery_storage=host), counters, IMPATIENT)) as writers:
        assert append(writers.writer(TABLE), rows(1)) == []
    assert written(bigquery) == ["i-1"]
    assert bigquery.streams == 2
    assert "no answer in 0 s" in caplog.text
    assert (counters.sentences[0], counters.sentences[-1]) == ("BigQuery to answer an append to fact_inventory", None)


def test_what_is_waited_for_is_reported(bigquery: FakeBigQuery) -> None:
    """While the sink waits it says for what; each further try is counted; then it waits for nothing."""
    bigquery.faults += [EndsStream(code) for code in 2 * (grpc.StatusCode.UNAVAILABLE,)]
    counters = Counters()
    said: list[Any] = []
    with bigquery.serve() as host:
        config = config_for(bigquery_storage=host)
        client = bigquery_write_client(config.endpoints)
        writer = TableWriter(config, TABLE, client, counters, sleep=lambda _: said.append(counters.snapshot()["waiting_for"]))
        assert writer.finish(writer.start(rows(1))) == []
        client.transport.close()
        writer.close()
    assert [sentence.startswith(f"BigQuery to accept rows of {TABLE}: ") for sentence in said] == [True, True]
    assert (counters.totals()["retries"], counters.snapshot()["waiting_for"]) == (2, None)


@pytest.mark.parametrize(
    "fault", [EndsStream(grpc.StatusCode.UNAVAILABLE), AnswersError(grpc.StatusCode.RESOURCE_EXHAUSTED)], ids=["stream", "answer"]
)
def test_retries_are_bounded(fault: Fault, writer: TableWriter, bigquery: FakeBigQuery, passed: PassedTime) -> None:
    """After two minutes, in pauses of 10 s at most, UnavailableError says which table and why."""
    bigquery.always = fault
    with pytest.raises(UnavailableError, match=r"test-project\.shop\.fact_inventory: .*by the test"):
        append(writer, rows(1))
    assert PATIENCE.give_up <= sum(passed.slept) <= PATIENCE.give_up + 10
    assert max(passed.slept) == 10


def test_a_server_that_is_not_there(passed: PassedTime) -> None:
    """A refused connection is retried like any passing error, and ends in UnavailableError."""
    with FakeBigQuery().serve() as host:
        pass
    client = bigquery_write_client(config_for(bigquery_storage=host).endpoints)
    writer = TableWriter(config_for(bigquery_storage=host), TABLE, client, Counters(), sleep=passed.sleep, clock=passed.clock)
    with pytest.raises(UnavailableError):
        append(writer, rows(1))
    assert passed.slept[:3] == [0.1, 0.2, 0.4]
    writer.close()
    client.transport.close()


def test_only_the_refused_rows_are_refused(writer: TableWriter, bigquery: FakeBigQuery, passed: PassedTime) -> None:
    """Row errors name their rows by position, with BigQuery's words; the rest of the request is written, without a pause."""
    bigquery.refuse = refuse(2, 4)
    refused = append(writer, rows(1, 2, 3, 4, 5))
    assert refused == [RefusedRow(1, "no i-2"), RefusedRow(3, "no i-4")]
    assert written(bigquery) == ["i-1", "i-3", "i-5"]
    assert passed.slept == []


def test_row_errors_may_come_in_turns(writer: TableWriter, bigquery: FakeBigQuery) -> None:
    """A second answer's positions, in a request that lacks the rows refused first, are those of the rows as given."""
    bigquery.faults.extend(
        [AnswersRowErrors([(0, "first")]), EndsStream(grpc.StatusCode.ABORTED), AnswersRowErrors([(2, "then")])]
    )
    refused = append(writer, rows(1, 2, 3, 4, 5))
    assert refused == [RefusedRow(0, "first"), RefusedRow(3, "then")]
    assert written(bigquery) == ["i-2", "i-3", "i-5"]


def test_two_errors_of_one_row_are_one_refused_row(writer: TableWriter, bigquery: FakeBigQuery) -> None:
    """A row that is named twice in an answer is refused once."""
    bigquery.faults.append(AnswersRowErrors([(1, "one"), (1, "other")]))
    assert append(writer, rows(1, 2)) == [RefusedRow(1, "other")]
    assert written(bigquery) == ["i-1"]


def test_a_request_of_nothing_but_refused_rows(writer: TableWriter, bigquery: FakeBigQuery) -> None:
    """Where every row is refused nothing is written, and no empty request is sent."""
    bigquery.refuse = lambda row: "no"
    assert [row.row for row in append(writer, rows(1, 2, 3))] == [0, 1, 2]
    assert len(bigquery.requests) == 1


def test_large_batches_go_out_in_parts(writer: TableWriter, bigquery: FakeBigQuery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows beyond one request are split, each row once and in order, and refused rows keep their positions in the whole."""
    monkeypatch.setattr(bigquery_sink, "MAX_REQUEST_BYTES", 20_000)
    bigquery.refuse = refuse(0, 777, 999)
    refused = append(writer, rows(*range(1000)))
    assert refused == [RefusedRow(0, "no i-0"), RefusedRow(777, "no i-777"), RefusedRow(999, "no i-999")]
    assert sorted(written(bigquery)) == sorted(f"i-{number}" for number in range(1000) if number not in (0, 777, 999))
    sizes = [len(request.arrow_rows.rows.serialized_record_batch) for request in bigquery.requests]
    assert max(sizes) < 20_000 * 1.1
    assert len(sizes) >= 5


def test_no_request_exceeds_the_limit(writer: TableWriter, bigquery: FakeBigQuery) -> None:
    """25 MB of rows go out in requests below BigQuery's 10 MB."""
    assert append(writer, rows(*range(250), product_id="x" * 100_000)) == []
    assert len(written(bigquery)) == 250
    assert all(request.ByteSize() < 10_000_000 for request in bigquery.requests)


class TestEventsOfSeveralRows:
    """An event's rows are written together or not at all."""

    def events(self, *lines: int) -> Any:
        """The events of rows: the first has ``lines[0]`` rows, and so on."""
        return np.repeat(np.arange(len(lines)), lines)

    def test_a_refused_row_takes_its_event_along(self, writer: TableWriter, bigquery: FakeBigQuery) -> None:
        """Only the row is named; the other events of the request are written."""
        bigquery.refuse = refuse(4)
        assert writer.finish(writer.start(rows(*range(6)), self.events(2, 3, 1))) == [RefusedRow(4, "no i-4")]
        assert written(bigquery) == ["i-0", "i-1", "i-5"]

    def test_requests_are_cut_between_events(
        self, writer: TableWriter, bigquery: FakeBigQuery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As long as one fits a request."""
        monkeypatch.setattr(bigquery_sink, "MAX_REQUEST_BYTES", rows(*range(10)).nbytes)
        assert writer.finish(writer.start(rows(*range(27)), self.events(8, 3, 9, 7))) == []
        requests = [[int(row["inventory_id"][2:]) for row in rows_of(request)] for request in bigquery.requests]
        assert requests == [list(range(8)), list(range(8, 11)), list(range(11, 20)), list(range(20, 27))]

    def test_an_event_that_fits_no_request_is_cut(
        self, writer: TableWriter, bigquery: FakeBigQuery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is written all the same."""
        monkeypatch.setattr(bigquery_sink, "MAX_REQUEST_BYTES", rows(*range(10)).nbytes)
        assert writer.finish(writer.start(rows(*range(20)), self.events(1, 18, 1))) == []
        assert written(bigquery) == [f"i-{number}" for number in range(20)]


class TestARequestRefusedAsAWhole:
    """BigQuery can refuse a request for one of its rows, and name none."""

    WORDS = "invalid value of a row"

    def writer(self, host: str, columns: Callable[[], dict[str, str]] = lambda: COLUMNS) -> TableWriter:
        config = config_for(bigquery_storage=host)
        return TableWriter(config, TABLE, bigquery_write_client(config.endpoints), Counters(), columns=columns)

    @pytest.mark.parametrize("ends_stream", [False, True])
    @pytest.mark.parametrize("bad", [{0}, {6}, {3, 4}, {0, 5, 6}, set(range(7))])
    def test_the_events_at_fault_are_found(self, bigquery: FakeBigQuery, bad: set[int], ends_stream: bool) -> None:
        """They are refused in BigQuery's words, and the others are written, each once."""
        bigquery.refuse_whole = lambda row: self.WORDS if int(row["inventory_id"][2:]) in bad else None
        bigquery.whole_ends_stream = ends_stream
        looks: list[int] = []

        def columns() -> dict[str, str]:
            looks.append(1)
            return COLUMNS

        with bigquery.serve() as host:
            writer = self.writer(host, columns)
            refused = append(writer, rows(*range(7)))
            writer.close()
        assert len(looks) == 1  # at the table, however many parts there are
        assert [row.row for row in refused] == sorted(bad)
        assert all(self.WORDS in row.error for row in refused)
        assert sorted(written(bigquery)) == [f"i-{number}" for number in range(7) if number not in bad]

    def test_an_event_stands_alone_with_all_its_rows(self, bigquery: FakeBigQuery) -> None:
        """Every row of an event at fault is refused."""
        bigquery.refuse_whole = lambda row: self.WORDS if row["inventory_id"] == "i-3" else None
        with bigquery.serve() as host:
            writer = self.writer(host)
            refused = writer.finish(writer.start(rows(*range(6)), np.array([0, 0, 1, 1, 1, 2])))
            writer.close()
        assert [row.row for row in refused] == [2, 3, 4]
        assert written(bigquery) == ["i-0", "i-1", "i-5"]

    def test_requests_that_ended_with_it_are_written(self, bigquery: FakeBigQuery) -> None:
        """Where the error ends the connection, the other requests on it are not blamed."""
        bigquery.refuse_whole = lambda row: self.WORDS if row["inventory_id"] == "i-2" else None
        bigquery.whole_ends_stream = True
        with bigquery.serve() as host:
            writer = self.writer(host)
            started = [writer.start(rows(number, number + 10)) for number in range(5)]
            refused = [writer.finish(appends) for appends in started]
            writer.close()
        assert [[row.row for row in some] for some in refused] == [[], [], [0], [], []]
        assert sorted(written(bigquery)) == sorted(f"i-{number}" for number in (0, 1, 3, 4, 10, 11, 12, 13, 14))

    @pytest.mark.parametrize("changes", [{"reason": "INTEGER"}, {"reason": None}])
    def test_where_the_table_does_not_fit_no_row_is_blamed(self, bigquery: FakeBigQuery, changes: dict[str, str | None]) -> None:
        """A column of another type, or a missing one, raises; nothing is sent again."""
        bigquery.refuse_whole = lambda row: self.WORDS
        columns = {name: kind for name, kind in (COLUMNS | changes).items() if kind}
        with bigquery.serve() as host:
            writer = self.writer(host, lambda: columns)
            with pytest.raises(SchemaError, match=self.WORDS):
                append(writer, rows(1, 2))
            writer.close()
        assert len(bigquery.requests) == 1


UNKNOWN_COLUMN = EndsStream(
    grpc.StatusCode.INVALID_ARGUMENT, words="Input schema has more fields than BigQuery schema, extra fields: 'reason'"
)


class TestAColumnThatAppendsDoNotKnowYet:
    """A column that was just added is in the table at once, and known to appends some minutes later."""

    def writer(
        self, host: str, passed: PassedTime, columns: Callable[[], dict[str, str]], counters: Counters | None = None
    ) -> TableWriter:
        config = config_for(bigquery_storage=host)
        client = bigquery_write_client(config.endpoints)
        return TableWriter(config, TABLE, client, counters or Counters(), sleep=passed.sleep, clock=passed.clock, columns=columns)

    def test_it_is_waited_for_while_the_table_has_it(self, bigquery: FakeBigQuery, passed: PassedTime) -> None:
        """Whatever the case of its name; the rows are written once it is known, and meanwhile the status says so."""
        bigquery.faults.extend([UNKNOWN_COLUMN] * 4)
        sentences: list[str | None] = []
        counters = Counters()

        def columns() -> dict[str, str]:
            sentences.append(counters.snapshot()["waiting_for"])
            return {name.upper(): kind for name, kind in COLUMNS.items()}

        with bigquery.serve() as host:
            writer = self.writer(host, passed, columns, counters)
            assert append(writer, rows(1)) == []
            writer.close()
        assert written(bigquery) == ["i-1"]
        assert passed.slept == [0.1, 0.2, 0.4, 0.8]
        assert sentences[-1] is not None
        assert "a new column of fact_inventory, which can take ten minutes" in sentences[-1]

    def test_after_two_minutes_the_bundle_fails_and_comes_again(self, bigquery: FakeBigQuery, passed: PassedTime) -> None:
        """As for a service that does not answer, of which the engine never gives up."""
        bigquery.always = UNKNOWN_COLUMN
        with bigquery.serve() as host:
            writer = self.writer(host, passed, lambda: COLUMNS)
            with pytest.raises(UnavailableError, match=r"accepted no rows .* extra fields: 'reason'"):
                append(writer, rows(1))
            writer.close()
        assert PATIENCE.give_up <= passed.clock() < PATIENCE.give_up + 11

    def test_a_column_that_the_table_lacks_is_not_waited_for(self, bigquery: FakeBigQuery, passed: PassedTime) -> None:
        """Nor one of a table that can't be looked at."""
        bigquery.always = UNKNOWN_COLUMN

        def unreachable() -> dict[str, str]:
            raise exceptions.ServiceUnavailable("gone")

        for columns in (lambda: {"event_id": "STRING"}, unreachable):
            with bigquery.serve() as host:
                writer = self.writer(host, passed, columns)
                with pytest.raises(SchemaError, match="extra fields: 'reason'"):
                    append(writer, rows(1))
                writer.close()
        assert passed.slept == []


def test_a_connection_that_reached_no_region_is_tried_again(writer: TableWriter, bigquery: FakeBigQuery) -> None:
    """An answer of "Cannot route on empty project id" passes, though its code is that of a malformed request."""
    bigquery.faults.append(EndsStream(grpc.StatusCode.INVALID_ARGUMENT, words="Cannot route on empty project id ''"))
    assert append(writer, rows(1)) == []
    assert written(bigquery) == ["i-1"]


def test_access_denied_or_no_such_table(writer: TableWriter, bigquery: FakeBigQuery) -> None:
    """Where BigQuery does not say which of the two it is, neither does the sentence; the remedies are both."""
    words = "Permission 'TABLES_UPDATE_DATA' denied on resource 'projects/p/datasets/d/tables/t' (or it may not exist)."
    bigquery.always = EndsStream(grpc.StatusCode.PERMISSION_DENIED, words=words)
    with pytest.raises(MaybeMissingError) as caught:
        append(writer, rows(1))
    assert caught.value.message == f"Table test-project.shop.{TABLE} does not exist, or can't be written: {words}"
    assert caught.value.remedy == "If it is missing, run: ecomflow infra up\nGrant the role roles/bigquery.dataEditor."
    assert caught.value.exit_code == AccessError.exit_code


@pytest.mark.parametrize("fault", [EndsStream, AnswersError], ids=["stream", "answer"])
@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (grpc.StatusCode.NOT_FOUND, NotFoundError, "Run: ecomflow infra up"),
        (grpc.StatusCode.INVALID_ARGUMENT, SchemaError, "ecomflow infra status"),
        (grpc.StatusCode.FAILED_PRECONDITION, SchemaError, "ecomflow infra status"),
        (grpc.StatusCode.PERMISSION_DENIED, AccessError, "roles/bigquery.dataEditor"),
        (grpc.StatusCode.UNAUTHENTICATED, AccessError, "Log in again: gcloud auth application-default login"),
    ],
)
def test_a_lasting_error_is_reported_at_once(
    fault: Callable[[grpc.StatusCode], Fault],
    code: grpc.StatusCode,
    kind: type[EcomflowError],
    words: str,
    writer: TableWriter,
    bigquery: FakeBigQuery,
    passed: PassedTime,
) -> None:
    """What waiting can't fix raises its own error with the table's name and what to do, without a second try."""
    bigquery.always = fault(code)
    with pytest.raises(kind) as caught:
        append(writer, rows(1))
    assert type(caught.value) is kind
    assert "test-project.shop.fact_inventory" in caught.value.message
    assert words in str(caught.value)
    assert (len(bigquery.requests), passed.slept) == (1, [])


def test_threads_share_a_writer(writer: TableWriter, bigquery: FakeBigQuery) -> None:
    """Several threads append to one table at once, with faults in between, and each gets the answer to its own rows."""
    bigquery.refuse = refuse(7, 107, 207, 307)
    bigquery.faults.extend([None] * 5 + [EndsStream(grpc.StatusCode.UNAVAILABLE)] + [None] * 5 + [ClosesStream()])
    refused: dict[int, list[RefusedRow]] = {}

    def write(first: int) -> None:
        refused[first] = [row for number in range(10) for row in append(writer, rows(first + number))]

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert refused == {first: [RefusedRow(0, f"no i-{first + 7}")] for first in (0, 100, 200, 300)}
    numbers = [first + number for first in (0, 100, 200, 300) for number in range(10) if number != 7]
    assert sorted(written(bigquery)) == sorted(f"i-{number}" for number in numbers)


def test_whatever_ends_the_stream_answers_what_waits(
    writer: TableWriter, bigquery: FakeBigQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that is no API error, in the receiving thread, leaves no append unanswered: it is tried again."""
    calls = []

    def broken(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise ValueError("by the test")
        return appending(*arguments, **options)

    appending = bigquery_sink.append_rows
    monkeypatch.setattr(bigquery_sink, "append_rows", broken)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    assert append(writer, rows(1)) == []
    assert written(bigquery) == ["i-1"]


@pytest.fixture
def append_threads() -> Callable[[], list[str]]:
    """The names of the threads that append, without those that other tests of the process have left."""
    before = set(threading.enumerate())
    return lambda: [one.name for one in threading.enumerate() if one not in before and one.name.startswith("append ")]


def test_close_ends_the_threads(bigquery: FakeBigQuery, append_threads: Callable[[], list[str]]) -> None:
    """Writers are one a table; closing them ends their threads, and new ones write on."""
    with bigquery.serve() as host:
        for number in (1, 2):
            with closing(TableWriters(config_for(bigquery_storage=host), Counters())) as writers:
                assert writers.writer(TABLE) is writers.writer(TABLE)
                append(writers.writer(TABLE), rows(number))
                assert append_threads() == [f"append {STREAM}"]
            wait_until(lambda: append_threads() == [])
    assert written(bigquery) == ["i-1", "i-2"]


def test_closing_ends_a_silent_connection(bigquery: FakeBigQuery, append_threads: Callable[[], list[str]]) -> None:
    """A connection that was given up because nothing came ends with its client."""
    bigquery.faults.append(SaysNothing())
    with bigquery.serve() as host:
        with closing(TableWriters(config_for(bigquery_storage=host), Counters(), IMPATIENT)) as writers:
            append(writers.writer(TABLE), rows(1))
            assert len(append_threads()) == 2
        wait_until(lambda: append_threads() == [])


def test_errors_are_of_google_api_core() -> None:
    """The transient errors are what api_core makes of the transient codes."""
    for code in TRANSIENT:
        assert isinstance(exceptions.from_grpc_status(code.value[0], ""), bigquery_sink._TRANSIENT)
