"""Buckets and objects on disk.

``DIR/objects.sqlite3`` has the resources of the JSON API, ``DIR/content/<generation>`` the content; names never become part of a
path. Each change is one transaction that includes its preconditions. A confirmed change survives the death of the process, but
not of the machine.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import google_crc32c

Resource = dict[str, Any]
Conditions = Mapping[str, int]
"""ifGenerationMatch, ifGenerationNotMatch, ifMetagenerationMatch, ifMetagenerationNotMatch."""

_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, resource TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS objects (
  bucket TEXT, name TEXT, generation INTEGER NOT NULL, resource TEXT NOT NULL, PRIMARY KEY (bucket, name)) WITHOUT ROWID;
"""
# The fields of an object that a client may set; the server sets all others.
_OBJECT_FIELDS = (
    *("contentType", "contentEncoding", "contentDisposition", "contentLanguage", "cacheControl", "metadata", "customTime"),
    *("storageClass", "eventBasedHold", "temporaryHold"),
)


class StorageError(Exception):
    """An error response as in the service: status, reason and message."""

    def __init__(self, status: int, reason: str, sentence: str) -> None:
        super().__init__(status, reason, sentence)
        self.status, self.reason, self.sentence = status, reason, sentence


class Upload:
    """Content that is being uploaded, with its checksums."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._crc32c: Any = google_crc32c.Checksum()  # type: ignore[no-untyped-call]
        self._file = path.open("wb")

    def write(self, piece: bytes) -> None:
        self._file.write(piece)
        self._md5.update(piece)
        self._crc32c.update(piece)
        self.size += len(piece)

    def close(self) -> Resource:
        """Finish the upload; returns the resource's fields about its content."""
        self._file.close()
        checksums = {"md5Hash": self._md5.digest(), "crc32c": self._crc32c.digest()}
        return {"size": str(self.size)} | {name: base64.b64encode(value).decode() for name, value in checksums.items()}

    def discard(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


class Store:
    """The buckets and objects in ``folder``. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._content = folder / "content"
        self._content.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._db = sqlite3.connect(folder / "objects.sqlite3", isolation_level=None)
        self._db.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; {_SCHEMA}")
        (newest,) = self._db.execute("SELECT max(generation) FROM objects").fetchone()
        self._generation = newest or 0
        self._remove_leftovers()

    def close(self) -> None:
        self._db.close()

    # Buckets

    def create_bucket(self, resource: Resource) -> Resource:
        name = resource.get("name", "")
        if not isinstance(name, str) or not _BUCKET_NAME.fullmatch(name) or ".." in name:
            raise StorageError(400, "invalid", f"Invalid bucket name: '{name}'.")
        now = _now()
        made = {"location": "US", "storageClass": "STANDARD"} | resource | {"timeCreated": now, "updated": now}
        with self._transaction():
            if self._row("SELECT 1 FROM buckets WHERE name = ?", name):
                raise StorageError(409, "conflict", f"Your previous request to create the named bucket {name} succeeded.")
            self._put_bucket(name, made | {"metageneration": "1"})
        return self.bucket(name)

    def bucket(self, name: str) -> Resource:
        if row := self._row("SELECT resource FROM buckets WHERE name = ?", name):
            return {"kind": "storage#bucket", "id": name, **json.loads(row[0]), "name": name}
        raise StorageError(404, "notFound", "The specified bucket does not exist.")

    def buckets(self, prefix: str) -> list[Resource]:
        names = [name for (name,) in self._db.execute("SELECT name FROM buckets ORDER BY name")]
        return [self.bucket(name) for name in names if name.startswith(prefix)]

    def change_bucket(self, name: str, changes: Resource) -> Resource:
        with self._transaction():
            found = self.bucket(name)
            newer = str(int(found["metageneration"]) + 1)
            changed = _merged(found, changes) | {"metageneration": newer, "updated": _now()}
            self._put_bucket(name, changed)
        return self.bucket(name)

    def delete_bucket(self, name: str) -> None:
        with self._transaction():
            self.bucket(name)
            if self._row("SELECT 1 FROM objects WHERE bucket = ? LIMIT 1", name):
                raise StorageError(409, "conflict", "The bucket you tried to delete is not empty.")
            self._db.execute("DELETE FROM buckets WHERE name = ?", (name,))

    # Objects

    def new_upload(self) -> Upload:
        self._generation = max(self._generation + 1, time.time_ns() // 1000)
        return Upload(self._content / str(self._generation))

    def finish(self, bucket: str, name: str, given: Resource, upload: Upload, conditions: Conditions) -> Resource:
        """Create the object from ``upload``. Its content is discarded if a precondition fails."""
        generation, now = int(upload.path.name), _now()
        said = {field: given[field] for field in _OBJECT_FIELDS if given.get(field) is not None}
        made = {"storageClass": "STANDARD", "contentType": "application/octet-stream"} | said | upload.close()
        try:
            self._check_sums(given, made)
            with self._transaction():
                if self.bucket(bucket).get("defaultEventBasedHold"):
                    made = {"eventBasedHold": True} | made
                before = self._find(bucket, name)
                _check(conditions, before)
                _check_not_kept(before)
                self._put_object(bucket, name, generation, made | {"metageneration": "1", "timeCreated": now, "updated": now})
        except StorageError:
            upload.discard()
            raise
        if before:
            self._path(before).unlink(missing_ok=True)
        return self.object(bucket, name, None, {})

    def object(self, bucket: str, name: str, generation: int | None, conditions: Conditions) -> Resource:
        found = self._find(bucket, name)
        if found and generation not in (None, int(found["generation"])):
            found = None
        _check(conditions, found)
        if found is None:
            self.bucket(bucket)
            raise StorageError(404, "notFound", f"No such object: {bucket}/{name}")
        return found

    def content(self, resource: Resource) -> Path:
        """The file with an object's content. Raises StorageError 410 if it was deleted."""
        path = self._path(resource)
        if not path.exists():
            raise StorageError(410, "gone", f"The content of {resource['bucket']}/{resource['name']} is missing.")
        return path

    def change_object(
        self, bucket: str, name: str, generation: int | None, changes: Resource, conditions: Conditions
    ) -> Resource:
        allowed = {field: value for field, value in changes.items() if field in _OBJECT_FIELDS}
        with self._transaction():
            found = self.object(bucket, name, generation, conditions)
            newer = str(int(found["metageneration"]) + 1)
            changed = _merged(found, allowed) | {"metageneration": newer, "updated": _now()}
            changed.pop("retentionExpirationTime", None)  # it follows from the bucket's policy
            self._put_object(bucket, name, int(found["generation"]), changed)
        return self.object(bucket, name, None, {})

    def delete_object(self, bucket: str, name: str, generation: int | None, conditions: Conditions) -> None:
        with self._transaction():
            found = self.object(bucket, name, generation, conditions)
            _check_not_kept(found)
            self._db.execute("DELETE FROM objects WHERE bucket = ? AND name = ?", (bucket, name))
        self._path(found).unlink(missing_ok=True)

    def names(self, bucket: str, first: str) -> Iterator[Resource]:
        """The bucket's objects from the name ``first`` on, ordered by the bytes of their names."""
        period = self._retention_seconds(bucket)
        sql = "SELECT name, generation, resource FROM objects WHERE bucket = ? AND name >= ? ORDER BY name"
        rows = self._db.execute(sql, (bucket, first))
        return (_object(bucket, period, *row) for row in rows)

    # Rows

    def _find(self, bucket: str, name: str) -> Resource | None:
        row = self._row("SELECT name, generation, resource FROM objects WHERE bucket = ? AND name = ?", bucket, name)
        return _object(bucket, self._retention_seconds(bucket), *row) if row else None

    def _retention_seconds(self, bucket: str) -> int:
        """The period of the bucket's retention policy; 0 for none."""
        return int(self.bucket(bucket).get("retentionPolicy", {}).get("retentionPeriod", 0))

    def _row(self, sql: str, *values: str) -> Any:
        return self._db.execute(sql, values).fetchone()

    def _put_bucket(self, name: str, resource: Resource) -> None:
        """Without a soft delete policy, because deleted objects can't be restored here."""
        kept = {field: value for field, value in resource.items() if field != "softDeletePolicy"}
        self._db.execute("INSERT OR REPLACE INTO buckets VALUES (?, ?)", (name, json.dumps(kept)))

    def _put_object(self, bucket: str, name: str, generation: int, resource: Resource) -> None:
        values = (bucket, name, generation, json.dumps(resource))
        self._db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", values)

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)

    def _path(self, resource: Resource) -> Path:
        return self._content / str(int(resource["generation"]))

    def _check_sums(self, given: Resource, made: Resource) -> None:
        for field in ("md5Hash", "crc32c"):
            if given.get(field, made[field]) != made[field]:
                sentence = f"Provided {field} '{given[field]}' doesn't match calculated '{made[field]}'."
                raise StorageError(400, "invalid", sentence)

    def _remove_leftovers(self) -> None:
        """Delete the content of uploads that a kill has interrupted."""
        kept = {str(generation) for (generation,) in self._db.execute("SELECT generation FROM objects")}
        for path in self._content.iterdir():
            if path.name not in kept:
                path.unlink()


class _Transaction:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def check_object_name(name: str) -> None:
    """Raises StorageError for a name that Cloud Storage refuses, or that would leave a folder to which it is downloaded."""
    size = len(name.encode())
    if not 1 <= size <= 1024:
        raise StorageError(400, "invalid", f"Invalid object name: expected 1 to 1024 bytes, got {size}.")
    if name == "." or name.startswith("/") or ".." in name.split("/") or re.search(r"[\0\r\n]", name):
        shown = name.encode("unicode_escape").decode()
        sentence = f"Invalid object name '{shown}': expected no leading slash, no part '..', and no NUL or line break."
        raise StorageError(400, "invalid", sentence)


def _check(conditions: Conditions, found: Resource | None) -> None:
    """Raises StorageError 412 if a precondition fails, and 304 if the client already has the current version."""
    for field in ("generation", "metageneration"):
        live, name = int(found[field]) if found else 0, f"if{field.capitalize()}"
        if conditions.get(f"{name}Match", live) != live:
            raise StorageError(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
        if conditions.get(f"{name}NotMatch") == live:
            raise StorageError(304, "conditionNotMet", "The object is unchanged.")


def _check_not_kept(found: Resource | None) -> None:
    """Raises StorageError 403 if a hold or the bucket's retention policy forbids to delete or replace the object.

    https://cloud.google.com/storage/docs/bucket-lock, https://cloud.google.com/storage/docs/object-holds
    """
    if found is None:
        return
    for hold, kind in (("temporaryHold", "Temporary"), ("eventBasedHold", "Event-Based")):
        if found.get(hold):
            sentence = (
                f"Object '{found['bucket']}/{found['name']}' is under active {kind} hold and cannot be deleted or replaced."
            )
            raise StorageError(403, "forbidden", sentence)
    if (until := found.get("retentionExpirationTime", "")) > _now():
        sentence = f"Object '{found['bucket']}/{found['name']}' is subject to the bucket's retention policy until {until}."
        raise StorageError(403, "retentionPolicyNotMet", sentence)


def _object(bucket: str, retention_seconds: int, name: str, generation: int, resource: str) -> Resource:
    identity = f"{bucket}/{name}/{generation}"
    said = {"kind": "storage#object", "id": identity, "name": name, "bucket": bucket, "generation": str(generation)}
    found: Resource = json.loads(resource) | said
    etag = base64.b64encode(f"{generation}/{found['metageneration']}".encode()).decode()
    kept_until = datetime.fromisoformat(found["timeCreated"]) + timedelta(seconds=retention_seconds)
    kept = {"retentionExpirationTime": _rfc3339(kept_until)} if retention_seconds else {}
    return found | kept | {"etag": etag}


def _merged(found: Resource, changes: Resource) -> Resource:
    """https://www.rfc-editor.org/rfc/rfc7386: null removes, objects are merged."""
    merged = dict(found)
    for field, value in changes.items():
        if value is None:
            merged.pop(field, None)
        elif isinstance(value, dict) and isinstance(merged.get(field), dict):
            merged[field] = _merged(merged[field], value)
        else:
            merged[field] = value
    return merged


def _now() -> str:
    return _rfc3339(datetime.now(UTC))


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
