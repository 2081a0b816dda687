"""How many messages of the pipeline's subscription still wait: from the local Pub/Sub itself, or from Cloud Monitoring."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from ecomflow.config import Endpoints, Settings

METRIC = "pubsub.googleapis.com/subscription/num_undelivered_messages"
# Monitoring samples Pub/Sub every minute and shows a sample after up to four.
# https://cloud.google.com/monitoring/api/metrics_gcp_p_z#gcp-pubsub
_WINDOW = timedelta(minutes=10)


def count_waiting(settings: Settings, endpoints: Endpoints) -> int | None:
    """The unacknowledged messages of the subscription, those held by a pipeline included; None where Monitoring has no sample.

    On Google Cloud the figure is some minutes old. Raises NotFoundError, AccessError and UnavailableError.
    """
    if endpoints.pubsub is not None:
        from ecomflow.local.pubsub import read_backlog

        return read_backlog(endpoints.pubsub, settings.subscription_path).num_undelivered_messages
    from google.cloud import monitoring_v3

    from ecomflow.infra.failures import Service, google_errors

    service = Service("Cloud Monitoring", "monitoring.googleapis.com", "roles/monitoring.viewer", settings.project_id, None)
    with google_errors(service, f"the backlog of {settings.subscription_path}"):
        return newest_sample(monitoring_v3.MetricServiceClient(), settings, datetime.now(UTC))


def newest_sample(client: Any, settings: Settings, now: datetime) -> int | None:
    """The newest sample of the metric up to ``now``, by a ``monitoring_v3.MetricServiceClient``."""
    from google.cloud import monitoring_v3

    request = monitoring_v3.ListTimeSeriesRequest(
        name=f"projects/{settings.project_id}",
        filter=f'metric.type = "{METRIC}" AND resource.labels.subscription_id = "{settings.subscription}"',
        interval=monitoring_v3.TimeInterval(start_time=now - _WINDOW, end_time=now),
    )
    points = [point for series in client.list_time_series(request=request, timeout=30) for point in series.points]
    return max(points, key=lambda point: point.interval.end_time).value.int64_value if points else None
