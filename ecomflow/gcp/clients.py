"""Google's own clients, pointed at the configured endpoints. For Google's endpoints they use the user's credentials."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ecomflow.config import Endpoints

if TYPE_CHECKING:
    from google.cloud import bigquery, dataflow_v1beta3, monitoring_v3, pubsub_v1, storage
    from google.cloud.bigquery_storage_v1 import BigQueryWriteClient
    from google.cloud.bigquery_storage_v1.types import AppendRowsRequest, AppendRowsResponse

T = TypeVar("T")
C = TypeVar("C", "bigquery.Client", "storage.Client")

# Emulators listen on loopback, where a connection succeeds or fails at once: reconnect within two seconds, not after gRPC's usual
# two minutes. Responses may be as large as a full pull.
_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 2000),
]
# More connections than threads that use one client at a time: urllib3 warns about each above its usual ten.
_CONNECTIONS = 40


class DataflowClients(NamedTuple):
    """The clients of Dataflow's three APIs, with the same credentials."""

    jobs: dataflow_v1beta3.JobsV1Beta3Client
    messages: dataflow_v1beta3.MessagesV1Beta3Client
    metrics: dataflow_v1beta3.MetricsV1Beta3Client

    def close(self) -> None:
        for client in self:
            client.transport.close()


def publisher_client(endpoints: Endpoints, **options: object) -> pubsub_v1.PublisherClient:
    """A publisher; ``options`` are passed to ``pubsub_v1.PublisherClient`` (batch_settings, publisher_options)."""
    from google.cloud import pubsub_v1
    from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport

    if endpoints.pubsub is None:
        return _signed_in(lambda: pubsub_v1.PublisherClient(**options))
    return pubsub_v1.PublisherClient(transport=PublisherGrpcTransport(channel=_channel(endpoints.pubsub)), **options)


def subscriber_client(endpoints: Endpoints) -> pubsub_v1.SubscriberClient:
    from google.cloud import pubsub_v1
    from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

    if endpoints.pubsub is None:
        return _signed_in(pubsub_v1.SubscriberClient)
    return pubsub_v1.SubscriberClient(transport=SubscriberGrpcTransport(channel=_channel(endpoints.pubsub)))


def storage_client(project: str, endpoints: Endpoints) -> storage.Client:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    if endpoints.storage is None:
        return _with_connections(_signed_in(lambda: storage.Client(project=project)))
    options = {"api_endpoint": endpoints.storage}
    client = storage.Client(project=project, credentials=AnonymousCredentials(), client_options=options)
    return _with_connections(_without_mtls(client))


def bigquery_client(project: str, endpoints: Endpoints, location: str | None = None) -> bigquery.Client:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    if endpoints.bigquery is None:
        return _with_connections(_signed_in(lambda: bigquery.Client(project=project, location=location)))
    options = {"api_endpoint": endpoints.bigquery}
    client = bigquery.Client(project=project, location=location, credentials=AnonymousCredentials(), client_options=options)
    return _with_connections(_without_mtls(client))


def bigquery_write_client(endpoints: Endpoints) -> BigQueryWriteClient:
    from google.cloud.bigquery_storage_v1 import BigQueryWriteClient
    from google.cloud.bigquery_storage_v1.services.big_query_write.transports import BigQueryWriteGrpcTransport

    if endpoints.bigquery_storage is None:
        return _signed_in(BigQueryWriteClient)
    return BigQueryWriteClient(transport=BigQueryWriteGrpcTransport(channel=_channel(endpoints.bigquery_storage)))


def dataflow_clients(project: str, endpoints: Endpoints) -> DataflowClients:
    from google.api_core.client_options import ClientOptions
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import dataflow_v1beta3 as dataflow

    from ecomflow.gcp.credentials import find_credentials

    credentials = find_credentials(project) if endpoints.dataflow is None else AnonymousCredentials()
    options = ClientOptions(api_endpoint=endpoints.dataflow)
    return DataflowClients(
        dataflow.JobsV1Beta3Client(transport="rest", credentials=credentials, client_options=options),
        dataflow.MessagesV1Beta3Client(transport="rest", credentials=credentials, client_options=options),
        dataflow.MetricsV1Beta3Client(transport="rest", credentials=credentials, client_options=options),
    )


def monitoring_client(project: str) -> monitoring_v3.MetricServiceClient:
    from google.cloud import monitoring_v3

    from ecomflow.gcp.credentials import find_credentials

    return monitoring_v3.MetricServiceClient(credentials=find_credentials(project))


def append_rows(
    client: BigQueryWriteClient, write_stream: str, requests: Iterator[AppendRowsRequest]
) -> Iterable[AppendRowsResponse]:
    """AppendRows over one connection: sends ``requests`` to ``write_stream`` and yields their responses in order.

    Sends the routing header that the service requires outside the US multi-region. ``client.append_rows`` doesn't know the
    stream and sends an empty header, even next to the caller's, and such a connection sometimes fails with "Cannot route on
    empty project id ''": https://cloud.google.com/bigquery/docs/write-api
    """
    from google.api_core import gapic_v1

    call = gapic_v1.method.wrap_method(client.transport.append_rows)
    header = gapic_v1.routing_header.to_grpc_metadata({"write_stream": write_stream})
    responses: Iterable[AppendRowsResponse] = call(requests, retry=None, timeout=None, metadata=(header,))
    return responses


def _without_mtls(client: C) -> C:
    """``client``, changed to use its endpoint even if GOOGLE_API_USE_MTLS_ENDPOINT=always selects Google's mTLS host.

    google-cloud-core reads that variable on each request and applies a custom endpoint only to the other host.
    """
    connection = client._connection
    connection.API_BASE_MTLS_URL = connection.API_BASE_URL
    return client


def _with_connections(client: C) -> C:
    """``client``, with as many connections as its threads use, unless they need the certificate of Google's adapter."""
    from requests.adapters import HTTPAdapter

    session = client._http
    if not session.is_mtls:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=_CONNECTIONS))
    return client


def _signed_in(make: Callable[[], T]) -> T:
    """A client with the user's credentials. Raises AccessError if there are none."""
    from google.auth.exceptions import DefaultCredentialsError

    from ecomflow.gcp.errors import no_credentials

    try:
        return make()
    except DefaultCredentialsError as error:
        raise no_credentials(error) from error


def _channel(target: str) -> object:
    import grpc

    return grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)
