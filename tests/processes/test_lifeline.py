"""A process ends with its folder, and only with it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ecomflow.config import Endpoints, Settings
from ecomflow.pipeline.direct.launch import read_status
from ecomflow.processes.lifeline import tied_to
from tests.support.cli import environment, write_stack_file
from tests.support.waiting import wait_until


@pytest.mark.slow
def test_it_tells_of_a_deletion_and_of_nothing_else(tmp_path: Path) -> None:
    """A folder that is emptied, or moved, is there still."""
    folder, gone = tmp_path / "a", threading.Event()
    folder.mkdir()
    (folder / "x").touch()
    with tied_to(folder, gone.set):
        (folder / "x").unlink()
        folder.rename(tmp_path / "b")
        assert not gone.wait(2.5)
        shutil.rmtree(tmp_path / "b")
        assert gone.wait(10)


@pytest.mark.slow
def test_it_ends_with_what_it_watches_for(tmp_path: Path) -> None:
    """Afterwards a deletion is nobody's business, and no thread is left."""
    folder, gone = tmp_path / "a", threading.Event()
    folder.mkdir()
    with tied_to(folder, gone.set):
        pass
    folder.rmdir()
    assert not gone.wait(1.5)
    assert [thread for thread in threading.enumerate() if thread.name == "lifeline"] == []


@pytest.mark.stack
def test_a_pipeline_ends_with_its_state_folder(provisioned: Settings, stack: Endpoints, tmp_path: Path) -> None:
    """Deleted under it, it drains and ends: it would be known to nobody, and restart for ever once the services are gone."""
    state = tmp_path / "state"
    state.mkdir()
    write_stack_file(state, stack)
    command = [sys.executable, "-m", "ecomflow", "deploy"]
    with subprocess.Popen(
        command, env=environment(provisioned, ECOMFLOW_STATE_DIR=str(state)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as pipeline:
        try:
            wait_until(lambda: read_status(state).state == "running", seconds=60)
            shutil.rmtree(state)
            pipeline.wait(60)
        finally:
            pipeline.kill()
