"""The page of a shop with an event type of its own: its table, steps and dead letters are there like the built-in ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from html import unescape

import msgspec
import pytest

from ecomflow import infra
from ecomflow.config import Endpoints, Settings
from ecomflow.gcp.target import Target
from ecomflow.generator import publisher
from ecomflow.generator.rounds import GeneratedEvent
from ecomflow.metrics.history import in_step
from ecomflow.metrics.record import read_record
from ecomflow.metrics.snapshot import PipelineMetrics
from tests.support.running import Pipeline, running, settings_in
from tests.support.ui import page_of, until
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.slow]

REFUND = """
event = "refund"
time = "at"
[fields]
refund_id = "string"
at = "timestamp"
amount = { type = "numeric", min = 0 }
[[tables]]
name = "fact_refund"
"""


@pytest.fixture(scope="module")
def refunds(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of a shop with a contract of its own, beside the built-in ones; everything is created."""
    folder = tmp_path_factory.mktemp("refunds")
    (folder / "contracts").mkdir()
    (folder / "contracts" / "refund.toml").write_text(REFUND)
    names = {"topic": "refunds", "subscription": "refunds-sub", "bucket": "refunds-bucket", "dataset": "refunds_dataset"}
    settings = Settings(**names, contracts=str(folder / "contracts"), ack_deadline_seconds=10)
    with Target(settings, stack) as target:
        infra.apply(target, infra.plan(target))
    return settings_in(folder / "state", settings, stack)


@pytest.fixture(scope="module")
def pipeline(refunds: Settings, stack: Endpoints) -> Iterator[Pipeline]:
    """Its pipeline, which has taken two refunds and refused a third."""
    with running(refunds) as pipeline, Target(refunds, stack) as target:
        publisher.publish(target, [refund(1, 5), refund(2, 7), refund(3, -1)])
        done = {"rows/fact_refund": 2, "refused/contract_violation": 1, "out/Write refund dead letters": 1}
        wait_until(lambda: done.items() <= pipeline.status().counters.items(), "two are written and one is refused")
        yield pipeline


def refund(number: int, amount: int) -> GeneratedEvent:
    body = {"event_type": "refund", "refund_id": f"R-{number}", "at": "2026-11-01T12:00:00Z", "amount": amount}
    attributes = {"event_id": f"E-{number}"}
    return GeneratedEvent(msgspec.json.encode(body), attributes, "refund", {}, None, None, "refund")


def test_its_table_is_with_the_others(refunds: Settings, pipeline: Pipeline) -> None:
    """Counted like theirs, and shown with its rows."""
    browser, _ = page_of(refunds)
    text = until(lambda: browser.get("/live/tables"), r"fact_refund</a></td><td class=\"number\">2</td>")
    assert text.count('href="/tables/') == 6
    assert "R-2" in until(lambda: browser.get("/live/tables/fact_refund"), "Newest rows")


def test_its_steps_are_in_the_graph(refunds: Settings, pipeline: Pipeline) -> None:
    """With their messages, its table and its dead letters; the details of each are a link away."""
    browser, _ = page_of(refunds)
    text = until(lambda: browser.get("/live"), r'data-name="fact_refund".*>2 rows<.*>dlq/refund/<[^>]*><[^>]*>1 dead letter<')
    for step in ("Model refund facts", "Write refund facts", "Write refund dead letters"):
        assert f'data-name="{step}"' in text
    details = unescape(until(lambda: browser.get("/live?step=Write+refund+facts"), "<dt>out</dt><dd>2"))
    assert 'href="/tables/fact_refund">fact_refund</a>: 2 rows' in details


def test_its_messages_are_recorded(refunds: Settings, pipeline: Pipeline) -> None:
    """By the pipeline itself, with the backlog, so that a page that is opened later charts them."""

    def newest() -> PipelineMetrics | None:
        return next(reversed(read_record(refunds.state_path, time.time())), None)

    written, refused = (in_step("Write refund facts", "messages_out"), in_step("Model refund facts", "refused"))
    wait_until(lambda: (found := newest()) is not None and written(found) == 2, "the refunds are recorded")
    found = newest()
    assert found is not None
    assert (found.received, refused(found) + in_step("Decode events", "refused")(found), found.backlog) == (3, 1, 0)


def test_its_dead_letters_are_listed(refunds: Settings, pipeline: Pipeline) -> None:
    """Among the groups, by its stream, and by a text in one of them."""
    browser, _ = page_of(refunds)
    groups = until(lambda: browser.get("/live/dead-letters?stream=refund"), "1 dead letter in 1 group match")
    assert "<code>$.amount</code>" in groups
    assert '<option value="refund" selected>refund</option>' in groups
    found = browser.get("/dead-letters?text=r-3").text
    assert found.count('class="letter"') == 1
    assert "E-3" in found
