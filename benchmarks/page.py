"""The overhead of the web page: ``python -m benchmarks.page``. It needs chromium, so ``make bench`` leaves it out.

The same backlog goes through ``ecomflow deploy``, in turn without the page and with its graph open in Chromium. The output is the
rates, and the CPU seconds of the page's server and of the browser as a share of the capacity of all cores in that time: the
pipeline can't have used those seconds, and the share is steadier than two rates on a shared machine.
"""

from __future__ import annotations

import re
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psutil
from playwright.sync_api import sync_playwright

from benchmarks.end_to_end import DEPLOY, watch
from benchmarks.events import to_publish
from benchmarks.throwaway import Stack, cpu_seconds, end_on_sigterm, family, provisioned_stack, running, wait_for
from ecomflow.gcp.target import Target
from ecomflow.generator.publisher import publish

EVENTS, ROUNDS = 300_000, 3
CHROMIUM = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
UI = ("-m", "ecomflow", "ui", "--no-open", "--port", "0")


class Run(NamedTuple):
    """Events a second, and what the page's server and the browser took of all cores' time: 0.01 is a hundredth."""

    rate: float
    server: float = 0.0
    browser: float = 0.0


def main() -> None:
    end_on_sigterm()
    alone, seen = [], []
    for _ in range(ROUNDS):
        alone.append(run(with_page=False))
        seen.append(run(with_page=True))
    print("| | without the page | with it |\n| --- | --- | --- |")
    print(f"| events/s, median of {ROUNDS} | {middle(alone, 0):,.0f} | {middle(seen, 0):,.0f} |")
    print(
        f"| the page's server, of all cores | | {middle(seen, 1):.2%} |\n| the browser, of all cores | | {middle(seen, 2):.2%} |"
    )


def middle(runs: list[Run], field: int) -> float:
    return statistics.median(one[field] for one in runs)


def run(*, with_page: bool) -> Run:
    with provisioned_stack() as stack:
        publish(Target(stack.settings, stack.endpoints), to_publish(EVENTS))
        if not with_page:
            return worked_off(stack, [], [])
        with running(UI, stack.settings) as server, opened(stack) as browser:
            return worked_off(stack, [server], browser)


def worked_off(stack: Stack, server: list[psutil.Process], browser: list[psutil.Process]) -> Run:
    """The backlog from the first message leased until none waits."""
    began, before = time.monotonic(), (cpu_seconds(server), cpu_seconds(browser))
    with running(DEPLOY, stack.settings) as process:
        moments, *_ = watch(process, stack, began)
    wall = time.monotonic() - began
    first = next(moment.at for moment in moments if moment.leased or moment.waiting < EVENTS)
    took = [cpu_seconds(some) - earlier for some, earlier in zip((server, browser), before, strict=True)]
    all_cores = wall * len(psutil.Process().cpu_affinity())
    return Run(EVENTS / (moments[-1].at - first), took[0] / all_cores, took[1] / all_cores)


@contextmanager
def opened(stack: Stack) -> Iterator[list[psutil.Process]]:
    """The page's graph in Chromium: the processes of the browser."""
    log = stack.settings.state_path / "process.log"
    address = wait_for(lambda: re.search(r"http://127\.0\.0\.1:\d+/\?token=[\w-]+", log.read_text()), 30)[0]
    mine = psutil.Process()
    before = set(family(mine))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(CHROMIUM))
        page = browser.new_page()
        page.goto(address)
        page.locator("svg.graph.wide [data-kind=step]").first.wait_for(timeout=60_000)
        yield [one for one in family(mine) if one not in before and "chromium" in one.name()]
        browser.close()


if __name__ == "__main__":
    main()
