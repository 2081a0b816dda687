"""What these tests share, and their last words: what could not be run on this machine, and why."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.programs import COMMANDS, MissingError, Program
from tests.support.local_pubsub import Clients, ServerProcess


def pytest_unconfigure(config: pytest.Config) -> None:
    """Print what was skipped, after everything else."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    reports = [report for kind in ("passed", "failed", "error", "skipped") for report in reporter.stats.get(kind, ())]
    ours = [report for report in reports if "interop" in report.keywords]
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in ours if report.skipped)
    for reason, number in reasons.items():
        reporter.write_line(f"Not run: {reason}. Tests: {number}.", yellow=True)
    if ours and not reasons:
        reporter.write_line("No test was left out: this machine has what they need.")


@pytest.fixture(scope="session", params=sorted(COMMANDS))
def command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The command of Google's client for Node, then for Go."""
    try:
        return COMMANDS[request.param]()
    except MissingError as missing:
        pytest.skip(f"Google's client for {request.param}, because {missing}")


@pytest.fixture(scope="session")
def all_commands() -> dict[str, tuple[str, ...]]:
    """The commands of those that this machine can run, by name."""
    commands, missing = {}, []
    for name, build in COMMANDS.items():
        try:
            commands[name] = build()
        except MissingError as reason:
            missing.append(f"Google's client for {name}, because {reason}")
    if not commands:
        pytest.skip("; ".join(missing))
    return commands


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """The embedded Pub/Sub as a process."""
    with ServerProcess(tmp_path / "pubsub") as server:
        yield server


@pytest.fixture
def admin(server: ServerProcess) -> Iterator[Clients]:
    """Google's Python clients at it, for what is not under test."""
    with contextlib.closing(Clients(server.host)) as clients:
        yield clients


@pytest.fixture
def client(command: tuple[str, ...], server: ServerProcess) -> Program:
    """Google's client for Node or Go at it."""
    return Program(command, server.host)
