"""Provisioning of topic, subscription, bucket, dataset, tables and views: plan, apply, status, down.

Functions return records and print nothing. They import Google's clients when called, so that importing this package is cheap. All
raise AccessError, UnavailableError, ConfigError, or NotFoundError for a project that does not exist.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from ecomflow.errors import NotFoundError, SchemaError, UnavailableError
from ecomflow.gcp.lookalikes import remedy_for_missing
from ecomflow.gcp.target import Target
from ecomflow.infra.differences import Difference, Plan, Step, compare, plan_step, plan_steps, stops_pipeline, tell
from ecomflow.infra.ownership import check_owner, with_owner
from ecomflow.infra.resources import (
    Kind,
    Resource,
    Table,
    apis,
    dead_letter_subscription,
    dead_letter_topic,
    dead_letters_table,
    desired,
)
from ecomflow.infra.roles import Grant, job_grants

if TYPE_CHECKING:
    from ecomflow.infra.changes import Removal

__all__ = [
    "Difference",
    "Grant",
    "Plan",
    "ResourceStatus",
    "Step",
    "apply",
    "check_owner",
    "check_tables",
    "down",
    "job_grants",
    "plan",
    "status",
]

T = TypeVar("T")

_PROPAGATION_SECONDS = 180.0

_STATES: dict[str, Literal["missing", "drifted", "exists"]] = {
    "create": "missing",
    "change": "drifted",
    "refuse": "drifted",
    "keep": "exists",
}


class ResourceStatus(msgspec.Struct, frozen=True):
    """The state of one resource. ``rows`` only for an existing table; ``detail`` describes the drift, else it is empty."""

    kind: Kind
    name: str
    state: Literal["exists", "missing", "drifted"]
    rows: int | None
    detail: str


def plan(target: Target) -> Plan:
    """What ``apply`` would do: a step for each resource, preceded on Google Cloud by a step for the APIs. Changes nothing."""
    from ecomflow.infra.observe import observe
    from ecomflow.infra.services import has_apis, observe_apis

    _require_usable(target, target.endpoints.pubsub, target.endpoints.storage, target.endpoints.bigquery)
    if not has_apis(target):
        return _steps(target, observe(target))
    step = plan_step(apis(target.settings), observe_apis(target.settings))
    live = observe(target, frozenset(difference.attribute for difference in step.differences))
    return Plan((step, *_steps(target, live).steps))


def apply(
    target: Target,
    plan: Plan,
    on_progress: Callable[[Step], None] | None = None,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Plan:
    """Carries out ``plan`` and returns the steps that changed something.

    ``on_progress`` is called after each step, also if it had nothing to do, with the step as it was carried out: a service that
    takes no such retention keeps messages for a shorter time, which its differences then say. A resource that another run has
    created meanwhile counts as created. If APIs had to be enabled, the rest is planned again, because the resources of a disabled
    service can't be seen; and each step is retried for minutes while Google still reports an API as disabled, because a service
    that can be read may not accept changes yet. Raises SchemaError, before anything else is changed, if a step of the plan is not
    possible.
    """
    from ecomflow.infra.changes import carry_out

    _require_usable(target, target.endpoints.pubsub, target.endpoints.storage, target.endpoints.bigquery)
    _raise_refusals(plan)
    report = on_progress or (lambda step: None)
    done: list[Step] = []
    steps, give_up = plan.steps, None
    if steps and steps[0].kind == "apis" and steps[0].action == "change":
        done.append(carry_out(steps[0], target))
        report(done[0])
        give_up = clock() + _PROPAGATION_SECONDS
        steps = _once_enabled(lambda: _steps_after_enabling(target), give_up, sleep, clock)
    for step in steps:
        done.append(_once_enabled(partial(carry_out, step, target), give_up, sleep, clock))
        report(done[-1])
    return Plan(tuple(step for step in done if step.action != "keep"))


def status(target: Target) -> tuple[ResourceStatus, ...]:
    """The state of every resource, in the order of creation."""
    return tuple(_status(step, target) for step in plan(target).steps)


def down(target: Target, *, with_data: bool) -> tuple[Removal, ...]:
    """Deletes the pipeline's subscription and topic, with their messages; everything else only ``with_data``.

    Messages on the dead-letter topic count as data. A dataset or bucket that contains anything that is not ecomflow's is kept,
    and its Removal says so. APIs stay enabled, because others may use them.
    """
    from ecomflow.infra.changes import Removal, remove_bucket, remove_subscription, remove_topic, remove_warehouse
    from ecomflow.infra.observe import observe

    settings = target.settings
    _require_usable(target, target.endpoints.pubsub, target.endpoints.storage, target.endpoints.bigquery)
    present = observe(target)
    removals = (
        remove_subscription(settings.subscription_path, target),
        remove_topic(settings.topic_path, target),
    )
    if not with_data:
        data = [step for step in plan_steps(_wanted(target), {}).steps if step.name not in {gone.name for gone in removals}]
        return (*removals, *(Removal(step.kind, step.name, "kept", "it contains data") for step in data if step.name in present))
    return (
        *removals,
        remove_subscription(dead_letter_subscription(settings), target),
        remove_topic(dead_letter_topic(settings), target),
        *remove_warehouse(present, target),
        remove_bucket(target),
    )


def check_tables(target: Target) -> None:
    """Checks that every fact table exists, and differs in nothing from its DDL that stops a pipeline.

    Five parallel requests: cheap enough before a pipeline starts, and again when an append fails. Raises NotFoundError with the
    missing tables, or SchemaError with each such difference, as it is and as expected.
    """
    from ecomflow.infra.observe import observe_tables

    _require_usable(target, target.endpoints.bigquery)
    live = observe_tables(target)
    tables = [resource for resource in desired(target.settings) if isinstance(resource, Table)]
    if missing := [table.name for table in tables if table.name not in live]:
        sentence = f"Table {missing[0]} does" if len(missing) == 1 else f"Tables {', '.join(missing)} do"
        raise NotFoundError(f"{sentence} not exist.", remedy_for_missing(target, "dataset"))
    found = [(table.name, difference) for table in tables for difference in compare(table, live[table.name])]
    if wrong := [f"{name}: {tell(difference)}" for name, difference in found if stops_pipeline(difference, for_dataflow=False)]:
        raise SchemaError(
            f"The tables differ from their DDL. {'; '.join(wrong)}.", "To see what can be changed, run: ecomflow infra plan"
        )


def _steps(target: Target, live: Mapping[str, Resource]) -> Plan:
    wanted = _wanted(target)
    return plan_steps(tuple(with_owner(resource, live.get(resource.name), target.settings) for resource in wanted), live)


def _wanted(target: Target) -> tuple[Resource, ...]:
    external = () if target.endpoints.bigquery is not None else (dead_letters_table(target.settings),)
    return (*desired(target.settings), *external)


def _require_usable(target: Target, *used: str | None) -> None:
    """Checks that the endpoints work: the local stack runs, or Google's credentials are valid."""
    if None not in used:
        return
    if target.settings.is_local:
        raise UnavailableError("The local stack is not running.", "Run: ecomflow infra up")
    from ecomflow.gcp.credentials import find_credentials

    find_credentials(target.settings.project_id)


def _steps_after_enabling(target: Target) -> tuple[Step, ...]:
    """The steps for everything but the APIs."""
    from ecomflow.infra.observe import observe

    rest = _steps(target, observe(target))
    _raise_refusals(rest)
    return rest.steps


def _once_enabled(work: Callable[[], T], give_up: float | None, sleep: Callable[[float], None], clock: Callable[[], float]) -> T:
    """The result of ``work``, retried until ``give_up`` (None: no retry) while Google reports a just enabled API as disabled."""
    from ecomflow.gcp.errors import DisabledApiError

    while True:
        try:
            return work()
        except DisabledApiError:
            if give_up is None or clock() > give_up:
                raise
        sleep(5.0)


def _raise_refusals(plan: Plan) -> None:
    refused = [(step, difference) for step in plan.steps for difference in step.differences if difference.how == "refuse"]
    if refused:
        sentences = "; ".join(f"{step.kind} {step.name}: {tell(difference)}" for step, difference in refused)
        remedies = dict.fromkeys(difference.remedy for _, difference in refused if difference.remedy)
        raise SchemaError(f"Nothing was changed, because this change is not possible: {sentences}.", "\n".join(remedies))


def _status(step: Step, target: Target) -> ResourceStatus:
    from ecomflow.infra.observe import observe_rows

    rows = observe_rows(step.name, target) if step.kind == "table" and step.action != "create" else None
    detail = "" if step.action == "create" else "; ".join(map(tell, step.differences))
    return ResourceStatus(step.kind, step.name, _STATES[step.action], rows, detail)
