"""Who is at the other end of a loopback connection: as the kernel says it, and as its tables have it."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator

import pytest

from ecomflow.loopback import peers
from ecomflow.loopback.peers import (
    Address,
    OwnUser,
    ask_kernel,
    diag_owner,
    diag_request,
    parse_grpc_peer,
    search_tables,
    table_owner,
)

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
TABLE = HEAD + (
    "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 53345 1 00 100 0 0 10 0\n"
    "   1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 53346 1 00 20 4 30 10 -1\n"
    "   2: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 53347 1 00 20 4 30 10 -1\n"
    "   3: 0100007F:C351 0100007F:1F90 06 00000000:00000000 03:00000AF7 00000000     0        0 0 3 00\n"
    "   4: 0100007F:C352 0100007F:1F90 06 00000000:00000000 03:00000AF7 00000000     0        0 0 3 00\n"
    "   5: 0100007F:C352 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1002        0 53348 1 00 20 4 30 10 -1\n"
)
TABLE6 = HEAD + (
    "   0: 0000000000000000FFFF00000100007F:C353 0000000000000000FFFF00000100007F:1F90 01 "
    "00000000:00000000 00:00000000 00000000  1003        0 53349 1 00 20 4 30 10 -1\n"
    "   1: 00000000000000000000000001000000:C354 00000000000000000000000001000000:1F90 01 "
    "00000000:00000000 00:00000000 00000000  1004        0 53350 1 00 20 4 30 10 -1\n"
)
SERVER = ("127.0.0.1", 8080)
little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="the tables above are a little-endian machine's")


@little_endian
class TestTables:
    @pytest.mark.parametrize(
        ("client", "uid"),
        [
            (("127.0.0.1", 50000), 1001),
            (("::ffff:127.0.0.1", 50000), 1001),
            (("127.0.0.1", 50001), None),
            (("127.0.0.1", 50002), 1002),
            (("127.0.0.1", 8080), None),
            (("127.0.0.2", 50000), None),
        ],
        ids=["own end", "mapped", "closed", "closed, then another", "a listener", "another address"],
    )
    def test_the_client_is_whose_socket_leads_here(self, client: Address, uid: int | None) -> None:
        """Not whose server it is, nor who had the port before; a closed socket is nobody's, though the table says 0."""
        assert table_owner(TABLE, client, SERVER) == uid

    def test_ipv4_within_ipv6_is_found(self) -> None:
        """A socket of both protocols is in the table of IPv6, whatever its connection speaks."""
        assert table_owner(TABLE6, ("127.0.0.1", 50003), SERVER) == 1003
        assert table_owner(TABLE6, ("::1", 50004), ("::1", 8080)) == 1004


class TestKernel:
    def test_the_request_names_one_socket(self) -> None:
        """Ports in the network's order, addresses, no cookie; IPv4 within IPv6 is IPv4."""
        request = diag_request(("127.0.0.1", 50000), SERVER)
        assert len(request) == struct.unpack_from("=I", request)[0] == 72
        assert request[16] == socket.AF_INET
        assert request[24:28] == struct.pack("!HH", 50000, 8080)
        assert diag_request(("::ffff:127.0.0.1", 50000), SERVER) == request

    def test_no_such_socket_and_a_closed_one_are_nobodys(self) -> None:
        """An error has no user; a socket without an inode has lost its process."""
        error = struct.pack("=IHHIIi", 20, 2, 0, 0, 0, -2)
        closed = struct.pack("=IHHII", 88, 20, 0, 0, 0) + bytes(64) + struct.pack("=II", 0, 0)
        owned = closed[:80] + struct.pack("=II", 1001, 77)
        assert (diag_owner(error), diag_owner(closed), diag_owner(owned)) == (None, None, 1001)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Address, Address]]:
    """A connection of this process: its client, and both addresses."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            yield client, client.getsockname(), server.getsockname()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux identifies peers")
class TestThisMachine:
    @pytest.mark.parametrize("lookup", [ask_kernel, search_tables])
    def test_both_ways_know_this_user(self, lookup: peers.Lookup, pair: tuple[socket.socket, Address, Address]) -> None:
        """While the connection is open it is ours, afterwards nobody's."""
        client, *ends = pair
        assert lookup(ends[0], ends[1]) == os.geteuid()
        client.close()
        assert lookup(ends[0], ends[1]) is None

    def test_a_closed_connection_is_not_believed_for_long(
        self, pair: tuple[socket.socket, Address, Address], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its port may be another user's by then: what was found is asked for again after a tenth of a second."""
        client, address, server = pair
        now = [100.0]
        user = OwnUser(server, clock=lambda: now[0])
        assert user.refusal(address) is None
        client.close()
        now[0] += 0.05
        assert user.refusal(address) is None
        now[0] += 0.06
        assert "answers only the user who started it" in str(user.refusal(address))

    def test_root_is_another_user(self, pair: tuple[socket.socket, Address, Address], monkeypatch: pytest.MonkeyPatch) -> None:
        """Only the service's own user is answered."""
        _, address, server = pair
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        assert OwnUser(server).refusal(address) is not None
        assert OwnUser(server, "allow").refusal(address) is None

    @pytest.mark.parametrize("client", [None, ("testclient", 50000), ("127.0.0.1", 1), ("", 0)])
    def test_who_is_not_known_is_refused(self, client: Address | None) -> None:
        """An address that is none, or that no socket has, is not this user."""
        assert OwnUser(("127.0.0.1", 9)).refusal(client) is not None

    def test_a_failing_kernel_refuses(
        self, pair: tuple[socket.socket, Address, Address], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the system identified peers before and does not now (no file descriptor left), nobody is let in."""
        _, address, server = pair

        def fail(*_: object) -> None:
            raise OSError("Too many open files")

        monkeypatch.setattr(peers, "working_lookup", lambda: (fail, 0.1))
        assert OwnUser(server).refusal(address) is not None

    def test_a_system_that_does_not_tell_lets_in(
        self, pair: tuple[socket.socket, Address, Address], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On macOS there is nothing to ask."""
        _, address, server = pair
        monkeypatch.setattr(peers, "working_lookup", lambda: (None, 0.0))
        assert OwnUser(server).refusal(address) is None


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:5000", ("127.0.0.1", 5000)),
        ("ipv6:[::1]:5000", ("::1", 5000)),
        ("ipv6:%5B::ffff:127.0.0.1%5D:5000", ("::ffff:127.0.0.1", 5000)),
        ("unix:/tmp/socket", None),
        ("ipv4:127.0.0.1:", None),
        ("", None),
    ],
)
def test_grpcs_names_of_peers(peer: str, address: Address | None) -> None:
    """As gRPC's context has them."""
    assert parse_grpc_peer(peer) == address
