"""A named question or GoogleSQL in, rows out. Parameters are bound, never pasted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import msgspec

from ecomflow.clients import bigquery_client
from ecomflow.config import Endpoints, Settings
from ecomflow.errors import AccessError, ConfigError, EcomflowError, NotFoundError, UnavailableError
from ecomflow.sql import QUESTIONS, Parameter, qualify, question

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 300.0


class Answer(msgspec.Struct, frozen=True):
    """The columns' names, and the rows in their order."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def ask(settings: Settings, endpoints: Endpoints, name_or_sql: str, values: Mapping[str, str]) -> Answer:
    """The answer to a question by its name, or to GoogleSQL that contains a space.

    ``values`` are the question's parameters as text; those left out have their default. Raises NotFoundError for an unknown
    question or table, ConfigError for a value that does not fit or SQL that BigQuery refuses.
    """
    if " " in name_or_sql.strip() and name_or_sql not in QUESTIONS:
        if values:
            raise ConfigError("SQL of your own takes no parameters here.", "Write the values into it, or ask a named question.")
        return _run(settings, endpoints, "", qualify(name_or_sql, settings.dataset_id), [])
    asked = question(name_or_sql)
    if strangers := set(values) - {parameter.name for parameter in asked.parameters}:
        raise ConfigError(f"'{asked.name}' takes no parameter '{sorted(strangers)[0]}'.", "See: ecomflow query --list")
    from google.cloud import bigquery

    given = {parameter.name: _value(parameter, values.get(parameter.name, parameter.default)) for parameter in asked.parameters}
    bound = [
        bigquery.ScalarQueryParameter(parameter.name, parameter.type, given[parameter.name]) for parameter in asked.parameters
    ]
    return _run(settings, endpoints, asked.asks, qualify(asked.sql, settings.dataset_id), bound)


def select(settings: Settings, endpoints: Endpoints, sql: str, **ids: list[str]) -> tuple[tuple[Any, ...], ...]:
    """The rows of a query of ours over the dataset ``ecomflow``; ``ids`` are bound as STRING arrays. Raises as ``ask`` does."""
    from google.cloud import bigquery

    bound = [bigquery.ArrayQueryParameter(name, "STRING", values) for name, values in ids.items()]
    return _run(settings, endpoints, "", qualify(sql, settings.dataset_id), bound).rows


def _value(parameter: Parameter, text: str) -> Any:
    if parameter.type != "DATE":
        return text
    if text == "today":
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"'{text}' is no date for '{parameter.name}'.", "Write it as 2025-12-01.") from error


def _run(settings: Settings, endpoints: Endpoints, title: str, sql: str, bound: list[Any]) -> Answer:
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import bigquery
    from requests.exceptions import ConnectionError as HttpConnectionError

    try:
        client = bigquery_client(settings.project_id, endpoints, settings.location)
        job = client.query(
            sql, bigquery.QueryJobConfig(query_parameters=bound), timeout=_CONNECT_SECONDS, retry=None, job_retry=None
        )
        result = job.result(timeout=_ANSWER_SECONDS)
        columns = tuple(field.name for field in result.schema)
        return Answer(title, columns, tuple(tuple(row.values()) for row in result))
    except (exceptions.GoogleAPIError, GoogleAuthError, HttpConnectionError) as error:
        raise _translated(error) from error


def _translated(error: Exception) -> EcomflowError:
    from google.api_core import exceptions

    # BigQuery's sentence stands first; reason, location and job id follow it.
    words = str(getattr(error, "message", error)).split("; reason:")[0].splitlines()[0]
    if isinstance(error, exceptions.NotFound):
        return NotFoundError(f"The warehouse lacks what the question reads: {words}", "Run: ecomflow infra up")
    if isinstance(error, exceptions.BadRequest):
        return ConfigError(f"BigQuery refuses the query: {words}", "Correct the SQL.")
    if isinstance(error, exceptions.GoogleAPICallError) and not isinstance(error, exceptions.Forbidden | exceptions.Unauthorized):
        return UnavailableError(f"BigQuery does not answer the question: {words}", "Look at it with: ecomflow infra status")
    if isinstance(error, exceptions.GoogleAPICallError):
        return AccessError(
            f"The question was refused: {words}", "Grant the roles roles/bigquery.jobUser and roles/bigquery.dataViewer."
        )
    return UnavailableError(f"BigQuery can't be reached: {words}", "Look at it with: ecomflow infra status")
