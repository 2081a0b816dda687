"""What the tests share: one local stack for the whole run, and settings of its own for each test that uses it."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ecomflow.config import Endpoints, Settings
from ecomflow.gcp.target import Target
from ecomflow.loopback.proxies import bypass_proxies

if TYPE_CHECKING:
    from tests.support.project import Project

for name in list(os.environ):
    if name.startswith("ECOMFLOW_") or name.endswith("_EMULATOR_HOST"):
        del os.environ[name]

# A developer may work behind a company's proxy: what the tests ask on this machine does not go through it.
bypass_proxies()

# A shell starts what it puts in the background (``make test &`` in a script) with SIGINT ignored, and so would be every command
# that these tests start and interrupt. A disposition that is no longer "ignore" is the default one in a new program.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What a command prints within a test's own process must not depend on the terminal that the tests are run from.
os.environ["COLUMNS"] = "200"


@pytest.fixture(scope="session")
def stack_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of the stack that the whole run shares."""
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="session")
def stack(stack_folder: Path) -> Iterator[Endpoints]:
    """The local services, as processes, for the whole run."""
    from ecomflow.local.supervisor import running_stack

    with running_stack(stack_folder) as endpoints:
        yield endpoints


@pytest.fixture
def settings(stack: Endpoints, stack_folder: Path) -> Settings:
    """Settings whose topic, subscription, bucket and dataset no other test uses; nothing is created yet."""
    unique = uuid.uuid4().hex[:8]
    return Settings(
        topic=f"topic-{unique}",
        subscription=f"sub-{unique}",
        bucket=f"bucket-{unique}",
        dataset=f"dataset_{unique}",
        ack_deadline_seconds=10,
        state_dir=str(stack_folder),
    )


@pytest.fixture
def target(settings: Settings, stack: Endpoints) -> Iterator[Target]:
    """The local stack with those settings."""
    with Target(settings, stack) as target:
        yield target


@pytest.fixture
def provisioned(settings: Settings, target: Target) -> Settings:
    """The same, with everything created."""
    from ecomflow import infra

    infra.apply(target, infra.plan(target))
    return settings


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Project], Endpoints]]:
    """Serves a project, as the emulator variables tell, and gives its endpoints."""
    with ExitStack() as servers:

        def serve(project: Project) -> Endpoints:
            url, pubsub = servers.enter_context(project.over_http()), servers.enter_context(project.over_grpc())
            for name in ("SERVICEUSAGE", "CLOUDRESOURCEMANAGER", "IAM"):
                monkeypatch.setenv(f"{name}_EMULATOR_HOST", url)
            return Endpoints(pubsub=pubsub, storage=url, bigquery=url, bigquery_storage=pubsub, dataflow=url)

        yield serve
