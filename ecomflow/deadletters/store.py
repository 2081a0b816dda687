"""Reads dead letters from the bucket: a page or all of them, newest first, or new ones as they arrive.

Objects are in folders by stream and minute. The newest are found by walking the folders backwards in time, without listing the
whole bucket.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ecomflow.config import Settings
from ecomflow.contract.dead_letter import ROOT, DeadLetter, from_line
from ecomflow.deadletters.fingerprints import fingerprint
from ecomflow.errors import EcomflowError, NotFoundError
from ecomflow.gcp.lookalikes import remedy_for_missing
from ecomflow.gcp.target import Target
from ecomflow.metrics.moments import LEAST_STEP

if TYPE_CHECKING:
    from google.api_core.page_iterator import HTTPIterator
    from google.cloud.storage import Blob

_HOURS, _MINUTES = 4, 5  # folder levels below a stream's: year, month, day, hour, minute
_DOWNLOADS_AT_ONCE = 8

# The folder is the minute of refusal, but the object is written with its bundle. A bucket that does not respond can delay that by
# the writer's timeout of two minutes, and a loaded pipeline by more.
_LATE = timedelta(minutes=10)
_POLL_SECONDS = 1.0
_GONE = 410  # the status of an object without its content, on the local stack

# Larger than any object that the pipeline writes: a bundle of 64 MB with every byte escaped. A larger one is not from ecomflow.
MAX_OBJECT_BYTES = 512 * 2**20

OnProgress = Callable[[int], None]


class DeadLetterFilter(msgspec.Struct, frozen=True):
    """Which dead letters to select; None matches all, and so does ``()`` of ``streams``. ``event_id``: the id that the event has,
    or would have, in the tables; ``fingerprint``: the ``id`` of a Fingerprint; ``since``: the earliest ``failed_at``.
    """

    streams: tuple[str, ...] = ()
    reason: str | None = None
    since: datetime | None = None
    event_id: str | None = None
    fingerprint: str | None = None


ANY = DeadLetterFilter()


def replay_command(settings: Settings, selected: DeadLetterFilter) -> str:
    """The command that replays the dead letters of ``selected``."""
    words = ["ecomflow dlq replay", *(f"--stream {stream}" for stream in selected.streams if len(selected.streams) == 1)]
    words += [f"--reason {selected.reason}"] if selected.reason else []
    words += [f"--fingerprint {selected.fingerprint}"] if selected.fingerprint else []
    words += [f"--project {settings.project}"] if settings.project is not None else []
    return " ".join(words)


class StoredDeadLetter(msgspec.Struct, frozen=True):
    """A dead letter and the object that holds it."""

    letter: DeadLetter
    object_name: str

    @property
    def stream(self) -> str:
        """The stream in whose folder the object is: the event type, or ``unknown``."""
        return self.object_name.split("/", 2)[1]


class Unreadable(msgspec.Struct, frozen=True):
    """An object under ``dlq/``, or a line of it, that is not a dead letter: from another program, or damaged."""

    object_name: str
    error: str


class StoredObject(msgspec.Struct, frozen=True):
    """An object under ``dlq/``: its lines unchanged, and the dead letters among them, each with its line number from 0.

    ``error``: what else the object contains, or why it can't be read. ``kept_until``: until when Cloud Storage lets nobody delete
    or replace it, for a hold the last day of the calendar; None if nothing forbids it.
    """

    name: str
    generation: int
    lines: list[bytes]
    letters: list[tuple[int, DeadLetter]]
    error: str | None
    kept_until: datetime | None = None


def newest(
    target: Target,
    *,
    limit: int,
    selected: DeadLetterFilter = ANY,
    unreadable: list[Unreadable] | None = None,
    on_progress: OnProgress | None = None,
) -> list[StoredDeadLetter]:
    """At most ``limit`` dead letters of ``selected``, newest first. Raises the same errors as ``letters``."""
    found = letters(target, selected, few=True, unreadable=unreadable, on_progress=on_progress)
    return list(islice(found, limit))


def letters(
    target: Target,
    selected: DeadLetterFilter = ANY,
    *,
    few: bool = False,
    unreadable: list[Unreadable] | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[StoredDeadLetter]:
    """The dead letters of ``selected``, newest first, with the content of a few objects in memory at a time.

    ``few``: the caller stops after a few, so list minute by minute rather than hour by hour. ``unreadable``, if given, collects
    objects that can't be read as dead letters. ``on_progress`` gets the number of objects read so far. Raises NotFoundError
    (bucket), AccessError and UnavailableError; and, without ``unreadable``, EcomflowError at the first unreadable object.
    """
    for stored in objects(target, selected, few=few, unreadable=unreadable, on_progress=on_progress):
        chosen = [letter for _, letter in stored.letters if is_chosen(letter, selected)]
        chosen.sort(key=lambda letter: letter.failed_at, reverse=True)
        yield from (StoredDeadLetter(letter, stored.name) for letter in chosen)


def objects(
    target: Target,
    selected: DeadLetterFilter,
    *,
    few: bool = False,
    unreadable: list[Unreadable] | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[StoredObject]:
    """The objects that can contain dead letters of ``selected``, latest minute first. Otherwise like ``letters``."""
    with reading(target):
        for number, stored in enumerate(_objects(_Bucket(target), selected, few), start=1):
            if stored.error is not None:
                _note_unreadable(Unreadable(stored.name, stored.error), unreadable)
            yield stored
            if on_progress is not None:
                on_progress(number)


def streams(target: Target) -> tuple[str, ...]:
    """The streams that have dead letters. Raises the same errors as ``letters``."""
    with reading(target):
        return tuple(folder.split("/")[1] for folder in _folders(_Bucket(target), ANY))


def is_chosen(letter: DeadLetter, selected: DeadLetterFilter) -> bool:
    """Whether ``letter``, found in one of the selected streams, matches ``selected``."""
    return (
        (selected.reason is None or letter.reason == selected.reason)
        and (selected.since is None or letter.failed_at >= selected.since)
        and (selected.event_id is None or selected.event_id == (letter.event_id or letter.message_id))
        and (selected.fingerprint is None or selected.fingerprint == fingerprint(letter).id)
    )


def follow(
    target: Target,
    selected: DeadLetterFilter,
    *,
    limit: int,
    unreadable: list[Unreadable],
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Iterator[StoredDeadLetter]:
    """The last ``limit`` dead letters of ``selected``, oldest first; then new ones as they arrive, forever.

    Lists the minutes in which an object can still appear, once a second for each stream. Raises the same errors as ``letters``.
    """
    bucket = _Bucket(target)
    begin = now() - _LATE
    with reading(target):
        seen = {listed.name for listed in _since(bucket, selected, begin)}
    first = newest(target, limit=limit, selected=selected, unreadable=unreadable)
    seen |= {stored.object_name for stored in first}
    yield from reversed(first)
    while True:
        begin, before = now() - _LATE, begin
        with reading(target):
            recent = list(_since(bucket, selected, begin))
            if begin < before - timedelta(seconds=LEAST_STEP):  # The clock was set back: the objects since then are not new.
                seen |= {listed.name for listed in recent}
            new = [listed for listed in sorted(recent, key=_time_key) if listed.name not in seen]
            arrived = [_object(listed, _download(bucket, listed)) for listed in new]
        seen = {listed.name for listed in recent}
        for stored in arrived:
            if stored.error is not None:
                unreadable.append(Unreadable(stored.name, stored.error))
            yield from (StoredDeadLetter(letter, stored.name) for _, letter in stored.letters if is_chosen(letter, selected))
        sleep(_POLL_SECONDS)


def _note_unreadable(found: Unreadable, unreadable: list[Unreadable] | None) -> None:
    if unreadable is None:
        raise EcomflowError(f"{found.object_name} is unreadable: {found.error}.", "Move the object out of dlq/.")
    unreadable.append(found)


class _Bucket:
    """The bucket, read with the patience that its service deserves."""

    def __init__(self, target: Target) -> None:
        from ecomflow.infra.requests import storage_options

        self._bucket, self._options = target.bucket, storage_options(target.storage_service)

    def listing(self, prefix: str, **more: Any) -> HTTPIterator:
        return self._bucket.list_blobs(prefix=prefix, **more, **self._options)

    def content(self, listed: _Listed) -> bytes:
        # Raw: an object from another program may claim to be compressed when it is not.
        blob = self._bucket.blob(listed.name, generation=listed.generation)
        return bytes(blob.download_as_bytes(raw_download=True, **self._options))


class _Listed(NamedTuple):
    """The parts of a listing that are needed: few, because an hour can have thousands of objects."""

    name: str
    generation: int
    size: int
    kept_until: datetime | None


def _objects(bucket: _Bucket, selected: DeadLetterFilter, few: bool) -> Iterator[StoredObject]:
    # A filter by reason, event id or fingerprint may have to read many objects.
    depth = _MINUTES if few and selected.reason is selected.event_id is selected.fingerprint is None else _HOURS
    by_stream = [_newest_objects(bucket, folder, selected.since, depth) for folder in _folders(bucket, selected)]
    found = heapq.merge(*by_stream, key=_time_key, reverse=True)
    pool = ThreadPoolExecutor(_DOWNLOADS_AT_ONCE)
    try:
        while page := list(islice(found, _DOWNLOADS_AT_ONCE)):
            for listed, content in zip(page, pool.map(lambda one: _download(bucket, one), page), strict=True):
                yield _object(listed, content)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # the caller has enough, or was interrupted


def _folders(bucket: _Bucket, selected: DeadLetterFilter) -> list[str]:
    """The folders of the selected streams: ``dlq/order/``. Of all, those that exist: also of types without a contract today."""
    if selected.streams:
        return [f"{ROOT}/{stream}/" for stream in selected.streams]
    listing = bucket.listing(f"{ROOT}/", delimiter="/")
    for _ in listing:  # the folders are known once the pages are read; objects at this level are not from ecomflow
        pass
    return sorted(listing.prefixes)


def _since(bucket: _Bucket, selected: DeadLetterFilter, moment: datetime) -> Iterator[_Listed]:
    """The objects of the selected streams from the minute of ``moment`` on."""
    for folder in _folders(bucket, selected):
        yield from _list(bucket, folder, moment)


def _list(bucket: _Bucket, folder: str, since: datetime | None) -> list[_Listed]:
    """The objects anywhere under ``folder``, from the minute of ``since`` on."""
    stream = "/".join(folder.split("/", 2)[:2])
    first = None if since is None else f"{stream}/{since.astimezone(UTC):%Y/%m/%d/%H/%M}/"
    found = bucket.listing(folder, start_offset=first)
    return [_Listed(blob.name, blob.generation, blob.size or 0, _kept_until(blob)) for blob in found]


def _kept_until(blob: Blob) -> datetime | None:
    """Until when the bucket's retention policy, the object's own, or a hold forbids to delete it.

    https://cloud.google.com/storage/docs/bucket-lock, https://cloud.google.com/storage/docs/object-holds
    """
    if blob.temporary_hold or blob.event_based_hold:
        return datetime.max.replace(tzinfo=UTC)
    until: datetime | None = blob.retention_expiration_time
    return until


def _download(bucket: _Bucket, listed: _Listed) -> bytes | str:
    """The object's content, or why it can't be read, as a string. Empty if it was deleted or rewritten since the listing."""
    from google.api_core.exceptions import GoogleAPICallError, NotFound
    from google.cloud.storage.exceptions import DataCorruption

    if listed.size > MAX_OBJECT_BYTES:
        return f"its size, {listed.size} bytes, exceeds that of any object of dead letters ({MAX_OBJECT_BYTES} bytes)"
    try:
        return bucket.content(listed)
    except NotFound:
        return b""
    except DataCorruption:
        return "its content does not match its checksum"
    except GoogleAPICallError as error:
        if error.code != _GONE:
            raise
        return "its content is missing"


def _newest_objects(bucket: _Bucket, folder: str, since: datetime | None, depth: int, level: int = 0) -> Iterator[_Listed]:
    """The objects under ``folder``, which is ``level`` levels below a stream's folder, latest minute first."""
    if level == depth:
        yield from sorted(_list(bucket, folder, since), reverse=True)
        return
    listing = bucket.listing(folder, delimiter="/")
    for _ in listing:  # the folders are known once the pages are read; objects at this level are not from ecomflow
        pass
    for inner in sorted(listing.prefixes, reverse=True):
        if since is None or _time_of(inner) >= since.astimezone(UTC).strftime("%Y/%m/%d/%H/%M")[: len(_time_of(inner))]:
            yield from _newest_objects(bucket, inner, since, depth, level + 1)


def _time_of(folder: str) -> str:
    """``2025/12/01`` of ``dlq/order/2025/12/01/``: the time in the folder's name, at its precision."""
    return folder.rstrip("/").split("/", 2)[2]


def _time_key(listed: _Listed) -> str:
    return listed.name.split("/", 2)[2]


def _object(listed: _Listed, content: bytes | str) -> StoredObject:
    """The dead letters in an object, and the error of the first line that is not one."""
    if isinstance(content, str):
        return StoredObject(listed.name, listed.generation, [], [], content, listed.kept_until)
    lines = content.splitlines()
    found: list[tuple[int, DeadLetter]] = []
    errors: list[str] = []
    for number, line in enumerate(lines):
        try:
            found.append((number, from_line(line)))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            errors.append(f"line {number + 1} is not a dead letter: {str(error)[:200]}")
    more = f" (and {len(errors) - 1} more lines)" if len(errors) > 1 else ""
    first = f"{errors[0]}{more}" if errors else None
    return StoredObject(listed.name, listed.generation, lines, found, first, listed.kept_until)


@contextmanager
def reading(target: Target) -> Iterator[None]:
    """Translate the errors raised inside the block while the bucket is read.

    A 404 means a missing bucket only if the bucket does not exist: a service can also return it for a damaged object.
    """
    from google.api_core.exceptions import NotFound

    from ecomflow.gcp.errors import FAILURES, google_errors, is_missing, message_of
    from ecomflow.infra.requests import storage_options

    name = target.settings.bucket_name

    def about_an_object(cause: Exception) -> EcomflowError | None:
        with suppress(*FAILURES):
            if isinstance(cause, NotFound) and target.bucket.exists(**storage_options(target.storage_service)):
                sentence = f"Bucket {name} exists, but an object that it lists was not found: {message_of(cause)}"
                return EcomflowError(sentence, "Run the command again.")
        if is_missing(cause):
            return NotFoundError(f"Bucket {name} does not exist.", remedy_for_missing(target, "bucket"))
        return None

    with google_errors(target.storage_service, f"bucket {name}", "storage.objects.list", decide=about_an_object):
        yield
