"""Objects of the local storage that lost their metadata: listed again after the next start, and whatever they hold is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import ecomflow
from dlq_support import held, store

from ecomflow import deadletters, infra
from ecomflow.clients import storage_client
from ecomflow.config import Endpoints, Settings
from ecomflow.errors import EcomflowError
from ecomflow.local import supervisor
from ecomflow.local.storage_repair import restore_metadata

pytestmark = pytest.mark.stack


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Settings, Endpoints]]:
    """A stack of the test's own, provisioned."""
    settings = Settings(state_dir=str(tmp_path / "state"))
    with supervisor.running_stack(settings.state_path) as endpoints:
        infra.apply(settings, endpoints, infra.plan(settings, endpoints))
        yield settings, endpoints


def file_of(settings: Settings, name: str) -> Path:
    return settings.state_path / "storage" / settings.bucket_name / name


def test_a_damaged_object_is_restored_when_the_stack_starts(own: tuple[Settings, Endpoints]) -> None:
    """Meanwhile no command takes it for a missing bucket; then it is read as it was, under a generation, and is told by name."""
    settings, endpoints = own
    name = store(settings, endpoints, [held(1)], "one")
    store(settings, endpoints, [held(2)], "two")
    os.removexattr(file_of(settings, name), "user.metadata")
    with pytest.raises(EcomflowError, match="is there, but its objects can't be listed: one of them is damaged"):
        deadletters.newest(settings, endpoints, limit=10)
    for words in (("dlq", "inspect"), ("dlq", "stats"), ("dlq", "replay", "--dry-run"), ("reconcile",)):
        result = ecomflow(*words, settings=settings)
        assert (result.returncode, "does not exist" in result.stderr, "ecomflow infra down" in result.stderr) == (1, False, True)
    supervisor.down(settings.state_path)
    result = ecomflow("infra", "up", settings=settings)
    assert "Restored the metadata of 1 objects" in result.stdout
    assert f"{settings.bucket_name}/{name}" in result.stdout
    endpoints = supervisor.up(settings.state_path).endpoints or Endpoints()
    assert {stored.letter.event_id for stored in deadletters.newest(settings, endpoints, limit=10)} == {"E-1", "E-2"}
    blob = storage_client(settings.project_id, endpoints).bucket(settings.bucket_name).get_blob(name)
    assert blob is not None
    assert (blob.generation > 0, blob.content_type) == (True, "application/x-ndjson")
    blob.download_as_bytes(checksum="crc32c")
    blob.delete(if_generation_match=blob.generation)


def test_an_object_cut_off_in_its_content(own: tuple[Settings, Endpoints]) -> None:
    """Its whole lines are read; the rest is told with the object's name by every command, which goes on and ends with 1 or 7."""
    settings, endpoints = own
    name = store(settings, endpoints, [held(1), held(2)], "one")
    store(settings, endpoints, [held(3)], "two")
    supervisor.down(settings.state_path)
    path = file_of(settings, name)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-20])
    assert ecomflow("infra", "up", settings=settings).returncode == 0
    for words, found, code in (
        (("dlq", "inspect"), "E-3", 1),
        (("dlq", "stats"), "Dead letters by cause", 1),
        (("dlq", "replay", "--dry-run"), "2", 1),
        (("reconcile",), "dead letters", 7),
    ):
        result = ecomflow(*words, settings=settings)
        assert result.returncode == code, result.stdout + result.stderr
        assert found in result.stdout, result.stdout
        assert name in result.stderr


def test_an_object_whose_content_was_damaged(own: tuple[Settings, Endpoints]) -> None:
    """It is told by name, for nothing in it can be believed; the others are read."""
    settings, endpoints = own
    name = store(settings, endpoints, [held(1)], "one")
    store(settings, endpoints, [held(2)], "two")
    path = file_of(settings, name)
    path.write_bytes(path.read_bytes().replace(b"on_hold", b"on_fold"))  # in place: its checksum stays
    result = ecomflow("dlq", "inspect", settings=settings)
    assert (result.returncode, "E-2" in result.stdout, "E-1" in result.stdout) == (1, True, False)
    assert f"{name}: its content is not that of its checksum" in result.stderr


def test_metadata_that_is_none(tmp_path: Path) -> None:
    """Cut off or foreign metadata is written anew; whole metadata, and files that are no objects, stay."""
    bucket = tmp_path / "bucket"
    (bucket / "dlq").mkdir(parents=True)
    (tmp_path / "bucket.bucketMetadata").write_text("{}")
    for name, metadata in (("whole", b'{"Generation":7}'), ("torn", b'{"Gener'), ("none", None)):
        (bucket / "dlq" / name).write_text(name)
        if metadata is not None:
            os.setxattr(bucket / "dlq" / name, "user.metadata", metadata)
    assert sorted(restore_metadata(tmp_path)) == ["bucket/dlq/none", "bucket/dlq/torn"]
    assert os.getxattr(bucket / "dlq/whole", "user.metadata") == b'{"Generation":7}'
    assert restore_metadata(tmp_path) == []
    assert os.listxattr(tmp_path / "bucket.bucketMetadata") == []
