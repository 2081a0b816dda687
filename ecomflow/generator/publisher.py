"""Publishes generated events: an iterator of messages goes in, a summary of what Pub/Sub has confirmed comes out.

Whole publish requests travel, several at a time.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from threading import Lock

import msgspec

from ecomflow.config import Endpoints, Settings
from ecomflow.errors import AccessError
from ecomflow.gcp.publishing import InHand, RequestSender, interruptible_pool, publish_error, told_so_far, topic_sender
from ecomflow.generator.rounds import GeneratedEvent
from ecomflow.reconciliation.ledger import LedgerEntry, LedgerWriter

# Pub/Sub takes 1,000 messages and 10 MB a request (https://cloud.google.com/pubsub/quotas#resource_limits); an event has about
# 500 bytes.
BATCH_EVENTS = 1000
_IN_FLIGHT = 3
# With a rate, this many requests a second at most: small steps rather than bursts.
_REQUESTS_PER_SECOND = 10


class PublishSummary(msgspec.Struct, frozen=True):
    """What Pub/Sub has confirmed, and nothing else.

    ``valid`` and ``invalid`` count by event type of the slot, ``faults`` by fault, ``reasons`` and ``streams`` by what the dead
    letters must say. ``order_items`` is the number of rows that the valid orders make in each of the item tables.
    ``unanswered``: events that were under way when Ctrl-C came, and whose answer did not come soon: published or not.
    """

    total: int
    valid: dict[str, int]
    invalid: dict[str, int]
    faults: dict[str, int]
    reasons: dict[str, int]
    streams: dict[str, int]
    order_items: int
    elapsed_seconds: float
    interrupted: bool
    unanswered: int = 0


def publish(
    settings: Settings,
    endpoints: Endpoints,
    events: Iterable[GeneratedEvent],
    *,
    rate: float | None = None,
    on_progress: Callable[[int], None] | None = None,
    ledger: Path | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> PublishSummary:
    """Publish ``events`` to the topic, at most ``rate`` a second, and wait until all are confirmed.

    ``on_progress`` gets the number of events confirmed so far. ``ledger`` has each event before it is sent, and then what
    was confirmed. Ctrl-C gives what is in flight half a second to arrive, then returns the summary with ``interrupted``. Delivery
    is at least once: a request that is tried again may publish its events twice, with the same ``event_id``. Raises NotFoundError
    (topic), UnavailableError and AccessError: the message says how many events had been confirmed.
    """
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    started, interrupted = clock(), False
    with _written(ledger) as writer:
        tally = _Tally(writer)
        try:
            with topic_sender(settings, endpoints) as requests, interruptible_pool(_IN_FLIGHT) as (pool, in_hand):
                sender = _Sender(requests, tally, in_hand)
                _send_all(sender, pool, _paced(events, rate, clock, sleep), on_progress or (lambda _: None))
        except KeyboardInterrupt:
            interrupted = True
        except (GoogleAPIError, GoogleAuthError) as error:
            raise publish_error(error, settings, endpoints, tally.total) from error
        return tally.summary(clock() - started, interrupted)


class _Tally:
    """Counts confirmed events and writes the ledger. Workers call it, so that a Ctrl-C in the main thread can't come between."""

    def __init__(self, ledger: LedgerWriter | None) -> None:
        self._ledger = ledger
        self._lock = Lock()
        self._kinds: Counter[tuple[str, str | None, str | None, str]] = Counter()
        self._order_items = 0
        self.sent = self.total = 0  # events of the requests that were begun, and of those that were confirmed

    def begin(self, batch: list[GeneratedEvent]) -> None:
        """``batch`` is about to be sent. Raises AccessError where the ledger can't take it: then it must not be sent."""
        if self._ledger is not None:
            with self._told_how_far():
                self._ledger.intend(_entries(batch))
        with self._lock:
            self.sent += len(batch)

    def confirm(self, batch: list[GeneratedEvent], message_ids: list[str]) -> None:
        kinds = Counter([(event.event_type, event.fault, event.expected_reason, event.expected_stream) for event in batch])
        with self._lock:
            self._kinds.update(kinds)
            self._order_items += sum([event.items for event in batch])
            self.total += len(batch)
        if self._ledger is not None:
            with self._told_how_far():
                self._ledger.confirm(dict(zip([event.attributes["event_id"] for event in batch], message_ids, strict=True)))

    @contextmanager
    def _told_how_far(self) -> Iterator[None]:
        """A ledger that can't be written ends the publishing: its error also says how many events were published."""
        try:
            yield
        except AccessError as error:
            raise AccessError(f"{error.message}{told_so_far(self.total)}", error.remedy) from error

    def summary(self, elapsed_seconds: float, interrupted: bool) -> PublishSummary:
        valid, invalid, faults, reasons, streams = Counter[str](), Counter[str](), Counter[str](), Counter[str](), Counter[str]()
        for (event_type, fault, reason, stream), count in sorted(self._kinds.items(), key=str):
            if fault is None or reason is None:
                valid[event_type] += count
                continue
            invalid[event_type] += count
            faults[fault] += count
            reasons[reason] += count
            streams[stream] += count
        counts = (dict(valid), dict(invalid), dict(faults), dict(reasons), dict(streams))
        unanswered = self.sent - self.total if interrupted else 0
        return PublishSummary(self.total, *counts, self._order_items, elapsed_seconds, interrupted, unanswered)


class _Sender:
    """Sends one batch as one publish request and tells the tally once it is confirmed."""

    def __init__(self, requests: RequestSender, tally: _Tally, in_hand: InHand) -> None:
        self._requests, self.tally, self._in_hand = requests, tally, in_hand

    def send(self, batch: list[GeneratedEvent]) -> None:
        with self._in_hand.piece():
            self.tally.begin(batch)
            self.tally.confirm(batch, self._requests.send((event.data, event.attributes) for event in batch))


def _send_all(
    sender: _Sender, pool: ThreadPoolExecutor, batches: Iterable[list[GeneratedEvent]], report: Callable[[int], None]
) -> None:
    """Keep _IN_FLIGHT batches under way; the first failure is raised and nothing is sent after it."""
    pending: deque[Future[None]] = deque()
    for batch in batches:
        pending.append(pool.submit(sender.send, batch))
        if len(pending) >= _IN_FLIGHT:
            pending.popleft().result()
        report(sender.tally.total)
    for future in pending:
        future.result()
        report(sender.tally.total)


def _paced(
    events: Iterable[GeneratedEvent], rate: float | None, clock: Callable[[], float], sleep: Callable[[float], None]
) -> Iterator[list[GeneratedEvent]]:
    """Batches of ``events``, each no earlier than ``rate`` events a second allow; without a rate full ones at once."""
    size = BATCH_EVENTS if rate is None else max(1, min(BATCH_EVENTS, round(rate / _REQUESTS_PER_SECOND)))
    source, started, count = iter(events), clock(), 0
    while batch := list(islice(source, size)):
        if rate is not None and (early := started + count / rate - clock()) > 0:
            sleep(early)
        count += len(batch)
        yield batch


def _entries(batch: list[GeneratedEvent]) -> list[LedgerEntry]:
    return [
        LedgerEntry(event.attributes["event_id"], None, event.event_type, event.items, event.fault, event.expected_reason)
        for event in batch
    ]


@contextmanager
def _written(path: Path | None) -> Iterator[LedgerWriter | None]:
    """The writer of the ledger ``path``; None for None."""
    if path is None:
        yield None
        return
    with closing(LedgerWriter(path)) as ledger:
        yield ledger
