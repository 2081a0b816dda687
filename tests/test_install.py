"""What is locked installs, today and on any later day: the lock is whole, and nothing is resolved at installation."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support import ROOT

LOCK, BUILD_LOCK = ROOT / "requirements.lock", ROOT / "requirements-build.lock"
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
    "macOS": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"},
}


class Pin(NamedTuple):
    """A line of the lock, and where it applies."""

    name: str
    version: str
    marker: Marker | None

    def applies(self, environment: dict[str, str]) -> bool:
        return self.marker is None or self.marker.evaluate(environment)


def read_lock(text: str) -> list[Pin]:
    heads = re.findall(r"^([\w.-]+)==([^\s;\\]+)(?: ; ([^\\\n]+))?", text, re.MULTILINE)
    return [Pin(canonicalize_name(name), version, Marker(marker) if marker else None) for name, version, marker in heads]


def environment_of(python: str, platform: str) -> dict[str, str]:
    """What markers are asked about, for CPython ``python`` on ``platform``."""
    version = {"python_version": python, "python_full_version": f"{python}.9", "implementation_version": f"{python}.9"}
    return {**default_environment(), **version, **PLATFORMS[platform], "extra": ""}


def unmet(pins: list[Pin], environment: dict[str, str], roots: dict[str, set[str]]) -> tuple[set[str], set[str]]:
    """What ``roots`` (names and extras), and all that they need, ask for and ``pins`` lack; and the packages that were reached.

    A package that this interpreter has in no, or in another, version than ``environment`` gets is not followed from here.
    """
    locked = {pin.name: pin.version for pin in pins if pin.applies(environment)}
    missing, seen, todo = set(), set(), [(name, extra) for name, extras in roots.items() for extra in ("", *extras)]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for line in _requires(name, locked.get(name)):
            wanted = Requirement(line)
            if wanted.marker is not None and not wanted.marker.evaluate({**environment, "extra": extra}):
                continue
            found = canonicalize_name(wanted.name)
            if found not in locked or not wanted.specifier.contains(locked[found], prereleases=True):
                missing.add(f"{name} needs {wanted}, locked is {locked.get(found)}")
            todo += [(found, part) for part in ("", *wanted.extras)]
    return missing, {name for name, _ in seen}


def _requires(name: str, version: str | None) -> list[str]:
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return []
    return (found.requires or []) if version in (None, found.version) else []


def here() -> dict[str, str]:
    return {**default_environment(), "extra": ""}


@pytest.mark.slow
class TestTheLockIsWhole:
    @pytest.mark.parametrize("platform", PLATFORMS)
    @pytest.mark.parametrize("python", PYTHONS)
    def test_whatever_a_locked_package_needs_is_locked(self, python: str, platform: str) -> None:
        """ecomflow with all extras, what these need, and so on, extras included: each is there at a version that fits."""
        pins = read_lock(LOCK.read_text())
        missing, reached = unmet(pins, environment_of(python, platform), {"ecomflow": {"local", "ui", "dev"}})
        assert missing == set()
        assert len(reached) > 150

    def test_nothing_is_locked_that_is_not_needed(self) -> None:
        """Each package of the lock for this interpreter is reached from ecomflow."""
        pins = read_lock(LOCK.read_text())
        _, reached = unmet(pins, here(), {"ecomflow": {"local", "ui", "dev"}})
        assert {pin.name for pin in pins if pin.applies(here())} - reached == set()

    def test_what_is_installed_here_is_what_is_locked(self) -> None:
        """So that what was read from metadata above is true of the lock: same packages, same versions."""
        wanted = {pin.name: Version(pin.version) for pin in read_lock(LOCK.read_text()) if pin.applies(here())}
        assert {name: Version(metadata.version(name)) for name in wanted} == wanted

    def test_every_line_has_a_hash(self) -> None:
        """Of both locks; and the setuptools that builds is the one that is locked."""
        for lock in (LOCK, BUILD_LOCK):
            blocks = re.split(r"^(?=\S)", lock.read_text(), flags=re.MULTILINE)[1:]
            assert [block for block in blocks if "--hash=sha256:" not in block] == []
        assert [(pin.name, pin.version) for pin in read_lock(BUILD_LOCK.read_text())] == [
            ("setuptools", metadata.version("setuptools"))
        ]

    def test_a_hole_is_found(self) -> None:
        """Without one of its lines, or with an older version in one, the lock is reported as broken."""
        pins = read_lock(LOCK.read_text())
        roots = {"ecomflow": {"local", "ui", "dev"}}
        holed = [pin for pin in pins if pin.name != "msgspec"]
        assert unmet(holed, here(), roots)[0] == {"ecomflow needs msgspec>=0.19, locked is None"}
        old = [pin._replace(version="0.18") if pin.name == "msgspec" else pin for pin in pins]
        assert unmet(old, here(), roots)[0] == {"ecomflow needs msgspec>=0.19, locked is 0.18"}


# A build backend within the project, so that an editable install needs nothing from any index.
_BACKEND = """
from pathlib import Path
from zipfile import ZipFile
def build_editable(folder, config_settings=None, metadata_directory=None):
    name, info = "shop-1.0-py3-none-any.whl", "shop-1.0.dist-info"
    with ZipFile(Path(folder) / name, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: shop\\nVersion: 1.0\\nRequires-Dist: alpha\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""


def make_wheel(folder: Path, name: str, version: str, *requires: str) -> str:
    """A package without code in ``folder``; its line for a lock."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    described = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: more\n"
    files = {
        f"{info}/METADATA": described + "".join(f"Requires-Dist: {line}\n" for line in requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    hashed = "".join(
        f"{file},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}\n"
        for file, text in files.items()
    )
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in {**files, f"{info}/RECORD": f"{hashed}{info}/RECORD,,\n"}.items():
            wheel.writestr(file, text)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with this one's Makefile, whose lock pins alpha, which needs beta with its extra, which needs gamma."""
    index = tmp_path / "index"
    index.mkdir()
    lines = [
        make_wheel(index, "alpha", "1.0", "beta[more]>=1"),
        make_wheel(index, "beta", "1.0", "gamma; extra == 'more'"),
        make_wheel(index, "gamma", "1.0"),
    ]
    make_wheel(index, "beta", "2.0", "gamma; extra == 'more'")  # published after the day of the lock
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "requirements.lock").write_text("".join(lines))
    (tmp_path / "requirements-build.lock").write_text(make_wheel(index, "builder", "1.0"))
    (tmp_path / "backend.py").write_text(_BACKEND)
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["builder"]\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    return tmp_path


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(project), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(project / "index")}
    return subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, timeout=120, check=False)


class TestTheNodeClientOfMakeInterop:
    FOLDER = ROOT / "tests/interop/node"

    def test_every_package_is_locked_by_version_and_hash(self) -> None:
        """From whichever registry npm asks: the lock names none."""
        packages = json.loads((self.FOLDER / "package-lock.json").read_text())["packages"]
        wanted = packages.pop("")["dependencies"]
        assert wanted == json.loads((self.FOLDER / "package.json").read_text())["dependencies"]
        assert wanted == {"@google-cloud/pubsub": packages["node_modules/@google-cloud/pubsub"]["version"]}
        assert all(package["integrity"].startswith("sha512-") and "resolved" not in package for package in packages.values())


@pytest.mark.slow
class TestMakeInstall:
    def test_a_newer_version_in_the_index_changes_nothing(self, project: Path) -> None:
        """What the lock pins is installed, though a package asks for another with an extra and the index has a newer one."""
        made = run(project, "make", "install", f"PYTHON={sys.executable}")
        assert made.returncode == 0, made.stdout + made.stderr
        frozen = run(project, ".venv/bin/python", "-m", "pip", "list", "--format=freeze").stdout.splitlines()
        assert set(frozen) - {"shop==1.0"} >= {"alpha==1.0", "beta==1.0", "builder==1.0", "gamma==1.0"}
        resolved = run(
            project, ".venv/bin/python", "-m", "pip", "install", "--dry-run", "--upgrade", "--force-reinstall", "alpha"
        )
        assert "beta-2.0" in resolved.stdout  # what a resolution on this index takes

    def test_a_lock_with_a_hole_does_not_install(self, project: Path) -> None:
        """It ends with what is missing, and what to run; the next try begins anew."""
        lines = (project / LOCK.name).read_text().splitlines(keepends=True)
        (project / LOCK.name).write_text("".join(line for line in lines if not line.startswith("beta")))
        made = run(project, "make", "install", f"PYTHON={sys.executable}")
        assert made.returncode == 2
        assert "alpha 1.0 requires beta, which is not installed." in made.stdout
        assert "Run: make lock" in made.stdout
        assert not (project / ".venv/.installed").exists()
