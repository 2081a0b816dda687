"""The page without a server: its guard and its views, asked as a browser would ask."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable

from httpx import Response

from ecomflow.config import Settings
from ecomflow.ui.app import Options, make_app
from ecomflow.ui.guard import Gate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette would rather have another client, which is not needed here
    from starlette.testclient import TestClient

PORT = 8377
BASE = f"http://127.0.0.1:{PORT}"


def page_of(settings: Settings, *, let_in: bool = True, **options: bool | int) -> tuple[TestClient, Gate]:
    """A browser on the page of ``settings``; with the cookie already where it is ``let_in``."""
    gate = Gate(PORT)
    app, _ = make_app(settings, gate, Options(**options))  # type: ignore[arg-type]
    browser = TestClient(app, base_url=BASE, follow_redirects=False)
    if let_in:
        assert browser.get(f"/?token={gate.printed}").status_code == 303
    return browser, gate


def post(browser: TestClient, gate: Gate, path: str, origin: str | None = BASE, **fields: str) -> Response:
    """A form of the page, as the browser sends it."""
    headers = {} if origin is None else {"origin": origin}
    return browser.post(path, data={"form_token": gate.form_token, **fields}, headers=headers)


def until(look: Callable[[], Response], wanted: str, seconds: float = 20.0) -> str:
    """What the page shows once it contains ``wanted``: it is requested repeatedly, as its own script does."""
    give_up = time.monotonic() + seconds
    while True:
        text = look().text
        if re.search(wanted, text):
            return text
        assert time.monotonic() < give_up, f"{wanted!r} does not come; the page shows: {text[-1500:]}"
        time.sleep(0.05)  # the page does not notify anyone when it has read something
