"""A JSON document and a place in it in; another document out. Pure: only the containers on the way are copied."""

from __future__ import annotations

from typing import Any

Key = str | int
Keys = tuple[Key, ...]


def replaced(body: Any, keys: Keys, value: object) -> Any:
    """``body`` with another value at ``keys``."""
    changed, head = body.copy(), keys[0]
    changed[head] = value if len(keys) == 1 else replaced(body[head], keys[1:], value)
    return changed


def without(body: Any, keys: Keys) -> Any:
    """``body`` without the field at ``keys``."""
    changed, head = body.copy(), keys[0]
    if len(keys) == 1:
        del changed[head]
    else:
        changed[head] = without(body[head], keys[1:])
    return changed


def value_at(body: Any, keys: Keys) -> Any:
    """The value of ``body`` at ``keys``; None where there is none."""
    for key in keys:
        if isinstance(key, int):
            body = body[key] if isinstance(body, list) and key < len(body) else None
        else:
            body = body.get(key) if isinstance(body, dict) else None
    return body


def path_of(keys: Keys) -> str:
    """``("items", 0, "price")`` as ``$.items[0].price``."""
    return "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
