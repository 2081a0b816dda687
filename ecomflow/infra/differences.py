"""What should exist and what does flow in; the steps between them flow out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ecomflow.infra.resources import KINDS, Apis, ExternalTable, Kind, Resource, Subscription, Table, View
from ecomflow.sql import Column


class Difference(msgspec.Struct, frozen=True):
    """One attribute or column that is not as it should be.

    ``how``: ``add`` and ``change`` can be made; ``note`` is harmless and left as it is; ``refuse`` can't be made, and ``remedy``
    says what to do instead. ``live`` None: not there; ``wanted`` None: not asked for.
    """

    attribute: str
    live: str | None
    wanted: str | None
    how: Literal["add", "change", "note", "refuse"]
    remedy: str | None = None


class Step(msgspec.Struct, frozen=True):
    """What ``up`` does, or would do, to one resource, and why. The differences of a ``create`` are all that it gets."""

    kind: Kind
    name: str
    action: Literal["create", "change", "keep", "refuse"]
    differences: tuple[Difference, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """One step for each resource, in the order in which they are carried out."""

    steps: tuple[Step, ...]


def plan_steps(wanted: tuple[Resource, ...], live: Mapping[str, Resource]) -> Plan:
    """The steps from ``live``, by name, to ``wanted``."""
    return Plan(tuple(plan_step(resource, live.get(resource.name)) for resource in wanted))


def plan_step(wanted: Resource, live: Resource | None) -> Step:
    """The step for one resource; ``live`` None: it isn't there."""
    kind = KINDS[type(wanted)]
    if live is None:
        return Step(kind, wanted.name, "create", _additions(wanted))
    if isinstance(wanted, Apis) and isinstance(live, Apis):
        disabled = _disabled_apis(wanted, live)
        return Step(kind, wanted.name, "change" if disabled else "keep", disabled)
    differences = compare_attributes(wanted, live)
    if isinstance(wanted, Table) and isinstance(live, Table):
        differences += compare_columns(wanted.name, wanted.columns, live.columns)
    elif isinstance(wanted, View) and isinstance(live, View):
        differences += _stale_columns(wanted, live)
    hows = {difference.how for difference in differences}
    if "refuse" in hows:
        return Step(kind, wanted.name, "refuse", differences)
    return Step(kind, wanted.name, "change" if hows & {"add", "change"} else "keep", differences)


def _disabled_apis(wanted: Apis, live: Apis) -> tuple[Difference, ...]:
    if wanted.enabled is None or live.enabled is None:
        return ()
    return tuple(Difference(api, "disabled", "enabled", "change") for api in wanted.enabled if api not in live.enabled)


def _additions(wanted: Resource) -> tuple[Difference, ...]:
    """Every attribute and column that says anything of a resource that isn't there; a view's columns are those of its table."""
    attributes = [name for name in wanted.__struct_fields__ if name not in ("name", "columns", "query", "owner")]
    values = [(name, getattr(wanted, name)) for name in attributes]
    columns = wanted.columns if isinstance(wanted, Table) else ()
    return (
        *(Difference(f"column {column.name}", None, describe(column), "add") for column in columns),
        *(Difference(name, None, _show(value), "add") for name, value in values if value not in ("", (), 0, None)),
    )


def compare_attributes(wanted: Resource, live: Resource) -> tuple[Difference, ...]:
    """The attributes, columns apart, that the service reports and that differ."""
    attributes = [attribute for attribute in wanted.__struct_fields__ if attribute not in ("name", "columns", "labels")]
    pairs = [(attribute, getattr(live, attribute), getattr(wanted, attribute)) for attribute in attributes]
    return tuple(
        _difference(wanted, attribute, before, after)
        for attribute, before, after in pairs
        if before is not None and before != after
    ) + _missing_labels(wanted, live)


def _missing_labels(wanted: Resource, live: Resource) -> tuple[Difference, ...]:
    """Labels of others are left alone."""
    if isinstance(wanted, Apis) or isinstance(live, Apis) or live.labels is None or set(wanted.labels or ()) <= set(live.labels):
        return ()
    return (Difference("labels", _show(live.labels), _show(wanted.labels), "change"),)


def compare_columns(table: str, wanted: tuple[Column, ...], live: tuple[Column, ...]) -> tuple[Difference, ...]:
    """The columns of ``table`` that differ, by name: BigQuery puts an added column last, wherever the DDL has it."""
    lives = {column.name: column for column in live}
    wanteds = {column.name: column for column in wanted}
    both = [(lives[name], column) for name, column in wanteds.items() if name in lives]
    missing = tuple(_missing_column(table, column) for name, column in wanteds.items() if name not in lives)
    changed = tuple(_changed_column(table, before, after) for before, after in both if describe(before) != describe(after))
    extra = tuple(_extra_column(table, column) for name, column in lives.items() if name not in wanteds)
    return missing + changed + extra


def _stale_columns(wanted: View, live: View) -> tuple[Difference, ...]:
    """BigQuery goes on showing the columns that a view was made with, until it is made again."""
    missing = sorted(set(wanted.columns) - set(live.columns))
    return tuple(Difference(f"column {name}", None, "as in its table", "add") for name in missing)


def describe(column: Column) -> str:
    """A column's type and mode as its DDL has them: ``INT64 NOT NULL``."""
    return f"{column.type} NOT NULL" if column.required else column.type


def tell(difference: Difference) -> str:
    """``column quantity is STRING, expected INT64 NOT NULL``."""
    live = "is missing" if difference.live is None else f"is {difference.live}"
    return f"{difference.attribute} {live}, expected {difference.wanted or 'none'}"


def _difference(wanted: Resource, attribute: str, before: Any, after: Any) -> Difference:
    remedy = _remedy(wanted, attribute, _show(before))
    return Difference(attribute, _show(before), _show(after), "change" if remedy is None else "refuse", remedy)


def _remedy(wanted: Resource, attribute: str, live: str) -> str | None:
    """What to do about an attribute that is fixed when the resource is made; None for one that can be changed."""
    if attribute == "location":
        return f"A location is fixed for good: set location to {live}, or name another {KINDS[type(wanted)]} in the settings."
    if attribute == "owner":
        return "Somebody else may read what is written to it: set bucket in ecomflow.toml, or ECOMFLOW_BUCKET, to another name."
    if attribute == "partition":
        return f"Partitioning is fixed for good: copy the rows of {wanted.name} elsewhere, drop it, and run: ecomflow infra up"
    if isinstance(wanted, ExternalTable) and live == "none":
        return f"{wanted.name} is a table of another kind: give it another name, or drop it, and run: ecomflow infra up"
    if isinstance(wanted, Subscription) and attribute in ("topic", "filter", "delivery"):
        fixed = "delivery may be in use by others" if attribute == "delivery" else f"{attribute} is fixed for good"
        return (
            f"A subscription's {fixed}: name another subscription in the settings, or delete this one with"
            f" what it holds: gcloud pubsub subscriptions delete {wanted.name}"
        )
    return None


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{part[0]} {part[1]} days" if isinstance(part, tuple) else str(part) for part in value) or "none"
    return str(value) if value != "" else "none"


def _missing_column(table: str, column: Column) -> Difference:
    if not column.required:
        return Difference(f"column {column.name}", None, describe(column), "add")
    remedy = (
        "BigQuery adds no NOT NULL column to a table that exists: leave NOT NULL out in its DDL, or copy the rows of"
        f" {table} elsewhere, drop it, and run: ecomflow infra up"
    )
    return Difference(f"column {column.name}", None, describe(column), "refuse", remedy)


def _changed_column(table: str, before: Column, after: Column) -> Difference:
    if before.type == after.type and before.required:
        remedy = f"Run in BigQuery: ALTER TABLE `{table}` ALTER COLUMN {after.name} DROP NOT NULL"
    else:
        remedy = f"BigQuery can't make that change: copy the rows of {table} elsewhere, drop it, and run: ecomflow infra up"
    return Difference(f"column {after.name}", describe(before), describe(after), "refuse", remedy)


def _extra_column(table: str, column: Column) -> Difference:
    """A nullable column that the DDL doesn't name stays empty in new rows, and its values are the user's: it is left alone."""
    if not column.required:
        return Difference(f"column {column.name}", describe(column), None, "note")
    remedy = (
        f"No row could be written without it. Run in BigQuery: ALTER TABLE `{table}` ALTER COLUMN {column.name} DROP NOT NULL"
    )
    return Difference(f"column {column.name}", describe(column), None, "refuse", remedy)
