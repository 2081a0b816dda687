"""A publisher's ledger: a file of the events that it publishes and of Pub/Sub's confirmations.

It has two kinds of JSON lines. A LedgerEntry is written before its event is sent; a Confirmation of a whole request after Pub/Sub
has responded. Whether an event without a confirmation was published is unknown: its publisher was killed or got no response.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from urllib.parse import quote

import msgspec

from ecomflow.config import read_stack_endpoints
from ecomflow.errors import AccessError, ConfigError
from ecomflow.gcp.target import Target

log = logging.getLogger(__name__)


class LedgerEntry(msgspec.Struct, frozen=True):
    """An event and its expected outcome. ``message_id`` is None until Pub/Sub has confirmed it. ``lists``: the number of elements
    of each list of a valid event that has a table of its own, by the path of the list, as ``items``.
    """

    event_id: str | None
    message_id: str | None
    event_type: str
    fault: str | None
    expected_reason: str | None
    lists: dict[str, int] = {}


class Confirmation(msgspec.Struct, frozen=True):
    """The message ids that Pub/Sub assigned, by ``event_id``."""

    confirmed: dict[str, str]


_CONFIRMATION = b'{"confirmed"'
_ENCODER = msgspec.json.Encoder()


class LedgerWriter:
    """Appends to one ledger. Thread-safe; several processes can each have a writer for the same file."""

    def __init__(self, path: Path) -> None:
        """Open the file, creating its folder if necessary. Raises AccessError if it can't be opened for appending.

        An incomplete last line, left by a full disk or a kill, is removed, with a warning in the log.
        """
        self.path = path
        self._lock = Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise AccessError(f"The ledger {path} can't be written: {error.strerror}.", "Choose another path.") from error
        with self._alone():
            if torn := self._cut_torn_line():
                log.warning("The last line of the ledger %s was incomplete: removed its %d bytes.", path, torn)

    def close(self) -> None:
        os.close(self._file)

    def intend(self, entries: Sequence[LedgerEntry]) -> None:
        """Write ``entries`` before they are sent. Raises AccessError if the disk is full; then none of them is in the ledger."""
        self._append(_ENCODER.encode_lines(entries))

    def confirm(self, message_ids: dict[str, str]) -> None:
        """Write that Pub/Sub has accepted the events, ``message_ids`` by ``event_id``. Raises the same errors as ``intend``."""
        self._append(_ENCODER.encode(Confirmation(message_ids)) + b"\n")

    def _append(self, lines: bytes) -> None:
        with self._alone():
            try:
                if os.write(self._file, lines) < len(lines):
                    raise OSError(0, "the disk is full: only part of a line was written")
            except OSError as error:
                self._cut_torn_line()
                message = f"The ledger {self.path} can't be written: {error.strerror}."
                raise AccessError(message, "Free disk space, or choose another path.") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _cut_torn_line(self) -> int:
        """Remove an incomplete last line; returns the number of bytes removed."""
        size = os.fstat(self._file).st_size
        whole = _end_of_whole_lines(self._file, size)
        if whole < size:
            os.ftruncate(self._file, whole)
        return size - whole


def _end_of_whole_lines(file: int, size: int) -> int:
    """The position after the last line feed of the file's first ``size`` bytes."""
    step = 1 << 16
    for end in range(size, 0, -step):
        start = max(0, end - step)
        if (at := os.pread(file, end - start, start).rfind(b"\n")) >= 0:
            return start + at + 1
    return 0


def default_ledger(target: Target) -> Path | None:
    """The path of the local stack's ledger, which ``ecomflow publish`` writes; None for a project or the user's own emulator.

    It is in the data folder of the local Pub/Sub, so that ``infra down --with-data`` deletes it together with its events. There
    is one for each topic and dataset.
    """
    settings = target.settings
    data = settings.state_path / "pubsub"
    own = read_stack_endpoints(settings.state_path) if settings.is_local else None
    if own is None or own.pubsub != target.endpoints.pubsub or not data.is_dir():
        return None
    return data / "ledger" / f"{quote(settings.topic, safe='')}.{settings.dataset}.jsonl"


def read_ledger(path: Path) -> dict[str, LedgerEntry]:
    """The entries by the ``event_id`` of the fact tables; an event that was published twice has one entry.

    Entries that any publisher has confirmed have a message id. An unterminated last line is still being written and is ignored.
    Raises ConfigError, with the line number, if the file can't be read or is not a ledger.
    """
    entries: dict[str, LedgerEntry] = {}
    entry_of, confirmation_of = msgspec.json.Decoder(LedgerEntry).decode, msgspec.json.Decoder(Confirmation).decode
    number = 0
    try:
        with path.open("rb") as lines:
            for line in lines:
                number += 1
                if not line.endswith(b"\n"):
                    break
                if line.startswith(_CONFIRMATION):
                    _confirm(entries, confirmation_of(line))
                else:
                    _add(entries, entry_of(line))
    except OSError as error:
        raise ConfigError(f"The ledger {path} can't be read: {error.strerror}.", "Choose another file with --ledger.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not a ledger: line {number}: {error}.", "Choose a file that ecomflow publish --ledger has written."
        ) from error
    return entries


def _add(entries: dict[str, LedgerEntry], entry: LedgerEntry) -> None:
    key = entry.event_id or entry.message_id or ""
    before = entries.get(key)
    if before is None or before.message_id is None or entry.message_id is not None:
        entries[key] = entry


def _confirm(entries: dict[str, LedgerEntry], confirmation: Confirmation) -> None:
    for event_id, message_id in confirmation.confirmed.items():
        if (entry := entries.get(event_id)) is not None and entry.message_id is None:
            entries[event_id] = msgspec.structs.replace(entry, message_id=message_id)
