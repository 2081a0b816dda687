"""``make bench``: runs the subjects of each question side by side; writes results.json, docs/performance.md and its pictures."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import growth, measure, report, results
from benchmarks.pictures import draw
from benchmarks.questions import QUESTIONS, Question
from benchmarks.throwaway import end_on_sigterm

DOCS = Path(__file__).parent.parent / "docs"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("questions", nargs="*", metavar="question", help=f"{', '.join(QUESTIONS)}; default: all")
    parser.add_argument("--rounds", type=int, help="rounds of every subject; default: each question's own number")
    parser.add_argument("--full", action="store_true", help="growth: also a million events of every order size")
    parser.add_argument("--render", action="store_true", help="measure nothing; write the page from the existing results")
    chosen = parser.parse_args(arguments)
    if strangers := set(chosen.questions) - QUESTIONS.keys():
        parser.error(f"expected questions among {', '.join(QUESTIONS)}; found {', '.join(sorted(strangers))}")
    end_on_sigterm()
    try:
        for key in () if chosen.render else chosen.questions or QUESTIONS:
            ask(QUESTIONS[key], chosen.rounds, is_full=chosen.full)
    except KeyboardInterrupt:
        sys.exit("Interrupted: benchmarks/results.json has the questions that were finished; --render writes the page.")
    render()


def ask(question: Question, rounds: int | None, *, is_full: bool) -> None:
    """Run the subjects of the question, keep their metrics, print its section."""
    if question.key == "growth":
        question = question._replace(subjects=growth.subjects(is_full))
    say(f"{question.number}. {question.title}")
    found = measure.run(question.subjects, rounds or question.rounds, say)
    results.keep(question.key, found)
    print("\n".join(report.section(question, found)), flush=True)


def render() -> None:
    """The page and the pictures, from all results."""
    found = results.load()
    (DOCS / "performance.md").write_text(report.page(found))
    draw(found, DOCS / "pictures")
    say(f"Written: {DOCS / 'performance.md'}")


def say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
