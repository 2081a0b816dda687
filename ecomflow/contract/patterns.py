"""A regular expression in; texts that it matches, out. Pure, the randomness passed in.

Python's own parser reads the expression. What takes no characters (anchors, boundaries, looking ahead and behind) adds none here,
so that a text may fail to match because of it: whoever needs one that matches checks it, and draws again.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec

# Characters of one text and repetitions in it. A pattern of a few characters can ask for billions.
MAX_TEXT = 10_000
# A range of so many characters stands for itself; of a larger one the first so many.
_MAX_RANGE = 1_000

_WORD = string.ascii_letters + string.digits + "_"
_CATEGORIES = {
    "CATEGORY_DIGIT": string.digits,
    "CATEGORY_WORD": _WORD,
    "CATEGORY_SPACE": " ",
    "CATEGORY_NOT_DIGIT": string.ascii_letters,
    "CATEGORY_NOT_WORD": " -.,:/",
    "CATEGORY_NOT_SPACE": _WORD + "-.",
}
_CLASSES = {"DIGIT": r"\d", "WORD": r"\w", "SPACE": r"\s", "NOT_DIGIT": r"\D", "NOT_WORD": r"\W", "NOT_SPACE": r"\S"}
_ANY = string.ascii_letters + string.digits + " -_."
_PRINTABLE = "".join(map(chr, [*range(0x20, 0x7F), *range(0xC0, 0x180)]))
_WITHOUT_CHARACTERS = ("AT", "ASSERT", "ASSERT_NOT")


class PatternError(ValueError):
    """No text can be made from an expression."""


class _Draw(msgspec.Struct):
    """One text in the making. ``spread``: how much more than its least an open repetition may repeat; ``left``: characters and
    repetitions that may follow.
    """

    random: Random
    spread: int
    left: int
    groups: dict[int, str]


_Part = Callable[[_Draw], str]
# A source and a spread in; a text out. Raises PatternError.
TextMaker = Callable[[Random, int], str]


def text_maker(pattern: str) -> TextMaker:
    """Makes texts for ``pattern``. Raises PatternError where it says more than characters, classes, choices, groups and
    repetitions do.
    """
    parser: Any = re._parser  # type: ignore[attr-defined]  # not public, and the only one that reads what re reads
    try:
        part = _sequence(parser.parse(pattern))
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(str(error)) from error

    def make(random: Random, spread: int) -> str:
        try:
            return part(_Draw(random, spread, MAX_TEXT, {}))
        except RecursionError as error:
            raise PatternError("it is nested too deeply") from error

    return make


def _sequence(parsed: Any) -> _Part:
    parts = [_part(str(operation), argument) for operation, argument in parsed if str(operation) not in _WITHOUT_CHARACTERS]
    if len(parts) == 1:
        return parts[0]
    return lambda draw: "".join([part(draw) for part in parts])


def _part(operation: str, argument: Any) -> _Part:
    match operation:
        case "LITERAL":
            return _one_of(chr(argument))
        case "NOT_LITERAL":
            return _one_of(_outside([("LITERAL", argument)]))
        case "ANY":
            return _one_of(_ANY)
        case "IN":
            return _one_of(_class(argument))
        case "BRANCH":
            branches = [_sequence(branch) for branch in argument[1]]
            return lambda draw: draw.random.choice(branches)(draw)
        case "SUBPATTERN":
            return _group(argument[0], _sequence(argument[-1]))
        case "ATOMIC_GROUP":
            return _sequence(argument)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            return _repeated(int(argument[0]), int(argument[1]), _sequence(argument[2]))
        case "GROUPREF":
            return lambda draw: draw.groups.get(argument, "")
    raise PatternError(f"{operation.lower()} is not supported")


def _one_of(characters: Sequence[str]) -> _Part:
    if not characters:
        raise PatternError("a class holds no character")

    def draw_one(draw: _Draw) -> str:
        _take(draw, 1)
        return characters[int(draw.random.random() * len(characters))]

    return draw_one


def _take(draw: _Draw, steps: int) -> None:
    draw.left -= steps
    if draw.left < 0:
        raise PatternError(f"it asks for more than {MAX_TEXT} characters")


def _group(number: int | None, inner: _Part) -> _Part:
    if number is None:
        return inner

    def draw_group(draw: _Draw) -> str:
        draw.groups[number] = text = inner(draw)
        return text

    return draw_group


def _repeated(least: int, most: int, inner: _Part) -> _Part:
    if least > MAX_TEXT:
        raise PatternError(f"it asks for more than {MAX_TEXT} characters")

    def draw_repeated(draw: _Draw) -> str:
        times = draw.random.randint(least, min(most, least + draw.spread))
        _take(draw, times)  # nothing, a billion times, takes long too
        return "".join([inner(draw) for _ in range(times)])

    return draw_repeated


def _class(parts: Any) -> str:
    if str(parts[0][0]) == "NEGATE":
        return _outside(parts[1:])
    return "".join(_characters(str(operation), argument) for operation, argument in parts)


def _characters(operation: str, argument: Any) -> str:
    match operation:
        case "LITERAL":
            return chr(argument)
        case "RANGE":
            low, high = argument
            return "".join(chr(code) for code in range(low, min(high, low + _MAX_RANGE) + 1) if not 0xD800 <= code < 0xE000)
    return _CATEGORIES[str(argument)]


def _outside(parts: Any) -> str:
    return "".join(one for one in _PRINTABLE if not any(_is_in(one, str(operation), argument) for operation, argument in parts))


def _is_in(character: str, operation: str, argument: Any) -> bool:
    match operation:
        case "LITERAL":
            return ord(character) == int(argument)
        case "RANGE":
            return bool(argument[0] <= ord(character) <= argument[1])
    return re.match(_CLASSES[str(argument).removeprefix("CATEGORY_")], character) is not None
