"""Desired and existing resources in; the steps from one to the other out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ecomflow.infra.ownership import foreign_bucket_remedy
from ecomflow.infra.resources import KINDS, Apis, ExternalTable, Kind, Resource, Subscription, Table, Topic, View
from ecomflow.sql import Column


class Difference(msgspec.Struct, frozen=True):
    """One attribute or column that differs.

    ``how``: ``add`` and ``change`` are carried out; ``note`` is harmless and left alone; ``refuse`` is not possible, and
    ``remedy`` says what to do instead. ``live`` None: it doesn't exist; ``wanted`` None: it isn't in the DDL.
    """

    attribute: str
    live: str | None
    wanted: str | None
    how: Literal["add", "change", "note", "refuse"]
    remedy: str | None = None


class Step(msgspec.Struct, frozen=True):
    """What ``up`` does to one resource, and why. The differences of a ``create`` list everything that it will have."""

    kind: Kind
    name: str
    action: Literal["create", "change", "keep", "refuse"]
    differences: tuple[Difference, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """One step per resource, in the order in which they are carried out."""

    steps: tuple[Step, ...]


def plan_steps(wanted: tuple[Resource, ...], live: Mapping[str, Resource]) -> Plan:
    """The steps from ``live`` (by name) to ``wanted``."""
    return Plan(tuple(plan_step(resource, live.get(resource.name)) for resource in wanted))


def plan_step(wanted: Resource, live: Resource | None) -> Step:
    """The step for one resource; ``live`` None: it doesn't exist."""
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
    """The attributes and columns of a resource that doesn't exist. A view's columns are omitted: they are those of its table."""
    attributes = [name for name in wanted.__struct_fields__ if name not in ("name", "columns", "query", "owner")]
    values = [(name, getattr(wanted, name)) for name in attributes]
    columns = wanted.columns if isinstance(wanted, Table) else ()
    return (
        *(Difference(f"column {column.name}", None, describe(column), "add") for column in columns),
        *(Difference(name, None, _show(value), "add") for name, value in values if value not in (None, "", (), 0)),
    )


def compare_attributes(wanted: Resource, live: Resource) -> tuple[Difference, ...]:
    """The attributes, except columns, that are configured, reported by the service, and differ."""
    attributes = [attribute for attribute in wanted.__struct_fields__ if attribute not in ("name", "columns")]
    pairs = [(attribute, _asked_for(attribute, live, wanted), getattr(wanted, attribute)) for attribute in attributes]
    return tuple(
        _difference(wanted, attribute, before, after)
        for attribute, before, after in pairs
        if before is not None and after is not None and before != after
    )


def _asked_for(attribute: str, live: Resource, wanted: Resource) -> Any:
    """The live value; of labels only those with a wanted key, because other people may have set more."""
    value = getattr(live, attribute)
    if attribute != "labels" or value is None:
        return value
    keys = {label.partition("=")[0] for label in getattr(wanted, attribute) or ()}
    return tuple(label for label in value if label.partition("=")[0] in keys)


def compare_columns(table: str, wanted: tuple[Column, ...], live: tuple[Column, ...]) -> tuple[Difference, ...]:
    """The columns of ``table`` that differ, compared by name: BigQuery puts an added column last, wherever it is in the DDL."""
    lives = {column.name: column for column in live}
    wanteds = {column.name: column for column in wanted}
    both = [(lives[name], column) for name, column in wanteds.items() if name in lives]
    missing = tuple(_missing_column(table, column) for name, column in wanteds.items() if name not in lives)
    changed = tuple(_changed_column(table, before, after) for before, after in both if describe(before) != describe(after))
    extra = tuple(_extra_column(table, column) for name, column in lives.items() if name not in wanteds)
    return missing + changed + extra


def _stale_columns(wanted: View, live: View) -> tuple[Difference, ...]:
    """BigQuery shows the columns from when the view was created, until it is created again."""
    missing = sorted(set(wanted.columns) - set(live.columns))
    return tuple(Difference(f"column {name}", None, "as in its table", "add") for name in missing)


def describe(column: Column) -> str:
    """A column's type and mode as in DDL: ``INT64 NOT NULL``."""
    return f"{column.type} NOT NULL" if column.required else column.type


def tell(difference: Difference) -> str:
    """``column quantity is STRING, expected INT64 NOT NULL``."""
    live = "is missing" if difference.live is None else f"is {difference.live}"
    return f"{difference.attribute} {live}, expected {difference.wanted or 'none'}"


def _difference(wanted: Resource, attribute: str, before: Any, after: Any) -> Difference:
    remedy = _remedy(wanted, attribute, _show(before))
    return Difference(attribute, _show(before), _show(after), "change" if remedy is None else "refuse", remedy)


def _remedy(wanted: Resource, attribute: str, live: str) -> str | None:
    """What to do about an attribute that is fixed on creation; None for one that can be changed."""
    if attribute == "location":
        return f"A location can't be changed: set location to {live}, or another {KINDS[type(wanted)]} in the settings."
    if attribute == "owner":
        return foreign_bucket_remedy(live)
    if attribute == "partition":
        return f"Partitioning can't be changed: copy the rows of {wanted.name} elsewhere, drop it, and run: ecomflow infra up"
    if attribute == "kms_key":
        return _key_remedy(wanted, live)
    if isinstance(wanted, ExternalTable) and attribute == "uris" and live == "none":
        return f"{wanted.name} is not an external table: rename or drop it, and run: ecomflow infra up"
    if isinstance(wanted, Subscription) and attribute in ("topic", "filter", "delivery"):
        fixed = "delivery may be in use by others" if attribute == "delivery" else f"{attribute} can't be changed"
        return (
            f"A subscription's {fixed}: set another subscription in the settings, or delete this one and its"
            f" messages: gcloud pubsub subscriptions delete {wanted.name}"
        )
    return None


def _key_remedy(wanted: Resource, live: str) -> str | None:
    """A bucket's and a dataset's key can be changed, for new objects and tables. A table's key can be replaced by another.

    https://cloud.google.com/bigquery/docs/customer-managed-encryption#change_table_from_default_encryption_to_cloud_kms
    """
    if isinstance(wanted, Topic):
        return (
            "A topic's key can't be changed: set another topic in the settings, or delete this one after the pipeline has drained"
            f" it: gcloud pubsub topics delete {wanted.name}"
        )
    if isinstance(wanted, Table) and live == "none":
        name = wanted.name.replace(".", ":", 1)
        return (
            "A table without a key gets one by copying it onto itself. Drain the pipeline first, then run:"
            f" bq cp -f --destination_kms_key={wanted.kms_key} {name} {name}"
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
        "BigQuery can't add a NOT NULL column to an existing table: remove NOT NULL from its DDL, or copy the rows of"
        f" {table} elsewhere, drop it, and run: ecomflow infra up"
    )
    return Difference(f"column {column.name}", None, describe(column), "refuse", remedy)


def _changed_column(table: str, before: Column, after: Column) -> Difference:
    if before.type == after.type and before.required:
        remedy = f"Run in BigQuery: ALTER TABLE `{table}` ALTER COLUMN {after.name} DROP NOT NULL"
    else:
        remedy = f"BigQuery can't change this: copy the rows of {table} elsewhere, drop it, and run: ecomflow infra up"
    return Difference(f"column {after.name}", describe(before), describe(after), "refuse", remedy)


def _extra_column(table: str, column: Column) -> Difference:
    """A nullable column that is not in the DDL is left alone: it is NULL in new rows, and its values belong to the user."""
    if not column.required:
        return Difference(f"column {column.name}", describe(column), None, "note")
    remedy = f"No rows can be written without it. Run in BigQuery: ALTER TABLE `{table}` ALTER COLUMN {column.name} DROP NOT NULL"
    return Difference(f"column {column.name}", describe(column), None, "refuse", remedy)
