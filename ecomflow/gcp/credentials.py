"""The user's Google Cloud credentials, verified; or an AccessError within seconds."""

from __future__ import annotations

import http.client
import os
from functools import cache, partial
from pathlib import Path
from typing import Any

import google.auth
import google.auth.exceptions
from google.auth.transport.requests import Request
from google.oauth2.credentials import Credentials as UserCredentials

from ecomflow.errors import AccessError, UnavailableError

# The scope of everything that ecomflow does: https://developers.google.com/identity/protocols/oauth2/scopes
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_REFRESH_SECONDS = 5.0
_METADATA_SECONDS = 1.0
_LOGIN = "Run: gcloud auth application-default login"
_LOGIN_AGAIN = "Log in again: gcloud auth application-default login"


@cache
def find_credentials(project: str) -> Any:
    """google.auth's default credentials, refreshed once, with ``project`` as quota project for a user's login without one.

    Client-based APIs refuse a user's login without a quota project. Service accounts use their own project, and resource-based
    APIs (Pub/Sub, Storage, BigQuery) always use that of the resource, so their clients are left unchanged:
    https://cloud.google.com/docs/quotas/quota-project. Raises the same errors as ``default_credentials``.
    """
    credentials = default_credentials()
    if isinstance(credentials, UserCredentials) and not credentials.quota_project_id:
        return credentials.with_quota_project(project)
    return credentials


@cache
def default_credentials() -> Any:
    """google.auth's default credentials, refreshed once, so that an expired login is detected here.

    The last source of ``google.auth.default`` is Compute Engine's metadata server. If there is none, it tries three times over
    ten to twenty seconds. So if no other source is configured, a request with a timeout of one second checks for it first. Raises
    AccessError, or UnavailableError if Google's token service doesn't answer.
    """
    if not (_other_sources() or _answers_as_metadata_server()):
        raise AccessError("There are no Google Cloud credentials on this machine.", _LOGIN)
    try:
        credentials, _ = google.auth.default(scopes=_SCOPES)
        credentials.refresh(partial(Request(), timeout=_REFRESH_SECONDS))
    except google.auth.exceptions.TransportError as error:
        raise UnavailableError(f"Google's token service does not answer: {_line(error)}", "Check the network.") from error
    except (google.auth.exceptions.GoogleAuthError, OSError, ValueError) as error:
        raise AccessError(f"The Google Cloud credentials are not valid: {_line(error)}", _LOGIN_AGAIN) from error
    return credentials


def account_of(credentials: Any) -> str:
    """The owner of the credentials, for display: a service account's address, or the type of the credentials."""
    address = getattr(credentials, "service_account_email", None)
    return str(address) if address and address != "default" else f"{type(credentials).__module__.rsplit('.', 1)[-1]} credentials"


def _other_sources() -> bool:
    """https://cloud.google.com/docs/authentication/application-default-credentials"""
    if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS") or os.environ.get("APPENGINE_RUNTIME"):
        return True
    folder = os.environ.get("CLOUDSDK_CONFIG") or str(Path("~/.config/gcloud").expanduser())
    return (Path(folder) / "application_default_credentials.json").is_file()


def _answers_as_metadata_server() -> bool:
    """The server identifies itself in a header: https://cloud.google.com/compute/docs/metadata/querying-metadata"""
    if os.environ.get("NO_GCE_CHECK") == "true":
        return False
    host = os.environ.get("GCE_METADATA_HOST", "169.254.169.254")
    connection = http.client.HTTPConnection(host, timeout=_METADATA_SECONDS)
    try:
        connection.request("GET", "/", headers={"Metadata-Flavor": "Google"})
        return connection.getresponse().getheader("Metadata-Flavor") == "Google"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _line(error: Exception) -> str:
    return f"{(str(error).strip().splitlines() or ['no reason given'])[0][:300].rstrip('. ')}."
