"""Dead letters in; JSON-lines objects in the bucket out, one object a batch, stream and minute, each written once under a name
of its own.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from google.api_core import exceptions
from google.api_core.retry import Retry
from google.cloud.storage.retry import DEFAULT_RETRY
from requests.exceptions import RequestException

from ecomflow.contract.dead_letter import ROOT, DeadLetter, to_lines
from ecomflow.errors import AccessError, EcomflowError, NotFoundError, UnavailableError
from ecomflow.gcp.clients import storage_client
from ecomflow.pipeline.config import PipelineConfig
from ecomflow.pipeline.counters import count, waiting

log = logging.getLogger(__name__)

_UPLOADS_AT_ONCE = 4
_TIMEOUT = 30.0


def _say_that_it_waits(error: Exception) -> None:
    log.warning("Waiting for the bucket to take dead letters: %s", error)
    waiting("upload", f"the bucket to take dead letters: {error}")
    count("retries")


# A name is used once, so an upload may be repeated whatever became of the first try. The predicate is the library's own: within
# an upload its errors are not yet those of google.api_core.
_RETRY = Retry(DEFAULT_RETRY._predicate, initial=0.2, maximum=10.0, timeout=120.0, on_error=_say_that_it_waits)


def object_name(stream: str, failed_at: datetime, unique: str) -> str:
    """``dlq/<stream>/<YYYY>/<MM>/<DD>/<HH>/<mm>/<unique>.jsonl``, in UTC. Within a minute names sort by time."""
    moment = failed_at.astimezone(UTC)
    return f"{ROOT}/{stream}/{moment:%Y/%m/%d/%H/%M}/{moment:%S%f}-{unique}.jsonl"


class DeadLetterWriter:
    """Uploads dead letters on threads of its own. Safe for several threads."""

    def __init__(self, config: PipelineConfig, retry: Retry = _RETRY) -> None:
        self._bucket_name = config.bucket
        self._retry = retry
        self._bucket = storage_client(config.project, config.endpoints).bucket(config.bucket)
        self._executor = ThreadPoolExecutor(_UPLOADS_AT_ONCE, thread_name_prefix="dead-letters")

    def start(self, stream: str, letters: list[DeadLetter]) -> list[Future[None]]:
        """Begin to write ``letters``; ``finish`` waits. They are safe only once it has returned."""
        by_minute: dict[datetime, list[DeadLetter]] = defaultdict(list)
        for letter in letters:
            by_minute[letter.failed_at.replace(second=0, microsecond=0)].append(letter)
        return [
            self._executor.submit(self._upload, object_name(stream, part[0].failed_at, uuid.uuid4().hex), to_lines(part))
            for part in by_minute.values()
        ]

    def finish(self, uploads: list[Future[None]]) -> None:
        """Wait for ``uploads``. Raises NotFoundError, AccessError or UnavailableError where the bucket does not take them."""
        try:
            for upload in uploads:
                upload.result()
        finally:
            waiting("upload", None)

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)  # what has not begun belongs to a failed bundle, and comes again

    def _upload(self, name: str, lines: bytes) -> None:
        blob = self._bucket.blob(name)
        try:
            blob.upload_from_string(lines, "application/x-ndjson", if_generation_match=0, timeout=_TIMEOUT, retry=self._retry)
        except exceptions.PreconditionFailed:
            return  # the name is ours alone: an earlier try had arrived, and only its answer was lost
        except (exceptions.GoogleAPIError, RequestException) as error:
            raise _translated(error, self._bucket_name) from error


def _translated(error: Exception, bucket: str) -> EcomflowError:
    if isinstance(error, exceptions.NotFound):
        return NotFoundError(f"Bucket {bucket} does not exist, so dead letters have no place.", "Run: ecomflow infra up")
    if isinstance(error, exceptions.Unauthorized):
        login = "Log in again: gcloud auth application-default login"
        return AccessError(f"Cloud Storage does not accept the credentials: {error}", login)
    if isinstance(error, exceptions.Forbidden):
        return AccessError(f"Bucket {bucket} can't be written: {error}", "Grant the role roles/storage.objectCreator.")
    return UnavailableError(f"Bucket {bucket} takes no dead letters: {error}")


class _Writers:
    """This process's dead-letter writers, by pipeline."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writers: dict[PipelineConfig, Any] = {}

    def get(self, config: PipelineConfig) -> DeadLetterWriter:
        with self._lock:
            if config not in self._writers:
                self._writers[config] = DeadLetterWriter(config)
            writer: DeadLetterWriter = self._writers[config]
            return writer

    def close(self, config: PipelineConfig) -> None:
        with self._lock:
            writer = self._writers.pop(config, None)
        if writer is not None:
            writer.close()


_writers = _Writers()
shared_dead_letter_writer = _writers.get
close_dead_letter_writer = _writers.close
