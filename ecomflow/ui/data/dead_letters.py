"""Reads the groups of dead letters, the newest of a group, and those that match a search, never more than a page can show."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import islice
from typing import get_args

import msgspec

from ecomflow.contract.dead_letter import ROOT, DeadLetter, Reason
from ecomflow.deadletters import store
from ecomflow.deadletters.groups import Groups, group
from ecomflow.deadletters.store import DeadLetterFilter, OnProgress, StoredDeadLetter
from ecomflow.errors import NotFoundError
from ecomflow.gcp.target import Target

# Limits of the newest dead letters and objects that are grouped. dlq stats groups all of them, which takes longer.
MAX_GROUPED, MAX_OBJECTS = 50_000, 3_000
PAGE = 10
# A search reads the content of objects, and somebody waits for it.
MAX_HITS, SEARCH_SECONDS = 50, 8.0

REASONS: tuple[str, ...] = get_args(Reason)


class Overview(msgspec.Struct, frozen=True):
    """``is_whole``: whether ``groups`` has all dead letters of the bucket. ``unreadable``: number of objects without any.
    ``objects``: how many were read.
    """

    groups: Groups
    is_whole: bool
    unreadable: int
    objects: int = 0

    def by_stream(self) -> dict[str, int]:
        """The grouped dead letters of each stream that has any."""
        found: Counter[str] = Counter()
        for one in self.groups.groups:
            found[one.stream] += one.count
        return dict(found)


class Found(msgspec.Struct, frozen=True):
    """The newest dead letters of a filter, and whether there are more."""

    letters: tuple[StoredDeadLetter, ...]
    more: bool


class Search(msgspec.Struct, frozen=True):
    """What to look for; "" matches all. ``text``: anywhere in the payload, the error, the attributes or the type, in any case."""

    stream: str = ""
    reason: str = ""
    text: str = ""
    event_id: str = ""

    @property
    def lists_letters(self) -> bool:
        """Whether single dead letters are looked for, and not only groups of them."""
        return bool(self.text or self.event_id)


class Hits(msgspec.Struct, frozen=True):
    """The newest dead letters that a search matches. ``more``: whether there are more of them. ``searched``: how many dead
    letters were looked at; ``back_to``: the time of the oldest of these, if the search ended before it had looked at all.
    """

    letters: tuple[StoredDeadLetter, ...]
    more: bool
    searched: int
    back_to: datetime | None


def read_overview(target: Target, on_progress: OnProgress | None = None) -> Overview:
    """The dead letters in the newest ``MAX_OBJECTS`` objects by cause. Raises the same errors as ``store.letters``."""
    unreadable: list[store.Unreadable] = []
    read = 0

    def progress(count: int) -> None:
        nonlocal read
        read = count
        if on_progress is not None:
            on_progress(count)

    found = store.objects(target, store.ANY, few=True, unreadable=unreadable, on_progress=progress)
    letters = (StoredDeadLetter(letter, stored.name) for stored in islice(found, MAX_OBJECTS) for _, letter in stored.letters)
    groups = group(islice(letters, MAX_GROUPED), target.settings)
    is_whole = next(letters, None) is None and next(found, None) is None
    return Overview(groups, is_whole, len(unreadable), read)


def count_objects(target: Target) -> dict[str, int]:
    """The number of objects with dead letters of each stream that has any, without reading them. Raises the same errors as
    ``store.letters``.
    """
    with store.reading(target):
        listing = target.bucket.list_blobs(prefix=f"{ROOT}/", fields="items(name),nextPageToken", timeout=30)
        return dict(Counter(parts[1] for blob in listing if len(parts := blob.name.split("/", 2)) == 3))


def read_newest(target: Target, selected: DeadLetterFilter, limit: int) -> Found:
    """The newest ``limit`` dead letters of ``selected``. Raises the same errors as ``store.letters``."""
    found = store.newest(target, limit=limit + 1, selected=selected, unreadable=[])
    return Found(tuple(found[:limit]), len(found) > limit)


def find(target: Target, search: Search, clock: Callable[[], float] = time.monotonic) -> Hits:
    """The newest ``MAX_HITS`` dead letters that ``search`` matches, in at most ``MAX_OBJECTS`` objects and some
    ``SEARCH_SECONDS``. Raises the same errors as ``store.letters``.
    """
    selected = DeadLetterFilter(
        streams=(search.stream,) if search.stream else (), reason=search.reason or None, event_id=search.event_id or None
    )
    give_up, hits, searched, oldest = clock() + SEARCH_SECONDS, list[StoredDeadLetter](), 0, None
    objects = store.objects(target, selected, unreadable=[])
    for stored in islice(objects, MAX_OBJECTS):
        for _, letter in sorted(stored.letters, key=lambda one: one[1].failed_at, reverse=True):
            searched, oldest = searched + 1, letter.failed_at
            if store.is_chosen(letter, selected) and _contains(letter, search.text.casefold()):
                hits.append(StoredDeadLetter(letter, stored.name))
        if len(hits) > MAX_HITS or clock() > give_up:
            break
    is_whole = len(hits) <= MAX_HITS and next(objects, None) is None
    return Hits(tuple(hits[:MAX_HITS]), len(hits) > MAX_HITS, searched, None if is_whole else oldest)


def _contains(letter: DeadLetter, text: str) -> bool:
    parts = (letter.payload, letter.error, letter.event_type or "", *letter.attributes, *letter.attributes.values())
    return any(text in part.casefold() for part in parts)


def with_others(known: tuple[str, ...], overview: Overview | None) -> tuple[str, ...]:
    """The streams ``known`` from the contracts, and others that have dead letters: of types without a contract today."""
    return (*known, *sorted(set(overview.by_stream() if overview else ()) - set(known)))


def search_of(query: Mapping[str, str], streams: tuple[str, ...]) -> Search:
    """The search that an address asks for. Raises NotFoundError for an unknown stream or reason."""
    search = Search(*(query.get(name, "").strip() for name in Search.__struct_fields__))
    if search.stream:
        _check_stream(search.stream, streams)
    _check_reason(search.reason)
    return search


def _check_stream(stream: str, known: tuple[str, ...]) -> None:
    if stream not in known:
        raise NotFoundError(f"There is no stream '{stream}'.", f"Choose one of: {', '.join(known)}.")


def _check_reason(reason: str) -> None:
    if reason and reason not in REASONS:
        raise NotFoundError(f"There is no reason '{reason}'.", f"Choose one of: {', '.join(REASONS)}.")


def filter_of(streams: tuple[str, ...], stream: str, reason: str, fingerprint: str) -> DeadLetterFilter:
    """The filter of one group; "" and "any" match every reason and cause. Raises NotFoundError for names that are unknown:
    ``streams`` are the known ones.
    """
    _check_stream(stream, streams)
    _check_reason(reason)
    fingerprint = "" if fingerprint == "any" else fingerprint
    if fingerprint and not re.fullmatch(r"[0-9a-f]{10}", fingerprint, re.ASCII):
        raise NotFoundError(f"'{fingerprint}' is not a valid fingerprint.", "See: ecomflow dlq stats")
    return DeadLetterFilter(streams=(stream,), reason=reason or None, fingerprint=fingerprint or None)
