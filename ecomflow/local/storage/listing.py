"""The parameters of objects.list in; a page of objects and common prefixes out."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any

from ecomflow.local.storage.store import Resource, StorageError, Store

MAX_ITEMS = 1000


def list_objects(store: Store, bucket: str, asked: Mapping[str, str]) -> dict[str, Any]:
    """A page: https://cloud.google.com/storage/docs/json_api/v1/objects/list. The page token is its last name or prefix."""
    for unknown in {"versions", "softDeleted", "matchGlob"} & asked.keys():
        if asked[unknown] not in ("", "false", "False"):
            raise StorageError(501, "notImplemented", f"The local Cloud Storage does not support {unknown} in listings.")
    size = int(text) if (text := asked.get("maxResults", "")).isdecimal() and len(text) < 9 else MAX_ITEMS
    size = min(size, MAX_ITEMS) or MAX_ITEMS
    items: list[Resource] = []
    prefixes: list[str] = []
    last = ""
    for entry in _entries(store, bucket, asked):
        if len(items) + len(prefixes) == size:
            return _page(items, prefixes) | {"nextPageToken": base64.urlsafe_b64encode(last.encode()).decode()}
        if isinstance(entry, str):
            prefixes.append(entry)
            last = entry
        else:
            items.append(entry)
            last = entry["name"]
    return _page(items, prefixes)


def _entries(store: Store, bucket: str, asked: Mapping[str, str]) -> Iterator[Resource | str]:
    """Objects in order, with common prefixes instead of the objects below them."""
    prefix, delimiter, end = asked.get("prefix", ""), asked.get("delimiter", ""), asked.get("endOffset", "")
    after = _token(asked.get("pageToken", ""))
    first = max(prefix, asked.get("startOffset", ""), after)
    while True:
        jump = None
        for item in store.names(bucket, first):
            name = item["name"]
            if not name.startswith(prefix) or (end and name >= end):
                return
            common = _common(name, prefix, delimiter)
            if after and (name <= after or common == after):
                if common is None:
                    continue
            elif common is None:
                yield item
                continue
            else:
                yield common
            jump = _after(common)
            break
        if jump is None:
            return
        first = jump


def _common(name: str, prefix: str, delimiter: str) -> str | None:
    place = name.find(delimiter, len(prefix)) if delimiter else -1
    return None if place < 0 else name[: place + len(delimiter)]


def _after(prefix: str) -> str:
    """The first string after all strings that start with ``prefix``."""
    last = ord(prefix[-1])
    return prefix[:-1] + chr(0xE000 if last == 0xD7FF else last + 1) if last < 0x10FFFF else f"{prefix}\U0010ffff"


def _token(text: str) -> str:
    try:
        return base64.urlsafe_b64decode(text).decode()
    except (ValueError, binascii.Error) as error:
        raise StorageError(400, "invalid", "Invalid pageToken: expected the nextPageToken of a page.") from error


def _page(items: list[Resource], prefixes: list[str]) -> dict[str, Any]:
    page: dict[str, Any] = {"kind": "storage#objects"}
    return page | ({"items": items} if items else {}) | ({"prefixes": prefixes} if prefixes else {})
