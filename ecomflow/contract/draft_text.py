"""A draft in; the contract file that a person edits next, out. Pure.

Fields stand under one another with their types aligned, what was assumed behind them as a comment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ecomflow.contract.draft import Draft, DraftField, DraftTable

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_HEAD = """\
# Drafted from {source}. What was assumed says so: correct it, add descriptions, and check it with
#   ecomflow contract lint
#   ecomflow contract check SAMPLES
# For the whole language, see docs/contracts.md.
"""


def toml_of(draft: Draft, source: str) -> str:
    """The file. ``source`` says what it was drafted from."""
    head = (
        f"event = {value_text(draft.event)}\nversion = 1\n"
        f'description = ""  # what has happened, in a sentence\ntime = {value_text(draft.time)}\n'
    )
    parts = [
        _HEAD.format(source=source) + head,
        "[fields]\n" + fields_text(draft.fields),
        *(f"[records.{name}]\n{fields_text(draft.records[name])}" for name in _in_reading_order(draft)),
        *(_table_text(table) for table in draft.tables),
    ]
    return "\n".join(parts)


def fields_text(fields: Sequence[DraftField]) -> str:
    """A line each."""
    width = max(len(field.name) for field in fields if not field.is_open)
    return "".join(f"{field_line(field, width)}\n" for field in fields)


def field_line(field: DraftField, width: int) -> str:
    spec = _with_path(field)
    value = value_text(spec["type"]) if len(spec) == 1 else value_text(spec)
    comment = f"  # {field.comment}" if field.comment else ""
    return f"{'# ' if field.is_open else ''}{field.name:{width}} = {value}{comment}"


def value_text(value: Any) -> str:
    """``value`` as TOML on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(name)} = {value_text(part)}" for name, part in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(value_text, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else value_text(name)


def _with_path(field: DraftField) -> dict[str, Any]:
    """What is said of ``field``, its path in the form that reads best."""
    if field.path == (field.name,):
        return field.spec
    path: Any = ".".join(field.path) if not any("." in key for key in field.path) else list(field.path)
    kind: dict[str, Any] = {key: field.spec[key] for key in ("type", "of") if key in field.spec}
    return {**kind, "path": path, **field.spec}


def _in_reading_order(draft: Draft) -> Iterator[str]:
    """The records, those that hold others before them."""
    found: dict[str, None] = {}
    waiting = [draft.fields]
    while waiting:
        for field in waiting.pop(0):
            name = field.spec.get("of")
            if name in draft.records and name not in found:
                found[name] = None
                waiting.append(draft.records[name])
    yield from found


def _table_text(table: DraftTable) -> str:
    lines = [f"name = {value_text(table.name)}"]
    if table.each:
        lines.append(f"each = {value_text(table.each)}")
    if table.cluster:
        lines.append(f"cluster = {value_text(table.cluster)}  # assumed: what queries filter and group by")
    if table.columns is not None:
        lines.append(f"columns = [{', '.join(map(_column, table.columns))}]")
    return "[[tables]]\n" + "".join(f"{line}\n" for line in lines)


def _column(column: str | tuple[str, str]) -> str:
    return value_text(column) if isinstance(column, str) else value_text({"name": column[0], "value": column[1]})
