"""Commands with emulator variables: the local stack runs what is used, and status shows what is in force."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecomflow.config import EMULATOR_VARIABLES, Endpoints, Settings
from ecomflow.gcp.target import Target
from ecomflow.local import supervisor
from tests.support.cli import ecomflow
from tests.support.fronts import another_broker


@pytest.fixture
def others(stack: Endpoints) -> Iterator[dict[str, str]]:
    """The variables of four emulators that are not the local stack of the test's folder."""
    with another_broker(str(stack.pubsub)) as pubsub:
        yield {
            "PUBSUB_EMULATOR_HOST": f"http://{pubsub}",
            "STORAGE_EMULATOR_HOST": str(stack.storage),
            "BIGQUERY_EMULATOR_HOST": str(stack.bigquery),
            "BIGQUERY_STORAGE_EMULATOR_HOST": str(stack.bigquery_storage),
        }


def in_folder(settings: Settings, folder: Path) -> dict[str, str]:
    """The variables of ``settings`` with a state folder of its own."""
    names = ("topic", "subscription", "bucket", "dataset")
    own = {f"ECOMFLOW_{name.upper()}": str(getattr(settings, name)) for name in names}
    return own | {"ECOMFLOW_STATE_DIR": str(folder)}


@pytest.mark.stack
class TestAllExternal:
    def test_nothing_is_started(self, settings: Settings, others: dict[str, str], tmp_path: Path) -> None:
        """infra up makes the resources there, and says where; status shows the same, and no service of the stack."""
        variables = in_folder(settings, tmp_path / "state") | others
        up = ecomflow("infra", "up", folder=tmp_path, **variables)
        assert up.returncode == 0, up.stderr
        assert "16 of 16 resources created or changed." in up.stdout
        pubsub = others["PUBSUB_EMULATOR_HOST"].removeprefix("http://")
        assert f"  pubsub     external {pubsub} (PUBSUB_EMULATOR_HOST)" in up.stdout
        assert " ready " not in up.stdout
        assert not (tmp_path / "state").exists()
        shown = json.loads(ecomflow("infra", "status", "--json", folder=tmp_path, **variables).stdout)
        assert shown["services"] == []
        assert shown["external"] == {
            field: others[variable].removeprefix("http://") if "pubsub" in field else others[variable]
            for field, variable in EMULATOR_VARIABLES.items()
            if variable in others
        }
        assert {resource["state"] for resource in shown["resources"]} == {"exists"}

    def test_one_that_does_not_answer(self, settings: Settings, others: dict[str, str], tmp_path: Path) -> None:
        """The error names the variable, because no local stack would help."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        gone = others | {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}
        up = ecomflow("infra", "up", folder=tmp_path, **in_folder(settings, tmp_path / "state"), **gone)
        assert up.returncode == 4
        assert f"Cloud Storage at http://127.0.0.1:{port} does not answer" in up.stderr
        assert "Check STORAGE_EMULATOR_HOST, or unset it." in up.stderr


@pytest.mark.stack
def test_one_external(settings: Settings, stack: Endpoints, tmp_path: Path) -> None:
    """The stack runs the other services, and the embedded Pub/Sub is neither started nor shown."""
    state = tmp_path / "state"
    variables = in_folder(settings, state)
    try:
        with another_broker(str(stack.pubsub)) as pubsub:
            up = ecomflow("infra", "up", folder=tmp_path, PUBSUB_EMULATOR_HOST=pubsub, **variables)
            assert up.returncode == 0, up.stderr
            status = ecomflow("infra", "status", folder=tmp_path, PUBSUB_EMULATOR_HOST=pubsub, **variables)
        assert {one.name: one.state for one in supervisor.status(state).services} == {
            "pubsub": "down",
            "storage": "ready",
            "bigquery": "ready",
        }
        assert status.returncode == 0
        assert f"  pubsub     external {pubsub} (PUBSUB_EMULATOR_HOST)" in status.stdout
        assert "pubsub    ready" not in up.stdout
    finally:
        supervisor.down(state)


@pytest.mark.stack
def test_the_stacks_own_variables(provisioned: Settings, stack: Endpoints) -> None:
    """In a shell that has them, nothing is external, and a service that is gone is started with infra up."""
    own = {
        EMULATOR_VARIABLES[field]: str(getattr(stack, field)) for field in ("pubsub", "storage", "bigquery", "bigquery_storage")
    }
    shown = json.loads(ecomflow("infra", "status", "--json", settings=provisioned, **own).stdout)
    assert [service["state"] for service in shown["services"]] == ["ready"] * 3
    assert shown["external"] == {}


def test_an_endpoint_of_a_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A service that does not answer there names its variable; any other the local stack."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "http://127.0.0.1:9")
    target = Target(Settings(state_dir=str(tmp_path)), Endpoints(pubsub="127.0.0.1:9", storage="http://127.0.0.1:9"))
    assert target.pubsub_service.no_answer == "Check PUBSUB_EMULATOR_HOST, or unset it."
    assert target.storage_service.no_answer == "Start the local stack with: ecomflow infra up"
