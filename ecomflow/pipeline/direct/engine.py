"""The local engine: the streaming graph in this process, on Beam's FnApiRunner, restarted with backoff until it is drained.

Not Beam's bundle-based DirectRunner, which acknowledges before it processes, nor Prism, which would be downloaded.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import metrics_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner

from ecomflow.errors import AccessError, EcomflowError, NotFoundError, SchemaError, UnavailableError
from ecomflow.pipeline.direct.restarts import RESTARTS, Restarts
from ecomflow.pipeline.direct.source import PullMessages
from ecomflow.pipeline.graph import build_graph
from ecomflow.pipeline.runtime import Runtime

log = logging.getLogger(__name__)

# How long to wait for someone to fix what a restart can't (a missing table or role). Nothing is lost meanwhile, because the
# messages stay in the subscription. See docs/adr/0012-wait-ten-minutes-for-a-fix.md.
RECOVERY_SECONDS = 600.0
_RECOVERABLE = (NotFoundError, SchemaError, AccessError)


class RunSummary(NamedTuple):
    """The process's counters at the end (``counters.totals``, failed bundles included), and how often the engine restarted."""

    counters: dict[str, int]
    restarts: int


class _BundleFailedError(Exception):
    """A step, or the finalization of a bundle, raised an exception; its last line."""


def run_until_drained(
    runtime: Runtime,
    drain: threading.Event,
    on_restart: Callable[[str, float], None],
    restarts: Restarts = RESTARTS,
    recovery_seconds: float = RECOVERY_SECONDS,
) -> RunSummary:
    """Run the graph on ``runtime`` until ``drain`` is set; then finish and acknowledge the current bundle, release the remaining
    messages, and return.

    A failed bundle restarts the pipeline: ``on_restart`` gets the reason and the pause in seconds, and the messages are
    redelivered. An EcomflowError that a restart can't fix is raised: at once, or after ``recovery_seconds`` if someone can fix it
    meanwhile (a missing table, a schema that does not fit, a missing role).
    """
    pause, restarted = restarts.first_pause, 0
    recover_until: float | None = None
    with runtime:
        while not drain.is_set():
            began = time.monotonic()
            try:
                _run_once(runtime, drain)
            except _BundleFailedError as failed:
                reason, now = runtime.failure.take(), time.monotonic()
                if now - began > restarts.well_after:
                    pause, recover_until = restarts.first_pause, None
                recover_until = _give_up_at(reason, recover_until, now, recovery_seconds)
                if recover_until is not None and now >= recover_until and reason is not None:
                    raise reason from failed
                restarted += 1
                on_restart(str(reason or failed), pause)
                log.warning("The pipeline restarts in %.0f s.", pause, exc_info=failed.__cause__)
                runtime.counters.waiting("restart", f"its restart in {pause:.0f} s, after: {reason or failed}")
                drain.wait(pause)
                runtime.counters.waiting("restart", None)
                pause = min(pause * 2, restarts.longest_pause)
            finally:
                runtime.close_connections()
    return RunSummary(runtime.counters.totals(), restarted)


def _give_up_at(reason: EcomflowError | None, before: float | None, now: float, recovery_seconds: float) -> float | None:
    """When a failure for ``reason`` ends the engine; None: never. ``before``: the result for the previous failure."""
    if reason is None or isinstance(reason, UnavailableError):
        return None
    if not isinstance(reason, _RECOVERABLE):
        return now
    return now + recovery_seconds if before is None else before


def _run_once(runtime: Runtime, drain: threading.Event) -> None:
    config, puller = runtime.config, runtime.puller
    ended = threading.Event()
    watcher = threading.Thread(target=_stop_on_drain, args=(drain, ended, puller.stop), name="drain", daemon=True)
    watcher.start()
    try:
        pipeline = beam.Pipeline(runner=_flat_memory_runner(), options=_options())
        build_graph(pipeline, PullMessages(config), config)
        _run(pipeline)
    finally:
        ended.set()
        watcher.join()


def _run(pipeline: beam.Pipeline) -> None:
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:  # FnApiRunner raises whatever a step raised, with another text; any of it fails the bundle
        raise _BundleFailedError(_last_line(error)) from error


def _stop_on_drain(drain: threading.Event, ended: threading.Event, stop: Callable[[], None]) -> None:
    while not ended.is_set():
        if drain.wait(0.1):
            stop()
            return


def _options() -> PipelineOptions:
    # Beam needs no credentials: the sinks and the source have their own clients.
    return PipelineOptions(["--streaming", "--no_auth", "--direct_running_mode=in_memory"])


def _flat_memory_runner() -> fn_runner.FnApiRunner:
    """FnApiRunner whose memory does not grow with the number of bundles.

    It merges each bundle's MonitoringInfos into the previous ones, and these messages keep every bundle's whole response in
    memory (about 60 KB per bundle with apache-beam 2.77). Copies do not.
    """
    fold = getattr(fn_runner.consolidate_monitoring_infos, "folds", fn_runner.consolidate_monitoring_infos)

    def fold_into_copies(infos: Iterable[metrics_pb2.MonitoringInfo]) -> list[metrics_pb2.MonitoringInfo]:
        return [metrics_pb2.MonitoringInfo.FromString(info.SerializeToString()) for info in fold(infos)]

    fold_into_copies.folds = fold  # type: ignore[attr-defined]
    fn_runner.consolidate_monitoring_infos = fold_into_copies
    return fn_runner.FnApiRunner()


def _last_line(error: Exception) -> str:
    text = "".join(traceback.format_exception_only(error))
    return text.strip().splitlines()[-1]
