"""A real run on a throw-away stack in; the pictures of the README and the docs, in ``docs/pictures``, out: ``make pictures``.

The terminal's views are what the commands print, as SVG; the page's are Chromium's own screenshots. Nothing is drawn by hand.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright
from rich import _export_format
from rich.console import Console, RenderableType
from rich.text import Text

from ecomflow.commands.top_view import top_view
from ecomflow.config import Settings
from ecomflow.gcp.target import LiveTarget
from ecomflow.jobs.metrics import MetricsReader
from ecomflow.metrics.history import History

PICTURES = Path(__file__).parent / "pictures"
COLUMNS, LINES = 110, 40
SEED, RATE, ROUNDS = "7", "60", "2200"
# The page charts an hour, of which some minutes are to be seen.
WARM_SECONDS = 180.0
CHROMIUM = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")

# Rich's SVG fetches its font from elsewhere; the reader's own monospace font does as well.
_SVG = re.sub(r"@font-face \{\{.*?\}\}", "", _export_format.CONSOLE_SVG_FORMAT, flags=re.DOTALL)


class Shop:
    """A local stack of its own, and the commands that run on it."""

    def __init__(self, folder: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.endswith("_EMULATOR_HOST")}
        self._environment = {**kept, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "LINES": str(LINES)}
        self._folder = folder
        self.settings = Settings(state_dir=str(folder / ".ecomflow"))

    def run(self, *words: str) -> str:
        """What ``ecomflow`` prints."""
        done = subprocess.run(self._command(words), capture_output=True, text=True, check=False, **self._place)
        if done.returncode != 0:
            raise RuntimeError(f"ecomflow {' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    @contextmanager
    def running(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """``ecomflow`` as a process, ended at the end."""
        process = subprocess.Popen(
            self._command(words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **self._place
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait()

    def picture(self, name: str, *words: str) -> None:
        """What ``ecomflow`` prints, and the command above it, as ``name``.svg."""
        save_terminal(name, Text.from_ansi(f"$ ecomflow {' '.join(words)}\n{self.run(*words)}".rstrip("\n")))

    @property
    def _place(self) -> dict[str, object]:
        return {"cwd": self._folder, "env": self._environment}

    @staticmethod
    def _command(words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "ecomflow", *words]


def save_terminal(name: str, shown: RenderableType) -> None:
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(shown)
    svg = console.export_svg(title="ecomflow", code_format=_SVG, unique_id=name)
    (PICTURES / f"{name}.svg").write_text("".join(f"{line.rstrip()}\n" for line in svg.splitlines()))


def watched(settings: Settings, seconds: float) -> History:
    """The metrics of the next ``seconds``, read as ``ecomflow top`` reads them."""
    history = History()
    with LiveTarget(settings) as target:
        reader = MetricsReader(settings, target.resolved, here=True)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            history.add(reader.read(), time.time())
            time.sleep(1.0)
    return history


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ecomflow-pictures-") as folder:
        shop = Shop(Path(folder))
        shop.run("infra", "up")
        try:
            shop.run("deploy", "--detach")
            take_pictures(shop)
            shop.run("job", "drain")
        finally:
            shop.run("infra", "down", "--yes")
    for path in sorted(PICTURES.iterdir()):
        print(f"{path.stat().st_size:>9,} {path.name}")


def take_pictures(shop: Shop) -> None:
    with shop.running("ui", "--no-open", "--port", "0", "--allow-replay") as ui, browser() as chromium:
        address = address_of(ui)
        with shop.running("publish", "--seed", SEED, "--rate", RATE, "--n", ROUNDS) as publishing:
            page = opened(chromium, address, "light")
            history = watched(shop.settings, WARM_SECONDS)  # the charts show the last minutes: they are to have some
            page.screenshot(path=PICTURES / "page-graph.png")
            opened(chromium, address, "dark").screenshot(path=PICTURES / "page-graph-dark.png")
            page.locator("svg.graph.wide").screenshot(path=PICTURES / "graph.png")
            page.locator("svg.graph.wide [data-name='Decode events']").click()
            page.locator("#step").screenshot(path=PICTURES / "page-step.png")
            page.set_viewport_size({"width": 1280, "height": 860})
            save_terminal("top", top_view(history, COLUMNS, LINES))
            visit(page, "Tables", lambda: page.locator("table").first.wait_for())
            time.sleep(5)
            page.screenshot(path=PICTURES / "page-tables.png")
            publishing.wait()
        shop.picture("reconcile", "reconcile", "--wait", "60")
        shop.picture("dlq-stats", "dlq", "stats", "--stream", "unknown")
        shop.picture("query", "query", "sales-per-product", "--chart")
        visit(page, "Dead letters", lambda: page.get_by_role("link", name=re.compile(r"^\$\.status")).first.click())
        page.locator("mark").first.wait_for()
        page.screenshot(path=PICTURES / "page-dead-letters.png")
        visit(page, "Questions", lambda: page.get_by_role("link", name=re.compile("revenue did each product")).click())
        page.get_by_role("button", name="Run").click()
        page.locator(".bars li").first.wait_for()
        page.screenshot(path=PICTURES / "page-questions.png")


@contextmanager
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium")
    if not found:
        raise SystemExit("There is no chromium to take pictures with. Run: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=list(CHROMIUM))
        yield chromium
        chromium.close()


def opened(chromium: Browser, address: str, scheme: str) -> Page:
    # So high that the charts below the graph are seen.
    context = chromium.new_context(viewport={"width": 1280, "height": 1400}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(address)
    page.locator("svg.graph.wide [data-kind=step]").first.wait_for(timeout=60_000)
    page.wait_for_timeout(3000)  # a few readings, so that there are rates
    return page


def visit(page: Page, view: str, go_on: Callable[[], object]) -> None:
    page.get_by_role("navigation").get_by_role("link", name=view, exact=True).click()
    go_on()


def address_of(ui: subprocess.Popen[str]) -> str:
    assert ui.stdout is not None
    for line in ui.stdout:
        if found := re.search(r"http://127\.0\.0\.1:\d+/\?token=[\w-]+", line):
            return found[0]
    raise RuntimeError("ecomflow ui printed no address")


if __name__ == "__main__":
    main()
