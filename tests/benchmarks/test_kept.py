"""What keeping costs: a row for each billed attribute of what ``infra up`` makes, none forgotten, the same rows in the docs."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks import kept
from ecomflow.config import Settings
from ecomflow.infra.resources import KINDS, desired
from tests.support import ROOT

SETTINGS = Settings(project="my-project")
DOCS = ROOT / "docs"


def test_every_attribute_is_billed_or_not() -> None:
    """Each attribute of each resource stands on one side; what a new one costs has to be said."""
    known = kept.NOT_BILLED | set(kept.BILLED)
    attributes = {(KINDS[type(one)], name) for one in desired(SETTINGS) for name in one.__struct_fields__}
    assert attributes == known
    assert not kept.NOT_BILLED & set(kept.BILLED)


def test_a_forgotten_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attribute of unknown cost is an error, not a row left out."""
    monkeypatch.delitem(kept.BILLED, ("topic", "retention_days"))
    with pytest.raises(KeyError):
        kept.kept(SETTINGS, 0.414)


def test_a_topic_that_keeps_a_week() -> None:
    """By default a topic keeps nothing and costs nothing; 7 days cost more than publishing does: $0.0257 a million events."""
    assert kept.kept(SETTINGS, 0.414)[0].dollars == 0
    week = msgspec.structs.replace(SETTINGS, topic_retention_days=7)
    topic = kept.kept(week, 0.414)[0]
    assert (topic.resource, topic.days, round(topic.dollars, 4)) == ("topic ecomflow-events", 7, 0.0257)


def test_a_subscriptions_first_day_is_free() -> None:
    """Messages that wait less than 24 hours cost nothing more."""
    subscription = kept.kept(SETTINGS, 0.414)[1]
    assert subscription.dollars == pytest.approx(subscription.dollars_a_day * 6)


def test_soft_delete_follows_the_setting() -> None:
    """Turned off it costs nothing."""
    off = msgspec.structs.replace(SETTINGS, soft_delete_days=0)
    assert [row.dollars for row in kept.kept(off, 0.414) if row.attribute == "soft_delete_days"] == [0]


def test_the_table_in_the_docs() -> None:
    """docs/dataflow.md has the rows as they are calculated, for a million events of 0.414 GiB."""
    assert kept.table(kept.kept(SETTINGS, 0.414)) in (DOCS / "dataflow.md").read_text(encoding="utf-8")
