"""Checks of permissions: whether this account and the job's service account have what they need, as far as can be seen.

This account's permissions are tested directly. Those of the service account are not visible to others, so its roles are looked up
in the policies of each resource and of the project, which don't include roles through a group, a folder or an organisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from ecomflow.config import Settings
from ecomflow.doctor.records import Check, not_checked, passed
from ecomflow.errors import AccessError, EcomflowError, NotFoundError
from ecomflow.gcp.errors import (
    DeniedError,
    DisabledApiError,
    google_errors,
)
from ecomflow.gcp.permissions import ACT_AS, READ_BUCKET, READ_METRICS, READ_SUBSCRIPTION, READ_TABLE, READ_TOPIC, roles_of
from ecomflow.gcp.services import Service
from ecomflow.gcp.target import Target
from ecomflow.infra.roles import Grant, job_grants
from ecomflow.infra.services import granted_on_account, granted_on_project, has_project_policy, project_number, project_policy

_SECONDS = 10.0

# This account may not read the roles, or the API for them, which no pipeline needs, is not enabled in the project.
_NOT_SHOWN = (DeniedError, DisabledApiError)

# The predefined roles that include everything a grant's role is needed for: https://cloud.google.com/iam/docs/roles-permissions
# WRITER and OWNER are BigQuery's names in a dataset's access list.
_ALL_OF_IT = frozenset({"roles/editor", "roles/owner"})
_PUBSUB = _ALL_OF_IT | {"roles/pubsub.editor", "roles/pubsub.admin"}
_SUFFICIENT: dict[str, frozenset[str]] = {
    "roles/pubsub.subscriber": _PUBSUB | {"roles/pubsub.subscriber"},
    "roles/pubsub.viewer": _PUBSUB | {"roles/pubsub.viewer", "roles/viewer"},
    "roles/pubsub.editor": _PUBSUB,
    "roles/bigquery.dataEditor": _ALL_OF_IT
    | {"roles/bigquery.dataEditor", "roles/bigquery.dataOwner", "roles/bigquery.admin", "WRITER", "OWNER"},
    "roles/storage.objectUser": frozenset({"roles/storage.objectUser", "roles/storage.objectAdmin", "roles/storage.admin"}),
    "roles/dataflow.worker": _ALL_OF_IT | {"roles/dataflow.worker"},
}


class Binding(NamedTuple):
    """A role and one of its members, as ``user:``, ``serviceAccount:``, ``group:`` and so on."""

    role: str
    member: str


class _UnknownError(Exception):
    """The check is not possible, for the given reason."""


def lines(target: Target, for_dataflow: bool) -> list[tuple[str, Callable[[], Check]]]:
    """The checks of a Google Cloud project; none for the local stack and emulators, which have no access policies."""
    if not has_project_policy(target):
        return []
    own = _own_permissions(target, for_dataflow)
    grants = job_grants(target.settings) if for_dataflow else ()
    return [
        *((asked.name, partial(_check_own, asked)) for asked in own),
        *((_name(grant), partial(_check_grant, grant, target)) for grant in grants),
    ]


class _Own(NamedTuple):
    """Permissions that this account needs on ``where``, and a function that returns those it has. ``optional``: what doesn't work
    without them, if a pipeline runs all the same.
    """

    name: str
    where: str
    permissions: Sequence[str]
    granted: Callable[[Sequence[str]], set[str]]
    optional: str = ""


def _own_permissions(target: Target, for_dataflow: bool) -> list[_Own]:
    """What the caller's account needs: to read the resources, and to start a job or else to run the pipeline itself."""
    settings = target.settings
    start = _to_start_a_job(settings) if for_dataflow else []
    consume, append = ([], []) if for_dataflow else (["pubsub.subscriptions.consume"], ["bigquery.tables.updateData"])
    objects = ("storage.objects.create", "storage.objects.get", "storage.objects.list")
    backlog = "without it ecomflow top and reconcile --wait can't see the backlog"
    granted = partial(granted_on_project, settings=settings)
    return [
        *start,
        _on("topic", settings.topic, (READ_TOPIC,), partial(_granted_on_topic, target)),
        _on(
            "subscription",
            settings.subscription,
            (*consume, READ_SUBSCRIPTION),
            partial(_granted_on_subscription, target),
        ),
        _Own(
            "your access to the tables",
            f"dataset {settings.dataset}",
            (*append, READ_TABLE),
            partial(_granted_on_table, target),
        ),
        _on("bucket", settings.bucket_name, (*objects, READ_BUCKET), partial(_granted_on_bucket, target)),
        _Own("your access to Cloud Monitoring", f"project {settings.project_id}", (READ_METRICS,), granted, backlog),
    ]


def _to_start_a_job(settings: Settings) -> list[_Own]:
    jobs = ("dataflow.jobs.create", "dataflow.jobs.get", "dataflow.jobs.list", "dataflow.jobs.updateContents")
    granted = partial(granted_on_project, settings=settings)
    account = settings.dataflow.service_account or "Compute Engine's default service account"
    return [
        _Own("your access to Dataflow", f"project {settings.project_id}", jobs, granted),
        _Own("acting as the job's service account", account, (ACT_AS,), partial(_granted_on_account, settings)),
    ]


def _on(kind: str, name: str, permissions: Sequence[str], granted: Callable[[Sequence[str]], set[str]]) -> _Own:
    return _Own(f"your access to the {kind}", f"{kind} {name}", permissions, granted)


def _check_own(own: _Own) -> Check:
    try:
        granted = own.granted(own.permissions)
    except _UnknownError as reason:
        return not_checked(own.name, str(reason))
    except _NOT_SHOWN as error:
        return not_checked(own.name, error.message.rstrip("."))
    lacking = [permission for permission in own.permissions if permission not in granted]
    if not lacking:
        return passed(own.name, f"This account has {', '.join(own.permissions)}.")
    remedy = f"Grant it {' and '.join(roles_of(lacking))} on {own.where}."
    if own.optional:
        return passed(own.name, f"This account lacks {', '.join(lacking)}: {own.optional}. {remedy}")
    raise AccessError(f"This account lacks {', '.join(lacking)}.", remedy)


def _granted_on_account(settings: Settings, permissions: Sequence[str]) -> set[str]:
    account = settings.dataflow.service_account or _default_account(settings)
    try:
        return granted_on_account(account, permissions, settings)
    except NotFoundError as error:
        raise NotFoundError(f"Service account {account} does not exist.", "Correct service_account in [dataflow].") from error


def _granted_on_topic(target: Target, permissions: Sequence[str]) -> set[str]:
    request = {"resource": target.settings.topic_path, "permissions": list(permissions)}
    read = partial(target.publisher.test_iam_permissions, request=request, timeout=_SECONDS)
    return set(_ask(target.pubsub_service, f"topic {target.settings.topic}", read).permissions)


def _granted_on_subscription(target: Target, permissions: Sequence[str]) -> set[str]:
    request = {"resource": target.settings.subscription_path, "permissions": list(permissions)}
    read = partial(target.subscriber.test_iam_permissions, request=request, timeout=_SECONDS)
    return set(_ask(target.pubsub_service, f"subscription {target.settings.subscription}", read).permissions)


def _granted_on_bucket(target: Target, permissions: Sequence[str]) -> set[str]:
    read = partial(target.bucket.test_iam_permissions, list(permissions), timeout=_SECONDS, retry=None)
    return set(_ask(target.storage_service, f"bucket {target.settings.bucket_name}", read))


def _granted_on_table(target: Target, permissions: Sequence[str]) -> set[str]:
    """Tested on one of the fact tables, because they share the roles of their dataset."""
    table = f"{target.settings.dataset_id}.fact_order"
    read = partial(target.bigquery.test_iam_permissions, table, list(permissions), timeout=_SECONDS, retry=None)
    return set(_ask(target.bigquery_service, f"table {table}", read).get("permissions", []))


def _name(grant: Grant) -> str:
    return f"{grant.role} on {grant.resource}"


def _check_grant(grant: Grant, target: Target) -> Check:
    try:
        account = target.settings.dataflow.service_account or _default_account(target.settings)
        on_resource = _policy_reader(grant, target)() if not grant.resource.startswith("project ") else []
        bindings = [*on_resource, *_on_project(target.settings)]
    except _UnknownError as reason:
        return not_checked(_name(grant), f"{reason}. If the job fails without it, run: {grant.command}")
    return judge(grant, account, bindings)


def judge(grant: Grant, account: str, bindings: Sequence[Binding]) -> Check:
    """Whether ``account`` has the grant through ``bindings``, those of its resource and of the project. Pure.

    If the account has a custom role, or a group has a sufficient role, the result is unknown. Raises AccessError, with the
    command that grants the role, if no binding is sufficient.
    """
    sufficient = _SUFFICIENT[grant.role]
    own = [binding.role for binding in bindings if binding.member == f"serviceAccount:{account}"]
    if holding := [role for role in own if role in sufficient]:
        return passed(_name(grant), f"{account} has {holding[0]}.")
    custom = [role for role in own if role.startswith(("projects/", "organizations/"))]
    groups = [b.member for b in bindings if b.role in sufficient and b.member.startswith(("group:", "domain:", "principalSet:"))]
    if custom or groups:
        return not_checked(
            _name(grant), f"{account} may have it through {', '.join([*custom, *groups])}, which can't be resolved from here"
        )
    seen = f"{account} does not have this role (roles through a group, folder or organisation are not visible)"
    raise AccessError(f"{seen}; it is needed because: {grant.reason}.", f"Run: {grant.command}")


def _default_account(settings: Settings) -> str:
    try:
        return f"{project_number(settings)}-compute@developer.gserviceaccount.com"
    except _NOT_SHOWN as error:
        raise _UnknownError("no service account is set, and this account may not see the project's default one") from error


def _on_project(settings: Settings) -> list[Binding]:
    try:
        return _bindings(project_policy(settings))
    except _NOT_SHOWN as error:
        raise _UnknownError(error.message.rstrip(".")) from error


def _policy_reader(grant: Grant, target: Target) -> Callable[[], list[Binding]]:
    readers = {"subscription": _on_subscription, "bucket": _on_bucket, "dataset": _on_dataset}
    return partial(readers[grant.resource.split(" ", 1)[0]], target)


def _on_subscription(target: Target) -> list[Binding]:
    settings = target.settings
    read = partial(target.subscriber.get_iam_policy, request={"resource": settings.subscription_path}, timeout=_SECONDS)
    policy = _ask(target.pubsub_service, f"subscription {settings.subscription}", read)
    return [Binding(binding.role, member) for binding in policy.bindings for member in binding.members]


def _on_bucket(target: Target) -> list[Binding]:
    read = partial(target.bucket.get_iam_policy, requested_policy_version=3, timeout=_SECONDS, retry=None)
    return _bindings(_ask(target.storage_service, f"bucket {target.settings.bucket_name}", read).bindings)


def _on_dataset(target: Target) -> list[Binding]:
    """A dataset's access list has separate entry types for accounts, groups and domains."""
    read = partial(target.bigquery.get_dataset, target.settings.dataset_id, timeout=_SECONDS, retry=None)
    entries = _ask(target.bigquery_service, f"dataset {target.settings.dataset}", read).access_entries
    prefixes = {"userByEmail": "serviceAccount:", "groupByEmail": "group:", "domain": "domain:"}
    return [Binding(str(e.role), f"{prefixes.get(e.entity_type, '')}{e.entity_id}") for e in entries if e.role]


def _bindings(policy: Sequence[dict[str, Any]]) -> list[Binding]:
    return [Binding(binding["role"], member) for binding in policy for member in binding.get("members", ())]


def _ask(service: Service, resource: str, read: Callable[[], Any]) -> Any:
    """The result of ``read``. Raises _UnknownError if this account may not read it, or an emulator does not support it."""
    try:
        with google_errors(service, resource):
            return read()
    except _NOT_SHOWN as error:
        raise _UnknownError(f"this account may not read the roles on {resource}") from error
    except EcomflowError as error:
        if service.endpoint is None:
            raise
        raise _UnknownError(f"{service.title} at {service.endpoint} has no roles") from error
