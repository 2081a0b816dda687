"""Question 3's roofline: a plain loop over the same services, without Beam, restarts, leases or anything that runs ahead.

It pulls with Google's SubscriberClient, 1,000 messages a pull, ten pulls a batch; decodes, models and appends with the same pure
functions and writer as the pipeline; waits; acknowledges; and begins again, until it is killed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.api_core import exceptions
from google.pubsub_v1.types import PullRequest

from benchmarks.core import SCHEMAS, modelled
from ecomflow.config import load_settings
from ecomflow.contract.events import Message
from ecomflow.gcp.clients import bigquery_write_client, subscriber_client
from ecomflow.pipeline.config import PipelineConfig, pipeline_config
from ecomflow.pipeline.counters import Counters
from ecomflow.pipeline.direct.ack_requests import portions
from ecomflow.pipeline.ingestion import IngestionTimes
from ecomflow.pipeline.sinks.bigquery import TableWriter, with_ingestion_time

PULL_MESSAGES = 1000
BATCH_MESSAGES = 10_000


def main() -> None:
    config = pipeline_config(load_settings({}))
    subscriber, writes = subscriber_client(config.endpoints), bigquery_write_client(config.endpoints)
    writers = {table: TableWriter(config, table, writes, Counters()) for table in SCHEMAS}
    while True:
        if received := pull(subscriber, config):
            append(writers, [message_of(item.message) for item in received])
            for ack_ids in portions([item.ack_id for item in received]):
                subscriber.acknowledge(subscription=config.subscription_path, ack_ids=ack_ids)


def pull(subscriber: Any, config: PipelineConfig) -> list[Any]:
    """Some ten thousand received messages, or fewer where no more come."""
    received: list[Any] = []
    request = PullRequest(subscription=config.subscription_path, max_messages=PULL_MESSAGES)
    while len(received) < BATCH_MESSAGES:
        try:
            more = subscriber.pull(request, timeout=1, retry=None)._pb.received_messages
        except exceptions.DeadlineExceeded:
            break
        received += more
        if len(more) < PULL_MESSAGES:  # the end of the backlog: the next pull would wait for new messages
            break
    return received


def append(writers: dict[str, TableWriter], batch: list[Message]) -> None:
    """The facts of ``batch``, written: all tables are sent before the first answer is waited for."""
    now, times, sent = datetime.now(UTC), IngestionTimes(), []
    for facts in modelled(batch, now):
        ingested = times.of(facts.event_ids, now)
        for rows in facts.tables:
            sent.append((rows.table, writers[rows.table].start(with_ingestion_time(rows.rows, ingested), rows.sources)))
    for table, appends in sent:
        writers[table].finish(appends)


def message_of(wire: Any) -> Message:
    published = wire.publish_time.seconds * 1_000_000 + wire.publish_time.nanos // 1000
    return Message(wire.data, dict(wire.attributes), wire.message_id, published)


if __name__ == "__main__":
    main()
