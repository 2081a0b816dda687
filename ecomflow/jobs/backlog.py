"""The backlog of the pipeline's subscription and the age of its oldest message, from the local Pub/Sub or Cloud Monitoring."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from ecomflow.config import Settings
from ecomflow.gcp.permissions import READ_METRICS
from ecomflow.gcp.target import Target

METRIC = "pubsub.googleapis.com/subscription/num_undelivered_messages"
AGE_METRIC = "pubsub.googleapis.com/subscription/oldest_unacked_message_age"
# Monitoring samples Pub/Sub every minute and shows a sample after up to four.
# https://cloud.google.com/monitoring/api/metrics_gcp_p_z#gcp-pubsub
_WINDOW = timedelta(minutes=10)
_LOCAL_PAUSE, _CLOUD_PAUSE = 0.2, 15.0  # seconds between two polls


class Waiting(msgspec.Struct, frozen=True):
    """The unacknowledged messages, including those in flight. ``sampled_at`` None: counted just now."""

    messages: int
    sampled_at: datetime | None = None


class Backlog(msgspec.Struct, frozen=True):
    """The backlog, and the age of its oldest message at that time, in seconds since publishing; None if unknown or empty."""

    waiting: Waiting
    oldest_seconds: float | None = None


def count_waiting(target: Target) -> Waiting | None:
    """The backlog of the subscription; None if Cloud Monitoring has no sample of the last ten minutes, or for another emulator.

    On Google Cloud the value is some minutes old. Raises NotFoundError, AccessError and UnavailableError.
    """
    if target.endpoints.pubsub is not None:
        from ecomflow.local.pubsub.server import NoBacklogError

        try:
            return _local_backlog(target.settings, target.endpoints.pubsub, time.time()).waiting
        except NoBacklogError:
            return None
    with _monitoring_errors(target):
        return newest_sample(target.monitoring, target.settings, datetime.now(UTC))


def read_backlog(target: Target, now: datetime) -> Backlog | None:
    """Like ``count_waiting``, with the age of the oldest message. Raises NoBacklogError for another emulator."""
    if target.endpoints.pubsub is not None:
        return _local_backlog(target.settings, target.endpoints.pubsub, now.timestamp())
    with _monitoring_errors(target):
        return newest_backlog(target.monitoring, target.settings, now)


def _local_backlog(settings: Settings, host: str, now: float) -> Backlog:
    from ecomflow.local.pubsub import server

    found = server.read_backlog(host, settings.subscription_path)
    published = found.oldest_unacked_publish_time
    return Backlog(Waiting(found.num_undelivered_messages), None if published is None else max(0.0, now - published))


@contextmanager
def _monitoring_errors(target: Target) -> Iterator[None]:
    from ecomflow.gcp.errors import google_errors

    with google_errors(target.monitoring_service, f"the backlog of {target.settings.subscription_path}", READ_METRICS):
        yield


def newest_backlog(client: Any, settings: Settings, now: datetime) -> Backlog | None:
    """The newest samples of the count and of the age, which Cloud Monitoring takes in the same minute."""
    waiting, age = (newest_sample(client, settings, now, metric) for metric in (METRIC, AGE_METRIC))
    if waiting is None:
        return None
    return Backlog(waiting, float(age.messages) if age is not None and waiting.messages else None)


def newest_sample(client: Any, settings: Settings, now: datetime, metric: str = METRIC) -> Waiting | None:
    """The newest sample of ``metric`` up to ``now``; ``client`` is a ``monitoring_v3.MetricServiceClient``."""
    from google.cloud import monitoring_v3

    request = monitoring_v3.ListTimeSeriesRequest(
        name=f"projects/{settings.project_id}",
        filter=f'metric.type = "{metric}" AND resource.labels.subscription_id = "{settings.subscription}"',
        interval=monitoring_v3.TimeInterval(start_time=now - _WINDOW, end_time=now),
    )
    points = [point for series in client.list_time_series(request=request, timeout=30) for point in series.points]
    if not points:
        return None
    newest = max(points, key=lambda point: point.interval.end_time)
    return Waiting(int(newest.value.int64_value), datetime.fromtimestamp(newest.interval.end_time.timestamp(), UTC))


def wait_until_empty(
    read: Callable[[], Waiting | None],
    seconds: float,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    steady: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Whether ``read`` (``count_waiting``) returned an empty backlog within ``seconds``.

    Only samples taken after the start of this call count: an older one can miss messages that were published just before.
    """
    began = steady()
    while True:
        waiting = read()
        took = steady() - began
        started = now() - timedelta(seconds=took)  # by the wall clock as it is set now
        is_young = waiting is not None and (waiting.sampled_at is None or waiting.sampled_at >= started)
        if waiting is not None and waiting.messages == 0 and is_young:
            return True
        left = seconds - took
        if left <= 0:
            return False
        counted = waiting is not None and waiting.sampled_at is None
        sleep(min(left, _LOCAL_PAUSE if counted else _CLOUD_PAUSE))  # neither service notifies when the backlog is empty
