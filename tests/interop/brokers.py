"""Brokers that are not ecomflow's own: Google's emulator, and one that keeps messages for a week at most."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.pubsub_v1 import types

from ecomflow.processes.detached import free_port
from tests.interop.programs import MissingError, path_of
from tests.support.fronts import GrpcFront, Refuse
from tests.support.local_pubsub import ServerProcess
from tests.support.waiting import wait_until

# Where Google's Debian package google-cloud-cli-pubsub-emulator, or its component of the Google Cloud CLI, has it.
_EMULATORS = ("/usr/lib/google-cloud-sdk", "~/google-cloud-sdk")
_JAR = "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar"
_MOST_SECONDS = 7 * 86_400


@contextmanager
def google_emulator(folder: Path) -> Iterator[str]:
    """Google's own emulator, in Java; where it listens. Raises MissingError without it."""
    port = free_port()
    command = [path_of("java"), "-jar", str(_emulator_jar()), "--host=127.0.0.1", f"--port={port}"]
    with (folder / "emulator.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_until(lambda: process.poll() is not None or _listens(port), "the emulator listens")
            assert process.poll() is None, (folder / "emulator.log").read_text(errors="replace")
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()


def _emulator_jar() -> Path:
    given = os.environ.get("PUBSUB_EMULATOR_JAR")
    found = [Path(given)] if given else [jar for root in _EMULATORS for jar in Path(root).expanduser().glob(_JAR)]
    if not found or not found[0].exists():
        raise MissingError("its package google-cloud-cli-pubsub-emulator is not installed, and PUBSUB_EMULATOR_JAR names no jar")
    return found[0]


def _listens(port: int) -> bool:
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def strict_broker(folder: Path) -> Iterator[str]:
    """The embedded Pub/Sub, but without what only it has, and refusing to keep messages for more than a week."""
    with ServerProcess(folder / "strict") as server, closing(GrpcFront(server.host)) as front:
        front.plan = _refusal
        yield front.address


_CONFIGS: Mapping[str, Callable[[bytes], Any]] = {
    "CreateTopic": types.Topic.pb().FromString,
    "UpdateTopic": lambda request: types.UpdateTopicRequest.pb().FromString(request).topic,
    "CreateSubscription": types.Subscription.pb().FromString,
    "UpdateSubscription": lambda request: types.UpdateSubscriptionRequest.pb().FromString(request).subscription,
}
_OWN = ("Get", "Damage")  # of ecomflow.local.Stats


def _refusal(method: str, request: bytes) -> Refuse | None:
    if method in _OWN:
        return Refuse(grpc.StatusCode.UNIMPLEMENTED, "Method not found: ecomflow.local.Stats")
    if method in _CONFIGS and _CONFIGS[method](request).message_retention_duration.seconds > _MOST_SECONDS:
        return Refuse(grpc.StatusCode.INVALID_ARGUMENT, "message_retention_duration out of bounds: expected up to 7 days")
    return None


BROKERS: Mapping[str, Callable[[Path], AbstractContextManager[str]]] = {
    "Google's emulator": google_emulator,
    "a broker that keeps messages for a week at most": strict_broker,
}
