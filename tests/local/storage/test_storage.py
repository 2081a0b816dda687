"""The local GCS through Google's own client."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import util
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from google.api_core import exceptions
from google.cloud import storage

from ecomflow.config import LOCAL_PROJECT, Endpoints
from ecomflow.errors import MissingExtraError, install_extra
from ecomflow.gcp.clients import storage_client
from ecomflow.local.storage.server import check_storage_installed
from tests.support.storage import SERVERS, storage_server


@pytest.fixture(scope="module", params=SERVERS)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[storage.Client]:
    """What the tests ask of ours, they ask of fake-gcs-server too, so that both agree."""
    with storage_server(tmp_path_factory.mktemp("storage") / "data", request.param) as address:
        yield storage_client(LOCAL_PROJECT, Endpoints(storage=address))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[storage.Client]:
    """What fake-gcs-server can't do."""
    with storage_server(tmp_path_factory.mktemp("ours") / "data") as address:
        yield storage_client(LOCAL_PROJECT, Endpoints(storage=address))


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the sentence names the package and the command that installs it."""
    monkeypatch.setattr(util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="needs starlette, which is not installed") as caught:
        check_storage_installed()
    assert caught.value.remedy == install_extra("local")


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

    def test_a_missing_bucket_and_a_bucket_made_twice_have_different_errors(self, client: storage.Client) -> None:
        """NotFound for the one, Conflict for the other."""
        with pytest.raises(exceptions.NotFound):
            client.get_bucket("nowhere")
        client.create_bucket("twice")
        with pytest.raises(exceptions.Conflict):
            client.create_bucket("twice")

    def test_a_listing_shows_folders(self, client: storage.Client) -> None:
        """With a delimiter what lies deeper is shown by its folder, once, in order and page by page; offsets bound it."""
        bucket = client.create_bucket("folders")
        for name in ("a", "b/1", "b/2", "b/c/3", "d", "e/1"):
            bucket.blob(name).upload_from_string("x")
        listing = client.list_blobs("folders", delimiter="/")
        assert ([blob.name for blob in listing], sorted(listing.prefixes)) == (["a", "d"], ["b/", "e/"])
        inside = client.list_blobs("folders", prefix="b/", delimiter="/")
        assert ([blob.name for blob in inside], sorted(inside.prefixes)) == (["b/1", "b/2"], ["b/c/"])
        assert [blob.name for blob in client.list_blobs("folders", start_offset="b/2", end_offset="e")] == ["b/2", "b/c/3", "d"]

    def test_a_large_object_goes_in_pieces(self, client: storage.Client) -> None:
        """A resumable upload of several chunks, its size known or not, comes back whole and in ranges."""
        content = bytes(range(256)) * 4096
        bucket = client.create_bucket("large")
        bucket.blob("known", chunk_size=256 * 1024).upload_from_file(io.BytesIO(content), size=len(content), rewind=True)
        with bucket.blob("unknown").open("wb", chunk_size=256 * 1024) as writer:
            writer.write(content)
        for name in ("known", "unknown"):
            blob = bucket.get_blob(name)
            assert (blob.size, blob.download_as_bytes() == content) == (len(content), True)
            assert blob.download_as_bytes(start=250, end=260) == content[250:261]
            with blob.open("rb", chunk_size=100_000) as reader:
                assert reader.read() == content

    def test_metadata_is_kept_and_changed(self, client: storage.Client) -> None:
        """Type, custom metadata and checksums; a patch changes what it names and counts a metageneration."""
        bucket = client.create_bucket("metadata")
        blob = bucket.blob("a")
        blob.metadata = {"team": "shop", "x": "1"}
        blob.upload_from_string("hello", content_type="application/json")
        found = bucket.get_blob("a")
        assert (found.content_type, found.metadata, found.size) == ("application/json", {"team": "shop", "x": "1"}, 5)
        assert (found.crc32c, found.md5_hash) == ("mnG7TA==", "XUFAKrxLKna5cZ2REBfFkg==")
        found.metadata = {"team": "web"}
        found.patch()
        assert bucket.get_blob("a").metadata["team"] == "web"

    def test_a_copy_is_another_object(self, client: storage.Client) -> None:
        """Copied, rewritten and renamed objects have the bytes of their source."""
        bucket = client.create_bucket("copies")
        source = bucket.blob("a/b c")
        source.upload_from_string("x", content_type="text/csv")
        bucket.copy_blob(source, bucket, "copied")
        bucket.blob("rewritten").rewrite(source)
        names = ("a/b c", "copied", "rewritten")
        assert {blob.name: blob.download_as_bytes() for blob in client.list_blobs("copies")} == dict.fromkeys(names, b"x")

    @pytest.mark.parametrize("name", ["a b", "é/💶", "a%2Fb", "a+b&c=d#e?f", "copyTo/b/x", "o/rewriteTo", "..a/...", "-" * 200])
    def test_a_name_is_any_text(self, client: storage.Client, name: str) -> None:
        """Signs that mean something in an address or a path mean nothing in a name."""
        bucket = client.bucket("names")
        if not bucket.exists():
            bucket.create()
        bucket.blob(name).upload_from_string(name)
        assert bucket.get_blob(name).download_as_bytes().decode() == name
        bucket.blob(name).delete()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ours")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Where ours listens, with a bucket; its data is in ``folder``."""
    with storage_server(folder / "data") as address:
        storage_client(LOCAL_PROJECT, Endpoints(storage=address)).create_bucket("bucket")
        yield address


@pytest.mark.stack
class TestOurs:
    """What fake-gcs-server does otherwise."""

    @pytest.mark.parametrize("name", ["../../out", "a/../../../out", "..", "a/..", "/etc/out", "a\0b", "a\nb", "", "x" * 1025])
    @pytest.mark.parametrize("how", ["media", "multipart", "resumable", "body", "copy", "read", "delete"])
    def test_a_name_that_is_a_way_out_is_refused(self, folder: Path, address: str, name: str, how: str) -> None:
        """However it is said, it is 400 (or no object's address), and no file is anywhere but in the store's folder."""
        before = sorted(folder.rglob("*"))
        quoted, upload = quote(name, safe="").replace(".", "%2E"), f"{address}/upload/storage/v1/b/bucket/o"
        related = {"content-type": "multipart/related; boundary=x"}
        parts = "--x\r\ncontent-type: application/json\r\n\r\n%s\r\n--x\r\n\r\nhello\r\n--x--"
        said = json.dumps({"name": name})
        requests.post(f"{upload}?uploadType=media&name=source", data="x", timeout=5)
        answer = {
            "media": lambda: requests.post(f"{upload}?uploadType=media&name={quoted}", data="hello", timeout=5),
            "multipart": lambda: requests.post(
                f"{upload}?uploadType=multipart&name={quoted}", data=parts % "{}", headers=related, timeout=5
            ),
            "resumable": lambda: requests.post(f"{upload}?uploadType=resumable&name={quoted}", timeout=5),
            "body": lambda: requests.post(f"{upload}?uploadType=multipart", data=parts % said, headers=related, timeout=5),
            "copy": lambda: requests.post(f"{address}/storage/v1/b/bucket/o/source/copyTo/b/bucket/o/{quoted}", timeout=5),
            "read": lambda: requests.get(f"{address}/storage/v1/b/bucket/o/{quoted}?alt=media", timeout=5),
            "delete": lambda: requests.delete(f"{address}/storage/v1/b/bucket/o/{quoted}", timeout=5),
        }[how]()
        assert answer.status_code == 400, answer.text
        kept = {path for path in sorted(folder.rglob("*")) if path not in before}
        assert {path.parent for path in kept} <= {folder / "data" / "content", folder / "data"}
        assert not (folder.parent / "out").exists()

    def test_a_change_holds_only_for_what_was_read(self, address: str) -> None:
        """An object's generation is another after each write, and no write, delete or read is made of one that is gone."""
        bucket = storage_client(LOCAL_PROJECT, Endpoints(storage=address)).create_bucket("conditions")
        bucket.blob("a").upload_from_string("first")
        before = bucket.get_blob("a").generation
        bucket.blob("a").upload_from_string("second", if_generation_match=before)
        for change in (
            lambda: bucket.blob("a").upload_from_string("third", if_generation_match=before),
            lambda: bucket.blob("a").delete(if_generation_match=before),
            lambda: bucket.blob("a").download_as_bytes(if_generation_match=before),
        ):
            with pytest.raises(exceptions.PreconditionFailed):
                change()
        with pytest.raises(exceptions.NotFound):
            bucket.blob("a", generation=before).download_as_bytes()
        assert bucket.blob("a").download_as_bytes() == b"second"

    @pytest.mark.parametrize("name", ["..", "../x", "a/b", "", "A", "x", "a..b", ".data"])
    def test_a_buckets_name_is_no_way_out_either(self, address: str, name: str) -> None:
        """Names that Cloud Storage refuses are refused."""
        answer = requests.post(f"{address}/storage/v1/b?project=p", json={"name": name}, timeout=5)
        assert answer.status_code == 400, answer.text

    def test_no_answer_lets_a_page_read_it(self, address: str) -> None:
        """There is no CORS header on any answer."""
        for path in ("/storage/v1/b?project=p", "/storage/v1/b/bucket/o", "/nothing", "/storage/v1/b/none"):
            answer = requests.get(f"{address}{path}", timeout=5)
            assert [name for name in answer.headers if name.lower().startswith("access-control")] == []

    def test_what_it_lacks_is_said(self, address: str) -> None:
        """An address of the API that is not there is 501 with a sentence, not an empty answer."""
        answer = requests.post(f"{address}/batch/storage/v1", data="x", timeout=5)
        assert answer.status_code == 501
        assert "does not support POST /batch/storage/v1" in answer.json()["error"]["message"]

    def test_two_conditional_writes_at_once_leave_one(self, address: str) -> None:
        """Of many uploads under one condition exactly one is made."""
        client = storage_client(LOCAL_PROJECT, Endpoints(storage=address))

        def write(number: int) -> int:
            try:
                client.bucket("bucket").blob("once").upload_from_string(str(number), if_generation_match=0)
            except exceptions.PreconditionFailed:
                return 0
            return 1

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(write, range(40))) == 1


@pytest.mark.stack
def test_objects_survive_a_restart(tmp_path: Path) -> None:
    """Buckets and objects are there again when a new server takes the same folder; half an upload is not."""
    for run in range(2):
        with storage_server(tmp_path / "data") as address:
            client = storage_client(LOCAL_PROJECT, Endpoints(storage=address))
            if run == 0:
                client.create_bucket("kept").blob("a/b").upload_from_string("x")
                begun = f"{address}/upload/storage/v1/b/kept/o?uploadType=resumable&name=half"
                place = requests.post(begun, timeout=5).headers["location"]
                piece = requests.put(place, data=b"abc", headers={"content-range": "bytes 0-2/9"}, timeout=5)
                assert (piece.status_code, piece.headers["range"]) == (308, "bytes=0-2")
            else:
                assert [blob.name for blob in client.list_blobs("kept")] == ["a/b"]
                assert client.bucket("kept").blob("a/b").download_as_bytes() == b"x"
                assert len(list((tmp_path / "data" / "content").iterdir())) == 1


@pytest.mark.stack
class TestObjectsThatMustStay:
    """Retention policies and holds, which fake-gcs-server does not have."""

    def test_by_the_policy_of_the_bucket(self, ours: storage.Client) -> None:
        """An object is neither deleted nor replaced before its time, which it shows; without the policy it is."""
        bucket = ours.create_bucket("kept")
        bucket.blob("a").upload_from_string("first")
        bucket.retention_period = 3600
        bucket.patch()
        (blob,) = ours.list_blobs("kept")
        assert (blob.retention_expiration_time - blob.time_created).total_seconds() == 3600
        for change in (blob.delete, lambda: bucket.blob("a").upload_from_string("second")):
            with pytest.raises(exceptions.Forbidden, match="subject to the bucket's retention policy until"):
                change()
        with pytest.raises(exceptions.PreconditionFailed):
            bucket.blob("a").upload_from_string("second", if_generation_match=0)
        bucket.blob("b").upload_from_string("other names are free")
        assert bucket.blob("a").download_as_bytes() == b"first"
        blob.metadata = {"a": "b"}
        blob.patch()
        bucket.retention_period = None
        bucket.patch()
        assert bucket.get_blob("a").retention_expiration_time is None
        blob.delete()

    @pytest.mark.parametrize("kind", ["temporary_hold", "event_based_hold"])
    def test_by_a_hold(self, kind: str, ours: storage.Client) -> None:
        """Until it is released."""
        blob = ours.create_bucket(kind.replace("_", "-")).blob("a")
        blob.upload_from_string("held")
        setattr(blob, kind, True)
        blob.patch()
        with pytest.raises(exceptions.Forbidden, match=f"under active {'Temporary' if kind[0] == 't' else 'Event-Based'} hold"):
            blob.delete()
        setattr(blob, kind, False)
        blob.patch()
        blob.delete()

    def test_by_the_default_of_the_bucket(self, ours: storage.Client) -> None:
        """A new object is held; one that is already there is not."""
        bucket = ours.create_bucket("held-by-default")
        bucket.blob("old").upload_from_string("")
        bucket.default_event_based_hold = True
        bucket.patch()
        bucket.blob("new").upload_from_string("")
        assert {blob.name: bool(blob.event_based_hold) for blob in ours.list_blobs(bucket)} == {"old": False, "new": True}
