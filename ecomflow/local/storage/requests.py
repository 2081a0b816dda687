"""Shared parts of the storage API's requests: numbers, preconditions, JSON, and the links of an object."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from starlette.requests import Request

from ecomflow.local.storage.store import Resource, StorageError


def conditions_of(request: Request, prefix: str = "if") -> dict[str, int]:
    """The preconditions of a request: on its object, or with another ``prefix`` on the object that it copies."""
    names = ("GenerationMatch", "GenerationNotMatch", "MetagenerationMatch", "MetagenerationNotMatch")
    found = {f"if{name}": number_of(request, f"{prefix}{name}") for name in names}
    return {name: value for name, value in found.items() if value is not None}


def with_links(request: Request, resource: Resource) -> Resource:
    """An object's resource with its links on this server."""
    path = f"storage/v1/b/{resource['bucket']}/o/{quote(resource['name'], safe='')}"
    base = f"http://{request.headers['host']}"
    media = f"{base}/download/{path}?generation={resource['generation']}&alt=media"
    return resource | {"selfLink": f"{base}/{path}", "mediaLink": media}


def parse_json(body: bytes) -> dict[str, Any]:
    """Parse a JSON object; an empty body counts as an empty object. Raises StorageError for anything else."""
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise StorageError(400, "parseError", f"Parse Error: {error}") from error
    if not isinstance(value, dict):
        raise StorageError(400, "parseError", f"Expected a JSON object, got {type(value).__name__}.")
    return value


def number_of(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if not text:
        return None
    if not text.isdecimal() or len(text) > 18:
        raise StorageError(400, "invalid", f"Invalid value for {name}: expected a number, got '{text[:40]}'.")
    return int(text)
