"""The source of the graph on this machine: a subscription in, MessageBatch out.

``PullMessages`` is a splittable DoFn that emits pulled batches, and acknowledges each when its bundle is finalized. FnApiRunner
runs one such DoFn forever if the whole graph is one fused stage: each call of ``process`` is a separate bundle, which ends by
deferring the remainder. It does not honour a delay of the remainder, so the DoFn itself waits if there are no messages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.transforms.core import RestrictionProvider

from ecomflow.pipeline.batches import MessageBatch
from ecomflow.pipeline.config import PipelineConfig
from ecomflow.pipeline.step import Step, StepFn

# Measured: enough messages to amortize the fixed costs of a bundle, few enough to process again after a crash.
MESSAGES_PER_BUNDLE = 10_000
IDLE_SECONDS = 0.2

_END = sys.maxsize


class _Bundles(RestrictionProvider):  # type: ignore[misc]  # Beam is untyped
    """The restriction counts bundles; it ends only when the puller stops."""

    def initial_restriction(self, element: PipelineConfig) -> OffsetRange:
        return OffsetRange(0, _END)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return OffsetRestrictionTracker(restriction)

    def restriction_size(self, element: PipelineConfig, restriction: OffsetRange) -> int:
        return 1


_BUNDLES = beam.DoFn.RestrictionParam(_Bundles())


class _PullFn(StepFn):
    # The finalizer must come before the tracker: in the other order Beam passes the tracker for both.
    @beam.DoFn.unbounded_per_element()  # type: ignore[untyped-decorator]
    def process(
        self,
        element: PipelineConfig,
        finalizer: Any = beam.DoFn.BundleFinalizerParam,
        tracker: Any = _BUNDLES,
    ) -> Iterator[MessageBatch]:
        puller = self._runtime.puller
        with self._runtime.failure.noted():
            batch = puller.take(MESSAGES_PER_BUNDLE, IDLE_SECONDS)
        if batch is None and puller.stopped:
            tracker.try_claim(_END)  # the end of the range: the source is done, and the run ends successfully
        elif tracker.try_claim(tracker.current_restriction().start):
            if batch is not None:
                finalizer.register(partial(puller.acknowledge, batch))
                self._counters.count_step(self._step, messages_out=len(batch.messages))
                yield MessageBatch(batch.messages)
            tracker.defer_remainder()


class PullMessages(Step):
    """Batches of the subscription's messages, without end, for FnApiRunner in this process."""

    def expand(self, root: Any) -> Any:
        batches = (
            root
            | "Name the subscription" >> beam.Create([self._config], reshuffle=False)
            | "Pull" >> beam.ParDo(_PullFn(self._config, self.label))
        )
        batches.element_type = MessageBatch
        return batches
