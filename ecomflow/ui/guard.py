"""Access control: refuses requests without the token, and adds strict headers to every response.

The address that ``ecomflow ui`` opens contains a token. The first request exchanges it for a cookie that scripts can't read and
that requests from other sites don't carry. Only a POST changes anything, and needs the cookie, this page's ``Origin`` and the
form's token. ``Host`` must be a loopback name, to prevent DNS rebinding.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request, cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ecomflow.loopback.web_guard import is_own_origin

MAX_FORM_BYTES = 256 * 1024

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'; "
        "require-trusted-types-for 'script'; trusted-types ecomflow"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # No referrer to other sites. With no-referrer, browsers would send "Origin: null" with this page's own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_WHY = "Open the address that ecomflow ui printed: it contains the token that gives you access.\n"


class Gate:
    """The secrets of one server on ``port``. All users of the machine can see the token on the browser's command line, so it
    works only once; the printed one works any number of times.
    """

    def __init__(self, port: int) -> None:
        self.hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        self.cookie_name = f"ecomflow_ui_{port}"  # browsers keep one jar for all ports
        self.printed, self.form_token = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self._opened: str | None = None
        self._cookie = secrets.token_urlsafe(32)

    def address(self, token: str) -> str:
        """The address with ``token``."""
        return f"http://{self.hosts[0]}/?token={token}"

    def once(self) -> str:
        """A token that works once."""
        self._opened = secrets.token_urlsafe(32)
        return self._opened

    def takes(self, token: str) -> bool:
        """Whether ``token`` is valid now."""
        opened, known = self._opened, _same(token, self.printed)
        if opened is not None and _same(token, opened):
            self._opened, known = None, True
        return known

    def knows(self, cookies: str) -> bool:
        """Whether the Cookie header ``cookies`` contains this server's cookie."""
        return _same(cookie_parser(cookies).get(self.cookie_name, ""), self._cookie)

    def let_in(self, path: str) -> Response:
        """Redirect to ``path`` without the token, and set the cookie."""
        response = RedirectResponse(path, status_code=303)
        response.set_cookie(self.cookie_name, self._cookie, httponly=True, samesite="strict", path="/")
        return response


class Guard:
    """ASGI middleware that protects the page."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = self._answer(scope["method"], scope["path"], Headers(scope=scope), scope["query_string"])
        await (answer or self._app)(scope, receive, send_with_headers)

    def _answer(self, method: str, path: str, headers: Mapping[str, str], query: bytes) -> Response | None:
        """A response instead of the page's; None if the request is allowed."""
        host = headers.get("host", "")
        if host not in self._gate.hosts:
            return _refusal(f"This page is only available at http://{self._gate.hosts[0]}/.\n")
        token = parse_qs(query.decode("latin-1")).get("token", [""])[0]
        if token and method == "GET":
            return (
                self._gate.let_in("/") if self._gate.takes(token) else _refusal(f"The token is not valid for this server. {_WHY}")
            )
        if not self._gate.knows(headers.get("cookie", "")):
            # A link from another site has the token but does not send the cookie yet: the user's next click does.
            return _refusal(_WHY)
        if method in ("GET", "HEAD"):
            return None
        if method != "POST":
            return PlainTextResponse("Only GET and POST are allowed.\n", 405)
        return None if is_own_origin(headers.get("origin"), host) else _refusal("The form does not come from this page.\n")


async def read_form(request: Request, gate: Gate) -> dict[str, str] | Response:
    """The fields of a form, each once; a refusal if the form's token is missing or the form is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return PlainTextResponse(f"The form is too large: expected at most {MAX_FORM_BYTES:,} bytes.\n", 413)
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=50)
    except ValueError:
        return PlainTextResponse("The form can't be read.\n", 400)
    given = {name: values[-1] for name, values in fields.items()}
    if not _same(given.pop("form_token", ""), gate.form_token):
        return _refusal("The form does not come from this page, or the server was restarted: reload the page.\n")
    return given


def _refusal(why: str) -> Response:
    return PlainTextResponse(why, 403)


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())
