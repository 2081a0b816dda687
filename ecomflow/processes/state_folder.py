"""The state folder (``.ecomflow/``): whose it is, which it is, and what the system refuses there, in one sentence.

What lies in it is believed: which processes run, where they listen. So it must be this user's own, not writable by others, and
the very folder that its files were written in.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path
from typing import Literal

from ecomflow.errors import AccessError

REMEDY = "Work in a folder that you may write to, or set ECOMFLOW_STATE_DIR to one."


def access_error(path: Path, error: OSError, denied: Literal["read", "written"]) -> AccessError:
    """``error``, which the system raised for ``path``, as an AccessError that names the owner where that is somebody else."""
    owner = _other_owner(path)
    belongs = f" It belongs to {owner}." if owner else ""
    return AccessError(f"{path} can't be {denied}: {error.strerror}.{belongs}", REMEDY)


def check_own(state_path: Path) -> None:
    """Raises AccessError where the folder is another user's, or others may write into it. One that is not there is nobody's."""
    try:
        found = state_path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise access_error(state_path, error, "read") from error
    if found.st_uid != os.geteuid():
        sentence = f"The state folder {state_path} belongs to {_name_of(found.st_uid)}, not to {_name_of(os.geteuid())}."
        raise AccessError(sentence, REMEDY)
    if found.st_mode & 0o022:
        raise AccessError(
            f"The state folder {state_path} can be written by other users (mode {stat.S_IMODE(found.st_mode):04o}).",
            f"Look at what is in it, then run: chmod go-w {state_path}",
        )


def folder_mark(state_path: Path) -> str:
    """What tells the folder from every other one of this machine, also from a copy of it; it stays when the folder is moved."""
    found = state_path.stat()
    return f"{found.st_dev}:{found.st_ino}"


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
