"""Records of jobs in; tables and sentences, or lines of JSON, out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import typer
from rich.text import Text

from ecomflow.metrics.snapshot import LAST_APPEND
from ecomflow.pipeline.direct.launch import PipelineStatus
from ecomflow.terminal.amounts import length, time_at
from ecomflow.terminal.console import json_line, out, plain, say, show_counts, show_table

_OF_TOP = ("in/", "out/", "refused_in/", "reason_in/", "latency/")


def fields_of(job: Any) -> dict[str, Any]:
    """The status of the local pipeline, with its condition, for a program."""
    return status_facts(job.status) | {"condition": job.condition.name, "trouble": job.condition.trouble}


def show_job_here(job: Any) -> None:
    """The counters of the local pipeline, and its condition."""
    status, condition = job.status, job.condition
    _show_counters(status)
    say(condition.trouble or f"The pipeline runs as process {status.pid}.")
    _say_restarts(status)


def show_local(status: Any) -> None:
    """The counters of a local pipeline that this command has seen end, and how it ended."""
    _show_counters(status)
    sentences = {
        "drained": "The pipeline is drained.",
        "failed": f"The pipeline failed: {status.last_failure}",
        "gone": f"The pipeline (process {status.pid}) was killed; its unacknowledged messages are delivered again. "
        "Run: ecomflow deploy",
    }
    say(sentences[status.state])
    if status.state != "failed":
        _say_restarts(status)


def _show_counters(status: Any) -> None:
    if status.counters:
        show_counts("Counters of this run", _in_short(status.counters))


def _say_restarts(status: Any) -> None:
    if status.restarts:
        times = "once" if status.restarts == 1 else f"{status.restarts:,} times"
        say(f"It restarted {times}, the last time because: {' '.join(str(status.last_failure).split())}")


def status_facts(status: PipelineStatus) -> dict[str, Any]:
    """The status of the local pipeline for a program, with times as times."""
    facts = msgspec.structs.asdict(status)
    for internal in ("mark", "updated_steady"):
        del facts[internal]
    gauges = {name: time_at(value) if name.startswith(LAST_APPEND) else value for name, value in status.gauges.items()}
    return {**facts, "gauges": gauges, "started": time_at(status.started), "updated": time_at(status.updated)}


def show_detail(detail: Any) -> None:
    """The state of a job on Dataflow, its metrics and errors."""
    job = detail.job
    say(f"Job {job.name} ({job.id}) in {job.region} is {job.state}, created {length(job.age_seconds)} ago.")
    workers = None if detail.workers is None else f"{detail.workers} of {detail.target_workers}"
    rate = detail.events_per_second
    throughput = None if rate is None else f"{rate:,.1f} events/s over {length(detail.throughput_seconds)}"
    facts = (
        ("workers", workers),
        ("throughput", throughput),
        ("system lag", length(detail.system_lag_seconds) or None),
        ("data freshness", length(detail.data_freshness_seconds) or None),
    )
    show_table("", ("metric", "value"), [(what, value or "not reported yet") for what, value in facts])
    if detail.counters:
        show_counts("Counters", _in_short(detail.counters))
    if detail.errors:
        show_table("Errors of the last day", ("when", "error"), [(f"{e.time:%Y-%m-%d %H:%M:%S}", e.text) for e in detail.errors])


def _in_short(counters: Mapping[str, int]) -> dict[str, int]:
    """By name, without those of steps and latency, which ``ecomflow top`` shows; ``ecomflow job metrics`` shows all."""
    return {name: amount for name, amount in sorted(counters.items()) if not name.startswith(_OF_TOP)}


def show_plan(plan: Any) -> None:
    """The new step for each running step, and the mapping that an update sends."""
    if not any(step.running for step in plan.steps):
        say("Dataflow lists no steps of the running job, so only Dataflow can check that the new graph is compatible.")
        return
    fits = [(step.running or "", step.new or "", _fit(step)) for step in plan.steps]
    show_table("Steps", ("running", "new", "match"), fits)
    say(f"Mapping: {msgspec.json.encode(plan.mapping).decode()}" if plan.mapping else "No mapping is sent.")


def _fit(step: Any) -> str:
    if step.new is None:
        return "missing"
    if step.running is None:
        return "added"
    return "same" if step.running == step.new else "renamed"


def print_lines(lines: Iterable[dict[str, Any]], as_json: bool) -> None:
    """Each line as it comes: as JSON, or as time and level (if it has them) and text with control characters escaped."""
    for line in lines:
        if as_json:
            typer.echo(json_line(line))
            continue
        head = f"{line['time']:%Y-%m-%d %H:%M:%S} {line['level']:<8} " if "time" in line else ""
        out.print(Text.assemble(head, plain(line["text"])), soft_wrap=True)
