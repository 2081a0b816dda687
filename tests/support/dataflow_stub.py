"""A stub of the Dataflow Jobs API on loopback: jobs come in by HTTP; their states, messages and metrics go out.

It differs from the service: nothing is ever run. A job moves on when it is looked at (GET of the job): PENDING to RUNNING at the
first look, DRAINING to DRAINED after ``drain_looks`` of them, CANCELLING to CANCELLED after ``cancel_looks``; a list moves none.
An update ends the old job at once. Steps, messages and metrics are those that the test sets. Enums go out as integers, which is
what Google's clients ask for (``$alt=json;enum-encoding=int``). Bodies are the API's own JSON:
https://cloud.google.com/dataflow/docs/reference/rest/v1b3/projects.locations.jobs
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

RUNNING, DONE, FAILED, CANCELLED, UPDATED, DRAINING, DRAINED, PENDING, CANCELLING = 2, 3, 4, 5, 6, 7, 8, 9, 10
TERMINAL = frozenset({DONE, FAILED, CANCELLED, UPDATED, DRAINED})
VIEW_ALL, VIEW_DESCRIPTION = 2, 3
LIST_TERMINATED, LIST_ACTIVE = 2, 3
DEBUG, DETAILED, WARNING, ERROR, BASIC = 1, 2, 3, 4, 5
IMPORTANCE = (DEBUG, DETAILED, BASIC, WARNING, ERROR)  # in rising order; the numbers are not

_JOBS = re.compile(r"/v1b3/projects/(?P<project>[^/]+)/locations/(?P<location>[^/]+)/jobs(?:/(?P<job>[^/]+)(?P<part>/\w+)?)?")
_STATUS = {
    400: "FAILED_PRECONDITION",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
# What client-based APIs say to a user's login that names no quota project: https://cloud.google.com/docs/quotas/set-quota-project
NO_QUOTA_PROJECT = (
    "Your application is authenticating by using local Application Default Credentials. The {api}.googleapis.com API requires a"
    " quota project, which is not set by default."
)
# JOB_VIEW_SUMMARY: "Project ID, Job ID, job name, job type, job status, start/end time, and Cloud SDK version details." A list is
# nothing more, whatever view is asked for; labels, environment and steps come with JOB_VIEW_DESCRIPTION and JOB_VIEW_ALL.
_SUMMARY = (
    "id",
    "projectId",
    "location",
    "name",
    "type",
    "currentState",
    "currentStateTime",
    "createTime",
    "startTime",
    "jobMetadata",
)
_DESCRIBED_ONLY = ("labels", "environment", "pipelineDescription", "steps", "transformNameMapping", "stageStates")


@dataclass(frozen=True)
class Request:
    """One request as it arrived; ``body`` is decoded JSON, {} where there is none."""

    method: str
    path: str
    query: dict[str, str]
    body: dict[str, Any]
    quota_project: str | None = None


@dataclass
class Fault:
    """What the next ``times`` requests of ``method`` to a path that matches ``path`` meet: a status, or no answer (None)."""

    method: str
    path: str
    status: int | None
    times: int = 1
    message: str = "injected by the test"


class Refusal(Exception):  # noqa: N818  # an answer, not a fault of the stub
    """An error answer of the API."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status, self.message = status, message


@dataclass
class DataflowStub:
    """Everything that the stub knows. ``jobs`` by id, in the API's JSON; tests may change them while it runs."""

    drain_looks: int = 2
    cancel_looks: int = 1
    page_size: int = 100
    demands_quota_project: bool = False
    url: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    messages: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    autoscaling: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    metrics: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _looks: dict[str, int] = field(default_factory=dict)

    def add_job(
        self,
        name: str,
        state: int = RUNNING,
        *,
        project: str = "ecom-test",
        location: str = "europe-west1",
        steps: tuple[str, ...] = (),
        **fields: Any,
    ) -> str:
        """A job in ``state``, as if it had been submitted; its id. ``fields`` are the API's (labels, type, createTime, ...)."""
        job_id = self._new_id()
        now = _now()
        self.jobs[job_id] = {
            "id": job_id,
            "projectId": project,
            "location": location,
            "name": name,
            "type": 2,
            "currentState": state,
            "currentStateTime": now,
            "createTime": now,
            "startTime": now,
            **fields,
        }
        if steps:
            self.set_steps(job_id, steps)
        return job_id

    def set_steps(self, job_id: str, names: tuple[str, ...] | list[str]) -> None:
        """The user names of the job's transforms, as the service describes the submitted graph."""
        transforms = [{"id": f"s{number}", "name": name, "kind": 1} for number, name in enumerate(names, start=1)]
        self.jobs[job_id]["pipelineDescription"] = {"originalPipelineTransform": transforms}

    def add_message(self, job_id: str, text: str, importance: int = BASIC, time: str | None = None) -> None:
        """A message of the job; ``time`` in RFC 3339, by default now."""
        messages = self.messages.setdefault(job_id, [])
        message = {"id": str(len(messages)), "time": time or _now(), "messageText": text, "messageImportance": importance}
        messages.append(message)

    def add_autoscaling(self, job_id: str, current: int, target: int, time: str | None = None) -> None:
        """An autoscaling event: the number of workers as it is and as it shall be."""
        event = {"currentNumWorkers": str(current), "targetNumWorkers": str(target), "eventType": 2, "time": time or _now()}
        self.autoscaling.setdefault(job_id, []).append(event)

    def add_metric(self, job_id: str, name: str, value: Any, *, origin: str = "user", kind: str = "Sum", **context: str) -> None:
        """A metric; ``context`` holds namespace, step, tentative="true", as the service sends them."""
        update = {
            "name": {"origin": origin, "name": name, "context": context},
            "kind": kind,
            "scalar": value,
            "updateTime": _now(),
        }
        self.metrics.setdefault(job_id, []).append(update)

    def fail(self, method: str, path: str, status: int | None, times: int = 1, message: str = "injected by the test") -> None:
        """Let the next ``times`` requests of ``method`` whose path matches the pattern ``path`` fail; status None: no answer."""
        self.faults.append(Fault(method, path, status, times, message))

    def seen(self, method: str, path: str = "") -> list[Request]:
        """The requests of ``method`` whose path matches the pattern ``path``, in order."""
        return [request for request in self.requests if request.method == method and re.search(path, request.path)]

    # What the handler calls.

    def answer(self, request: Request) -> dict[str, Any]:
        """The answer's body. Raises Refusal."""
        with self.lock:
            self.requests.append(request)
            fault = self._fault_for(request)
        if fault is not None and fault.status is None:
            self.closing.wait()
            raise Refusal(503, "the stub is closing")
        if fault is not None:
            raise Refusal(int(fault.status or 500), fault.message)
        if self.demands_quota_project and not request.quota_project:
            raise Refusal(403, NO_QUOTA_PROJECT.format(api="dataflow"))
        route = _JOBS.fullmatch(request.path)
        if route is None:
            raise Refusal(404, f"The stub has no {request.path}")
        with self.lock:
            return self._route(request, route)

    def _route(self, request: Request, route: re.Match[str]) -> dict[str, Any]:
        place = (unquote(route["project"]), unquote(route["location"]))
        if route["job"] is None:
            return self._create(request.body, place) if request.method == "POST" else self._list(request.query, place)
        job = self._find(unquote(route["job"]), place)
        match (request.method, route["part"]):
            case ("GET", None):
                return self._look(job, int(request.query.get("view", 0)))
            case ("PUT", None):
                return self._request_state(job, int(request.body.get("requestedState", 0)))
            case ("GET", "/messages"):
                return self._list_messages(job["id"], request.query)
            case ("GET", "/metrics"):
                return {"metricTime": _now(), "metrics": self.metrics.get(job["id"], [])}
        raise Refusal(404, f"The stub has no {request.method} {request.path}")

    def _create(self, body: dict[str, Any], place: tuple[str, str]) -> dict[str, Any]:
        replaced = body.get("replaceJobId")
        active = [job for job in self._in(place) if job["name"] == body["name"] and job["currentState"] not in TERMINAL]
        if replaced:
            return self._replace(self._find(replaced, place), body, place)
        if active:
            return active[-1]  # the API answers with the job that has the name: its clientRequestId identifies the client
        return self.jobs[self._submitted(body, place)]

    def _replace(self, old: dict[str, Any], body: dict[str, Any], place: tuple[str, str]) -> dict[str, Any]:
        if old["currentState"] == UPDATED:
            return self.jobs[old["replacedByJobId"]]
        if old["currentState"] != RUNNING:
            raise Refusal(400, f"The job {old['id']} is not running, so it cannot be updated.")
        new = self._submitted(body, place)
        old.update(currentState=UPDATED, currentStateTime=_now(), replacedByJobId=new)
        return self.jobs[new]

    def _submitted(self, body: dict[str, Any], place: tuple[str, str]) -> str:
        fields = {key: value for key, value in body.items() if key not in ("id", "projectId", "location", "name", "currentState")}
        return self.add_job(body["name"], PENDING, project=place[0], location=place[1], **fields)

    def _list(self, query: dict[str, str], place: tuple[str, str]) -> dict[str, Any]:
        wanted, name = int(query.get("filter", 0)), query.get("name")
        jobs = [
            {key: value for key, value in job.items() if key in _SUMMARY}
            for job in self._in(place)
            if (name is None or job["name"] == name)
            and (wanted != LIST_ACTIVE or job["currentState"] not in TERMINAL)
            and (wanted != LIST_TERMINATED or job["currentState"] in TERMINAL)
        ]
        return self._page("jobs", jobs, query)

    def _look(self, job: dict[str, Any], view: int) -> dict[str, Any]:
        looks = self._looks[job["id"]] = self._looks.get(job["id"], 0) + 1
        after = {PENDING: (1, RUNNING), DRAINING: (self.drain_looks, DRAINED), CANCELLING: (self.cancel_looks, CANCELLED)}
        needed, following = after.get(job["currentState"], (looks + 1, None))
        if following is not None and looks >= needed:
            self._move(job, following)
        hidden = () if view in (VIEW_ALL, VIEW_DESCRIPTION) else _DESCRIBED_ONLY
        return {key: value for key, value in job.items() if key not in hidden}

    def _request_state(self, job: dict[str, Any], wanted: int) -> dict[str, Any]:
        if job["currentState"] in TERMINAL:
            raise Refusal(409, f"The job {job['id']} is already in a terminal state.")
        following = {CANCELLED: CANCELLING, DRAINING: DRAINING, DRAINED: DRAINING}.get(wanted)
        if following is None:
            raise Refusal(400, f"The requested state {wanted} is not one that a job can be set to.")
        self._move(job, following)
        job["requestedState"] = wanted
        return job

    def _list_messages(self, job_id: str, query: dict[str, str]) -> dict[str, Any]:
        least = IMPORTANCE.index(int(query.get("minimumImportance", 0)) or DEBUG)
        start = _parse(query["startTime"]) if "startTime" in query else None
        found = [
            message
            for message in self.messages.get(job_id, [])
            if IMPORTANCE.index(message["messageImportance"]) >= least and (start is None or _parse(message["time"]) >= start)
        ]
        return {**self._page("jobMessages", found, query), "autoscalingEvents": self.autoscaling.get(job_id, [])}

    def _page(self, key: str, items: list[Any], query: dict[str, str]) -> dict[str, Any]:
        begin = int(query.get("pageToken") or 0)
        end = begin + min(int(query.get("pageSize") or self.page_size), self.page_size)
        return {key: items[begin:end], **({"nextPageToken": str(end)} if end < len(items) else {})}

    def _in(self, place: tuple[str, str]) -> list[dict[str, Any]]:
        return [job for job in self.jobs.values() if (job["projectId"], job["location"]) == place]

    def _find(self, job_id: str, place: tuple[str, str]) -> dict[str, Any]:
        job = self.jobs.get(job_id)
        if job is None or (job["projectId"], job["location"]) != place:
            raise Refusal(404, f"Information about job {job_id} could not be found in our system. Please double check the id.")
        return job

    def _move(self, job: dict[str, Any], state: int) -> None:
        self._looks[job["id"]] = 0
        job.update(currentState=state, currentStateTime=_now())

    def _fault_for(self, request: Request) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.method == request.method and re.search(fault.path, request.path):
                fault.times -= 1
                return fault
        return None

    def _new_id(self) -> str:
        return f"2025-12-01_00_00_00-{1_000_000_000_000 + len(self.jobs)}"


@contextmanager
def running_stub(*, drain_looks: int = 2, cancel_looks: int = 1, page_size: int = 100) -> Iterator[DataflowStub]:
    """A stub that listens at ``stub.url`` (http://localhost:PORT, the form that lets Beam choose REST) until the block ends."""
    stub = DataflowStub(drain_looks=drain_looks, cancel_looks=cancel_looks, page_size=page_size)

    class Handler(_Handler):
        served = stub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub.url = f"http://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="dataflow-stub", daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    served: DataflowStub

    def _serve(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, url.path, query, json.loads(content or b"{}"), self.headers.get("x-goog-user-project"))
        try:
            status, body = 200, self.served.answer(request)
        except Refusal as refusal:
            status = refusal.status
            error = {"code": status, "message": refusal.message, "status": _STATUS.get(status, "UNKNOWN")}
            body = {"error": error}
        encoded = json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=UTF-8")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)
        except ConnectionError:  # the client gave up waiting
            self.close_connection = True

    do_GET = do_POST = do_PUT = _serve  # noqa: N815  # the base class names them so

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read ``stub.requests`` instead."""


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _parse(time: str) -> datetime:
    return datetime.fromisoformat(time.replace("Z", "+00:00"))
