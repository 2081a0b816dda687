"""A named question or GoogleSQL in, rows out. Parameters are always bound, never interpolated into the SQL."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from ecomflow.config import Settings
from ecomflow.errors import ConfigError, EcomflowError, NotFoundError, UnavailableError
from ecomflow.gcp.lookalikes import remedy_for_missing
from ecomflow.gcp.services import Service
from ecomflow.gcp.target import Target
from ecomflow.sql import qualify, question
from ecomflow.sql.parameters import parameters_of, qualify_user_sql

if TYPE_CHECKING:
    from google.cloud import bigquery

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 300.0
_CANCEL_SECONDS = 0.5


class Bound(msgspec.Struct, frozen=True):
    """A query parameter: ``@name`` in the SQL, its GoogleSQL ``type`` and its value."""

    name: str
    type: str
    value: Any


class Query(msgspec.Struct, frozen=True):
    """A query that is ready to send. ``question``: the name of the question, if it is one of the named ones; ``chart``: the
    column to draw in a chart, if the question names one.
    """

    title: str
    sql: str
    parameters: tuple[Bound, ...]
    chart: str | None = None
    question: str | None = None


class Estimate(msgspec.Struct, frozen=True):
    """The bytes that would be read, and the statement type (such as SELECT), or None if it is not reported."""

    scanned_bytes: int
    statement: str | None


class Reply(msgspec.Struct, frozen=True):
    """BigQuery's response while it is read: ``total`` rows, and an iterator. Without columns: a statement that has no rows.

    ``affected``: the rows that a DML statement has inserted, updated or deleted; None for any other.
    """

    query: Query
    columns: tuple[str, ...]
    total: int
    rows: Iterator[tuple[Any, ...]]
    affected: int | None = None


class Answer(msgspec.Struct, frozen=True):
    """A query result: the column names and the rows, in order."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    chart: str | None = None


def ask(target: Target, name_or_sql: str, values: Mapping[str, str]) -> Answer:
    """The whole result of a named question or of GoogleSQL. Raises the same errors as ``prepare`` and ``send``."""
    return taken(send(target, prepare(target.settings, name_or_sql, values)))


def select(target: Target, sql: str, **ids: list[str]) -> tuple[tuple[Any, ...], ...]:
    """The rows of one of ecomflow's own queries on the dataset ``ecomflow``; ``ids`` are bound as STRING arrays.

    Raises the same errors as ``send``.
    """
    bound = tuple(Bound(name, "ARRAY<STRING>", values) for name, values in ids.items())
    return tuple(send(target, Query("", qualify(sql, target.settings.dataset_id), bound)).rows)


def prepare(settings: Settings, name_or_sql: str, values: Mapping[str, str]) -> Query:
    """A named question, or GoogleSQL (recognized by a space or line break), with its parameters. Sends nothing.

    ``values`` are strings by ``name`` or ``name:TYPE``. A question declares the types of its parameters and can have defaults;
    in GoogleSQL every parameter needs a value, and is a STRING unless its type is given. Raises NotFoundError for an unknown
    question, ConfigError for a parameter that is missing, unknown, or not valid for its type.
    """
    if len(name_or_sql.split()) > 1:
        return prepare_sql(settings, name_or_sql, values)
    asked = question(name_or_sql.strip())
    needed = {parameter.name: (parameter.type, parameter.default) for parameter in asked.parameters}
    bound = _bound(needed, _given(values), f"'{asked.name}'")
    return Query(asked.asks, qualify(asked.sql, settings.dataset_id), bound, asked.chart, asked.name)


def prepare_sql(settings: Settings, sql: str, values: Mapping[str, str]) -> Query:
    """GoogleSQL with its parameters, given as for ``prepare``."""
    needed = dict.fromkeys(parameters_of(sql), ("", ""))
    return Query("", qualify_user_sql(sql, settings.dataset_id), _bound(needed, _given(values), "The query"))


def _given(values: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    return {name.lower(): (kind.upper(), text) for key, text in values.items() for name, _, kind in [key.partition(":")]}


def estimate(target: Target, query: Query) -> Estimate:
    """The result of a dry run of ``query``, which is free. Raises the same errors as ``send``."""
    with _query_errors(target) as service:
        job = _started(target, query, service, dry_run=True)
        return Estimate(int(job.total_bytes_processed or 0), job.statement_type)


def scanned_bytes(target: Target, query: Query) -> int:
    """How many bytes BigQuery would read for ``query``; an upper bound for clustered tables."""
    return estimate(target, query).scanned_bytes


def send(target: Target, query: Query, max_bytes: int | None = None) -> Reply:
    """The response to ``query``, whose rows are fetched lazily.

    BigQuery refuses a query for which it would bill more than ``max_bytes``; a refused query costs nothing. Raises ConfigError
    for that and for invalid SQL, NotFoundError for a missing table, AccessError and UnavailableError.
    """
    limit = {} if max_bytes is None else {"maximum_bytes_billed": max_bytes}
    with _query_errors(target) as service:
        job = _started(target, query, service, **limit)
        result = _result(job)
        columns = tuple(field.name for field in result.schema)
        return Reply(query, columns, result.total_rows or 0, _rows(result, target), job.num_dml_affected_rows)


def taken(reply: Reply, limit: int | None = None) -> Answer:
    """The first ``limit`` rows of a reply, or all."""
    return Answer(reply.query.title, reply.columns, tuple(islice(reply.rows, limit)), reply.query.chart)


def _bound(needed: Mapping[str, tuple[str, str]], given: Mapping[str, tuple[str, str]], what: str) -> tuple[Bound, ...]:
    """A value for each parameter in ``needed`` (by name: its type and default, "" if there is none)."""
    if unknown := sorted(given.keys() - needed.keys()):
        raise ConfigError(f"{what} has no parameter '{unknown[0]}'.", "Omit it, or see: ecomflow query --list")
    bound = []
    for name, (kind, default) in sorted(needed.items()):
        said, text = given.get(name, ("", default))
        if name not in given and not default:
            raise ConfigError(f"{what} needs a value for @{name}.", f"Set it with: --param {name}=VALUE")
        if kind and said and said != kind:
            raise ConfigError(f"@{name} is a {kind}, not a {said}.", f"Write: --param {name}={text}")
        bound.append(_parsed(name, kind or said or "STRING", text))
    return tuple(bound)


def _parsed(name: str, kind: str, text: str) -> Bound:
    if kind not in _READERS:
        raise ConfigError(f"The parameter type {kind} is not supported.", f"Choose one of: {', '.join(_READERS)}.")
    read, example = _READERS[kind]
    try:
        return Bound(name, kind, read(text))
    except (LookupError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"'{text}' is not a valid {kind} for @{name}.", f"Write it like this: {example}.") from error


def _day(text: str) -> date:
    return datetime.now(UTC).date() if text == "today" else date.fromisoformat(text)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _decimal(text: str) -> Decimal:
    value = Decimal(text)
    if not value.is_finite():
        raise ValueError(text)
    return value


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


# How to parse a parameter of each type, and an example.
_READERS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "STRING": (str, "text"),
    "INT64": (int, "42"),
    "FLOAT64": (_float, "0.5"),
    "NUMERIC": (_decimal, "12.50"),
    "BOOL": (lambda text: {"true": True, "false": False}[text.lower()], "true or false"),
    "DATE": (_day, "2025-12-01"),
    "TIMESTAMP": (_moment, "2025-12-01T08:30:00Z"),
}


def _service(target: Target) -> Service:
    role = "roles/bigquery.jobUser and roles/bigquery.dataViewer"
    return msgspec.structs.replace(target.bigquery_service, role=role)


def _started(target: Target, query: Query, service: Service, **options: Any) -> bigquery.QueryJob:
    from google.cloud import bigquery
    from google.cloud.bigquery.retry import DEFAULT_RETRY

    bound = [
        bigquery.ArrayQueryParameter(one.name, "STRING", one.value)
        if one.type == "ARRAY<STRING>"
        else bigquery.ScalarQueryParameter(one.name, one.type, one.value)
        for one in query.parameters
    ]
    config = bigquery.QueryJobConfig(query_parameters=bound, labels=target.settings.labels, **options)
    # An emulator responds at once or is not running.
    retry = None if service.endpoint else DEFAULT_RETRY.with_timeout(service.patience_seconds)
    return target.bigquery.query(query.sql, config, timeout=_CONNECT_SECONDS, retry=retry, job_retry=None)


def _result(job: bigquery.QueryJob) -> Any:
    from ecomflow.gcp.errors import FAILURES

    try:
        return job.result(timeout=_ANSWER_SECONDS)
    except (TimeoutError, KeyboardInterrupt) as end:
        # Nobody should pay for a query that nobody waits for; but after Ctrl-C the user should not wait for the cancellation.
        with suppress(*FAILURES):
            job.cancel(retry=None, timeout=_CANCEL_SECONDS if isinstance(end, KeyboardInterrupt) else _CONNECT_SECONDS)
        raise


def _rows(result: Any, target: Target) -> Iterator[tuple[Any, ...]]:
    with _query_errors(target):
        for row in result:
            yield tuple(row.values())


@contextmanager
def _query_errors(target: Target) -> Iterator[Service]:
    from ecomflow.gcp.errors import google_errors

    service = _service(target)
    try:
        with google_errors(service, "what the query reads", decide=partial(_about_the_query, target)):
            yield service
    except TimeoutError as error:
        sentence = f"BigQuery has not responded within {_ANSWER_SECONDS:.0f} s; the query was cancelled."
        raise UnavailableError(sentence, "Query less data at a time.") from error


def _about_the_query(target: Target, cause: Exception) -> EcomflowError | None:
    """Errors that are due to the query, and not to a setting."""
    from google.api_core.exceptions import BadRequest

    from ecomflow.gcp.errors import is_missing, message_of

    # BigQuery's sentence is followed by reason, location and job id.
    words = message_of(cause).split("; reason:")[0].splitlines()[0]
    if "bytes billed" in words:
        # BigQuery reports it as a 500.
        return ConfigError(f"BigQuery refuses the query: {words}", "Raise --max-bytes: BigQuery bills at least 10 MB per table.")
    if is_missing(cause):
        return NotFoundError(f"A table or dataset of the query does not exist: {words}", remedy_for_missing(target, "dataset"))
    if isinstance(cause, BadRequest):
        return ConfigError(f"BigQuery refuses the query: {words}", "Correct the SQL.")
    return None
