"""Sentences about the mistakes in a contract file, collected while it is read.

They have the form ``refund.toml: fields.amount.min: expected a number, found 'none'``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

_LONGEST_SHOWN = 60


class Mistakes:
    """The mistakes in ``file``, in the order in which they were found."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.sentences: list[str] = []

    def add(self, where: str, expected: str, found: str) -> None:
        self.say(where, f"expected {expected}, found {found}")

    def say(self, where: str, what: str) -> None:
        self.sentences.append(": ".join(part for part in (self.file, where, what) if part))


def shown(value: Any) -> str:
    """A TOML value for a sentence: short, on one line, without control characters."""
    match value:
        case bool():
            text = "true" if value else "false"
        case dict():
            text = "a table"
        case list():
            text = "a list"
        case str():
            text = repr(value)
        case int():
            text = str(value) if abs(value) < 10**_LONGEST_SHOWN else "a number of many digits"
        case datetime() | date() | time():
            text = value.isoformat()
        case float() | Decimal():
            text = str(value)
        case _:
            text = type(value).__name__
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def nearest(name: str, known: Iterable[str]) -> str:
    """``, did you mean 'pattern'?`` for ``patern``; empty if no known name is similar."""
    close = difflib.get_close_matches(name[:100], list(known), n=1)
    return f", did you mean '{close[0]}'?" if close else ""


def listed(names: Sequence[str]) -> str:
    """``a, b or c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


class Section:
    """A TOML table that is read key by key; ``where`` is its place in the file. Unexpected values are reported, and are None."""

    def __init__(self, mistakes: Mistakes, where: str, values: dict[str, Any]) -> None:
        self.mistakes = mistakes
        self.where = where
        self.values = values

    def at(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def wrong(self, key: str, expected: str, found: str | None = None) -> None:
        self.mistakes.add(self.at(key), expected, shown(self.values.get(key)) if found is None else found)

    def known_keys(self, known: Sequence[str]) -> None:
        """Report every key that is not in ``known``, with the most similar one."""
        for key in self.values:
            if key not in known:
                hint = nearest(key, known) or f"; known are {', '.join(known)}"
                self.mistakes.say(self.where, f"unknown key {shown(key)}{hint}")

    def text(self, key: str, expected: str = "a string") -> str | None:
        value = self.values.get(key)
        if value is None or isinstance(value, str):
            return value
        self.wrong(key, expected)
        return None

    def flag(self, key: str) -> bool:
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            self.wrong(key, "true or false")
        return value is True

    def whole(self, key: str, least: int) -> int | None:
        value = self.values.get(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**63):
            return value
        self.wrong(key, f"an integer, {least} or more")
        return None

    def one_of(self, key: str, options: Sequence[str]) -> str | None:
        value = self.values.get(key)
        if value is None or value in options:
            return value
        hint = nearest(value, options) if isinstance(value, str) else ""
        self.wrong(key, f"one of {', '.join(options)}", shown(value) + hint)
        return None

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.values.get(key, [])
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return tuple(value)
        self.wrong(key, "a list of strings")
        return ()

    def sections(self, key: str) -> list[Section]:
        """The tables of a ``[[key]]``."""
        value = self.values.get(key, [])
        if isinstance(value, list) and all(isinstance(one, dict) for one in value):
            return [Section(self.mistakes, f"{self.at(key)}[{index}]", one) for index, one in enumerate(value)]
        self.wrong(key, f"tables, [[{key}]]")
        return []
