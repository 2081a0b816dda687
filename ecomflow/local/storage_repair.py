"""A folder of fake-gcs-server's objects in; the objects that had lost their metadata, which they have again, out.

The server writes an object's content, then its metadata as an extended attribute of the file. Killed in between, or after a copy
of the folder by a tool that leaves attributes behind (``cp -r``), it answers every listing that meets such an object with 404, as
if the bucket were gone. Run before the server starts.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import google_crc32c
import msgspec

_ATTRIBUTE = "user.metadata"
_BUCKET_SUFFIX = ".bucketMetadata"
_NEVER = "0001-01-01T00:00:00Z"


def restore_metadata(storage: Path) -> list[str]:
    """Give each object below ``storage`` (a folder a bucket) that has no readable metadata its own again; tell ``bucket/object``.

    Its generation and its times are the file's. Where the file system has no extended attributes there is nothing to restore: the
    server then keeps metadata in files of its own.
    """
    if not hasattr(os, "getxattr"):
        return []
    restored: list[str] = []
    for path in _files(storage):
        if not _has_metadata(path):
            try:
                os.setxattr(path, _ATTRIBUTE, msgspec.json.encode(_metadata_of(path)))
            except OSError:
                return restored
            restored.append(path.relative_to(storage).as_posix())
    return restored


def _files(storage: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(storage):
        for name in sorted(names):
            path = Path(folder) / name
            if not (path.parent == storage and name.endswith(_BUCKET_SUFFIX)):
                yield path


def _has_metadata(path: Path) -> bool:
    try:
        return isinstance(msgspec.json.decode(os.getxattr(path, _ATTRIBUTE)), dict)
    except (OSError, msgspec.DecodeError):
        return False


def _metadata_of(path: Path) -> dict[str, Any]:
    """As the server writes it, from the content and the times of the file."""
    content = path.read_bytes()
    written = path.stat().st_mtime_ns // 1000
    moment = datetime.fromtimestamp(written / 1e6, UTC).isoformat().replace("+00:00", "Z")
    digest = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    return {
        "StorageClass": "STANDARD",
        "ContentType": "application/x-ndjson" if path.suffix == ".jsonl" else "application/octet-stream",
        "Crc32c": base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode(),
        "Md5Hash": digest,
        "Etag": digest,
        "Created": moment,
        "Updated": moment,
        "Deleted": _NEVER,
        "CustomTime": _NEVER,
        "Generation": written,
    }
