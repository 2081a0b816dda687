"""The metrics and a step of the graph in; the step's details out. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ecomflow.metrics.history import Report, in_step
from ecomflow.metrics.record import Hour
from ecomflow.metrics.snapshot import FIRST_STEPS, Branch, PipelineMetrics, StepMetrics
from ecomflow.terminal.amounts import UNKNOWN, clock_text, count_text, rate_text, seconds_text
from ecomflow.ui.data.sampler import Sample
from ecomflow.ui.views.hour_chart import Curve, hour_chart
from ecomflow.ui.views.html import Html, join, shown, table, tag
from ecomflow.ui.views.layout import notice, section
from ecomflow.ui.views.state import as_of, stale_since

_MAX_SENTENCE = 600


def step_view(name: str, sample: Sample, branches: Sequence[Branch], parts: Sequence[str]) -> Html:
    """The step ``name``: its messages in, out, refused by reason and in flight, what it waits for, its failures and latency, and
    its last hour. ``parts``: its inner steps.
    """
    close = tag("p", tag("a", "Close", href="/"), class_="beside")
    found = None if sample.report is None else _found(sample.report, name)
    if sample.report is None or found is None:
        return section(shown(name, 80), notice("There is no such step in the pipeline that runs."), beside=close, id_="step")
    facts = [(what, value) for what, value in _facts(found, sample.report, branches, parts) if value is not None]
    listed = tag("dl", [tag("div", tag("dt", what), tag("dd", value)) for what, value in facts], class_="facts wide")
    body = [
        tag("div", listed, data_stale=stale_since(sample) is not None),
        _reasons(found),
        _hour(name, sample.hour) if sample.hour else None,
    ]
    return section(name, body, note=f"Since the start, {as_of(sample)}.", beside=close, id_="step")


def belongs_to(sentence: str, name: str, branches: Sequence[Branch]) -> bool:
    """Whether ``sentence``, about a failure or a service that is waited for, is about the step ``name``: it says the table, the
    bucket or Pub/Sub.
    """
    if name == FIRST_STEPS[0]:
        return "Pub/Sub" in sentence or "subscription" in sentence
    for branch in branches:
        if name == branch.write:
            return any(re.search(rf"\b{re.escape(table)}\b", sentence) for table in branch.tables)
        if name == branch.dead_letters:
            return "bucket" in sentence.lower()
    return False


def _found(report: Report, name: str) -> StepMetrics | None:
    return next((step for step in report.metrics.steps if step.step == name), None)


def _facts(
    found: StepMetrics, report: Report, branches: Sequence[Branch], parts: Sequence[str]
) -> list[tuple[str, Html | str | None]]:
    """(what, value); None: this step has no such fact."""
    metrics, name = report.metrics, found.step
    rates = next((step for step in report.rates.steps if step.step == name), None) if report.rates else None
    reads = name == FIRST_STEPS[0]
    branch = next((one for one in branches if name in (one.first, one.write, one.dead_letters)), None)
    writes = branch is not None and name == branch.write
    in_flight = found.messages_in - found.messages_out - found.refused
    return [
        ("in", None if reads else _amount(found.messages_in, None if rates is None else rates.messages_in)),
        ("out", _amount(found.messages_out, None if rates is None else rates.messages_out)),
        ("refused", tag("span", count_text(found.refused), data_tone="bad" if found.refused else None)),
        ("in flight", None if reads else count_text(max(0, in_flight))),
        ("backlog", _backlog(metrics) if reads else None),
        ("waits for", _waits(metrics, name, branches)),
        ("latency", _latency(report) if writes else None),
        ("last append", _appends(metrics, branch) if writes and branch is not None else None),
        ("last failure", _failure(metrics, name, branches)),
        ("inner steps", ", ".join(parts) or None),
    ]


def _amount(total: int, rate: float | None) -> str:
    return f"{count_text(total)}, {rate_text(rate)} now" if rate is not None else count_text(total)


def _backlog(metrics: PipelineMetrics) -> str:
    if metrics.backlog is None:
        return metrics.backlog_unknown or UNKNOWN
    oldest = f", the oldest for {seconds_text(metrics.oldest_unacked_seconds)}" if metrics.backlog else ""
    return f"{count_text(metrics.backlog)} waiting{oldest}"


def _waits(metrics: PipelineMetrics, name: str, branches: Sequence[Branch]) -> Html | str:
    sentence = metrics.waiting_for
    if sentence is None:
        return "nothing"
    if belongs_to(sentence, name, branches):
        return tag("span", shown(sentence, _MAX_SENTENCE), data_tone="bad")
    return f"nothing itself; the pipeline waits for {shown(sentence, _MAX_SENTENCE)}"


def _failure(metrics: PipelineMetrics, name: str, branches: Sequence[Branch]) -> Html | str:
    times = f"{count_text(metrics.retries)} retries and {count_text(metrics.restarts)} restarts of the pipeline"
    if metrics.last_failure is None:
        return f"none known ({times})"
    sentence = shown(metrics.last_failure, _MAX_SENTENCE)
    if belongs_to(metrics.last_failure, name, branches):
        return tag("span", f"{sentence} ({times})", data_tone="bad")
    return f"none known of this step; of the pipeline: {sentence} ({times})"


def _latency(report: Report) -> str:
    found = report.latency
    over = "since the start" if found.seconds is None else f"over the last {found.seconds:.0f} s"
    return f"p50 {seconds_text(found.p50)}, p99 {seconds_text(found.p99)} from publish to append, all event types, {over}"


def _appends(metrics: PipelineMetrics, branch: Branch) -> Html:
    rows = [one for one in metrics.tables if one.table in branch.tables]
    return join(
        tag(
            "p",
            tag("a", one.table, href=f"/tables/{one.table}"),
            f": {count_text(one.rows)} rows, ",
            "none yet" if one.last_append is None else f"last {clock_text(one.last_append)} UTC",
        )
        for one in rows
    )


def _reasons(found: StepMetrics) -> Html | None:
    if not found.reasons:
        return None
    ordered = sorted(found.reasons.items(), key=lambda item: -item[1])
    rows: list[Any] = [
        (tag("a", reason, href=f"/dead-letters?reason={reason}"), tag("span", count_text(amount), data_tone="bad"))
        for reason, amount in ordered
    ]
    return tag("div", table(f"Refused by {found.step}, by reason", ("reason", "count"), rows, right=("count",)), class_="narrow")


@lru_cache(maxsize=8)
def _hour(name: str, hour: Hour) -> Html:
    passed, refused = (hour.rate(in_step(name, part)) for part in ("messages_out", "refused"))
    return hour_chart("Messages per second", hour, (Curve("out", passed), Curve("refused", refused, "bad")), rate_text)
