"""The fronts and the pipeline behind them that the fault tests share, one of each for all of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ecomflow import infra
from ecomflow.config import Endpoints, Settings
from ecomflow.gcp.target import Target
from tests.support.running import Fronts, Pipeline, settings_in


def provisioned_settings(stack: Endpoints, stack_folder: Path) -> Settings:
    """Settings of resources that nobody else uses, all of them created."""
    unique = uuid.uuid4().hex[:8]
    names = {"topic": f"topic-{unique}", "subscription": f"sub-{unique}", "bucket": f"bucket-{unique}"}
    settings = Settings(**names, dataset=f"dataset_{unique}", ack_deadline_seconds=10, state_dir=str(stack_folder))
    target = Target(settings, stack)
    infra.apply(target, infra.plan(target))
    return settings


@pytest.fixture(scope="session")
def shop(stack: Endpoints, stack_folder: Path) -> Settings:
    """A shop's resources for all tests that share a pipeline."""
    return provisioned_settings(stack, stack_folder)


@pytest.fixture(scope="session")
def shared_fronts(stack: Endpoints) -> Iterator[Fronts]:
    fronts = Fronts(stack)
    yield fronts
    fronts.heal()
    fronts.close()


@pytest.fixture(scope="session")
def shared_pipeline(shop: Settings, shared_fronts: Fronts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    pipeline = Pipeline(settings_in(tmp_path_factory.mktemp("pipeline"), shop, shared_fronts.endpoints)).started()
    yield pipeline
    pipeline.drain()
    pipeline.end()


@pytest.fixture
def fronts(shared_fronts: Fronts) -> Iterator[Fronts]:
    """The fronts of the shared pipeline, which pass everything on when the test ends, however it ends."""
    yield shared_fronts
    shared_fronts.heal()


@pytest.fixture
def pipeline(shared_pipeline: Pipeline) -> Pipeline:
    """The pipeline that runs behind the fronts; started again where a test before has ended it."""
    return shared_pipeline.started()


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Where what the test publishes is written down."""
    return tmp_path / "published.jsonl"


@pytest.fixture
def own_shop(provisioned: Settings, stack: Endpoints, tmp_path: Path) -> Settings:
    """The resources of one test alone, and a state folder of its own on the shared stack."""
    return settings_in(tmp_path / "state", msgspec.structs.replace(provisioned), stack)
