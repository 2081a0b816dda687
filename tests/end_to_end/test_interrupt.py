"""Ctrl-C in the middle of long work, in real processes: it ends soon, says what was done, loses and leaves behind nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import psutil
import pytest

from ecomflow.config import Settings
from ecomflow.gcp.target import Target
from ecomflow.reconciliation.ledger import read_ledger
from tests.support.cli import ecomflow, environment
from tests.support.dead_letters import held, names, store

SOON = 1.0
# Where the machine is busy with other things a process may be slow for no reason of its own: the best of some tries counts.
TRIES = 3


class Ended(NamedTuple):
    code: int
    seconds: float
    said: str


def interrupted(*arguments: str, when: Callable[[], Any], folder: Path, settings: Settings | None = None, **more: str) -> Ended:
    """``ecomflow ARGUMENTS``, interrupted as soon as ``when`` holds; what it said on both outputs."""
    log = folder / f"said-{time.monotonic_ns()}.txt"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "ecomflow", *arguments]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment(settings, **more), cwd=folder)
    with process:
        give_up = time.monotonic() + 60
        while not when():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up, log.read_text()
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        code = process.wait(timeout=60)
        return Ended(code, time.monotonic() - began, log.read_text())


def soon(attempt: Callable[[], Ended]) -> Ended:
    """The first of some attempts that ended within SOON, or the last one."""
    ended = attempt()
    for _ in range(TRIES - 1):
        if ended.seconds < SOON:
            break
        ended = attempt()
    return ended


class Silent:
    """Listens on loopback, takes connections, and never says a word."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.taken: list[socket.socket] = []
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.taken.append(connection)

    def close(self) -> None:
        self._listener.close()
        for connection in self.taken:
            connection.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    server = Silent()
    yield server
    server.close()


class Stuck:
    """A Pub/Sub that takes publish requests and answers none while it lives."""

    def __init__(self) -> None:
        self.calls = 0
        self.freed = threading.Event()

    def publish(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        self.calls += 1
        self.freed.wait()
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return b""


@contextmanager
def stuck_pubsub() -> Iterator[tuple[Stuck, str]]:
    """The server, and its host and port."""
    stuck, server = Stuck(), grpc.server(ThreadPoolExecutor(8))
    method = grpc.unary_unary_rpc_method_handler(stuck.publish)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("google.pubsub.v1.Publisher", {"Publish": method})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield stuck, f"127.0.0.1:{port}"
    finally:
        stuck.freed.set()
        server.stop(None).wait()


@pytest.mark.slow
class TestNobodyAnswers:
    """A service that hangs holds nobody up."""

    def test_publish_says_what_is_not_known(self, tmp_path: Path) -> None:
        """What was in flight without an answer is reported, and counted nowhere."""

        def attempt() -> Ended:
            with stuck_pubsub() as (stuck, host):
                arguments = ("publish", "--n", "2000", "--project", "my-project", "--json")
                return interrupted(*arguments, when=lambda: stuck.calls == 3, folder=tmp_path, PUBSUB_EMULATOR_HOST=host)

        ended = soon(attempt)
        summary = json.loads(ended.said[ended.said.index("{") :])["summary"]
        assert ended.code == 130
        assert (summary["total"], summary["unanswered"], summary["interrupted"]) == (0, 3000, True)
        assert ended.seconds < SOON

    @pytest.mark.parametrize("arguments", [("dlq", "stats"), ("dlq", "replay"), ("reconcile",)])
    def test_what_only_reads(self, arguments: tuple[str, ...], silent: Silent, tmp_path: Path) -> None:
        """It ends with 130, and says that nothing was changed."""
        host = f"127.0.0.1:{silent.port}"
        services = ("PUBSUB", "STORAGE", "BIGQUERY", "BIGQUERY_STORAGE")
        hosts = {f"{name}_EMULATOR_HOST": host for name in services}

        def attempt() -> Ended:
            before = len(silent.taken)
            return interrupted(*arguments, when=lambda: len(silent.taken) > before, folder=tmp_path, **hosts)

        ended = soon(attempt)
        assert (ended.code, "nothing was changed" in ended.said) == (130, True)
        assert "Traceback" not in ended.said
        assert ended.seconds < SOON


@pytest.mark.stack
class TestOnTheStack:
    def test_publish_counts_what_was_confirmed(self, provisioned: Settings, tmp_path: Path, target: Target) -> None:
        """The summary, the ledger and the subscription agree; a paced run ends in its pause, a fast one in its work."""
        from ecomflow.jobs.backlog import count_waiting

        ledger = tmp_path / "ledger.jsonl"

        def attempt() -> Ended:
            ledger.unlink(missing_ok=True)
            arguments = ("publish", "--n", "50000", "--json", "--ledger", str(ledger))
            return interrupted(
                *arguments, when=lambda: ledger.exists() and ledger.stat().st_size, folder=tmp_path, settings=provisioned
            )

        ended = attempt()
        summary = json.loads(ended.said[ended.said.index("{") :])["summary"]
        waiting = count_waiting(target)
        confirmed = [entry for entry in read_ledger(ledger).values() if entry.message_id is not None]
        assert waiting is not None
        assert ended.code == 130
        assert summary["total"] == len(confirmed) == waiting.messages > 0
        assert summary["unanswered"] == 0
        assert min(ended.seconds, soon(attempt).seconds) < SOON

    def test_reconcile_while_it_waits(self, provisioned: Settings, tmp_path: Path) -> None:
        """With messages that nobody fetches it would wait a minute."""
        assert ecomflow("publish", "--n", "1", settings=provisioned).returncode == 0
        when = _says(tmp_path, "0 of 6 messages")  # the line of a terminal, which FORCE_COLOR makes of the file
        ended = soon(
            lambda: interrupted(
                *("reconcile", "--wait", "60"), when=when, folder=tmp_path, settings=provisioned, FORCE_COLOR="1", TERM="xterm"
            )
        )
        assert (ended.code, "nothing was changed" in ended.said) == (130, True)
        assert ended.seconds < SOON

    def test_replay_leaves_what_it_had_not_moved(self, provisioned: Settings, tmp_path: Path, target: Target) -> None:
        """A topic that takes nothing: every letter lies where it was, and the command says so."""
        for number in range(8):
            store(target, [held(number)], str(number))
        (tmp_path / "patch.json").write_text('{"status": "returned"}')

        def attempt() -> Ended:
            with stuck_pubsub() as (stuck, host):
                arguments = ("dlq", "replay", "--patch", str(tmp_path / "patch.json"))
                return interrupted(
                    *arguments, when=lambda: stuck.calls == 4, folder=tmp_path, settings=provisioned, PUBSUB_EMULATOR_HOST=host
                )

        ended = soon(attempt)
        assert ended.code == 130
        assert "0 published, 0 moved to" in ended.said
        assert "Interrupted: the others were not moved" in ended.said
        assert (len(names(target, "dlq/")), names(target, "replayed/")) == (8, [])
        assert ended.seconds < SOON


@pytest.mark.stack
class TestDemo:
    @pytest.mark.parametrize("step", ["Starting Pub/Sub", "Starting the streaming pipeline", "Publishing"])
    def test_nothing_is_left_behind(self, step: str, tmp_path: Path) -> None:
        """At whatever step: it says at once what it does, ends soon, and neither a process nor a file of it stays."""

        def attempt() -> Ended:
            return interrupted("demo", "--n", "20000", when=_says(tmp_path, step), folder=tmp_path, TMPDIR=str(tmp_path))

        ended = soon(attempt)
        assert ended.code == 130
        assert "Stopping the services and the pipeline of the demo…" in ended.said
        assert "everything that the demo started has been stopped" in ended.said
        assert _processes_of(tmp_path) == []
        assert list(tmp_path.glob("ecomflow-demo-*")) == []
        assert ended.seconds < SOON


def _says(folder: Path, words: str) -> Callable[[], bool]:
    """Whether the newest output in ``folder`` has ``words``."""
    return lambda: any(words in log.read_text() for log in sorted(folder.glob("said-*.txt"))[-1:])


def _processes_of(folder: Path) -> list[str]:
    """The command lines of the processes that live with ``folder`` as their TMPDIR."""
    found = []
    for process in psutil.process_iter():
        try:
            is_ours = process.pid != os.getpid() and process.environ().get("TMPDIR") == str(folder)
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
