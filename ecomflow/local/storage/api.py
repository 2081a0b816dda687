"""Cloud Storage's JSON API: requests of Google's storage clients in, responses out.

https://cloud.google.com/storage/docs/json_api/v1. Buckets and objects: insert, get, list, patch, update, delete; copy, rewrite
and compose; media, multipart and resumable uploads; downloads of ranges; preconditions. Everything else returns 501: versions,
access control, notifications, batches, encryption with the customer's key, the XML API.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ecomflow.local.storage.listing import list_objects
from ecomflow.local.storage.requests import conditions_of, number_of, parse_json, with_links
from ecomflow.local.storage.store import Resource, StorageError, Store, check_object_name
from ecomflow.local.storage.uploads import Uploads

_JSON_BYTES = 1024 * 1024
_PIECE_BYTES = 256 * 1024

Handler = Callable[..., Awaitable[Response]]


class StorageApi:
    """The ASGI application over a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._uploads = Uploads(store)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._handler(request)
        except StorageError as error:
            response = _refusal(error)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    def _handler(self, request: Request) -> Awaitable[Response]:
        """Splits the path before it is decoded, because an object's name can contain slashes."""
        parts = request.scope["raw_path"].decode("latin-1").lstrip("/").split("/")
        if parts[:4] == ["upload", "storage", "v1", "b"] and len(parts) == 6 and parts[5] == "o":
            return self._uploads.handle(request, unquote(parts[4]))
        if parts[:1] == ["download"]:
            parts = parts[1:]
        if parts[:3] != ["storage", "v1", "b"]:
            raise _missing(request)
        if len(parts) <= 4:
            return self._buckets(request) if len(parts) == 3 else self._bucket(request, unquote(parts[3]))
        bucket, names = unquote(parts[3]), parts[5:]
        if parts[4] != "o":
            raise _missing(request)
        if not names:
            return self._objects(request, bucket)
        for word in ("rewriteTo", "copyTo"):
            if word in names and names[names.index(word) + 1 : names.index(word) + 2] == ["b"]:
                place = names.index(word)
                return self._copy(request, word, bucket, _name(names[:place]), names[place + 2 :])
        if len(names) > 1 and names[-1] == "compose" and request.method == "POST":
            return self._compose(request, bucket, _name(names[:-1]))
        return self._object(request, bucket, _name(names))

    # Buckets

    async def _buckets(self, request: Request) -> Response:
        if request.method == "POST":
            return JSONResponse(self._store.create_bucket(await _json(request)))
        if request.method == "GET":
            items = self._store.buckets(request.query_params.get("prefix", ""))
            return JSONResponse({"kind": "storage#buckets", "items": items})
        raise _missing(request)

    async def _bucket(self, request: Request, name: str) -> Response:
        if request.method == "GET":
            return JSONResponse(self._store.bucket(name))
        if request.method in ("PATCH", "PUT"):
            return JSONResponse(self._store.change_bucket(name, await _json(request)))
        if request.method == "DELETE":
            self._store.delete_bucket(name)
            return Response(status_code=204)
        raise _missing(request)

    # Objects

    async def _objects(self, request: Request, bucket: str) -> Response:
        if request.method != "GET":
            raise _missing(request)
        return JSONResponse(list_objects(self._store, bucket, request.query_params))

    async def _object(self, request: Request, bucket: str, name: str) -> Response:
        conditions, generation = conditions_of(request), number_of(request, "generation")
        if request.method in ("GET", "HEAD"):
            found = self._store.object(bucket, name, generation, conditions)
            media = request.query_params.get("alt") == "media"
            return self._media(request, found) if media else JSONResponse(with_links(request, found))
        if request.method in ("PATCH", "PUT"):
            changes = await _json(request)
            return JSONResponse(with_links(request, self._store.change_object(bucket, name, generation, changes, conditions)))
        if request.method == "DELETE":
            self._store.delete_object(bucket, name, generation, conditions)
            return Response(status_code=204)
        raise _missing(request)

    def _media(self, request: Request, found: Resource) -> Response:
        size = int(found["size"])
        first, end = _range(request.headers.get("range"), size)
        headers = {
            "content-type": found["contentType"],
            "content-length": str(end - first),
            "accept-ranges": "bytes",
            "etag": found["etag"],
            "x-goog-generation": found["generation"],
            "x-goog-metageneration": found["metageneration"],
            "x-goog-stored-content-length": str(size),
            "x-goog-stored-content-encoding": found.get("contentEncoding", "identity"),
            "x-goog-hash": f"crc32c={found['crc32c']},md5={found['md5Hash']}",
        }
        if "contentEncoding" in found:
            headers["content-encoding"] = found["contentEncoding"]
        if partial_content := "range" in request.headers:
            headers["content-range"] = f"bytes {first}-{end - 1}/{size}"
        pieces = _pieces(self._store.content(found), first, end)
        return StreamingResponse(pieces, 206 if partial_content else 200, headers)

    async def _copy(self, request: Request, word: str, bucket: str, name: str, target: list[str]) -> Response:
        if request.method != "POST" or len(target) < 3 or target[1] != "o":
            raise _missing(request)
        changes = await _json(request)
        source = self._store.object(bucket, name, number_of(request, "sourceGeneration"), conditions_of(request, "ifSource"))
        made = self._joined(request, [source], {**source, **changes}, unquote(target[0]), _name(target[2:]))
        if word == "copyTo":
            return JSONResponse(made)
        size = made["size"]
        answer = {"kind": "storage#rewriteResponse", "done": True, "totalBytesRewritten": size, "objectSize": size}
        return JSONResponse(answer | {"resource": made})

    async def _compose(self, request: Request, bucket: str, name: str) -> Response:
        body = await _json(request)
        sources = []
        for one in body.get("sourceObjects", []):
            wanted = one.get("objectPreconditions", {}).get("ifGenerationMatch")
            conditions = {} if wanted is None else {"ifGenerationMatch": int(wanted)}
            generation = int(one["generation"]) if one.get("generation") else None
            sources.append(self._store.object(bucket, one.get("name", ""), generation, conditions))
        return JSONResponse(self._joined(request, sources, body.get("destination", {}), bucket, name))

    def _joined(self, request: Request, sources: list[Resource], given: Resource, bucket: str, name: str) -> Resource:
        """Create the object ``name`` from the content of ``sources``."""
        check_object_name(name)
        upload = self._store.new_upload()
        for source in sources:
            with self._store.content(source).open("rb") as file:
                for piece in iter(partial(file.read, _PIECE_BYTES), b""):
                    upload.write(piece)
        said = {field: value for field, value in given.items() if field not in ("md5Hash", "crc32c")}
        return with_links(request, self._store.finish(bucket, name, said, upload, conditions_of(request)))


async def _json(request: Request) -> dict[str, Any]:
    """The body: a JSON object, or empty."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _JSON_BYTES:
            raise StorageError(413, "uploadTooLarge", f"Expected at most {_JSON_BYTES:,} bytes of JSON.")
    return parse_json(bytes(body))


def _name(parts: list[str]) -> str:
    try:
        name = unquote("/".join(parts), errors="strict")
    except UnicodeDecodeError as error:
        raise StorageError(400, "invalid", "Invalid object name: expected UTF-8.") from error
    check_object_name(name)
    return name


def _range(header: str | None, size: int) -> tuple[int, int]:
    """The first byte and the byte after the last one of ``bytes=0-9``, ``bytes=5-`` or ``bytes=-5``. Raises StorageError 416."""
    first_text, dash, last_text = (header or "bytes=0-").removeprefix("bytes=").partition("-")
    try:
        if not first_text:
            first, last = max(0, size - int(last_text)), size - 1
        else:
            first, last = int(first_text), min(int(last_text or size - 1), size - 1)
    except ValueError:
        first, last = size, -1
    if header and (not dash or first > last):
        raise StorageError(416, "requestedRangeNotSatisfiable", f"Expected a range within {size} bytes, got '{header}'.")
    return first, last + 1


async def _pieces(path: Path, first: int, end: int) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        file.seek(first)
        while first < end and (piece := file.read(min(_PIECE_BYTES, end - first))):
            first += len(piece)
            yield piece


def _missing(request: Request) -> StorageError:
    what = f"{request.method} {request.url.path[:200]}"
    sentence = f"The local Cloud Storage does not support {what}: expected buckets or objects of the JSON API."
    return StorageError(501, "notImplemented", sentence)


def _refusal(error: StorageError) -> Response:
    if error.status == 304:
        return Response(status_code=304)
    reason = {"message": error.sentence, "domain": "global", "reason": error.reason}
    return JSONResponse({"error": {"code": error.status, "message": error.sentence, "errors": [reason]}}, error.status)
