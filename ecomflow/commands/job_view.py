"""Records of jobs in; tables and sentences for a person, or lines of JSON for a program, out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import typer
from rich.text import Text

from ecomflow.terminal.amounts import length
from ecomflow.terminal.console import inert_json, out, plain, say, show_counts, show_table

_OF_TOP = ("in/", "out/", "refused_in/", "latency/")


def show_local(status: Any) -> None:
    """How the local pipeline fares, or has ended."""
    if status.counters:
        show_counts("Counters of this run", _in_short(status.counters))
    sentences = {
        "running": f"The pipeline runs as process {status.pid}.",
        "drained": "The pipeline is drained.",
        "failed": f"The pipeline failed: {status.last_failure}",
        "gone": f"The pipeline (process {status.pid}) was killed; what it had not acknowledged comes again. Run: ecomflow deploy",
        "none": "There is no local pipeline. Run: ecomflow deploy",
    }
    say(sentences[status.state] + (f" It restarted {status.restarts} times." if status.restarts else ""))


def show_detail(detail: Any) -> None:
    """How a job on Dataflow fares."""
    job = detail.job
    say(f"Job {job.name} ({job.id}) in {job.region} is {job.state}; it was created {length(job.age_seconds)} ago.")
    workers = None if detail.workers is None else f"{detail.workers} of {detail.target_workers} wanted"
    rate = detail.events_per_second
    throughput = None if rate is None else f"{rate:,.1f} events/s over {length(detail.throughput_seconds)}"
    facts = (
        ("workers", workers),
        ("throughput", throughput),
        ("system lag", length(detail.system_lag_seconds) or None),
        ("data freshness", length(detail.data_freshness_seconds) or None),
    )
    show_table("", ("what", "value"), [(what, value or "not told yet") for what, value in facts])
    if detail.counters:
        show_counts("Counters", _in_short(detail.counters))
    if detail.errors:
        show_table("Errors of the last day", ("when", "error"), [(f"{e.time:%Y-%m-%d %H:%M:%S}", e.text) for e in detail.errors])


def _in_short(counters: Mapping[str, int]) -> dict[str, int]:
    """By name, without those of steps and of latency: ``ecomflow top`` shows these, ``ecomflow job metrics`` all."""
    return {name: amount for name, amount in sorted(counters.items()) if not name.startswith(_OF_TOP)}


def show_plan(plan: Any) -> None:
    """Which new step takes the place of each step, and the mapping that an update sends."""
    if not any(step.running for step in plan.steps):
        say("Dataflow describes no steps of the running job: only it can judge whether the new graph fits.")
        return
    fits = [(step.running or "", step.new or "", _fit(step)) for step in plan.steps]
    show_table("Steps", ("running", "new", "fit"), fits)
    say(f"Mapping to send: {msgspec.json.encode(plan.mapping).decode()}" if plan.mapping else "No mapping is sent.")


def _fit(step: Any) -> str:
    if step.new is None:
        return "missing"
    if step.running is None:
        return "added"
    return "same" if step.running == step.new else "renamed"


def print_lines(lines: Iterable[dict[str, Any]], as_json: bool) -> None:
    """Each as it comes: a JSON object, or its time and level where it has them, and its text as inert text."""
    for line in lines:
        if as_json:
            typer.echo(inert_json(msgspec.json.encode(line)))
            continue
        head = f"{line['time']:%Y-%m-%d %H:%M:%S} {line['level']:<8} " if "time" in line else ""
        out.print(Text.assemble(head, plain(line["text"])), soft_wrap=True)
