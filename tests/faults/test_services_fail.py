"""The local services are killed, stopped and starved under load while a pipeline runs: it waits, says so, and goes on."""

from __future__ import annotations

import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from ecomflow.config import Endpoints, Settings, read_stack_endpoints
from ecomflow.errors import EcomflowError
from ecomflow.gcp.target import Target
from ecomflow.generator import publisher
from ecomflow.local import supervisor
from ecomflow.local.supervisor import SERVICES
from tests.support.cli import ecomflow
from tests.support.running import Load, Pipeline, equation_holds, events, publish
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]

WAITS = {
    "pubsub": "Waiting for Pub/Sub",
    "storage": "Waiting for the bucket to accept dead letters",
    "bigquery": "Waiting for BigQuery to accept rows of",
}


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A local stack of this module alone, brought up and provisioned by the command that a user types."""
    folder = tmp_path_factory.mktemp("own-stack")
    settings = Settings(ack_deadline_seconds=10, state_dir=str(folder))
    made = ecomflow("infra", "up", settings=settings)
    assert made.returncode == 0, made.stderr
    yield settings
    supervisor.down(folder)


@pytest.fixture(scope="module")
def module_pipeline(own_stack: Settings) -> Iterator[Pipeline]:
    pipeline = Pipeline(own_stack)
    yield pipeline
    pipeline.end()


@pytest.fixture
def own_pipeline(module_pipeline: Pipeline) -> Pipeline:
    """The pipeline of this module's stack; started again where a test before has ended it."""
    return module_pipeline.started()


@pytest.fixture
def endpoints(own_stack: Settings) -> Endpoints:
    found = read_stack_endpoints(own_stack.state_path)
    assert found is not None
    return found


def process_of(name: str, settings: Settings) -> psutil.Process:
    (pid,) = [service.pid for service in supervisor.status(settings.state_path).services if service.name == name]
    return psutil.Process(pid)


@pytest.mark.parametrize(
    "name", ["pubsub", pytest.param("storage", marks=pytest.mark.faults), pytest.param("bigquery", marks=pytest.mark.faults)]
)
def test_a_service_is_killed_and_comes_back(
    name: str, own_stack: Settings, own_pipeline: Pipeline, endpoints: Endpoints, ledger: Path
) -> None:
    """The pipeline, which goes on running, names what it waits for; infra up repairs the service where it was."""
    said = len(own_pipeline.said())
    target = Target(own_stack, endpoints)
    with Load(target, ledger, rate=200, seed=1) as load:
        wait_until(lambda: load.published > 200, "the load flows")
        process_of(name, own_stack).kill()
        own_pipeline.says(WAITS[name], since=said)
        repaired = ecomflow("infra", "up", settings=own_stack)
        assert repaired.returncode == 0, repaired.stderr
        before = load.published
        wait_until(lambda: load.published > before + 200, "the load flows on")
    assert read_stack_endpoints(own_stack.state_path) == endpoints
    equation_holds(target, ledger)


def suspend(names: list[str], seconds: float, target: Target, ledger: Path) -> None:
    """Stop the services for a time under load, and let them go on; then do the sum."""
    processes = [process_of(name, target.settings) for name in names]
    with Load(target, ledger, rate=200, seed=2) as load:
        wait_until(lambda: load.published > 200, "the load flows")
        try:
            for process in processes:
                process.suspend()
            threading.Event().wait(seconds)  # the fault is the time itself
        finally:
            for process in processes:
                process.resume()
        before = load.published
        wait_until(lambda: load.published > before + 200, "the load flows on")
    equation_holds(target, ledger)


@pytest.mark.faults
@pytest.mark.parametrize("seconds", [3, 70])
def test_all_services_stop_for_a_while(
    seconds: float, own_stack: Settings, own_pipeline: Pipeline, endpoints: Endpoints, ledger: Path
) -> None:
    """Services that take calls but do not answer, for a moment or for longer than any timeout of ours, lose nothing."""
    suspend([*SERVICES], seconds, Target(own_stack, endpoints), ledger)


def starve(process: psutil.Process, folder: Path) -> tuple[int, int]:
    """No file of ``process`` may grow beyond the largest of ``folder``: to it, a full disk. Returns the limit that was."""
    largest = max((path.stat().st_size for path in folder.rglob("*") if path.is_file()), default=0)
    return resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))


def test_pubsub_has_no_room(own_stack: Settings, own_pipeline: Pipeline, endpoints: Endpoints, ledger: Path) -> None:
    """With a full disk Pub/Sub takes no event and says why; what it had taken flows, and with room again all does."""
    process = process_of("pubsub", own_stack)
    target = Target(own_stack, endpoints)
    publish(target, events(5, seed=3), ledger)
    before = starve(process, own_stack.state_path / "pubsub")
    try:
        with pytest.raises(EcomflowError, match="File too large"):
            publisher.publish(target, events(5, seed=4), ledger=ledger)
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
    publish(target, events(5, seed=5), ledger)
    equation_holds(target, ledger)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["storage", "bigquery"])
def test_a_warehouse_has_no_room(
    name: str, own_stack: Settings, own_pipeline: Pipeline, endpoints: Endpoints, ledger: Path
) -> None:
    """Where the bucket or BigQuery can't write, nothing is acknowledged; with room again, and infra up, everything lands."""
    process, said = process_of(name, own_stack), len(own_pipeline.said())
    before = starve(process, own_stack.state_path / "nowhere")
    target = Target(own_stack, endpoints)
    publish(target, events(200, seed=6), ledger)
    own_pipeline.says("Waiting for", since=said)
    if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
    repaired = ecomflow("infra", "up", settings=own_stack)
    assert repaired.returncode == 0, repaired.stderr
    equation_holds(target, ledger)


@pytest.mark.faults
def test_the_port_of_a_dead_service_is_taken(tmp_path: Path) -> None:
    """infra up gives a service whose port another program holds a new one, and a pipeline started then works."""
    settings = Settings(ack_deadline_seconds=10, state_dir=str(tmp_path / "state"))
    try:
        first = supervisor.up(settings.state_path).endpoints
        assert first is not None
        process_of("pubsub", settings).kill()
        host, port = str(first.pubsub).split(":")
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            wait_until(lambda: _bound(other, host, int(port)), "the port is ours")
            other.listen()
            repaired = ecomflow("infra", "up", settings=settings)
            assert repaired.returncode == 0, repaired.stderr
            second = read_stack_endpoints(settings.state_path)
            assert second is not None
            assert second.pubsub != first.pubsub
            assert msgspec.structs.replace(second, pubsub=None) == msgspec.structs.replace(first, pubsub=None)
            pipeline = Pipeline(settings).started()
            target = Target(settings, second)
            publish(target, events(5, seed=1), tmp_path / "ledger")
            equation_holds(target, tmp_path / "ledger")
            pipeline.drain()
    finally:
        supervisor.down(settings.state_path)


def _bound(listener: socket.socket, host: str, port: int) -> bool:
    try:
        listener.bind((host, port))
    except OSError:
        return False
    return True
