"""Google's clients are made by the ``Target``, their errors translated by ``gcp.errors``; the exceptions, and why."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import ecomflow
import ecomflow.gcp.clients

# By file: why a client is made there. A worker has a PipelineConfig instead of a Target, and its Runtime closes what it makes.
CLIENTS = {
    "gcp/clients.py": "every client is made here",
    "gcp/target.py": "keeps the clients of one command, and closes them",
    "gcp/publishing.py": "closing a connection of its own ends the requests in flight, after Ctrl-C too",
    "pipeline/direct/puller.py": "worker: closing a connection of its own ends the outstanding pulls",
    "pipeline/sinks/bigquery.py": "worker",
    "pipeline/sinks/dead_letters.py": "worker",
}
# By file: which of Google's errors are decided on there, and not left to the translation.
ERRORS = {
    "deadletters/replay.py": "404 and 412: another replay was there first; 403 after the events are published",
    "deadletters/store.py": "404 and 410 of a listed object: it is gone, or damaged",
    "doctor/probe.py": "504: no message yet; 412: the object is protected, as it should be",
    "gcp/clients.py": "no credentials: named before a service is called",
    "gcp/credentials.py": "credentials are verified before a service is called",
    "gcp/errors.py": "the translation",
    "gcp/publishing.py": "400: it is the events that are refused, not a setting",
    "infra/changes.py": "404 and 409: already deleted, or already created",
    "infra/observe.py": "404: not there",
    "infra/requests.py": "503: sent again, for as long as the service's patience",
    "infra/services.py": "makes Google's errors of plain HTTP answers",
    "jobs/client.py": "400 and 409: the job's state does not allow the change",
    "pipeline/dataflow/submit.py": "409: another job of this name was there first",
    "pipeline/direct/ack_requests.py": "400: the request is halved until the bad ack id is found",
    "pipeline/direct/puller.py": "worker: waits for what may pass, for as long as it takes",
    "pipeline/quarantine.py": "worker: what is not the message's fault",
    "pipeline/sinks/bigquery.py": "worker: waits for what may pass; errors are those of an append",
    "pipeline/sinks/dead_letters.py": "worker: waits for what may pass; errors are those of an upload",
    "warehouse/queries.py": "400: it is the query that is refused, not a setting",
}
_ERROR_MODULES = ("google.api_core.exceptions", "google.auth.exceptions", "requests.exceptions")
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


def imports_errors(tree: ast.Module) -> bool:
    """Whether a module imports Google's exceptions, or those of the library below its clients."""
    found = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{name.name}" for name in node.names)}
    return bool(found & set(_ERROR_MODULES))


def takes_both(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function has both among its parameters, by type."""
    parameters = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return {"Settings", "Endpoints"} <= {ast.unparse(one.annotation) for one in parameters if one.annotation is not None}


def test_clients_are_made_by_the_target() -> None:
    """No other module makes one, and no reason is left over."""
    assert {name for name, tree in trees() if makes_clients(tree)} == set(CLIENTS)


def test_no_function_takes_both() -> None:
    """Only a Target is made of settings and endpoints; everything else takes it, or just the settings."""
    found = {
        f"{name}:{function.name}"
        for name, tree in trees()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and takes_both(function)
    }
    assert found == {"gcp/target.py:__init__"}


def test_errors_are_translated_in_one_place() -> None:
    """No other module names one of Google's errors, and no reason is left over."""
    assert {name for name, tree in trees() if imports_errors(tree)} == set(ERRORS)
