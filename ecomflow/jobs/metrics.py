"""The pipeline's metrics, read from the local pipeline's status file or from a Dataflow job, with the backlog from Pub/Sub.

The counters are Beam's, so both runners report them under the same names. Values that a runner does not report are None.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import msgspec

from ecomflow.config import Settings, contracts_of
from ecomflow.contract.language import Contract
from ecomflow.errors import ConfigError, EcomflowError, NotFoundError, UnavailableError
from ecomflow.gcp.target import Target, open_target
from ecomflow.jobs.backlog import Backlog, read_backlog
from ecomflow.jobs.records import Job, JobDetail
from ecomflow.jobs.services import silent_services
from ecomflow.metrics.history import Condition, condition_now
from ecomflow.metrics.moments import Moment, moment
from ecomflow.metrics.snapshot import LOCAL, PipelineMetrics, from_counters
from ecomflow.pipeline.direct.launch import PipelineStatus, read_status, retimed

# Cloud Monitoring has one new sample per minute. The local Pub/Sub counts on demand.
_CLOUD_BACKLOG_SECONDS = 30.0
_SERVICES_SECONDS = 5.0
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
        last_restart=status.last_restart,
        last_failure=status.last_failure,
        waiting_for=status.waiting_for,
    )


def metrics_here(status: PipelineStatus, contracts: Sequence[Contract], now: Moment) -> PipelineMetrics:
    """The same by the clock as it is set ``now``."""
    # A pipeline that has ended may have run before the last boot, when the monotonic clock was another.
    return local_metrics(retimed(status, now) if status.state == "running" else status, contracts, now.wall)


def condition_here(settings: Settings, status: PipelineStatus) -> Condition:
    """The condition of the pipeline on this machine with ``status``: on the local stack by its services and the backlog too, both
    of which are asked.
    """
    now = moment()
    metrics = metrics_here(status, (), now)
    if not settings.is_local:
        return condition_now(metrics, now.wall)
    try:
        with open_target(settings, running=False) as target:
            metrics = msgspec.structs.replace(metrics, silent_services=silent_services(target))
            metrics = with_backlog(metrics, backlog_of(target, now.wall), now.wall)
    except ConfigError as error:  # the stack file is damaged
        metrics = with_backlog(metrics, error, now.wall)
    return condition_now(metrics, now.wall)


def condition_of(target: Target) -> Condition | None:
    """The condition of the pipeline that reads the subscription of ``target``, on this machine or on Dataflow, there by the job's
    state alone; None if Dataflow can't be asked.
    """
    settings = target.settings
    status = read_status(settings.state_path)
    if settings.is_local or (status.state == "running" and status.subscription == settings.subscription_path):
        return condition_here(settings, status)
    try:
        job = _job_of(target, settings.dataflow.job_name)
    except EcomflowError:
        return None
    now = time.time()
    region, state = settings.region, "none" if job is None else job.state
    return condition_now(PipelineMetrics(now, state, region, f"job {settings.dataflow.job_name}"), now)


def _job_of(target: Target, name: str) -> Job | None:
    from ecomflow.jobs import service
    from ecomflow.jobs.client import JobsApi

    try:
        return service.find(JobsApi(target), name)
    except NotFoundError:
        return None


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


def backlog_of(target: Target, now: float) -> Backlog | EcomflowError | None:
    """The backlog; None if Cloud Monitoring has no sample of it; or the error for which it is unknown."""
    try:
        if target.endpoints.pubsub is None and target.settings.is_local:
            return UnavailableError(f"The local stack in {target.settings.state_path}/ is not running.", "Run: ecomflow infra up")
        return read_backlog(target, datetime.fromtimestamp(now, UTC))
    except EcomflowError as error:
        return error


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
        self._silent: tuple[str, ...] = ()
        self._backlog_due = self._services_due = -math.inf

    def read(self) -> PipelineMetrics:
        """The current metrics. ``state`` says if no pipeline runs, and ``backlog_unknown`` why the backlog can't be counted.

        Raises AccessError, UnavailableError and PipelineError if the pipeline's own state can't be read.
        """
        metrics = self._read_here() if self._here else self._read_job()
        now = self._clock()
        if self._steady() >= self._backlog_due:
            self._backlog = self._read_backlog(now)
        return with_backlog(metrics, self._backlog, now)

    def _read_here(self) -> PipelineMetrics:
        status, now = read_status(self._settings.state_path), Moment(self._clock(), self._steady())
        if now.steady >= self._services_due:
            with suppress(EcomflowError):  # an unreadable stack file, which is the reason why the backlog is unknown
                self._silent = silent_services(self._target())
            self._services_due = now.steady + _SERVICES_SECONDS
        return msgspec.structs.replace(metrics_here(status, self._contracts, now), silent_services=self._silent)

    def _read_job(self) -> PipelineMetrics:
        from ecomflow.jobs import service
        from ecomflow.jobs.client import JobsApi

        target = self._target()
        job = _job_of(target, self._job)
        if job is None:
            known = {"at": self._clock(), "state": "none", "where": self._settings.region, "name": f"job {self._job}"}
            return from_counters({}, {}, self._contracts, **known)
        return dataflow_metrics(service.detail(JobsApi(target), job), self._contracts, self._clock())

    def _read_backlog(self, now: float) -> Backlog | EcomflowError | None:
        try:
            target = self._target()
        except EcomflowError as error:
            return error
        if target.endpoints.pubsub is None and not self._settings.is_local:
            self._backlog_due = self._steady() + _CLOUD_BACKLOG_SECONDS
        return backlog_of(target, now)
