"""How often the page reads: rarely enough to stay cheap, and not at all while nobody looks."""

from __future__ import annotations

import threading
from itertools import pairwise

from ecomflow.errors import EcomflowError, UnavailableError
from ecomflow.metrics.snapshot import LOCAL, PipelineMetrics
from ecomflow.ui.data.readings import Reading
from ecomflow.ui.data.sampler import Sampler
from tests.support.waiting import wait_until


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Source:
    """Something to read that takes ``takes`` seconds of the clock, and counts how often it is read."""

    def __init__(self, clock: Clock, takes: float = 0.0) -> None:
        self.clock, self.takes, self.reads = clock, takes, 0
        self.error: EcomflowError | None = None

    def __call__(self) -> int:
        self.reads += 1
        self.clock.now += self.takes
        if self.error:
            raise self.error
        return self.reads


def settled(reading: Reading[int]) -> Reading[int]:
    reading.look()
    reading.wait(5)
    return reading


class TestReading:
    def test_it_is_read_when_looked_at(self) -> None:
        """Nothing is read before somebody looks, and the look does not wait."""
        source = Source(Clock())
        reading = Reading(source, 2.0, source.clock)
        assert (source.reads, reading.value) == (0, None)
        assert (settled(reading).value, source.reads) == (1, 1)

    def test_a_value_serves_for_a_while(self) -> None:
        """However many look, it is read anew only after its least time."""
        source = Source(Clock())
        reading = Reading(source, 2.0, source.clock)
        for _ in range(5):
            settled(reading)
        source.clock.now += 2.1
        assert (settled(reading).value, source.reads) == (2, 2)

    def test_what_takes_long_is_read_seldom(self) -> None:
        """A read of 1 s is followed by 50 s without: it costs the services 2 % of their time."""
        source = Source(Clock(), takes=1.0)
        reading = Reading(source, 2.0, source.clock)
        settled(reading)
        source.clock.now += 49
        assert settled(reading).value == 1
        source.clock.now += 2
        assert settled(reading).value == 2

    def test_a_count_does_not_grow_too_old(self) -> None:
        """One that took long by chance is repeated after its maximum."""
        source = Source(Clock(), takes=6.0)
        reading = Reading(source, 2.0, source.clock, most=30.0)
        settled(reading)
        source.clock.now += 29
        assert settled(reading).value == 1
        source.clock.now += 2
        assert settled(reading).value == 2

    def test_an_error_is_kept_beside_the_last_value(self) -> None:
        """What was known stays in sight; the error goes when a read succeeds."""
        source = Source(Clock())
        reading = Reading(source, 2.0, source.clock)
        settled(reading)
        source.error = UnavailableError("no")
        source.clock.now += 3
        assert (settled(reading).value, reading.error) == (1, source.error)
        source.error = None
        source.clock.now += 3
        assert (settled(reading).value, reading.error) == (3, None)

    def test_what_does_not_change_is_read_once(self) -> None:
        """The graph is made once; after a failure it is tried again."""
        source = Source(Clock())
        reading = Reading(source, None, source.clock)
        source.error = UnavailableError("no")
        settled(reading)
        source.error, source.clock.now = None, source.clock.now + 3
        assert settled(reading).value == 2
        source.clock.now += 10_000
        assert settled(reading).value == 2

    def test_what_is_known_to_be_old_is_read_at_the_next_look(self) -> None:
        """After a replay the groups are not those that were read."""
        source = Source(Clock())
        reading = Reading(source, 1000.0, source.clock)
        settled(reading)
        reading.expire()
        assert settled(reading).value == 2

    def test_looks_do_not_queue_up(self) -> None:
        """While it is read, a look begins no second read."""
        gate, begun = threading.Event(), threading.Semaphore(0)
        reads: list[int] = []

        def slow() -> int:
            reads.append(1)
            begun.release()
            gate.wait(5)
            return 1

        reading = Reading(slow, 0.0)
        for _ in range(10):
            reading.look()
        assert begun.acquire(timeout=5)
        assert (len(reads), reading.is_reading) == (1, True)
        gate.set()
        reading.wait(5)


class TestSampler:
    def metrics(self, received: int = 0) -> PipelineMetrics:
        return PipelineMetrics(float(received), "running", LOCAL, received=received)

    def test_it_stops_when_nobody_looks(self) -> None:
        """Some seconds after the last look nothing is read any more; the next look begins anew."""
        clock, reads = Clock(), threading.Semaphore(0)
        seen: list[int] = []

        def read() -> PipelineMetrics:
            seen.append(1)
            reads.release()
            clock.now += 10  # so long that the last look is forgotten
            return self.metrics(len(seen))

        sampler = Sampler(read, 1.0, clock)
        sampler.look()
        assert reads.acquire(timeout=5)
        assert not reads.acquire(timeout=0.5)
        sampler.look()
        assert reads.acquire(timeout=5)
        sampler.stop()

    def test_an_error_is_reported_with_what_was_known(self) -> None:
        """Where the metrics can't be read, the sample says why."""

        def read() -> PipelineMetrics:
            raise UnavailableError("The disk is gone.", "Look.")

        sampler = Sampler(read, 1.0)
        sampler.look()
        sampler.wait_for_first(5)
        error = sampler.look().error
        assert error is not None
        assert error.message == "The disk is gone."
        sampler.stop()

    def test_a_stopped_sampler_reads_no_more(self) -> None:
        """When the server ends, so does its thread."""
        reads: list[int] = []
        sampler = Sampler(lambda: self.metrics(len(reads.append(1) or reads)), 1.0)  # type: ignore[func-returns-value]
        sampler.stop()
        sampler.look()
        assert reads == []

    def test_the_hour_of_a_job_is_what_was_read(self) -> None:
        """A pipeline that records nothing has the readings of the page, of the last hour."""
        clock, now = Clock(), Clock()
        read = threading.Semaphore(0)

        def metrics() -> PipelineMetrics:
            read.release()
            return PipelineMetrics(now.now, "running", "europe-west3", started=1.0, received=int(now.now))

        sampler = Sampler(metrics, 0.01, clock, now)
        for _ in range(4):
            sampler.look()
            assert read.acquire(timeout=5)
            now.now += 30
            clock.now += 30
        wait_until(lambda: (hour := sampler.look().hour) is not None and any(hour.rate(lambda one: one.received)), "an hour")
        sampler.stop()
        hour = sampler.look().hour
        assert hour is not None
        assert {rate for rate in hour.rate(lambda one: one.received) if rate is not None} == {1.0}

    def test_a_record_that_can_not_be_read_hides_nothing_else(self) -> None:
        """The metrics are shown, and beside them why there is no hour."""

        def read_record(_: float) -> list[PipelineMetrics]:
            raise UnavailableError("The file is gone.")

        sampler = Sampler(self.metrics, 1.0, read_record=read_record)
        sampler.look()
        sampler.wait_for_first(5)
        sample = sampler.look()
        sampler.stop()
        assert (sample.report is None, sample.error, sample.hour) == (False, None, None)
        assert sample.hour_error is not None
        assert sample.hour_error.message == "The file is gone."

    def test_the_record_is_read_seldom(self) -> None:
        """However often the metrics are read, the file is read once in ten seconds."""
        clock, reads = Clock(), threading.Semaphore(0)
        records: list[float] = []

        def read() -> PipelineMetrics:
            clock.now += 1
            reads.release()
            return self.metrics(int(clock.now))

        def read_record(now: float) -> list[PipelineMetrics]:
            records.append(clock.now)
            return []

        sampler = Sampler(read, 0.01, clock, lambda: clock.now, read_record)
        for _ in range(25):
            sampler.look()
            assert reads.acquire(timeout=5)
        sampler.stop()
        assert 2 <= len(records) <= 4
        assert all(after - before >= 10 for before, after in pairwise(records))
