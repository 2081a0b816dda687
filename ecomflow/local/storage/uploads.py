"""Uploads: requests with an object's content in; objects in the store out.

There are the three kinds of https://cloud.google.com/storage/docs/uploads-downloads: only the content (media), content and
metadata in one body (multipart), and a session that takes the content in several requests (resumable). Sessions end with the
process.
"""

from __future__ import annotations

import re
import secrets
from email.message import Message
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ecomflow.local.storage.requests import conditions_of, parse_json, with_links
from ecomflow.local.storage.store import Resource, StorageError, Store, Upload, check_object_name

MAX_MULTIPART_BYTES = 64 * 1024 * 1024
_MAX_SESSIONS = 1000
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)")


class Session:
    """A resumable upload in progress."""

    def __init__(self, bucket: str, name: str, given: Resource, conditions: dict[str, int], upload: Upload) -> None:
        self.bucket, self.name, self.given, self.conditions, self.upload = bucket, name, given, conditions, upload


class Uploads:
    """The upload addresses of the API."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sessions: dict[str, Session] = {}

    async def handle(self, request: Request, bucket: str) -> Response:
        if session := request.query_params.get("upload_id"):
            return await self._continue(request, session)
        kind = request.query_params.get("uploadType", "")
        if request.method == "POST" and kind == "multipart":
            return await self._multipart(request, bucket)
        if request.method == "POST" and kind == "media":
            return await self._media(request, bucket)
        if request.method == "POST" and kind == "resumable":
            return await self._begin(request, bucket)
        raise StorageError(400, "invalid", f"Expected uploadType media, multipart or resumable by POST, got '{kind[:40]}'.")

    async def _media(self, request: Request, bucket: str) -> Response:
        given = {"contentType": request.headers.get("content-type")}
        name = _object_name(request, given)
        self._store.bucket(bucket)
        upload = self._store.new_upload()
        try:
            async for piece in request.stream():
                upload.write(piece)
        except BaseException:
            upload.discard()
            raise
        return self._finished(request, Session(bucket, name, given, conditions_of(request), upload))

    async def _multipart(self, request: Request, bucket: str) -> Response:
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_MULTIPART_BYTES:
                sentence = f"Expected at most {MAX_MULTIPART_BYTES:,} bytes in one request: use a resumable upload."
                raise StorageError(413, "uploadTooLarge", sentence)
        given, kind, content = split_related(request.headers.get("content-type", ""), bytes(body))
        given = {"contentType": kind} | given
        session = Session(bucket, _object_name(request, given), given, conditions_of(request), self._store.new_upload())
        session.upload.write(content)
        return self._finished(request, session)

    async def _begin(self, request: Request, bucket: str) -> Response:
        given = {"contentType": request.headers.get("x-upload-content-type")} | parse_json(await request.body())
        name = _object_name(request, given)
        self._store.bucket(bucket)
        if len(self._sessions) >= _MAX_SESSIONS:
            self._sessions.pop(next(iter(self._sessions))).upload.discard()
        known = secrets.token_urlsafe(24)
        self._sessions[known] = Session(bucket, name, given, conditions_of(request), self._store.new_upload())
        base = f"http://{request.headers['host']}/upload/storage/v1/b/{quote(bucket)}/o"
        location = f"{base}?uploadType=resumable&upload_id={known}"
        return Response(headers={"location": location, "x-guploader-uploadid": known})

    async def _continue(self, request: Request, known: str) -> Response:
        session = self._sessions.get(known)
        if session is None:
            raise StorageError(404, "notFound", "There is no such upload session: it has ended, or the server was restarted.")
        if request.method == "DELETE":
            self._sessions.pop(known).upload.discard()
            return Response(status_code=499)
        if request.method not in ("PUT", "POST"):
            raise StorageError(400, "invalid", f"Expected PUT for a piece of an upload, got {request.method}.")
        total = await _take_piece(request, session.upload)
        if total != session.upload.size:
            size = session.upload.size
            return Response(status_code=308, headers={"range": f"bytes=0-{size - 1}"} if size else {})
        del self._sessions[known]
        return self._finished(request, session)

    def _finished(self, request: Request, session: Session) -> Response:
        made = self._store.finish(session.bucket, session.name, session.given, session.upload, session.conditions)
        return JSONResponse(with_links(request, made))


async def _take_piece(request: Request, upload: Upload) -> int | None:
    """Write the new bytes; returns the upload's total size if the request has it."""
    header = request.headers.get("content-range")
    found = _CONTENT_RANGE.fullmatch(header) if header else None
    if header and not found:
        raise StorageError(400, "invalid", f"Invalid Content-Range: '{header[:80]}'.")
    # Bytes that are sent again are skipped; after a gap none are written.
    start = int(found[1] or 0) if found else 0
    known, gap = upload.size - start, start > upload.size
    async for piece in request.stream():
        fresh = b"" if gap else piece[max(0, known) :]
        known -= len(piece)
        upload.write(fresh)
    if found is None:
        return upload.size
    return None if found[3] == "*" else int(found[3])


def split_related(content_type: str, body: bytes) -> tuple[Resource, str, bytes]:
    """The metadata, the type and the bytes of a multipart/related body: https://www.rfc-editor.org/rfc/rfc2387"""
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_boundary()
    if header.get_content_type() != "multipart/related" or not boundary:
        raise StorageError(400, "invalid", f"Expected multipart/related with a boundary, got '{content_type[:80]}'.")
    separator = b"\r\n--" + boundary.encode()
    parts = (b"\r\n" + body).split(separator)
    if len(parts) != 4 or not parts[3].startswith(b"--"):
        raise StorageError(400, "invalid", "Expected two parts: the object's metadata and its bytes.")
    (_, metadata), (kind, content) = _part(parts[1]), _part(parts[2])
    return parse_json(metadata), kind, content


def _part(part: bytes) -> tuple[str, bytes]:
    """The type and the content of a part."""
    head, _, content = part.partition(b"\r\n\r\n")
    for line in head.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-type":
            return value.strip(), content
    return "application/octet-stream", content


def _object_name(request: Request, given: Resource) -> str:
    name = given.get("name") or request.query_params.get("name", "")
    if not isinstance(name, str):
        raise StorageError(400, "invalid", "Invalid object name: expected a string.")
    check_object_name(name)
    return name
