"""``ecomflow infra`` as a process: what a user sees of the local stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecomflow.config import Settings
from ecomflow.gcp.clients import publisher_client
from ecomflow.local.supervisor import up
from tests.support.cli import ecomflow


@pytest.mark.stack
def test_a_damaged_message_log_is_reported(tmp_path: Path) -> None:
    """By infra up and by infra status, with the bytes that were skipped, the copy that is kept, and the next command."""
    settings = Settings(state_dir=str(tmp_path / "state"))
    try:
        assert ecomflow("infra", "up", settings=settings, folder=tmp_path).returncode == 0
        endpoints = up(settings.state_path).endpoints
        assert endpoints is not None
        with publisher_client(endpoints) as publisher:
            for number in range(20):
                publisher.publish(settings.topic_path, b"%d" % number * 100).result()
        assert ecomflow("infra", "down", settings=settings, folder=tmp_path).returncode == 0
        log = settings.state_path.resolve() / "pubsub" / "pubsub.log"
        content = bytearray(log.read_bytes())
        content[-500] ^= 1
        log.write_bytes(content)
        for command in ("up", "status"):
            shown = ecomflow("infra", command, settings=settings, folder=tmp_path)
            assert shown.returncode == 0
            words = " ".join(shown.stdout.split())
            assert "The log of the local Pub/Sub was damaged in 1 place: " in words
            assert f"The damaged log is kept as {log.with_suffix('.damaged-1')}." in words
            assert "run: ecomflow reconcile" in words
    finally:
        ecomflow("infra", "down", settings=settings, folder=tmp_path)
