"""Google's own clients, pointed at the endpoints in force. Without an endpoint of ours they use the user's credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecomflow.config import Endpoints

if TYPE_CHECKING:
    from google.cloud import bigquery, pubsub_v1, storage
    from google.cloud.bigquery_storage_v1 import BigQueryWriteClient

# Emulators listen on loopback: a connection is there at once or not at all, and responses may carry a full pull.
_CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def publisher_client(endpoints: Endpoints, **options: object) -> pubsub_v1.PublisherClient:
    """A publisher; ``options`` go to ``pubsub_v1.PublisherClient`` (batch_settings, publisher_options)."""
    from google.cloud import pubsub_v1
    from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport

    if endpoints.pubsub is None:
        return pubsub_v1.PublisherClient(**options)
    return pubsub_v1.PublisherClient(transport=PublisherGrpcTransport(channel=_channel(endpoints.pubsub)), **options)


def subscriber_client(endpoints: Endpoints) -> pubsub_v1.SubscriberClient:
    from google.cloud import pubsub_v1
    from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

    if endpoints.pubsub is None:
        return pubsub_v1.SubscriberClient()
    return pubsub_v1.SubscriberClient(transport=SubscriberGrpcTransport(channel=_channel(endpoints.pubsub)))


def storage_client(project: str, endpoints: Endpoints) -> storage.Client:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    if endpoints.storage is None:
        return storage.Client(project=project)
    return storage.Client(project=project, credentials=AnonymousCredentials(), client_options={"api_endpoint": endpoints.storage})


def bigquery_client(project: str, endpoints: Endpoints, location: str | None = None) -> bigquery.Client:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    if endpoints.bigquery is None:
        return bigquery.Client(project=project, location=location)
    return bigquery.Client(
        project=project,
        location=location,
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": endpoints.bigquery},
    )


def bigquery_write_client(endpoints: Endpoints) -> BigQueryWriteClient:
    from google.cloud.bigquery_storage_v1 import BigQueryWriteClient
    from google.cloud.bigquery_storage_v1.services.big_query_write.transports import BigQueryWriteGrpcTransport

    if endpoints.bigquery_storage is None:
        return BigQueryWriteClient()
    return BigQueryWriteClient(transport=BigQueryWriteGrpcTransport(channel=_channel(endpoints.bigquery_storage)))


def _channel(target: str) -> object:
    import grpc

    return grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)
