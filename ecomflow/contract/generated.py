"""The few words of Python that columns are read with: made from attributes of our own in; compiled functions out.

A list comprehension written out takes two thirds of the time of ``operator.attrgetter``, and a column is one. No text of a
contract or of a message is in the source: attributes are ``f0`` and ``u0`` by position (``tree.py``), and any other word is
refused here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from ecomflow.contract.tree import Node

_WORDS = re.compile(r"lambda|for|in|if|else|is|not|and|or|None|event|events|line|lines|join|end|some|[fku]\d+|default")
_SOURCE = re.compile(r"[\w .,:()\[\]]*", re.ASCII)


def compiled(source: str, **names: Any) -> Callable[..., Any]:
    """The function that ``source``, a lambda over our own words, says; ``names`` are the values that it may use."""
    if not _SOURCE.fullmatch(source) or not all(_WORDS.fullmatch(word) for word in re.findall(r"\w+", source)):
        raise ValueError(f"not of our own words: {source!r}")
    return eval(compile(source, "<contract>", "eval"), {"__builtins__": {}, **names})  # type: ignore[no-any-return]  # noqa: S307  # checked words only


def access(root: str, nodes: Sequence[Node], with_default: bool = False) -> str:
    """The expression that reads the value at ``nodes`` from ``root``; None where an object on the way is missing.

    ``with_default``: ``default`` where the value itself is null or missing, or an object that is only on its ``path``. A record
    that is missing has no values, so no defaults either.
    """
    at, guards, of_records = root, [], 0
    for node in nodes:
        at = f"{at}.{node.attribute}" if node.attribute else at
        if node.optional and node is not nodes[-1]:
            guards.append(at)
            of_records = len(guards) if node.field is not None else of_records
    inner = guards[of_records:] if with_default else []
    value = f"(default if {' or '.join(f'{part} is None' for part in [*inner, at])} else {at})" if with_default else at
    outer = guards[:of_records] if with_default else guards
    return f"({value} if {' and '.join(f'{part} is not None' for part in outer)} else None)" if outer else value


def reader(nodes: Sequence[Node], default: Any = None) -> Callable[[list[Any]], list[Any]]:
    """A column's values from events: one comprehension. ``default``, where there is one, stands for what is null or missing."""
    return compiled(f"lambda events: [{access('event', nodes, default is not None)} for event in events]", default=default)


def getter(nodes: Sequence[Node], default: Any = None) -> Callable[[Any], Any]:
    """The same for one event, or one element."""
    return compiled(f"lambda event: {access('event', nodes, default is not None)}", default=default)
