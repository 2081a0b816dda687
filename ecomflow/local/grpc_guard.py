"""gRPC calls come in; those of other users of the machine end with PERMISSION_DENIED before their method is called."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio

from ecomflow.peers import OwnUser, parse_grpc_peer

_MAKERS = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


class OwnUserInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types for mypy
    """The interceptor of a server that answers this user alone. ``own_user`` may be set once the server has its port."""

    def __init__(self, own_user: OwnUser | None = None) -> None:
        self.own_user = own_user

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        name, make = _MAKERS[handler.request_streaming, handler.response_streaming]
        guarded = self._guarded(getattr(handler, name))
        return make(guarded, handler.request_deserializer, handler.response_serializer)

    def _guarded(self, method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """``method`` behind the check, in the form that it has: gRPC treats coroutines and generators differently."""

        async def call(request: Any, context: Any) -> Any:
            if refusal := self._refusal(context):
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)
            return await method(request, context)

        async def iterate(request: Any, context: Any) -> AsyncIterator[Any]:
            if refusal := self._refusal(context):
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)
            async for response in method(request, context):
                yield response

        def iterate_in_thread(request: Any, context: Any) -> Iterator[Any]:
            # In a thread abort returns, and what follows it would be done.
            if refusal := self._refusal(context):
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

    def _refusal(self, context: Any) -> str | None:
        if self.own_user is None:
            raise RuntimeError("The server was started before it knew its user.")
        return self.own_user.refusal(parse_grpc_peer(context.peer()))
