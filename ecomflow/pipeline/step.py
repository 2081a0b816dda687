"""The base of the graph's steps: the pipeline's config, with which they are pickled, and its runtime in this process."""

from __future__ import annotations

import apache_beam as beam

from ecomflow.pipeline.config import PipelineConfig
from ecomflow.pipeline.runtime import runtime_of


class Step(beam.PTransform):  # type: ignore[misc]  # Beam is untyped
    """A step of the graph of ``config``."""

    def __init__(self, config: PipelineConfig) -> None:
        super().__init__()
        self._config = config


class StepFn(beam.DoFn):  # type: ignore[misc]
    """A DoFn of the step with the label ``step``. It gets its runtime in ``setup``, because a runtime is not pickled."""

    def __init__(self, config: PipelineConfig, step: str) -> None:
        self._config = config
        self._step = step

    def setup(self) -> None:
        self._runtime = runtime_of(self._config)
        self._counters = self._runtime.counters
