"""Rejects gRPC calls of other users of the machine with PERMISSION_DENIED before their method is called.

Idle connections are closed.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio

from ecomflow.loopback.peers import OwnUser, parse_grpc_peer
from ecomflow.loopback.web_guard import WAIT_SECONDS

SERVER_OPTIONS = (
    # For the HTTP/2 handshake: https://grpc.github.io/grpc/core/group__grpc__arg__keys.html
    ("grpc.server_handshake_timeout_ms", int(1000 * WAIT_SECONDS)),
    # Without a call (an open stream counts as one). gRPC clients reconnect automatically.
    ("grpc.max_connection_idle_ms", 300_000),
)
"""The deadlines of every gRPC server; gRPC's defaults are two minutes and none."""

_MAKERS = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


class OwnUserHandler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types for mypy
    """The methods of a service, for this user only. Cheaper than an interceptor: a method is wrapped once, not on each call."""

    def __init__(self, service: Any, own_user: OwnUser) -> None:
        self._service, self._own_user = service, own_user
        self._methods: dict[str, Any] = {}

    def service(self, details: Any) -> Any:
        method = self._methods.get(details.method)
        if method is None and (found := self._service.service(details)) is not None:
            method = self._methods[details.method] = guarded(found, self._own_user)
        return method


class OwnUserInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types for mypy
    """The interceptor of a server that serves only this user."""

    def __init__(self, own_user: OwnUser) -> None:
        self._own_user = own_user

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        return None if handler is None else guarded(handler, self._own_user)


def guarded(handler: Any, own_user: OwnUser) -> Any:
    """``handler``, with its method restricted to this user."""
    name, make = _MAKERS[handler.request_streaming, handler.response_streaming]
    method = _guarded_method(getattr(handler, name), own_user)
    return make(method, handler.request_deserializer, handler.response_serializer)


def _guarded_method(method: Callable[[Any, Any], Any], own_user: OwnUser) -> Callable[[Any, Any], Any]:
    """``method`` with the check, as the same kind of function: gRPC treats coroutines and generators differently."""

    def refused(context: Any) -> str | None:
        return own_user.refusal(parse_grpc_peer(context.peer()))

    async def call(request: Any, context: Any) -> Any:
        if refusal := refused(context):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)
        return await method(request, context)

    async def iterate(request: Any, context: Any) -> AsyncIterator[Any]:
        if refusal := refused(context):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)
        async for response in method(request, context):
            yield response

    def iterate_in_thread(request: Any, context: Any) -> Iterator[Any]:
        # In a thread, abort returns, and the code after it would run.
        if refusal := refused(context):
            context.set_code(grpc.StatusCode.PERMISSION_DENIED)
            context.set_details(refusal)
            return
        yield from method(request, context)

    if inspect.iscoroutinefunction(method):
        return call
    if inspect.isasyncgenfunction(method):
        return iterate
    if inspect.isgeneratorfunction(method):
        return iterate_in_thread
    raise TypeError(f"{method} is neither a coroutine nor a generator: it can't be guarded.")
