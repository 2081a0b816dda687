"""Where the package imports something within a function, and why: everywhere else imports stand at the top of their module."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import ecomflow

# By file or folder: why something is imported there only when it is used.
REASONS = {
    "cli.py": "an error's presentation needs Rich, which --help must not wait for",
    "commands/deploy.py": "submitting imports Beam, which takes seconds that a pipeline on this machine does not need here",
    "commands/doctor.py": "the probe imports Google's data clients, which a look needs none of",
    "commands/dlq.py": "Dataflow's client: for a job there, not for a pipeline on this machine",
    "commands/infra.py": "the embedded Pub/Sub's gRPC: for the local stack, not for a project",
    "commands/job.py": "Dataflow's client: for a job there, not for a pipeline on this machine",
    "commands/publish.py": "Arrow, with which the generator checks events as the pipeline does, and which --help does not need",
    "commands/reconcile.py": "Arrow, which is not needed where an option is wrong",
    "commands/start.py": "demo imports the whole path, which init does not need",
    "commands/top.py": "termios and tty are there on Unix only",
    "commands/ui.py": "optional extra",
    "deadletters": "Google's exceptions, once a call is made",
    "doctor/checks.py": "Google's clients, once something is asked of them",
    "gcp": "each of Google's libraries with the first client of its service",
    "generator": "Faker with the first event; Google's exceptions, once a call is made",
    "infra/__init__.py": "Google's clients, once something is asked of them",
    "infra/ownership.py": "Google's clients, once something is asked of them",
    "jobs": "Google's clients, once something is asked of them",
    "local/bigquery": "optional extra",
    "local/storage": "optional extra",
    "pipeline/counters.py": "psutil, which a worker of Dataflow may lack",
    "pipeline/dataflow/options.py": "difflib, for an option that is misspelt",
    "pipeline/direct": "Beam, once the engine starts",
    "ui": "optional extra; Beam in a process of its own",
    "warehouse": "Google's clients, once a question is asked",
}


def inner_imports() -> Counter[str]:
    """How many imports stand within functions, by the entry of ``REASONS`` that they belong to, or by their own file."""
    root = Path(ecomflow.__file__).parent
    found: Counter[str] = Counter()
    for path in root.rglob("*.py"):
        tree, name = ast.parse(path.read_text(encoding="utf-8")), str(path.relative_to(root))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        inner = {
            id(node) for function in functions for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)
        }
        if inner:
            place = next((known for known in REASONS if name == known or name.startswith(f"{known}/")), name)
            found[place] += len(inner)
    return found


def test_an_import_within_a_function_has_a_reason() -> None:
    """No other file has one, and no reason is left over."""
    assert set(inner_imports()) == set(REASONS)
