"""The pipeline's metrics, read from the local pipeline's status file or from a Dataflow job, with the backlog from Pub/Sub.

The counters are Beam's, so both runners report them under the same names. Values that a runner does not report are None.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec

from ecomflow.config import Settings, contracts_of
from ecomflow.contract.language import Contract
from ecomflow.errors import EcomflowError, NotFoundError, UnavailableError
from ecomflow.gcp.target import Target
from ecomflow.jobs.backlog import Backlog, read_backlog
from ecomflow.jobs.records import JobDetail
from ecomflow.metrics.moments import Moment
from ecomflow.metrics.snapshot import LOCAL, PipelineMetrics, from_counters
from ecomflow.pipeline.direct.launch import PipelineStatus, read_status, retimed

# Cloud Monitoring has one new sample per minute. The local Pub/Sub counts on demand.
_CLOUD_BACKLOG_SECONDS = 30.0
_CONNECT_SECONDS = 1.0
_NO_SAMPLE = "Cloud Monitoring has no sample of the last ten minutes."


def local_metrics(status: PipelineStatus, contracts: Sequence[Contract], now: float = 0.0) -> PipelineMetrics:
    """The metrics of the pipeline on this machine; ``at`` is when it reported them, or ``now`` if it has reported nothing."""
    return from_counters(
        status.counters,
        status.gauges,
        contracts,
        at=status.updated or now,
        state=status.state,
        where=LOCAL,
        name="" if status.pid is None else f"process {status.pid}",
        started=status.started,
        processes=len(status.processes.pids),
        restarts=status.restarts,
        last_failure=status.last_failure,
        waiting_for=status.waiting_for,
    )


def dataflow_metrics(detail: JobDetail, contracts: Sequence[Contract], now: float) -> PipelineMetrics:
    """The metrics of a Dataflow job; ``at`` is when Dataflow last updated one of them. Dataflow reports no gauges."""
    job = detail.job
    return from_counters(
        detail.counters,
        {},
        contracts,
        at=now if detail.updated_at is None else detail.updated_at.timestamp(),
        state=job.state,
        where=job.region,
        name=f"job {job.name} ({job.id})",
        started=None if job.created is None else job.created.timestamp(),
        processes=detail.workers or 1,
        last_failure=detail.errors[-1].text if detail.errors else None,
    )


def with_backlog(metrics: PipelineMetrics, backlog: Backlog | EcomflowError | None, now: float) -> PipelineMetrics:
    """``metrics`` with the backlog, counted ``now`` or when Cloud Monitoring sampled it; or with the reason why it is unknown."""
    if isinstance(backlog, Backlog):
        sampled = backlog.waiting.sampled_at
        return msgspec.structs.replace(
            metrics,
            backlog=backlog.waiting.messages,
            oldest_unacked_seconds=backlog.oldest_seconds,
            backlog_at=now if sampled is None else sampled.timestamp(),
        )
    return msgspec.structs.replace(metrics, backlog_unknown=_NO_SAMPLE if backlog is None else str(backlog))


class MetricsReader:
    """Reads the metrics of one pipeline repeatedly: the one on this machine (``here``), or a job on Dataflow.

    ``job``: its name or id; by default the configured name. Not thread-safe.
    """

    def __init__(
        self,
        settings: Settings,
        target: Callable[[], Target],
        *,
        here: bool,
        job: str | None = None,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._target = target
        self._contracts = contracts_of(settings)
        self._here = here
        self._job = job or settings.dataflow.job_name
        self._clock = clock
        self._steady = steady
        self._backlog: Backlog | EcomflowError | None = None
        self._backlog_due = -math.inf

    def read(self) -> PipelineMetrics:
        """The current metrics. ``state`` says if no pipeline runs, and ``backlog_unknown`` why the backlog can't be counted.

        Raises AccessError, UnavailableError and PipelineError if the pipeline's own state can't be read.
        """
        metrics = self._read_here() if self._here else self._read_job()
        if self._here:
            metrics = msgspec.structs.replace(metrics, unreachable=self._unreachable())
        now = self._clock()
        if self._steady() >= self._backlog_due:
            self._backlog = self._read_backlog(now)
        return with_backlog(metrics, self._backlog, now)

    def _read_here(self) -> PipelineMetrics:
        status, now = read_status(self._settings.state_path), Moment(self._clock(), self._steady())
        # A pipeline that has ended may have run before the last boot, when the monotonic clock was another.
        return local_metrics(retimed(status, now) if status.state == "running" else status, self._contracts, now.wall)

    def _unreachable(self) -> tuple[str, ...]:
        """The local services that accept no connection. The pipeline notices that only when it needs them."""
        from ecomflow.local.probes import accepts

        try:
            target = self._target()
        except EcomflowError:  # the backlog is unknown then, and says why
            return ()
        services = (target.pubsub_service, target.storage_service, target.bigquery_service)
        return tuple(
            f"{one.title} at {one.endpoint}" for one in services if one.endpoint and not accepts(one.endpoint, _CONNECT_SECONDS)
        )

    def _read_job(self) -> PipelineMetrics:
        from ecomflow.jobs import service
        from ecomflow.jobs.client import JobsApi

        api = JobsApi(self._target())
        try:
            job = service.find(api, self._job)
        except NotFoundError:
            known = {"at": self._clock(), "state": "none", "where": self._settings.region, "name": f"job {self._job}"}
            return from_counters({}, {}, self._contracts, **known)
        return dataflow_metrics(service.detail(api, job), self._contracts, self._clock())

    def _read_backlog(self, now: float) -> Backlog | EcomflowError | None:
        try:
            target = self._target()
            if target.endpoints.pubsub is None and self._settings.is_local:
                return UnavailableError(
                    f"The local stack in {self._settings.state_path}/ is not running.", "Run: ecomflow infra up"
                )
            self._backlog_due = -math.inf if target.endpoints.pubsub else self._steady() + _CLOUD_BACKLOG_SECONDS
            return read_backlog(target, datetime.fromtimestamp(now, UTC))
        except EcomflowError as error:
            return error
