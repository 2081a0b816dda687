"""What is known of a job: records that flow from the Dataflow API, or from the local pipeline's files, to the commands.

States are Dataflow's in lower case without JOB_STATE_ (running, draining, drained, ...); the local pipeline has its own besides:
gone (it was killed) and none.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

Level = Literal["debug", "detailed", "basic", "warning", "error"]

# https://cloud.google.com/dataflow/docs/reference/rest/v1b3/projects.jobs#jobstate
TERMINAL = frozenset({"done", "failed", "cancelled", "updated", "drained"})


class Job(msgspec.Struct, frozen=True):
    """A job. ``age_seconds`` since it was created; ``kind`` streaming or batch; ``region`` local for the one on this machine."""

    id: str
    name: str
    state: str
    kind: str
    region: str
    created: datetime | None = None
    state_since: datetime | None = None
    age_seconds: float | None = None
    labels: dict[str, str] = {}


class JobMessage(msgspec.Struct, frozen=True):
    """What the Dataflow service says of a job. The workers' own logs are in Cloud Logging."""

    time: datetime
    level: Level
    text: str


class Metrics(msgspec.Struct, frozen=True):
    """``own``: ecomflow's counters, summed over the steps. ``system``: all others, by name and what they belong to."""

    own: dict[str, int]
    system: dict[str, float]


class JobDetail(msgspec.Struct, frozen=True):
    """A job and how it fares; None where Dataflow does not tell (yet).

    ``events_per_second``: the counter ``received`` over ``throughput_seconds``. ``system_lag_seconds`` and
    ``data_freshness_seconds``: how far the oldest system and data watermark of its stages are behind the clock. ``told_at``: when
    Dataflow last brought any of the job's metrics up to date.
    """

    job: Job
    workers: int | None
    target_workers: int | None
    events_per_second: float | None
    throughput_seconds: float | None
    system_lag_seconds: float | None
    data_freshness_seconds: float | None
    counters: dict[str, int]
    errors: tuple[JobMessage, ...]
    told_at: datetime | None = None


class StepFit(msgspec.Struct, frozen=True):
    """A step of the running job and the step of the new graph that takes its place; None: there is none, or it is new."""

    running: str | None
    new: str | None


class UpdatePlan(msgspec.Struct, frozen=True):
    """What an update would send. ``steps`` is empty where Dataflow describes no steps of the job, so that only it can judge."""

    job: Job
    mapping: dict[str, str]
    steps: tuple[StepFit, ...]
