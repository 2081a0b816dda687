"""Output of the commands: tables, sentences and errors for a person, JSON for a program.

Everything that comes from a message, a warehouse or a service passes through ``plain``: it is shown as text, never interpreted
as markup, and its control characters are escaped.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ecomflow.errors import EcomflowError

out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False)

# Control characters move the cursor; line separators and bidirectional marks reorder the text around them; invisible characters
# (soft hyphen, zero-width space, byte order mark, tags) make different texts look alike. Joiners are kept: emoji need them.
_TURNING = (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_INVISIBLE = (0x00AD, 0x180E, 0x200B, *range(0x2060, 0x2065), 0xFEFF, *range(0xE0000, 0xE0080))
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    code: f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}" for code in (*_TURNING, *_INVISIBLE)
}
_CONTROL_WITHIN_LINES = {code: shown for code, shown in _CONTROL.items() if code != ord("\n")}
# JSON already escapes characters below 32. Line feeds between its values are kept.
_NOT_PRINTABLE_ASCII = re.compile("[^\n -~]")


def plain(value: Any, width: int | None = None) -> Text:
    """``value`` as text with control characters escaped, truncated to ``width`` characters with an ellipsis."""
    text = "" if value is None else str(value)
    shown = _inert(text[: None if width is None else width + 1], _CONTROL)
    return Text(shown if width is None or len(shown) <= width else f"{shown[: width - 1]}…")


def plain_lines(value: str) -> Text:
    """``value`` as text of several lines, with other control characters escaped."""
    return Text(_inert(value, _CONTROL_WITHIN_LINES))


def _inert(text: str, control: dict[int, str]) -> str:
    return text.translate(control).encode("utf-8", "replace").decode("utf-8")


def say(sentence: str) -> None:
    """Prints a sentence to standard output, with control characters escaped."""
    out.print(plain_lines(sentence))


def note(sentence: str) -> None:
    """Prints a sentence to standard error, so that standard output stays machine-readable. Control characters are escaped."""
    err.print(plain_lines(sentence))


def show_json(value: Any) -> None:
    """Prints ``value`` as one indented JSON document, in ASCII."""
    encoded = msgspec.json.encode(value, enc_hook=str)
    sys.stdout.write(inert_json(msgspec.json.format(encoded, indent=2)) + "\n")


def inert_json(encoded: bytes) -> str:
    """The same JSON document in printable ASCII, which is safe in any terminal and encoding."""
    return _NOT_PRINTABLE_ASCII.sub(_json_escape, encoded.decode())


def _json_escape(match: re.Match[str]) -> str:
    """``\\u`` and four digits for each of the character's UTF-16 code units, as in RFC 8259, section 7."""
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()) -> None:
    """Prints a table. Columns named in ``right`` are right-aligned; empty columns are omitted."""
    kept = [[value if isinstance(value, Text) else plain(value) for value in row] for row in rows]
    filled = [index for index in range(len(columns)) if not kept or any(len(row[index]) for row in kept)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index in filled:
        table.add_column(plain(columns[index]), justify="right" if columns[index] in right else "left", overflow="fold")
    for row in kept:
        table.add_row(*(row[index] for index in filled))
    if title:
        out.print(Text(title, style="bold"))
    out.print(table)


def show_counts(title: str, counts: Mapping[str, int]) -> None:
    """Prints a table of names and numbers."""
    show_table(title, ("name", "count"), [(name, f"{amount:,}") for name, amount in counts.items()], right=("count",))


def show_error(error: EcomflowError) -> None:
    """Prints the error's message and remedy to standard error."""
    first, *more = error.message.splitlines() or [""]
    err.print(Text.assemble(("Error: ", "bold red"), plain(first)), soft_wrap=True)
    for line in (*more, *(error.remedy or "").splitlines()):
        err.print(plain(line), soft_wrap=True)
