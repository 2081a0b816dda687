"""A running job and the new graph in; the planned update, and then the replacing job, out.

An update replaces a running job, and Dataflow matches the steps of both by name. This module compares the outermost names, the
labels of ``pipeline.graph``. Dataflow itself checks what is inside a step; if it refuses, the old job continues.
https://cloud.google.com/dataflow/docs/guides/updating-a-pipeline
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ecomflow.config import Settings
from ecomflow.errors import ConfigError, PipelineError
from ecomflow.gcp.target import Target
from ecomflow.jobs.client import JobsApi
from ecomflow.jobs.records import Job, StepFit, UpdatePlan
from ecomflow.jobs.service import Sleep, drain, named, wait_for

if TYPE_CHECKING:
    from ecomflow.pipeline.dataflow.submit import SubmittedJob


def plan_update(api: JobsApi, job: Job, new_steps: Iterable[str], mapping: Mapping[str, str]) -> UpdatePlan:
    """What an update of ``job`` would send; ``mapping`` maps names of its steps to names of new steps.

    Raises PipelineError if the job is not running (Beam's client would look for it forever), ConfigError if ``mapping`` names an
    unknown step.
    """
    if job.state != "running":
        remedy = "Start it with: ecomflow deploy" if job.state != "pending" else "Wait until it runs, then try again."
        raise PipelineError(f"{named(job)} is {job.state}: only a running job can be updated.", remedy)
    running, new = _running_steps(api.job(job.id)), _labels(new_steps)
    _check_mapping(mapping, running, new)
    fits = [StepFit(step, _fit(step, mapping, new)) for step in running]
    taken = {fit.new for fit in fits}
    added = [StepFit(None, step) for step in new if step not in taken] if running else []
    return UpdatePlan(job, dict(mapping), (*fits, *added))


def missing_steps(plan: UpdatePlan) -> tuple[str, ...]:
    """The running job's steps that have no counterpart in the new graph."""
    return tuple(step.running for step in plan.steps if step.running is not None and step.new is None)


def check_fit(plan: UpdatePlan) -> None:
    """Raise PipelineError if a step of the running job, and its state, would be lost."""
    if missing := missing_steps(plan):
        names = ", ".join(f"'{name}'" for name in missing)
        raise PipelineError(
            f"{named(plan.job)} can't be updated: the new graph has no step for {names}.",
            "Map it with --map 'OLD=NEW', or drain the job and start a new one: ecomflow job update --drain-and-replace",
        )


def send_update(target: Target, plan: UpdatePlan, extra: Sequence[str] = ()) -> SubmittedJob:
    """Submit the new graph as a replacement for the running job."""
    from ecomflow.pipeline.dataflow import submit

    return submit.submit(target, extra=extra, update=True, transform_name_mapping=plan.mapping)


def drain_and_replace(
    api: JobsApi,
    target: Target,
    job: Job,
    timeout: float,
    extra: Sequence[str] = (),
    *,
    sleep: Sleep = time.sleep,
) -> SubmittedJob:
    """Drain ``job``, wait until it is drained, and submit the new graph as a new job. Meanwhile messages wait in Pub/Sub.

    Invalid options are refused before the drain (ConfigError). Nothing is submitted if the drain fails or takes longer than
    ``timeout`` seconds (PipelineError).
    """
    from ecomflow.pipeline.dataflow import submit

    submit.check(target, extra)
    wait_for(api, drain(api, job), "drained", timeout, sleep=sleep)
    return submit.submit(target, extra=extra, update=False)


def graph_steps(settings: Settings, extra: Sequence[str] = ()) -> tuple[str, ...]:
    """The labels of the graph that this version of ecomflow would submit. Raises ConfigError for invalid options."""
    from ecomflow.pipeline.dataflow.submit import dry_run
    from ecomflow.pipeline.tree import step_names

    return _labels(step_names(dry_run(settings, extra).graph))


def _running_steps(raw: Any) -> tuple[str, ...]:
    names = (transform.name for transform in raw.pipeline_description.original_pipeline_transform)
    return _labels(names)


def _labels(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(_label, names)))


def _label(name: str) -> str:
    return name.partition("/")[0]


def _fit(step: str, mapping: Mapping[str, str], new: Sequence[str]) -> str | None:
    wanted = _label(mapping.get(step, step))
    return wanted if wanted in new else None


def _check_mapping(mapping: Mapping[str, str], running: Sequence[str], new: Sequence[str]) -> None:
    for old, later in mapping.items():
        if running and _label(old) not in running:
            raise ConfigError(f"The running job has no step '{old}'.", f"It has: {', '.join(running)}.")
        if _label(later) not in new:
            raise ConfigError(f"The new graph has no step '{later}'.", f"It has: {', '.join(new)}.")
