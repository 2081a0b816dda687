"""The ledger of a publisher: what it holds when all is well, after a kill, on a full disk, and with several writers."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ecomflow.config import Endpoints, Settings
from ecomflow.errors import AccessError, ConfigError
from ecomflow.reconciliation.ledger import LedgerEntry, LedgerWriter, read_ledger
from tests.support.cli import ecomflow, environment
from tests.support.waiting import wait_until


def entry(event_id: str, message_id: str | None = None) -> LedgerEntry:
    return LedgerEntry(event_id, message_id, "inventory", None, None)


class TestWriting:
    def test_an_entry_has_a_message_id_once_it_is_confirmed(self, tmp_path: Path) -> None:
        """Before, it is known by its event id alone."""
        ledger = LedgerWriter(tmp_path / "new" / "ledger.jsonl")
        ledger.intend([entry("a"), entry("b")])
        ledger.confirm({"b": "m-2"})
        ledger.close()
        assert read_ledger(ledger.path) == {"a": entry("a"), "b": entry("b", "m-2")}

    def test_published_again_a_confirmed_event_stays_confirmed(self, tmp_path: Path) -> None:
        """A second publisher of the same events, killed before it had an answer, takes nothing back."""
        ledger = LedgerWriter(tmp_path / "ledger.jsonl")
        ledger.intend([entry("a")])
        ledger.confirm({"a": "m-1"})
        ledger.intend([entry("a")])
        ledger.close()
        assert read_ledger(ledger.path) == {"a": entry("a", "m-1")}

    def test_writers_side_by_side(self, tmp_path: Path) -> None:
        """Each line of each of them is whole."""
        path = tmp_path / "ledger.jsonl"

        def write(writer: int) -> None:
            ledger = LedgerWriter(path)
            for number in range(50):
                ids = [f"{writer}-{number}-{one}" for one in range(40)]
                ledger.intend([entry(one) for one in ids])
                ledger.confirm(dict.fromkeys(ids, "m"))
            ledger.close()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        entries = read_ledger(path)
        assert len(entries) == 4 * 50 * 40
        assert {one.message_id for one in entries.values()} == {"m"}


class TestATornLine:
    @pytest.mark.parametrize("torn", [b'{"event_id":"b","mess', b'{"confirmed":{"a"', b"x" * 200_000])
    def test_is_cut_off_by_the_next_writer(self, torn: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """A last line truncated by a kill is skipped by readers, and removed with a warning before anything is appended."""
        path = tmp_path / "ledger.jsonl"
        first = LedgerWriter(path)
        first.intend([entry("a")])
        first.close()
        with path.open("ab") as file:
            file.write(torn)
        assert read_ledger(path) == {"a": entry("a")}
        with caplog.at_level(logging.WARNING):
            second = LedgerWriter(path)
        second.intend([entry("c")])
        second.close()
        assert read_ledger(path) == {"a": entry("a"), "c": entry("c")}
        assert f"removed its {len(torn)} bytes" in caplog.text

    def test_a_file_of_one_torn_line(self, tmp_path: Path) -> None:
        """It is empty afterwards."""
        path = tmp_path / "ledger.jsonl"
        path.write_bytes(b"{")
        LedgerWriter(path).close()
        assert path.read_bytes() == b""

    def test_a_disk_that_fills_up_in_a_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A partial write is an error, and nothing of it stays."""
        ledger = LedgerWriter(tmp_path / "ledger.jsonl")
        ledger.intend([entry("a")])
        write = os.write
        monkeypatch.setattr(os, "write", lambda file, data: write(file, data[: len(data) // 2]))
        with pytest.raises(AccessError, match="can't be written: the disk is full: only part of a line was written"):
            ledger.intend([entry("b")])
        monkeypatch.undo()
        ledger.intend([entry("c")])
        ledger.close()
        assert read_ledger(ledger.path) == {"a": entry("a"), "c": entry("c")}

    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The system's words, and what to do."""

        def full(file: int, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        ledger = LedgerWriter(tmp_path / "ledger.jsonl")
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(AccessError, match="No space left on device") as caught:
            ledger.confirm({"a": "m"})
        assert caught.value.remedy == "Free disk space, or choose another path."

    def test_a_line_in_the_middle_that_is_none(self, tmp_path: Path) -> None:
        """The error has its number."""
        path = tmp_path / "ledger.jsonl"
        path.write_bytes(b'{"confirmed":{}}\n{"event_id":1}\n')
        with pytest.raises(ConfigError, match="line 2"):
            read_ledger(path)


@pytest.mark.stack
class TestKilled:
    def test_reconcile_knows_what_a_killed_publisher_had_sent(
        self, provisioned: Settings, stack: Endpoints, tmp_path: Path
    ) -> None:
        """Each event that arrived is in the ledger; those nobody knows of are counted apart, and the equation holds."""
        path = tmp_path / "ledger.jsonl"
        command = [sys.executable, "-m", "ecomflow", "publish", "--n", "50000", "--ledger", str(path)]
        publisher = subprocess.Popen(command, env=environment(provisioned), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: path.exists() and path.stat().st_size > 3_000_000, seconds=60)
        publisher.send_signal(signal.SIGKILL)
        publisher.wait()
        assert ecomflow("deploy", "--detach", settings=provisioned).returncode == 0
        try:
            result = ecomflow("reconcile", "--wait", "60", "--ledger", str(path), "--json", settings=provisioned)
        finally:
            ecomflow("job", "drain", settings=provisioned)
        outcome = json.loads(result.stdout)
        assert (result.returncode, outcome["adds_up"]) == (0, True), result.stderr
        entries = read_ledger(path)
        published = sum(line["published"] for line in outcome["lines"])
        assert published + outcome["unconfirmed"] == len(entries)
        assert sum(one.message_id is not None for one in entries.values()) <= published
        assert (outcome["missing"], outcome["incomplete"], outcome["doubled"]) == ([], [], [])
