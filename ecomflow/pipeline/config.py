"""What a worker needs to know: names, endpoints and the contracts themselves, small and picklable. It reads no file for them."""

from __future__ import annotations

import msgspec

from ecomflow.config import Endpoints, Settings, contracts_of, resolve_endpoints
from ecomflow.contract.language import Contract
from ecomflow.contract.tables import event_streams


class PipelineConfig(msgspec.Struct, frozen=True):
    """The resources that one pipeline reads and writes. Hashable: the key of everything that a process shares."""

    project: str
    subscription_path: str
    bucket: str
    dataset: str
    endpoints: Endpoints
    ack_deadline_seconds: int
    contracts: tuple[Contract, ...]

    @property
    def event_streams(self) -> tuple[str, ...]:
        """The event types, a branch of the graph each."""
        return event_streams(self.contracts)

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
        contracts=contracts_of(settings),
    )
