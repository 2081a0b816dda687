"""How long a request about a resource or an object may take, and which failed ones are sent again."""

from __future__ import annotations

from typing import Any

from google.api_core.exceptions import ServiceUnavailable
from google.api_core.retry import Retry, if_exception_type
from google.cloud.bigquery.retry import DEFAULT_RETRY as BIGQUERY_RETRY
from google.cloud.storage.retry import DEFAULT_RETRY as STORAGE_RETRY

from ecomflow.gcp.services import Service

# Timeout of one request, in seconds.
REQUEST_SECONDS = 30.0


def pubsub_retry(service: Service) -> Retry:
    """Only of what failed at once: a request may take REQUEST_SECONDS, and is not sent again after that."""
    return Retry(predicate=if_exception_type(ServiceUnavailable), initial=0.1, maximum=1.0, timeout=service.patience_seconds)


def storage_retry(service: Service) -> Any:
    return STORAGE_RETRY.with_timeout(service.patience_seconds)


def storage_options(service: Service) -> dict[str, Any]:
    """The ``retry`` and ``timeout`` of a request about objects."""
    return {"retry": storage_retry(service), "timeout": service.answer_seconds}


def bigquery_retry(service: Service) -> Any:
    return BIGQUERY_RETRY.with_timeout(service.patience_seconds)
