"""Protects bqemulator's servers: they serve only this user's programs, no web page, and do not wait for silent clients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import grpc.aio

from ecomflow.loopback.connections import BoundedProtocol
from ecomflow.loopback.grpc_guard import SERVER_OPTIONS, OwnUserInterceptor
from ecomflow.loopback.peers import OwnUser
from ecomflow.loopback.web_guard import ServiceGuard


def guard_servers(rest_user: OwnUser, grpc_user: OwnUser) -> None:
    """Add the guards and the connection limits to ``bqemulator.server`` in this process. Call this before it runs."""
    from bqemulator import server
    from bqemulator.grpc_api import server as grpc_server

    create_app, correlation = server.create_app, grpc_server.CorrelationInterceptor

    def create_guarded_app(context: Any) -> Any:
        return ServiceGuard(create_app(context), rest_user, json_only=True)

    class Interceptor(OwnUserInterceptor):
        """bqemulator's first interceptor, which it creates without arguments, behind ecomflow's."""

        def __init__(self) -> None:
            super().__init__(grpc_user)
            self._next = correlation()

        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            return await super().intercept_service(partial(self._next.intercept_service, continuation), details)

    class Health(grpc_server.health.aio.HealthServicer):  # type: ignore[misc]  # no types for mypy
        """bqemulator's health service uses functions that can't be guarded. It sets SERVING once; this one always returns it."""

        def set(self, service: str, status: Any) -> None:
            pass

    grpc_server.health = SimpleNamespace(HealthServicer=Health)
    server.create_app, grpc_server.CorrelationInterceptor = create_guarded_app, Interceptor
    grpc_server.grpc = SimpleNamespace(aio=SimpleNamespace(server=_server_with_deadlines))
    # With proxy_headers, any client could set its own address with X-Forwarded-For.
    uvicorn, options = server.uvicorn, {"proxy_headers": False, "http": BoundedProtocol, "ws": "none"}
    server.uvicorn = SimpleNamespace(Config=partial(uvicorn.Config, **options), Server=uvicorn.Server)


def _server_with_deadlines(*, options: Sequence[Any], **named: Any) -> Any:
    return grpc.aio.server(options=[*options, *SERVER_OPTIONS], **named)
