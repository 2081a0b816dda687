"""The names of topics, subscriptions and projects: which are valid, and what is said about those that are not or are unknown.

https://cloud.google.com/pubsub/docs/pubsub-basics#resource_names
"""

from __future__ import annotations

import re

import grpc

from ecomflow.local.pubsub.status import StatusError, invalid

_RESOURCE = re.compile(r"projects/[^/]+/(topics|subscriptions)/(?!goog)[A-Za-z][\w.~+%-]{2,254}", re.ASCII)
_PROJECT = re.compile(r"projects/[^/]+")


def check_name(field: str, name: str, kind: str) -> None:
    """Refuse the ``name`` in the request's ``field`` unless it is one of ``kind``: topics or subscriptions."""
    match = _RESOURCE.fullmatch(name)
    if match is None or match[1] != kind:
        rule = "3 to 255 letters, digits and -_.~+%, starting with a letter, not with 'goog'"
        raise _malformed(field, name, f"projects/PROJECT/{kind}/ID, the ID being {rule}")


def check_project(name: str) -> None:
    if not _PROJECT.fullmatch(name):
        raise _malformed("project", name, "projects/PROJECT")


def _malformed(field: str, name: str, expected: str) -> StatusError:
    return invalid(f"Invalid resource name given: ({field}={name}): expected {expected}.")


def not_found(name: str) -> StatusError:
    return StatusError(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={_id(name)}).")


def already_exists(name: str) -> StatusError:
    return StatusError(grpc.StatusCode.ALREADY_EXISTS, f"Resource already exists in the project (resource={_id(name)}).")


def _id(name: str) -> str:
    return name.rpartition("/")[2]
