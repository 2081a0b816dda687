"""What any event is held to, whatever its contract says: the dates that can be written, the size of its rows. Pure."""

from __future__ import annotations

import socket
from datetime import date
from functools import lru_cache
from typing import NamedTuple

# What can be streamed into a daily partition by its column.
# https://cloud.google.com/bigquery/docs/streaming-data-into-bigquery#streaming_into_partitioned_tables
YEARS_BACK = 10
YEARS_AHEAD = 1

# fact_order repeats an order's header on each of its items, so that a message of 10 MB could become rows of many gigabytes. No
# order of a shop comes near this: 10,000 items with a header of 1.6 KB.
MAX_REPEATED_BYTES = 16 * 2**20

# The bytes that a row may have, as Arrow. An AppendRows request takes 10 MB, of which the rest is for framing:
# https://cloud.google.com/bigquery/quotas#write-api-limits
MAX_ROW_BYTES = 9_000_000

# The longest text of an address: six groups of four digits, and an IPv4 address in full.
_LONGEST_ADDRESS = 45


class DateRange(NamedTuple):
    """The dates, both included, that can be streamed into a daily partition."""

    first: date
    last: date


def streamable_dates(today: date) -> DateRange:
    """10 years back to 1 year ahead of ``today``."""
    return DateRange(_shift_years(today, -YEARS_BACK), _shift_years(today, YEARS_AHEAD))


def is_ip_address(text: str) -> bool:
    """Whether ``text`` is an IPv4 address in four decimal parts or an IPv6 address without a zone."""
    return len(text) <= _LONGEST_ADDRESS and _reads_as_address(text)


@lru_cache(maxsize=65_536)  # the same shoppers come again, and an address costs a third of a microsecond to read
def _reads_as_address(text: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return True
    return False


def _shift_years(day: date, years: int) -> date:
    try:
        return day.replace(year=day.year + years)
    except ValueError:  # 29 February
        return day.replace(year=day.year + years, day=28)
