"""Keeps traffic to loopback off any proxies that the environment configures.

gRPC, requests and urllib all read ``no_proxy``, so one entry there covers every client of this process and of the processes that
it starts, including Google's and Beam's.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

NAMES = ("localhost", "127.0.0.1", "::1", "[::1]")

# gRPC reads the first of its own two variables that is set; the others prefer the lower-case name.
_ALWAYS_SET = ("no_proxy", "NO_PROXY")
_SET_WHERE_PRESENT = ("no_grpc_proxy",)


def bypass_proxies(environ: MutableMapping[str, str] = os.environ) -> None:
    """Exempt the loopback names from the proxies in ``environ``. Existing exemptions are kept."""
    general = environ.get("no_proxy") or environ.get("NO_PROXY", "")
    for name in _ALWAYS_SET:
        environ[name] = _with_loopback(general)
    for name in _SET_WHERE_PRESENT:
        if environ.get(name):
            environ[name] = _with_loopback(environ[name])


def _with_loopback(exempt: str) -> str:
    listed = [host.strip() for host in exempt.split(",") if host.strip()]
    return ",".join([*listed, *(name for name in NAMES if name not in listed)])
