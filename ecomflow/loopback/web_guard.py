"""Refuses requests of web pages and of other users of the machine to a service on loopback.

A page of any site can send requests to 127.0.0.1, but its browser's headers reveal it: ``Origin`` and ``Sec-Fetch-Site`` name
another site, and ``Host`` has the page's own host name if that resolves to this machine (DNS rebinding). No response contains
headers that would let a page read it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from ecomflow.loopback.peers import OwnUser

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOOPBACK_NAME = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
_OWN_SITE = ("same-origin", "none")
# A page may send these, and a body without a type, to any site without a preflight: https://fetch.spec.whatwg.org/#cors-safelisted-request-header
_SIMPLE_TYPES = ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data")

Refusal = tuple[int, str]
"""An HTTP status and a sentence."""

WAIT_SECONDS = 10.0
"""How long a client of any service may take after connecting to send the head of a request."""


def is_loopback_name(host: str) -> bool:
    """Whether the Host header ``host`` names this machine, with or without a port."""
    return _LOOPBACK_NAME.fullmatch(host) is not None


def is_own_origin(origin: str | None, host: str) -> bool:
    """Whether the Origin header ``origin`` is that of the pages served by ``host`` itself."""
    return origin is not None and origin.lower() == f"http://{host.lower()}"


def page_refusal(headers: Mapping[str, str]) -> Refusal | None:
    """Why a request is refused that a page of another site may have sent; None if it is allowed. Names are lower case."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if not is_loopback_name(host):
        return 403, "Expected a loopback host name in Host: 127.0.0.1 or localhost."
    if origin is not None and not is_own_origin(origin, host):
        return 403, "Requests from web pages are refused: expected no Origin."
    if headers.get("sec-fetch-site", "none") not in _OWN_SITE:
        return 403, "Requests from web pages are refused: expected no Sec-Fetch-Site."
    return None


def body_refusal(headers: Mapping[str, str]) -> Refusal | None:
    """Why a body is refused whose type any page may send; None if there is no body, or it has another type."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    if has_body and kind in _SIMPLE_TYPES:
        return 415, f"Expected the Content-Type application/json, got {kind or 'none'}."
    return None


class ServiceGuard:
    """ASGI middleware for a service that serves only this user's programs, and no web page.

    ``json_only``: a body must have a type that a page can't send without a preflight. Refusals have the format of Google's
    errors.
    """

    def __init__(self, app: App, own_user: OwnUser, *, json_only: bool) -> None:
        self._app, self._own_user, self._json_only = app, own_user, json_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            refusal = self._refusal(scope)
            await (self._app(scope, receive, send) if refusal is None else send_refusal(send, refusal))

    def _refusal(self, scope: Scope) -> Refusal | None:
        if sentence := self._own_user.refusal(scope.get("client")):
            return 403, sentence
        headers = decoded(scope["headers"])
        return page_refusal(headers) or (body_refusal(headers) if self._json_only else None)


class UserGuard:
    """ASGI middleware for an application that serves only this user."""

    def __init__(self, app: App, own_user: OwnUser) -> None:
        self._app, self._own_user = app, own_user

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (sentence := self._own_user.refusal(scope.get("client"))):
            await send_refusal(send, (403, sentence))
        else:
            await self._app(scope, receive, send)


def decoded(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """ASGI's headers by lower-case name; the values of a repeated name are joined, as HTTP defines it."""
    found: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


async def send_refusal(send: Send, refusal: Refusal) -> None:
    """Respond in the format of Google's errors: https://cloud.google.com/storage/docs/json_api/v1/status-codes"""
    status, sentence = refusal
    error = {"code": status, "message": sentence, "errors": [{"reason": "forbidden", "message": sentence}]}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
