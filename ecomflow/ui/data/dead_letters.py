"""Reads the groups of dead letters and the newest of a group, never more than a page can show."""

from __future__ import annotations

import re
from itertools import islice
from typing import get_args

import msgspec

from ecomflow.config import Settings, contracts_of
from ecomflow.contract.dead_letter import UNKNOWN_STREAM, Reason
from ecomflow.contract.tables import event_streams
from ecomflow.deadletters import store
from ecomflow.deadletters.groups import Groups, group
from ecomflow.deadletters.store import DeadLetterFilter, OnProgress, StoredDeadLetter
from ecomflow.errors import NotFoundError
from ecomflow.gcp.target import Target

# Limits of the newest dead letters and objects that are grouped. dlq stats groups all of them, which takes longer.
MAX_GROUPED, MAX_OBJECTS = 50_000, 3_000
PAGE = 10

_REASONS = get_args(Reason)


class Overview(msgspec.Struct, frozen=True):
    """``is_whole``: whether ``groups`` has all dead letters of the bucket. ``unreadable``: number of objects without any."""

    groups: Groups
    is_whole: bool
    unreadable: int


class Found(msgspec.Struct, frozen=True):
    """The newest dead letters of a filter, and whether there are more."""

    letters: tuple[StoredDeadLetter, ...]
    more: bool


def read_overview(target: Target, on_progress: OnProgress | None = None) -> Overview:
    """The dead letters in the newest ``MAX_OBJECTS`` objects by cause. Raises the same errors as ``store.letters``."""
    unreadable: list[store.Unreadable] = []
    found = store.objects(target, store.ANY, few=True, unreadable=unreadable, on_progress=on_progress)
    letters = (StoredDeadLetter(letter, stored.name) for stored in islice(found, MAX_OBJECTS) for _, letter in stored.letters)
    groups = group(islice(letters, MAX_GROUPED), target.settings)
    is_whole = next(letters, None) is None and next(found, None) is None
    return Overview(groups, is_whole, len(unreadable))


def read_newest(target: Target, selected: DeadLetterFilter, limit: int) -> Found:
    """The newest ``limit`` dead letters of ``selected``. Raises the same errors as ``store.letters``."""
    found = store.newest(target, limit=limit + 1, selected=selected, unreadable=[])
    return Found(tuple(found[:limit]), len(found) > limit)


def filter_of(settings: Settings, stream: str, reason: str, fingerprint: str) -> DeadLetterFilter:
    """The filter of one group; "" and "any" match every reason and cause. Raises NotFoundError for unknown names."""
    known = (*event_streams(contracts_of(settings)), UNKNOWN_STREAM)
    if stream not in known:
        raise NotFoundError(f"There is no stream '{stream}'.", f"Choose one of: {', '.join(known)}.")
    if reason and reason not in _REASONS:
        raise NotFoundError(f"There is no reason '{reason}'.", f"Choose one of: {', '.join(_REASONS)}.")
    fingerprint = "" if fingerprint == "any" else fingerprint
    if fingerprint and not re.fullmatch(r"[0-9a-f]{10}", fingerprint, re.ASCII):
        raise NotFoundError(f"'{fingerprint}' is not a valid fingerprint.", "See: ecomflow dlq stats")
    return DeadLetterFilter(streams=(stream,), reason=reason or None, fingerprint=fingerprint or None)
