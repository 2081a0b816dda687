"""Why an event is refused: what was expected where, and what stood there, in; the sentence of its dead letter out. Pure.

``$.items[1].quantity: expected int >= 1, got 0``. It includes the value, shortened and escaped, unless the field is personal.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal, NamedTuple

from msgspec import Raw

_LONGEST = 60


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
    """A value of a message in a few characters of one line; of a personal one only its JSON type."""
    if type(value) is str and not is_personal:
        text = repr(value[: _LONGEST + 1])
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | dict):
        return ("an empty array" if not value else "array") if isinstance(value, list) else "object"
    if isinstance(value, Raw):
        value = str(memoryview(value)[: _LONGEST + 1], "utf-8", "replace")
    if is_personal:
        return f"a {'string' if isinstance(value, str) else 'number'} that is personal and not shown"
    text = repr(value[: _LONGEST + 1]) if isinstance(value, str) else _number(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _number(value: Any) -> str:
    return f"{value:E}" if isinstance(value, Decimal) and abs(value.adjusted()) > _LONGEST else str(value)
