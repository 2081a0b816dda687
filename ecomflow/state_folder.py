"""The state folder (``.ecomflow/``): what the system refuses there becomes one sentence, with the owner's name."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Literal

from ecomflow.errors import AccessError

REMEDY = "Work in a folder that you may write to, or set ECOMFLOW_STATE_DIR to one."


def access_error(path: Path, error: OSError, denied: Literal["read", "written"]) -> AccessError:
    """``error``, which the system raised for ``path``, as an AccessError that names the owner where that is somebody else."""
    owner = _other_owner(path)
    belongs = f" It belongs to {owner}." if owner else ""
    return AccessError(f"{path} can't be {denied}: {error.strerror}.{belongs}", REMEDY)


def _other_owner(path: Path) -> str | None:
    """Who owns ``path``, or the innermost folder on the way to it that can be looked at; None where it is this user."""
    for part in (path, *path.parents):
        try:
            owner = part.stat().st_uid
        except OSError:
            continue
        return None if owner == os.geteuid() else _name_of(owner)
    return None


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
