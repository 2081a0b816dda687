"""Desired and existing resources in; the differences, each with its verdict, and the steps from one to the other out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from ecomflow.infra.resources import KINDS, Apis, Kind, Resource, Table, View
from ecomflow.infra.verdicts import How, Stops, remedy_of, verdict_of
from ecomflow.sql import Column

# What is not an attribute that a service keeps: it is part of the identity, or compared by name.
_NO_ATTRIBUTES = ("name", "columns")
# What a plan doesn't show of a resource that doesn't exist.
_NOT_SHOWN = (*_NO_ATTRIBUTES, "query", "owner", "table_type")


class Difference(msgspec.Struct, frozen=True):
    """One attribute or column that differs, and its verdict: see ``verdicts``.

    ``live`` None: it doesn't exist; ``wanted`` None: it isn't in the DDL. ``stops``: which pipelines don't start with it.
    """

    attribute: str
    live: str | None
    wanted: str | None
    how: How
    remedy: str | None = None
    stops: Stops = "all"


class Step(msgspec.Struct, frozen=True):
    """What ``up`` does to one resource, and why. The differences of a ``create`` list everything that it will have."""

    kind: Kind
    name: str
    action: Literal["create", "change", "keep", "refuse"]
    differences: tuple[Difference, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """One step per resource, in the order in which they are carried out."""

    steps: tuple[Step, ...]


class _Found(NamedTuple):
    """A difference before the verdict on its ``case``."""

    case: str
    attribute: str
    live: str | None
    wanted: str | None


def plan_steps(wanted: tuple[Resource, ...], live: Mapping[str, Resource]) -> Plan:
    """The steps from ``live`` (by name) to ``wanted``."""
    return Plan(tuple(plan_step(resource, live.get(resource.name)) for resource in wanted))


def plan_step(wanted: Resource, live: Resource | None) -> Step:
    """The step for one resource; ``live`` None: it doesn't exist."""
    kind = KINDS[type(wanted)]
    if live is None:
        return Step(kind, wanted.name, "create", _additions(wanted))
    return step_for(kind, wanted.name, compare(wanted, live))


def step_for(kind: Kind, name: str, differences: tuple[Difference, ...]) -> Step:
    """The step for an existing resource with ``differences``."""
    hows = {difference.how for difference in differences}
    if "refuse" in hows:
        return Step(kind, name, "refuse", differences)
    return Step(kind, name, "change" if hows & {"add", "change"} else "keep", differences)


def compare(wanted: Resource, live: Resource) -> tuple[Difference, ...]:
    """The differences of a resource as it is from how it should be; of one of another type only the type."""
    found = [*_attributes(wanted, live)]
    if other_type := [one for one in found if one.case == "table_type"]:
        found = other_type
    elif isinstance(wanted, Table) and isinstance(live, Table):
        found += _columns(wanted.columns, live.columns)
    elif isinstance(wanted, View) and isinstance(live, View):
        found += _stale_columns(wanted, live)
    return tuple(_judged(KINDS[type(wanted)], wanted.name, one) for one in found)


def compare_columns(table: str, wanted: tuple[Column, ...], live: tuple[Column, ...]) -> tuple[Difference, ...]:
    """The columns of ``table`` that differ."""
    return tuple(_judged("table", table, one) for one in _columns(wanted, live))


def refused_retention(step: Step, planned: Difference, taken: str) -> Difference:
    """What is left of ``planned``, a retention that the service refuses: it keeps messages for ``taken`` days."""
    return _judged(step.kind, step.name, _Found("retention_days refused", planned.attribute, taken, planned.wanted))


def stops_pipeline(difference: Difference, *, for_dataflow: bool) -> bool:
    """Whether a pipeline doesn't start because of ``difference``."""
    return difference.stops == "all" or (for_dataflow and difference.stops == "dataflow")


def describe(column: Column) -> str:
    """A column's type and mode as in DDL: ``INT64 NOT NULL``."""
    return f"{column.type} NOT NULL" if column.required else column.type


def tell(difference: Difference) -> str:
    """``column quantity is STRING, expected INT64 NOT NULL``."""
    live = "is missing" if difference.live is None else f"is {difference.live}"
    return f"{difference.attribute} {live}, expected {difference.wanted or 'none'}"


def _judged(kind: Kind, name: str, found: _Found) -> Difference:
    verdict = verdict_of(kind, found.case)
    column = found.attribute.removeprefix("column ")
    remedy = remedy_of(kind, found.case, name, live=found.live or "", wanted=found.wanted or "", column=column)
    return Difference(found.attribute, found.live, found.wanted, verdict.how, remedy, verdict.stops)


def _additions(wanted: Resource) -> tuple[Difference, ...]:
    """The attributes and columns of a resource that doesn't exist. A view's columns are omitted: they are those of its table."""
    values = [(name, getattr(wanted, name)) for name in wanted.__struct_fields__ if name not in _NOT_SHOWN]
    columns = wanted.columns if isinstance(wanted, Table) else ()
    return (
        *(Difference(f"column {column.name}", None, describe(column), "add") for column in columns),
        *(Difference(name, None, _show(value), "add") for name, value in values if value not in (None, "", (), 0)),
    )


def _attributes(wanted: Resource, live: Resource) -> Iterator[_Found]:
    """The attributes that are configured, reported by the service, and differ."""
    if isinstance(wanted, Apis) and isinstance(live, Apis):
        yield from _disabled_apis(wanted, live)
        return
    for attribute in wanted.__struct_fields__:
        before, after = _asked_for(attribute, live, wanted), getattr(wanted, attribute)
        if attribute not in _NO_ATTRIBUTES and before is not None and after is not None and before != after:
            case = "kms_key missing" if isinstance(wanted, Table) and attribute == "kms_key" and not before else attribute
            yield _Found(case, attribute, _show(before), _show(after))


def _disabled_apis(wanted: Apis, live: Apis) -> Iterator[_Found]:
    if wanted.enabled is not None and live.enabled is not None:
        yield from (_Found("enabled", api, "disabled", "enabled") for api in wanted.enabled if api not in live.enabled)


def _asked_for(attribute: str, live: Resource, wanted: Resource) -> Any:
    """The live value; of labels only those with a wanted key, because other people may have set more."""
    value = getattr(live, attribute)
    if attribute != "labels" or value is None:
        return value
    keys = {label.partition("=")[0] for label in getattr(wanted, attribute) or ()}
    return tuple(label for label in value if label.partition("=")[0] in keys)


def _columns(wanted: tuple[Column, ...], live: tuple[Column, ...]) -> Iterator[_Found]:
    """Compares by name: BigQuery puts an added column last, wherever it is in the DDL, and its names have no case.

    https://cloud.google.com/bigquery/docs/schemas#column_names
    """
    lives = {column.name.lower(): column for column in live}
    wanteds = {column.name.lower(): column for column in wanted}
    for key, column in wanteds.items():
        if key not in lives:
            yield _Found(_nullable_or("column missing", column), f"column {column.name}", None, describe(column))
    for key, column in wanteds.items():
        if key in lives:
            yield from _changes(lives[key], column)
    for key, column in lives.items():
        if key not in wanteds:
            yield _Found(_nullable_or("column extra", column), f"column {column.name}", describe(column), None)


def _nullable_or(case: str, column: Column) -> str:
    return f"{case}, NOT NULL" if column.required else case


def _changes(before: Column, after: Column) -> Iterator[_Found]:
    attribute = f"column {after.name}"
    if before.name != after.name:
        yield _Found("column in other case", attribute, before.name, after.name)
    if before.type != after.type:
        case = "column of another type"
    elif before.required == after.required:
        return
    else:
        case = "column required" if before.required else "column relaxed"
    yield _Found(case, attribute, describe(before), describe(after))


def _stale_columns(wanted: View, live: View) -> Iterator[_Found]:
    """BigQuery shows the columns from when the view was created, until it is created again."""
    shown = {name.lower() for name in live.columns}
    missing = sorted(name for name in wanted.columns if name.lower() not in shown)
    return (_Found("column missing", f"column {name}", None, "as in its table") for name in missing)


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{part[0]} {part[1]} days" if isinstance(part, tuple) else str(part) for part in value) or "none"
    return str(value) if value != "" else "none"
