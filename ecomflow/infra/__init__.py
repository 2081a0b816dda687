"""Topic, subscription, bucket, dataset, tables and views: what exists, what should, and the steps between.

Settings and endpoints flow in, records flow out; nothing is printed. Google's clients are imported when a function is called, so
that importing this package is cheap. Every function raises AccessError, UnavailableError, ConfigError, or NotFoundError for a
project that does not exist.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from ecomflow.config import Endpoints, Settings
from ecomflow.errors import NotFoundError, SchemaError, UnavailableError
from ecomflow.infra.differences import Difference, Plan, Step, compare_columns, plan_step, plan_steps, tell
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
    "check_bucket",
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
    """One resource as it stands. ``rows`` only for a table that exists; ``detail`` says how it drifted, else it is empty."""

    kind: Kind
    name: str
    state: Literal["exists", "missing", "drifted"]
    rows: int | None
    detail: str


def plan(settings: Settings, endpoints: Endpoints) -> Plan:
    """What ``apply`` would do, a step for each resource, in a project at Google after one for its APIs. Changes nothing."""
    from ecomflow.infra.observe import observe
    from ecomflow.infra.services import has_apis, observe_apis

    _require_target(settings, endpoints.pubsub, endpoints.storage, endpoints.bigquery)
    if not has_apis(settings, endpoints):
        return plan_steps(_wanted(settings, endpoints), observe(settings, endpoints))
    step = plan_step(apis(settings), observe_apis(settings))
    live = observe(settings, endpoints, frozenset(difference.attribute for difference in step.differences))
    return Plan((step, *plan_steps(_wanted(settings, endpoints), live).steps))


def apply(
    settings: Settings,
    endpoints: Endpoints,
    plan: Plan,
    on_progress: Callable[[Step], None] | None = None,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Plan:
    """Carries ``plan`` out and returns the steps that did something: none when everything was there.

    ``on_progress`` is called after each step, also one with nothing to do. A resource that another run made meanwhile counts as
    made. Where APIs had to be enabled, the rest is planned again, for what a disabled service holds can't be seen; and each step
    is tried again for minutes while Google still says that an API is disabled, for one that can be read may not take changes yet.
    Raises SchemaError, before anything else is changed, where the plan has a step that can't be made.
    """
    from ecomflow.infra.changes import carry_out

    _require_target(settings, endpoints.pubsub, endpoints.storage, endpoints.bigquery)
    _raise_refusals(plan)
    report = on_progress or (lambda step: None)
    done: list[Step] = []
    steps, give_up = plan.steps, None
    if steps and steps[0].kind == "apis" and steps[0].action == "change":
        carry_out(steps[0], settings, endpoints)
        report(steps[0])
        done.append(steps[0])
        give_up = clock() + _PROPAGATION_SECONDS
        steps = _once_enabled(lambda: _steps_after_enabling(settings, endpoints), give_up, sleep, clock)
    for step in steps:
        _once_enabled(partial(carry_out, step, settings, endpoints), give_up, sleep, clock)
        report(step)
    return Plan((*done, *(step for step in steps if step.action != "keep")))


def status(settings: Settings, endpoints: Endpoints) -> tuple[ResourceStatus, ...]:
    """Every resource, in the order in which they are made."""
    return tuple(_status(step, settings, endpoints) for step in plan(settings, endpoints).steps)


def down(settings: Settings, endpoints: Endpoints, *, with_data: bool) -> tuple[Removal, ...]:
    """Deletes the pipeline's subscription and the topic with the messages in them; all else only ``with_data``.

    Dead-lettered messages count as data. A dataset or bucket that holds something that is not ecomflow's is kept, and its Removal
    says so. APIs stay enabled: others may use them.
    """
    from ecomflow.infra.changes import Removal, remove_bucket, remove_subscription, remove_topic, remove_warehouse
    from ecomflow.infra.observe import observe

    _require_target(settings, endpoints.pubsub, endpoints.storage, endpoints.bigquery)
    present = set(observe(settings, endpoints))
    removals = (
        remove_subscription(settings.subscription_path, settings, endpoints),
        remove_topic(settings.topic_path, settings, endpoints),
    )
    if not with_data:
        data = [
            step
            for step in plan_steps(_wanted(settings, endpoints), {}).steps
            if step.name not in {gone.name for gone in removals}
        ]
        return (*removals, *(Removal(step.kind, step.name, "kept", "it holds data") for step in data if step.name in present))
    return (
        *removals,
        remove_subscription(dead_letter_subscription(settings), settings, endpoints),
        remove_topic(dead_letter_topic(settings), settings, endpoints),
        *remove_warehouse(present, settings, endpoints),
        remove_bucket(settings, endpoints),
    )


def check_bucket(settings: Settings, endpoints: Endpoints) -> None:
    """That the bucket is not another project's, before anything is written to it. Raises AccessError."""
    from ecomflow.infra.changes import check_bucket as check
    from ecomflow.infra.services import has_project_policy

    if has_project_policy(settings, endpoints):
        check(settings, endpoints)


def check_tables(settings: Settings, endpoints: Endpoints) -> None:
    """That every fact table is there with the columns that its DDL gives; an extra nullable column does no harm.

    Five requests at once: cheap enough to ask before a pipeline starts, and again when an append fails. Raises NotFoundError that
    names the missing tables, or SchemaError that names each column that differs, as it is and as it should be.
    """
    from ecomflow.infra.observe import observe_tables

    _require_target(settings, endpoints.bigquery)
    live = observe_tables(settings, endpoints)
    tables = [resource for resource in desired(settings) if isinstance(resource, Table)]
    if missing := [table.name for table in tables if table.name not in live]:
        sentence = f"Table {missing[0]} does" if len(missing) == 1 else f"Tables {', '.join(missing)} do"
        raise NotFoundError(f"{sentence} not exist.", "Run: ecomflow infra up")
    found = [(table.name, compare_columns(table.name, table.columns, live[table.name].columns)) for table in tables]
    if wrong := [
        f"{name}: {tell(difference)}" for name, differences in found for difference in differences if difference.how != "note"
    ]:
        raise SchemaError(
            f"The tables are not as their DDL has them. {'; '.join(wrong)}.", "See what can be done with: ecomflow infra plan"
        )


def _wanted(settings: Settings, endpoints: Endpoints) -> tuple[Resource, ...]:
    external = () if endpoints.bigquery is not None else (dead_letters_table(settings),)
    return (*desired(settings), *external)


def _require_target(settings: Settings, *used: str | None) -> None:
    """That there is something to speak to at the endpoints used: the local stack, or Google with credentials that work."""
    if None not in used:
        return
    if settings.is_local:
        raise UnavailableError("The local stack does not run.", "Run: ecomflow infra up")
    from ecomflow.gcp.credentials import find_credentials

    find_credentials(settings.project_id)


def _steps_after_enabling(settings: Settings, endpoints: Endpoints) -> tuple[Step, ...]:
    """The steps for all but the APIs."""
    from ecomflow.infra.observe import observe

    rest = plan_steps(_wanted(settings, endpoints), observe(settings, endpoints))
    _raise_refusals(rest)
    return rest.steps


def _once_enabled(work: Callable[[], T], give_up: float | None, sleep: Callable[[float], None], clock: Callable[[], float]) -> T:
    """What ``work`` returns, tried again until ``give_up`` while Google says that an API just enabled is not; None: none was."""
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
        raise SchemaError(f"Nothing was changed, for this can't be: {sentences}.", "\n".join(remedies))


def _status(step: Step, settings: Settings, endpoints: Endpoints) -> ResourceStatus:
    from ecomflow.infra.observe import observe_rows

    rows = observe_rows(step.name, settings, endpoints) if step.kind == "table" and step.action != "create" else None
    detail = "" if step.action == "create" else "; ".join(map(tell, step.differences))
    return ResourceStatus(step.kind, step.name, _STATES[step.action], rows, detail)
