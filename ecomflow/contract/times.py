"""Moments as producers write them in; microseconds since the epoch, or what is wrong, out. Pure.

RFC 3339, with an offset as ``Z``, ``+hh:mm``, ``+hhmm`` or ``+hh``; where a contract says so, without one. Digits finer than a
microsecond are cut, never rounded: the end of a day stays in its day.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecomflow.contract.buffers import integers, offsets, texts

TIMESTAMP = pa.timestamp("us", "UTC")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = 86_400_000_000
_MICROSECOND = timedelta(microseconds=1)
FIRST = (datetime(1, 1, 1, tzinfo=UTC) - EPOCH) // _MICROSECOND
LAST = (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC) - EPOCH) // _MICROSECOND

_MOMENT = re.compile(
    r"(?P<local>\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d):(?P<second>\d\d)(?:\.(?P<fraction>\d+))?"
    r"(?P<offset>[Zz]|(?P<sign>[+-])(?P<hours>\d\d)(?::?(?P<minutes>\d\d))?)?",
    re.ASCII,
)
_HAS_OFFSET = r"([Zz]|[+-]\d\d(:?\d\d)?)$"
_COLON = ord(":")
_SHORTEST = len("2025-12-01T10:15:30Z")
# What Python reads as we do, in a third of the time.
_USUAL = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:[0-5]\d)", re.ASCII)
# Longer than any useful fraction of a second.
_LONGEST = 1_000


class Unreadable(NamedTuple):
    """Why a text is not a timestamp. ``in_range`` is False for one that is outside of a column's range."""

    expected: str
    in_range: bool = True


def time_rule(without_offset: str) -> str:
    """What is expected of a timestamp, in words."""
    if without_offset == "refuse":
        return "RFC 3339 date-time with an offset or Z"
    return f"RFC 3339 date-time, without an offset one in {without_offset}"


def read_moment(text: str, without_offset: str) -> int | Unreadable:
    """The microseconds since the epoch at ``text``; ``without_offset`` is ``refuse`` or the zone of one that has no offset."""
    return _read(text, without_offset) if len(text) <= _LONGEST else Unreadable(time_rule(without_offset))


@lru_cache(maxsize=1024)  # each rule that asks of an event's time asks again
def _read(text: str, without_offset: str) -> int | Unreadable:
    if _USUAL.fullmatch(text):
        try:
            return _in_range((datetime.fromisoformat(text) - EPOCH) // _MICROSECOND)
        except ValueError:
            pass
    match = _MOMENT.fullmatch(text)
    if match is None or (match["offset"] is None and without_offset == "refuse"):
        return Unreadable(time_rule(without_offset))
    if match["second"] == "60":
        return Unreadable("a second from 0 to 59, for a TIMESTAMP has no leap seconds", in_range=False)
    try:
        local = datetime.fromisoformat(f"{match['local'].upper()}:{match['second']}").replace(tzinfo=UTC)
        offset = _offset(match, local, without_offset)
    except (ValueError, OverflowError):
        return Unreadable(time_rule(without_offset))
    fraction = int((match["fraction"] or "")[:6].ljust(6, "0"))
    return _in_range((local - EPOCH) // _MICROSECOND + fraction - offset // _MICROSECOND)


def _in_range(moment: int) -> int | Unreadable:
    return moment if FIRST <= moment <= LAST else Unreadable("a UTC date of the years 1 to 9999", in_range=False)


def _offset(match: re.Match[str], local: datetime, without_offset: str) -> timedelta:
    if match["offset"] is None:
        return _zone(without_offset).utcoffset(local.replace(tzinfo=None)) or timedelta()
    if match["sign"] is None:
        return timedelta()
    hours, minutes = int(match["hours"]), int(match["minutes"] or 0)
    if hours > 23 or minutes > 59:
        raise ValueError
    offset = timedelta(hours=hours, minutes=minutes)
    return -offset if match["sign"] == "-" else offset


@cache
def _zone(name: str) -> Any:
    return UTC if name == "UTC" else ZoneInfo(name)


def moments(texts: Sequence[str | None], without_offset: str) -> pa.Array | None:
    """``texts`` as a TIMESTAMP column; None if one of them is not a timestamp.

    Arrow reads the usual forms, a fifth of the time that a datetime an event takes; the others are read one by one.
    """
    column = pa.array(texts, pa.string())
    try:
        return _cast(column)
    except pa.ArrowInvalid:
        pass
    try:
        return _cast(_usual(column, without_offset))
    except pa.ArrowInvalid:
        read = [None if text is None else read_moment(text, without_offset) for text in texts]
    if any(isinstance(moment, Unreadable) for moment in read):
        return None
    return pa.array(read, pa.int64()).view(TIMESTAMP)


def _cast(column: pa.Array) -> pa.Array:
    """Raises ArrowInvalid for texts that are not timestamps by our rules, and for some that are."""
    given = column.drop_null() if column.null_count else column
    if len(given):
        _check_shape(given)
    cast = column.cast(TIMESTAMP)
    reached = integers(cast.drop_null() if cast.null_count else cast, np.int64)
    if len(reached) and not FIRST <= reached.min() <= reached.max() <= LAST:
        raise pa.ArrowInvalid
    return cast


def _check_shape(column: pa.Array) -> None:
    """Arrow takes a time without its seconds, too: ours has a colon before its minutes and one before its seconds."""
    places = offsets(column)
    starts = places[:-1]
    if (places[1:] - starts).min() < _SHORTEST:
        raise pa.ArrowInvalid
    text = texts(column)
    if not ((text[starts + 13] == _COLON) & (text[starts + 16] == _COLON)).all():
        raise pa.ArrowInvalid


def _usual(column: pa.Array, without_offset: str) -> pa.Array:
    """The less usual forms as the usual: lower case, digits past microseconds, and in UTC without an offset."""
    column = pc.replace_substring_regex(pc.ascii_upper(column), r"(\.\d{6})\d+", r"\1")
    if without_offset == "UTC":
        column = pc.if_else(pc.match_substring_regex(column, _HAS_OFFSET), column, pc.binary_join_element_wise(column, "Z", ""))
    return column
