"""The log of the local Pub/Sub: what went in comes out, whatever cut it short or damaged it."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import stat
import struct
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecomflow.errors import AccessError, UnavailableError
from ecomflow.local.pubsub.log import (
    Acknowledged,
    Log,
    Published,
    Record,
    Started,
    StoredMessage,
    SubscriptionDeleted,
    SubscriptionStored,
    TopicDeleted,
    TopicStored,
    damage_sentence,
    place,
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
        yield log, [record for record, _ in log.replay()]


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


def bodies_of(log: Log, records: Iterable[tuple[Record, int]]) -> list[bytes]:
    """What the log reads for the messages in ``records``."""
    placed = [message for record, stop in records if isinstance(record, Published) for message in place(record, stop)]
    return [bytes(body) for body in log.read(placed)]


def test_bodies_are_read_from_where_they_were_written(tmp_path: Path) -> None:
    """Whatever the size of a body, its key and its id: as appended, after a restart, and after a rewrite in another order."""
    sizes = (0, 1, 2**8 - 1, 2**8, 2**16 - 1, 2**16, 2**16 + 1)
    messages = [
        StoredMessage(number, 1.5, key, random.Random(size).randbytes(size))
        for size in sizes
        for number in (1, 2**7, 2**16, 2**32, 2**63)
        for key in ("", "key", "ü" * 500)
    ]
    bodies = [message.body for message in messages]
    records: list[Record] = [Published([1, 2], messages[start : start + 10]) for start in range(0, len(messages), 10)]
    between = TopicStored(bytes(10_000))
    with opened(tmp_path) as (log, _):
        stops = [log.append(record, between)[0] for record in records]
        assert bodies_of(log, zip(records, stops, strict=True)) == bodies
    with contextlib.closing(Log(tmp_path)) as log:
        assert bodies_of(log, list(log.replay())) == bodies
        placed = [message for record, stop in zip(records, stops, strict=True) for message in place(record, stop)]
        backwards = [msgspec.structs.replace(record, messages=record.messages[::-1]) for record in reversed(records)]
        for message, at in zip(reversed(placed), log.rewrite([between, *backwards]), strict=True):
            message.at = at
        assert [bytes(body) for body in log.read(placed)] == bodies


def test_a_log_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    """A body that is gone is not taken for a shorter one."""
    with opened(tmp_path) as (log, _):
        (stop,) = log.append(record := published(1))
        os.truncate(log.path, stop - 1)
        with pytest.raises(OSError, match="shorter"):
            log.read(place(record, stop))


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


def published(number: int, body: bytes = b"body") -> Published:
    return Published([1], [StoredMessage(number, 1.5, "", body)])


def offsets(folder: Path, records: list[Record]) -> list[int]:
    """Write ``records``; where each starts, and where the last stops."""
    found = []
    with opened(folder) as (log, _):
        for record in records:
            found.append(log.size)
            log.append(record)
        return [*found, log.size]


def damage(folder: Path, at: int, new: bytes) -> None:
    with (folder / "pubsub.log").open("r+b") as file:
        file.seek(at)
        file.write(new)


def flip(folder: Path, at: int) -> None:
    """Flip a bit of the byte ``at``."""
    damage(folder, at, bytes([(folder / "pubsub.log").read_bytes()[at] ^ 0x10]))


@pytest.mark.slow
class TestDamage:
    MANY: list[Record] = [published(number) for number in range(6000)]  # noqa: RUF012

    @pytest.mark.parametrize("byte", [*range(13), 30])
    def test_a_flipped_bit_costs_its_record_alone(self, byte: int, tmp_path: Path) -> None:
        """In the length, in the checksum, at the start of the payload: every other record is read, and the bytes are counted."""
        starts = offsets(tmp_path, self.MANY)
        flip(tmp_path, starts[1000] + byte)
        with opened(tmp_path) as (log, records):
            assert records == self.MANY[:1000] + self.MANY[1001:]
            (found,) = log.damage()
        assert (found.places, found.lost_bytes, found.copy) == (1, starts[1001] - starts[1000], None)

    def test_a_run_of_zeros_is_one_place(self, tmp_path: Path) -> None:
        """What it touches is skipped, and no record of zeros is found in it."""
        starts = offsets(tmp_path, self.MANY)
        damage(tmp_path, starts[10] + 20, bytes(starts[20] - starts[10]))
        with opened(tmp_path) as (log, records):
            assert records == self.MANY[:10] + self.MANY[21:]
            assert [(found.places, found.lost_bytes) for found in log.damage()] == [(1, starts[21] - starts[10])]

    def test_two_places_are_two(self, tmp_path: Path) -> None:
        """They are counted apart, and their bytes together."""
        starts = offsets(tmp_path, self.MANY[:200])
        flip(tmp_path, starts[20] + 30)
        flip(tmp_path, starts[150] + 1)
        with opened(tmp_path) as (log, records):
            assert records == [*self.MANY[:20], *self.MANY[21:150], *self.MANY[151:200]]
            assert [(found.places, found.lost_bytes) for found in log.damage()] == [
                (2, starts[21] - starts[20] + starts[151] - starts[150])
            ]

    @pytest.mark.parametrize("tail", [b"\x00" * 64, b"\xff" * 64, b"\x08\x00\x00\x00\x01\x02\x03\x04 no crc."])
    def test_what_is_no_record_at_the_end_is_damage(self, tail: bytes, tmp_path: Path) -> None:
        """Zeros, noise, and a frame whose checksum is wrong: no kill leaves them. Appending goes on behind them."""
        write(tmp_path, RECORDS[:-1])
        with (tmp_path / "pubsub.log").open("ab") as file:
            file.write(tail)
        with opened(tmp_path) as (log, records):
            assert records == RECORDS[:-1]
            assert [(found.places, found.lost_bytes) for found in log.damage()] == [(1, len(tail))]
            log.append(RECORDS[-1])
        assert read(tmp_path) == RECORDS

    def test_a_last_record_of_which_only_the_length_grew_is_damage(self, tmp_path: Path) -> None:
        """Its payload is whole, so no kill has cut it short."""
        starts = offsets(tmp_path, RECORDS)
        damage(tmp_path, starts[-2] + 2, b"\x01")
        with opened(tmp_path) as (log, records):
            assert records == RECORDS[:-1]
            assert [found.lost_bytes for found in log.damage()] == [starts[-1] - starts[-2]]

    def test_damage_and_a_record_cut_short_are_told_apart(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """The record that a kill cut short is dropped as ever, and counts as no damage."""
        starts = offsets(tmp_path, RECORDS)
        flip(tmp_path, starts[2] + 9)
        os.truncate(tmp_path / "pubsub.log", starts[-1] - 3)
        with opened(tmp_path) as (log, records):
            assert records == [*RECORDS[:2], *RECORDS[3:-1]]
            assert [(found.places, found.lost_bytes) for found in log.damage()] == [(1, starts[3] - starts[2])]
        assert f"truncated by a kill: dropped its {starts[-1] - 3 - starts[-2]} bytes" in caplog.text

    def test_a_damaged_first_line_costs_no_record(self, tmp_path: Path) -> None:
        """Nor is the file taken for someone else's."""
        write(tmp_path, RECORDS)
        flip(tmp_path, 3)
        with opened(tmp_path) as (log, records):
            assert records == RECORDS
            assert [found.lost_bytes for found in log.damage()] == [22]

    def test_another_version_is_refused_not_skipped(self, tmp_path: Path) -> None:
        """A first line of another number, or a whole record that this version does not know, is no damage."""
        write(tmp_path, RECORDS)
        damage(tmp_path, 20, b"2")
        with pytest.raises(UnavailableError, match="not a log of this version"):
            read(tmp_path)
        unknown = b"\x92\x63\x01"
        damage(tmp_path, 20, b"1")
        with (tmp_path / "pubsub.log").open("ab") as file:
            file.write(struct.pack("<II", len(unknown), zlib.crc32(unknown)) + unknown)
        with pytest.raises(UnavailableError, match="has a record that this version can't read"):
            read(tmp_path)

    def test_a_rewrite_keeps_the_damaged_file_and_tells_of_it_until_that_is_deleted(self, tmp_path: Path) -> None:
        """The kept file is the damaged one byte for byte; the report of it outlives further rewrites."""
        starts = offsets(tmp_path, self.MANY[:9])
        flip(tmp_path, starts[4] + 9)
        was = (tmp_path / "pubsub.log").read_bytes()
        with opened(tmp_path) as (log, records):
            assert log.is_damaged
            log.rewrite(records)
            assert not log.is_damaged
        for _ in range(2):
            with opened(tmp_path) as (log, records):
                assert records == self.MANY[:4] + self.MANY[5:9]
                (found,) = log.damage()
                log.rewrite(records)
        assert found.copy == str(tmp_path / "pubsub.damaged-1.log")
        assert Path(found.copy).read_bytes() == was
        assert damage_sentence(found).endswith(
            f"To see what is missing, run: ecomflow reconcile. The damaged log is kept as {found.copy}; "
            "this message is shown until you delete that file."
        )
        Path(found.copy).unlink()
        with opened(tmp_path) as (log, _):
            assert log.damage() == []

    def test_each_damaged_file_is_kept_under_its_own_name(self, tmp_path: Path) -> None:
        """A second damage does not overwrite what was kept of the first."""
        for n in (1, 2):
            starts = offsets(tmp_path / "a", self.MANY[:9])
            flip(tmp_path / "a", starts[4] + 9)
            with opened(tmp_path / "a") as (log, records):
                log.rewrite(records)
                assert [Path(found.copy).name for found in log.damage()] == [f"pubsub.damaged-{k + 1}.log" for k in range(n)]

    @pytest.mark.parametrize("links", [True, False])
    def test_a_rewrite_that_cannot_keep_the_damaged_file_leaves_it(
        self, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is compacted away before it is kept; a file system without links gets a copy."""

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        starts = offsets(tmp_path, self.MANY[:9])
        flip(tmp_path, starts[4] + 9)
        was = (tmp_path / "pubsub.log").read_bytes()
        with opened(tmp_path) as (log, records):
            with monkeypatch.context() as fault:
                fault.setattr(os, "link", refuse)
                if links:
                    fault.setattr(shutil, "copy", refuse)
                    with pytest.raises(OSError, match="No space"):
                        log.rewrite(records)
                else:
                    log.rewrite(records)
            assert log.is_damaged is links
            assert ("There was no disk space to set the damaged log aside" in damage_sentence(log.damage()[0])) is links
        kept = [path.read_bytes() for path in tmp_path.glob("pubsub*.log")]
        assert was in kept
        assert len(kept) == (1 if links else 2)

    def test_a_kill_between_keeping_and_replacing_keeps_it_once(self, tmp_path: Path) -> None:
        """The next start finds the same file under both names, and gives it no third."""
        starts = offsets(tmp_path, self.MANY[:9])
        flip(tmp_path, starts[4] + 9)
        os.link(tmp_path / "pubsub.log", tmp_path / "pubsub.damaged-1.log")
        with opened(tmp_path) as (log, records):
            log.rewrite(records)
            assert [Path(found.copy).name for found in log.damage()] == ["pubsub.damaged-1.log"]

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["zeros", "noise", "starts of records", "headers of records"])
    def test_a_large_damaged_place_is_passed_in_seconds(self, kind: str, tmp_path: Path) -> None:
        """32 MB between two records, also where each few bytes look like a record that spans megabytes."""
        size = 32 * 2**20
        piece = {
            "zeros": bytes(4096),
            "noise": os.urandom(2**20),
            "starts of records": b"\x93\x05\0\0\0",
            "headers of records": struct.pack("<II", 2**20, 7)
            + b"\x93\x05\x91\x01\x91\x94\x01\xcb"
            + bytes(8)
            + b"\xa0\xc4\x02ab",
        }[kind]
        write(tmp_path, RECORDS[:3])
        with (tmp_path / "pubsub.log").open("ab") as file:
            file.write(piece * (size // len(piece)))
        with opened(tmp_path / "other") as (log, _):
            start = log.size
            log.append(RECORDS[-1])
        with (tmp_path / "pubsub.log").open("ab") as file:
            file.write((tmp_path / "other" / "pubsub.log").read_bytes()[start:])
        began = time.process_time()
        assert read(tmp_path) == [*RECORDS[:3], RECORDS[-1]]
        assert time.process_time() - began < 10

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

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(st.binary(max_size=40), min_size=1, max_size=30),
        st.lists(st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=60)), max_size=4),
        st.integers(0, 3000) | st.none(),
    )
    def test_whatever_is_damaged_costs_what_it_touches(
        self, bodies: list[bytes], damages: list[tuple[int, bytes]], cut: int | None
    ) -> None:
        """What is read is what was written, in order, but for records that the damage or the cut touches; a second time too."""
        written: list[Record] = [published(number, body) for number, body in enumerate(bodies)]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            starts = offsets(folder, written)
            was = (folder / "pubsub.log").read_bytes()
            for at, new in damages:
                at = starts[0] + at % (starts[-1] - starts[0])
                damage(folder, at, new[: starts[-1] - at])
            if cut is not None:
                os.truncate(folder / "pubsub.log", starts[0] + cut % (starts[-1] - starts[0]))
            now = (folder / "pubsub.log").read_bytes()
            whole = [
                record
                for record, start, stop in zip(written, starts, starts[1:], strict=False)
                if now[start:stop] == was[start:stop]
            ]
            with opened(folder) as (log, records):
                assert records == whole
                assert sum(found.lost_bytes for found in log.damage()) <= len(now) - starts[0]
                log.append(published(9999))
                assert log.is_damaged or log.size == (folder / "pubsub.log").stat().st_size
            assert read(folder) == [*whole, published(9999)]
