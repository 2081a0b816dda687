"""Values in, HTML out: whatever is not ``Html`` already is text, made inert and escaped, here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from ecomflow.terminal.console import plain, plain_lines

_VOID = frozenset({"br", "col", "input", "link", "meta"})


class Html(str):
    """Markup of our own, with all that came from elsewhere in it escaped."""

    __slots__ = ()


class Exact(str):
    """Text that a form must send back as it is: escaped, but not made inert. For what the reader has typed."""

    __slots__ = ()


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element. Children are Html, text, numbers, None (nothing), or sequences of such.

    Attributes are named with ``_`` for ``-``, and one at the end where the name is Python's own (``class_``). None and False
    leave an attribute out, True gives it without a value.
    """
    opened = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    if name in _VOID:
        return Html(opened)
    return Html(f"{opened}{join(children)}</{name}>")


def join(children: Iterable[Any]) -> Html:
    """``children`` one after the other."""
    return Html("".join(_child(child) for child in children))


def lines(text: str) -> Html:
    """``text`` whose line breaks count (for <pre>), all else as in any child."""
    return Html(escape(plain_lines(text).plain))


def shown(value: Any, width: int | None = None) -> str:
    """``value`` as inert text, cut to ``width`` characters; not escaped yet: for a child or an attribute of ``tag``."""
    text = "" if value is None else str(value)
    if text.isascii() and text.isprintable() and (width is None or len(text) <= width):
        return text  # most are; and a view has a thousand of them
    return plain(text, width).plain


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = (), quiet: bool = False
) -> Html:
    """A table with its caption; columns named in ``right`` hold numbers. ``quiet`` leaves the caption to screen readers."""
    kinds = ["number" if column in right else None for column in columns]
    head = tag("tr", [tag("th", column, scope="col", class_=kind) for column, kind in zip(columns, kinds, strict=True)])
    body = [tag("tr", [tag("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)]) for row in rows]
    drawn = tag("table", tag("caption", caption, class_="unseen" if quiet else None), tag("thead", head), tag("tbody", body))
    # Wide tables scroll by themselves, also by keyboard, so that the page never does.
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
