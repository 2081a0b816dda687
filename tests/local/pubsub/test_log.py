"""The log of the local Pub/Sub: what went in comes out, whatever cut it short."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecomflow.errors import AccessError, UnavailableError
from ecomflow.local.pubsub.log import (
    Acknowledged,
    Log,
    Message,
    Published,
    Record,
    Started,
    SubscriptionDeleted,
    SubscriptionStored,
    TopicDeleted,
    TopicStored,
)

RECORDS: list[Record] = [
    Started(1, 1000),
    TopicStored(b"topic"),
    SubscriptionStored(1, b"subscription"),
    Published([1], [Message(1000, 1.5, "key", b"\x00\xffbody"), Message(1001, 1.5, "", b"")]),
    Acknowledged(1, [1000]),
    SubscriptionDeleted(1),
    TopicDeleted("projects/p/topics/t"),
]


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[tuple[Log, list[Record]]]:
    """The log in ``folder`` and the records that it had."""
    with contextlib.closing(Log(folder)) as log:
        yield log, list(log.replay())


def write(folder: Path, records: list[Record]) -> None:
    with opened(folder) as (log, _):
        for record in records:
            log.append(record)


def read(folder: Path) -> list[Record]:
    with opened(folder) as (_, records):
        return records


def test_records_come_out_as_they_went_in(tmp_path: Path) -> None:
    """Every kind of record, in order, also over several lives."""
    write(tmp_path / "new" / "folder", RECORDS[:3])
    write(tmp_path / "new" / "folder", RECORDS[3:])
    assert read(tmp_path / "new" / "folder") == RECORDS


def test_a_record_cut_short_anywhere_is_dropped_alone(tmp_path: Path) -> None:
    """Wherever a kill cuts the file, the whole records before are kept, and appending goes on behind them."""
    write(tmp_path, RECORDS)
    whole = (tmp_path / "pubsub.log").read_bytes()
    last = RECORDS[-1]
    write(tmp_path / "without", RECORDS[:-1])
    start = (tmp_path / "without" / "pubsub.log").stat().st_size
    for cut in range(start, len(whole)):
        (tmp_path / "pubsub.log").write_bytes(whole[:cut])
        with opened(tmp_path) as (log, records):
            assert records == RECORDS[:-1]
            log.append(last)
        assert (tmp_path / "pubsub.log").read_bytes() == whole


@pytest.mark.parametrize("tail", [b"\x00" * 64, b"\xff" * 64, b"\x08\x00\x00\x00\x01\x02\x03\x04 no crc."])
def test_what_is_no_record_ends_the_log(tmp_path: Path, tail: bytes) -> None:
    """Zeros, noise, and a frame whose checksum is wrong are cut off."""
    write(tmp_path, RECORDS)
    size = (tmp_path / "pubsub.log").stat().st_size
    with (tmp_path / "pubsub.log").open("ab") as file:
        file.write(tail)
    assert read(tmp_path) == RECORDS
    assert (tmp_path / "pubsub.log").stat().st_size == size


def test_a_log_killed_in_its_first_line_is_new(tmp_path: Path) -> None:
    """A part of the first line holds no records, and is completed."""
    (tmp_path / "pubsub.log").write_bytes(b"ecomflow pub")
    write(tmp_path, RECORDS)
    assert read(tmp_path) == RECORDS


def test_a_foreign_file_is_left_alone(tmp_path: Path) -> None:
    """A file that is no log is named, and not overwritten."""
    (tmp_path / "pubsub.log").write_bytes(b"something of someone else's, longer than a line")
    with pytest.raises(UnavailableError, match="not a log of this version"):
        read(tmp_path)
    assert (tmp_path / "pubsub.log").read_bytes().startswith(b"something")


def test_a_rewrite_replaces_all_records(tmp_path: Path) -> None:
    """Afterwards the log has the given records, and appends go behind them."""
    write(tmp_path, RECORDS)
    with opened(tmp_path) as (log, _):
        log.rewrite(RECORDS[:2])
        log.append(RECORDS[2])
        assert log.size == (tmp_path / "pubsub.log").stat().st_size
    assert read(tmp_path) == RECORDS[:3]


def test_a_rewrite_keeps_the_log_private(tmp_path: Path) -> None:
    """The new file has the mode of the old one, whatever the umask."""
    write(tmp_path, RECORDS)
    with opened(tmp_path) as (log, _):
        for mode in (0o600, 0o640):
            log.path.chmod(mode)
            log.rewrite(RECORDS[:2])
            assert stat.S_IMODE(log.path.stat().st_mode) == mode


def test_a_rewrite_that_fails_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    """An error on the way leaves no scratch file, and appending goes on."""

    def failing() -> Iterator[Record]:
        yield RECORDS[0]
        raise OSError(errno.ENOSPC, "No space left on device")

    write(tmp_path, RECORDS[:-1])
    with opened(tmp_path) as (log, _):
        with pytest.raises(OSError, match="No space"):
            log.rewrite(failing())
        log.append(RECORDS[-1])
    assert read(tmp_path) == RECORDS
    assert not (tmp_path / "pubsub.tmp").exists()


def test_a_write_that_fails_halfway_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes ten bytes and is then full: the record is refused, and the next one is whole."""
    write_at, room = os.pwrite, [10]

    def fill_up(fd: int, data: bytes, offset: int) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write_at(fd, data[: room[0]], offset)
        room[0] -= written
        return written

    write(tmp_path, RECORDS[:-2])
    with opened(tmp_path) as (log, _):
        with monkeypatch.context() as fault:
            fault.setattr(os, "pwrite", fill_up)
            with pytest.raises(OSError, match="No space"):
                log.append(RECORDS[-2])
        log.append(RECORDS[-1])
    assert read(tmp_path) == [*RECORDS[:-2], RECORDS[-1]]


def test_a_folder_has_one_log_at_a_time(tmp_path: Path) -> None:
    """A second log on the folder is refused until the first is closed."""
    with contextlib.closing(Log(tmp_path)), pytest.raises(UnavailableError, match="in use by another server"):
        Log(tmp_path)
    assert read(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """The error says which folder and why."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AccessError, match=r"file/data cannot be written: Not a directory"):
        Log(tmp_path / "file" / "data")
