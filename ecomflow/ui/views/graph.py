"""Metrics, the graph's steps and what the stores contain in; the view of the running pipeline out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec

from ecomflow.metrics.history import Report
from ecomflow.metrics.record import RECORD_EVERY_SECONDS, Hour
from ecomflow.metrics.snapshot import LOCAL, Branch, PipelineMetrics
from ecomflow.pipeline.tree import Step
from ecomflow.terminal.amounts import UNKNOWN, bytes_text, clock_text, count_text, rate_text, seconds_text
from ecomflow.ui.data.dead_letters import Overview
from ecomflow.ui.data.readings import Reading
from ecomflow.ui.data.sampler import Sample
from ecomflow.ui.data.warehouse import TableCount
from ecomflow.ui.views.graph_layout import every_step
from ecomflow.ui.views.graph_picture import Counts, Flow, Graph, pictures, step_address
from ecomflow.ui.views.hour_chart import Curve, hour_chart
from ecomflow.ui.views.html import Html, join, table, tag
from ecomflow.ui.views.layout import notice, section, trouble
from ecomflow.ui.views.state import as_of, rows_written, stale_since, state_line
from ecomflow.ui.views.step import step_view
from ecomflow.ui.views.svg import sparkline

_SPARK_PARTS = 20


class GraphSources(msgspec.Struct, frozen=True):
    """What the graph's view draws on besides the metrics: the names of what the pipeline reads and writes, and the readings that
    the other views show too, so that all views have the same counts.
    """

    subscription: str
    bucket: str
    branches: tuple[Branch, ...]
    steps: Reading[tuple[Step, ...]]
    tables: Reading[tuple[TableCount, ...]]
    letters: Reading[Overview]
    objects: Reading[dict[str, int]]


def graph_view(sample: Sample, sources: GraphSources, selected: str | None = None) -> Html:
    """The state as a sentence, the metrics, the graph with the details of the step ``selected``, and the last hour."""
    if sample.report is None:
        return state_line(sample)
    metrics = sample.report.metrics
    return join(
        [
            state_line(sample),
            _metrics(sample.report, sample),
            section("Graph", _graph(sample, sample.report, sources, selected), note=_ages(sample, sources)),
            step_view(selected, sample, sources.branches, _parts(sources, selected)) if selected is not None else None,
            section("Last hour", _hour(sample), note=_recorded_by(metrics)),
            _refusals(sample, metrics),
        ]
    )


def counts_of(found: Report, sources: GraphSources) -> Counts:
    """All numbers of the picture."""
    metrics, letters = found.metrics, sources.letters.value
    rates = {} if found.rates is None else {one.step: one.messages_in or one.messages_out for one in found.rates.steps}
    return Counts(
        flows={one.step: Flow(one, rates.get(one.step)) for one in metrics.steps},
        appended={one.table: one.rows for one in metrics.tables},
        rows={one.table: one.rows for one in sources.tables.value or ()},
        letters=letters.by_stream() if letters is not None and letters.is_whole else None,
        objects=sources.objects.value,
        backlog=metrics.backlog,
        oldest_seconds=metrics.oldest_unacked_seconds,
    )


def _ages(sample: Sample, sources: GraphSources) -> str:
    """When each kind of number was counted: the steps' by the pipeline, the rows in the warehouse, the letters in the bucket."""
    letters = sources.letters.value
    all_read = letters is not None and letters.is_whole
    stored = ("dead letters", sources.letters) if all_read else ("objects of dead letters", sources.objects)
    known = [(what, reading.read_at) for what, reading in (("rows", sources.tables), stored)]
    ages = [f"{what} as of {clock_text(at)}" for what, at in known if at is not None]
    return f"Messages since the start, {', '.join([as_of(sample) or '', *ages])}."


def _metrics(found: Report, sample: Sample) -> Html:
    metrics, rates, latency = found.metrics, found.rates, found.latency
    refused, waiting = sum(metrics.refused.values()), metrics.backlog
    over = "since the start" if latency.seconds is None else f"over the last {latency.seconds:.0f} s"
    rows = None if rates is None else sum(one.rows for one in rates.tables)
    since = stale_since(sample)
    # Without a pipeline there was no such time.
    old = None if since is None else f"as of {clock_text(since)}" if metrics.started is not None else ""
    counted = None if metrics.backlog_at is None else f"as of {clock_text(metrics.backlog_at)}"
    return tag(
        "dl",
        _metric(
            "Events per second",
            rate_text(None if rates is None else rates.received, ""),
            _spark(sample, lambda one: one.received),
        ),
        _metric("Rows per second", rate_text(rows, ""), _spark(sample, rows_written)),
        _metric("Received", count_text(metrics.received), old=old),
        _metric("Refused", count_text(refused), tone="bad" if refused else None, old=old),
        # The backlog is counted by the service, whether or not a pipeline runs.
        _metric("Backlog", UNKNOWN if waiting is None else count_text(waiting), hint=metrics.backlog_unknown or counted),
        _metric("Oldest message", seconds_text(metrics.oldest_unacked_seconds) if waiting else UNKNOWN, hint=counted),
        _metric("Latency, p50", seconds_text(latency.p50), hint=f"From publish to append, {over}.", old=old),
        _metric("Latency, p99", seconds_text(latency.p99), hint=f"From publish to append, {over}.", old=old),
        _metric("Memory", bytes_text(metrics.memory_bytes), old=old),
        _metric(
            "Restarts", count_text(metrics.restarts), tone="bad" if metrics.restarts else None, hint=metrics.last_failure, old=old
        ),
        class_="metrics",
    )


def _spark(sample: Sample, of: Callable[[PipelineMetrics], int]) -> Html | None:
    """The last ten minutes."""
    return None if sample.hour is None else sparkline(sample.hour.rate(of)[-_SPARK_PARTS:])


def _metric(
    name: str, value: str, drawing: Html | None = None, tone: str | None = None, hint: str | None = None, old: str | None = None
) -> Html:
    """``old``: when the value was true, if it no longer is; "" if never."""
    shown = tag("dd", tag("span", value, class_="value"), tag("span", old, class_="age") if old else drawing)
    return tag("div", tag("dt", name), shown, data_tone=tone, title=hint, data_stale=old is not None)


def _graph(sample: Sample, found: Report, sources: GraphSources, selected: str | None) -> Html:
    steps = sources.steps
    if steps.value is None:
        if steps.error is not None:
            return trouble(steps.error)
        return notice("Generating the graph from the pipeline's code, which takes a few seconds.")
    graph, counts = Graph(steps.value, sources.subscription, sources.bucket, sources.branches), counts_of(found, sources)
    return tag("div", pictures(graph, counts, selected), _table(steps.value, counts), data_stale=_is_stale(sample))


def _is_stale(sample: Sample) -> bool:
    return stale_since(sample) is not None


def _parts(sources: GraphSources, selected: str | None) -> tuple[str, ...]:
    return next((step.parts for step in every_step(sources.steps.value or ()) if step.name == selected), ())


def _table(steps: Sequence[Step], counts: Counts) -> Html:
    """The picture in words."""
    columns = ("step", "in", "a second", "out", "refused")
    rows = [_table_row(step, counts.flows.get(step.name, Flow())) for step in every_step(steps)]
    drawn = table("Steps of the graph", columns, rows, right=columns[1:], quiet=True)
    return tag("details", tag("summary", "The graph as a table"), drawn)


def _table_row(step: Step, flow: Flow) -> tuple[Html | str, ...]:
    found, name = flow.metrics, tag("a", step.name, href=step_address(step.name))
    if found is None:
        return name, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN
    refused = tag("span", count_text(found.refused), data_tone="bad" if found.refused else None)
    return name, count_text(found.messages_in), rate_text(flow.rate), count_text(found.messages_out), refused


def _recorded_by(metrics: PipelineMetrics) -> str:
    if metrics.where == LOCAL:
        return f"Recorded by the pipeline every {RECORD_EVERY_SECONDS:.0f} s."
    return "What this page has read since it was started."


def _hour(sample: Sample) -> Html:
    hour = sample.hour
    if hour is None:
        return trouble(sample.hour_error) if sample.hour_error else notice("Nothing was read yet.")
    return _charts(hour)


@lru_cache(maxsize=2)  # an hour is shown many times: once a second on every open page
def _charts(hour: Hour) -> Html:
    received, refused = (hour.rate(of) for of in (lambda one: one.received, lambda one: sum(one.refused.values())))
    backlog, oldest = (hour.highest(of) for of in (lambda one: one.backlog, lambda one: one.oldest_unacked_seconds))
    return tag(
        "div",
        hour_chart("Events per second", hour, (Curve("received", received), Curve("refused", refused, "bad")), rate_text),
        hour_chart(
            "Backlog",
            hour,
            (Curve("messages", backlog),),
            lambda value: UNKNOWN if value is None else count_text(round(value)),
            beside=(("oldest", oldest, seconds_text),),
            least=4,
        ),
        hour_chart(
            "Latency from publish to append",
            hour,
            (Curve("p50", hour.latency(0.5)), Curve("p99", hour.latency(0.99), "quiet")),
            seconds_text,
        ),
        class_="charts",
    )


def _refusals(sample: Sample, metrics: PipelineMetrics) -> Html | None:
    counts = sorted(((reason, amount) for reason, amount in metrics.refused.items() if amount), key=lambda item: -item[1])
    if not counts:
        return None
    rows = [(reason, tag("span", count_text(amount), data_tone="bad")) for reason, amount in counts]
    drawn = table("Refused messages by reason", ("reason", "count"), rows, right=("count",), quiet=True)
    link = tag("p", tag("a", "Show the dead letters", href="/dead-letters"))
    return section("Refused messages by reason", tag("div", drawn, class_="narrow", data_stale=_is_stale(sample)), link)
