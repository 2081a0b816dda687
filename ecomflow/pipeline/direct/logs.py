"""Log records in; JSON lines in a file, and messages on a terminal, out.

One process writes the file, each line with one write, and limits its size; it gets the records of other processes through
``workers.py``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ecomflow.processes.json_lines import append_line
from ecomflow.processes.state_folder import access_error
from ecomflow.terminal.console import err, inert_json, plain_lines

# The size at which the log is set aside.
MAX_BYTES = 10 * 2**20

# The ``extra`` for records that the command itself shows on the terminal.
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
    """``record`` as a line, with its message formatted, and lone surrogates, which UTF-8 can't encode, escaped."""
    when, pid = datetime.fromtimestamp(record.created, UTC), record.process or os.getpid()
    traceback = record.exc_text or (_formatter.formatException(record.exc_info) if record.exc_info else "")
    message, traceback = (text.encode("utf-8", "backslashreplace").decode() for text in (record.getMessage(), traceback))
    return LogLine(when, record.levelname.lower(), record.name, pid, message, traceback)


def record_of(line: LogLine) -> logging.LogRecord:
    """The record from which ``line`` was made, with what the line has of it."""
    level = logging.getLevelNamesMapping().get(line.level.upper(), logging.INFO)
    record = logging.LogRecord(line.logger, level, "", 0, line.message, None, None)
    record.created, record.process, record.exc_text = line.time.timestamp(), line.process, line.traceback
    return record


@contextmanager
def handled_by(handler: logging.Handler) -> Iterator[None]:
    """Inside the block ``handler`` gets ecomflow's records from INFO on, and others' from WARNING on."""
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
    """A handler whose errors never reach the code that logs."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.take(record)
        except Exception:  # noqa: BLE001  # shown on standard error, as the handlers of the standard library do
            self.handleError(record)

    def take(self, record: logging.LogRecord) -> None:
        raise NotImplementedError


class ToFile(_Handler):
    """Appends each record to ``path`` as a JSON line. If the file can't be written, that is shown once, and nothing is stopped.

    Raises AccessError if its folder can't be created.
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
        line = inert_json(msgspec.json.encode(line_of(record))).encode()
        try:
            append_line(self._path, line, MAX_BYTES)
        except OSError as error:
            if self._writable:
                err.print(plain_lines(f"The log can't be written: {self._path}: {error.strerror}"), soft_wrap=True)
            self._writable = False
        else:
            self._writable = True


class ToTerminal(_Handler):
    """Shows warnings and errors on standard error, with their tracebacks; control characters are escaped."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def take(self, record: logging.LogRecord) -> None:
        if getattr(record, "on_terminal", True):
            err.print(plain_lines(self.format(record)), soft_wrap=True)


class ToParent(_Handler):
    """Passes each record, as a line, to ``send``; shows it on standard error if that fails."""

    def __init__(self, send: Callable[[LogLine], None]) -> None:
        super().__init__()
        self._send = send

    def take(self, record: logging.LogRecord) -> None:
        try:
            self._send(line_of(record))
        except OSError:
            err.print(plain_lines(self.format(record)), soft_wrap=True)
