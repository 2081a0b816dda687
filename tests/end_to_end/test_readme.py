"""README's tour, as a reader types it: every line runs, in order, in an empty folder, and has something to say."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.cli import ecomflow, environment

pytestmark = pytest.mark.stack


def tour(heading: str) -> list[list[list[str]]]:
    """The commands of each console block below ``heading``, without ``ecomflow``."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [[shlex.split(line.removeprefix("$ "), comments=True)[1:] for line in block.splitlines()] for block in blocks]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty one, whose stack is gone afterwards."""
    yield tmp_path
    ecomflow("infra", "down", "--with-data", "--yes", folder=tmp_path)


def run(command: list[str], folder: Path) -> str:
    result = ecomflow(*command, folder=folder, timeout=150, COLUMNS="80")
    assert result.returncode == 0, (command, result.stdout, result.stderr)
    return result.stdout


def first_lines_of_page(folder: Path) -> str:
    """What ``ecomflow ui`` says until it serves; then it is interrupted."""
    with subprocess.Popen(
        [sys.executable, "-m", "ecomflow", "ui", "--no-open", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    return "".join(lines)


def test_the_tour_by_hand(folder: Path) -> None:
    """Services, pipeline, events, dead letters, the equation, an answer with rows, the page; and an end that keeps the data."""
    by_hand, watching = tour("By hand")
    *steps, last = by_hand
    assert [command[0] for command in steps] == ["infra", "deploy", "publish", "reconcile", "dlq", "query", "infra"]
    said = {tuple(command[:2]): run(command, folder) for command in steps}
    assert "resources created or changed" in said["infra", "up"]
    assert "The pipeline runs as process" in said["deploy", "--detach"]
    assert "600 events confirmed" in said["publish", "--n"]
    assert said["dlq", "inspect"].count(": expected ") >= 10
    assert "It adds up: every event is accounted for exactly once." in said["reconcile", "--wait"]
    assert "revenue by product" in said["query", "sales-per-product"]
    assert "Local pipeline: running" in said["infra", "status"]
    assert watching == [["top"], ["ui"]]
    assert "fact_order" in run(["top"], folder)
    assert "The page is at http://127.0.0.1:" in first_lines_of_page(folder)
    assert run(last, folder).endswith("The local stack is stopped; its data is kept.\n")


@pytest.mark.parametrize("command", [command for command in tour("In the cloud")[0] if "--dry-run" in command], ids=" ".join)
def test_what_works_without_an_account(command: list[str], tmp_path: Path) -> None:
    """The dry run of a job needs neither credentials nor a network."""
    assert "Nothing was started." in run(command, tmp_path)
