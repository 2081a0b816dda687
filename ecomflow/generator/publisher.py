"""Publishes generated events: an iterator of messages in; a summary of what Pub/Sub has confirmed out.

Several whole publish requests are in flight at a time.
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

from ecomflow.errors import AccessError
from ecomflow.gcp.publishing import (
    MAX_MESSAGES,
    InFlight,
    RequestSender,
    interruptible_pool,
    publish_error,
    published_before,
    requests_of,
    topic_sender,
)
from ecomflow.gcp.target import Target
from ecomflow.generator.rounds import GeneratedEvent
from ecomflow.reconciliation.ledger import LedgerEntry, LedgerWriter

BATCH_EVENTS = MAX_MESSAGES
_IN_FLIGHT = 3
# With a rate, at most this many requests per second, to avoid bursts.
_REQUESTS_PER_SECOND = 10


class PublishSummary(msgspec.Struct, frozen=True):
    """Counts of what Pub/Sub has confirmed.

    ``valid`` and ``invalid`` are by event type of the slot, ``faults`` by fault, ``reasons`` and ``streams`` by what the dead
    letters must say; events whose outcome nobody foretold, those of a file, are among the ``valid`` ones. ``items`` is the number
    of elements in the lists of the valid events. ``unanswered``: events in flight at Ctrl-C without an answer soon after, which
    may or may not be published.
    """

    total: int
    valid: dict[str, int]
    invalid: dict[str, int]
    faults: dict[str, int]
    reasons: dict[str, int]
    streams: dict[str, int]
    items: int
    elapsed_seconds: float
    interrupted: bool
    unanswered: int = 0


def publish(
    target: Target,
    events: Iterable[GeneratedEvent],
    *,
    rate: float | None = None,
    on_progress: Callable[[int], None] | None = None,
    ledger: Path | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> PublishSummary:
    """Publish ``events`` to the topic, at most ``rate`` per second, and wait until all are confirmed.

    ``on_progress`` is called with the number of events confirmed so far. Each event is written to ``ledger`` before it is sent,
    and again when it is confirmed. Ctrl-C waits half a second for requests in flight, then returns the summary with
    ``interrupted``. Delivery is at least once: a retried request may publish its events twice, with the same ``event_id``. Raises
    NotFoundError (topic), UnavailableError and AccessError, with the number of confirmed events in the message.
    """
    from ecomflow.gcp.errors import FAILURES

    started, interrupted = clock(), False
    with _written(ledger) as writer:
        tally = _Tally(writer)
        try:
            with topic_sender(target) as requests, interruptible_pool(_IN_FLIGHT) as (pool, in_flight):
                sender = _Sender(requests, tally, in_flight)
                _send_all(sender, pool, _paced(events, rate, clock, sleep), on_progress or (lambda _: None))
        except KeyboardInterrupt:
            interrupted = True
        except FAILURES as error:
            raise publish_error(error, target, tally.total) from error
        return tally.summary(clock() - started, interrupted)


class _Tally:
    """Counts confirmed events and writes the ledger. Called on worker threads, so that Ctrl-C can't interrupt it."""

    def __init__(self, ledger: LedgerWriter | None) -> None:
        self._ledger = ledger
        self._lock = Lock()
        self._kinds: Counter[tuple[str, str | None, str | None, str]] = Counter()
        self._items = 0
        self.sent = self.total = 0  # events of requests that were started, and of those confirmed

    def begin(self, batch: list[GeneratedEvent]) -> None:
        """Call before sending ``batch``. Raises AccessError if the ledger can't be written: then it must not be sent."""
        if self._ledger is not None:
            with self._counted_in_errors():
                self._ledger.intend(_entries(batch))
        with self._lock:
            self.sent += len(batch)

    def confirm(self, batch: list[GeneratedEvent], message_ids: list[str]) -> None:
        kinds = Counter([(event.event_type, event.fault, event.expected_reason, event.expected_stream) for event in batch])
        with self._lock:
            self._kinds.update(kinds)
            self._items += sum([sum(event.lists.values()) for event in batch])
            self.total += len(batch)
        if self._ledger is not None:
            with self._counted_in_errors():
                self._ledger.confirm(dict(zip([event.event_id for event in batch], message_ids, strict=True)))

    @contextmanager
    def _counted_in_errors(self) -> Iterator[None]:
        """If the ledger can't be written, publishing ends, and the error also says how many events were published."""
        try:
            yield
        except AccessError as error:
            raise AccessError(f"{error.message}{published_before(self.total)}", error.remedy) from error

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
        return PublishSummary(self.total, *counts, self._items, elapsed_seconds, interrupted, unanswered)


class _Sender:
    """Sends one batch as one publish request, and adds it to the tally when it is confirmed."""

    def __init__(self, requests: RequestSender, tally: _Tally, in_flight: InFlight) -> None:
        self._requests, self.tally, self._in_flight = requests, tally, in_flight

    def send(self, batch: list[GeneratedEvent]) -> None:
        with self._in_flight.task():
            self.tally.begin(batch)
            self.tally.confirm(batch, self._requests.send(batch))


def _send_all(
    sender: _Sender, pool: ThreadPoolExecutor, batches: Iterable[list[GeneratedEvent]], report: Callable[[int], None]
) -> None:
    """Keep _IN_FLIGHT batches in flight, but only one of an ordering key, so that its order holds; the first failure is raised,
    and nothing is sent after it.
    """
    pending: deque[tuple[str, Future[None]]] = deque()
    for batch in batches:
        key = batch[0].ordering_key
        while key and any(key == other for other, _ in pending):
            pending.popleft()[1].result()
        pending.append((key, pool.submit(sender.send, batch)))
        if len(pending) >= _IN_FLIGHT:
            pending.popleft()[1].result()
        report(sender.tally.total)
    for _, future in pending:
        future.result()
        report(sender.tally.total)


def _paced(
    events: Iterable[GeneratedEvent], rate: float | None, clock: Callable[[], float], sleep: Callable[[float], None]
) -> Iterator[list[GeneratedEvent]]:
    """Batches of ``events``, delayed to ``rate`` events per second; without a rate, full batches without delay."""
    size = BATCH_EVENTS if rate is None else max(1, min(BATCH_EVENTS, round(rate / _REQUESTS_PER_SECOND)))
    source, started, count = iter(events), clock(), 0
    while batch := list(islice(source, size)):
        if rate is not None and (early := started + count / rate - clock()) > 0:
            sleep(early)
        count += len(batch)
        yield from requests_of(batch)


def _entries(batch: list[GeneratedEvent]) -> list[LedgerEntry]:
    return [
        LedgerEntry(event.event_id, None, event.event_type, event.fault, event.expected_reason, event.lists) for event in batch
    ]


@contextmanager
def _written(path: Path | None) -> Iterator[LedgerWriter | None]:
    """The writer of the ledger ``path``, or None."""
    if path is None:
        yield None
        return
    with closing(LedgerWriter(path)) as ledger:
        yield ledger
