"""What Google charges for keeping: a row for each attribute of ``infra up``'s resources that is billed by the time it lasts.

The rows are made from ``desired()``: an attribute that is neither in BILLED nor in NOT_BILLED is an error, so none is forgotten.
Prices are list prices from archived copies of the pages named; no account is used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ecomflow.config import Settings
from ecomflow.infra.resources import KINDS, desired

_DAYS_A_MONTH = 730 / 24
# What part of the events is taken to be refused, and so to become objects in the bucket.
REFUSED = 0.01


class Billed(NamedTuple):
    """Dollars a GiB and month, for which part of the events' bytes, after how many free days, and when it is all kept."""

    gib_month: float
    part: float
    free_days: int
    when: str


# Pub/Sub: https://cloud.google.com/pubsub/pricing#storage_costs. Cloud Storage, Standard, the multi-region EU:
# https://cloud.google.com/storage/pricing; soft-deleted objects cost what live ones do: https://cloud.google.com/storage/docs/soft-delete
BILLED = {
    ("topic", "retention_days"): Billed(0.27, 1.0, 0, "always"),
    ("subscription", "retention_days"): Billed(0.27, 1.0, 1, "where nothing is acknowledged for so long"),
    ("bucket", "delete_after_days"): Billed(0.026, REFUSED, 0, f"{REFUSED:.0%} refused, never replayed"),
    ("bucket", "soft_delete_days"): Billed(0.026, REFUSED, 0, f"{REFUSED:.0%} refused, once deleted"),
}

# What costs nothing by itself, or (rows in tables) is named in docs/dataflow.md as not counted.
_ATTRIBUTES = {
    "topic": ("name", "kms_key", "labels"),
    "subscription": (
        *("name", "topic", "delivery", "ack_deadline_seconds", "filter", "exactly_once", "expires"),
        *("backoff_seconds", "dead_letter_topic", "labels"),
    ),
    "bucket": (
        *("name", "location", "uniform_access", "public_access_prevention", "owner", "kms_key", "labels"),
        *("retention_policy", "default_event_based_hold"),
    ),
    "dataset": ("name", "location", "kms_key", "labels", "default_table_expiration", "default_partition_expiration"),
    "table": (
        *("name", "columns", "partition", "clustering", "kms_key", "labels"),
        *("table_type", "partition_expiration", "expires", "require_partition_filter"),
    ),
    "view": ("name", "columns", "query", "labels", "table_type"),
}
NOT_BILLED = {(kind, attribute) for kind, attributes in _ATTRIBUTES.items() for attribute in attributes}


class Kept(NamedTuple):
    """What an attribute costs per million events: at the settings' days, and per day beyond the free ones."""

    resource: str
    attribute: str
    days: int
    dollars: float
    dollars_a_day: float
    when: str


def kept(settings: Settings, gib: float) -> list[Kept]:
    """A row for each billed attribute; ``gib`` is the size of a million events. Raises KeyError for one of unknown cost."""
    found = []
    for resource in desired(settings):
        kind = KINDS[type(resource)]
        for attribute in resource.__struct_fields__:
            if (kind, attribute) not in NOT_BILLED:
                billed, days = BILLED[kind, attribute], _days(getattr(resource, attribute))
                a_day = gib * billed.part * billed.gib_month / _DAYS_A_MONTH
                total = a_day * max(0, days - billed.free_days)
                found.append(Kept(f"{kind} {_short(resource.name)}", attribute, days, total, a_day, billed.when))
    return found


def table(rows: list[Kept]) -> str:
    """Markdown."""
    lines = ["| kept | days | a million events | each day more | when |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        lines.append(
            f"| {row.resource}, `{row.attribute}` | {row.days} | ${row.dollars:.5f} | ${row.dollars_a_day:.5f} | {row.when} |"
        )
    return "\n".join(lines)


def _days(value: Any) -> int:
    return int(dict(value)["dlq/"]) if isinstance(value, tuple) else int(value)


def _short(name: str) -> str:
    return name.rsplit("/", 1)[-1].rsplit(".", 1)[-1]
