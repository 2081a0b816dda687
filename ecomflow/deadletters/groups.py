"""Dead letters in, groups by cause out; counters of a pipeline in, fields that are not in the contract out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from ecomflow.config import Settings
from ecomflow.deadletters.fingerprints import Fingerprint, fingerprint
from ecomflow.deadletters.store import DeadLetterFilter, StoredDeadLetter, replay_command

# Producers choose the names of unknown event types, so the number of groups is limited.
MAX_GROUPS = 1_000

_DRIFT = "schema_drift/"


class Example(msgspec.Struct, frozen=True):
    event_id: str | None
    error: str
    object_name: str


class Group(msgspec.Struct, frozen=True):
    """Dead letters with one stream, reason and fingerprint. ``example``: the newest; ``replay``: the command that replays all."""

    stream: str
    reason: str
    fingerprint: Fingerprint
    count: int
    first_seen: datetime
    last_seen: datetime
    example: Example
    replay: str


class Groups(msgspec.Struct, frozen=True):
    """The groups, largest first. ``other``: the number of dead letters in groups beyond ``MAX_GROUPS``."""

    total: int
    groups: tuple[Group, ...]
    other: int


class UnknownField(msgspec.Struct, frozen=True):
    """A field that is not in the contract, on events that passed, and how often it was seen. A pipeline counts only the first
    few hundred paths separately; the rest have the path ``other``.
    """

    event_type: str
    path: str
    count: int


class _Tally:
    """A group while it is being counted."""

    def __init__(self, found: Fingerprint, stored: StoredDeadLetter) -> None:
        self.fingerprint, self.newest = found, _example(stored)
        self.count = 0
        self.first = self.last = stored.letter.failed_at

    def add(self, stored: StoredDeadLetter) -> None:
        self.count += 1
        self.first = min(self.first, stored.letter.failed_at)
        if stored.letter.failed_at > self.last:
            self.last, self.newest = stored.letter.failed_at, _example(stored)


def group(found: Iterable[StoredDeadLetter], settings: Settings) -> Groups:
    """Group ``found`` by stream, reason and fingerprint. Memory grows with the groups, not with the dead letters."""
    tallies: dict[tuple[str, str, str], _Tally] = {}
    total = other = 0
    for stored in found:
        total += 1
        cause = fingerprint(stored.letter)
        key = (stored.stream, stored.letter.reason, cause.id)
        if key not in tallies:
            if len(tallies) == MAX_GROUPS:
                other += 1
                continue
            tallies[key] = _Tally(cause, stored)
        tallies[key].add(stored)
    groups = [_group(stream, reason, tally, settings) for (stream, reason, _), tally in tallies.items()]
    return Groups(total, tuple(sorted(groups, key=lambda one: (-one.count, one.stream, one.reason))), other)


def unknown_fields(counters: Mapping[str, int]) -> tuple[UnknownField, ...]:
    """The fields in the counters ``schema_drift/<type>/<path>`` of a pipeline, most frequent first."""
    found = []
    for name, count in counters.items():
        if name.startswith(_DRIFT):
            event_type, slash, path = name.removeprefix(_DRIFT).partition("/")
            found.append(UnknownField(*((event_type, path) if slash else ("any", event_type)), count))
    return tuple(sorted(found, key=lambda one: (-one.count, one.event_type, one.path)))


def _group(stream: str, reason: str, tally: _Tally, settings: Settings) -> Group:
    command = replay_command(settings, DeadLetterFilter((stream,), reason, fingerprint=tally.fingerprint.id))
    return Group(stream, reason, tally.fingerprint, tally.count, tally.first, tally.last, tally.newest, command)


def _example(stored: StoredDeadLetter) -> Example:
    letter = stored.letter
    return Example(letter.event_id or letter.message_id, letter.error, stored.object_name)
