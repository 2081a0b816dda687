"""The fronts and the pipeline behind them that the fault tests share, one of each a test module."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ecomflow import infra
from ecomflow.config import Endpoints, Settings
from faults.support import Fronts, Pipeline, settings_in


def provisioned_settings(stack: Endpoints, stack_folder: Path) -> Settings:
    """Settings of resources that nobody else uses, all of them created."""
    unique = uuid.uuid4().hex[:8]
    names = {"topic": f"topic-{unique}", "subscription": f"sub-{unique}", "bucket": f"bucket-{unique}"}
    settings = Settings(**names, dataset=f"dataset_{unique}", ack_deadline_seconds=10, state_dir=str(stack_folder))
    infra.apply(settings, stack, infra.plan(settings, stack))
    return settings


@pytest.fixture(scope="session")
def shop(stack: Endpoints, stack_folder: Path) -> Settings:
    """A shop's resources for the tests of one module."""
    return provisioned_settings(stack, stack_folder)


@pytest.fixture(scope="session")
def module_fronts(stack: Endpoints) -> Iterator[Fronts]:
    fronts = Fronts(stack)
    yield fronts
    fronts.heal()
    fronts.close()


@pytest.fixture(scope="session")
def module_pipeline(shop: Settings, module_fronts: Fronts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    pipeline = Pipeline(settings_in(tmp_path_factory.mktemp("pipeline"), shop, module_fronts.endpoints)).started()
    yield pipeline
    pipeline.drain()
    pipeline.end()


@pytest.fixture
def fronts(module_fronts: Fronts) -> Iterator[Fronts]:
    """The module's fronts, which pass everything on when the test ends, however it ends."""
    yield module_fronts
    module_fronts.heal()


@pytest.fixture
def pipeline(module_pipeline: Pipeline) -> Pipeline:
    """The module's pipeline, which runs behind the fronts; started again where a test before has ended it."""
    if module_pipeline.process is None or module_pipeline.process.poll() is not None:
        module_pipeline.started()
    return module_pipeline


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Where what the test publishes is written down."""
    return tmp_path / "published.jsonl"


@pytest.fixture
def own_shop(provisioned: Settings, stack: Endpoints, tmp_path: Path) -> Settings:
    """The resources of one test alone, and a state folder of its own on the shared stack."""
    return settings_in(tmp_path / "state", msgspec.structs.replace(provisioned), stack)
