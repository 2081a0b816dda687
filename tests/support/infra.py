"""What the tests of provisioning and of the doctor share: Google's APIs for projects and roles, on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import grpc
from google.iam.v1 import iam_policy_pb2, policy_pb2

from ecomflow.infra.resources import APIS
from tests.support.dataflow_stub import NO_QUOTA_PROJECT

PROJECT_NUMBER = "4242"


class Google:
    """Service Usage, Resource Manager, and the roles of buckets, datasets, tables and (by gRPC) subscriptions.

    ``enabled`` are the APIs; ``policies`` the bindings by kind of resource (project, bucket, dataset, subscription), as role and
    members; ``permissions`` what the caller has, on whatever it asks; ``denied`` the paths' ends that get a 403 with ``denial``,
    ``missing`` those that get a 404; ``refused`` why nothing can be enabled; ``is_slow`` that enabling never ends;
    ``demands_quota_project`` refuses requests without x-goog-user-project, of which ``quota_projects`` keeps each. ``requests``
    keeps method, path, body of each. ``numbers`` are those of projects that have another number than PROJECT_NUMBER.
    """

    def __init__(self) -> None:
        self.enabled = set(APIS)
        self.numbers: dict[str, str] = {}
        self.enabling: list[str] = []
        self.refused: str | None = None
        self.is_slow = False
        self.policies: dict[str, dict[str, list[str]]] = {}
        self.permissions: set[str] = set()
        self.denied: tuple[str, ...] = ()
        self.missing: tuple[str, ...] = ()
        self.denial = "The caller does not have permission"
        self.demands_quota_project = False
        self.quota_projects: list[str | None] = []
        self.requests: list[tuple[str, str, Any]] = []

    def answer(self, method: str, url: str, body: Any) -> tuple[int, Any]:
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        self.requests.append((method, path, body))
        if self.denied and path.endswith(self.denied):
            return 403, {"error": {"code": 403, "message": self.denial}}
        if self.missing and path.endswith(self.missing):
            return 404, {"error": {"code": 404, "message": "Unknown service account"}}
        match path.rsplit("/", 1)[-1].rsplit(":", 1)[-1]:
            case "batchGet":
                states = {api: "ENABLED" if api in self.enabled else "DISABLED" for api in APIS}
                names = [{"name": f"projects/{PROJECT_NUMBER}/services/{api}", "state": states[api]} for api in states]
                return 200, {"services": [found for found in names if found["name"].rsplit("/", 1)[-1] in str(query["names"])]}
            case "batchEnable":
                self.enabling = body["serviceIds"]
                return 200, {"name": "operations/enable", "done": False}
            case "enable":
                return 200, self._enabled()
            case "getIamPolicy":
                return 200, {"bindings": self._bindings("project")}
            case "iam":
                return 200, {"bindings": self._bindings("bucket"), "version": 1}
            case "testIamPermissions":
                return 200, {"permissions": sorted(self.permissions & set(body["permissions"]))}
            case "testPermissions":
                return 200, {"permissions": sorted(self.permissions & set(query["permissions"]))}
            case api if "/services/" in path:
                state = "ENABLED" if api in self.enabled else "DISABLED"
                number = self.numbers.get(path.split("/")[-3], PROJECT_NUMBER)
                return 200, {"name": f"projects/{number}/services/{api}", "parent": f"projects/{number}", "state": state}
            case _ if "/datasets/" in path:
                entries = [
                    {"role": r, "userByEmail": m} for r, members in self.policies.get("dataset", {}).items() for m in members
                ]
                return 200, {"datasetReference": {"projectId": "p", "datasetId": "d"}, "access": entries}
            case _:
                return 200, {"projectId": "p", "projectNumber": PROJECT_NUMBER}

    def _enabled(self) -> Any:
        if self.is_slow:
            return {"name": "operations/enable", "done": False}
        if self.refused is not None:
            return {"name": "operations/enable", "done": True, "error": {"code": 9, "message": self.refused}}
        self.enabled.update(self.enabling)
        return {"name": "operations/enable", "done": True, "response": {}}

    def _bindings(self, kind: str) -> list[dict[str, Any]]:
        return [{"role": role, "members": members} for role, members in self.policies.get(kind, {}).items()]

    def pubsub_methods(self) -> dict[str, dict[str, Any]]:
        """Handlers of Pub/Sub's own methods, by service: none here."""
        return {}

    @contextmanager
    def over_http(self) -> Iterator[str]:
        """The URL of all the REST APIs."""
        google = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply(None)

            def do_POST(self) -> None:
                self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"null"))

            do_DELETE = do_PATCH = do_PUT = do_POST  # noqa: N815

            def _reply(self, body: Any) -> None:
                google.quota_projects.append(self.headers.get("x-goog-user-project"))
                if google.demands_quota_project and google.quota_projects[-1] is None:
                    status, answer = 403, {"error": {"code": 403, "message": NO_QUOTA_PROJECT.format(api="serviceusage")}}
                else:
                    status, answer = google.answer(self.command, self.path, body)
                encoded = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(encoded)))
                self.end_headers()
                self.wfile.write(encoded)

            def log_message(self, format: str, *args: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    @contextmanager
    def over_grpc(self) -> Iterator[str]:
        """``host:port`` of google.iam.v1.IAMPolicy, as Pub/Sub serves it for its subscriptions."""

        def get(request: Any, context: grpc.ServicerContext) -> Any:
            if "getIamPolicy" in str(self.denied):
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "User not authorized to perform this action.")
            bindings = [
                policy_pb2.Binding(role=role, members=members) for role, members in self.policies.get("subscription", {}).items()
            ]
            return policy_pb2.Policy(bindings=bindings)

        def test(request: Any, context: grpc.ServicerContext) -> Any:
            return iam_policy_pb2.TestIamPermissionsResponse(permissions=sorted(self.permissions & set(request.permissions)))

        server = grpc.server(ThreadPoolExecutor(4))
        methods = {
            "GetIamPolicy": _handler(get, iam_policy_pb2.GetIamPolicyRequest),
            "TestIamPermissions": _handler(test, iam_policy_pb2.TestIamPermissionsRequest),
        }
        services = {"google.iam.v1.IAMPolicy": methods, **self.pubsub_methods()}
        server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(name, handlers) for name, handlers in services.items())
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(grace=None).wait()


def _handler(method: Any, request: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(method, request.FromString, lambda reply: reply.SerializeToString())
