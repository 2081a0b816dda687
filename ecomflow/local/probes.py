"""Health checks of the local services, and of the Pub/Sub's log, by a real call of their APIs.

The calls use plain sockets and gRPC, because Google's clients take a second to import and minutes to give up.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

import grpc
import msgspec

from ecomflow.local.pubsub.log import Damage

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


def accepts(endpoint: str, timeout_seconds: float) -> bool:
    """Whether anything listens at ``endpoint`` (``127.0.0.1:8085``, ``http://127.0.0.1:9000``): less than a request would say."""
    parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout_seconds):
            return True
    except OSError:
        return False


def read_damage(port: int, timeout_seconds: float) -> tuple[Damage, ...]:
    """The damage that the local Pub/Sub on ``port`` found in its log; none if it does not respond or is another emulator."""
    answer = _grpc_answer(port, "/ecomflow.local.Stats/Damage", b"", timeout_seconds)
    return () if answer is None else msgspec.json.decode(answer, type=tuple[Damage, ...])


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
    return _grpc_answer(port, method, request, timeout_seconds) is not None


def _grpc_answer(port: int, method: str, request: bytes, timeout_seconds: float) -> bytes | None:
    # A shared connection would back off for a second after the first failure, and use a configured proxy.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        try:
            return bytes(channel.unary_unary(method)(request, timeout=timeout_seconds))
        except grpc.RpcError:
            return None
