"""The storage of the local Pub/Sub: an append-only log of records, which a restart reads back in order.

A record is handed to the operating system before ``append`` returns (write, without fsync): it survives the death of the process,
but not of the machine. Each record is framed by its length and CRC-32. A truncated record at the end of the file, left by a kill,
is dropped. If bytes in the middle are damaged, reading continues with the next complete record: see ``Damage``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import logging
import mmap
import os
import re
import shutil
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from ecomflow.errors import AccessError, UnavailableError

_LOGGER = logging.getLogger(__name__)
_MAGIC = b"ecomflow pubsub log 1\n"
_FRAME = struct.Struct("<II")  # length of the payload in bytes, CRC-32 of the payload


class StoredMessage(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A published message. All its subscriptions share one object.

    ``published`` is in seconds since the epoch; ``body`` is the encoded google.pubsub.v1.PubsubMessage with id and publish time.
    """

    id: int
    published: float
    key: str
    body: bytes


class Started(msgspec.Struct, array_like=True, frozen=True, tag=0):
    """The server started for the ``boot``-th time; message ids below ``next_id`` have been used."""

    boot: int
    next_id: int


class TopicStored(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """A topic was created or updated; ``config`` is the encoded google.pubsub.v1.Topic."""

    config: bytes


class TopicDeleted(msgspec.Struct, array_like=True, frozen=True, tag=2):
    name: str


class SubscriptionStored(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """A subscription was created or updated; ``config`` is the encoded google.pubsub.v1.Subscription."""

    number: int
    config: bytes


class SubscriptionDeleted(msgspec.Struct, array_like=True, frozen=True, tag=4):
    number: int


class Published(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """Messages were added to each of the numbered subscriptions."""

    subscriptions: list[int]
    messages: list[StoredMessage]


class Acknowledged(msgspec.Struct, array_like=True, frozen=True, tag=6):
    subscription: int
    message_ids: list[int]


Record = Started | TopicStored | TopicDeleted | SubscriptionStored | SubscriptionDeleted | Published | Acknowledged


class Damage(msgspec.Struct, frozen=True):
    """The unreadable parts of a log: ``places`` without a complete record, ``lost_bytes`` in total.

    A message in such a place is lost; one whose acknowledgement was there is redelivered. ``copy``: the path of a copy of the
    damaged log, None if there was no space for it. ``orphans``: messages of subscriptions that were in a damaged place.
    """

    places: int
    lost_bytes: int
    copy: str | None
    orphans: int = 0


_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


class Log:
    """The log file of one server. ``replay`` it to the end before the first ``append``."""

    def __init__(self, folder: Path) -> None:
        """Open or create the log in ``folder``, which only one process can use at a time.

        Raises AccessError if the folder can't be written, UnavailableError if another server uses it.
        """
        self.path = folder / "pubsub.log"
        self.size = 0
        self.damage: Damage | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder / "pubsub.lock")
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            message = f"The Pub/Sub data folder {folder} can't be written: {error.strerror}."
            raise AccessError(message, "Choose another folder, or fix its permissions.") from error

    def replay(self) -> Iterator[Record]:
        """All complete records in order. Anything after the last complete one is truncated, and appends continue from there.

        Afterwards ``damage`` says what was skipped. ``rewrite`` the log then, or the next replay finds the same damage again.
        """
        skipped: list[int] = []
        with self.path.open("rb") as file:
            self.size = _check_magic(file, self.path)
        end = os.fstat(self._fd).st_size
        for start, payload in _frames(self._fd, self.size, end):
            if start > self.size:
                skipped.append(start - self.size)
            yield _decode(payload, self.path)
            self.size = start + _FRAME.size + len(payload)
        tail = os.pread(self._fd, _FRAME.size, self.size)
        if self.size < end and not _is_cut_short(tail, end - self.size):
            skipped.append(end - self.size)
        elif self.size < end:
            _LOGGER.warning("%s ended in a record truncated by a kill: dropped its %d bytes", self.path, end - self.size)
        if skipped:
            self.damage = Damage(len(skipped), sum(skipped), self._keep_copy())
            _LOGGER.error("%s is damaged in %d places: skipped %d bytes", self.path, len(skipped), sum(skipped))
        os.ftruncate(self._fd, self.size)
        if not self.size:
            self._write(_MAGIC)

    def _keep_copy(self) -> str | None:
        """Copy the log in its folder, under the first unused name."""
        copy = next(path for number in itertools.count(1) if not (path := self.path.with_suffix(f".damaged-{number}")).exists())
        try:
            shutil.copy(self.path, copy)
        except OSError as error:
            _LOGGER.warning("the damaged log %s could not be copied: %s", self.path, error)
            copy.unlink(missing_ok=True)
            return None
        return str(copy)

    def append(self, record: Record) -> None:
        """Hand ``record`` to the operating system. If it raises OSError, the log is unchanged."""
        self._write(_frame(record))

    def rewrite(self, records: Iterable[Record]) -> None:
        """Replace the whole log by ``records``; after a kill or an OSError meanwhile, the old one is still in place."""
        scratch = self.path.with_suffix(".tmp")
        try:
            with scratch.open("wb") as file:
                os.fchmod(file.fileno(), stat.S_IMODE(os.fstat(self._fd).st_mode))
                file.write(_MAGIC)
                for record in records:
                    file.write(_frame(record))
            fd = os.open(scratch, os.O_RDWR)
            scratch.replace(self.path)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise
        os.close(self._fd)
        self._fd, self.size, self.damage = fd, os.fstat(fd).st_size, None

    def close(self) -> None:
        os.close(self._fd)
        os.close(self._lock)

    def _write(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], self.size + written)
        except OSError:
            with contextlib.suppress(OSError):  # The next write starts at the same offset, so leftover bytes do no harm.
                os.ftruncate(self._fd, self.size)
            raise
        self.size += len(data)


def _lock(path: Path) -> int:
    """Lock ``path`` until the process ends, however it ends."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno != errno.EWOULDBLOCK:
            raise
        message = f"The Pub/Sub data folder {path.parent} is in use by another server."
        raise UnavailableError(message, "Stop that server first, or choose another folder.") from error
    return fd


def _check_magic(file: BinaryIO, path: Path) -> int:
    """The offset of the first record; 0 if the log is new, or its first line was truncated by a kill."""
    magic = file.read(len(_MAGIC))
    if magic != _MAGIC and not _MAGIC.startswith(magic):
        raise UnavailableError(
            f"{path} is not a log of this version of the local Pub/Sub.", "Move the file away; its messages are then lost."
        )
    return len(magic) if magic == _MAGIC else 0


def _frames(fd: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The offset and payload of each complete frame from ``start`` on."""
    if start >= end:
        return
    with mmap.mmap(fd, end, access=mmap.ACCESS_READ) as data:
        at: int | None = start
        while at is not None and at < end:
            payload = _payload(data, at)
            if payload is None:
                at = _next_frame(data, at + 1)
            else:
                yield at, payload
                at += _FRAME.size + len(payload)


def _payload(data: mmap.mmap, at: int) -> bytes | None:
    """The payload of the frame at ``at``; None if there is none. Records are never empty, so a run of zeros is not a frame."""
    if at + _FRAME.size >= len(data):
        return None
    length, crc = _FRAME.unpack_from(data, at)
    begin = at + _FRAME.size
    if not 0 < length <= len(data) - begin:
        return None
    payload = data[begin : begin + length]
    return payload if zlib.crc32(payload) == crc else None


# How a record's payload starts: an array of two or three elements, of which the first is the record's tag.
_RECORD_START = re.compile(rb"[\x92\x93][\x00-\x06]", re.DOTALL)
# When searching for a frame, a larger one must be followed by another frame, which quickly rules out bytes that only look like a
# length.
_LARGE = 2**20


def _next_frame(data: mmap.mmap, start: int) -> int | None:
    """The offset of the first complete frame from ``start`` on."""
    for found in _RECORD_START.finditer(data, start + _FRAME.size):
        at = found.start() - _FRAME.size
        length, _ = _FRAME.unpack_from(data, at)
        after = found.start() + length
        if after > len(data) or (length > _LARGE and after < len(data) and not _RECORD_START.match(data, after + _FRAME.size)):
            continue
        if _payload(data, at) is not None:
            return at
    return None


def _is_cut_short(header: bytes, left: int) -> bool:
    """Whether the last ``left`` bytes of a log, which start with ``header``, are a truncated record."""
    return left < _FRAME.size or _FRAME.unpack(header)[0] > left - _FRAME.size


def _frame(record: Record) -> bytes:
    payload = _ENCODER.encode(record)
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _decode(payload: bytes, path: Path) -> Record:
    try:
        return _DECODER.decode(payload)
    except msgspec.MsgspecError as error:
        message = f"{path} has a record that this version can't read: {error}."
        raise UnavailableError(message, "Move the file away; its messages are then lost.") from error
