"""The latest metrics in; what the pipeline does now, in a sentence, and whether its numbers are still current, out. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from ecomflow.metrics.snapshot import ENDED, ENDED_BADLY, LOCAL, PipelineMetrics
from ecomflow.terminal.amounts import clock_text, count_text
from ecomflow.ui.data.sampler import Sample
from ecomflow.ui.views.html import Html, tag

_NUMBER = re.compile(r"\d[\d,.]*")
# Dataflow updates its metrics about twice a minute.
_CLOUD_SILENT_SECONDS = 180.0


def state_line(sample: Sample) -> Html:
    """The state of the pipeline and its totals, the same on every view. Screen readers announce changes of the state, so that
    text has no changing numbers.
    """
    tone, sentence, remedy = state(sample)
    heard = _NUMBER.sub("some", sentence)
    return tag(
        "div",
        tag("p", sentence, class_="state"),
        tag("p", heard, class_="unseen", role="status", aria_live="polite"),
        tag("p", remedy, class_="remedy") if remedy else None,
        _totals(sample),
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
        condition = sample.report.condition
        is_quiet = condition == "none" or (condition in ENDED and condition not in ENDED_BADLY)
        return "quiet" if is_quiet else "bad", *_parted(wrong)
    where = "on this machine" if metrics.where == LOCAL else f"on Dataflow in {metrics.where}"
    since = "" if metrics.started is None else f" since {datetime.fromtimestamp(metrics.started, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return "good", f"The pipeline is {metrics.state} {where}{since} ({metrics.name}).", None


def stale_since(sample: Sample) -> float | None:
    """When the pipeline last reported its metrics, in seconds since the epoch, if they are no longer current; otherwise None."""
    if sample.report is None:
        return None
    metrics, condition = sample.report.metrics, sample.report.condition
    is_late = metrics.where != LOCAL and sample.now - metrics.at > _CLOUD_SILENT_SECONDS
    is_over = sample.error is not None or condition in ENDED or condition == "silent"
    return metrics.at if is_over or is_late else None


def as_of(sample: Sample) -> str | None:
    """When the pipeline's numbers were true: "as of 12:00:05 UTC"."""
    return None if sample.report is None else f"as of {clock_text(sample.report.metrics.at)} UTC"


def rows_written(metrics: PipelineMetrics) -> int:
    """The rows of all tables that BigQuery has confirmed since the pipeline started."""
    return sum(table.rows for table in metrics.tables)


def _totals(sample: Sample) -> Html | None:
    if sample.report is None or sample.report.metrics.started is None:
        return None
    metrics = sample.report.metrics
    refused, rows = sum(metrics.refused.values()), rows_written(metrics)
    counts = f"{count_text(metrics.received)} received, {count_text(refused)} refused, {count_text(rows)} rows written"
    return tag(
        "p", f"Since its start: {counts} ({as_of(sample)}).", class_="quiet totals", data_stale=stale_since(sample) is not None
    )


def _parted(wrong: str) -> tuple[str, str | None]:
    """Split a problem into the sentence and the command at its end."""
    for word in ("Run: ", "See: ", "Start it with: "):
        sentence, found, command = wrong.rpartition(word)
        if found:
            return sentence.strip(), f"{word}{command}"
    return wrong, None
