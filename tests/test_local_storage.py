"""The local GCS through Google's own client."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from importlib import util
from pathlib import Path

import pytest
from google.api_core import exceptions
from google.cloud import storage

from ecomflow.clients import storage_client
from ecomflow.config import LOCAL_PROJECT, Endpoints
from ecomflow.errors import MissingExtraError
from ecomflow.local.probes import answers
from ecomflow.local.process import find, free_port, spawn, stop
from ecomflow.local.storage import check_storage_installed


@contextlib.contextmanager
def local_storage(data_dir: Path) -> Iterator[storage.Client]:
    port, log = free_port(), data_dir.parent / "storage.log"
    command = [sys.executable, "-m", "ecomflow.local.storage", "--port", str(port), "--data-dir", str(data_dir)]
    identity = spawn(command, log, data_dir.parent)
    try:
        while not answers("storage", (port,), 2.0):
            assert find(identity), log.read_text()
            time.sleep(0.02)
        yield storage_client(LOCAL_PROJECT, Endpoints(storage=f"http://127.0.0.1:{port}"))
    finally:
        stop([identity], 5.0)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[storage.Client]:
    with local_storage(tmp_path_factory.mktemp("storage") / "data") as client:
        yield client


def test_a_missing_wheel_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the sentence names the package and the command that installs it."""
    monkeypatch.setattr(util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="needs starlette, which is not installed") as caught:
        check_storage_installed()
    assert caught.value.remedy == "Run: pip install 'ecomflow[local]'"


@pytest.mark.stack
class TestObjects:
    def test_an_object_comes_back_as_it_was(self, client: storage.Client) -> None:
        """Bytes, name with slashes and content type survive upload and download."""
        bucket = client.create_bucket("round-trip")
        bucket.blob("dlq/order/2025/a.jsonl").upload_from_string(b"\x00{}\n", content_type="application/jsonl")
        blob = client.bucket("round-trip").get_blob("dlq/order/2025/a.jsonl")
        assert (blob.download_as_bytes(), blob.content_type) == (b"\x00{}\n", "application/jsonl")

    def test_an_object_is_never_overwritten(self, client: storage.Client) -> None:
        """With if_generation_match=0 the second upload of a name is refused with 412, the first stays."""
        bucket = client.create_bucket("once")
        bucket.blob("a").upload_from_string("first", if_generation_match=0)
        with pytest.raises(exceptions.PreconditionFailed):
            bucket.blob("a").upload_from_string("second", if_generation_match=0)
        assert bucket.blob("a").download_as_bytes() == b"first"

    def test_objects_are_listed_by_prefix_and_page(self, client: storage.Client) -> None:
        """A listing with a small page size goes through all pages, in order, of the prefix only."""
        bucket = client.create_bucket("pages")
        for name in ("dlq/order/1", "dlq/order/2", "dlq/order/3", "dlq/unknown/1"):
            bucket.blob(name).upload_from_string("x")
        listing = client.list_blobs("pages", prefix="dlq/order/", page_size=2)
        assert [[blob.name for blob in page] for page in listing.pages] == [["dlq/order/1", "dlq/order/2"], ["dlq/order/3"]]

    def test_a_deleted_object_is_gone(self, client: storage.Client) -> None:
        """Deleting removes one object; deleting it again is NotFound."""
        blob = client.create_bucket("gone").blob("a")
        blob.upload_from_string("x")
        blob.delete()
        with pytest.raises(exceptions.NotFound):
            blob.delete()
        assert list(client.list_blobs("gone")) == []

    def test_a_missing_bucket_and_a_bucket_made_twice_are_told_apart(self, client: storage.Client) -> None:
        """NotFound for the one, Conflict for the other."""
        with pytest.raises(exceptions.NotFound):
            client.get_bucket("nowhere")
        client.create_bucket("twice")
        with pytest.raises(exceptions.Conflict):
            client.create_bucket("twice")


@pytest.mark.stack
def test_objects_survive_a_restart(tmp_path: Path) -> None:
    """Buckets and objects are there again when a new server takes the same folder."""
    with local_storage(tmp_path / "data") as client:
        client.create_bucket("kept").blob("a/b").upload_from_string("x")
    with local_storage(tmp_path / "data") as client:
        assert [blob.name for blob in client.list_blobs("kept")] == ["a/b"]
        assert client.bucket("kept").blob("a/b").download_as_bytes() == b"x"
