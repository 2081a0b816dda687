"""The local Pub/Sub as a process: kills, restarts, a damaged log, and how it starts and ends."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions

from ecomflow.local.probes import read_damage
from ecomflow.local.pubsub.log import Damage
from tests.support.local_pubsub import SUBSCRIPTION, TOPIC, Clients, ServerProcess, StreamUser
from tests.support.waiting import wait_until

_COPY = "pubsub.damaged-1.log"

# The flag asks for what is there now, which is what most tests want to know.
pytestmark = pytest.mark.filterwarnings("ignore:The return_immediately flag is deprecated:DeprecationWarning")


def damage_of(server: ServerProcess) -> tuple[Damage, ...]:
    return read_damage(int(server.host.rpartition(":")[2]), 5)


@pytest.mark.stack
class TestProcess:
    def test_a_killed_server_comes_back_with_what_was_open(self, tmp_path: Path) -> None:
        """SIGKILL right after the answers: every published message that was not acknowledged is there, and no other."""
        with ServerProcess(tmp_path) as server, contextlib.closing(Clients(server.host)) as clients:
            clients.create()
            for batch in range(10):
                clients.publish(*[b"%d" % (batch * 100 + n) for n in range(100)])
            clients.acknowledge(*clients.pull(600))
            clients.pull(100)
            server.kill()
        with ServerProcess(tmp_path) as server, contextlib.closing(Clients(server.host)) as clients:
            assert clients.pull_data() == [b"%d" % n for n in range(600, 1000)]

    def test_a_kill_among_publishes_loses_nothing_that_was_answered(self, tmp_path: Path) -> None:
        """Every message whose id the publisher got is there after a SIGKILL in the midst of publishing."""
        answered: list[str] = []
        with ServerProcess(tmp_path) as server, contextlib.closing(Clients(server.host)) as clients:
            clients.create()
            killer = threading.Timer(0.3, server.process.kill)
            killer.start()
            with contextlib.suppress(exceptions.GoogleAPICallError):  # The kill ends the publishing.
                while True:
                    request = {"topic": TOPIC, "messages": [{"data": bytes(5000)}] * 50}
                    answered += clients.raw_publisher.publish(request=request, retry=None).message_ids
        with ServerProcess(tmp_path) as server, contextlib.closing(Clients(server.host)) as clients:
            found: set[str] = set()
            while received := clients.pull():
                found |= {one.message.message_id for one in received}
        assert answered
        assert found.issuperset(answered)
        assert len(found) <= len(answered) + 50

    def test_a_damaged_log_costs_what_is_damaged(self, tmp_path: Path) -> None:
        """Of 6,000 messages that wait, 5,990 come after one bit of the log has flipped: a record has ten. The server says what it
        skipped, at each start until the copy is deleted.
        """
        with ServerProcess(tmp_path) as server, contextlib.closing(Clients(server.host)) as clients:
            clients.create()
            for first in range(0, 6000, 100):
                clients.publish(*(b"%d" % number for number in range(first, first + 100)))
            assert server.terminate() == 0
        log = tmp_path / "pubsub.log"
        content = bytearray(log.read_bytes())
        content[len(content) // 6] ^= 1
        log.write_bytes(content)
        with ServerProcess(tmp_path) as server, contextlib.closing(Clients(server.host)) as clients:
            found: set[int] = set()
            while received := clients.pull():
                found |= {int(one.message.data) for one in received}
            (damage,) = damage_of(server)
            assert server.terminate() == 0
        missing = set(range(6000)) - found
        assert (len(missing), max(missing) - min(missing)) == (10, 9)
        assert (damage.places, damage.copy) == (1, str(tmp_path / _COPY))
        with ServerProcess(tmp_path) as server:
            assert damage_of(server) == (damage,)
            (tmp_path / _COPY).unlink()
            assert damage_of(server) == ()

    def test_a_damaged_topic_and_subscription_take_nothing_along(self, tmp_path: Path) -> None:
        """A lost topic is made again by the name in its subscription; what a lost subscription held is counted."""
        with ServerProcess(tmp_path) as server, contextlib.closing(Clients(server.host)) as clients:
            clients.create()
            other = SUBSCRIPTION + "-other"
            clients.subscriber.create_subscription(request={"name": other, "topic": TOPIC})
            clients.publish(b"a", b"b")
            assert server.terminate() == 0
        log = tmp_path / "pubsub.log"
        content = bytearray(log.read_bytes())
        content[content.index(TOPIC.encode())] ^= 1  # the record of the topic, which is the first to name it
        copies = [found.start() for found in re.finditer(re.escape(other.encode()), content)]
        assert len(copies) == 2
        for at in copies:
            content[at] ^= 1
        log.write_bytes(content)
        with ServerProcess(tmp_path) as server, contextlib.closing(Clients(server.host)) as clients:
            (damage,) = damage_of(server)
            clients.publish(b"c")
            found: list[bytes] = []
            while received := clients.pull():
                found += [one.message.data for one in received]
        assert sorted(found) == [b"a", b"b", b"c"]
        assert (damage.places, damage.orphans) == (2, 2)

    def test_a_streaming_subscriber_lives_through_a_restart(self, tmp_path: Path) -> None:
        """Google's subscriber and publisher reconnect to the server that comes back on the same port.

        Most of its ten seconds are the subscriber's own pause between attempts.
        """
        seen: set[bytes] = set()

        def note(message: Any) -> None:
            seen.add(message.data)
            message.ack()

        with contextlib.ExitStack() as stack:
            server = stack.enter_context(ServerProcess(tmp_path))
            clients = stack.enter_context(contextlib.closing(Clients(server.host)))
            clients.create()
            clients.publish(b"before")
            with clients.subscribed(note):
                wait_until(lambda: seen == {b"before"})
                assert server.terminate() == 0
                stack.enter_context(ServerProcess(tmp_path, int(server.host.rpartition(":")[2])))
                clients.publisher.publish(TOPIC, b"after").result(60)
                wait_until(lambda: b"after" in seen, seconds=60)

    def test_it_says_where_it_listens_and_stops_within_a_second(self, tmp_path: Path) -> None:
        """The first line is the address; SIGTERM ends it well although a stream is waiting."""
        with ServerProcess(tmp_path) as server, contextlib.closing(Clients(server.host)) as clients:
            assert server.first_line.startswith("listening on 127.0.0.1:")
            clients.create()
            stream = StreamUser(clients)
            clients.publish(b"x")
            stream.receive()
            server.process.terminate()
            assert server.process.wait(1) == 0
            stream.close()

    def test_a_folder_or_port_in_use_is_reported_in_a_sentence(self, tmp_path: Path) -> None:
        """Exit code 4 and no traceback."""
        with ServerProcess(tmp_path / "first") as server:
            port = server.host.rpartition(":")[2]
            for arguments, expected in (
                (["--data-dir", str(tmp_path / "first")], "in use by another server"),
                (["--data-dir", str(tmp_path / "second"), "--port", port], f"Port {port} of 127.0.0.1 is in use"),
            ):
                command = [sys.executable, "-m", "ecomflow.local.pubsub", *arguments]
                result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
                assert result.returncode == 4
                assert expected in result.stderr
                assert "Traceback" not in result.stderr

    def test_the_server_imports_neither_beam_nor_the_warehouse(self) -> None:
        """It starts in well under two seconds because it loads only what it serves."""
        code = "import sys, ecomflow.local.pubsub; print([m for m in ('apache_beam', 'pyarrow', 'duckdb') if m in sys.modules])"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
        assert result.stdout.strip() == "[]"
