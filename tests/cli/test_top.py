"""``ecomflow top``: the view by itself at every size; the command once, and live in a terminal beside a real pipeline."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.cells import cell_len
from rich.console import Console

from ecomflow import infra
from ecomflow.commands.top_view import top_view
from ecomflow.config import Endpoints, Settings
from ecomflow.gcp.clients import bigquery_client
from ecomflow.gcp.target import Target
from ecomflow.generator import publisher, rounds
from ecomflow.metrics.history import History
from ecomflow.metrics.snapshot import PipelineMetrics, from_counters, steps_of
from ecomflow.pipeline.direct.launch import STATUS_FILE, PipelineStatus
from tests.support.cli import ecomflow, environment, start
from tests.support.contract import SHOP
from tests.support.dataflow_stub import running_stub
from tests.support.running import count_waiting, running, settings_in
from tests.support.waiting import wait_until

START = 1_764_547_200.0


def reported(at: float, **known: Any) -> PipelineMetrics:
    """The metrics of a busy local pipeline ``at`` seconds after its start."""
    counted = int(200 * at)
    counts = {"received": counted, "refused/contract_violation": counted // 4, "refused/malformed_json": counted // 8}
    counts |= {f"{kind}/{step}": counted for step in steps_of(SHOP) for kind in ("in", "out")}
    counts |= {"refused_in/Decode events": counted // 4, "rows/fact_order": 2 * counted, "latency/4": counted, "bundles": int(at)}
    gauges = {"memory_bytes": 178e6, "last_append/fact_order": START + at - 2}
    fields = {
        "state": "running",
        "where": "local",
        "name": "process 4711",
        "started": START,
        "backlog": 12,
        "oldest_unacked_seconds": 0.4,
        "backlog_at": START + at,
    }
    return msgspec.structs.replace(from_counters(counts, gauges, SHOP, at=START + at, **fields), **known)


def busy(seconds: int = 120, **known: Any) -> History:
    """A history of so many seconds, the last of them with ``known`` besides."""
    found = History()
    for at in range(1, seconds):
        found.add(reported(at), START + at)
    found.add(reported(seconds, **known), START + seconds)
    return found


def drawn(history: History, width: int = 100, height: int = 40, notice: str | None = None) -> list[str]:
    """The lines of the view, as a terminal of this size shows them."""
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=False, record=True)
    console.print(top_view(history, width, height, notice))
    return console.export_text(styles=False).rstrip("\n").split("\n")


class TestView:
    def test_it_shows_what_flows(self) -> None:
        """The state and where; what comes in, is refused, waits and how late; each step and each table with its rate."""
        text = "\n".join(drawn(busy()))
        assert "● running  process 4711 on this machine since 00:00:00 UTC (2 min 0 s)" in text
        assert "memory 178 MB  bundles 120  restarts 0  retries 0" in text
        assert re.search(r"received +200/s +24,000 events +[▁-█ ]+\n", text)
        assert re.search(r"refused +75/s +9,000 events", text)
        assert "contract_violation\xa06,000  malformed_json\xa03,000" in text
        assert "backlog   12 messages, the oldest 0 s old" in text
        assert re.search(r"latency   p50 1\d\d ms  p99 1\d\d ms  over the last 1 min 0 s", text)
        assert re.search(r"Decode events +24,000 +24,000 +6,000 +200 +[▁-█ ]+\n", text)
        assert re.search(r"fact_order +48,000 +400 +2 s ago +[▁-█ ]+\n", text)

    @pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 160])
    @pytest.mark.parametrize("height", [3, 8, 15, 24, 40])
    def test_it_fits_into_every_terminal(self, width: int, height: int) -> None:
        """No line is wider, and there are no more of them; the condition stands first always."""
        lines = drawn(busy(waiting_for="BigQuery to accept rows of fact_order: 503 " + "again " * 50), width, height)
        assert len(lines) <= height
        assert max(cell_len(line) for line in lines) <= width
        assert lines[0].startswith("● waiting")

    def test_what_does_not_fit_goes_by_its_weight(self) -> None:
        """In 60 columns and 15 lines there are the flow and the tables; the steps have to wait for a larger terminal."""
        text = "\n".join(drawn(busy(), 60, 15))
        assert all(part in text for part in ("received", "refused", "backlog", "latency", "fact_user_activity"))
        assert "Decode events" not in text
        assert "Decode events" in "\n".join(drawn(busy(), 60, 20))
        assert "more lines" in "\n".join(drawn(busy(), 60, 20))

    def test_columns_go_before_names(self) -> None:
        """In 60 columns the steps keep their names and rates, and what they refused in red."""
        lines = drawn(busy(), 60, 40)
        (line,) = [line for line in lines if line.startswith("Decode events")]
        assert re.fullmatch(r"Decode events +24,000 +6,000 +200", line.rstrip())

    @pytest.mark.parametrize(
        ("known", "first", "sentence"),
        [
            ({"state": "gone"}, "● gone  process 4711 on this machine", "The pipeline (process 4711) was killed"),
            ({"waiting_for": "Pub/Sub: gone fishing"}, "● waiting", "The pipeline is waiting for Pub/Sub: gone fishing."),
        ],
    )
    def test_trouble_is_on_top(self, known: dict[str, Any], first: str, sentence: str) -> None:
        """Below the condition, before all metrics."""
        lines = drawn(busy(**known))
        assert lines[0].startswith(first)
        assert any(sentence in line for line in lines[1:4])

    def test_nothing_runs(self) -> None:
        """Only that, and how to start it: no empty tables."""
        found = History()
        found.add(from_counters({}, {}, SHOP, at=START, state="none", where="local"), START)
        assert [line for line in drawn(found) if line] == [
            "● none",
            "No pipeline is running. Start it with: ecomflow deploy --detach",
        ]

    def test_before_anything_is_read(self) -> None:
        """It says so; or why nothing can be read."""
        assert drawn(History()) == ["Reading the metrics…"]
        assert drawn(History(), notice="Dataflow is busy.") == ["Dataflow is busy."]

    def test_old_metrics_are_called_so(self) -> None:
        """Dataflow's come late, and Cloud Monitoring's later."""
        found = History()
        found.add(reported(10, where="europe-west1", backlog_at=START - 200), START + 40)
        text = "\n".join(drawn(found))
        assert "in europe-west1 since 00:00:00 UTC (40 s)  metrics 30 s old" in text
        assert "12 messages, the oldest 0 s old, 4 min 0 s ago" in text

    def test_a_backlog_that_is_not_known(self) -> None:
        """Why, in its place."""
        text = "\n".join(drawn(busy(backlog=None, backlog_unknown="Cloud Monitoring has no sample.")))
        assert "backlog   unknown: Cloud Monitoring has no sample." in text

    def test_hostile_text_stays_text(self) -> None:
        """Neither markup nor control characters of a service's words reach the terminal."""
        hostile = "[red]\x1b]0;owned\x07[/red] \u202eevil"
        lines = drawn(busy(waiting_for=hostile, name=hostile, refused={hostile: 3}, last_failure=hostile))
        assert "\x1b" not in "".join(lines)
        assert "\u202e" not in "".join(lines)
        assert "[red]\\x1b]0;owned\\x07" in "".join(lines)


@pytest.mark.slow
class TestOnce:
    """For scripts: one view or one JSON object, and an exit code."""

    def test_nothing_runs(self, tmp_path: Path) -> None:
        """It says so, with what to do first, and exits with 4, as job status does."""
        shown = ecomflow("top", "--once", folder=tmp_path)
        assert shown.returncode == 4
        assert shown.stdout.split("\n\n")[1].strip() == (
            "No pipeline is running. The local stack in .ecomflow/ is not running. Run: ecomflow infra up"
        )

    def test_an_output_that_is_no_terminal(self, tmp_path: Path) -> None:
        """The view is printed once: a pipe shows no live view."""
        shown = ecomflow("top", folder=tmp_path)
        assert (shown.returncode, shown.stdout[:6]) == (4, "● none")

    @pytest.mark.parametrize(("state", "code"), [("drained", 0), ("failed", 4), ("running", 4)])
    def test_its_exit_code_is_that_of_job_status(self, state: Any, code: int, tmp_path: Path) -> None:
        """What has ended well is no failure; what runs by its own words, but holds no lock, was killed."""
        status = PipelineStatus(state, 7, "projects/p/subscriptions/s", {"received": 5}, started=START, updated=START)
        (tmp_path / ".ecomflow").mkdir()
        (tmp_path / ".ecomflow" / STATUS_FILE).write_bytes(msgspec.json.encode(status))
        top, status = (ecomflow(*command, "--json", folder=tmp_path) for command in (["top"], ["job", "status"]))
        assert (top.returncode, status.returncode) == (code, code)
        found = json.loads(top.stdout)
        assert (found["metrics"]["state"], found["metrics"]["received"]) == ("gone" if state == "running" else state, 5)
        assert found["trouble"].startswith("The pipeline (process 7)")

    def test_a_job_on_dataflow(self, tmp_path: Path) -> None:
        """Its counters, under the same names; where it runs; how old the metrics are."""
        with running_stub() as stub:
            job_id = stub.add_job("ecomflow")
            stub.add_metric(job_id, "received", 1234, namespace="ecomflow", step="s1")
            stub.metrics[job_id][0]["updateTime"] = datetime.fromtimestamp(time.time() - 90, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            variables = {"DATAFLOW_EMULATOR_HOST": stub.url, "ECOMFLOW_PROJECT": "ecom-test"}
            variables["GOOGLE_APPLICATION_CREDENTIALS"] = str(tmp_path / "none")
            shown = ecomflow("top", "--once", "--interval", "0.2", folder=tmp_path, **variables)
        assert shown.returncode == 0
        assert f"● running  job ecomflow ({job_id}) in europe-west1" in shown.stdout
        assert re.search(r"metrics 1 min 3\d s old", shown.stdout)
        assert "1,234 events" in shown.stdout


class Terminal:
    """``ecomflow top`` in a terminal of its own, and what it shows at the moment."""

    def __init__(
        self, settings: Settings, *options: str, width: int = 140, height: int = 40, term: str = "xterm-256color"
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        environ = environment(settings, TERM=term)
        del environ["COLUMNS"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ecomflow", "top", *options], stdin=slave, stdout=slave, stderr=slave, env=environ
        )
        self.written = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with suppress(OSError):  # the terminal is closed
            while chunk := os.read(self._master, 65536):
                self.written += chunk

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._slave)
        self._thread.join()
        os.close(self._master)

    @property
    def settings_of_terminal(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    @property
    def frames(self) -> list[str]:
        """What was drawn each time, from the terminal's first corner, without colours."""
        text = self.written.decode("utf-8", "replace").replace("\r", "")
        return [re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", frame) for frame in text.split("\x1b[H")[1:]]

    def shows(self, pattern: str) -> bool:
        frames = self.frames  # the last may not be whole yet
        return any(re.search(pattern, frame) for frame in frames[-2:])

    def press(self, key: bytes) -> None:
        os.write(self._master, key)


@contextmanager
def watching(settings: Settings, *options: str, term: str = "xterm-256color") -> Iterator[Terminal]:
    terminal = Terminal(settings, *options, term=term)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.mark.slow
class TestInATerminal:
    @pytest.mark.parametrize("how", ["q", "ctrl-c", "sigterm"])
    def test_it_ends_within_a_second_and_leaves_the_terminal_as_it_was(self, how: str, tmp_path: Path) -> None:
        """By q, Ctrl-C or SIGTERM: with 0, the usual screen back, and keys shown again."""
        with watching(Settings(state_dir=str(tmp_path))) as terminal:
            wait_until(lambda: terminal.shows("No pipeline is running"))
            if how == "q":
                terminal.press(b"q")
            else:
                terminal.process.send_signal(signal.SIGINT if how == "ctrl-c" else signal.SIGTERM)
            assert terminal.process.wait(timeout=5) == 0
            wait_until(lambda: terminal.written.endswith(b"\x1b[?25h") or b"\x1b[?1049l" in terminal.written, seconds=5)
            assert terminal.settings_of_terminal == terminal.before

    def test_it_is_redrawn_each_second_without_flicker(self, tmp_path: Path) -> None:
        """Drawn over what stands there, more than once a second: the screen is never cleared in between."""
        with watching(Settings(state_dir=str(tmp_path))) as terminal:
            wait_until(lambda: terminal.shows("No pipeline is running"))
            first, began = len(terminal.frames), time.monotonic()
            wait_until(lambda: len(terminal.frames) >= first + 4)
            assert (time.monotonic() - began) / 4 < 1.0
            shown = bytes(terminal.written)
            assert b"\x1b[2J" not in shown[shown.index(b"\x1b[H", shown.index(b"No pipeline is running")) :]

    def test_a_terminal_that_cannot_redraw_gets_plain_lines(self, tmp_path: Path) -> None:
        """With TERM=dumb: view after view, below each other, without one escape sequence; Ctrl-C ends it with 0."""
        with watching(Settings(state_dir=str(tmp_path)), "--interval", "0.2", term="dumb") as terminal:
            wait_until(lambda: terminal.written.count(b"No pipeline is running") >= 3)
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.process.wait(timeout=5) == 0
            assert b"\x1b" not in terminal.written

    def test_other_keys_do_nothing(self, tmp_path: Path) -> None:
        """It goes on."""
        with watching(Settings(state_dir=str(tmp_path))) as terminal:
            wait_until(lambda: terminal.shows("No pipeline is running"))
            terminal.press(b"x\x1b[A ")
            first = len(terminal.frames)
            wait_until(lambda: len(terminal.frames) > first + 6)
            assert terminal.process.poll() is None


def metrics_of(settings: Settings) -> dict[str, Any]:
    """The output of ``top --json``."""
    shown = ecomflow("top", "--json", settings=settings)
    assert shown.returncode == 0, shown.stderr
    found: dict[str, Any] = json.loads(shown.stdout)
    return found


@pytest.mark.stack
@pytest.mark.timeout(240)
class TestBesideAPipeline:
    def test_it_agrees_with_reconcile_to_the_event(self, provisioned: Settings, stack: Endpoints, tmp_path: Path) -> None:
        """At the end of a run its totals are what was published and what reconcile finds; the live view shows the same."""
        settings, ledger = settings_in(tmp_path, provisioned, stack), str(tmp_path / "ledger.jsonl")
        with running(settings), watching(settings) as terminal:
            command = ("publish", "--n", "60", "--rate", "200", "--seed", "3", "--ledger", ledger, "--json")
            published = ecomflow(*command, settings=settings)
            assert published.returncode == 0, published.stderr
            wait_until(lambda: count_waiting(Target(settings, stack)) == 0)
            wait_until(lambda: terminal.shows(r"received .* 360 events"))
            wait_until(lambda: terminal.shows("backlog   0 messages"))
            wait_until(lambda: metrics_of(settings)["metrics"]["received"] == 360)
            found = metrics_of(settings)
            lines = json.loads(ecomflow("reconcile", "--ledger", ledger, "--json", settings=settings).stdout)["lines"]
        metrics = found["metrics"]
        assert (metrics["received"], metrics["backlog"], found["trouble"]) == (360, 0, None)
        assert sum(metrics["refused"].values()) == sum(line["dead_letters"] for line in lines) == 180
        facts = {line["event_type"]: line["facts"] for line in lines}
        steps = {step["step"]: step for step in metrics["steps"]}
        assert {stream: steps[f"Write {stream} facts"]["messages_out"] for stream in facts} == facts
        assert {table["table"]: table["rows"] for table in metrics["tables"]}["fact_order_header"] == facts["order"]
        assert found["latency"]["messages"] == sum(facts.values())
        assert 0 < found["latency"]["p50"] <= found["latency"]["p99"] < 60
        assert steps["Read messages"]["messages_out"] == 360
        assert all(step["messages_in"] == step["messages_out"] + step["refused"] for step in metrics["steps"][1:])

    def test_it_goes_on_over_restarts_and_a_kill(self, provisioned: Settings, stack: Endpoints, tmp_path: Path) -> None:
        """One view the whole time: a table is missing and the engine restarts; it is made again; then a new pipeline."""
        settings = settings_in(tmp_path, provisioned, stack)
        table = f"{settings.dataset_id}.fact_inventory"
        pipeline = start("deploy", settings=settings, log=tmp_path / "pipeline.log")
        with watching(settings) as terminal:
            target = Target(settings, stack)
            try:
                wait_until(lambda: terminal.shows(rf"● running +process {pipeline.pid}"))
                bigquery_client(settings.project_id, stack).delete_table(table)
                publisher.publish(target, rounds.generate(2, seed=1, now=datetime.now(UTC)))
                wait_until(lambda: terminal.shows(r"restarts [1-9]") and terminal.shows("(?s)fact_inventory.*does.*not.*exist"))
                infra.apply(target, infra.plan(target))
                wait_until(lambda: count_waiting(target) == 0)
                wait_until(lambda: terminal.shows(r"backlog   0 messages") and terminal.shows(r"fact_inventory +[1-9]"))
            finally:
                pipeline.kill()
                pipeline.wait()
            wait_until(lambda: terminal.shows(r"● gone") and terminal.shows("ecomflow deploy --detach"))
            with running(settings) as anew:
                wait_until(lambda: terminal.shows(rf"● running +process {anew.pid}") and terminal.shows("received .* 0 events"))
                publisher.publish(target, rounds.generate(3, seed=2, now=datetime.now(UTC)))
                wait_until(lambda: terminal.shows(r"received .* 18 events"))
            wait_until(lambda: terminal.shows(r"● drained"))
            assert not any("/s" in frame and re.search(r"-\d", frame) for frame in terminal.frames)
