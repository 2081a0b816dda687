"""How many unacknowledged messages fit into the memory of the local Pub/Sub."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil

# A waiting message takes some 260 bytes of memory, and some 600 while it is leased, without its body, which is in the log.
MESSAGE_BYTES = 640
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def max_messages() -> int:
    """As many as take half of the memory that this process may use."""
    return min([int(psutil.virtual_memory().total), *_limits()]) // 2 // MESSAGE_BYTES


def _limits() -> Iterator[int]:
    """The limits of this process in bytes: of its address space, its data, and the cgroups (v2) in which it is."""
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY:
            yield limit
    with contextlib.suppress(OSError):  # not Linux
        own = _CGROUPS / _OWN_CGROUP.read_text().rpartition("::/")[2].strip()
        for folder in (own, *own.parents):
            with contextlib.suppress(OSError, ValueError):  # The file has the word max where there is no limit.
                yield int((folder / "memory.max").read_text())
