"""Question 10: pulling from a distant Pub/Sub, in events a second.

The embedded Pub/Sub simulates a round trip of 50 ms and returns at most 100 messages per pull. Subjects: ``ecomflow``
(the pipeline's puller, which acknowledges what it takes); ``one-by-one`` (a loop over Google's client: a pull, its
acknowledgement, the next pull); ``near`` (the puller at a Pub/Sub on the same machine, without either). Each begins with the
backlog there and no connection made. The whole pipeline is ``benchmarks.end_to_end --subject distant``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

import psutil

from benchmarks.events import to_publish
from benchmarks.publishing import Service, pubsub
from benchmarks.throwaway import DISTANT, cpu_seconds
from ecomflow.gcp.clients import subscriber_client
from ecomflow.gcp.target import Target
from ecomflow.generator.publisher import publish
from ecomflow.pipeline.config import PipelineConfig
from ecomflow.pipeline.counters import Counters
from ecomflow.pipeline.direct.puller import Puller

_BUNDLE = 10_000


class Way(NamedTuple):
    """``pull(service, count)`` takes and acknowledges ``count`` messages of a Pub/Sub with these options."""

    pull: Callable[[Service, int], None]
    options: tuple[str, ...]
    events: int


def ahead(service: Service, count: int) -> None:
    """By the pipeline's puller."""
    settings, bucket = service.settings, "none"
    config = PipelineConfig(settings.project_id, settings.subscription_path, bucket, settings.dataset, service.endpoints, 60, ())
    with closing(Puller(config, Counters())) as puller:
        while count > 0:
            if batch := puller.take(_BUNDLE, 10):
                puller.acknowledge(batch)
                count -= len(batch.messages)


def one_by_one(service: Service, count: int) -> None:
    """As a script is usually written."""
    path = service.settings.subscription_path
    with subscriber_client(service.endpoints) as client:
        while count > 0:
            received = client.pull(subscription=path, max_messages=1000).received_messages
            client.acknowledge(subscription=path, ack_ids=[one.ack_id for one in received])
            count -= len(received)


WAYS = {
    "ecomflow": Way(ahead, DISTANT, 60_000),
    "one-by-one": Way(one_by_one, DISTANT, 6_000),
    "near": Way(ahead, (), 200_000),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--subject", choices=WAYS, required=True)
    parser.add_argument("--events", type=int, help="default: each subject's own number")
    arguments = parser.parse_args()
    print(json.dumps(measure(WAYS[arguments.subject], arguments.events)))


def measure(way: Way, events: int | None = None) -> dict[str, float]:
    """The rate, and the CPU of both sides in microseconds an event."""
    count = events or way.events
    with pubsub(*way.options) as service:
        publish(Target(service.settings, service.endpoints), to_publish(count))
        me = psutil.Process()
        used, served, began = cpu_seconds([me]), cpu_seconds([service.process]), time.perf_counter()
        way.pull(service, count)
        seconds = time.perf_counter() - began
        return {
            "events": count,
            "rate": count / seconds,
            "seconds": seconds,
            "cpu_us": (cpu_seconds([me]) - used) / count * 1e6,
            "service_cpu_us": (cpu_seconds([service.process]) - served) / count * 1e6,
        }


if __name__ == "__main__":
    main()
