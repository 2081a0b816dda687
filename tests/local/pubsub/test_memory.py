"""How many messages the local Pub/Sub takes: what bounds its memory, and what it says where that is too small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ecomflow.local.pubsub import memory
from tests.support.local_pubsub import Clients, ServerProcess

# The flag asks for what is there now.
pytestmark = pytest.mark.filterwarnings("ignore:The return_immediately flag is deprecated:DeprecationWarning")

_LARGE = 1_000_000


def test_half_of_the_machines_memory_is_for_messages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where nothing else limits the process."""
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "none")
    assert memory.max_messages() == psutil.virtual_memory().total // 2 // memory.MESSAGE_BYTES


def test_the_smallest_limit_of_its_cgroups_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container in a slice, where the slice has the smaller limit and the container none."""
    own = tmp_path / "cgroups" / "shop.slice" / "pubsub.scope"
    own.mkdir(parents=True)
    (own / "memory.max").write_text("max\n")
    (own.parent / "memory.max").write_text("64000000\n")
    (tmp_path / "cgroup").write_text("0::/shop.slice/pubsub.scope\n")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroups")
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "cgroup")
    assert memory.max_messages() == 50_000


@pytest.mark.slow
def test_the_limit_of_the_address_space_counts() -> None:
    """ulimit -v, in a process of its own."""
    code = "from ecomflow.local.pubsub import memory; print(memory.max_messages())"
    command = f"ulimit -v 1000000 && exec {sys.executable} -c '{code}'"
    printed = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True).stdout
    assert int(printed) == 1_024_000_000 // 2 // memory.MESSAGE_BYTES


@pytest.mark.stack
class TestProcess:
    def test_large_messages_wait_on_disk(self, tmp_path: Path) -> None:
        """300 messages of 1 MB take a small part of that in memory, also after a restart, and come as they were published."""
        with ServerProcess(tmp_path) as server:
            clients = Clients(server.host)
            clients.create()
            before = psutil.Process(server.process.pid).memory_info().rss
            for number in range(300):
                clients.publish(bytes([number % 256]) * _LARGE)
            assert psutil.Process(server.process.pid).memory_info().rss - before < 100 * _LARGE
            clients.close()
            assert server.terminate() == 0
        with ServerProcess(tmp_path) as server:
            clients = Clients(server.host)
            for number in range(0, 300, 3):
                received = clients.pull(3)
                assert [one.message.data[-1] for one in received] == [(number + n) % 256 for n in range(3)]
                assert [len(one.message.data) for one in received] == [_LARGE] * 3
            clients.close()

    def test_a_log_that_memory_cannot_hold_is_reported_in_a_sentence(self, tmp_path: Path) -> None:
        """Exit code 4, what to do, and no traceback."""
        with (tmp_path / "pubsub.log").open("wb") as file:
            file.write(b"ecomflow pubsub log 1\n")
            file.truncate(8 * 2**30)  # a sparse file, which takes no disk space
        command = f"ulimit -v 4000000 && exec {sys.executable} -m ecomflow.local.pubsub --data-dir {tmp_path}"
        result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
        assert (result.returncode, result.stdout) == (4, "")
        assert "too little memory for the unacknowledged messages" in result.stderr
        assert "ulimit -v" in result.stderr
        assert "Traceback" not in result.stderr
