"""Log records become JSON lines in one bounded file, and sentences on a terminal."""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ecomflow.errors import AccessError
from ecomflow.pipeline.direct import logs
from ecomflow.processes import json_lines

log = logging.getLogger("ecomflow.pipeline.anything")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "pipeline.jsonl"


@pytest.fixture
def to_file(path: Path) -> Iterator[Path]:
    """What is logged within the test is written to the path that it is given."""
    with logs.handled_by(logs.ToFile(path)):
        yield path


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestToFile:
    def test_a_record_is_a_line(self, to_file: Path) -> None:
        """Time in UTC with microseconds, level, logger, process and message; the file is its owner's alone."""
        before = datetime.now(UTC)
        log.info("%d rows of %s", 7, "fact_order")
        (line,) = written(to_file)
        assert before <= datetime.fromisoformat(line.pop("time")) <= datetime.now(UTC)
        assert line == {"level": "info", "logger": log.name, "process": os.getpid(), "message": "7 rows of fact_order"}
        assert stat.S_IMODE(to_file.stat().st_mode) == 0o600
        assert to_file.read_text().startswith('{"time":"20')

    def test_a_line_without_its_end_spoils_no_other(self, to_file: Path) -> None:
        """A full disk or a power cut left a part of a line: what is logged next begins a line of its own."""
        log.info("first")
        with to_file.open("ab") as file:
            file.write(b'{"time":"20')
        log.info("second")
        first, torn, second = to_file.read_text().splitlines()
        assert [json.loads(line)["message"] for line in (first, second)] == ["first", "second"]
        assert torn == '{"time":"20'

    def test_a_traceback_stays_in_its_line(self, to_file: Path) -> None:
        """An exception's traceback is a field of its own."""
        try:
            raise ZeroDivisionError("no rows")
        except ZeroDivisionError:
            log.warning("It failed.", exc_info=True)
        (line,) = written(to_file)
        assert (line["level"], line["message"]) == ("warning", "It failed.")
        assert line["traceback"].startswith("Traceback (most recent call last):\n")
        assert line["traceback"].endswith("\nZeroDivisionError: no rows")

    def test_others_are_heard_from_warning_on(self, to_file: Path) -> None:
        """Of ecomflow's own loggers info is kept, of others only what is a warning; debug of none."""
        for logger in (log, logging.getLogger("apache_beam.anything")):
            for level in (logging.DEBUG, logging.INFO, logging.WARNING):
                logger.log(level, "%s %s", logger.name.split(".")[0], logging.getLevelName(level))
        assert [line["message"] for line in written(to_file)] == ["ecomflow INFO", "ecomflow WARNING", "apache_beam WARNING"]

    def test_a_line_can_not_move_a_cursor(self, path: Path) -> None:
        """Control characters and lone surrogates are escaped in the file; the JSON says the same."""
        message = "\x1b[2J \x9b \u202e \n \ud800"
        logs.ToFile(path).handle(logging.LogRecord("a", logging.WARNING, "", 0, message, None, None))
        (text,) = path.read_bytes().splitlines()
        assert text.isascii()
        assert json.loads(text)["message"] == "\x1b[2J \x9b \u202e \n \\ud800"

    def test_it_is_bounded(self, to_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file that has grown to its bound is set aside in the place of the one before, whole lines in each."""
        monkeypatch.setattr(logs, "MAX_BYTES", 1000)
        for number in range(60):
            log.info("%03d %s", number, "x" * 50)
        kept = [line["message"][:3] for path in (json_lines.set_aside(to_file), to_file) for line in written(path)]
        assert kept == [f"{number:03}" for number in range(60 - len(kept), 60)]
        assert 10 <= len(kept) < 30
        assert sorted(path.name for path in to_file.parent.iterdir()) == ["pipeline.jsonl", "pipeline.jsonl.1"]

    def test_a_full_disk_stops_nothing(self, to_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """It is reported once on standard error until the file can be written again."""
        to_file.symlink_to("/dev/full")
        log.info("one")
        log.info("two")
        to_file.unlink()
        log.info("three")
        assert [line["message"] for line in written(to_file)] == ["three"]
        said = capsys.readouterr().err
        assert " ".join(said.split()) == f"The log can't be written: {to_file}: No space left on device"

    def test_a_folder_that_can_not_be_made_is_reported(self, tmp_path: Path) -> None:
        """AccessError names it and the setting that chooses another."""
        (tmp_path / "file").write_text("")
        with pytest.raises(AccessError, match="Not a directory") as caught:
            logs.ToFile(tmp_path / "file" / "logs" / "pipeline.jsonl")
        assert "ECOMFLOW_STATE_DIR" in str(caught.value.remedy)

    def test_a_fault_in_a_message_stops_nothing(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A message whose arguments don't fit is shown on standard error, as the standard library does, and nothing is raised."""
        logs.ToFile(path).handle(logging.LogRecord("a", logging.ERROR, "", 0, "%d rows", ("no number",), None))
        assert "--- Logging error ---" in capsys.readouterr().err
        assert not path.exists()


class TestToTerminal:
    def test_warnings_are_sentences(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What is a warning or worse is shown without time or level, inert; info is not, nor what the command shows itself."""
        with logs.handled_by(logs.ToTerminal()):
            log.info("not shown")
            log.error("not shown either", extra=logs.NOT_ON_TERMINAL)
            log.warning("Waiting for [bold]Pub/Sub\x1b[2J")
        assert capsys.readouterr().err == "Waiting for [bold]Pub/Sub\\x1b[2J\n"


class TestBetweenProcesses:
    def test_a_record_survives_as_a_line(self, to_file: Path) -> None:
        """The record made of a line gives the same line again: time, process, level and traceback are those of the first."""
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            record = logging.LogRecord("a.b", logging.ERROR, __file__, 1, "%s!", ("Ah",), sys.exc_info())
        record.process = 7
        line = logs.line_of(record)
        assert logs.line_of(logs.record_of(line)) == line
        assert (line.process, line.level, line.message, line.traceback[-17:]) == (7, "error", "Ah!", "ZeroDivisionError")

    def test_without_a_parent_it_is_shown(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Where the process that took the lines is gone, they go to standard error."""

        def send(_: logs.Line) -> None:
            raise BrokenPipeError

        with logs.handled_by(logs.ToParent(send)):
            log.warning("alone")
        assert capsys.readouterr().err == "alone\n"


def test_what_was_set_is_set_back(path: Path) -> None:
    """Afterwards no handler and no level is left behind."""
    root, own = logging.getLogger(), logging.getLogger("ecomflow")
    before = (list(root.handlers), own.level)
    with logs.handled_by(logs.ToFile(path)):
        assert (len(root.handlers), own.level) == (len(before[0]) + 1, logging.INFO)
    assert (root.handlers, own.level) == before
