"""The results, kept as JSON next to this module, so that a partial run keeps the metrics of the other questions."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from benchmarks.events import SEED
from benchmarks.measure import Metrics

RESULTS = Path(__file__).with_name("results.json")
PACKAGES = (
    "apache-beam",
    "msgspec",
    "pyarrow",
    "pydantic",
    "typer",
    "faker",
    "google-cloud-pubsub",
    "grpcio",
    "bqemulator",
    "duckdb",
)

# By question: {"machine": machine(), "rounds": {subject key: [metrics of a round]}}.
Results = dict[str, dict[str, Any]]


def load(path: Path = RESULTS) -> Results:
    """The results so far; empty if there are none."""
    if not path.exists():
        return {}
    found: Results = json.loads(path.read_text())
    return found


def save(results: Results, path: Path = RESULTS) -> None:
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(_rounded(results), indent=1, sort_keys=True) + "\n")
    draft.replace(path)


def keep(key: str, rounds: dict[str, list[Metrics]], path: Path = RESULTS) -> None:
    """Put the metrics of the question ``key``, and what they ran on, in the place of its earlier ones; the others stay."""
    save({**load(path), key: {"machine": machine(), "rounds": rounds}}, path)


def machine() -> dict[str, Any]:
    """The machine and the versions; nothing that identifies the machine."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _cpu_model(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "seed": SEED,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _rounded(value: Any) -> Any:
    """Numbers to four places or six digits: more would be noise, and make every rerun's diff longer."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) >= 1 else round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value
