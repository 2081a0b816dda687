"""The text of a contract file in; the same text with a line or an element more out. Comments and layout stay. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ecomflow.errors import ConfigError

# A comment, or a string of any of TOML's four kinds: what is in them is not structure.
_OPAQUE = re.compile(
    r'#[^\n]*|"""(?:[^\\]|\\.)*?"""|\'\'\'.*?\'\'\'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'',
    re.DOTALL,
)
_KEY = re.compile(r'\s*(?:[A-Za-z0-9_-]+|"[^"\n]*")\s*=')


def _blanked(text: str) -> str:
    """``text`` with blanks for comments and strings, at the same places; the quotation marks of a header's name stay."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    return _OPAQUE.sub(blank, text)


def _starts(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each line that begins within no array or inline table."""
    depth, at = 0, 0
    for line in _blanked(text).splitlines(keepends=True):
        if depth == 0:
            yield at, at + len(line)
        depth += sum(line.count(one) for one in "[{") - sum(line.count(one) for one in "]}")
        at += len(line)


def _section(text: str, header: str, index: int = 0) -> tuple[int, int]:
    """Start and end of the section under the ``index``-th header such as ``[fields]``. Raises ConfigError if there is none."""
    begins: int | None = None
    for start, end in _starts(text):
        line = text[start:end].strip()
        if begins is not None and line.startswith("["):
            return begins, start
        if begins is None and re.sub(r'[\s"\']', "", line.partition("#")[0]) == header:
            if index == 0:
                begins = end
            index -= 1
    if begins is None:
        raise ConfigError(f"Expected a section {header} in the contract file, found none.", f"Write it under a line {header}.")
    return begins, len(text)


def with_line(text: str, header: str, name: str, value: str) -> tuple[str, str]:
    """``text`` with ``name = value`` as the last line of the section ``header``, aligned with the one before; and that line."""
    start, end = _section(text, header)
    keys = [(begin, finish) for begin, finish in _starts(text) if start <= begin < end and _KEY.match(text, begin, finish)]
    after, width = start, len(name)
    if keys:
        begin, finish = keys[-1]
        after = next((one for one, _ in _starts(text) if one >= finish), len(text))
        width = max(width, text.index("=", begin) - begin - 1)
    line = f"{name:{width}} = {value}\n"
    before = text[:after] if text[:after].endswith("\n") or not after else f"{text[:after]}\n"
    return before + line + text[after:], line


def with_element(text: str, header: str, index: int, key: str, element: str) -> str:
    """``text`` with ``element`` as the last of the array ``key`` in the ``index``-th section ``header``."""
    start, end = _section(text, header, index)
    blanked = _blanked(text)
    match = re.compile(rf"^[ \t]*{key}[ \t]*=[ \t]*\[", re.MULTILINE).search(blanked, start, end)
    if match is None:
        raise ConfigError(f"Expected {key} in a section {header}, found none.", f"Add {element} to the columns by hand.")
    close = _closing(blanked, match.end())
    inner = blanked[match.end() : close]
    last = match.end() + len(_code(text[match.end() : close], inner))
    comma = "" if (not inner.strip() and last == match.end()) or text[last - 1] == "," else ","
    if "\n" not in inner:
        gap = " " if last > match.end() else ""
        return f"{text[:last]}{comma}{gap}{element}{text[last:]}"
    indent = re.search(r"\n([ \t]*)\S[^\n]*$", text[match.end() : last])
    line = f"\n{indent[1] if indent else '  '}{element},"
    rest = text.index("\n", last)  # a comment may stand behind the last element
    return f"{text[:last]}{comma}{text[last:rest]}{line}{text[rest:]}"


def _code(text: str, blanked: str) -> str:
    """``text`` up to its last element, blanks and comments behind it left out."""
    ends = [match.end() for match in _OPAQUE.finditer(text) if not match[0].startswith("#")]
    return text[: max([len(blanked.rstrip()), *ends])]


def _closing(blanked: str, at: int) -> int:
    """Where the bracket closes that opened before ``at``."""
    depth = 1
    while depth:
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(blanked[at], 0)
        at += 1
    return at - 1
