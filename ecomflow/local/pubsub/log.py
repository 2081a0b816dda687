"""The storage of the local Pub/Sub: an append-only log of records, which a restart reads back in order.

The bodies of messages are kept nowhere else: memory has a ``Message`` for each, by which ``read`` finds its body in the file.

A record is handed to the operating system before ``append`` returns (write, without fsync): it survives the death of the process,
but not of the machine. Each record is framed by its length and CRC-32. A truncated record at the end of the file, left by a kill,
is dropped. Other damage (a bad disk, a power cut) is skipped up to the next complete record and reported as ``Damage``; the next
``rewrite`` keeps the damaged file under a name of its own.
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
import sys
import time
import zlib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

import msgspec

from ecomflow.errors import AccessError, UnavailableError

_LOGGER = logging.getLogger(__name__)
_MAGIC = b"ecomflow pubsub log 1\n"
_ANY_VERSION = re.compile(rb"ecomflow pubsub log \d+\n")
_FRAME = struct.Struct("<II")  # length of the payload in bytes, CRC-32 of the payload
_READ_AHEAD = 2**17  # Bodies are read so many bytes at once: the next ones are mostly behind the first.
# The longest record that is searched for behind damage: one of ten messages of 10 MB.
_LONGEST = 2**27 - 1


class StoredMessage(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A published message in the log.

    ``published`` is in seconds since the epoch; ``body`` is the encoded google.pubsub.v1.PubsubMessage with id and publish time.
    """

    id: int
    published: float
    key: str
    body: bytes


class Message(msgspec.Struct, gc=False):
    """A published message in memory, which all its subscriptions share: its body is ``size`` bytes of the log from ``at`` on."""

    id: int
    published: float
    key: str
    size: int
    at: int


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


class Damage(msgspec.Struct, frozen=True):
    """What a replay could not read: ``lost_bytes`` in total, in ``places`` that each had one or more records.

    ``found`` is in seconds since the epoch. ``copy`` is the path of the damaged file, None if it could not be set aside yet and
    is still the log. ``orphans``: messages whose subscription was among the damaged records.
    """

    found: float
    places: int
    lost_bytes: int
    copy: str | None = None
    orphans: int = 0


class Damaged(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """An earlier replay found ``damage``, which is reported until its copy is deleted."""

    damage: Damage


Record = Started | TopicStored | TopicDeleted | SubscriptionStored | SubscriptionDeleted | Published | Acknowledged | Damaged

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError)
# A record is a msgpack array of its tag and its fields. https://github.com/msgpack/msgpack/blob/master/spec.md#array-format-family
_STARTS = tuple(bytes((0x91 + len(kind.__struct_fields__), kind.__struct_config__.tag)) for kind in get_args(Record))
# The highest byte of a length up to _LONGEST; after it come the checksum and the start of a record.
_ANY_START = re.compile(b"[\0-%c](?=.{4}(?:%b))" % (_LONGEST >> 24, b"|".join(map(re.escape, _STARTS))), re.DOTALL)


class Log:
    """The log file of one server. ``replay`` it to the end before the first ``append``."""

    def __init__(self, folder: Path) -> None:
        """Open or create the log in ``folder``, which only one process can use at a time.

        Raises AccessError if the folder can't be written, UnavailableError if another server uses it.
        """
        self.path = folder / "pubsub.log"
        self.size = 0
        self._damage: list[Damage] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder / "pubsub.lock")
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            message = f"The Pub/Sub data folder {folder} can't be written: {error.strerror}."
            raise AccessError(message, "Choose another folder, or fix its permissions.") from error

    def replay(self) -> Iterator[tuple[Record, int]]:
        """All complete records in order, except those about damage, and where each stops. Appends continue behind the last one.

        Raises UnavailableError if the file is not a log, or one of another version.
        """
        data = _mapped(self.path)
        at = _first_record(data, self.path)
        places = lost_bytes = 0
        for start, stop, record in _records(data, at, self.path):
            places, lost_bytes = places + (start > at), lost_bytes + start - at
            at = stop
            if isinstance(record, Damaged):
                self._damage.append(record.damage)
            else:
                yield record, stop
        rest = len(data) - at
        if rest and not _is_cut_short(data[at:]):
            places, lost_bytes, at = places + 1, lost_bytes + rest, len(data)
        elif rest:
            _LOGGER.warning("%s ended in a record truncated by a kill: dropped its %d bytes", self.path, rest)
        if places:
            self._damage.append(Damage(time.time(), places, lost_bytes))
        self.size = at
        os.ftruncate(self._fd, self.size)
        if not self.size:
            self._write(_MAGIC)

    @property
    def is_damaged(self) -> bool:
        """Whether the file has damaged bytes, which it has until it is rewritten."""
        return any(damage.copy is None for damage in self._damage)

    def damage(self) -> list[Damage]:
        """The damage found by this replay and by earlier ones, except that whose copy was deleted."""
        return [damage for damage in self._damage if damage.copy is None or Path(damage.copy).exists()]

    def note_orphans(self, amount: int) -> None:
        """Add to the damage that was just found that ``amount`` messages lost their subscription."""
        self._damage[-1] = msgspec.structs.replace(self._damage[-1], orphans=amount)

    def append(self, *records: Record) -> list[int]:
        """Hand ``records`` to the operating system; returns where each stops. If it raises OSError, the log is unchanged."""
        frames, stops = bytearray(), []
        for record in records:
            _add_frame(frames, record)
            stops.append(self.size + len(frames))
        self._write(frames)
        return stops

    def read(self, messages: Iterable[Message]) -> list[bytes]:
        """The bodies of ``messages``. Raises OSError, also if the file has become shorter."""
        bodies: list[bytes] = []
        data, start = b"", 0
        for message in messages:
            at = message.at - start
            if at < 0 or at + message.size > len(data):
                at, start = 0, message.at
                data = os.pread(self._fd, max(message.size, _READ_AHEAD), start)
                if len(data) < message.size:
                    raise OSError(errno.EIO, "it is shorter than before")
            bodies.append(data[at : at + message.size])
        return bodies

    def rewrite(self, records: Iterable[Record]) -> Iterable[int]:
        """Replace the whole log by ``records`` and those about damage; a damaged file is kept under a name of its own.

        Returns where the bodies of the messages in ``records`` are now, in their order. After a kill or an OSError meanwhile, the
        old log is still in place.
        """
        scratch, copy = self.path.with_suffix(".tmp"), str(_free_name(self.path)) if self.is_damaged else None
        known = [msgspec.structs.replace(damage, copy=damage.copy or copy) for damage in self.damage()]
        places = array("Q")
        try:
            with scratch.open("wb") as file:
                os.fchmod(file.fileno(), stat.S_IMODE(os.fstat(self._fd).st_mode))
                stop = file.write(_MAGIC)
                frame = bytearray()
                for record in itertools.chain(records, map(Damaged, known)):
                    frame.clear()
                    _add_frame(frame, record)
                    stop += file.write(frame)
                    if isinstance(record, Published):
                        places.extend(message.at for message in place(record, stop))
            if copy:
                _keep(self.path, Path(copy))
            fd = os.open(scratch, os.O_RDWR)
            scratch.replace(self.path)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise
        os.close(self._fd)
        self._fd, self.size, self._damage = fd, os.fstat(fd).st_size, known
        return places

    def close(self) -> None:
        os.close(self._fd)
        os.close(self._lock)

    def _write(self, data: bytes | bytearray) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.pwrite(self._fd, rest, self.size + len(data) - len(rest)) :]
        except OSError:
            with contextlib.suppress(OSError):  # The next write starts at the same offset, so leftover bytes do no harm.
                os.ftruncate(self._fd, self.size)
            raise
        self.size += len(data)


def place(record: Published, stop: int) -> list[Message]:
    """The messages of ``record``, which stops at the offset ``stop`` of the log: the body is the last part of each."""
    placed = []
    for message in reversed(record.messages):
        size = len(message.body)
        placed.append(Message(message.id, message.published, sys.intern(message.key), size, stop - size))
        stop -= size + _size_before_body(message)
    placed.reverse()
    return placed


def _size_before_body(message: StoredMessage) -> int:
    """How many bytes of an encoded message precede its body: the other fields, and the body's length.

    https://github.com/msgpack/msgpack/blob/master/spec.md#bin-format-family
    """
    size = len(message.body)
    length_bytes = 2 if size < 2**8 else 3 if size < 2**16 else 5
    return len(_ENCODER.encode((message.id, message.published, message.key))) + length_bytes


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


def damage_sentence(damage: Damage) -> str:
    """What was found, what it means, and what to do."""
    places = "1 place" if damage.places == 1 else f"{damage.places:,} places"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(damage.found))
    orphans = f", including subscriptions with {damage.orphans:,} messages" if damage.orphans else ""
    copy = (
        f"The damaged log is kept as {damage.copy}; this message is shown until you delete that file."
        if damage.copy
        else "There was no disk space to set the damaged log aside; free some, and run: ecomflow infra down, ecomflow infra up"
    )
    return (
        f"The log of the local Pub/Sub was damaged in {places}: {damage.lost_bytes:,} bytes were skipped{orphans}, "
        f"found on {when}. Messages in them are missing, or are delivered again if their acknowledgement was there; all others "
        f"are intact. To see what is missing, run: ecomflow reconcile. {copy}"
    )


def _free_name(path: Path) -> Path:
    """An unused name beside ``path``, or one that is already a link to it, left by a kill before the log was replaced."""
    names = (path.with_name(f"{path.stem}.damaged-{number}{path.suffix}") for number in itertools.count(1))
    return next(name for name in names if not name.exists() or name.samefile(path))


def _keep(path: Path, copy: Path) -> None:
    """Link or copy the file at ``path``, which is about to be replaced, to ``copy``."""
    if copy.exists():
        return
    try:
        os.link(path, copy)
    except OSError:  # a file system without links
        try:
            shutil.copy(path, copy)
        except OSError:
            copy.unlink(missing_ok=True)
            raise


def _mapped(path: Path) -> memoryview:
    """The bytes of the file, read from the disk on access."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return memoryview(b"")
        try:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise MemoryError from error
            raise


def _first_record(data: memoryview, path: Path) -> int:
    """The offset of the first record; 0 if the log is new, or its first line is damaged or was truncated by a kill."""
    head = bytes(data[: len(_MAGIC)])
    if head == _MAGIC:
        return len(_MAGIC)
    is_damaged = not _ANY_VERSION.match(data[:64]) and _next_record(data, 0) is not None
    if not is_damaged and not _MAGIC.startswith(head):
        raise UnavailableError(
            f"{path} is not a log of this version of the local Pub/Sub.", "Move the file away; its messages are then lost."
        )
    return 0


_Found = tuple[int, int, Record]  # start, stop, record


def _records(data: memoryview, at: int, path: Path) -> Iterator[_Found]:
    """The complete records from ``at`` on; the bytes between them are damaged."""
    while True:
        found = _record_at(data, at)
        if found is None:
            _check_version(data, at, path)
            found = _next_record(data, at + 1)
        if found is None:
            return
        yield found
        at = found[1]


def _next_record(data: memoryview, at: int) -> _Found | None:
    """The first complete record that starts at ``at`` or later, found in one pass."""
    starts = (match.start() - 3 for match in _ANY_START.finditer(data, at + 3))
    return next((found for start in starts if (found := _record_at(data, start, _LONGEST))), None)


def _record_at(data: memoryview, start: int, longest: int = 2**32) -> _Found | None:
    """The record of up to ``longest`` bytes at ``start``; None if there is no complete one.

    It is decoded before its checksum is computed: decoding ends at the first wrong byte, so that a damaged length does not make
    the search read everything that it spans.
    """
    payload, crc = _payload_at(data, start, longest)
    try:
        record = _DECODER.decode(payload)
    except _UNDECODABLE:
        return None
    return (start, start + _FRAME.size + len(payload), record) if zlib.crc32(payload) == crc else None


def _check_version(data: memoryview, start: int, path: Path) -> None:
    """Raises UnavailableError if the record at ``start`` is complete but this version doesn't know its content."""
    payload, crc = _payload_at(data, start, _LONGEST)
    if not payload or zlib.crc32(payload) != crc:
        return
    try:
        _DECODER.decode(payload)
    except _UNDECODABLE as error:
        message = f"{path} has a record that this version can't read: {error}."
        raise UnavailableError(message, "Move the file away; its messages are then lost.") from error


def _payload_at(data: memoryview, start: int, longest: int) -> tuple[memoryview, int]:
    """The payload and the checksum that the header at ``start`` announces; an empty payload if the length is impossible."""
    begin = start + _FRAME.size
    length, crc = _FRAME.unpack_from(data, start) if begin <= len(data) else (0, 0)
    return data[begin : begin + length] if length <= min(longest, len(data) - begin) else data[:0], crc


def _is_cut_short(rest: memoryview) -> bool:
    """Whether ``rest``, which has no complete record, is the beginning of a record or of a log."""
    if len(rest) < _FRAME.size or _MAGIC.startswith(rest):
        return True
    length, payload = _FRAME.unpack_from(rest)[0], rest[_FRAME.size :]
    return length > len(payload) and any(start.startswith(payload[:2]) for start in _STARTS) and not _is_whole(payload)


def _is_whole(payload: memoryview) -> bool:
    """Whether it can be decoded, so that only its length is damaged."""
    try:
        _DECODER.decode(payload)
    except _UNDECODABLE:
        return False
    return True


def _add_frame(frames: bytearray, record: Record) -> None:
    """Append ``record`` to ``frames`` as it is in the file. This copies the bodies once."""
    start = len(frames)
    frames += bytes(_FRAME.size)
    _ENCODER.encode_into(record, frames, -1)
    with memoryview(frames) as view:
        payload = view[start + _FRAME.size :]
        _FRAME.pack_into(frames, start, len(payload), zlib.crc32(payload))
        payload.release()
