"""Health checks of the local services by a real call of their APIs.

The calls use plain sockets and gRPC, because Google's clients take a second to import and minutes to give up.
"""

from __future__ import annotations

import http.client
from collections.abc import Sequence

import grpc

_PROJECT = b"projects/ecomflow-local"
# ListTopicsRequest with field 1, the project; a HealthCheckRequest is empty.
_LIST_TOPICS = b"\x0a" + bytes([len(_PROJECT)]) + _PROJECT


def answers(service: str, ports: Sequence[int], timeout_seconds: float) -> bool:
    """Whether ``service`` (pubsub, storage, bigquery) responds on all its ``ports`` within ``timeout_seconds`` each."""
    if service == "pubsub":
        return _grpc_answers(ports[0], "/google.pubsub.v1.Publisher/ListTopics", _LIST_TOPICS, timeout_seconds)
    if service == "storage":
        return _http_answers(ports[0], "/storage/v1/b?project=ecomflow-local", timeout_seconds)
    return _http_answers(ports[0], "/bigquery/v2/projects/ecomflow-local/datasets", timeout_seconds) and _grpc_answers(
        ports[1], "/grpc.health.v1.Health/Check", b"", timeout_seconds
    )


def _http_answers(port: int, path: str, timeout_seconds: float) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_seconds)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _grpc_answers(port: int, method: str, request: bytes, timeout_seconds: float) -> bool:
    # A shared connection would back off for a second after the first failure, and use a configured proxy.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        try:
            channel.unary_unary(method)(request, timeout=timeout_seconds)
        except grpc.RpcError:
            return False
    return True
