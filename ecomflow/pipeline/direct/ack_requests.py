"""Ack ids in, requests that Pub/Sub accepts out: portions limited in number and bytes, halved if the service refuses one."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from google.api_core import exceptions

log = logging.getLogger(__name__)

# The service accepts 512 KiB per request, and its ack ids have more than 210 characters: https://github.com/googleapis/google-cloud-go/issues/20391
MOST_IDS = 1000
MOST_BYTES = 400_000
_BYTES_PER_ID = 4  # of framing, at most
# Halving finds a few refused ids among many. If all are refused, it would take twice as many requests as there are ids.
_MOST_REFUSALS = 50


def portions(ack_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """``ack_ids`` in order, as many at a time as fit into one request."""
    for start in range(0, len(ack_ids), MOST_IDS):
        part = ack_ids[start : start + MOST_IDS]
        size = sum(map(len, part)) + _BYTES_PER_ID * len(part)
        step = max(1, len(part) * MOST_BYTES // max(size, MOST_BYTES))
        for begin in range(0, len(part), step):
            yield part[begin : begin + step]


def send_in_portions(ack_ids: Sequence[str], send: Callable[[Sequence[str]], None]) -> Iterator[int]:
    """Call ``send`` with one portion of ``ack_ids`` after the other; yields the number of ids that the service accepted.

    Raises what ``send`` raises, except InvalidArgument: then the portion is halved, down to single ids, which are skipped. After
    too many refusals that is raised too.
    """
    waiting, refusals = deque(portions(ack_ids)), 0
    while waiting:
        part = waiting.popleft()
        try:
            send(part)
        except exceptions.InvalidArgument as error:
            refusals += 1
            if refusals > _MOST_REFUSALS:
                raise
            if len(part) > 1:
                half = len(part) // 2
                waiting.extendleft((part[half:], part[:half]))
            else:
                log.warning("Pub/Sub refuses an ack id; its message will be redelivered: %s", error.message)
        else:
            yield len(part)
