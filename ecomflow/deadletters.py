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


# What an object of ours never reaches: a bundle of 64 MB whose every byte is escaped. A larger one is somebody else's.
MAX_OBJECT_BYTES = 512 * 2**20


class StoredLetter(msgspec.Struct, frozen=True):
    """A dead letter and the object that holds it."""

    letter: DeadLetter
    object_name: str


class Unreadable(msgspec.Struct, frozen=True):
    """An object under ``dlq/``, or a line of it, that is no dead letter: somebody else's, or damaged."""

    object_name: str
    error: str


def newest(
    settings: Settings,
    endpoints: Endpoints,
    *,
    limit: int,
    streams: Iterable[str] = STREAMS,
    reason: str | None = None,
    since: datetime | None = None,
    unreadable: list[Unreadable] | None = None,
) -> list[StoredLetter]:
    """At most ``limit`` dead letters of ``streams``, newest first, of one ``reason`` and failed at or after ``since`` where
    given. Objects that hold none are added to ``unreadable`` where it is given.

    Raises NotFoundError (bucket), AccessError and UnavailableError; and, without ``unreadable``, EcomflowError at the first
    object that holds no dead letters.
    """
    with _translated(settings):
        found = _readable(_stored(_bucket(settings, endpoints), streams, since), unreadable)
        return list(islice((stored for stored in found if reason is None or stored.letter.reason == reason), limit))


def every(settings: Settings, endpoints: Endpoints) -> Iterator[StoredLetter]:
    """Every dead letter in the bucket, newest first. Raises as ``newest`` does: whoever counts them must miss none."""
    with _translated(settings):
        yield from _readable(_stored(_bucket(settings, endpoints), STREAMS, None), None)


def count_by_stream_and_reason(settings: Settings, endpoints: Endpoints) -> dict[tuple[str, str], int]:
    """How many dead letters the bucket holds, by (stream, reason). Reads every object."""
    return dict(Counter((stream_of(stored.letter), stored.letter.reason) for stored in every(settings, endpoints)))


def _bucket(settings: Settings, endpoints: Endpoints) -> Bucket:
    return storage_client(settings.project_id, endpoints).bucket(settings.bucket_name)


def _readable(found: Iterable[StoredLetter | Unreadable], unreadable: list[Unreadable] | None) -> Iterator[StoredLetter]:
    for stored in found:
        if isinstance(stored, StoredLetter):
            yield stored
        elif unreadable is None:
            raise EcomflowError(f"{stored.object_name} is unreadable: {stored.error}.", "Move the object out of dlq/.")
        else:
            unreadable.append(stored)


def _stored(bucket: Bucket, streams: Iterable[str], since: datetime | None) -> Iterator[StoredLetter | Unreadable]:
    by_stream = [_newest_objects(bucket, f"{ROOT}/{stream}/", since) for stream in streams]
    objects = heapq.merge(*by_stream, key=_time_key, reverse=True)
    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        while page := list(islice(objects, _DOWNLOADS_AT_ONCE)):
            for blob, content in zip(page, pool.map(_download, page), strict=True):
                letters, error = _letters(content) if isinstance(content, bytes) else ([], content)
                if error is not None:
                    yield Unreadable(blob.name, error)
                letters.sort(key=lambda letter: letter.failed_at, reverse=True)
                yield from (StoredLetter(letter, blob.name) for letter in letters if since is None or letter.failed_at >= since)


def _download(blob: Blob) -> bytes | str:
    """The object's content, or why it can't be one of ours. One that was deleted since it was listed has none."""
    from google.api_core.exceptions import NotFound

    if (blob.size or 0) > MAX_OBJECT_BYTES:
        return f"{blob.size} bytes are more than any object of dead letters has"
    try:
        # Raw: another's object may claim to be compressed, and then not be.
        return bytes(blob.download_as_bytes(raw_download=True, timeout=30))
    except NotFound:
        return b""


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


def _letters(content: bytes) -> tuple[list[DeadLetter], str | None]:
    """The dead letters in an object, and what is wrong with the first line that is none."""
    letters: list[DeadLetter] = []
    errors: list[str] = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            letters.append(from_line(line))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            errors.append(f"line {number} is no dead letter: {str(error)[:200]}")
    more = f" (and {len(errors) - 1} more lines)" if len(errors) > 1 else ""
    return letters, f"{errors[0]}{more}" if errors else None


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
