"""Records go into an append-only file; after a restart the same records come out, in order: what the local Pub/Sub remembers.

A record is handed to the operating system before ``append`` returns (write, without fsync): it survives the death of the process,
not of the machine. Each record is framed by its length and CRC-32, so that one cut short by a kill is recognised and dropped.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
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


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A published message; one object however many subscriptions hold it.

    ``published`` is in seconds since the epoch; ``body`` is the encoded google.pubsub.v1.PubsubMessage with id and publish time.
    """

    id: int
    published: float
    key: str
    body: bytes


class Started(msgspec.Struct, array_like=True, frozen=True, tag=0):
    """The server came up for the ``boot``-th time; message ids below ``next_id`` are used."""

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
    messages: list[Message]


class Acknowledged(msgspec.Struct, array_like=True, frozen=True, tag=6):
    subscription: int
    message_ids: list[int]


Record = Started | TopicStored | TopicDeleted | SubscriptionStored | SubscriptionDeleted | Published | Acknowledged

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


class Log:
    """The log file of one server. ``replay`` it to the end before the first ``append``."""

    def __init__(self, folder: Path) -> None:
        """Open or create the log in ``folder``, which only one process may hold at a time.

        Raises AccessError where the folder cannot be written, UnavailableError where another server holds it.
        """
        self.path = folder / "pubsub.log"
        self.size = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder / "pubsub.lock")
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            message = f"The Pub/Sub data folder {folder} cannot be written: {error.strerror}."
            raise AccessError(message, "Give another folder, or mend its permissions.") from error

    def replay(self) -> Iterator[Record]:
        """Every whole record in order. What follows the last whole one is cut off, and appending goes on from there."""
        with self.path.open("rb") as file:
            self.size = _check_magic(file, self.path)
            for payload in _read_frames(file):
                yield _decode(payload, self.path)
                self.size += _FRAME.size + len(payload)
        torn = os.fstat(self._fd).st_size - self.size
        if torn:
            _LOGGER.warning("%s ended in a record cut short by a kill: dropped its %d bytes", self.path, torn)
        os.ftruncate(self._fd, self.size)
        if not self.size:
            self._write(_MAGIC)

    def append(self, record: Record) -> None:
        """Hand ``record`` to the operating system. Raises OSError, and then the log is as it was before."""
        self._write(_frame(record))

    def rewrite(self, records: Iterable[Record]) -> None:
        """Replace the whole log by ``records``; a kill or an OSError on the way leaves the old one in place."""
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
        self._fd, self.size = fd, os.fstat(fd).st_size

    def close(self) -> None:
        os.close(self._fd)
        os.close(self._lock)

    def _write(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], self.size + written)
        except OSError:
            with contextlib.suppress(OSError):  # The next write starts at the same place, so what is left behind does no harm.
                os.ftruncate(self._fd, self.size)
            raise
        self.size += len(data)


def _lock(path: Path) -> int:
    """Hold ``path`` until the process ends, however it ends."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno != errno.EWOULDBLOCK:
            raise
        message = f"The Pub/Sub data folder {path.parent} is in use by another server."
        raise UnavailableError(message, "Stop that one first, or give another folder.") from error
    return fd


def _check_magic(file: BinaryIO, path: Path) -> int:
    """The offset of the first record: 0 where the log is new, or was killed before its first line was whole."""
    magic = file.read(len(_MAGIC))
    if magic != _MAGIC and not _MAGIC.startswith(magic):
        raise UnavailableError(
            f"{path} is not a log of this version of the local Pub/Sub.", "Move it away; its messages are then gone."
        )
    return len(magic) if magic == _MAGIC else 0


def _read_frames(file: BinaryIO) -> Iterator[bytes]:
    """The payloads of the whole frames from where ``file`` stands."""
    end = os.fstat(file.fileno()).st_size
    while len(header := file.read(_FRAME.size)) == _FRAME.size:
        length, crc = _FRAME.unpack(header)
        if not 0 < length <= end - file.tell():  # No record is empty; a run of zeros would else pass for one.
            return
        payload = file.read(length)
        if zlib.crc32(payload) != crc:
            return
        yield payload


def _frame(record: Record) -> bytes:
    payload = _ENCODER.encode(record)
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _decode(payload: bytes, path: Path) -> Record:
    try:
        return _DECODER.decode(payload)
    except msgspec.MsgspecError as error:
        message = f"{path} has a record that this version cannot read: {error}."
        raise UnavailableError(message, "Move the file away; its messages are then gone.") from error
