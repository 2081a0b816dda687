"""The times of generated events: a window in; moments within it, and texts as producers write them, out. Randomness passed in."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from random import Random

import msgspec

WINDOW_DAYS = 7
_OFFSETS = tuple(timezone(timedelta(minutes=minutes)) for minutes in (120, -300, 330, 540))


class Window(msgspec.Struct, frozen=True):
    """The UTC time range of the events: ``days`` whole days that end at ``end``, exclusive."""

    end: datetime
    days: int


def window_before(end: datetime) -> Window:
    """The WINDOW_DAYS days that end at ``end`` (with an offset), to the second."""
    return Window(end.astimezone(UTC).replace(microsecond=0), WINDOW_DAYS)


def window_of(day: date) -> Window:
    """The UTC day ``day``."""
    return Window(datetime.combine(day + timedelta(days=1), time(), UTC), 1)


def first_day(window: Window) -> datetime:
    """Where ``window`` begins: in UTC but naive, which takes half the time to format."""
    return window.end.replace(tzinfo=None) - timedelta(days=window.days)


def pick_moment(random: Random, first: datetime, days: int, day_seconds: float) -> datetime:
    """A second of the first ``day_seconds`` of one of ``days`` days; the middle of a day is busier than its start and end."""
    draw = random.random
    seconds = int(draw() * days) * 86_400 + int((draw() + draw()) / 2 * day_seconds)
    return first + timedelta(seconds=seconds)


def written(moment: datetime, random: Random) -> str:
    """RFC 3339 in one of the forms that producers use: mostly Z, some with a fraction of a second, some with an offset.

    ``moment`` is in UTC, but naive.
    """
    form = random.random()
    if form < 0.8:
        return moment.isoformat() + "Z"
    if form < 0.9:
        return f"{moment.isoformat()}.{int(random.random() * 1000):03d}Z"
    return moment.replace(tzinfo=UTC).astimezone(_OFFSETS[int(random.random() * len(_OFFSETS))]).isoformat()


def without_offset(moment: datetime, zone: tzinfo) -> str:
    """``moment`` (in UTC, but naive) as a clock in ``zone`` shows it; with Z where that is ambiguous, once a year."""
    local = moment.replace(tzinfo=UTC).astimezone(zone)
    return moment.isoformat() + "Z" if local.fold else local.replace(tzinfo=None).isoformat()
