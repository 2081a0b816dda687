"""A resource that does not exist, and one that has nearly its name."""

from __future__ import annotations

import msgspec
import pytest

from ecomflow.config import Endpoints, Settings
from ecomflow.gcp.lookalikes import CREATE, Kind, remedy_for_missing
from ecomflow.gcp.target import Target

pytestmark = pytest.mark.stack


@pytest.mark.parametrize("kind", ["bucket", "dataset", "topic"])
def test_the_nearest_of_those_that_exist(provisioned: Settings, stack: Endpoints, kind: Kind) -> None:
    """It is named with the setting to correct; where none is near, or the name exists, there is only the command to create it."""
    name = getattr(provisioned, kind)
    with Target(msgspec.structs.replace(provisioned, **{kind: f"{name}x"}), stack) as target:
        assert remedy_for_missing(target, kind) == (
            f"The {kind} is {name}x, did you mean '{name}'? Correct the setting {kind}, or create it with: {CREATE[5:]}"
        )
    for other in (name, "zzz"):
        with Target(msgspec.structs.replace(provisioned, **{kind: other}), stack) as target:
            assert remedy_for_missing(target, kind) == CREATE
