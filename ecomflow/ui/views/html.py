"""Values in, HTML out: anything that is not ``Html`` is treated as text, made inert and escaped, here and nowhere else.

docs/adr/0019 says why it is not a library.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from ecomflow.terminal.console import plain, plain_lines

_VOID = frozenset({"br", "col", "input", "link", "meta"})


class Html(str):
    """Trusted markup, in which all external values are escaped."""

    __slots__ = ()


class Exact(str):
    """Text that a form must send back unchanged: escaped, but not made inert. For the user's own input."""

    __slots__ = ()


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element. Children are Html, text, numbers, None (nothing), or sequences of these.

    In attribute names ``_`` stands for ``-``, with an extra one at the end for Python's keywords (``class_``). None and False
    omit an attribute, True writes it without a value.
    """
    opened = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    if name in _VOID:
        return Html(opened)
    return Html(f"{opened}{join(children)}</{name}>")


def join(children: Iterable[Any]) -> Html:
    """``children``, concatenated."""
    return Html("".join(_child(child) for child in children))


def lines(text: str) -> Html:
    """``text`` with its line breaks kept (for <pre>), otherwise like any child."""
    return Html(escape(plain_lines(text).plain))


def shown(value: Any, width: int | None = None) -> str:
    """``value`` as inert text, cut to ``width`` characters; not escaped yet: for a child or an attribute of ``tag``."""
    text = "" if value is None else str(value)
    if text.isascii() and text.isprintable() and (width is None or len(text) <= width):
        return text  # the common case, a thousand times in a view
    return plain(text, width).plain


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = (), quiet: bool = False
) -> Html:
    """A table with a caption; the columns in ``right`` contain numbers. ``quiet``: the caption is only for screen readers."""
    kinds = ["number" if column in right else None for column in columns]
    head = tag("tr", [tag("th", column, scope="col", class_=kind) for column, kind in zip(columns, kinds, strict=True)])
    body = [tag("tr", [tag("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)]) for row in rows]
    drawn = tag("table", tag("caption", caption, class_="unseen" if quiet else None), tag("thead", head), tag("tbody", body))
    # Wide tables scroll separately, also by keyboard, so that the page itself never scrolls sideways.
    return tag("div", drawn, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _attribute(key: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{_text(value)}"'


def _child(child: Any) -> str:
    if isinstance(child, Html):
        return child
    if child is None:
        return ""
    if isinstance(child, list | tuple):
        return join(child)
    return _text(child)


def _text(value: Any) -> str:
    return escape(value if isinstance(value, Exact) else shown(value))
