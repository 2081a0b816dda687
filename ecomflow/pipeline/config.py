"""What a worker needs to know: names and endpoints, small and picklable."""

from __future__ import annotations

import msgspec

from ecomflow.config import Endpoints, Settings, resolve_endpoints
from ecomflow.contract.rules import DEFAULT_ORDER_TOTALS, OrderTotals


class PipelineConfig(msgspec.Struct, frozen=True):
    """The resources that one pipeline reads and writes. Hashable: the key of everything that a process shares."""

    project: str
    subscription_path: str
    bucket: str
    dataset: str
    endpoints: Endpoints
    ack_deadline_seconds: int
    order_totals: OrderTotals = DEFAULT_ORDER_TOTALS

    def table_path(self, table: str) -> str:
        return f"projects/{self.project}/datasets/{self.dataset}/tables/{table}"


def pipeline_config(settings: Settings) -> PipelineConfig:
    """The pipeline's view of ``settings``, with the endpoints in force."""
    return PipelineConfig(
        project=settings.project_id,
        subscription_path=settings.subscription_path,
        bucket=settings.bucket_name,
        dataset=settings.dataset,
        endpoints=resolve_endpoints(settings),
        ack_deadline_seconds=settings.ack_deadline_seconds,
        order_totals=settings.order_totals,
    )
