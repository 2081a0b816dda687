"""Exceptions of Google's clients in; ecomflow's errors, with remedies, out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests.exceptions
from google.api_core import exceptions as google
from google.auth import exceptions as auth

from ecomflow.errors import AccessError, ConfigError, EcomflowError, NotFoundError, UnavailableError
from ecomflow.gcp.permissions import ROLE_OF, named_permission
from ecomflow.gcp.services import Service

# Everything that Google's clients raise for a call that fails.
FAILURES = (google.GoogleAPIError, auth.GoogleAuthError, requests.exceptions.RequestException)
# The answers after which the same call may succeed.
TRANSIENT = (
    google.Aborted,
    google.DeadlineExceeded,
    google.InternalServerError,
    google.ServiceUnavailable,
    google.TooManyRequests,
    google.Unknown,  # "Stream removed": a connection that broke
)
# What the REST transport and the token service raise if a connection fails.
_NO_CONNECTION = (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError, auth.TransportError)
# How Pub/Sub, Cloud Storage, BigQuery and Dataflow say that a project doesn't exist, or is hidden from this account. Only the
# project itself: "Topic not found: projects/p/topics/t" and "The job of project p was not found" are about something in it.
_NO_PROJECT = re.compile(
    r"(?:^|[:;]\s+|\()(?:the )?(?:requested |specified )?project(?: ['\"]?[\w.:/-]+['\"]?)? (?:was )?(?:not found|does not exist)"
    r"|not found: project(?!s/)\b|unknown project\b",
    re.IGNORECASE,
)
_DISABLED = re.compile(r"SERVICE_DISABLED|has not been used in project|API .{0,40}is disabled|accessNotConfigured", re.IGNORECASE)
_DISABLED_PROJECT = re.compile(r"in project ['\"]?([\w.:-]+)", re.IGNORECASE)
_DISABLED_API = re.compile(r"\b([a-z]+\.googleapis\.com)/overview")
# https://cloud.google.com/docs/authentication/adc-troubleshooting/user-creds; the second is the older message.
_NO_QUOTA_PROJECT = re.compile(r"requires a quota project|end user credentials from the Google Cloud SDK", re.IGNORECASE)
# The projects of gcloud's own OAuth clients, which Google names if a request has no quota project.
_GCLOUD_PROJECTS = ("764086051850", "32555940559")
# Cloud Storage's words for an object that must not be deleted or replaced yet.
# https://cloud.google.com/storage/docs/bucket-lock, https://cloud.google.com/storage/docs/object-holds
_RETAINED = re.compile(r"retention policy|retentionPolicyNotMet|under active \S+ hold", re.IGNORECASE)
# Pub/Sub's resources, which its errors may name.
_PUBSUB_PATH = re.compile(r"projects/[^/\s]+/(?P<kind>topic|subscription)s/[\w.~+%-]*\w")
# The REST transport puts the request before the service's message.
_REQUEST = re.compile(r"[A-Z]+ https?://\S+: ")
# How the clients' libraries say what became of a connection, and in plain words.
_TIMED_OUT = re.compile(r"timed out\b.*\b(?:read |connect )?timeout=([\d.]+)", re.IGNORECASE)
_CONNECTION = (
    (re.compile(r"connection refused|Errno 111", re.IGNORECASE), "the connection was refused"),
    (re.compile(r"closed connection without response|connection reset|Errno 104", re.IGNORECASE), "the connection was closed"),
)
_LOGIN = "Run: gcloud auth application-default login"
_LOGIN_AGAIN = "Log in again: gcloud auth application-default login"

# The error for a failure that means something particular to the caller; None: ``translate`` has the right one.
Decision = Callable[[Exception], EcomflowError | None]


class DeniedError(AccessError):
    """A service denies this account a permission."""


class DisabledApiError(AccessError):
    """A service's API is not enabled in the project, or was enabled only a moment ago."""


class RetainedError(ConfigError):
    """A retention policy or a hold of the bucket forbids to delete or replace an object."""


@contextmanager
def google_errors(
    service: Service, resource: str, permission: str | None = None, decide: Decision = lambda _: None
) -> Iterator[None]:
    """Raises the exceptions of Google's clients for ``resource`` ("topic projects/p/topics/t") as EcomflowErrors.

    ``permission`` is the one that the call needs, for services that don't name the missing permission. ``decide`` comes before
    ``translate``, and gets the last failure behind an exhausted retry.
    """
    try:
        yield
    except FAILURES as error:
        raise decide(cause_of(error)) or translate(error, service, resource, permission) from error


def translate(error: Exception, service: Service, resource: str, permission: str | None = None) -> EcomflowError:
    """The EcomflowError for ``error``, or for the last failure behind an exhausted retry."""
    cause = cause_of(error)
    text = message_of(cause)
    if isinstance(cause, auth.GoogleAuthError) and not isinstance(cause, auth.TransportError):
        return no_credentials(cause)
    if isinstance(cause, google.Unauthorized):
        return AccessError(f"{service.title} does not accept the credentials: {_sentence(text)}", _LOGIN_AGAIN)
    if is_no_project(cause):
        sentence = f"Project '{service.project}' does not exist, or this account has no access to it."
        return NotFoundError(sentence, "List your projects with: gcloud projects list")
    if isinstance(cause, google.Forbidden):
        return _denied(text, service, resource, permission)
    if isinstance(cause, google.NotFound):
        return NotFoundError(f"{_missing(text, resource)} does not exist.", "Run: ecomflow infra up")
    if isinstance(cause, google.TooManyRequests):
        return UnavailableError(f"{_at(service)} accepts no more for now: {_sentence(text)}", "Run the command again later.")
    if isinstance(cause, google.ClientError) and not isinstance(cause, TRANSIENT):
        return ConfigError(f"{service.title} refuses {resource}: {_sentence(text)}", "Correct the setting that names it.")
    return _unavailable(words_of_connection(text), service)


def cause_of(error: Exception) -> Exception:
    """The last failure behind an exhausted retry; otherwise ``error``."""
    return error.cause if isinstance(error, google.RetryError) and error.cause is not None else error


def no_credentials(error: Exception) -> AccessError:
    """The error for one of google.auth's, whichever service was to be called."""
    return AccessError(f"There are no usable Google Cloud credentials: {_sentence(str(error))}", _LOGIN)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed if it is sent again."""
    return isinstance(error, (*TRANSIENT, *_NO_CONNECTION))


def is_missing(error: Exception) -> bool:
    """Whether the resource does not exist, in a project that does."""
    return isinstance(error, google.NotFound) and not is_no_project(error)


def is_no_project(error: Exception) -> bool:
    """Whether the project does not exist, or is hidden from this account."""
    return isinstance(error, google.ClientError) and _NO_PROJECT.search(message_of(error)) is not None


def message_of(error: Exception) -> str:
    """What the service says, without the request."""
    return _REQUEST.sub("", getattr(error, "message", None) or str(error))


def _missing(text: str, resource: str) -> str:
    """What does not exist: ``resource``, or what it needs if Pub/Sub names that, such as a subscription's topic."""
    named = _PUBSUB_PATH.search(text)
    missing = f"{named['kind']} {named[0]}" if named else resource
    return missing[0].upper() + missing[1:]


def _denied(text: str, service: Service, resource: str, permission: str | None) -> EcomflowError:
    if _RETAINED.search(text):
        remedy = "Wait until then, remove the retention policy or the hold, or set another bucket."
        return RetainedError(f"An object in {resource} can't be deleted or replaced: {_sentence(text)}", remedy)
    if _NO_QUOTA_PROJECT.search(text):
        return _no_quota_project(f"{service.title} does not know which project's quota to use for this login", service)
    if _DISABLED.search(text):
        return _disabled(text, service)
    missing = named_permission(text) or permission
    role = ROLE_OF.get(missing or "", service.role)
    remedy = f"Grant this account {role} on project {service.project}. Google says: {_sentence(text)}"
    if resource.startswith("bucket "):
        remedy += " Bucket names are globally unique: if another project owns this bucket, set another name."
    lacks = f": this account lacks {missing}" if missing else ""
    return DeniedError(f"Access to {resource} is denied{lacks}.", remedy)


def _disabled(text: str, service: Service) -> AccessError:
    """Google may name another project than the configured one: the quota project of the credentials."""
    named, api = _DISABLED_PROJECT.search(text), _DISABLED_API.search(text)
    project = named[1].rstrip(".") if named else service.project
    if project in _GCLOUD_PROJECTS:
        return _no_quota_project(f"{service.title} was called with the quota of gcloud's own project {project}", service)
    remedy = f"Run: gcloud services enable {api[1] if api else service.api} --project {project}"
    return DisabledApiError(f"{service.title} is not enabled in project {project}.", remedy)


def _no_quota_project(sentence: str, service: Service) -> AccessError:
    return AccessError(f"{sentence}.", f"Set one: gcloud auth application-default set-quota-project {service.project}")


def _unavailable(text: str, service: Service) -> UnavailableError:
    remedy = "Check the network, then run the command again." if service.endpoint is None else service.no_answer
    return UnavailableError(f"{_at(service)} does not answer: {_sentence(text)}", remedy)


def _at(service: Service) -> str:
    return service.title if service.endpoint is None else f"{service.title} at {service.endpoint}"


def words_of_connection(text: str) -> str:
    """What a failed connection comes down to, where ``text`` names the layers that it has passed on the way here."""
    if found := _TIMED_OUT.search(text):
        return f"it timed out after {float(found[1]):.0f} s"
    return next((words for pattern, words in _CONNECTION if pattern.search(text)), text)


def _sentence(text: str) -> str:
    """The first line of Google's message, at most 300 characters, with a full stop."""
    line = text.strip().splitlines()[0] if text.strip() else "no reason given"
    return f"{line[:300].rstrip('. ')}."
