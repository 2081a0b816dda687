"""Question 3: a backlog of mixed events on a throw-away local stack, to rows.

Subjects: ``ecomflow`` (``ecomflow deploy`` as a process), ``two`` (``deploy --processes 2``), ``beam`` (``beams_own``), ``loop``
(``roofline``), and for question 10 ``distant`` (``deploy`` at a distant Pub/Sub). Each is one process on a fresh stack, with
the same backlog published before it starts, and watched from outside: it has begun when the Pub/Sub service has leased the first
message, and is done when the subscription is empty and every row is in its table, counted exactly.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import psutil

from benchmarks.core import SCHEMAS
from benchmarks.events import to_publish
from benchmarks.throwaway import (
    DISTANT,
    BacklogReader,
    Stack,
    alive,
    cpu_seconds,
    end_on_sigterm,
    family,
    provisioned_stack,
    rss,
    running,
    wait_for,
)
from ecomflow.gcp.clients import bigquery_client
from ecomflow.gcp.target import Target
from ecomflow.generator.publisher import PublishSummary, publish

DEPLOY = ("-m", "ecomflow", "deploy", "--runner", "DirectRunner")
COMMANDS: dict[str, tuple[str, ...]] = {
    "ecomflow": DEPLOY,
    "two": (*DEPLOY, "--processes", "2"),
    "beam": ("-m", "benchmarks.beams_own"),
    "loop": ("-m", "benchmarks.roofline"),
    "distant": DEPLOY,
}
PUBSUB_OPTIONS = {"distant": DISTANT}
EVENTS = 100_000
_PATIENCE = 1800.0
_LOOK_SECONDS = 0.025
_LOOK_SHARE = 1 / 400  # of the time so far: longer runs need no finer looks
_LOOKS_PER_CHECK = 8  # to look at processes costs more than to ask Pub/Sub: the watcher must not take the cores that it watches


class Moment(NamedTuple):
    """What is seen at one look: seconds since the process was started, messages leased, messages not acknowledged."""

    at: float
    leased: int
    waiting: int


def main() -> None:
    end_on_sigterm()
    parser = argparse.ArgumentParser()
    parser.add_argument("--subject", choices=COMMANDS, required=True)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--items", type=int, help="lines an order; default: the generator's mixture")
    arguments = parser.parse_args()
    options = PUBSUB_OPTIONS.get(arguments.subject, ())
    print(json.dumps(measure(COMMANDS[arguments.subject], arguments.events, arguments.items, options)))


def measure(command: Sequence[str], count: int, items: int | None = None, pubsub_options: Sequence[str] = ()) -> dict[str, Any]:
    """Publish ``count`` events, run ``command`` until all of them are rows: rates, and what each process used.

    Raises RuntimeError where the process ends or the rows are not those of the events.
    """
    with provisioned_stack(pubsub_options) as stack:
        published = publish(Target(stack.settings, stack.endpoints), to_publish(count, items))
        services = {name: psutil.Process(pid) for name, pid in stack.pids.items()} | {"watcher": psutil.Process()}
        memory_before = {name: rss([process]) for name, process in services.items()}
        cpu_before = {name: cpu_seconds([process]) for name, process in services.items()}
        began = time.monotonic()
        with running(command, stack.settings) as process:
            moments, peak, cpu_at_start = watch(process, stack, began)
            done = _all_rows(stack, published, began) or moments[-1].at
            used = {name: cpu_seconds([one]) - cpu_before[name] for name, one in services.items()}
            used["pipeline"] = cpu_seconds(family(process)) - cpu_at_start
        first = next(moment.at for moment in moments if moment.leased or moment.waiting < count)
        return {
            "rate": count / (done - first),
            "seconds": done - first,
            "seconds_from_start": done,
            "steady_rate": _steady(moments),
            "events": count,
            "rows": sum(expected_rows(published).values()),
            "cores": len(psutil.Process().cpu_affinity()),
            "cpu": used,
            "peak_mb": peak / 1e6,
            "services_mb": {name: [memory_before[name] / 1e6, rss([one]) / 1e6] for name, one in services.items()},
        }


def watch(process: psutil.Process, stack: Stack, began: float) -> tuple[list[Moment], int, float]:
    """Looks until nothing waits: what was seen, the peak of resident bytes, the CPU seconds used when the first was leased."""
    backlog, moments, peak, cpu_at_start, has_begun = BacklogReader(stack), list[Moment](), 0, 0.0, False
    try:
        while not moments or moments[-1].waiting:
            if len(moments) % _LOOKS_PER_CHECK == 0:
                alive(process, stack.settings)
                processes = family(process)
                peak = max(peak, rss(processes))
            now = backlog.read()
            moments.append(Moment(time.monotonic() - began, now.num_outstanding_messages, now.num_undelivered_messages))
            if moments[-1].at > _PATIENCE:
                raise TimeoutError(f"{now.num_undelivered_messages:,} messages wait after {_PATIENCE:.0f} s.")
            if not has_begun:
                has_begun, cpu_at_start = bool(now.num_outstanding_messages), cpu_seconds(processes)
            time.sleep(max(_LOOK_SECONDS, moments[-1].at * _LOOK_SHARE))
        peak = max(peak, rss(processes))
    finally:
        backlog.close()
    return moments, peak, cpu_at_start


def _all_rows(stack: Stack, published: PublishSummary, began: float) -> float | None:
    """When all rows were there, where that was only after the subscription was empty: for what acknowledges before it writes."""
    wanted, last = expected_rows(published), None
    if count_rows(stack) == wanted:
        return None
    while (found := count_rows(stack)) != wanted:
        last = time.monotonic()
        if any(found[table] > wanted[table] for table in wanted) or last - began > _PATIENCE:
            raise RuntimeError(f"The rows are not those of the events: expected {wanted}, found {found}.")
        time.sleep(0.2)
    return time.monotonic() - began


def _steady(moments: list[Moment]) -> float | None:
    """Events a second from the first acknowledgement to the last: without the start and the first bundle.

    None where that is less than two thirds of the events: a few bundles have no steady pace.
    """
    total = moments[0].waiting
    first = next(moment for moment in moments if moment.waiting < total)
    return first.waiting / (moments[-1].at - first.at) if first.waiting > total * 2 / 3 else None


def expected_rows(published: PublishSummary) -> dict[str, int]:
    """The rows that ``published`` makes in each table."""
    valid = published.valid
    lines = published.items
    rows = {"fact_order_header": valid.get("order", 0), "fact_order_item": lines, "fact_order": lines}
    return rows | {f"fact_{kind}": valid.get(kind, 0) for kind in ("inventory", "user_activity")}


def count_rows(stack: Stack) -> dict[str, int]:
    """The rows of each table now."""
    client = bigquery_client(stack.settings.project_id, stack.endpoints)
    selects = [f"SELECT '{table}' AS place, COUNT(*) AS amount FROM {stack.settings.dataset}.{table}" for table in SCHEMAS]  # noqa: S608  # our names
    rows = wait_for(lambda: list(client.query_and_wait(" UNION ALL ".join(selects))), 60)
    return {row["place"]: row["amount"] for row in rows}


if __name__ == "__main__":
    main()
