"""A target in; a check for everything that a pipeline needs out, within seconds even if services don't answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from ecomflow import errors
from ecomflow.config import Settings
from ecomflow.doctor.records import Check, failed, not_checked, passed
from ecomflow.errors import AccessError, ConfigError, EcomflowError, NotFoundError, SchemaError, UnavailableError
from ecomflow.gcp.target import Target
from ecomflow.infra.differences import plan_step, stops_pipeline, tell
from ecomflow.infra.ownership import with_owner
from ecomflow.infra.resources import KINDS, Bucket, Dataset, Resource, Subscription, Table, Topic, View, desired

# For all checks together, which run in parallel.
PREFLIGHT_SECONDS = 12.0

# APIs that only a job on Dataflow needs.
_DATAFLOW_APIS = ("dataflow.googleapis.com", "compute.googleapis.com", "logging.googleapis.com")

Line = tuple[str, Callable[[], Check]]

_KINDS = {
    kind.exit_code: kind
    for kind in (
        errors.ConfigError,
        errors.NotFoundError,
        errors.UnavailableError,
        errors.AccessError,
        errors.SchemaError,
        errors.PipelineError,
    )
}


def preflight(target: Target, *, for_dataflow: bool) -> tuple[Check, ...]:
    """Checks that everything a pipeline needs exists and is configured correctly. Changes nothing.

    ``for_dataflow``: also what only a job on Dataflow needs. If credentials are needed and missing, no other check runs. Checks
    without an answer after ``PREFLIGHT_SECONDS`` fail.
    """
    credentials = _credentials(target, for_dataflow)
    if any(not check.ok for check in credentials):
        return credentials
    from ecomflow.doctor import access

    lines = [*_api_lines(target, for_dataflow), *_resource_lines(target, for_dataflow)]
    lines += access.lines(target, for_dataflow)
    return (*credentials, *side_by_side(lines, PREFLIGHT_SECONDS))


def require(checks: Sequence[Check]) -> None:
    """Raises the first failure as its error, with the names of the other failures and all remedies."""
    wrong = [check for check in checks if not check.ok]
    if not wrong:
        return
    others = "".join(f" Also failed: {check.name}." for check in wrong[1:])
    remedies = dict.fromkeys(check.remedy for check in wrong if check.remedy)
    kind = _KINDS.get(wrong[0].exit_code, EcomflowError)
    raise kind(f"{wrong[0].name}: {wrong[0].message}{others}", "\n".join(remedies) or None)


def side_by_side(lines: Sequence[Line], seconds: float) -> tuple[Check, ...]:
    """The result of each line, in order. A line without an answer after ``seconds`` fails, and its thread is abandoned."""
    give_up = time.monotonic() + seconds
    started = [(name, _started(partial(_look, name, look))) for name, look in lines]
    return tuple(_answer(name, future, give_up, seconds) for name, future in started)


def _look(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except EcomflowError as error:
        return failed(name, error)


def _started(look: Callable[[], Check]) -> Future[Check]:
    """Runs on a daemon thread, because the process would wait for a pool's thread on exit."""
    future: Future[Check] = Future()

    def run() -> None:
        try:
            future.set_result(look())
        except BaseException as error:  # noqa: BLE001  # raised again by future.result()
            future.set_exception(error)

    threading.Thread(target=run, name="preflight", daemon=True).start()
    return future


def _answer(name: str, future: Future[Check], give_up: float, seconds: float) -> Check:
    try:
        return future.result(timeout=max(0.0, give_up - time.monotonic()))
    except TimeoutError:
        return failed(
            name, UnavailableError(f"No answer within {seconds:.0f} s.", "Check the network, then run the command again.")
        )


def _credentials(target: Target, for_dataflow: bool) -> tuple[Check, ...]:
    at = target.endpoints
    used = [at.pubsub, at.storage, at.bigquery, at.bigquery_storage, *([at.dataflow] if for_dataflow else [])]
    if None not in used or target.settings.is_local:
        return ()
    from ecomflow.gcp.credentials import account_of, find_credentials

    try:
        return (passed("credentials", f"They are valid: {account_of(find_credentials(target.settings.project_id))}."),)
    except EcomflowError as error:
        return (failed("credentials", error),)


def _api_lines(target: Target, for_dataflow: bool) -> list[Line]:
    from ecomflow.infra.services import has_apis

    return [("APIs", partial(_check_apis, target.settings, for_dataflow))] if has_apis(target) else []


def _check_apis(settings: Settings, for_dataflow: bool) -> Check:
    from ecomflow.infra.resources import APIS
    from ecomflow.infra.services import observe_apis

    needed = [api for api in APIS if for_dataflow or api not in _DATAFLOW_APIS]
    enabled = observe_apis(settings).enabled
    if enabled is None:
        return not_checked("APIs", "this account may not list the enabled APIs; roles/serviceusage.serviceUsageViewer allows it")
    disabled = [api for api in needed if api not in enabled]
    if disabled:
        command = f"Run: gcloud services enable {' '.join(disabled)} --project {settings.project_id}"
        raise AccessError(f"Not enabled in project {settings.project_id}: {', '.join(disabled)}.", command)
    return passed("APIs", f"{', '.join(api.removesuffix('.googleapis.com') for api in needed)} are enabled.")


def _resource_lines(target: Target, for_dataflow: bool) -> list[Line]:
    """A line per desired resource. Google's libraries are imported here, so that threads don't import them concurrently."""
    from ecomflow.infra.observe import (
        observe_bucket,
        observe_dataset,
        observe_subscription,
        observe_table,
        observe_topic,
        observe_view,
    )

    try:
        _ = target.bigquery  # made here, so that it fails once and not for each table
    except EcomflowError as error:
        return [("BigQuery", partial(failed, "BigQuery", error))]

    def observe(wanted: Resource) -> Resource | None:
        table = wanted.name.rsplit(".", 1)[-1]
        match wanted:
            case Topic():
                return observe_topic(wanted.name, target)
            case Subscription():
                return observe_subscription(wanted.name, target)
            case Bucket():
                return observe_bucket(target)
            case Dataset():
                return observe_dataset(target)
            case Table():
                return observe_table(table, target)
            case _:
                return observe_view(table.removesuffix("_unique"), target)

    return [
        (_name(wanted), partial(_check_resource, wanted, partial(observe, wanted), target.settings, for_dataflow))
        for wanted in desired(target.settings)
    ]


def _name(wanted: Resource) -> str:
    return f"{KINDS[type(wanted)]} {wanted.name.rsplit('/', 1)[-1].rsplit('.', 1)[-1]}"


def _check_resource(wanted: Resource, observe: Callable[[], Resource | None], settings: Settings, for_dataflow: bool) -> Check:
    live = observe()
    step = plan_step(with_owner(wanted, live, settings), live)
    if step.action == "create":
        raise NotFoundError("It does not exist.", "Run: ecomflow infra up")
    if not step.differences:
        return passed(_name(wanted), "It exists." if isinstance(wanted, Bucket | Dataset) else "It is up to date.")
    differs = f"{'; '.join(map(tell, step.differences))}."
    remedies = "\n".join(dict.fromkeys(difference.remedy for difference in step.differences if difference.remedy))
    if not any(stops_pipeline(difference, for_dataflow=for_dataflow) for difference in step.differences):
        return Check(_name(wanted), True, f"It exists, but {differs}", remedies or None)
    kind = SchemaError if isinstance(wanted, Table | View) else ConfigError
    raise kind(f"{differs[0].upper()}{differs[1:]}", remedies or "Run: ecomflow infra up")
