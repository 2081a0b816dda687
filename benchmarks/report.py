"""Results in, docs/performance.md out: a section for each question, with its tables, failures and picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.questions import QUESTIONS, Question
from benchmarks.results import Results
from benchmarks.tables import TABLES, Rounds, ratios

HEAD = """\
# Performance

`make bench` (`python -m benchmarks`) writes this page. `python -m benchmarks end-to-end latency` measures only some of the
questions and keeps the results of the others; `--render` only writes the page again from `benchmarks/results.json`.

Every subject runs in its own process, on the same events, in turn with the subjects that it is compared with. On a shared
machine absolute numbers mean little: compare the ratios. A ratio is taken within each round, and the tables show the min,
median and max of the rounds. Each target was set before anything was measured, and the median decides whether it is met.
"""


def page(results: Results) -> str:
    """The whole of docs/performance.md."""
    asked = [question for question in QUESTIONS.values() if question.key in results]
    common = results[asked[0].key]["machine"] if asked else None
    parts = [HEAD, *([machine_line(common) + "\n"] if common else [])]
    for question in asked:
        entry = results[question.key]
        lines = list(section(question, entry["rounds"]))
        if entry["machine"] != common:
            lines += ["", f"Measured on: {machine_line(entry['machine'])}"]
        parts.append("\n".join(lines) + "\n")
    if missing := [question.title for question in QUESTIONS.values() if question.key not in results]:
        parts.append(f"Not measured yet: {'; '.join(missing)}.\n")
    return "\n".join(parts)


def machine_line(machine: Mapping[str, Any]) -> str:
    """The machine and the versions, as a sentence."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    hardware = f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gb']} GB, {machine['system']}"
    return f"{hardware}, Python {machine['python']}; {packages}; seed {machine['seed']}."


def section(question: Question, rounds: Rounds) -> Iterator[str]:
    """Heading, description, tables, failures, and the picture."""
    yield f"## {question.number}. {question.title}\n"
    yield question.about + "\n"
    yield from TABLES.get(question.key, ratios)(question, rounds)
    for subject in question.subjects:
        errors = [metrics["error"] for metrics in rounds.get(subject.key, ()) if "error" in metrics]
        if errors:
            count = f"{len(errors)} of {len(rounds[subject.key])} rounds"
            yield f"\nFailed in {count}: {subject.label}: `{_last_line(errors[-1])}`"
    yield f"\n![{question.title}](pictures/performance-{question.key}.svg)"


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1].replace("`", "'")[:300]
