"""``make bench``: every subject side by side, as ratios; absolute figures on a shared machine mean little."""

from __future__ import annotations

from importlib import metadata
from platform import python_version

from benchmarks.events import SEED
from benchmarks.measure import Result, Subject, ratio, run

ROUNDS = 5


def main() -> None:
    packages = ("apache-beam", "msgspec", "pyarrow", "pydantic")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    print(f"Python {python_version()}, {versions}; seed {SEED}; {ROUNDS} rounds in turn\n")
    print("| question | ours against | least | median | most |\n| --- | --- | --- | --- | --- |")
    decoding = run([Subject("decoding", name) for name in ("ecomflow", "limit", "pydantic")], ROUNDS)
    show("decode, validate, model: one core", decoding, {"limit": "msgspec decoding alone", "pydantic": "json, pydantic, dicts"})
    graph = run([Subject("graph", name) for name in ("ecomflow", "per-element", "loop")], ROUNDS)
    show("the Beam graph without I/O", graph, {"per-element": "one Map a step and element", "loop": "a plain loop"})


def show(question: str, results: dict[str, Result], others: dict[str, str]) -> None:
    """A row for each comparison of our rate with another's."""
    for name, words in others.items():
        least, median, most = ratio(results["ecomflow"], results[name])
        print(f"| {question} | {words} | {least:.2f} | {median:.2f} | {most:.2f} |")


if __name__ == "__main__":
    main()
