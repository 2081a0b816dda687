"""The text of a rule's check or of a column's value in; the expression that it says, or what is wrong with it, out. Pure.

    check      = sum comparison sum
    sum        = product { ("+" | "-") product }
    product    = part { "*" part }
    part       = number | 'string' | path | "sum" "(" sum ")" | "(" sum ")"
    path       = name { "." name }
    comparison = "<" | "<=" | "==" | "!=" | ">=" | ">"

A closed language: there are no other functions, and nothing is evaluated here.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NoReturn, get_args

from ecomflow.contract.language import Check, Comparison, Constant, Expression, Operation, Path, Sum

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+(?:\.[0-9]+)?)|(?P<text>'[^']*')|(?P<path>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)"
    r"|(?P<symbol><=|>=|==|!=|[<>+\-*()]))",
    re.ASCII,
)
_COMPARISONS: tuple[str, ...] = get_args(Comparison)
# Far beyond any rule of a shop; a bound for those who read expressions by recursion.
MAX_TOKENS = 100
MAX_LENGTH = 2_000


class ExpressionError(ValueError):
    """A text is not an expression. The message has the form ``expected ..., found ...``."""


def parse_check(text: str) -> Check:
    """The comparison that ``text`` says. Raises ExpressionError."""
    reader = _Reader(text)
    left = _sum(reader)
    comparison = reader.symbol(*_COMPARISONS)
    if comparison is None:
        reader.fail(f"a comparison ({', '.join(_COMPARISONS)})")
    right = _sum(reader)
    reader.end()
    return Check(comparison, left, right, " ".join(text.split()))  # type: ignore[arg-type]  # one of the literals


def parse_value(text: str) -> Expression:
    """The value that ``text`` says. Raises ExpressionError."""
    reader = _Reader(text)
    value = _sum(reader)
    reader.end()
    return value


def _sum(reader: _Reader) -> Expression:
    left = _product(reader)
    while operator := reader.symbol("+", "-"):
        left = Operation(operator, left, _product(reader))  # type: ignore[arg-type]
    return left


def _product(reader: _Reader) -> Expression:
    left = _part(reader)
    while reader.symbol("*"):
        left = Operation("*", left, _part(reader))
    return left


def _part(reader: _Reader) -> Expression:
    if reader.symbol("("):
        return reader.closed(_sum(reader))
    kind, text = reader.take("a field, a number or a 'string'")
    if kind == "number":
        return Constant(Decimal(text) if "." in text else int(text))
    if kind == "text":
        return Constant(text[1:-1])
    if text == "sum" and reader.symbol("("):
        return Sum(reader.closed(_sum(reader)))
    return Path(tuple(text.split(".")))


class _Reader:
    """The tokens of a text, read one after another."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise ExpressionError(f"expected at most {MAX_LENGTH} characters, found {len(text)}")
        self._tokens: list[tuple[str, str]] = []
        self._at = position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None:
                raise ExpressionError(
                    f"expected an expression of fields, numbers, + - * and sum(), found {text[position:].strip()!r}"
                )
            self._tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
            position = match.end()
            if len(self._tokens) > MAX_TOKENS:
                raise ExpressionError(f"expected at most {MAX_TOKENS} words and symbols, found more")

    def symbol(self, *texts: str) -> str | None:
        """The next token where it is one of ``texts``."""
        kind, text = self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")
        if kind != "symbol" or text not in texts:
            return None
        self._at += 1
        return text

    def take(self, expected: str) -> tuple[str, str]:
        """The next token, which is not a symbol."""
        if self._at >= len(self._tokens) or self._tokens[self._at][0] == "symbol":
            self.fail(expected)
        self._at += 1
        return self._tokens[self._at - 1]

    def closed(self, inner: Expression) -> Expression:
        if not self.symbol(")"):
            self.fail("')'")
        return inner

    def end(self) -> None:
        if self._at < len(self._tokens):
            self.fail("the end")

    def fail(self, expected: str) -> NoReturn:
        found = repr(self._tokens[self._at][1]) if self._at < len(self._tokens) else "the end"
        raise ExpressionError(f"expected {expected}, found {found}")
