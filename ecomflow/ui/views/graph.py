"""Metrics and the graph's steps in; the view of the running pipeline out. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from ecomflow.metrics.history import KEPT_SECONDS, Report
from ecomflow.metrics.snapshot import ENDED, ENDED_BADLY, LOCAL, PipelineMetrics
from ecomflow.pipeline.tree import Step
from ecomflow.terminal.amounts import UNKNOWN, bytes_text, count_text, rate_text, seconds_text
from ecomflow.ui.data.readings import Reading
from ecomflow.ui.data.sampler import Sample, Series, times
from ecomflow.ui.views.graph_picture import Flow, every_step, holds_refusals, picture
from ecomflow.ui.views.html import Html, join, table, tag
from ecomflow.ui.views.layout import notice, section, trouble
from ecomflow.ui.views.svg import Curve, line_chart, sparkline

_NUMBER = re.compile(r"\d[\d,.]*")


def graph_view(sample: Sample, steps: Reading[tuple[Step, ...]]) -> Html:
    """The state as a sentence, the metrics, the graph, and a chart of the last minutes."""
    if sample.report is None:
        return state_line(sample)
    return join(
        [
            state_line(sample),
            _metrics(sample.report, sample),
            section("Graph", _graph(sample.report, steps), note="Generated from Beam's representation of the pipeline."),
            section("Throughput", _chart(sample), note="Only while a page was open."),
            _refusals(sample.report.metrics),
        ]
    )


def state_line(sample: Sample) -> Html:
    """The state of the pipeline. Screen readers announce changes, so their text has no changing numbers."""
    tone, sentence, remedy = state(sample)
    heard = _NUMBER.sub("some", sentence)
    return tag(
        "div",
        tag("p", sentence, class_="state"),
        tag("p", heard, class_="unseen", role="status", aria_live="polite"),
        tag("p", remedy, class_="remedy") if remedy else None,
        class_="strip",
        data_tone=tone,
    )


def state(sample: Sample) -> tuple[str, str, str | None]:
    """(tone, sentence, remedy); the tone is good, quiet or bad."""
    if sample.error is not None:
        return "bad", sample.error.message, sample.error.remedy
    if sample.report is None:
        return "quiet", "Looking for the pipeline…", None
    metrics, wrong = sample.report.metrics, sample.report.trouble
    if wrong is not None:
        is_quiet = metrics.state == "none" or (metrics.state in ENDED and metrics.state not in ENDED_BADLY)
        return "quiet" if is_quiet else "bad", *_parted(wrong)
    where = "on this machine" if metrics.where == LOCAL else f"on Dataflow in {metrics.where}"
    since = "" if metrics.started is None else f", since {datetime.fromtimestamp(metrics.started, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return "good", f"The pipeline is {metrics.state} {where} ({metrics.name}){since}.", None


def _parted(wrong: str) -> tuple[str, str | None]:
    """Split a problem into the sentence and the command at its end."""
    for word in ("Run: ", "See: ", "Start it with: "):
        sentence, found, command = wrong.rpartition(word)
        if found:
            return sentence.strip(), f"{word}{command}"
    return wrong, None


def _metrics(found: Report, sample: Sample) -> Html:
    metrics, rates, latency = found.metrics, found.rates, found.latency
    refused, waiting = sum(metrics.refused.values()), metrics.backlog
    over = "since the start" if latency.seconds is None else f"over the last {latency.seconds:.0f} s"
    rows = None if rates is None else sum(one.rows for one in rates.tables)
    return tag(
        "dl",
        _metric("Events per second", rate_text(None if rates is None else rates.received, ""), _spark(sample.received)),
        _metric("Rows per second", rate_text(rows, ""), _spark(sample.rows)),
        _metric("Received", count_text(metrics.received)),
        _metric("Refused", count_text(refused), tone="bad" if refused else None),
        _metric("Backlog", UNKNOWN if waiting is None else count_text(waiting), hint=metrics.backlog_unknown),
        _metric("Oldest message", seconds_text(metrics.oldest_unacked_seconds) if waiting else UNKNOWN),
        _metric("Latency, p50", seconds_text(latency.p50), hint=f"From publish to append, {over}."),
        _metric("Latency, p99", seconds_text(latency.p99), hint=f"From publish to append, {over}."),
        _metric("Memory", bytes_text(metrics.memory_bytes)),
        _metric("Restarts", count_text(metrics.restarts), tone="bad" if metrics.restarts else None, hint=metrics.last_failure),
        class_="metrics",
    )


def _spark(series: Series) -> Html | None:
    """The last fifth of the series: one minute."""
    return sparkline(series[-len(series) // 5 :])


def _metric(name: str, value: str, drawing: Html | None = None, tone: str | None = None, hint: str | None = None) -> Html:
    shown = tag("dd", tag("span", value, class_="value"), drawing)
    return tag("div", tag("dt", name), shown, data_tone=tone, title=hint)


def _graph(found: Report, steps: Reading[tuple[Step, ...]]) -> Html:
    if steps.value is None:
        if steps.error is not None:
            return trouble(steps.error)
        return notice("Generating the graph from the pipeline's code, which takes a few seconds.")
    flows = _flows(found)
    return join([picture(steps.value, flows, tall=False), picture(steps.value, flows, tall=True), _table(steps.value, flows)])


def _flows(found: Report) -> dict[str, Flow]:
    rates = {} if found.rates is None else {one.step: one.messages_in for one in found.rates.steps}
    return {one.step: Flow(one, rates.get(one.step)) for one in found.metrics.steps}


def _table(steps: Sequence[Step], flows: dict[str, Flow]) -> Html:
    """The picture in words."""
    columns = ("step", "in", "a second", "out", "refused")
    rows = [_table_row(step, flows.get(step.name, Flow())) for step in every_step(steps)]
    drawn = table("Steps of the graph", columns, rows, right=columns[1:], quiet=True)
    return tag("details", tag("summary", "The graph as a table"), drawn)


def _table_row(step: Step, flow: Flow) -> tuple[Html | str, ...]:
    found = flow.metrics
    if found is None:
        return step.name, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN
    name = tag("span", step.name, data_tone="bad" if holds_refusals(step) and found.messages_in else None)
    refused = tag("span", count_text(found.refused), data_tone="bad" if found.refused else None)
    return name, count_text(found.messages_in), rate_text(flow.rate), count_text(found.messages_out), refused


def _chart(sample: Sample) -> Html:
    lines = [Curve("events", times(sample.received, sample.now)), Curve("refused", times(sample.refused, sample.now), "bad")]
    return line_chart("Events per second", lines, KEPT_SECONDS)


def _refusals(metrics: PipelineMetrics) -> Html | None:
    counts = sorted(((reason, amount) for reason, amount in metrics.refused.items() if amount), key=lambda item: -item[1])
    if not counts:
        return None
    rows = [(reason, tag("span", count_text(amount), data_tone="bad")) for reason, amount in counts]
    drawn = table("Refused messages by reason", ("reason", "count"), rows, right=("count",), quiet=True)
    link = tag("p", tag("a", "Show the dead letters", href="/dead-letters"))
    return section("Refused messages by reason", tag("div", drawn, class_="narrow"), link)
