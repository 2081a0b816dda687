"""The log of the local Pub/Sub: what went in comes out, whatever cut it short."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecomflow.errors import AccessError, UnavailableError
from ecomflow.local.pubsub.log import (
    Acknowledged,
    Damage,
    Log,
    Published,
    Record,
    Started,
    StoredMessage,
    SubscriptionDeleted,
    SubscriptionStored,
    TopicDeleted,
    TopicStored,
    _frame,
)

RECORDS: list[Record] = [
    Started(1, 1000),
    TopicStored(b"topic"),
    SubscriptionStored(1, b"subscription"),
    Published([1], [StoredMessage(1000, 1.5, "key", b"\x00\xffbody"), StoredMessage(1001, 1.5, "", b"")]),
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
    with pytest.raises(AccessError, match=r"file/data can't be written: Not a directory"):
        Log(tmp_path / "file" / "data")


class TestDamage:
    """Bytes that changed on the disk: what is whole is read, what is not is counted."""

    MANY: tuple[Record, ...] = tuple(
        Published([1], [StoredMessage(number, 1.5, "", b"%d " % number + bytes(range(number % 256)) * 3)])
        for number in range(200)
    )

    def damaged(self, folder: Path, change: Callable[[bytearray, list[int]], None]) -> tuple[list[Record], Damage | None, Path]:
        """What is read after ``change`` of the file, whose records begin at the given offsets."""
        starts = []
        with opened(folder) as (log, _):
            for record in self.MANY:
                starts.append(log.size)
                log.append(record)
        content = bytearray(log.path.read_bytes())
        change(content, starts)
        log.path.write_bytes(content)
        with opened(folder) as (log, records):
            return records, log.damage, log.path

    @pytest.mark.parametrize(
        "offset",
        [
            pytest.param(0, id="length"),
            pytest.param(3, id="a huge length"),
            pytest.param(5, id="checksum"),
            pytest.param(20, id="payload"),
        ],
    )
    def test_one_flipped_bit_costs_one_record(self, offset: int, tmp_path: Path) -> None:
        """Wherever in the record it is; the damaged log is kept, and the damage counted."""

        def flip(content: bytearray, starts: list[int]) -> None:
            content[starts[100] + offset] ^= 0x40

        records, damage, path = self.damaged(tmp_path, flip)
        assert records == [*self.MANY[:100], *self.MANY[101:]]
        lost = len(_frame(self.MANY[100]))
        assert damage == Damage(1, lost, str(tmp_path / "pubsub.damaged-1"))
        assert (tmp_path / "pubsub.damaged-1").stat().st_size == path.stat().st_size

    def test_a_run_of_zeros_over_several_records_is_one_place(self, tmp_path: Path) -> None:
        """A block that the disk lost."""

        def wipe(content: bytearray, starts: list[int]) -> None:
            content[starts[50] : starts[60] + 9] = bytes(starts[60] + 9 - starts[50])

        records, damage, _ = self.damaged(tmp_path, wipe)
        assert records == [*self.MANY[:50], *self.MANY[61:]]
        assert damage is not None
        assert damage.places == 1

    def test_two_places_are_two(self, tmp_path: Path) -> None:
        def flip(content: bytearray, starts: list[int]) -> None:
            content[starts[20] + 30] ^= 1
            content[starts[150] + 1] ^= 1

        records, damage, _ = self.damaged(tmp_path, flip)
        assert records == [*self.MANY[:20], *self.MANY[21:150], *self.MANY[151:]]
        assert damage is not None
        assert damage.places == 2

    def test_after_a_rewrite_nothing_is_damaged(self, tmp_path: Path) -> None:
        """The next start finds a whole log."""

        def flip(content: bytearray, starts: list[int]) -> None:
            content[starts[20] + 30] ^= 1

        records, _, _ = self.damaged(tmp_path, flip)
        with opened(tmp_path) as (log, _):
            log.rewrite(records)
        with opened(tmp_path) as (log, again):
            assert (again, log.damage) == (records, None)

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(places=st.lists(st.tuples(st.floats(0, 0.9999), st.binary(min_size=1, max_size=300)), min_size=1, max_size=4))
    def test_whatever_is_written_over_it_only_what_it_touches_is_lost(
        self, places: list[tuple[float, bytes]], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """What is read was written, in that order, and every record is there that no damage has touched."""
        touched: set[int] = set()

        def write_over(content: bytearray, starts: list[int]) -> None:
            first = starts[0]
            for where, noise in places:
                at = first + int(where * (len(content) - first))
                noise = noise[: len(content) - at]
                content[at : at + len(noise)] = noise
                touched.update(
                    n for n, start in enumerate(starts) if start < at + len(noise) and at < ([*starts, len(content)][n + 1])
                )

        records, _, _ = self.damaged(tmp_path_factory.mktemp("log"), write_over)
        order = [self.MANY.index(record) for record in records]
        assert order == sorted(order)
        assert set(range(len(self.MANY))) - set(order) <= touched

    def test_a_large_log_is_read_on_in_seconds(self, tmp_path: Path) -> None:
        """One damaged length in 60 MB of binary messages."""
        noise = random.Random(7).randbytes(100_000)
        many = [Published([1], [StoredMessage(number, 1.5, "", noise)]) for number in range(600)]
        write(tmp_path, many)
        content = bytearray((tmp_path / "pubsub.log").read_bytes())
        at = len(content) // 2
        content[at : at + 150_000] = random.Random(8).randbytes(150_000)
        (tmp_path / "pubsub.log").write_bytes(content)
        begun = time.monotonic()
        assert len(read(tmp_path)) in (597, 598, 599)
        assert time.monotonic() - begun < 10
