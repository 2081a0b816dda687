"""A file of JSON lines of limited size: each line is one write, and a full file is renamed, which replaces the previous one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def set_aside(path: Path) -> Path:
    """The path to which the file at ``path`` is renamed when it is full."""
    return path.with_name(f"{path.name}.1")


def append_line(path: Path, line: bytes, max_bytes: int) -> None:
    """Append ``line``, which has no line break, to the file at ``path``, which only this process writes. At ``max_bytes`` the
    file is set aside first, so that together they take at most twice as much. Raises OSError.
    """
    with suppress(FileNotFoundError):
        if path.stat().st_size >= max_bytes:
            path.replace(set_aside(path))
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(file).st_size
        # A full disk or a power cut left an incomplete line.
        start = b"\n" if size and os.pread(file, 1, size - 1) != b"\n" else b""
        os.write(file, start + line + b"\n")
    finally:
        os.close(file)


def lines_backwards(path: Path) -> Iterator[bytes]:
    """The lines of the file at ``path`` and of the one set aside before it, newest first; none if there is no file. Raises
    OSError.
    """
    for part in (path, set_aside(path)):
        with suppress(FileNotFoundError):
            yield from reversed(part.read_bytes().splitlines())
