"""Settings and endpoints travel as one ``Target``, which makes Google's clients and closes them; the exceptions, and why."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import ecomflow
import ecomflow.gcp.clients

# By file: why a client is made there. A worker has a PipelineConfig instead of a Target, and its Runtime closes what it makes.
REASONS = {
    "gcp/clients.py": "every client is made here",
    "gcp/target.py": "keeps the clients of one command, and closes them",
    "gcp/publishing.py": "closing a connection of its own ends the requests in flight, after Ctrl-C too",
    "pipeline/direct/puller.py": "worker: closing a connection of its own ends the outstanding pulls",
    "pipeline/sinks/bigquery.py": "worker",
    "pipeline/sinks/dead_letters.py": "worker",
}
_MAKERS = {name for name in vars(ecomflow.gcp.clients) if name.endswith(("_client", "_clients"))}


def trees() -> Iterator[tuple[str, ast.Module]]:
    root = Path(ecomflow.__file__).parent
    for path in sorted(root.rglob("*.py")):
        yield path.relative_to(root).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def makes_clients(tree: ast.Module) -> bool:
    """Whether a module takes a function of ``gcp.clients`` that makes a client, or calls one of Google's classes itself."""
    called = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    taken = {name.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names}
    made = {name.rpartition(".")[2] for name in called} | taken
    return any(name.endswith("Client") for name in called) or bool(_MAKERS & made)


def takes_both(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function has both among its parameters, by type."""
    parameters = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return {"Settings", "Endpoints"} <= {ast.unparse(one.annotation) for one in parameters if one.annotation is not None}


def test_clients_are_made_by_the_target() -> None:
    """No other module makes one, and no reason is left over."""
    assert {name for name, tree in trees() if makes_clients(tree)} == set(REASONS)


def test_no_function_takes_both() -> None:
    """Only a Target is made of settings and endpoints; everything else takes it, or just the settings."""
    found = {
        f"{name}:{function.name}"
        for name, tree in trees()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and takes_both(function)
    }
    assert found == {"gcp/target.py:__init__"}
