"""The state folder (``.ecomflow/``): its owner, its identity, and errors of access to it.

Its content is trusted: which processes run, and where they listen. So it must belong to this user, must not be writable by
others, and must be the folder in which its files were written, not a copy.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path
from typing import Literal

from ecomflow.errors import AccessError

REMEDY = "Work in a folder that you can write to, or set ECOMFLOW_STATE_DIR to one."


def access_error(path: Path, error: OSError, denied: Literal["read", "written"]) -> AccessError:
    """``error`` for ``path`` as an AccessError, which names the owner if it is another user."""
    owner = _other_owner(path)
    belongs = f" It belongs to {owner}." if owner else ""
    return AccessError(f"{path} can't be {denied}: {error.strerror}.{belongs}", REMEDY)


def check_own(state_path: Path) -> None:
    """Raises AccessError if the folder belongs to another user, or if others can write to it. A missing folder is allowed."""
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
            f"Check its content, then run: chmod go-w {state_path}",
        )


def folder_mark(state_path: Path) -> str:
    """Identifies the folder on this machine, and differs for a copy of it. It stays the same when the folder is moved."""
    found = state_path.stat()
    return f"{found.st_dev}:{found.st_ino}"


def _other_owner(path: Path) -> str | None:
    """The owner of ``path``, or of its innermost parent that can be inspected; None if it is this user."""
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
