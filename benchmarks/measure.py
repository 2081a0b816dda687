"""Subjects in, ratios out: each subject in a process of its own, in turn, several rounds; the ratio is taken round by round."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple


class Subject(NamedTuple):
    """What is measured: a module of this folder with a ``measure(name, ...)`` behind ``--subject NAME``."""

    module: str
    name: str
    arguments: tuple[str, ...] = ()


class Result(NamedTuple):
    """The figures of one subject: what each round printed, as JSON objects with at least ``rate``."""

    subject: Subject
    rounds: tuple[dict[str, Any], ...]

    @property
    def rate(self) -> float:
        return statistics.median(figures["rate"] for figures in self.rounds)


def run(subjects: Sequence[Subject], rounds: int) -> dict[str, Result]:
    """The subjects in turn, A B C A B C: what slows the machine slows them alike."""
    found: dict[str, list[dict[str, Any]]] = {subject.name: [] for subject in subjects}
    for _ in range(rounds):
        for subject in subjects:
            found[subject.name].append(run_once(subject))
    return {subject.name: Result(subject, tuple(found[subject.name])) for subject in subjects}


def run_once(subject: Subject) -> dict[str, Any]:
    """The last line that the subject's process prints, a JSON object."""
    command = [sys.executable, "-m", f"benchmarks.{subject.module}", "--subject", subject.name, *subject.arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONHASHSEED": "0"})
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def ratio(ours: Result, theirs: Result) -> tuple[float, float, float]:
    """Our rate over theirs, round by round: the least, the median, the most."""
    ratios = [mine["rate"] / other["rate"] for mine, other in zip(ours.rounds, theirs.rounds, strict=True)]
    return min(ratios), statistics.median(ratios), max(ratios)
