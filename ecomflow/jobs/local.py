"""The local pipeline as a job: its status file and log flow in, the same records and its end flow out."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from ecomflow.config import Settings
from ecomflow.errors import NotFoundError, PipelineError
from ecomflow.jobs.records import Job
from ecomflow.pipeline.launch import LOG_FILE, PipelineStatus, check_ready, drain_detached, read_status, start_detached

Sleep = Callable[[float], None]

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 2.0
_KILL_SECONDS = 10.0
_TAIL_BYTES = 1 << 20


def jobs(settings: Settings) -> list[Job]:
    """The pipeline that runs under the state folder, or ran last; none where there has been none."""
    status = read_status(settings.state_path)
    if status.state == "none":
        return []
    told = None if status.updated is None else datetime.fromtimestamp(status.updated, UTC)
    name = (status.subscription or settings.subscription_path).rsplit("/", 1)[-1]
    return [Job(str(status.pid), name, status.state, "streaming", "local", state_since=told)]


def log_lines(settings: Settings, lines: int, *, follow: bool = False, sleep: Sleep = time.sleep) -> Iterator[str]:
    """The log's last ``lines`` lines; then, to ``follow``, each line as it is written until the pipeline has ended.

    Raises NotFoundError where no pipeline has run in the background.
    """
    with _open(settings.state_path / LOG_FILE) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
        yield from map(_text, deque(file, maxlen=lines))
        while follow:
            ended = read_status(settings.state_path).state != "running"  # asked first, so that no last line is missed
            yield from map(_text, file)
            if ended:
                return
            sleep(_POLL_SECONDS)


def cancel(settings: Settings, *, grace: float = _GRACE_SECONDS) -> PipelineStatus:
    """End the running pipeline: by SIGTERM, and by SIGKILL where it still runs after ``grace`` seconds.

    The state is then ``drained`` or ``gone``. What it had not acknowledged comes again. Raises PipelineError where none runs.
    """
    status = read_status(settings.state_path)
    if status.state != "running" or status.pid is None:
        raise PipelineError("No local pipeline runs.", "Start one with: ecomflow deploy --detach")
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, _KILL_SECONDS)):
        with suppress(ProcessLookupError):  # it has ended since
            os.kill(status.pid, number)
        give_up = time.monotonic() + seconds
        while (now := read_status(settings.state_path)).state == "running" and time.monotonic() < give_up:
            time.sleep(0.02)  # the system lets go of its lock when it ends, and tells nobody
        if now.state != "running":
            return now
    raise PipelineError(f"Process {status.pid} does not end.", f"Look at it with: ps {status.pid}")


def replace(settings: Settings) -> PipelineStatus:
    """Drain the running pipeline and start it again in the background, with the code and the settings as they are now.

    Nothing is drained where the new one could not start: no stack, a table that does not fit.
    """
    check_ready(settings)
    drain_detached(settings)
    return start_detached(settings)


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise NotFoundError(
            f"There is no log at {path}: no pipeline has run in the background.", "Start one with: ecomflow deploy --detach"
        ) from error


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\n")
