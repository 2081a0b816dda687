"""The whole graph on one screen, with a branch for each event type; these are the built-in ones.

    Read messages
      Decode events
        order          Model order facts          Write order facts          Write order dead letters
        inventory      Model inventory facts      Write inventory facts      Write inventory dead letters
        user_activity  Model user_activity facts  Write user_activity facts  Write user_activity dead letters
        unknown        Refuse unknown events                                 Write unknown dead letters

There is no shuffle and no Flatten, so the runner fuses all of it into one stage: a message is acknowledged only after every row
and dead letter of its bundle is written. The labels are an interface: updating a running job matches its steps by them.
"""

from __future__ import annotations

from typing import Any

import apache_beam as beam

from ecomflow.contract.dead_letter import UNKNOWN_STREAM
from ecomflow.pipeline.config import PipelineConfig
from ecomflow.pipeline.transforms import DecodeEvents, ModelFacts, RefuseEvents, WriteDeadLetters, WriteFacts


def build_graph(pipeline: beam.Pipeline, source: beam.PTransform, config: PipelineConfig) -> None:
    """Add ecomflow's graph to ``pipeline``. ``source`` makes MessageBatch out of nothing."""
    streams: Any = pipeline | "Read messages" >> source | "Decode events" >> DecodeEvents(config)
    for stream in config.event_streams:
        (
            streams[stream]
            | f"Model {stream} facts" >> ModelFacts(config)
            | f"Write {stream} facts" >> WriteFacts(config)
            | f"Write {stream} dead letters" >> WriteDeadLetters(config)
        )
    (
        streams[UNKNOWN_STREAM]
        | f"Refuse {UNKNOWN_STREAM} events" >> RefuseEvents(config)
        | f"Write {UNKNOWN_STREAM} dead letters" >> WriteDeadLetters(config)
    )
