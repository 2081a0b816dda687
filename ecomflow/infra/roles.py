"""Settings in; the minimal roles that the job's service account needs, and the commands that grant them, out. Pure."""

from __future__ import annotations

import msgspec

from ecomflow.config import Settings


class Grant(msgspec.Struct, frozen=True):
    """A role on one resource, what it is needed for, and the shell command that grants it."""

    role: str
    resource: str
    reason: str
    command: str


def job_account(settings: Settings) -> str:
    """The job's service account. Default: Compute Engine's default account, as a shell expression."""
    number = f"$(gcloud projects describe {settings.project_id} --format='value(projectNumber)')"
    return settings.dataflow.service_account or f"{number}-compute@developer.gserviceaccount.com"


def job_grants(settings: Settings) -> tuple[Grant, ...]:
    """The roles that a Dataflow job needs to run and to read and write what ``infra up`` creates, each on the smallest resource.

    https://cloud.google.com/dataflow/docs/concepts/security-and-permissions
    """
    grants = [
        _on_subscription("roles/pubsub.subscriber", "pulls and acknowledges messages", settings),
        _on_subscription(
            "roles/pubsub.viewer",
            "Dataflow reads the subscription's ack deadline, which roles/pubsub.subscriber does not allow",
            settings,
        ),
        _on_dataset(settings),
        _on_bucket(settings),
        _on_project("roles/dataflow.worker", "the workers receive work from Dataflow, and write logs and metrics", settings),
    ]
    if settings.dataflow.timestamp_attribute is not None:
        reason = "Dataflow creates a second subscription to track the time of timestamp_attribute"
        grants.append(_on_project("roles/pubsub.editor", reason, settings))
    return tuple(grants)


def _on_subscription(role: str, reason: str, settings: Settings) -> Grant:
    command = (
        f"gcloud pubsub subscriptions add-iam-policy-binding {settings.subscription} --project={settings.project_id}"
        f" {_member(settings)} --role={role}"
    )
    return Grant(role, f"subscription {settings.subscription}", reason, command)


def _on_dataset(settings: Settings) -> Grant:
    """gcloud can't grant roles on a dataset; SQL can."""
    role = "roles/bigquery.dataEditor"
    schema, account = f"\\`{settings.project_id}\\`.{settings.dataset}", f'\\"serviceAccount:{job_account(settings)}\\"'
    statement = f"GRANT \\`{role}\\` ON SCHEMA {schema} TO {account}"
    command = f'bq query --project_id={settings.project_id} --location={settings.location} --use_legacy_sql=false "{statement}"'
    return Grant(role, f"dataset {settings.dataset}", "appends rows to the fact tables and reads their schemas", command)


def _on_bucket(settings: Settings) -> Grant:
    role = "roles/storage.objectUser"
    reason = "writes dead letters, reads the staged package, and writes and deletes temporary objects"
    command = f"gcloud storage buckets add-iam-policy-binding gs://{settings.bucket_name} {_member(settings)} --role={role}"
    return Grant(role, f"bucket {settings.bucket_name}", reason, command)


def _on_project(role: str, reason: str, settings: Settings) -> Grant:
    command = f"gcloud projects add-iam-policy-binding {settings.project_id} {_member(settings)} --role={role} --condition=None"
    return Grant(role, f"project {settings.project_id}", reason, command)


def _member(settings: Settings) -> str:
    return f'--member="serviceAccount:{job_account(settings)}"'
