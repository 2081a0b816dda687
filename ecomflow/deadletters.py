"""The bucket's dead letters in, newest first, a page or all of them, out.

Objects lie by stream and minute, so the newest are found by walking the folders backwards in time: no listing of the whole
bucket.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from ecomflow.clients import storage_client
from ecomflow.config import Endpoints, Settings
from ecomflow.errors import AccessError, EcomflowError, NotFoundError, UnavailableError
from ecomflow.rejected import ROOT, STREAMS, DeadLetter, from_line, stream_of

if TYPE_CHECKING:
    from google.cloud.storage import Blob, Bucket

_LEVELS = 5  # year, month, day, hour, minute
_DOWNLOADS_AT_ONCE = 8


class StoredLetter(msgspec.Struct, frozen=True):
    """A dead letter and the object that holds it."""

    letter: DeadLetter
    object_name: str


def newest(
    settings: Settings,
    endpoints: Endpoints,
    *,
    limit: int,
    streams: Iterable[str] = STREAMS,
    reason: str | None = None,
    since: datetime | None = None,
) -> list[StoredLetter]:
    """At most ``limit`` dead letters of ``streams``, newest first, of one ``reason`` and failed at or after ``since`` where
    given.

    Raises NotFoundError (bucket), AccessError and UnavailableError.
    """
    with _translated(settings):
        bucket = _bucket(settings, endpoints)
        chosen = (stored for stored in _stored(bucket, streams, since) if reason is None or stored.letter.reason == reason)
        return list(islice(chosen, limit))


def every(settings: Settings, endpoints: Endpoints) -> Iterator[StoredLetter]:
    """Every dead letter in the bucket, newest first. Raises as ``newest`` does."""
    with _translated(settings):
        yield from _stored(_bucket(settings, endpoints), STREAMS, None)


def count_by_stream_and_reason(settings: Settings, endpoints: Endpoints) -> dict[tuple[str, str], int]:
    """How many dead letters the bucket holds, by (stream, reason). Reads every object."""
    return dict(Counter((stream_of(stored.letter), stored.letter.reason) for stored in every(settings, endpoints)))


def _bucket(settings: Settings, endpoints: Endpoints) -> Bucket:
    return storage_client(settings.project_id, endpoints).bucket(settings.bucket_name)


def _stored(bucket: Bucket, streams: Iterable[str], since: datetime | None) -> Iterator[StoredLetter]:
    by_stream = [_newest_objects(bucket, f"{ROOT}/{stream}/", since) for stream in streams]
    objects = heapq.merge(*by_stream, key=_time_key, reverse=True)
    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        while page := list(islice(objects, _DOWNLOADS_AT_ONCE)):
            for blob, data in zip(page, pool.map(lambda blob: blob.download_as_bytes(timeout=30), page), strict=True):
                letters = sorted(_letters(blob.name, data), key=lambda letter: letter.failed_at, reverse=True)
                yield from (StoredLetter(letter, blob.name) for letter in letters if since is None or letter.failed_at >= since)


def _newest_objects(bucket: Bucket, folder: str, since: datetime | None, level: int = 0) -> Iterator[Blob]:
    """The objects under ``folder``, ``level`` folders below a stream's, those of later minutes first."""
    if level == _LEVELS:
        yield from sorted(bucket.list_blobs(prefix=folder, timeout=30), key=lambda blob: blob.name, reverse=True)
        return
    listing = bucket.list_blobs(prefix=folder, delimiter="/", timeout=30)
    for _ in listing:  # the folders are known once the pages are read; objects at this level are not ours
        pass
    for inner in sorted(listing.prefixes, reverse=True):
        if since is None or _time_of(inner) >= since.astimezone(UTC).strftime("%Y/%m/%d/%H/%M")[: len(_time_of(inner))]:
            yield from _newest_objects(bucket, inner, since, level + 1)


def _time_of(folder: str) -> str:
    """``2025/12/01`` of ``dlq/order/2025/12/01/``: the digits of a moment, as far as the folder tells."""
    return folder.rstrip("/").split("/", 2)[2]


def _time_key(blob: Any) -> str:
    return str(blob.name).split("/", 2)[2]


def _letters(name: str, data: bytes) -> Iterator[DeadLetter]:
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            yield from_line(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise EcomflowError(f"Line {number} of {name} is no dead letter: {error}", "Move the object out of dlq/.") from error


@contextmanager
def _translated(settings: Settings) -> Iterator[None]:
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import ConnectionError as HttpConnectionError

    try:
        yield
    except exceptions.NotFound as error:
        raise NotFoundError(f"Bucket {settings.bucket_name} does not exist.", "Run: ecomflow infra up") from error
    except (exceptions.Forbidden, exceptions.Unauthorized, GoogleAuthError) as error:
        role = "Sign in with gcloud auth application-default login, or grant the role roles/storage.objectViewer."
        raise AccessError(f"Bucket {settings.bucket_name} can't be read: {error}", role) from error
    except (exceptions.GoogleAPICallError, exceptions.RetryError, HttpConnectionError) as error:
        raise UnavailableError(
            f"The bucket's service does not answer: {error}", "Look at it with: ecomflow infra status"
        ) from error
