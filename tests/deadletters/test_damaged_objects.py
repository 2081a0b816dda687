"""A damaged object of dead letters: it is named, and the others are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecomflow.config import Settings
from ecomflow.gcp.target import Target
from tests.support.cli import ecomflow
from tests.support.dead_letters import held, names, store

pytestmark = pytest.mark.stack


def content_of(letter_id: str, stack_folder: Path) -> Path:
    """The file that holds the dead letter of this event."""
    (found,) = [path for path in (stack_folder / "storage" / "content").iterdir() if letter_id.encode() in path.read_bytes()]
    return found


def check(settings: Settings, name: str, why: str) -> None:
    for words, found, code in (
        (("dlq", "inspect"), "E-987654323", 1),
        (("dlq", "stats"), "1 dead letter in 1 group.", 1),
        (("dlq", "replay", "--dry-run"), "0 of 1", 1),
        (("reconcile", "--json"), name, 7),
    ):
        result = ecomflow(*words, settings=settings)
        assert result.returncode == code, result.stdout + result.stderr
        assert found in result.stdout, result.stdout
        assert f"{name}" in result.stderr
        assert why in result.stderr


def test_changed_content(provisioned: Settings, stack_folder: Path, target: Target) -> None:
    """Nothing in it can be believed."""
    name = store(target, [held(987654321)], "one")
    store(target, [held(987654323)], "two")
    path = content_of("E-987654321", stack_folder)
    path.write_bytes(path.read_bytes().replace(b"on_hold", b"on_fold"))
    check(provisioned, name, "its content does not match its checksum")


def test_missing_content(provisioned: Settings, stack_folder: Path, target: Target) -> None:
    """No 404 of it is taken for the bucket's; it can be deleted."""
    name = store(target, [held(987654322)], "one")
    store(target, [held(987654323)], "two")
    content_of("E-987654322", stack_folder).unlink()
    check(provisioned, name, "its content is missing")
    assert name in names(target, "dlq/")
