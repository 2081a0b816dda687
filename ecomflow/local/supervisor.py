"""The local stack of a state folder: Pub/Sub, GCS and BigQuery, each in its own process, from ``up`` to ``down``.

There is no resident supervisor. ``<state>/stack.json`` has the addresses of the services (``endpoints``) and their processes
(``services``: pid, mark, ports, log), and is checked against the kernel: a process counts as a service only if it belongs to this
user, was started as that service, and works in this folder. So a forged file, a copied folder or a reused pid can't make ``down``
stop another process, and a service that is in no file, because the command that started it was killed, is still found.

Data is in ``<state>/pubsub``, ``<state>/storage`` and ``<state>/bigquery``, logs are in ``<state>/logs``.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from ecomflow.config import STACK_FILE, Endpoints
from ecomflow.errors import EcomflowError, UnavailableError, install_extra
from ecomflow.local.bigquery.server import check_installed
from ecomflow.local.probes import answers, read_damage
from ecomflow.local.pubsub.log import Damage
from ecomflow.local.storage.server import check_storage_installed
from ecomflow.loopback.peers import OtherUsers
from ecomflow.processes.detached import Identity, find, free_port, is_free, is_in_role, processes_of, spawn, stop
from ecomflow.processes.state_folder import access_error, check_own, folder_mark

SERVICES = {"pubsub": 1, "storage": 1, "bigquery": 2}
"""The number of ports of each service."""
_PROVIDES = {"pubsub": {"pubsub"}, "storage": {"storage"}, "bigquery": {"bigquery", "bigquery_storage"}}
"""The fields of ``Endpoints`` that each service provides."""

_VERSION = 2
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_PROBE_SECONDS = 2.0
_LOG_LINES = 12

State = Literal["ready", "unresponsive", "down"]
Progress = Callable[[str], None]


class Service(msgspec.Struct, frozen=True):
    """A service in stack.json: ``pid`` and ``mark`` are its Identity."""

    pid: int
    mark: str
    ports: tuple[int, ...]
    log: str


class Stack(msgspec.Struct, frozen=True):
    """The content of stack.json. ``folder``: the folder in which it was written, to detect a copy of the file."""

    version: int
    folder: str
    endpoints: Endpoints
    services: dict[str, Service]


class ServiceReport(msgspec.Struct, frozen=True):
    """The current state of a service. ``endpoint`` and the numbers are None if it is down. ``damage``: of its stored data."""

    name: str
    state: State
    pid: int | None
    endpoint: str | None
    log: str
    rss_mb: float | None
    uptime_seconds: float | None
    damage: tuple[Damage, ...] = ()


class StackReport(msgspec.Struct, frozen=True):
    """The state of the stack, or of those services that were asked for. ``started``: the services that this call started;
    ``endpoints``: None unless all are ready.
    """

    state_path: str
    ready: bool
    services: tuple[ServiceReport, ...]
    endpoints: Endpoints | None
    started: tuple[str, ...] = ()


def services_in_use(external: Collection[str]) -> tuple[str, ...]:
    """The services that are used if the endpoints ``external``, fields of ``Endpoints``, are those of other programs."""
    return tuple(name for name in SERVICES if not _PROVIDES[name] <= {*external})


def up(
    state_path: Path,
    *,
    names: Collection[str] = tuple(SERVICES),
    others: OtherUsers = "refuse",
    on_progress: Progress | None = None,
) -> StackReport:
    """Start the services ``names``, and return when each responds. Services that are ready are kept, also others; those that are
    not are replaced, on their old ports if these are free. ``others`` applies to the services that are started.

    ``on_progress`` gets a sentence at each step. Raises MissingExtraError before anything starts, AccessError for a state folder
    that can't be written, and UnavailableError, with the end of its log, for a service that does not start.
    """
    if not names:
        return status(state_path, names)
    check_installed()
    check_storage_installed()
    say = on_progress or (lambda _: None)
    state_path = _make_state_folder(state_path)
    with _locked(state_path, say):
        before = _read(state_path)
        kept = _ready_services(state_path, before)
        _stop_all_but(kept, state_path)
        if missing := [name for name in names if name not in kept]:
            started = _start(state_path, missing, kept, before, say, others)
            return msgspec.structs.replace(status(state_path, names), started=tuple(started))
        _write(state_path, kept)  # The endpoints in it may be damaged, although the processes are not.
        return status(state_path, names)


def status(state_path: Path, names: Collection[str] = tuple(SERVICES)) -> StackReport:
    """The state of the services ``names``. Takes at most two seconds and changes nothing. Raises AccessError for another user's
    folder.
    """
    state_path = state_path.resolve()
    check_own(state_path)
    services = _read(state_path)
    with ThreadPoolExecutor(len(SERVICES)) as pool:
        reports = tuple(pool.map(lambda name: _report(state_path, name, services.get(name)), names))
    ready = all(report.state == "ready" for report in reports)
    return StackReport(str(state_path), ready, reports, _endpoints(services) if ready else None)


def is_there(state_path: Path) -> bool:
    """Whether there is anything for ``down``: the state folder, or services that run although it has been deleted."""
    return state_path.is_dir() or bool(processes_of(state_path.resolve()))


def down(state_path: Path, *, with_data: bool = False) -> StackReport:
    """Stop the services and delete stack.json; ``with_data`` also deletes the data folders that ``up`` has created."""
    state_path = state_path.resolve()
    if not state_path.is_dir():
        _stop_all_but({}, state_path)  # the folder was deleted while they ran
        return status(state_path)
    check_own(state_path)
    with _locked(state_path, lambda _: None):
        _stop_all_but({}, state_path)
        (state_path / STACK_FILE).unlink(missing_ok=True)
        for name in SERVICES if with_data else ():
            if _marker(state_path, name).exists():
                shutil.rmtree(state_path / name, ignore_errors=True)
                _marker(state_path, name).unlink()
        return status(state_path)


@contextlib.contextmanager
def running_stack(state_path: Path, *, on_progress: Progress | None = None) -> Iterator[Endpoints]:
    """The endpoints of a stack that runs inside the ``with`` block. Its data is kept."""
    try:
        endpoints = up(state_path, on_progress=on_progress).endpoints
        if endpoints is None:
            raise UnavailableError("The local stack stopped right after its start.", f"Read its logs: {state_path / 'logs'}")
        yield endpoints
    finally:
        down(state_path)


def _start(
    state_path: Path,
    missing: list[str],
    kept: dict[str, Service],
    before: dict[str, Service],
    say: Progress,
    others: OtherUsers,
) -> list[str]:
    """Start the services ``missing``, in parallel; stop them again if one fails."""
    log_starts = {}
    services = dict(kept)
    try:
        for name in missing:
            log = state_path / "logs" / f"{name}.log"
            log_starts[name] = log.stat().st_size if log.exists() else 0
            services[name] = _spawn(state_path, name, _choose_ports(name, before.get(name)), log, others)
            # Before they are ready, so that they are on record if this process is killed.
            _write(state_path, services)
        _wait_until_ready({name: services[name] for name in log_starts}, log_starts, say)
    except BaseException:
        _stop_all_but(kept, state_path)
        if not kept:
            (state_path / STACK_FILE).unlink(missing_ok=True)
        raise
    return missing


def _spawn(state_path: Path, name: str, ports: tuple[int, ...], log: Path, others: OtherUsers) -> Service:
    data_dir = state_path / name
    if not data_dir.exists():
        data_dir.mkdir(mode=0o700)
        _marker(state_path, name).touch()
    try:
        identity = spawn([*_command(name, ports, data_dir), "--other-users", others], log, state_path, role=name)
    except OSError as error:
        raise UnavailableError(f"{name} can't be started: {error}.", install_extra("local")) from error
    return Service(identity.pid, identity.mark, ports, str(log))


def _command(name: str, ports: tuple[int, ...], data_dir: Path) -> list[str]:
    # -P: a file in the working folder must not shadow one of ecomflow's modules.
    python = [sys.executable, "-P", "-m", f"ecomflow.local.{name}"]
    if name != "bigquery":
        return [*python, "--port", str(ports[0]), "--data-dir", str(data_dir)]
    return [*python, "--http-port", str(ports[0]), "--grpc-port", str(ports[1]), "--data-dir", str(data_dir)]


def _choose_ports(name: str, before: Service | None) -> tuple[int, ...]:
    if before and len(before.ports) == SERVICES[name] and all(is_free(port) for port in before.ports):
        return before.ports
    ports: set[int] = set()
    while len(ports) < SERVICES[name]:
        ports.add(free_port())
    return tuple(ports)


def _wait_until_ready(services: dict[str, Service], log_starts: dict[str, int], say: Progress) -> None:
    begin = time.monotonic()
    with ThreadPoolExecutor(len(services)) as pool:
        waits = {pool.submit(_wait_for, name, service, begin + _START_SECONDS): name for name, service in services.items()}
        say(f"Starting {', '.join(services)}")
        failure = None
        for wait in as_completed(waits):
            name = waits[wait]
            if wait.result():
                say(f"{name} is ready after {time.monotonic() - begin:.1f} s")
            else:
                failure = failure or _failure(name, services[name], log_starts[name])
    if failure:
        raise failure


def _wait_for(name: str, service: Service, deadline: float) -> bool:
    """Whether the service responded before it ended and before the deadline."""
    while find(_identity(service)) and time.monotonic() < deadline:
        if answers(name, service.ports, _PROBE_SECONDS):
            return True
        time.sleep(0.05)
    return False


def _failure(name: str, service: Service, log_start: int) -> EcomflowError:
    with Path(service.log).open("rb") as log:
        log.seek(log_start)
        lines = log.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
    what = f"did not respond within {_START_SECONDS:.0f} s" if find(_identity(service)) else "ended during its start"
    end = "".join(f"\n  {line[:300]}" for line in lines) or " (empty)"
    return UnavailableError(f"{name} {what}. The end of its log:{end}", f"Read the whole log: {service.log}")


def _stop_all_but(kept: dict[str, Service], state_path: Path) -> None:
    """Stop the services of this folder, including any that are not in stack.json."""
    keep = {_identity(service) for service in kept.values()}
    stop([identity for _, identity in processes_of(state_path) if identity not in keep], _STOP_SECONDS)


def _ready_services(state_path: Path, services: dict[str, Service]) -> dict[str, Service]:
    with ThreadPoolExecutor(len(SERVICES)) as pool:
        states = pool.map(lambda item: _state(state_path, *item), services.items())
        return {name: services[name] for name, state in zip(services, states, strict=True) if state == "ready"}


def _state(state_path: Path, name: str, service: Service) -> State:
    if not is_in_role(_identity(service), name, state_path):
        return "down"
    return "ready" if answers(name, service.ports, _PROBE_SECONDS) else "unresponsive"


def _report(state_path: Path, name: str, service: Service | None) -> ServiceReport:
    log = str(state_path / "logs" / f"{name}.log")
    state = _state(state_path, name, service) if service else "down"
    process = find(_identity(service)) if service else None
    if service is None or process is None or state == "down":
        return ServiceReport(name, "down", None, None, log, None, None)
    try:
        rss_mb, started = process.memory_info().rss / 1e6, process.create_time()
    except psutil.NoSuchProcess:
        return ServiceReport(name, "down", None, None, log, None, None)
    endpoint = ", ".join(f"127.0.0.1:{port}" for port in service.ports)
    damage = read_damage(service.ports[0], _PROBE_SECONDS) if name == "pubsub" and state == "ready" else ()
    uptime = max(0.0, time.time() - started)
    return ServiceReport(name, state, service.pid, endpoint, log, round(rss_mb, 1), uptime, damage)


def _identity(service: Service) -> Identity:
    return Identity(service.pid, service.mark)


def _endpoints(services: dict[str, Service]) -> Endpoints:
    hosts = {name: [f"127.0.0.1:{port}" for port in service.ports] for name, service in services.items()}
    return Endpoints(
        pubsub=hosts["pubsub"][0] if "pubsub" in hosts else None,
        storage=f"http://{hosts['storage'][0]}" if "storage" in hosts else None,
        bigquery=f"http://{hosts['bigquery'][0]}" if "bigquery" in hosts else None,
        bigquery_storage=hosts["bigquery"][1] if "bigquery" in hosts else None,
    )


def _make_state_folder(state_path: Path) -> Path:
    try:
        state_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_own(state_path)
        (state_path / "logs").mkdir(mode=0o700, exist_ok=True)
        (state_path / "stack.lock").touch(mode=0o600)
    except OSError as error:
        raise access_error(state_path, error, "written") from error
    return state_path.resolve()


@contextlib.contextmanager
def _locked(state_path: Path, say: Progress) -> Iterator[None]:
    """Hold the stack's lock: one ``up`` or ``down`` at a time. The kernel releases it when the process ends."""
    try:
        lock = (state_path / "stack.lock").open("a")
    except OSError as error:
        raise access_error(state_path, error, "written") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another command that starts or stops the local stack")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _marker(state_path: Path, name: str) -> Path:
    """Exists if ``up`` has created the data folder, so that ``down`` may delete it."""
    return state_path / f".{name}-data"


def _read(state_path: Path) -> dict[str, Service]:
    """The services of stack.json; none if it is missing, invalid, or of another version or folder."""
    try:
        stack = msgspec.json.decode((state_path / STACK_FILE).read_bytes(), type=Stack)
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    except OSError as error:
        raise access_error(state_path / STACK_FILE, error, "read") from error
    is_own = stack.version == _VERSION and stack.folder == folder_mark(state_path)
    return stack.services if is_own and stack.services.keys() <= SERVICES.keys() else {}


def _write(state_path: Path, services: dict[str, Service]) -> None:
    content = msgspec.json.format(msgspec.json.encode(Stack(_VERSION, folder_mark(state_path), _endpoints(services), services)))
    draft = state_path / f"{STACK_FILE}.new"
    draft.write_bytes(content)
    draft.replace(state_path / STACK_FILE)
