"""The backlog of the subscription, as Cloud Monitoring and the local Pub/Sub report it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import msgspec
import pytest
from google.cloud import monitoring_v3
from google.cloud.monitoring_v3.services.metric_service.transports import MetricServiceGrpcTransport

from ecomflow.config import Endpoints, Settings
from ecomflow.errors import AccessError, NotFoundError, UnavailableError
from ecomflow.gcp.target import Target
from ecomflow.generator import publisher, rounds
from ecomflow.jobs.backlog import (
    AGE_METRIC,
    Backlog,
    Waiting,
    count_waiting,
    newest_backlog,
    newest_sample,
    read_backlog,
    wait_until_empty,
)
from tests.support.fronts import another_broker

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
SETTINGS = Settings(project="my-project", subscription="events-sub")


class Monitoring:
    """ListTimeSeries as Cloud Monitoring answers it over gRPC, with series of the test's own."""

    def __init__(self, *series: list[tuple[datetime, int]]) -> None:
        self.requests: list[Any] = []
        self.ages: list[list[tuple[datetime, int]]] = []
        self._series = series

    @contextmanager
    def client(self) -> Iterator[monitoring_v3.MetricServiceClient]:
        handler = grpc.unary_unary_rpc_method_handler(
            self._list,
            request_deserializer=monitoring_v3.ListTimeSeriesRequest.deserialize,
            response_serializer=monitoring_v3.ListTimeSeriesResponse.serialize,
        )
        server = grpc.server(ThreadPoolExecutor(1))
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("google.monitoring.v3.MetricService", {"ListTimeSeries": handler})]
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield monitoring_v3.MetricServiceClient(transport=MetricServiceGrpcTransport(channel=channel))
        server.stop(None)

    def _list(self, request: Any, _: Any) -> Any:
        self.requests.append(request)
        wanted = self.ages if AGE_METRIC in request.filter else self._series
        return monitoring_v3.ListTimeSeriesResponse(time_series=[_series(points) for points in wanted])


def _series(points: list[tuple[datetime, int]]) -> monitoring_v3.TimeSeries:
    return monitoring_v3.TimeSeries(
        points=[
            monitoring_v3.Point(
                interval=monitoring_v3.TimeInterval(end_time=at), value=monitoring_v3.TypedValue(int64_value=count)
            )
            for at, count in points
        ]
    )


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


class TestNewestSample:
    def test_the_newest_of_the_last_ten_minutes(self) -> None:
        """The sample with the latest end counts, with its time, in whatever order they come."""
        monitoring = Monitoring([(ago(5), 40), (ago(3), 7), (ago(4), 20)])
        with monitoring.client() as client:
            assert newest_sample(client, SETTINGS, NOW) == Waiting(7, ago(3))

    def test_none_is_not_zero(self) -> None:
        """Without a sample nobody knows how much waits."""
        with Monitoring().client() as client:
            assert newest_sample(client, SETTINGS, NOW) is None

    def test_it_asks_for_this_subscription_in_this_project(self) -> None:
        """The request names the project, the metric, the subscription and ten minutes up to now."""
        monitoring = Monitoring([])
        with monitoring.client() as client:
            newest_sample(client, SETTINGS, NOW)
        (request,) = monitoring.requests
        assert request.name == "projects/my-project"
        assert request.filter == (
            'metric.type = "pubsub.googleapis.com/subscription/num_undelivered_messages" '
            'AND resource.labels.subscription_id = "events-sub"'
        )
        assert (request.interval.start_time.timestamp(), request.interval.end_time.timestamp()) == (
            ago(10).timestamp(),
            NOW.timestamp(),
        )


class TestNewestBacklog:
    def test_the_count_and_the_age_of_the_oldest(self) -> None:
        """The newest sample of each metric; the count's time is the backlog's."""
        monitoring = Monitoring([(ago(4), 40), (ago(3), 7)])
        monitoring.ages = [[(ago(3), 95)]]
        with monitoring.client() as client:
            assert newest_backlog(client, SETTINGS, NOW) == Backlog(Waiting(7, ago(3)), 95.0)

    @pytest.mark.parametrize(
        ("counts", "expected"),
        [([], None), ([(ago(3), 0)], Backlog(Waiting(0, ago(3)))), ([(ago(3), 7)], Backlog(Waiting(7, ago(3))))],
    )
    def test_an_age_that_is_not_known(self, counts: list[tuple[datetime, int]], expected: Backlog | None) -> None:
        """Without a count there is no backlog; without an age, or with nothing that waits, no age."""
        monitoring = Monitoring(counts)
        monitoring.ages = [[(ago(3), 95)]] if counts == [(ago(3), 0)] else []
        with monitoring.client() as client:
            assert newest_backlog(client, SETTINGS, NOW) == expected


class TestCountWaiting:
    @pytest.mark.stack
    def test_the_local_stack_counts_just_now(self, provisioned: Settings, target: Target) -> None:
        """Every message that is not acknowledged, at this moment."""
        publisher.publish(target, rounds.generate(3, seed=1, now=NOW))
        assert count_waiting(target) == Waiting(18, None)

    @pytest.mark.stack
    def test_the_local_stack_tells_the_age_of_the_oldest(self, provisioned: Settings, target: Target) -> None:
        """Since it was published; of nothing there is none."""
        assert read_backlog(target, datetime.now(UTC)) == Backlog(Waiting(0), None)
        publisher.publish(target, rounds.generate(1, seed=1, now=NOW))
        found = read_backlog(target, datetime.now(UTC) + timedelta(seconds=60))
        assert found is not None
        assert found.waiting == Waiting(6, None)
        assert found.oldest_seconds == pytest.approx(65, abs=5)

    @pytest.mark.stack
    def test_another_emulator(self, provisioned: Settings, stack: Endpoints) -> None:
        """It doesn't report the backlog: nothing is known, which is no failure; the metrics say why."""
        with another_broker(str(stack.pubsub)) as pubsub:
            target = Target(provisioned, msgspec.structs.replace(stack, pubsub=pubsub))
            assert count_waiting(target) is None
            with pytest.raises(UnavailableError, match=f"The Pub/Sub emulator at {pubsub} does not report the backlog"):
                read_backlog(target, datetime.now(UTC))

    @pytest.mark.stack
    def test_a_subscription_that_is_not_there(self, settings: Settings, target: Target) -> None:
        """It is named, with what to run."""
        with pytest.raises(NotFoundError, match=settings.subscription):
            count_waiting(target)

    def test_without_credentials(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
        """A project without a login ends at once, with the command that signs in."""
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
        with pytest.raises(AccessError, match="redentials"):
            count_waiting(Target(SETTINGS, Endpoints()))


class Clock:
    """Time that passes only in ``sleep``; by the wall clock also in ``steps``, one after each sleep."""

    def __init__(self, *steps: timedelta) -> None:
        self.time = NOW
        self.steps = list(steps)
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self.time

    def steady(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += timedelta(seconds=seconds) + (self.steps.pop(0) if self.steps else timedelta())


class TestWaitUntilEmpty:
    def wait(self, clock: Clock, *readings: Waiting | None, seconds: float = 60) -> bool:
        answers = iter(readings)
        return wait_until_empty(lambda: next(answers), seconds, now=clock.now, steady=clock.steady, sleep=clock.sleep)

    def test_empty_at_once(self) -> None:
        """Nothing waits: nobody sleeps."""
        clock = Clock()
        assert self.wait(clock, Waiting(0))
        assert clock.slept == []

    def test_it_looks_again_until_nothing_waits(self) -> None:
        """The local count is looked at five times a second."""
        clock = Clock()
        assert self.wait(clock, Waiting(9), Waiting(2), Waiting(0))
        assert clock.slept == [0.2, 0.2]

    def test_it_gives_up_after_its_time(self) -> None:
        """The last look is at the end of the time."""
        clock = Clock()
        assert not self.wait(clock, *(Waiting(9) for _ in range(4)), seconds=0.5)
        assert clock.slept == pytest.approx([0.2, 0.2, 0.1])

    @pytest.mark.parametrize("step", [timedelta(days=1), timedelta(days=-1)], ids=["forward", "back"])
    def test_a_step_of_the_wall_clock_neither_ends_nor_prolongs_it(self, step: timedelta) -> None:
        """It waits its seconds, and a sample of after the step is young."""
        clock = Clock(step)
        assert not self.wait(clock, *(Waiting(9) for _ in range(4)), seconds=0.5)
        assert clock.slept == pytest.approx([0.2, 0.2, 0.1])
        clock = Clock(step)
        assert self.wait(clock, None, Waiting(0, NOW + step + timedelta(seconds=14)))

    def test_an_old_sample_does_not_count(self) -> None:
        """A zero that was sampled before the wait began may not know of what was published since."""
        clock = Clock()
        assert self.wait(clock, Waiting(0, ago(3)), None, Waiting(0, ago(1)), Waiting(0, NOW), seconds=300)
        assert clock.slept == [15.0, 15.0, 15.0]
