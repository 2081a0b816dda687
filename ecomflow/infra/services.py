"""The enabled APIs, roles and permissions of a project, from Google's REST APIs.

These services have no emulators: if all others are emulated, nothing is requested. SERVICEUSAGE_EMULATOR_HOST,
CLOUDRESOURCEMANAGER_EMULATOR_HOST and IAM_EMULATOR_HOST override the endpoints, as for the other services.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import requests
from google.api_core.exceptions import from_http_response
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession

from ecomflow.config import Endpoints, Settings, as_url
from ecomflow.errors import AccessError, UnavailableError
from ecomflow.gcp.credentials import find_credentials
from ecomflow.gcp.errors import DeniedError, google_errors
from ecomflow.gcp.permissions import READ_SERVICES
from ecomflow.gcp.services import Service
from ecomflow.gcp.target import Target
from ecomflow.infra.resources import APIS, Apis

_REQUEST_SECONDS = 10.0
# Enabling takes Google seconds to a few minutes.
_ENABLE_SECONDS = 300.0

_SERVICE_USAGE, _RESOURCE_MANAGER, _IAM = "serviceusage", "cloudresourcemanager", "iam"
_ROLES = {
    _SERVICE_USAGE: "roles/serviceusage.serviceUsageAdmin",
    _RESOURCE_MANAGER: "roles/browser",
    _IAM: "roles/iam.serviceAccountUser",
}


def has_apis(target: Target) -> bool:
    """Whether there is a Google Cloud project whose APIs can be listed."""
    return not target.settings.is_local and (at_google(target.endpoints) or _endpoint(_SERVICE_USAGE) is not None)


def has_project_policy(target: Target) -> bool:
    """Whether there is a Google Cloud project whose roles can be read."""
    return not target.settings.is_local and (at_google(target.endpoints) or _endpoint(_RESOURCE_MANAGER) is not None)


def at_google(endpoints: Endpoints) -> bool:
    """Whether any service used for provisioning is Google's own."""
    return None in (endpoints.pubsub, endpoints.storage, endpoints.bigquery)


def observe_apis(settings: Settings) -> Apis:
    """The enabled ``APIS`` of the project. Raises AccessError, UnavailableError, or NotFoundError for the project.

    If this account may not list them, ``enabled`` is None: later calls will show what is missing.
    """
    names = [("names", f"projects/{settings.project_id}/services/{api}") for api in APIS]
    try:
        answer = _call(_SERVICE_USAGE, "GET", f"v1/projects/{settings.project_id}/services:batchGet", settings, params=names)
    except DeniedError:
        return Apis(f"projects/{settings.project_id}", None)
    states = {service["name"].rsplit("/", 1)[-1]: service.get("state") for service in answer.get("services", [])}
    return Apis(f"projects/{settings.project_id}", tuple(api for api in APIS if states.get(api) == "ENABLED"))


def enable_apis(
    apis: Sequence[str],
    settings: Settings,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Enables ``apis`` and waits until they are enabled. Raises as ``observe_apis``, also if Google refuses."""
    body = {"serviceIds": list(apis)}
    path = f"v1/projects/{settings.project_id}/services:batchEnable"
    operation = _call(_SERVICE_USAGE, "POST", path, settings, body=body)
    give_up = clock() + _ENABLE_SECONDS
    while not operation.get("done"):
        if clock() > give_up:
            raise UnavailableError(f"Google has not enabled the APIs within {_ENABLE_SECONDS:.0f} s.", "Run the command again.")
        sleep(1.0)
        operation = _call(_SERVICE_USAGE, "GET", f"v1/{operation['name']}", settings)
    if "error" in operation:
        reason = str(operation["error"].get("message", "no reason given")).rstrip(". ")
        raise AccessError(
            f"Google refuses to enable the APIs in project {settings.project_id}: {reason}.",
            f"Enable them yourself: gcloud services enable {' '.join(apis)} --project {settings.project_id}",
        )


def project_number(settings: Settings, project: str | None = None) -> str:
    """The number of ``project`` (default: the configured one), which identifies a bucket's owner and default service accounts.

    It is part of the names that Service Usage returns, which needs only serviceusage.services.get. Resource Manager shows the
    number too, but that would need another API and another role.
    https://cloud.google.com/service-usage/docs/reference/rest/v1/services/get
    """
    asked = project or settings.project_id
    path = f"v1/projects/{asked}/services/storage.googleapis.com"
    answer = _call(_SERVICE_USAGE, "GET", path, settings, project=asked, permission=READ_SERVICES)
    return str(answer["name"]).split("/")[1]


def project_policy(settings: Settings) -> list[dict[str, Any]]:
    """The bindings (role, members, condition) on the project itself, without those on its folder or organisation."""
    path = f"v1/projects/{settings.project_id}:getIamPolicy"
    body = {"options": {"requestedPolicyVersion": 3}}
    return list(_call(_RESOURCE_MANAGER, "POST", path, settings, body=body).get("bindings", []))


def granted_on_project(permissions: Sequence[str], settings: Settings) -> set[str]:
    """The ``permissions`` that this account has on the project, however they were granted."""
    path = f"v1/projects/{settings.project_id}:testIamPermissions"
    answer = _call(_RESOURCE_MANAGER, "POST", path, settings, body={"permissions": list(permissions)})
    return set(answer.get("permissions", []))


def granted_on_account(account: str, permissions: Sequence[str], settings: Settings) -> set[str]:
    """The ``permissions`` that this account has on the service account ``account`` of any project.

    https://cloud.google.com/iam/docs/reference/rest/v1/projects.serviceAccounts/testIamPermissions
    """
    path = f"v1/projects/-/serviceAccounts/{account}:testIamPermissions"
    answer = _call(_IAM, "POST", path, settings, body={"permissions": list(permissions)}, resource=f"service account {account}")
    return set(answer.get("permissions", []))


def _call(
    name: str,
    method: str,
    path: str,
    settings: Settings,
    *,
    params: list[tuple[str, str]] | None = None,
    body: dict[str, Any] | None = None,
    resource: str | None = None,
    project: str | None = None,
    permission: str | None = None,
) -> dict[str, Any]:
    endpoint = _endpoint(name)
    api = f"{name}.googleapis.com"
    service = Service(api, api, _ROLES[name], project or settings.project_id, endpoint)
    credentials = AnonymousCredentials() if endpoint else find_credentials(settings.project_id)
    asked = resource or f"project {service.project}"
    with google_errors(service, asked, permission), AuthorizedSession(credentials) as session:
        url = f"{endpoint or f'https://{api}'}/{path}"
        response: requests.Response = session.request(method, url, params=params, json=body, timeout=_REQUEST_SECONDS)
        if not response.ok:
            raise from_http_response(response)
        return dict(response.json())


def _endpoint(name: str) -> str | None:
    host = os.environ.get(f"{name.upper()}_EMULATOR_HOST")
    return as_url(host) if host else None
