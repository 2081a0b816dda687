"""The local pipeline as a job: its records and log, read from the state folder, and commands to end or replace it."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import IO, Any

import msgspec

from ecomflow.config import Settings
from ecomflow.errors import NotFoundError, PipelineError
from ecomflow.jobs.metrics import condition_here
from ecomflow.jobs.records import Job, Level
from ecomflow.metrics.history import Condition
from ecomflow.pipeline.direct.launch import (
    LOG_FILE,
    PipelineStatus,
    check_ready,
    check_running,
    drain_detached,
    read_status,
    signal_pipeline,
    start_detached,
)
from ecomflow.pipeline.direct.logs import LogLine
from ecomflow.processes.json_lines import set_aside
from ecomflow.processes.state_folder import access_error, check_own

Sleep = Callable[[float], None]

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 2.0
_KILL_SECONDS = 10.0
_TAIL_BYTES = 1 << 20
# Dataflow's levels, which the command takes, as levels of logging.
_MIN_LEVEL: dict[Level, int] = {"debug": 10, "detailed": 10, "basic": 20, "warning": 30, "error": 40}
_decoder = msgspec.json.Decoder(LogLine)


class LocalJob(msgspec.Struct, frozen=True):
    """The local pipeline's last reported status, and its condition."""

    status: PipelineStatus
    condition: Condition


def examine(settings: Settings) -> LocalJob:
    """The current or most recent pipeline of the state folder, its state ``none`` if there is none.

    Its condition is judged by the backlog and the local services too, which are asked.
    """
    status = read_status(settings.state_path)
    return LocalJob(status, condition_here(settings, status))


def jobs(settings: Settings) -> list[Job]:
    """The current or most recent pipeline of the state folder; an empty list if there is none."""
    found = examine(settings)
    status = found.status
    if status.state == "none":
        return []
    updated = None if status.updated is None else datetime.fromtimestamp(status.updated, UTC)
    name, condition = name_of(settings, status), found.condition.name
    return [Job(id_of(status), name, status.state, "streaming", "local", condition, state_since=updated)]


def name_of(settings: Settings, status: PipelineStatus) -> str:
    """The name of the local pipeline: that of its subscription."""
    return (status.subscription or settings.subscription_path).rsplit("/", 1)[-1]


def id_of(status: PipelineStatus) -> str:
    """The id of the local pipeline: that of its process, if it is known."""
    return "" if status.pid is None else str(status.pid)


def log_lines(
    settings: Settings,
    lines: int,
    *,
    least: Level = "basic",
    since: datetime | None = None,
    follow: bool = False,
    sleep: Sleep = time.sleep,
) -> Iterator[LogLine]:
    """The log's last ``lines`` lines of level ``least`` (``basic`` is info) and above, not older than ``since``; with ``follow``,
    also new ones as they are written, until the pipeline has ended.

    Raises NotFoundError if no pipeline has run in the state folder.
    """
    path = settings.state_path / LOG_FILE

    def wanted(text: Iterable[bytes]) -> Iterator[LogLine]:
        return (line for line in map(_line, text) if _weight(line) >= _MIN_LEVEL[least] and (since is None or line.time >= since))

    check_own(settings.state_path)
    file = _open(path)
    try:
        yield from deque(wanted(chain(_tail_before(path), _tail(file))), maxlen=lines)
        while follow:
            ended = read_status(settings.state_path).state != "running"  # checked first, so that the last lines are not missed
            anew = _begun_anew(path, file)
            yield from wanted(file)
            if anew is not None:
                file.close()
                file = anew
            elif ended:
                return
            else:
                sleep(_POLL_SECONDS)
    finally:
        file.close()


def for_people(lines: Iterable[LogLine]) -> Iterator[dict[str, Any]]:
    """Time, level and text of each line, and its traceback as further texts."""
    for line in lines:
        yield {"time": line.time, "level": line.level, "text": line.message} if line.process else {"text": line.message}
        for row in line.traceback.splitlines():
            yield {"text": f"  {row}"}


def cancel(settings: Settings, *, grace: float = _GRACE_SECONDS) -> PipelineStatus:
    """End the running pipeline: by SIGTERM, and by SIGKILL if it still runs after ``grace`` seconds.

    The state is then ``drained`` or ``gone``. Unacknowledged messages are redelivered. Raises PipelineError if none runs.
    """
    status = read_status(settings.state_path)
    check_running(status)
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, _KILL_SECONDS)):
        signal_pipeline(status, number)
        give_up = time.monotonic() + seconds
        while (now := read_status(settings.state_path)).state == "running" and time.monotonic() < give_up:
            time.sleep(0.02)  # the system releases the pipeline's lock when it ends, without a notification
        if now.state != "running":
            return now
    raise PipelineError(f"Process {status.pid} does not end.", f"Check it with: ps {status.pid}")


def replace(settings: Settings) -> PipelineStatus:
    """Drain the running pipeline and start it again in the background, with the current code and settings, the same number of
    processes and the same metrics port.

    Nothing is drained if the new one could not start, for example without a stack or with a table that does not match.
    """
    check_ready(settings)
    before = drain_detached(settings)
    settings = msgspec.structs.replace(settings, processes=before.processes.wanted)
    return start_detached(settings, metrics_port=before.metrics_port)


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise NotFoundError(
            f"There is no log at {path}: no pipeline has run in this folder.", "Start one with: ecomflow deploy --detach"
        ) from error
    except OSError as error:
        raise access_error(path, error, "read") from error


def _tail(file: IO[bytes]) -> Iterator[bytes]:
    """The complete lines in the file's last ``_TAIL_BYTES``."""
    if (start := os.fstat(file.fileno()).st_size - _TAIL_BYTES) > 0:
        file.seek(start)
        file.readline()
    yield from file


def _tail_before(path: Path) -> Iterator[bytes]:
    """The same for the log before the last rotation."""
    try:
        with set_aside(path).open("rb") as file:
            yield from _tail(file)
    except FileNotFoundError:
        return


def _begun_anew(path: Path, file: IO[bytes]) -> IO[bytes] | None:
    """The log at ``path`` if it has been rotated and is no longer ``file``, to which nothing is then written any more."""
    try:
        anew = path.open("rb")
    except FileNotFoundError:  # rotated, and nothing written since
        return None
    if os.path.sameopenfile(anew.fileno(), file.fileno()):
        anew.close()
        return None
    return anew


def _line(text: bytes) -> LogLine:
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # truncated by a full disk
        return LogLine(datetime.fromtimestamp(0, UTC), "error", "", 0, text.decode("utf-8", "replace").rstrip("\n"))


def _weight(line: LogLine) -> int:
    return logging.getLevelNamesMapping().get(line.level.upper(), logging.INFO)
