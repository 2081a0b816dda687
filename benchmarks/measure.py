"""Subjects in, metrics out: each subject in a process of its own, in turn, several rounds; a ratio is taken round by round.

A subject that fails leaves its error in the place of its metrics, and the others go on.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from benchmarks.throwaway import environment

# A subject that gets SIGTERM stops its stack and its pipeline first.
_END_SECONDS = 90.0

Metrics = dict[str, Any]


class Subject(NamedTuple):
    """What is measured: ``python -m benchmarks.MODULE --subject NAME ARGUMENTS`` prints metrics, a JSON object, as its last line.

    ``key`` names it within its question's results; ``label`` describes it to the reader; a long one runs at most ``max_rounds``.
    """

    key: str
    module: str
    name: str
    label: str
    arguments: tuple[str, ...] = ()
    max_rounds: int | None = None


class SubjectError(Exception):
    """A subject's process failed: its command and the end of what it said."""


class Ratio(NamedTuple):
    """One subject's metric over another's: minimum, median and maximum of the rounds that both have."""

    minimum: float
    median: float
    maximum: float


def run(subjects: Sequence[Subject], rounds: int, say: Callable[[str], None]) -> dict[str, list[Metrics]]:
    """The metrics of each subject, round by round, ``{"error": ...}`` where it failed.

    The subjects take turns, A B C A B C: what slows the machine slows them alike.
    """
    found: dict[str, list[Metrics]] = {subject.key: [] for subject in subjects}
    for number in range(1, rounds + 1):
        for subject in subjects:
            if subject.max_rounds is not None and number > subject.max_rounds:
                continue
            say(f"round {number} of {rounds}: {subject.label}")
            try:
                metrics = run_once(subject)
            except SubjectError as error:
                say(f"failed: {error}")
                metrics = {"error": str(error)}
            found[subject.key].append(metrics)
    return found


def run_once(subject: Subject) -> Metrics:
    """What the subject's process prints last. It is ended, and all that it started, where this call is interrupted."""
    command = [sys.executable, "-m", f"benchmarks.{subject.module}", "--subject", subject.name, *subject.arguments]
    # In a session of its own, so that Ctrl-C reaches it once, as the SIGTERM below, and does not break its own tidying up.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    )
    try:
        stdout, stderr = process.communicate()
    finally:
        if process.poll() is None:
            _end(process)
    try:
        if process.returncode == 0:
            metrics: Metrics = json.loads(stdout.splitlines()[-1])
            return metrics
    except (IndexError, ValueError):
        pass  # it printed no metrics
    tail = "\n".join([*stdout.splitlines(), *stderr.splitlines()][-15:])
    raise SubjectError(f"python -m benchmarks.{subject.module} --subject {subject.name} ended with {process.returncode}:\n{tail}")


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    with suppress(ProcessLookupError):  # nothing of its group is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ratio(ours: Sequence[Metrics], theirs: Sequence[Metrics], name: str) -> Ratio | None:
    """Our metric ``name`` over theirs, round by round; None where no round has both."""
    pairs = [(mine[name], other[name]) for mine, other in zip(ours, theirs, strict=False) if name in mine and name in other]
    ratios = [mine / other for mine, other in pairs]
    return Ratio(min(ratios), statistics.median(ratios), max(ratios)) if ratios else None


def median(rounds: Sequence[Metrics], name: str) -> float | None:
    """The median of the metric ``name``; None where no round has it."""
    values = [metrics[name] for metrics in rounds if metrics.get(name) is not None]
    return statistics.median(values) if values else None
