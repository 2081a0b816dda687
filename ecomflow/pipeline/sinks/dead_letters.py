"""Dead letters in; JSON-lines objects in the bucket out: one per batch, stream and minute, each with a unique name."""

from __future__ import annotations

import logging
import uuid
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime

from google.api_core import exceptions
from google.api_core.retry import Retry
from google.cloud.storage.retry import DEFAULT_RETRY
from requests.exceptions import RequestException

from ecomflow.contract.dead_letter import ROOT, DeadLetter, to_lines
from ecomflow.errors import AccessError, EcomflowError, NotFoundError, UnavailableError
from ecomflow.gcp.clients import storage_client
from ecomflow.pipeline.config import PipelineConfig
from ecomflow.pipeline.counters import Counters
from ecomflow.pipeline.sinks.patience import Patience

log = logging.getLogger(__name__)

_UPLOADS_AT_ONCE = 4
PATIENCE = Patience(answer=30.0, give_up=120.0, first_pause=0.2, longest_pause=10.0)


def object_name(stream: str, failed_at: datetime, unique: str) -> str:
    """``dlq/<stream>/<YYYY>/<MM>/<DD>/<HH>/<mm>/<unique>.jsonl``, in UTC. Within a minute names sort by time."""
    moment = failed_at.astimezone(UTC)
    return f"{ROOT}/{stream}/{moment:%Y/%m/%d/%H/%M}/{moment:%S%f}-{unique}.jsonl"


class DeadLetterWriter:
    """Uploads dead letters in background threads. Thread-safe."""

    def __init__(self, config: PipelineConfig, counters: Counters, patience: Patience = PATIENCE) -> None:
        self._bucket_name = config.bucket
        self._counters = counters
        self._timeout = patience.answer
        # Each name is used once, so an upload can be repeated regardless of what happened to the first attempt. The predicate is
        # the library's own, because inside an upload its errors are not yet those of google.api_core.
        self._retry = Retry(
            DEFAULT_RETRY._predicate,
            initial=patience.first_pause,
            maximum=patience.longest_pause,
            timeout=patience.give_up,
            on_error=self._say_that_it_waits,
        )
        self._bucket = storage_client(config.project, config.endpoints).bucket(config.bucket)
        self._executor = ThreadPoolExecutor(_UPLOADS_AT_ONCE, thread_name_prefix="dead-letters")

    def start(self, stream: str, letters: list[DeadLetter]) -> list[Future[None]]:
        """Start writing the dead letters. They are safe only after ``finish`` has returned."""
        by_minute: dict[datetime, list[DeadLetter]] = defaultdict(list)
        for letter in letters:
            by_minute[letter.failed_at.replace(second=0, microsecond=0)].append(letter)
        return [
            self._executor.submit(self._upload, object_name(stream, part[0].failed_at, uuid.uuid4().hex), to_lines(part))
            for part in by_minute.values()
        ]

    def finish(self, uploads: list[Future[None]]) -> None:
        """Wait for ``uploads``. Raises NotFoundError, AccessError or UnavailableError if the bucket does not accept them."""
        try:
            for upload in uploads:
                upload.result()
        finally:
            self._counters.waiting("upload", None)

    def close(self) -> None:
        self._executor.shutdown(
            cancel_futures=True
        )  # uploads that have not started belong to a failed bundle, which is redelivered

    def _say_that_it_waits(self, error: Exception) -> None:
        log.warning("Waiting for the bucket to accept dead letters: %s", error)
        self._counters.waiting("upload", f"the bucket to accept dead letters: {error}")
        self._counters.count("retries")

    def _upload(self, name: str, lines: bytes) -> None:
        blob = self._bucket.blob(name)
        try:
            blob.upload_from_string(
                lines, "application/x-ndjson", if_generation_match=0, timeout=self._timeout, retry=self._retry
            )
        except exceptions.PreconditionFailed:
            return  # the name is unique, so an earlier attempt succeeded and only its response was lost
        except (exceptions.GoogleAPIError, RequestException) as error:
            raise _translated(error, self._bucket_name) from error


def _translated(error: Exception, bucket: str) -> EcomflowError:
    """Not by ``gcp.errors``: here any other failure is one of the bucket that the engine waits for."""
    if isinstance(error, exceptions.NotFound):
        return NotFoundError(f"Bucket {bucket} does not exist, so dead letters can't be written.", "Run: ecomflow infra up")
    if isinstance(error, exceptions.Unauthorized):
        login = "Log in again: gcloud auth application-default login"
        return AccessError(f"Cloud Storage does not accept the credentials: {error}", login)
    if isinstance(error, exceptions.Forbidden):
        return AccessError(f"Bucket {bucket} can't be written: {error}", "Grant the role roles/storage.objectCreator.")
    return UnavailableError(f"Bucket {bucket} does not accept dead letters: {error}")
