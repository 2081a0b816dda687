"""Why an event is refused: what was expected where, and what stood there, in; the sentence of its dead letter out. Pure.

``$.items[1].quantity: expected int >= 1, got 0``. It includes the value, shortened and escaped, unless the field is personal. Of
a field that the contract does not name, it includes only the JSON type: that value may be personal, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from msgspec import Raw

_LONGEST = 60
_MAX_NAME = 64
_MAX_OPTIONS = 20


class Violation(NamedTuple):
    """``actual`` is what was found, as it may be shown; None for a required field that is missing."""

    reason: Literal["malformed_json", "contract_violation", "out_of_range"]
    path: str
    expected: str
    actual: str | None


def sentence(violation: Violation) -> str:
    """The violation in words, its path first."""
    if violation.actual is None:
        return f"{violation.path}: required, but missing"
    return f"{violation.path}: expected {violation.expected}, got {violation.actual}"


def violation_of(path: str, expected: str, value: Any, is_personal: bool) -> Violation:
    return Violation("contract_violation", path, expected, shown(value, is_personal))


def fault_violation(path: str, fault: tuple[str, bool], value: Any, is_personal: bool) -> Violation:
    """``fault`` is what was expected, and whether ``value`` is out of every column's range."""
    expected, out_of_range = fault
    reason: Literal["contract_violation", "out_of_range"] = "out_of_range" if out_of_range else "contract_violation"
    return Violation(reason, path, expected, shown(value, is_personal))


def within(violation: Violation, step: str) -> Violation:
    """The violation seen from one level further out: ``step`` is ``.items`` or ``[1]``."""
    reason, path, expected, actual = violation
    return Violation(reason, step + path, expected, actual)


def shown(value: Any, is_personal: bool = False) -> str:
    """A value of a message in a few characters of one line; of a personal one, an array or an object only the JSON type."""
    if isinstance(value, Raw):
        value = str(memoryview(value)[: _LONGEST + 1], "utf-8", "replace")
    if value is None or isinstance(value, list | dict):
        return json_type(value)
    if is_personal:
        return f"{json_type(value)} that is personal and not shown"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value[: _LONGEST + 1]) if isinstance(value, str) else _number(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}...{_length(value)}"


def json_type(value: Any) -> str:
    """The JSON type of a parsed value, as it follows "got"."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return "array" if value else "an empty array"
    names = {bool: "a boolean", str: "a string", dict: "object"}
    return names.get(type(value), "a number")


def shown_name(key: str) -> str:
    """The key of an object on one line and cut short, for a path."""
    name = key[:_MAX_NAME]
    return name if name.isprintable() else repr(name)[1:-1]


def one_of(options: Sequence[str]) -> str:
    """What is expected of a value that must be one of ``options``."""
    more = len(options) - _MAX_OPTIONS
    return f"one of {', '.join(options[:_MAX_OPTIONS])}" + (f" and {more:,} more" if more > 0 else "")


def _number(value: Any) -> str:
    if not isinstance(value, Decimal):
        return str(value)
    if not value.is_finite():  # ``numbers.exact_number`` makes it of too large an exponent
        return "a number beyond any decimal"
    return f"{value:E}" if abs(value.adjusted()) > _LONGEST else str(value)


def _length(value: Any) -> str:
    return f" ({len(value):,} characters)" if isinstance(value, str) else ""
