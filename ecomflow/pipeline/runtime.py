"""A pipeline's config in; what its steps share in this process out: the counters, the failure, the ids seen, the connections.

Beam pickles the steps, and Dataflow runs them in other processes, so a step holds only its ``PipelineConfig``, and asks
``runtime_of`` when it is set up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from types import TracebackType

from ecomflow.contract.codec import Codec
from ecomflow.gcp.on_demand import OnDemand
from ecomflow.pipeline.config import PipelineConfig
from ecomflow.pipeline.counters import Counters, utc_now
from ecomflow.pipeline.direct.puller import Puller
from ecomflow.pipeline.failures import LastFailure
from ecomflow.pipeline.ingestion import IngestionTimes
from ecomflow.pipeline.repeats import SeenIds
from ecomflow.pipeline.sinks.bigquery import TableWriter, TableWriters
from ecomflow.pipeline.sinks.dead_letters import DeadLetterWriter


class Runtime:
    """What the steps of one pipeline share in a process. Safe for several threads.

    ``now`` is the steps' clock, ``steady`` a monotonic one; the others make the connections, each when it is first asked for.
    Within its context it is what ``runtime_of`` gives for its config; afterwards its connections are closed.
    """

    def __init__(
        self,
        config: PipelineConfig,
        now: Callable[[], datetime] = utc_now,
        *,
        steady: Callable[[], float] = time.monotonic,
        puller: Callable[[PipelineConfig, Counters], Puller] = Puller,
        table_writers: Callable[[PipelineConfig, Counters], TableWriters] = TableWriters,
        dead_letter_writer: Callable[[PipelineConfig, Counters], DeadLetterWriter] = DeadLetterWriter,
    ) -> None:
        self.config = config
        self.now = now
        self.counters = Counters(now, steady)
        self.failure = LastFailure()
        self.seen_ids = SeenIds()
        self.ingestion_times = IngestionTimes()
        self.codec = Codec(config.contracts, config.envelope)
        self._puller = OnDemand(lambda: puller(config, self.counters), lambda made: made.close())
        self._table_writers = OnDemand(lambda: table_writers(config, self.counters), lambda made: made.close())
        self._dead_letter_writer = OnDemand(lambda: dead_letter_writer(config, self.counters), lambda made: made.close())

    @property
    def puller(self) -> Puller:
        """The subscription's puller. Dataflow reads the subscription itself, and has none."""
        return self._puller.get()

    def table_writer(self, table: str) -> TableWriter:
        return self._table_writers.get().writer(table)

    @property
    def dead_letter_writer(self) -> DeadLetterWriter:
        return self._dead_letter_writer.get()

    def close_connections(self) -> None:
        """Close the puller and the writers, where there are any. Whoever asks for one afterwards gets a new one."""
        for connection in (self._puller, self._table_writers, self._dead_letter_writer):
            connection.close()

    def __enter__(self) -> Runtime:
        _runtimes.enter(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        _runtimes.leave(self)
        self.close_connections()


class _Runtimes:
    """The runtimes of this process, one a config: the only state of the steps that hangs on a module."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entered: dict[PipelineConfig, Runtime] = {}
        self._made: dict[PipelineConfig, Runtime] = {}

    def of(self, config: PipelineConfig) -> Runtime:
        with self._lock:
            if config in self._entered:
                return self._entered[config]
            return self._made.setdefault(config, Runtime(config))

    def enter(self, runtime: Runtime) -> None:
        with self._lock:
            if runtime.config in self._entered:
                raise RuntimeError(f"This process already runs a pipeline of {runtime.config.subscription_path}.")
            self._entered[runtime.config] = runtime

    def leave(self, runtime: Runtime) -> None:
        with self._lock:
            del self._entered[runtime.config]


_runtimes = _Runtimes()


def runtime_of(config: PipelineConfig) -> Runtime:
    """This process's runtime of ``config``: the one that is entered, or else one made at first use, as on Dataflow's workers."""
    return _runtimes.of(config)
