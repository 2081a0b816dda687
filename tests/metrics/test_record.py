"""The metrics that the pipeline keeps of its last hour: what is written, what survives, and the series that charts show."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ecomflow.errors import AccessError, UnavailableError
from ecomflow.metrics import record
from ecomflow.metrics.history import in_step
from ecomflow.metrics.record import RECORD_FILE, Hour, line_of, metrics_of, read_record, recorded
from ecomflow.metrics.snapshot import LATENCY_BOUNDS, LOCAL, PipelineMetrics, from_counters
from ecomflow.processes.json_lines import append_line, set_aside
from tests.support.contract import SHOP
from tests.support.waiting import wait_until

START = 1_764_547_200.0


def metrics(at: float, received: int = 0, **known: Any) -> PipelineMetrics:
    """The metrics of a pipeline ``at`` seconds after START; it began at START."""
    counts = {"received": received, "in/Decode events": received, "out/Decode events": received, "rows/fact_order": 2 * received}
    fields = {"state": "running", "where": LOCAL, "started": START} | known
    return from_counters(counts, {}, SHOP, at=START + at, **fields)


def written(folder: Path, *readings: PipelineMetrics) -> None:
    for one in readings:
        append_line(folder / RECORD_FILE, msgspec.json.encode(line_of(one)), record.MAX_BYTES)


def received(one: PipelineMetrics) -> int:
    return one.received


class TestTheFile:
    def test_a_line_has_what_charts_need(self) -> None:
        """Counts of messages, steps and tables, the latency and the backlog come back as they were."""
        counts = {
            "received": 5,
            "in/Decode events": 5,
            "refused_in/Decode events": 1,
            "refused/malformed_json": 1,
            "latency/3": 4,
        }
        known = {"started": START, "backlog": 7, "oldest_unacked_seconds": 1.5}
        made = from_counters({**counts, "rows/fact_order": 8}, {}, SHOP, at=START, state="running", where=LOCAL, **known)
        assert metrics_of(msgspec.json.decode(msgspec.json.encode(line_of(made)), type=record.Line)) == made

    def test_only_the_last_hour_is_read(self, tmp_path: Path) -> None:
        """Oldest first, whatever else is in the file."""
        written(tmp_path, *(metrics(at) for at in range(0, 7200, 600)))
        found = read_record(tmp_path, START + 6600)
        assert [one.at - START for one in found] == [3000, 3600, 4200, 4800, 5400, 6000, 6600]

    def test_there_is_no_file(self, tmp_path: Path) -> None:
        """A pipeline has not run there yet."""
        assert read_record(tmp_path, START) == []

    @pytest.mark.parametrize("damage", [b"", b"\x00\xff", b'{"at": 1', b'{"at": "x"}', b"[]", b'{"at": 1e400}', b"\xff" * 5000])
    def test_a_damaged_line_is_left_out(self, tmp_path: Path, damage: bytes) -> None:
        """The others are read."""
        written(tmp_path, metrics(0))
        with (tmp_path / RECORD_FILE).open("ab") as file:
            file.write(damage + b"\n")
        written(tmp_path, metrics(10))
        assert [one.at - START for one in read_record(tmp_path, START + 10)] == [0, 10]

    def test_a_line_that_was_cut_does_not_spoil_the_next(self, tmp_path: Path) -> None:
        """A full disk or a power cut leaves no line break."""
        written(tmp_path, metrics(0))
        with (tmp_path / RECORD_FILE).open("ab") as file:
            file.write(b'{"at": 17645')
        written(tmp_path, metrics(10))
        assert [one.at - START for one in read_record(tmp_path, START + 10)] == [0, 10]

    def test_a_file_that_can_not_be_read(self, tmp_path: Path) -> None:
        """The error names it."""
        (tmp_path / RECORD_FILE).mkdir()
        with pytest.raises(AccessError, match=rf"{RECORD_FILE} can't be read"):
            read_record(tmp_path, START)

    def test_a_clock_that_was_set_back(self, tmp_path: Path) -> None:
        """What was recorded in what is now the future is left out."""
        written(tmp_path, metrics(0), metrics(5000), metrics(10))
        assert [one.at - START for one in read_record(tmp_path, START + 20)] == [0, 10]

    def test_its_size_is_limited(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The full file is set aside, which replaces the one before; both are read."""
        size = len(msgspec.json.encode(line_of(metrics(0)))) + 1
        monkeypatch.setattr(record, "MAX_BYTES", 3 * size)
        written(tmp_path, *(metrics(at) for at in range(0, 100, 10)))
        path = tmp_path / RECORD_FILE
        assert sorted(one.name for one in tmp_path.iterdir()) == [path.name, set_aside(path).name]
        assert sum(one.stat().st_size for one in tmp_path.iterdir()) <= 8 * size
        assert [one.at - START for one in read_record(tmp_path, START + 100)] == [60, 70, 80, 90]

    def test_a_day_of_the_built_in_contracts_fits(self) -> None:
        """A file holds more than an hour, so that two of them always do."""
        line = len(msgspec.json.encode(line_of(metrics(0, 10**9)))) + 1
        assert 2 * line * record.RECORDED_SECONDS / record.RECORD_EVERY_SECONDS < record.MAX_BYTES


class TestRecording:
    def test_readings_are_recorded_until_the_end(self, tmp_path: Path) -> None:
        """Each once, and the last one at the end."""
        now = [metrics(0, started=None)]

        def run() -> None:
            with recorded(lambda: now[0], tmp_path, 0.01):
                for at in (10, 20):
                    now[0] = metrics(at, started=9e12)
                    wait_until(lambda at=at: [one.at for one in read_record(tmp_path, START + 99)][-1:] == [START + at], "a line")
                now[0] = metrics(30, started=9e12)

        run()
        assert [one.at - START for one in read_record(tmp_path, START + 99)] == [10, 20, 30]

    def test_an_earlier_pipeline_is_not_recorded(self, tmp_path: Path) -> None:
        """Its status lies in the folder until the new one reports."""
        reads = threading.Semaphore(0)

        def read() -> PipelineMetrics:
            reads.release()
            return metrics(0)

        with recorded(read, tmp_path, 0.01):
            assert all(reads.acquire(timeout=5) for _ in range(3))
        assert list(tmp_path.iterdir()) == []

    def test_what_can_not_be_read_or_written_stops_nothing(self, tmp_path: Path) -> None:
        """A service that is away, a folder that is gone: the next reading is recorded."""
        folder, reads = tmp_path / "gone", [0]

        def read() -> PipelineMetrics:
            reads[0] += 1
            if reads[0] == 2:
                raise UnavailableError("no")
            if reads[0] == 4:
                folder.mkdir()
            return metrics(reads[0], started=9e12)

        with recorded(read, folder, 0.01):
            wait_until(lambda: reads[0] > 5, "it reads on")
        assert read_record(folder, START + 99)[0].at - START == 4


class TestTheHour:
    def test_rates(self) -> None:
        """Growth per second in each part, at its end; None where nothing is known."""
        hour = Hour([metrics(0), metrics(10, 10), metrics(20, 40), metrics(30, 40), metrics(60, 340)], START + 60, columns=120)
        assert (hour.width, hour.ends[-1]) == (30.0, START + 90)
        assert hour.rate(received)[-4:] == (None, 2.0, 0.0, 10.0)
        assert len(hour.rate(received)) == len(hour.ends) == 120

    def test_a_restart_is_a_gap(self) -> None:
        """Counters that begin anew are not a negative rate, and no rate spans two pipelines."""
        hour = Hour([metrics(0, 100), metrics(30, 5, started=START + 20), metrics(60, 35, started=START + 20)], START + 60)
        assert hour.rate(received)[-3:] == (None, None, 1.0)

    def test_a_time_without_readings_is_a_gap(self) -> None:
        """The machine slept, or the disk was full: what grew meanwhile is not spread over it."""
        hour = Hour([metrics(0), metrics(600, 600), metrics(630, 630)], START + 630)
        assert hour.rate(received)[-21:] == (*(None,) * 20, 1.0)

    def test_the_backlog_of_a_part_is_its_highest(self) -> None:
        """A short peak is seen; an unknown one is a gap."""
        hour = Hour([metrics(0, backlog=3), metrics(10, backlog=90), metrics(20, backlog=1), metrics(40)], START + 40)
        assert hour.highest(lambda one: one.backlog)[-2:] == (90, None)

    def test_latency_is_that_of_the_part(self) -> None:
        """The quantile of what was written meanwhile, not since the start."""

        def at(seconds: float, fast: int, slow: int) -> PipelineMetrics:
            buckets = [0] * (len(LATENCY_BOUNDS) + 1)
            buckets[0], buckets[15] = fast, slow
            return msgspec.structs.replace(metrics(seconds), latency=tuple(buckets))

        hour = Hour([at(0, 0, 0), at(10, 100, 0), at(40, 100, 8)], START + 40)
        p50 = hour.latency(0.5)
        assert p50[-2] is not None
        assert p50[-2] <= LATENCY_BOUNDS[0]
        assert p50[-1] is not None
        assert LATENCY_BOUNDS[14] < p50[-1] <= LATENCY_BOUNDS[15]

    def test_a_step_has_its_own(self) -> None:
        """The rate of one step, for its details."""
        hour = Hour([metrics(0), metrics(30, 60)], START + 30)
        assert hour.rate(in_step("Decode events", "messages_out"))[-1] == 2.0

    def test_parts_do_not_move(self) -> None:
        """A part that is over has the same end and value later."""
        readings = [metrics(at, at) for at in range(0, 600, 10)]
        early, late = Hour(readings, START + 590), Hour(readings, START + 613)
        assert dict(zip(early.ends, early.rate(received), strict=True))[START + 300] == 1.0
        assert dict(zip(late.ends, late.rate(received), strict=True))[START + 300] == 1.0
