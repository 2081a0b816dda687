"""Buckets in; whether they belong to the right project out.

Bucket names are globally unique, and the default name can be guessed. Someone else could create the bucket in their own project
and give this account access: they would get the dead letters, and could replace the staged package that workers run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ecomflow.config import Settings
from ecomflow.errors import ConfigError
from ecomflow.gcp.target import Target
from ecomflow.infra.resources import Bucket, Resource
from ecomflow.infra.verdicts import remedy_of

if TYPE_CHECKING:
    from google.cloud import storage


def owner_of(bucket: storage.Bucket, target: Target) -> str | None:
    """``project <number>`` as reported by Cloud Storage; None for an emulator without projects."""
    from ecomflow.infra.services import has_apis

    if target.endpoints.storage is not None and (bucket.project_number is None or not has_apis(target)):
        return None
    return f"project {bucket.project_number}"


def expected_owner(settings: Settings) -> str:
    """``project <number>`` of ``bucket_project``, else of the project. A number in the setting is not looked up.

    Raises DeniedError if this account may not look it up, NotFoundError for the project, AccessError or UnavailableError.
    """
    if settings.bucket_project is not None and settings.bucket_project.isdecimal():
        return f"project {settings.bucket_project}"
    from ecomflow.gcp.errors import DeniedError
    from ecomflow.infra.services import project_number

    try:
        return f"project {project_number(settings, settings.bucket_project)}"
    except DeniedError as error:
        sentence = f"Nothing is written to bucket {settings.bucket_name}, because its owner can't be verified. {error.message}"
        number = "Or set bucket_project to the number of the project that owns the bucket, which is not looked up."
        raise DeniedError(sentence, f"{error.remedy}\n{number}") from error


def with_owner(wanted: Resource, live: Resource | None, settings: Settings) -> Resource:
    """``wanted``, a bucket with its expected owner, which is looked up only if ``live`` has one. Raises as ``expected_owner``."""
    if not isinstance(wanted, Bucket) or not isinstance(live, Bucket) or live.owner is None:
        return wanted
    return msgspec.structs.replace(wanted, owner=expected_owner(settings))


def check_owner_of(bucket: storage.Bucket, target: Target) -> None:
    """Raises ConfigError if ``bucket`` belongs to another project than expected; else as ``expected_owner``."""
    owner = owner_of(bucket, target)
    if owner is None:
        return
    expected = expected_owner(target.settings)
    if owner != expected:
        name = target.settings.bucket_project or target.settings.project_id
        shown = expected if expected.endswith(f" {name}") else f"{expected} ({name})"
        sentence = f"Bucket {bucket.name} belongs to {owner}, expected {shown}. Nothing is written to it."
        raise ConfigError(sentence, remedy_of("bucket", "owner", str(bucket.name), live=owner))


def check_owner(target: Target) -> None:
    """Checks that the bucket exists and belongs to the right project. Call it before writing to the bucket.

    Requests nothing for the local stack. Raises NotFoundError (bucket), or as ``check_owner_of``.
    """
    settings = target.settings
    if settings.is_local:
        return
    from ecomflow.gcp.errors import google_errors
    from ecomflow.gcp.permissions import READ_BUCKET
    from ecomflow.infra.requests import REQUEST_SECONDS, storage_retry

    service = target.storage_service
    with google_errors(service, f"bucket {settings.bucket_name}", READ_BUCKET):
        bucket = target.storage.get_bucket(settings.bucket_name, timeout=REQUEST_SECONDS, retry=storage_retry(service))
    check_owner_of(bucket, target)
