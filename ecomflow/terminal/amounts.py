"""Formats numbers, sizes, durations and times as short text, for the terminal and the page. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

UNKNOWN = "\u2013"
_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")


def count_text(amount: int) -> str:
    """1234567 as "1,234,567"."""
    return f"{amount:,}"


def counted(amount: int, what: str) -> str:
    """ "1 row", "1,234 rows"."""
    return f"{amount:,} {what}{'' if amount == 1 else 's'}"


def decimal_text(value: Decimal) -> str:
    """Every digit of ``value`` and none more: 1790.370000000 as "1790.37", 1E+3 as "1000"."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def rate_text(rate: float | None, unit: str = "/s") -> str:
    """A rate, with a decimal if it is small; a dash if unknown."""
    if rate is None:
        return UNKNOWN
    return f"{rate:,.0f}{unit}" if rate >= 10 or rate == int(rate) else f"{rate:.1f}{unit}"


def seconds_text(seconds: float | None) -> str:
    """A duration in its largest unit or two: "85 ms", "1.2 s", "3 min 10 s", "2 h 5 min"; a dash if unknown."""
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else length(seconds)


def length(seconds: float | None) -> str:
    """A duration in whole seconds, or in its two largest units: "40 s", "3 min 10 s", "2 d 5 h"; empty if unknown."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds) % 60} s"


def bytes_text(amount: int | None) -> str:
    """1234567 as "1.2 MB"; a dash if unknown."""
    if amount is None:
        return UNKNOWN
    size, unit = float(amount), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit < 2 or size >= 100 else f"{size:.1f} {_UNITS[unit]}"


def time_at(seconds: float | None) -> datetime | None:
    """Seconds since the epoch as a time in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def moment_text(moment: datetime) -> str:
    """A time to the second, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def clock_text(at: float) -> str:
    """Seconds since the epoch as the time of day, in UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S}"


def day_text(at: float) -> str:
    """Seconds since the epoch as the date, in UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"
