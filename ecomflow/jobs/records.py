"""Records about a job, made from the Dataflow API or from the local pipeline's files, and used by the commands.

States are Dataflow's in lower case without JOB_STATE_ (running, draining, drained, ...); the local pipeline has two more: gone
(it was killed) and none.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

Level = Literal["debug", "detailed", "basic", "warning", "error"]

# https://cloud.google.com/dataflow/docs/reference/rest/v1b3/projects.jobs#jobstate
TERMINAL = frozenset({"done", "failed", "cancelled", "updated", "drained"})


class Job(msgspec.Struct, frozen=True):
    """A job. ``age_seconds``: since creation; ``kind``: streaming or batch; ``region``: local for the one on this machine.

    ``condition``: the name of its Condition (``metrics.history``); on Dataflow the state, because a list has no metrics.
    """

    id: str
    name: str
    state: str
    kind: str
    region: str
    condition: str
    created: datetime | None = None
    state_since: datetime | None = None
    age_seconds: float | None = None
    labels: dict[str, str] = {}


class JobMessage(msgspec.Struct, frozen=True):
    """A message of the Dataflow service about a job. The workers' own logs are in Cloud Logging."""

    time: datetime
    level: Level
    text: str


class Metrics(msgspec.Struct, frozen=True):
    """``own``: ecomflow's counters, summed over the steps. ``system``: all others, by name and the step they belong to."""

    own: dict[str, int]
    system: dict[str, float]


class JobDetail(msgspec.Struct, frozen=True):
    """A job and its condition; None: Dataflow has not reported a value.

    ``events_per_second``: the counter ``received`` over ``throughput_seconds``. ``system_lag_seconds`` and
    ``data_freshness_seconds``: how far the oldest system and data watermarks of its stages are behind the clock. ``updated_at``:
    when Dataflow last updated any of the job's metrics.
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
    updated_at: datetime | None = None


class StepFit(msgspec.Struct, frozen=True):
    """A step of the running job and its replacement in the new graph. ``new`` None: missing; ``running`` None: added."""

    running: str | None
    new: str | None


class UpdatePlan(msgspec.Struct, frozen=True):
    """What an update would send. ``steps`` is empty if Dataflow returns no steps of the job, so that only it can compare them."""

    job: Job
    mapping: dict[str, str]
    steps: tuple[StepFit, ...]
