"""Google's Node and Go clients as programs: built once outside the checkout, and run on a topic or a subscription."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from tests.support.local_pubsub import SUBSCRIPTION, TOPIC

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ecomflow-interop"
PROJECT = TOPIC.split("/")[1]

Option = int | bool


class MissingError(Exception):
    """What a test needs is not on this machine. The message says what, and follows a "because"."""


class Delivery(msgspec.Struct, frozen=True):
    """A message as a client received it, its answer, and the ``seconds`` since the client began to receive."""

    number: int
    key: str
    data: str
    attributes: dict[str, str]
    answer: Literal["ack", "nack", "none"]
    seconds: float


class Program:
    """One of Google's clients as a program, at the Pub/Sub that listens on ``host``."""

    def __init__(self, command: tuple[str, ...], host: str) -> None:
        self._command = command
        self._environment = {**os.environ, "PUBSUB_EMULATOR_HOST": host}

    def publish(self, count: int, **options: Option) -> None:
        """Publish messages 0 to ``count`` - 1, of ``size`` bytes, their ordering keys ``key-0`` to ``key-<keys - 1>`` in turn."""
        printed = self._run("publish", topic=TOPIC, count=count, **options)
        assert msgspec.json.decode(printed) == {"published": count}

    def receive(self, count: int, **options: Option) -> list[Delivery]:
        """The deliveries until ``count`` different messages are acknowledged, by a client that then ends as it should."""
        return deliveries_in(self._run("receive", subscription=SUBSCRIPTION, count=count, **options))

    @contextmanager
    def receiving(
        self, count: int, output: Path, *, subscription: str = SUBSCRIPTION, **options: Option
    ) -> Iterator[subprocess.Popen[bytes]]:
        """``receive`` as a process that writes to the file ``output``, killed at the end of the block."""
        arguments = self._arguments("receive", subscription=subscription, count=count, **options)
        with output.open("wb") as file, subprocess.Popen(arguments, stdout=file, env=self._environment) as process:
            try:
                yield process
            finally:
                process.kill()

    def _run(self, command: str, **options: Any) -> bytes:
        arguments = self._arguments(command, **options)
        result = subprocess.run(arguments, capture_output=True, timeout=60, env=self._environment, check=False)
        assert result.returncode == 0, result.stderr.decode(errors="replace")
        return result.stdout

    def _arguments(self, command: str, **options: Any) -> list[str]:
        given = {"project": PROJECT} | options
        flags = [
            f"--{name.replace('_', '-')}" if value is True else f"--{name.replace('_', '-')}={value}"
            for name, value in given.items()
        ]
        return [*self._command, command, *flags]


def deliveries_in(printed: bytes) -> list[Delivery]:
    """The deliveries in what a client has printed so far; a last line that is not complete is not one yet."""
    return [msgspec.json.decode(line, type=Delivery) for line in printed[: printed.rfind(b"\n") + 1].splitlines()]


def node_command() -> tuple[str, ...]:
    node, npm = path_of("node"), path_of("npm")
    install = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    return node, str(_built("node", install) / "client.mjs")


def go_command() -> tuple[str, ...]:
    build = [path_of("go"), "build", "-mod=readonly", "-buildvcs=false", "-o", "client", "."]
    return (str(_built("go", build) / "client"),)


COMMANDS: Mapping[str, Callable[[], tuple[str, ...]]] = {"Node": node_command, "Go": go_command}
"""What builds the program of each client and gives its command; raises MissingError."""


def path_of(name: str) -> str:
    """Where the program ``name`` is. Raises MissingError."""
    found = shutil.which(name)
    if found is None:
        raise MissingError(f"{name} is not in the PATH")
    return found


def _built(name: str, command: list[str]) -> Path:
    """A copy of the folder ``name`` in the cache, in which ``command`` was run: again only after a file of the folder changed."""
    source, folder = HERE / name, CACHE / name
    state = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(source.iterdir()))).hexdigest()
    built = folder / "built"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists() or built.read_text() != state:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(source, folder)
            result = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            assert result.returncode == 0, f"{' '.join(command)} in {folder}:\n{result.stdout}{result.stderr}"
            built.write_text(state)
    return folder
