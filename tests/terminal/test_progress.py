"""The progress line of long operations: what it shows on a terminal, and that it shows nothing elsewhere."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from ecomflow.config import Endpoints, Settings
from ecomflow.terminal import console
from ecomflow.terminal.progress import progress, stopping
from tests.support.cli import environment


def shown_on(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool) -> io.StringIO:
    """Standard error as a text of its own, which says that it is a terminal, or not."""
    text = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=text, force_terminal=is_terminal, width=120, highlight=False))
    return text


class TestTheLine:
    def test_amount_of_the_whole_and_rate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a terminal it has the work, how much of how much is done, and so many a second."""
        text = shown_on(monkeypatch, is_terminal=True)
        with progress("Publishing") as line:
            line.count("events", 6_000, 60_000)
            line.count("events", 12_000, 60_000)
        assert "Publishing…" in text.getvalue()
        assert re.search(r"12,000 of 60,000 events, [\d,]+/s", text.getvalue())

    def test_other_work_counts_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was counted of one kind is no part of the rate of the next, and an unknown whole is left out."""
        text = shown_on(monkeypatch, is_terminal=True)
        with progress("Publishing") as line:
            line.count("events", 6_000, 60_000)
            line.begin("Asking")
            line.count("dead letters", 100)
        last = text.getvalue().rpartition("Asking…")[2]
        assert "100 dead letters" in last
        assert "of" not in last.partition("dead letters")[0]
        assert "/s" not in last  # one reading gives no rate

    def test_nothing_where_nobody_looks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a pipe not a byte is written."""
        text = shown_on(monkeypatch, is_terminal=False)
        with progress("Publishing") as line:
            line.count("events", 6_000, 60_000)
            line.begin("Asking")
        assert text.getvalue() == ""

    def test_words_are_no_markup(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A name with brackets in it is shown as it is."""
        text = shown_on(monkeypatch, is_terminal=True)
        with progress("Reading [bold]x[/bold]"):
            pass
        assert "[bold]x[/bold]" in text.getvalue()


class TestStopping:
    def test_the_first_ctrl_c_speaks_stops_and_interrupts_and_the_second_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Cleaning up is not interrupted; afterwards Ctrl-C does what it did before."""
        text = shown_on(monkeypatch, is_terminal=False)
        before, done = signal.getsignal(signal.SIGINT), list[str]()

        def work() -> None:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            finally:
                os.kill(os.getpid(), signal.SIGINT)
                done.append("cleaned up")

        with pytest.raises(KeyboardInterrupt), stopping("Ending it…", lambda: done.append("stopped")):
            work()
        assert done == ["stopped", "cleaned up"]
        assert text.getvalue() == "Ending it…\n"
        assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.stack
def test_publish_on_a_terminal_shows_a_rate_and_on_a_pipe_nothing(
    provisioned: Settings, stack: Endpoints, tmp_path: Path
) -> None:
    """The line is on standard error; what a program reads from standard output is the same either way."""
    command = [sys.executable, "-m", "ecomflow", "publish", "--n", "3000", "--json"]
    leader, terminal = pty.openpty()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=terminal, env=environment(provisioned, TERM="xterm")
    ) as process:
        os.close(terminal)
        seen = _read_all(leader)
        assert process.stdout is not None
        printed = process.stdout.read()
    assert (process.returncode, printed[:1]) == (0, b"{")
    assert re.search(rb"of 18,000 events, [\d,]+/s", seen)
    piped = subprocess.run(command, capture_output=True, env=environment(provisioned), check=True)
    assert piped.stderr.decode().splitlines() == [f"Local stack in {provisioned.state_dir}/ (no project is configured)."]


def _read_all(terminal: int) -> bytes:
    """What was written to the other end of ``terminal`` until it was closed."""
    seen = b""
    while True:
        try:
            part = os.read(terminal, 65_536)
        except OSError:  # how Linux says that nobody writes any more
            part = b""
        if not part:
            os.close(terminal)
            return seen
        seen += part
