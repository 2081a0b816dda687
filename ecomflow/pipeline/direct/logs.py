"""Log records in; JSON lines in a file, and sentences on a terminal, out.

One process writes the file, a line by one write, and keeps it within bounds; ``workers.py`` brings the others' records to it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ecomflow.processes.state_folder import access_error
from ecomflow.terminal.console import err, inert_json, plain_lines

# The file is set aside at this size, in the place of the one set aside before: together they take twice as much at most.
MAX_BYTES = 10 * 2**20

# What to log with as ``extra`` where the command tells the same on the terminal in its own words.
NOT_ON_TERMINAL = {"on_terminal": False}

_formatter = logging.Formatter()


class LogLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the log: ``time`` in UTC (RFC 3339, microseconds), ``process`` the pid, ``level`` in lower case."""

    time: datetime
    level: str
    logger: str
    process: int
    message: str
    traceback: str = ""


def line_of(record: logging.LogRecord) -> LogLine:
    """``record`` as a line, its arguments in its message, without the lone surrogates that UTF-8 can't express."""
    when, pid = datetime.fromtimestamp(record.created, UTC), record.process or os.getpid()
    traceback = record.exc_text or (_formatter.formatException(record.exc_info) if record.exc_info else "")
    message, traceback = (text.encode("utf-8", "backslashreplace").decode() for text in (record.getMessage(), traceback))
    return LogLine(when, record.levelname.lower(), record.name, pid, message, traceback)


def record_of(line: LogLine) -> logging.LogRecord:
    """The record that ``line`` was made of, as far as the line tells it."""
    level = logging.getLevelNamesMapping().get(line.level.upper(), logging.INFO)
    record = logging.LogRecord(line.logger, level, "", 0, line.message, None, None)
    record.created, record.process, record.exc_text = line.time.timestamp(), line.process, line.traceback
    return record


def set_aside(path: Path) -> Path:
    """Where what was written before the log at ``path`` began anew lies."""
    return path.with_name(f"{path.name}.1")


@contextmanager
def handled_by(handler: logging.Handler) -> Iterator[None]:
    """Within, ``handler`` gets what ecomflow logs from INFO on, and what others do from WARNING on."""
    root, own = logging.getLogger(), logging.getLogger("ecomflow")
    before = own.level
    own.setLevel(logging.INFO)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        own.setLevel(before)


class _Handler(logging.Handler):
    """A handler of which a fault never reaches those who log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.take(record)
        except Exception:  # noqa: BLE001  # as every handler of the standard library does: it is shown on standard error
            self.handleError(record)

    def take(self, record: logging.LogRecord) -> None:
        raise NotImplementedError


class ToFile(_Handler):
    """Appends each record to ``path`` as a JSON line. A file that can't be written is told once, and stops nothing.

    Raises AccessError where its folder can't be made.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._writable = True
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise access_error(path.parent, error, "written") from error

    def take(self, record: logging.LogRecord) -> None:
        line = inert_json(msgspec.json.encode(line_of(record))).encode() + b"\n"
        try:
            self._append(line)
        except OSError as error:
            if self._writable:
                err.print(plain_lines(f"The log can't be written: {self._path}: {error.strerror}"), soft_wrap=True)
            self._writable = False
        else:
            self._writable = True

    def _append(self, line: bytes) -> None:
        with suppress(FileNotFoundError):
            if self._path.stat().st_size >= MAX_BYTES:
                self._path.replace(set_aside(self._path))
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":  # A full disk or a power cut left an incomplete line.
                line = b"\n" + line
            os.write(file, line)
        finally:
            os.close(file)


class ToTerminal(_Handler):
    """Shows warnings and errors on standard error as sentences, their tracebacks after them; control characters are inert."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def take(self, record: logging.LogRecord) -> None:
        if getattr(record, "on_terminal", True):
            err.print(plain_lines(self.format(record)), soft_wrap=True)


class ToParent(_Handler):
    """Gives each record, as a line, to ``send``; where nobody takes it any more, shows it on standard error."""

    def __init__(self, send: Callable[[LogLine], None]) -> None:
        super().__init__()
        self._send = send

    def take(self, record: logging.LogRecord) -> None:
        try:
            self._send(line_of(record))
        except OSError:
            err.print(plain_lines(self.format(record)), soft_wrap=True)
