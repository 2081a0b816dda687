"""The two addresses of a loopback connection in; the user at its other end out, according to Linux.

A port on 127.0.0.1 is open to every user of the machine. Services identify the user of each connection with this module, and
refuse all others, including root unless root runs the service. If the system can't identify the user (macOS), nobody is refused.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

OtherUsers = Literal["refuse", "allow"]
Address = tuple[str, int]
"""A numeric IPv4 or IPv6 address and a port."""
Lookup = Callable[[Address, Address], int | None]
"""The uid of the process with the socket from the first address to the second; None if there is none. Raises OSError."""

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_MAX_KNOWN = 1024
_REMEDY = "To allow other users, set ECOMFLOW_OTHER_USERS=allow and restart the service."


class OwnUser:
    """Distinguishes this user from others among the clients of the service that listens at ``server``."""

    def __init__(self, server: Address, others: OtherUsers = "refuse", *, clock: Callable[[], float] = time.monotonic) -> None:
        self._server, self._clock = server, clock
        self._lookup, self._seconds = (None, 0.0) if others == "allow" else working_lookup()
        self._lock = threading.Lock()
        self._own: dict[Address, float] = {}

    def refusal(self, client: Address | None) -> str | None:
        """Why ``client`` is refused, as a sentence with the remedy; None if it is this user."""
        if self._lookup is None or (client and self._is_own(client, self._lookup)):
            return None
        return f"This service answers only the user who started it. {_REMEDY}"

    def _is_own(self, client: Address, lookup: Lookup) -> bool:
        now = self._clock()
        if self._own.get(client, 0.0) > now:
            return True
        with self._lock:
            try:
                own = lookup(client, self._server) == os.geteuid()
            except OSError:
                own = False
            if len(self._own) > _MAX_KNOWN:
                self._own.clear()
            if own:
                self._own[client] = now + self._seconds
            return own


@lru_cache(maxsize=1)
def working_lookup() -> tuple[Lookup | None, float]:
    """The lookup that works on this system, tested with a connection of this process, and how long its results are valid.

    The time in seconds is short, because a port may belong to another user as soon as its connection is closed. None if no lookup
    works.
    """
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        for lookup, seconds in ((ask_kernel, 0.1), (search_tables, 1.0)):
            try:
                if lookup(client.getsockname(), server.getsockname()) == os.geteuid():
                    return lookup, seconds
            except OSError:
                continue
    return None, 0.0


@lru_cache(maxsize=_MAX_KNOWN)
def parse_grpc_peer(peer: str) -> Address | None:
    """``ipv4:127.0.0.1:5000`` or ``ipv6:[::1]:5000`` (its brackets may be quoted) as an address; None for anything else."""
    kind, _, rest = peer.partition(":")
    host, _, port = unquote(rest).rpartition(":")
    return (host.strip("[]"), int(port)) if kind in ("ipv4", "ipv6") and port.isdecimal() else None


# The kernel's sock_diag: looks up one socket in about ten microseconds. https://man7.org/linux/man-pages/man7/sock_diag.7.html

_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _REQUEST, _ERROR = 4, 20, 1, 2


def ask_kernel(client: Address, server: Address) -> int | None:
    """A ``Lookup`` by sock_diag."""
    if not hasattr(socket, "AF_NETLINK"):
        raise OSError("This system has no netlink.")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.settimeout(1.0)
        kernel.send(diag_request(client, server))
        return diag_owner(kernel.recv(8192))


def diag_request(client: Address, server: Address) -> bytes:
    """An inet_diag_req_v2 for the socket between two addresses. IPv4-mapped IPv6 is requested as IPv4, which finds both."""
    ends = [_packed(host) for host in (client[0], server[0])]
    family = socket.AF_INET if len(ends[0]) == 4 else socket.AF_INET6
    ports = struct.pack("!HH", client[1], server[1])
    # Any interface, no cookie.
    identity = ports + b"".join(end.ljust(16, b"\0") for end in ends) + struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
    asked = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + identity
    return struct.pack("=IHHII", 16 + len(asked), _SOCK_DIAG_BY_FAMILY, _REQUEST, 0, 0) + asked


def diag_owner(answer: bytes) -> int | None:
    """The uid in an inet_diag_msg; None if there is no such socket, or its process has closed it (then it has no inode)."""
    _, kind, _, _, _ = struct.unpack_from("=IHHII", answer)
    if kind == _ERROR or len(answer) < 88:
        return None
    uid, inode = struct.unpack_from("=II", answer, 80)
    return int(uid) if inode else None


# /proc/net/tcp: all sockets at once, in milliseconds; for kernels without sock_diag.


def search_tables(client: Address, server: Address) -> int | None:
    """A ``Lookup`` by /proc/net/tcp and tcp6."""
    for path in _TABLES:
        try:
            found = table_owner(path.read_text("ascii"), client, server)
        except FileNotFoundError:
            continue
        if found is not None:
            return found
    return None


def table_owner(table: str, client: Address, server: Address) -> int | None:
    """The uid in the line of ``table`` for the socket between the two addresses; None if there is none.

    Each line has local and remote address, state, queues, timer, retransmits, uid, timeout and inode. A socket that its process
    has closed has no inode, and on many kernels the uid 0, which would look like root:
    https://www.kernel.org/doc/html/latest/networking/proc_net_tcp.html
    """
    for mapped in (False, True):
        pair = f" {_hex(client, mapped)} {_hex(server, mapped)} "
        place = table.find(pair)
        while place >= 0:
            columns = table[place : place + 400].partition("\n")[0].split()
            if columns[8] != "0":
                return int(columns[6])
            place = table.find(pair, place + 1)
    return None


def _hex(address: Address, mapped: bool) -> str:
    """``address`` in the tables' format: words of four bytes in the machine's byte order. ``mapped``: as IPv4-mapped IPv6."""
    packed = _packed(address[0])
    if mapped and len(packed) == 4:
        packed = _IPV4_WITHIN + packed
    words = (int.from_bytes(packed[start : start + 4], sys.byteorder) for start in range(0, len(packed), 4))
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"


_IPV4_WITHIN = b"\0" * 10 + b"\xff\xff"


def _packed(host: str) -> bytes:
    """The bytes of an address: four for IPv4, also if it is IPv4-mapped IPv6."""
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    return packed.removeprefix(_IPV4_WITHIN) if len(packed) == 16 else packed
