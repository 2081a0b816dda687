"""What the tests in the browser share: a pipeline that runs, the page as ``ecomflow ui`` serves it, and Chromium before it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from ecomflow import infra
from ecomflow.config import Endpoints, Settings
from ecomflow.gcp.target import Target
from tests.support.cli import start
from tests.support.running import Pipeline, settings_in
from tests.support.waiting import wait_until

CHROMIUM = shutil.which("chromium")
# Nothing of it may speak to anyone but the page.
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Another site, and a name that was made to lead here.
    "--host-resolver-rules=MAP evil.example 127.0.0.1",
)


class Server:
    """``ecomflow ui`` as a process."""

    def __init__(self, settings: Settings, log: Path, *more: str) -> None:
        self.log = log
        self.process: subprocess.Popen[bytes] = start("ui", "--no-open", "--port", "0", *more, settings=settings, log=log)
        wait_until(lambda: self._printed() is not None, "the page is served")
        self.address = self._printed() or ""
        self.base = self.address.partition("/?")[0]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        assert self.process.wait(10) == 0, self.log.read_text()

    def _printed(self) -> str | None:
        assert self.process.poll() is None, self.log.read_text()
        found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", self.log.read_text())
        return found[0] if found else None


@pytest.fixture(scope="session")
def shop(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A shop's resources, and a state folder of its own on the shared stack."""
    unique = uuid.uuid4().hex[:8]
    names = {"topic": f"topic-{unique}", "subscription": f"sub-{unique}", "bucket": f"bucket-{unique}"}
    settings = Settings(**names, dataset=f"dataset_{unique}", ack_deadline_seconds=10)
    target = Target(settings, stack)
    infra.apply(target, infra.plan(target))
    return settings_in(tmp_path_factory.mktemp("shop"), settings, stack)


@pytest.fixture(scope="session")
def shared_pipeline(shop: Settings) -> Iterator[Pipeline]:
    pipeline = Pipeline(shop).started()
    yield pipeline
    pipeline.end()


@pytest.fixture
def pipeline(shared_pipeline: Pipeline) -> Pipeline:
    """The shop's pipeline; started again where a test before has ended it."""
    return shared_pipeline.started()


@pytest.fixture(scope="session")
def server(shop: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shop's page, which may replay."""
    server = Server(shop, tmp_path_factory.mktemp("ui") / "ui.log", "--allow-replay")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Chromium with an empty profile of its own."""
    assert CHROMIUM, "There is no chromium. Run: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


class Watched:
    """A page, and whatever in it must never happen: a dialog, an error, a refusal by its own policy."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.wrong: list[str] = []
        page.on("dialog", self._dialog)
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("console", lambda message: self.wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("request", self._request)
        self.base: str | None = None

    def _dialog(self, dialog: object) -> None:
        self.wrong.append("dialog")
        dialog.dismiss()  # type: ignore[attr-defined]

    def _request(self, request: object) -> None:
        url = str(request.url)  # type: ignore[attr-defined]
        if self.base and not url.startswith((self.base, "data:")):
            self.wrong.append(f"request: {url}")


@pytest.fixture
def watched(chromium: Browser, server: Server) -> Iterator[Watched]:
    """A page that is let in. The test fails where anything went wrong in it."""
    context = chromium.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(20_000)
    found = Watched(context.new_page())
    found.base = server.base
    found.page.goto(server.address)
    yield found
    context.close()
    assert found.wrong == []


@pytest.fixture
def page(watched: Watched) -> Page:
    """The page, let in, at the graph."""
    return watched.page
