"""Exceptions of Google's clients flow in; ecomflow's own errors, with what to do, flow out. The border of ``ecomflow.infra``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import requests.exceptions
from google.api_core import exceptions as google
from google.auth import exceptions as auth

from ecomflow.config import Endpoints, Settings
from ecomflow.errors import AccessError, ConfigError, EcomflowError, NotFoundError, UnavailableError
from ecomflow.gcp.permissions import ROLE_OF, named_permission

# How Pub/Sub, Cloud Storage, BigQuery and Dataflow say that a project isn't there, or is not shown to this account. The project
# must be what is missing: "Topic not found: projects/p/topics/t" and "The job of project p was not found" name something in it.
NO_PROJECT = re.compile(
    r"(?:^|[:;]\s+|\()(?:the )?(?:requested |specified )?project(?: ['\"]?[\w.:/-]+['\"]?)? (?:was )?(?:not found|does not exist)"
    r"|not found: project(?!s/)\b|unknown project\b",
    re.IGNORECASE,
)
_DISABLED = re.compile(r"SERVICE_DISABLED|has not been used in project|API .{0,40}is disabled|accessNotConfigured", re.IGNORECASE)
_DISABLED_PROJECT = re.compile(r"in project ['\"]?([\w.:-]+)", re.IGNORECASE)
_DISABLED_API = re.compile(r"\b([a-z]+\.googleapis\.com)/overview")
# https://cloud.google.com/docs/authentication/adc-troubleshooting/user-creds; the second is the older form.
_NO_QUOTA_PROJECT = re.compile(r"requires a quota project|end user credentials from the Google Cloud SDK", re.IGNORECASE)
# The projects of gcloud's own OAuth clients: named where a request carried no quota project.
_GCLOUD_PROJECTS = ("764086051850", "32555940559")
_REQUEST = re.compile(r"[A-Z]+ https?://\S+: ")
_LOGIN = "Run: gcloud auth application-default login"
_LOGIN_AGAIN = "Log in again: gcloud auth application-default login"


class DeniedError(AccessError):
    """A service knows this account and lets it not do what it asks."""


class DisabledApiError(AccessError):
    """A service's API is not enabled in the project, or was so just now."""


class Service(msgspec.Struct, frozen=True):
    """A Google Cloud service, the role that lets an account make and change its resources, and where it listens.

    ``endpoint`` None: at Google.
    """

    title: str
    api: str
    role: str
    project: str
    endpoint: str | None

    @property
    def patience_seconds(self) -> float:
        """For how long a transient failure is tried again. An emulator is there at once or not at all."""
        return 60.0 if self.endpoint is None else 3.0


def pubsub_service(settings: Settings, endpoints: Endpoints) -> Service:
    return Service("Pub/Sub", "pubsub.googleapis.com", "roles/pubsub.editor", settings.project_id, endpoints.pubsub)


def storage_service(settings: Settings, endpoints: Endpoints) -> Service:
    return Service("Cloud Storage", "storage.googleapis.com", "roles/storage.admin", settings.project_id, endpoints.storage)


def bigquery_service(settings: Settings, endpoints: Endpoints) -> Service:
    role = "roles/bigquery.dataOwner and roles/bigquery.jobUser"
    return Service("BigQuery", "bigquery.googleapis.com", role, settings.project_id, endpoints.bigquery)


@contextmanager
def google_errors(service: Service, resource: str, permission: str | None = None) -> Iterator[None]:
    """Raises what Google's clients raise while they work on ``resource`` ("topic projects/p/topics/t") as an EcomflowError.

    ``permission`` is what the work takes, for a service that does not name what is missing.
    """
    try:
        yield
    except (google.GoogleAPIError, auth.GoogleAuthError, requests.exceptions.RequestException) as error:
        raise translate(error, service, resource, permission) from error


def translate(error: Exception, service: Service, resource: str, permission: str | None = None) -> EcomflowError:
    """``error``, or the last failure behind an exhausted retry, in the user's terms."""
    cause = error.cause if isinstance(error, google.RetryError) and error.cause is not None else error
    text = getattr(cause, "message", None) or str(cause)
    if isinstance(cause, auth.GoogleAuthError) and not isinstance(cause, auth.TransportError):
        return AccessError(f"There are no usable Google Cloud credentials: {_sentence(text)}", _LOGIN)
    if isinstance(cause, google.Unauthorized):
        return AccessError(f"{service.title} does not accept the credentials: {_sentence(text)}", _LOGIN_AGAIN)
    if isinstance(cause, google.ClientError) and NO_PROJECT.search(text):
        sentence = f"Project '{service.project}' does not exist, or this account has no access to it."
        return NotFoundError(sentence, "List yours with: gcloud projects list")
    if isinstance(cause, google.Forbidden):
        return _denied(text, service, resource, permission)
    if isinstance(cause, google.NotFound):
        return NotFoundError(f"{resource[0].upper()}{resource[1:]} does not exist.", "Run: ecomflow infra up")
    if isinstance(cause, google.ClientError) and not isinstance(cause, google.TooManyRequests):
        return ConfigError(f"{service.title} refuses {resource}: {_sentence(text)}", "Correct the setting that names it.")
    return _unavailable(text, service)


def _denied(text: str, service: Service, resource: str, permission: str | None) -> AccessError:
    if _NO_QUOTA_PROJECT.search(text):
        return _no_quota_project(f"{service.title} does not know which project's quota to use for this login", service)
    if _DISABLED.search(text):
        return _disabled(text, service)
    missing = named_permission(text) or permission
    role = ROLE_OF.get(missing or "", service.role)
    remedy = f"Grant this account {role} on project {service.project}. Google says: {_sentence(text)}"
    if resource.startswith("bucket "):
        remedy += " Bucket names are shared by all of Google Cloud: if another project has this one, set another bucket."
    lacks = f": this account lacks {missing}" if missing else ""
    return DeniedError(f"Access to {resource} is denied{lacks}.", remedy)


def _disabled(text: str, service: Service) -> AccessError:
    """The project that Google names may be another than ours: that of the credentials' quota."""
    named, api = _DISABLED_PROJECT.search(text), _DISABLED_API.search(text)
    project = named[1].rstrip(".") if named else service.project
    if project in _GCLOUD_PROJECTS:
        return _no_quota_project(f"{service.title} was asked on the quota of gcloud's own project {project}", service)
    remedy = f"Run: gcloud services enable {api[1] if api else service.api} --project {project}"
    return DisabledApiError(f"{service.title} is not enabled in project {project}.", remedy)


def _no_quota_project(sentence: str, service: Service) -> AccessError:
    return AccessError(f"{sentence}.", f"Name one: gcloud auth application-default set-quota-project {service.project}")


def _unavailable(text: str, service: Service) -> UnavailableError:
    if service.endpoint is None:
        return UnavailableError(
            f"{service.title} does not answer: {_sentence(text)}", "Check the network, then run the same again."
        )
    sentence = f"{service.title} at {service.endpoint} does not answer: {_sentence(text)}"
    return UnavailableError(sentence, "Bring the local stack up with: ecomflow infra up")


def _sentence(text: str) -> str:
    """The first line of a foreign message, at most 300 characters, with a full stop."""
    line = _REQUEST.sub("", text.strip().splitlines()[0]) if text.strip() else "no reason given"
    return f"{line[:300].rstrip('. ')}."
