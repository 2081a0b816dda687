"""The name of a resource that does not exist in; what to do about it out: correct it to one that does, or create it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Literal

from ecomflow.contract.mistakes import nearest
from ecomflow.gcp.target import Target

Kind = Literal["bucket", "dataset", "topic"]

CREATE = "Run: ecomflow infra up"
_SECONDS = 5.0


def remedy_for_missing(target: Target, kind: Kind) -> str:
    """What to do about the ``kind`` of resource that ``target`` names and lacks. Lists those that are there."""
    from ecomflow.gcp.errors import FAILURES

    name = target.settings.bucket_name if kind == "bucket" else str(getattr(target.settings, kind))
    with suppress(*FAILURES):
        names = list(_NAMES[kind](target))
        if name not in names and (hint := nearest(name, names)):
            return f"The {kind} is {name}{hint} Correct the setting {kind}, or create it with: ecomflow infra up"
    return CREATE


def _buckets(target: Target) -> Iterable[str]:
    return (bucket.name for bucket in target.storage.list_buckets(timeout=_SECONDS, retry=None))


def _datasets(target: Target) -> Iterable[str]:
    return (found.dataset_id for found in target.bigquery.list_datasets(timeout=_SECONDS, retry=None))


def _topics(target: Target) -> Iterable[str]:
    found = target.publisher.list_topics(
        request={"project": f"projects/{target.settings.project_id}"}, timeout=_SECONDS, retry=None
    )
    return (topic.name.rpartition("/")[2] for topic in found)


_NAMES: Mapping[Kind, Callable[[Target], Iterable[str]]] = {"bucket": _buckets, "dataset": _datasets, "topic": _topics}
