"""Topic, subscription, bucket, dataset, tables and views: what exists, what should, and the steps between.

Settings and endpoints flow in, records flow out; nothing is printed. Google's clients are imported when a function is called, so
that importing this package is cheap. Every function raises AccessError, UnavailableError, ConfigError, or NotFoundError for a
project that does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import msgspec

from ecomflow.config import Endpoints, Settings
from ecomflow.errors import NotFoundError, SchemaError, UnavailableError
from ecomflow.infra.differences import Difference, Plan, Step, compare_columns, plan_steps
from ecomflow.infra.resources import Kind, Table, desired

if TYPE_CHECKING:
    from ecomflow.infra.changes import Removal

__all__ = ["Difference", "Plan", "ResourceStatus", "Step", "apply", "check_tables", "down", "plan", "status"]

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
    """What ``apply`` would do, a step for each resource. Changes nothing."""
    from ecomflow.infra.observe import observe

    _require_stack(settings, endpoints)
    return plan_steps(desired(settings), observe(settings, endpoints))


def apply(settings: Settings, endpoints: Endpoints, plan: Plan, on_progress: Callable[[Step], None] | None = None) -> Plan:
    """Carries ``plan`` out and returns the steps that did something: none when everything was there.

    ``on_progress`` is called after each step, also one with nothing to do. A resource that another run made meanwhile counts as
    made. Raises SchemaError, before anything is changed, where the plan has a step that can't be made.
    """
    from ecomflow.infra.changes import carry_out

    _require_stack(settings, endpoints)
    _raise_refusals(plan)
    for step in plan.steps:
        carry_out(step, settings, endpoints)
        if on_progress is not None:
            on_progress(step)
    return Plan(tuple(step for step in plan.steps if step.action != "keep"))


def status(settings: Settings, endpoints: Endpoints) -> tuple[ResourceStatus, ...]:
    """Every resource, in the order in which they are made."""
    return tuple(_status(step, settings, endpoints) for step in plan(settings, endpoints).steps)


def down(settings: Settings, endpoints: Endpoints, *, with_data: bool) -> tuple[Removal, ...]:
    """Deletes the subscription and the topic with the messages in them; tables, dataset and bucket only ``with_data``.

    A dataset or bucket that holds something that is not ecomflow's is kept, and its Removal says so.
    """
    from ecomflow.infra.changes import Removal, remove_bucket, remove_messaging, remove_warehouse
    from ecomflow.infra.observe import observe

    _require_stack(settings, endpoints)
    present = set(observe(settings, endpoints))
    removals = remove_messaging(settings, endpoints)
    if with_data:
        return (*removals, *remove_warehouse(present, settings, endpoints), remove_bucket(settings, endpoints))
    data = [step for step in plan_steps(desired(settings), {}).steps if step.kind not in ("topic", "subscription")]
    return (*removals, *(Removal(step.kind, step.name, "kept", "it holds data") for step in data if step.name in present))


def check_tables(settings: Settings, endpoints: Endpoints) -> None:
    """That every fact table is there with the columns that its DDL gives; an extra nullable column does no harm.

    Five requests at once: cheap enough to ask before a pipeline starts, and again when an append fails. Raises NotFoundError that
    names the missing tables, or SchemaError that names each column that differs, as it is and as it should be.
    """
    from ecomflow.infra.observe import observe_tables

    _require_stack(settings, endpoints)
    live = observe_tables(settings, endpoints)
    tables = [resource for resource in desired(settings) if isinstance(resource, Table)]
    if missing := [table.name for table in tables if table.name not in live]:
        sentence = f"Table {missing[0]} does" if len(missing) == 1 else f"Tables {', '.join(missing)} do"
        raise NotFoundError(f"{sentence} not exist.", "Run: ecomflow infra up")
    found = [(table.name, compare_columns(table.name, table.columns, live[table.name].columns)) for table in tables]
    if wrong := [
        f"{name}: {_tell(difference)}" for name, differences in found for difference in differences if difference.how != "note"
    ]:
        raise SchemaError(
            f"The tables are not as their DDL has them. {'; '.join(wrong)}.", "See what can be done with: ecomflow infra plan"
        )


def _require_stack(settings: Settings, endpoints: Endpoints) -> None:
    """Without a project and without an endpoint, Google's clients would speak to Google Cloud."""
    if settings.is_local and None in (endpoints.pubsub, endpoints.storage, endpoints.bigquery):
        raise UnavailableError("The local stack does not run.", "Run: ecomflow infra up")


def _harmful(table: Table, live: Table) -> list[Difference]:
    return [difference for difference in compare_columns(table.name, table.columns, live.columns) if difference.how != "note"]


def _raise_refusals(plan: Plan) -> None:
    refused = [(step, difference) for step in plan.steps for difference in step.differences if difference.how == "refuse"]
    if refused:
        sentences = "; ".join(f"{step.kind} {step.name}: {_tell(difference)}" for step, difference in refused)
        remedies = dict.fromkeys(difference.remedy for _, difference in refused if difference.remedy)
        raise SchemaError(f"Nothing was changed, for this can't be: {sentences}.", "\n".join(remedies))


def _status(step: Step, settings: Settings, endpoints: Endpoints) -> ResourceStatus:
    from ecomflow.infra.observe import observe_rows

    rows = observe_rows(step.name, settings, endpoints) if step.kind == "table" and step.action != "create" else None
    return ResourceStatus(step.kind, step.name, _STATES[step.action], rows, "; ".join(map(_tell, step.differences)))


def _tell(difference: Difference) -> str:
    """``column quantity is STRING, expected INT64 NOT NULL``."""
    live = "is missing" if difference.live is None else f"is {difference.live}"
    return f"{difference.attribute} {live}, expected {difference.wanted or 'none'}"
