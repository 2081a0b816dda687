"""A refused message's payload and the path of its error in; the indented payload, with that value marked, out. Pure.

Tokens are not changed: numbers keep their digits, repeated keys stay, and a payload that is not JSON is shown unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

import msgspec

from ecomflow.contract.nesting import is_too_deep

MOST_CHARACTERS = 20_000

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')
_PART = re.compile(r"\[(\d+)\]|\.([^.\[]+)")
# A document can be nested hundreds of levels deep.
_DEEPEST_INDENT = 40


class Piece(msgspec.Struct, frozen=True):
    """A piece of text; ``marked``: the error is about it."""

    text: str
    marked: bool = False


class Shown(msgspec.Struct, frozen=True):
    """``found``: whether there is a value at the path, which is then marked. ``is_cut``: whether the payload was truncated."""

    pieces: tuple[Piece, ...]
    found: bool
    is_cut: bool


def shown_payload(payload: str, path: str) -> Shown:
    """``payload`` indented, with the value at ``path`` marked, at most ``MOST_CHARACTERS``. The whole (``$``) is not marked."""
    if not _is_json(payload):
        return Shown((Piece(payload[:MOST_CHARACTERS]),), False, len(payload) > MOST_CHARACTERS)
    wanted = tuple(int(index) if index else key for index, key in _PART.findall(path))
    taken, room = [], MOST_CHARACTERS
    for piece in _Indenter(wanted).pieces(payload):
        taken.append(Piece(piece.text[:room], piece.marked))
        room -= len(piece.text)
        if room < 0:
            break
    pieces = _merged(taken)
    return Shown(pieces, any(piece.marked for piece in pieces), room < 0)


def _is_json(payload: str) -> bool:
    try:
        if is_too_deep(payload.encode()):
            return False
        msgspec.json.decode(payload, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeEncodeError):
        return False
    return payload.lstrip()[:1] in ("{", "[")


def _merged(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """Merge adjacent pieces of the same kind."""
    return tuple(Piece("".join(one.text for one in same), marked) for marked, same in groupby(pieces, lambda one: one.marked))


class _Indenter:
    """Walks through valid JSON, tracking the path as a key or index per level, and marks the value at ``wanted``."""

    def __init__(self, wanted: tuple[str | int, ...]) -> None:
        self._wanted = wanted
        self._path: list[str | int] = []
        self._in_object: list[bool] = []
        self._at_key = self._is_empty = self._marks = False

    def pieces(self, payload: str) -> Iterator[Piece]:
        """The tokens in order, with whitespace for the indentation."""
        steps = {"{": self._open, "[": self._open, "}": self._close, "]": self._close, ",": self._next, ":": self._enter}
        for match in _TOKEN.finditer(payload):
            yield from steps.get(match[0], self._scalar)(match[0])

    def _open(self, text: str) -> Iterator[Piece]:
        yield from self._first_line()
        self._marks = self._marks or self._is_wanted()
        yield Piece(text, self._marks)
        self._in_object.append(text == "{")
        self._path.append("" if text == "{" else 0)
        self._at_key, self._is_empty = text == "{", True

    def _close(self, text: str) -> Iterator[Piece]:
        self._in_object.pop()
        self._path.pop()
        yield Piece(text if self._is_empty else f"{self._line()}{text}", self._marks)
        self._marks = self._marks and not self._is_wanted()
        self._at_key = self._is_empty = False

    def _next(self, text: str) -> Iterator[Piece]:
        self._at_key = self._in_object[-1]
        if not self._at_key:
            self._path[-1] = int(self._path[-1]) + 1
        yield Piece(f"{text}{self._line()}", self._marks)

    def _enter(self, text: str) -> Iterator[Piece]:
        self._at_key = False
        yield Piece(f"{text} ", self._marks)

    def _scalar(self, text: str) -> Iterator[Piece]:
        yield from self._first_line()
        if self._at_key:
            self._path[-1] = msgspec.json.decode(text, type=str)
            yield Piece(text, self._marks)
        else:
            yield Piece(text, self._marks or self._is_wanted())

    def _first_line(self) -> Iterator[Piece]:
        """The line break after an opening bracket."""
        if self._is_empty:
            self._is_empty = False
            yield Piece(self._line(), self._marks)

    def _line(self) -> str:
        return "\n" + "  " * min(len(self._path), _DEEPEST_INDENT)

    def _is_wanted(self) -> bool:
        return bool(self._wanted) and tuple(self._path) == self._wanted
