"""Output of the commands: tables, sentences and errors for a person, JSON for a program.

Everything that comes from a message, a warehouse or a service passes through ``plain``: it is shown as text, never interpreted
as markup, and its control characters are escaped.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ecomflow.errors import EcomflowError
from ecomflow.terminal.amounts import decimal_text

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
# The integers up to here are exact as numbers in every reader of JSON (RFC 8259, section 6).
_EXACT_INTEGER = 2**53


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
    sys.stdout.write(inert_json(msgspec.json.format(portable_json(value), indent=2)) + "\n")


def json_line(value: Any) -> str:
    """``value`` as a JSON document on one line, in ASCII."""
    return inert_json(portable_json(value))


def portable_json(value: Any) -> bytes:
    """``value`` as JSON that every reader reads alike.

    Times are in ISO 8601, decimals are strings of all their digits, and so are integers beyond 2^53.
    """
    return msgspec.json.encode(_portable(msgspec.to_builtins(value, builtin_types=(Decimal,), str_keys=True, enc_hook=str)))


def _portable(value: Any) -> Any:
    match value:
        case dict():
            return {key: _portable(one) for key, one in value.items()}
        case list() | tuple():
            return [_portable(one) for one in value]
        case Decimal():
            return decimal_text(value)
        case int() if abs(value) > _EXACT_INTEGER:
            return str(value)
    return value


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


def show_error_as_json(error: EcomflowError) -> None:
    """Prints the error to standard error as one line of JSON."""
    facts = {"type": type(error).__name__, "message": error.message, "remedy": error.remedy, "exit_code": error.exit_code}
    sys.stderr.write(json_line({"error": facts}) + "\n")


def show_error(error: EcomflowError) -> None:
    """Prints the error's message and remedy to standard error."""
    first, *more = error.message.splitlines() or [""]
    err.print(Text.assemble(("Error: ", "bold red"), plain(first)), soft_wrap=True)
    for line in (*more, *(error.remedy or "").splitlines()):
        err.print(plain(line), soft_wrap=True)
