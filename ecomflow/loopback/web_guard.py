"""Requests to a service on loopback come in; those that a web page or another user of the machine sent are refused.

A page of any site can send requests to 127.0.0.1. What its browser sends along gives it away: ``Origin`` and ``Sec-Fetch-Site``
name another site, and ``Host`` the page's own name where that was made to lead here (DNS rebinding). No answer lets it be read.
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
# A page may send these, and a body without a type, to any site without asking it first: https://fetch.spec.whatwg.org/#cors-safelisted-request-header
_SIMPLE_TYPES = ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data")

Refusal = tuple[int, str]
"""A status and a sentence."""

WAIT_SECONDS = 10.0
"""How long a client of any service may take to send a request's head once it has connected."""


def is_loopback_name(host: str) -> bool:
    """Whether the Host header ``host`` names this machine, with or without a port."""
    return _LOOPBACK_NAME.fullmatch(host) is not None


def is_own_origin(origin: str | None, host: str) -> bool:
    """Whether the Origin header ``origin`` is that of the pages which ``host`` itself serves."""
    return origin is not None and origin.lower() == f"http://{host.lower()}"


def page_refusal(headers: Mapping[str, str]) -> Refusal | None:
    """Why a request that a page of another site may have sent is refused; None: it is none. Names are lower case."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if not is_loopback_name(host):
        return 403, "Expected a loopback name in Host: 127.0.0.1 or localhost."
    if origin is not None and not is_own_origin(origin, host):
        return 403, "Requests of web pages are refused: expected no Origin."
    if headers.get("sec-fetch-site", "none") not in _OWN_SITE:
        return 403, "Requests of web pages are refused: expected no Sec-Fetch-Site."
    return None


def body_refusal(headers: Mapping[str, str]) -> Refusal | None:
    """Why a body of a type that any page may send is refused; None: there is no body, or it is of another type."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    if has_body and kind in _SIMPLE_TYPES:
        return 415, f"Expected the Content-Type application/json, got {kind or 'none'}."
    return None


class ServiceGuard:
    """The ASGI middleware before a service: it answers this user's programs alone, and no page.

    ``json_only``: a body must be of a type that a page can't send unasked. Refusals have the shape of Google's errors.
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
    """The ASGI middleware that answers this user alone."""

    def __init__(self, app: App, own_user: OwnUser) -> None:
        self._app, self._own_user = app, own_user

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (sentence := self._own_user.refusal(scope.get("client"))):
            await send_refusal(send, (403, sentence))
        else:
            await self._app(scope, receive, send)


def decoded(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """ASGI's headers by name in lower case; the values of a name that comes twice are joined, as HTTP has it."""
    found: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


async def send_refusal(send: Send, refusal: Refusal) -> None:
    """Answers in the shape of Google's errors: https://cloud.google.com/storage/docs/json_api/v1/status-codes"""
    status, sentence = refusal
    error = {"code": status, "message": sentence, "errors": [{"reason": "forbidden", "message": sentence}]}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
