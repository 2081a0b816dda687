"""Metrics of a pipeline, each with a value of its own."""

from __future__ import annotations

from ecomflow.metrics.snapshot import LATENCY_BOUNDS, PipelineMetrics, StepMetrics, TableMetrics

METRICS = PipelineMetrics(
    at=1000.0,
    state="running",
    where="local",
    started=900.5,
    processes=2,
    steps=(StepMetrics("Decode events", 10, 7, 3),),
    tables=(TableMetrics("fact_order", 5, 999.25), TableMetrics("fact_inventory")),
    refused={'malformed "json"\n': 3},
    received=10,
    latency=(0, 0, 4, *(0,) * (len(LATENCY_BOUNDS) - 4), 2, 1),
    bundles=4,
    retries=1,
    restarts=2,
    waiting_for="BigQuery",
    memory_bytes=123456,
    backlog=8,
    oldest_unacked_seconds=1.5,
)
