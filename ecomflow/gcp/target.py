"""Settings and endpoints in; Google's clients for them out, each made on first use and closed with the target.

A command opens one target and hands it down.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from ecomflow.config import (
    EMULATOR_VARIABLES,
    Endpoints,
    Settings,
    external_endpoints,
    resolve_endpoints,
    running_endpoints,
)
from ecomflow.gcp import clients
from ecomflow.gcp.on_demand import OnDemand
from ecomflow.gcp.services import Service

if TYPE_CHECKING:
    from google.cloud.bigquery import Client as BigQueryClient
    from google.cloud.bigquery_storage_v1 import BigQueryWriteClient
    from google.cloud.monitoring_v3 import MetricServiceClient
    from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient
    from google.cloud.storage import Bucket
    from google.cloud.storage import Client as StorageClient


class Target:
    """What a command works on: its ``settings``, the ``endpoints`` in force, and the clients of Google's services there.

    A client is made when it is first asked for; ``close`` closes those that were made. Safe for several threads. It is not
    pickled: what travels to a worker is a ``PipelineConfig``. A function that needs only settings takes those.
    """

    def __init__(self, settings: Settings, endpoints: Endpoints) -> None:
        self.settings, self.endpoints = settings, endpoints
        project, location = settings.project_id, settings.location
        self._publisher = OnDemand(lambda: clients.publisher_client(endpoints), lambda client: client.transport.close())
        self._subscriber = OnDemand(lambda: clients.subscriber_client(endpoints), lambda client: client.close())
        self._storage = OnDemand(lambda: clients.storage_client(project, endpoints), lambda client: client.close())
        self._bigquery = OnDemand(lambda: clients.bigquery_client(project, endpoints, location), lambda client: client.close())
        self._bigquery_write = OnDemand(lambda: clients.bigquery_write_client(endpoints), lambda client: client.transport.close())
        self._dataflow = OnDemand(lambda: clients.dataflow_clients(project, endpoints), clients.DataflowClients.close)
        self._monitoring = OnDemand(lambda: clients.monitoring_client(project), lambda client: client.transport.close())

    @property
    def publisher(self) -> PublisherClient:
        return self._publisher.get()

    @property
    def subscriber(self) -> SubscriberClient:
        return self._subscriber.get()

    @property
    def storage(self) -> StorageClient:
        return self._storage.get()

    @property
    def bucket(self) -> Bucket:
        """The configured bucket. Sends no request."""
        return self.storage.bucket(self.settings.bucket_name)

    @property
    def bigquery(self) -> BigQueryClient:
        return self._bigquery.get()

    @property
    def bigquery_write(self) -> BigQueryWriteClient:
        return self._bigquery_write.get()

    @property
    def dataflow(self) -> clients.DataflowClients:
        return self._dataflow.get()

    @property
    def monitoring(self) -> MetricServiceClient:
        """Cloud Monitoring, which has no emulator."""
        return self._monitoring.get()

    @property
    def pubsub_service(self) -> Service:
        return self._service("Pub/Sub", "pubsub", "roles/pubsub.editor")

    @property
    def storage_service(self) -> Service:
        return self._service("Cloud Storage", "storage", "roles/storage.admin")

    @property
    def bigquery_service(self) -> Service:
        return self._service("BigQuery", "bigquery", "roles/bigquery.dataOwner and roles/bigquery.jobUser")

    @property
    def dataflow_service(self) -> Service:
        service = self._service("Dataflow", "dataflow", "roles/dataflow.developer")
        return msgspec.structs.replace(service, no_answer=f"Check {EMULATOR_VARIABLES['dataflow']}.")

    @property
    def monitoring_service(self) -> Service:
        return Service("Cloud Monitoring", "monitoring.googleapis.com", "roles/monitoring.viewer", self.settings.project_id, None)

    def close(self) -> None:
        """Close the clients that were made; calls in progress on other threads fail."""
        kept = (self._publisher, self._subscriber, self._storage, self._bigquery, self._bigquery_write)
        for client in (*kept, self._dataflow, self._monitoring):
            client.close()

    def __enter__(self) -> Target:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _service(self, title: str, api: str, role: str) -> Service:
        """``api`` is also its field of the endpoints."""
        endpoint = getattr(self.endpoints, api)
        service = Service(title, f"{api}.googleapis.com", role, self.settings.project_id, endpoint)
        if endpoint is None or external_endpoints(self.settings).get(api) != endpoint:
            return service
        return msgspec.structs.replace(service, no_answer=f"Check {EMULATOR_VARIABLES[api]}, or unset it.")


def open_target(settings: Settings, *, running: bool = True) -> Target:
    """The target of ``settings``, to use in a ``with``.

    Raises UnavailableError if it is a local stack that does not run; without ``running``, its unknown endpoints are None.
    """
    return Target(settings, running_endpoints(settings) if running else resolve_endpoints(settings))


class LiveTarget:
    """The target of a process that outlives the local stack, such as the page: another one when the endpoints have changed.

    Safe for several threads.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._target: Target | None = None

    def running(self) -> Target:
        """The target now. Raises UnavailableError if it is a local stack that does not run."""
        return self._at(running_endpoints(self._settings))

    def resolved(self) -> Target:
        """The target now, also if the local stack does not run: its unknown endpoints are None."""
        return self._at(resolve_endpoints(self._settings))

    def close(self) -> None:
        with self._lock:
            target, self._target = self._target, None
        if target is not None:
            target.close()

    def __enter__(self) -> LiveTarget:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _at(self, endpoints: Endpoints) -> Target:
        with self._lock:
            before = self._target
            if before is not None and before.endpoints == endpoints:
                return before
            made = self._target = Target(self._settings, endpoints)
        if before is not None:
            before.close()
        return made
