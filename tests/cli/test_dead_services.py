"""A service that is down: every command that needs it says so within seconds, in one sentence with the command to run."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ecomflow.config import Endpoints, Settings
from ecomflow.gcp.errors import words_of_connection
from tests.support.cli import ecomflow
from tests.support.running import settings_in

# Far less than Google's clients would go on trying: two minutes, or ten.
SECONDS = 60.0
STORAGE, WAREHOUSE, PUBSUB = "Cloud Storage", "BigQuery", "Pub/Sub"
_OF_LETTERS = ("dlq inspect", "dlq inspect --follow", "dlq stats", "dlq replay --dry-run", "dlq export -", "reconcile")
COMMANDS = [
    *[(STORAGE, command) for command in _OF_LETTERS],
    *[(WAREHOUSE, command) for command in ("query sales-per-product", "reconcile")],
    *[(PUBSUB, command) for command in ("publish --n 1", "reconcile")],
]


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def without(provisioned: Settings, stack: Endpoints, tmp_path: Path, free_port: int) -> Callable[[str], Settings]:
    """Settings of a local stack in which one service, by its title, is down."""

    def settings_without(service: str) -> Settings:
        name, scheme = {STORAGE: ("storage", "http://"), WAREHOUSE: ("bigquery", "http://"), PUBSUB: ("pubsub", "")}[service]
        return settings_in(tmp_path, provisioned, msgspec.structs.replace(stack, **{name: f"{scheme}127.0.0.1:{free_port}"}))

    return settings_without


@pytest.mark.stack
@pytest.mark.timeout(2 * SECONDS)
class TestCommands:
    @pytest.mark.parametrize(("service", "command"), COMMANDS, ids=[f"{command}: {service}" for service, command in COMMANDS])
    def test_it_is_named_with_what_to_do(
        self, service: str, command: str, without: Callable[[str], Settings], free_port: int
    ) -> None:
        """Exit code 4; no word of connection pools or retries."""
        found = ecomflow(*command.split(), settings=without(service), timeout=SECONDS)
        assert found.returncode == 4, found.stderr
        (sentence,) = [line for line in found.stderr.splitlines() if line.startswith("Error: ")]
        assert f"{service} at " in sentence
        assert f"127.0.0.1:{free_port}" in sentence
        assert sentence.endswith(": the connection was refused.")
        assert "ecomflow infra up" in found.stderr

    def test_doctor_names_it_among_what_is_well(self, without: Callable[[str], Settings], free_port: int) -> None:
        """The bucket's line fails, with the same sentence."""
        found = ecomflow("doctor", settings=without(STORAGE), timeout=SECONDS)
        assert found.returncode == 4
        (line,) = [line for line in found.stdout.splitlines() if line.startswith("FAILED")]
        assert f"{STORAGE} at http://127.0.0.1:{free_port} does not answer: the connection was refused." in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "HTTPConnectionPool(host='127.0.0.1', port=9): Max retries exceeded with url: /storage/v1/b (Caused by "
            "NewConnectionError('<urllib3.connection.HTTPConnection object at 0x7f>: Failed to establish a new connection: "
            "[Errno 111] Connection refused'))",
            "the connection was refused",
        ),
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:9: Failed to connect to remote host: "
            "connect: Connection refused (111)",
            "the connection was refused",
        ),
        ("HTTPConnectionPool(host='127.0.0.1', port=9): Read timed out. (read timeout=10.0)", "it timed out after 10 s"),
        (
            "('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))",
            "the connection was closed",
        ),
        ("('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))", "the connection was closed"),
        ("Backend error", "Backend error"),
    ],
)
def test_what_became_of_a_connection(text: str, words: str) -> None:
    """Without the layers of the libraries that it has passed; what a service itself says stays."""
    assert words_of_connection(text) == words
