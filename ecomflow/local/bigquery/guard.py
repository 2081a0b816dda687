"""bqemulator's servers come in; the same go out behind our guards: they answer this user's programs and no page.

Nor do they wait for a client that keeps silent.
"""

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
    """Puts the guards, and the bounds on connections, into ``bqemulator.server``, in this process. Call before it runs."""
    from bqemulator import server
    from bqemulator.grpc_api import server as grpc_server

    create_app, correlation = server.create_app, grpc_server.CorrelationInterceptor

    def create_guarded_app(context: Any) -> Any:
        return ServiceGuard(create_app(context), rest_user, json_only=True)

    class Interceptor(OwnUserInterceptor):
        """The first of bqemulator's interceptors, which it makes without arguments, behind ours."""

        def __init__(self) -> None:
            super().__init__(grpc_user)
            self._next = correlation()

        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            return await super().intercept_service(partial(self._next.intercept_service, continuation), details)

    class Health(grpc_server.health.aio.HealthServicer):  # type: ignore[misc]  # no types for mypy
        """bqemulator's is made of functions, which can't be guarded. It says once that all is well; this one always does."""

        def set(self, service: str, status: Any) -> None:
            pass

    grpc_server.health = SimpleNamespace(HealthServicer=Health)
    server.create_app, grpc_server.CorrelationInterceptor = create_guarded_app, Interceptor
    grpc_server.grpc = SimpleNamespace(aio=SimpleNamespace(server=_server_with_deadlines))
    # With proxy_headers uvicorn lets anybody say by X-Forwarded-For who is at the other end.
    uvicorn, options = server.uvicorn, {"proxy_headers": False, "http": BoundedProtocol, "ws": "none"}
    server.uvicorn = SimpleNamespace(Config=partial(uvicorn.Config, **options), Server=uvicorn.Server)


def _server_with_deadlines(*, options: Sequence[Any], **named: Any) -> Any:
    return grpc.aio.server(options=[*options, *SERVER_OPTIONS], **named)
