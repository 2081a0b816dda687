"""Question 4: from publish to a row that a query returns, at a steady rate, through ``ecomflow deploy``.

An event's clock starts when the request that carries it is sent, and stops when a query, repeated without a pause of more than
``PAUSE`` seconds, has returned its id from a fact table: the query's own time and the wait for the next one count as latency.
"""

from __future__ import annotations

import argparse
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from benchmarks.end_to_end import DEPLOY
from benchmarks.events import to_publish
from benchmarks.throwaway import Stack, alive, end_on_sigterm, provisioned_stack, running, wait_for
from ecomflow.gcp.clients import bigquery_client
from ecomflow.gcp.publishing import RequestSender, topic_sender
from ecomflow.gcp.target import Target
from ecomflow.generator.rounds import GeneratedEvent

RATE = 500
SECONDS = 60.0
PAUSE = 0.05
REQUESTS_PER_SECOND = 10  # as ``ecomflow publish --rate`` does it
WARM_UP = 1000  # events before the clock starts: connections are opened, first tables are written
BIN_SECONDS = 0.025
# One row an event; an order's other rows are acknowledged with it.
_TABLES = ("fact_order_header", "fact_inventory", "fact_user_activity")
# Tables are written side by side, so that a row may appear after a younger one of another table.
_OVERLAP = timedelta(seconds=3)
_PATIENCE = 60.0


def main() -> None:
    end_on_sigterm()
    parser = argparse.ArgumentParser()
    parser.add_argument("--subject", choices=("ecomflow",), required=True)
    parser.add_argument("--rate", type=int, default=RATE)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.rate, arguments.seconds)))


def measure(rate: int, seconds: float) -> dict[str, Any]:
    """Publish at ``rate`` for ``seconds``: the quantiles of the latency, in seconds, and its histogram."""
    with provisioned_stack() as stack, running(DEPLOY, stack.settings) as process:
        sender, watcher = Sender(stack, rate, seconds), Watcher(stack)

        def watch(is_done: Callable[[], bool], patience: float) -> None:
            def look() -> bool:
                alive(process, stack.settings)
                watcher.look()
                return is_done()

            wait_for(look, patience, PAUSE)

        first = sender.warm_up()
        watch(lambda: first.keys() <= watcher.seen.keys(), _PATIENCE)
        sender.start()
        watch(lambda: not sender.is_alive() and sender.sent.keys() <= watcher.seen.keys(), seconds + _PATIENCE)
        sender.check()
    return summary([watcher.seen[event_id] - at for event_id, at in sender.sent.items()], rate)


def summary(latencies: Sequence[float], rate: int) -> dict[str, Any]:
    """The quantiles of ``latencies`` (seconds), and how many lie in each bin of ``BIN_SECONDS``."""
    ordered = sorted(latencies)
    bins = Counter(int(value / BIN_SECONDS) for value in ordered)
    return {
        "events": len(ordered),
        "publish_rate": rate,
        "p50": quantile(ordered, 0.5),
        "p90": quantile(ordered, 0.9),
        "p99": quantile(ordered, 0.99),
        "max": ordered[-1],
        "bin_seconds": BIN_SECONDS,
        "bins": [bins[number] for number in range(max(bins) + 1)],
    }


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` of ``ordered``, sorted, does not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class Sender(threading.Thread):
    """Publishes at a rate, and remembers when each event was sent."""

    def __init__(self, stack: Stack, rate: int, seconds: float) -> None:
        super().__init__(name="publish", daemon=True)
        self.sent: dict[str, float] = {}
        self._stack, self._rate, self._count = stack, rate, round(rate * seconds)
        self._events = to_publish(WARM_UP + self._count)
        self._failure: BaseException | None = None

    def warm_up(self) -> dict[str, float]:
        """Send the first events at once: their ids, and when they were sent."""
        sent: dict[str, float] = {}
        with topic_sender(Target(self._stack.settings, self._stack.endpoints)) as requests:
            self._send(requests, list(islice(self._events, WARM_UP)), sent)
        return sent

    def run(self) -> None:
        try:
            with topic_sender(Target(self._stack.settings, self._stack.endpoints)) as requests:
                for batch in self._paced():
                    self._send(requests, batch, self.sent)
        except BaseException as failure:  # noqa: BLE001  # raised again by check()
            self._failure = failure

    def check(self) -> None:
        """Wait for the end. Raises what ended it before its time."""
        self.join()
        if self._failure is not None:
            raise self._failure

    def _paced(self) -> Iterator[list[GeneratedEvent]]:
        size, began, count = max(1, self._rate // REQUESTS_PER_SECOND), time.monotonic(), 0
        while batch := list(islice(self._events, size)):
            time.sleep(max(0.0, began + count / self._rate - time.monotonic()))
            count += len(batch)
            yield batch

    @staticmethod
    def _send(requests: RequestSender, batch: list[GeneratedEvent], sent: dict[str, float]) -> None:
        now = time.monotonic()
        sent.update({event.attributes["event_id"]: now for event in batch})
        requests.send(batch)


class Watcher:
    """Asks for the newest rows, again and again, and remembers when each event id was first seen."""

    def __init__(self, stack: Stack) -> None:
        self.seen: dict[str, float] = {}
        self._client = bigquery_client(stack.settings.project_id, stack.endpoints)
        self._dataset = stack.settings.dataset
        self._newest = datetime.now(UTC)

    def look(self) -> None:
        since = f"TIMESTAMP '{self._newest - _OVERLAP:%Y-%m-%d %H:%M:%S.%f}+00'"
        select = "SELECT event_id, ingestion_timestamp AS at FROM {}.{} WHERE ingestion_timestamp > {}"
        selects = [select.format(self._dataset, table, since) for table in _TABLES]
        rows = list(self._client.query_and_wait(" UNION ALL ".join(selects)))
        now = time.monotonic()
        for row in rows:
            self.seen.setdefault(row["event_id"], now)
        self._newest = max([self._newest, *(row["at"] for row in rows)])


if __name__ == "__main__":
    main()
