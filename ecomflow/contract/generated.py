"""The few words of Python that columns are read with: made from attributes of our own in; compiled functions out.

A list comprehension written out takes two thirds of the time of ``operator.attrgetter``, and a column is one. No text of a
contract or of a message stands in the source: attributes are ``f0`` and ``u0`` by position (``tree.py``), and any other word is
refused here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from ecomflow.contract.tree import Node

_WORDS = re.compile(r"lambda|for|in|if|else|is|not|and|or|None|event|events|line|lines|enumerate|[fu]\d+|default")
_SOURCE = re.compile(r"[\w .,:()\[\]]*", re.ASCII)


def compiled(source: str, **names: Any) -> Callable[..., Any]:
    """The function that ``source``, a lambda over our own words, says; ``names`` are the values that it may use."""
    if not _SOURCE.fullmatch(source) or not all(_WORDS.fullmatch(word) for word in re.findall(r"\w+", source)):
        raise ValueError(f"not of our own words: {source!r}")
    return eval(compile(source, "<contract>", "eval"), {"__builtins__": {}, **names})  # type: ignore[no-any-return]  # noqa: S307


def access(root: str, nodes: Sequence[Node], marks_null: bool = False) -> str:
    """The expression that reads the value at ``nodes`` from ``root``; None where an object on the way is missing.

    With ``marks_null`` a value that is itself None becomes ``default``.
    """
    at, guards = root, []
    for node in nodes:
        at = f"{at}.{node.attribute}" if node.attribute else at
        if node.optional and node is not nodes[-1]:
            guards.append(f"{at} is not None")
    value = f"(default if {at} is None else {at})" if marks_null else at
    return f"({value} if {' and '.join(guards)} else None)" if guards else value


def reader(nodes: Sequence[Node], default: Any = None) -> Callable[[list[Any]], list[Any]]:
    """A column's values from events: one comprehension. ``default`` stands for what is missing."""
    expression = access("event", nodes)
    if default is None:
        return compiled(f"lambda events: [{expression} for event in events]")
    return compiled(f"lambda events: [default if {expression} is None else {expression} for event in events]", default=default)


def marking_reader(nodes: Sequence[Node]) -> Callable[[list[Any]], list[Any]]:
    """The same for a value that may not be null: False where it is, None only where an object on the way is missing."""
    return compiled(f"lambda events: [{access('event', nodes, marks_null=True)} for event in events]", default=False)


def getter(expression: str) -> Callable[[Any], Any]:
    """The same for one event."""
    return compiled(f"lambda event: {expression}")
