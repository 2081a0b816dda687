"""The installed ecomflow in, a wheel of it out for Dataflow's workers; needs no source checkout, build tool or network.

Beam installs it in each worker's container with pip, whose Beam is that of the submitting machine
(https://beam.apache.org/documentation/sdks/python-pipeline-dependencies/). So the wheel requires what the pipeline imports, in
the versions that are installed here: all workers of a job have the same, whenever they start. It requires neither Beam, which
must not change there, nor what only the command line and the local stack use. The same files and versions result in the same
bytes.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import ecomflow
from ecomflow import __version__
from ecomflow.errors import AccessError, ConfigError

PACKAGE = "ecomflow"
# The requirements in pyproject.toml that no step imports (they are for the command line or the generator), and Beam itself.
NOT_FOR_WORKERS = frozenset({"apache-beam", "faker", "google-cloud-monitoring", "prometheus-client", "psutil", "rich", "typer"})

_DIST_INFO = f"{PACKAGE}-{__version__}.dist-info"
_LEFT_BEHIND = {".pyc", ".pyo"}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can have
_READABLE = 0o644 << 16
_WHEEL = f"Wheel-Version: 1.0\nGenerator: ecomflow {__version__}\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build_wheel(folder: Path) -> Path:
    """Write the wheel of the installed package into ``folder`` and return its path.

    Its format: https://packaging.python.org/en/latest/specifications/binary-distribution-format/. Raises ConfigError if ecomflow
    is not installed as a package, AccessError if ``folder`` can't be written.
    """
    path = folder / f"{PACKAGE}-{__version__}-py3-none-any.whl"
    members = {**_package_files(), **_metadata_files()}
    members[f"{_DIST_INFO}/RECORD"] = _record(members)
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(_entry(name), content)
    except OSError as error:
        raise AccessError(f"{path} can't be written: {error.strerror}.", "Choose another folder with TMPDIR.") from error
    return path


def worker_requirements(declared: list[str], version_of: Callable[[str], str] = metadata.version) -> list[str]:
    """The requirements of ``declared`` (``Requires-Dist``) that a worker needs besides Beam, each with the installed version."""
    return [
        f"{found['name']}{found['extras'] or ''}=={version_of(found['name'])}{found['marker'] or ''}"
        for requirement in declared
        if (found := _REQUIREMENT.fullmatch(requirement))
        and not re.search(r"\bextra\s*==", found["marker"] or "")
        and re.sub(r"[-_.]+", "-", found["name"]).lower() not in NOT_FOR_WORKERS
    ]


# https://packaging.python.org/en/latest/specifications/dependency-specifiers/
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)\s*(?P<extras>\[[^]]*\])?(?P<versions>[^;]*)(?P<marker>;.*)?")


def _package_files() -> dict[str, bytes]:
    root = Path(next(iter(ecomflow.__path__)))
    return {f"{PACKAGE}/{path.relative_to(root).as_posix()}": path.read_bytes() for path in _files(root)}


def _files(folder: Path) -> Iterator[Path]:
    """Every file of the package, sorted by name, without caches and hidden files."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__pycache__")):
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.suffix not in _LEFT_BEHIND:
            yield path


def _metadata_files() -> dict[str, bytes]:
    try:
        installed = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            "ecomflow is not installed as a package, so it can't be shipped to the workers.", "Install it: pip install ."
        ) from error
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {PACKAGE}",
        f"Version: {__version__}",
        f"Summary: {installed.metadata['Summary']}",
        f"Requires-Python: {installed.metadata['Requires-Python']}",
        *(f"Requires-Dist: {requirement}" for requirement in sorted(worker_requirements(installed.requires or []))),
    ]
    return {
        f"{_DIST_INFO}/METADATA": "\n".join([*lines, ""]).encode(),
        f"{_DIST_INFO}/WHEEL": _WHEEL.encode(),
        f"{_DIST_INFO}/entry_points.txt": _entry_points(installed).encode(),
    }


def _entry_points(installed: metadata.Distribution) -> str:
    scripts = sorted(f"{point.name} = {point.value}" for point in installed.entry_points if point.group == "console_scripts")
    return "\n".join(["[console_scripts]", *scripts, ""])


def _record(members: dict[str, bytes]) -> bytes:
    rows = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in members.items()]
    return "\n".join([*rows, f"{_DIST_INFO}/RECORD,,", ""]).encode()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = _READABLE
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry
