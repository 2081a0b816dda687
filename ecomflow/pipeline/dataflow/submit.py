"""Settings in, a streaming job on Dataflow out: the same graph as on this machine, submitted by Beam's own DataflowRunner.

Problems are detected as far as possible before anything is staged, and Beam's retries, which last for minutes, are cut to
seconds, because the user waits. ``dry_run`` builds the same graph and options, offline.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import apache_beam as beam
import msgspec
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError
from apache_beam.utils import retry as beam_retry
from google.api_core.exceptions import Conflict
from google.api_core.retry import Retry
from google.cloud import dataflow_v1beta3 as api

from ecomflow.config import Endpoints, Settings
from ecomflow.errors import AccessError, EcomflowError, NotFoundError, PipelineError
from ecomflow.gcp.credentials import find_credentials
from ecomflow.gcp.errors import google_errors, is_missing, is_transient, message_of
from ecomflow.gcp.permissions import READ_BUCKET
from ecomflow.gcp.target import Target
from ecomflow.infra.ownership import check_owner_of
from ecomflow.pipeline.config import PipelineConfig, pipeline_config
from ecomflow.pipeline.dataflow.options import beam_options, check_endpoints
from ecomflow.pipeline.dataflow.source import ReadMessages
from ecomflow.pipeline.dataflow.wheel import build_wheel
from ecomflow.pipeline.graph import build_graph
from ecomflow.pipeline.tree import Step, graph_tree

_LOOK_SECONDS = 10.0
# Beam makes up to 7 attempts, 5 s and more apart. With this pause they take seconds, and still survive a short outage.
_LONGEST_PAUSE = 1.0
_STORAGE_VARIABLE = "STORAGE_EMULATOR_HOST"
# With "always", google-cloud-core would ignore the endpoint in the variable above.
_MTLS_VARIABLE = "GOOGLE_API_USE_MTLS_ENDPOINT"
_QUOTA_VARIABLE = "GOOGLE_CLOUD_QUOTA_PROJECT"


class SubmittedJob(msgspec.Struct, frozen=True):
    """A job that Dataflow has accepted. ``staged``: gs:// paths of its pipeline and wheel; ``url``: its page in the console."""

    job_id: str
    name: str
    state: str
    url: str
    staged: tuple[str, ...]


class DryRun(msgspec.Struct, frozen=True):
    """What would be submitted: Beam's options, in order, and the graph."""

    options: tuple[str, ...]
    graph: tuple[Step, ...]


def submit(
    target: Target,
    *,
    extra: Sequence[str] = (),
    update: bool = False,
    transform_name_mapping: Mapping[str, str] | None = None,
) -> SubmittedJob:
    """Submit the pipeline, and return as soon as Dataflow has accepted the job.

    ``extra`` are Beam options as ``--name=value``. With ``update`` the job replaces the running one of its name, whose steps
    ``transform_name_mapping`` maps to the new names.

    Raises ConfigError for invalid options, PipelineError if a job of the name is already running (or, for an update, is not), and
    NotFoundError, AccessError or UnavailableError if Google's services refuse.
    """
    check_endpoints(target.endpoints)
    with _scratch() as folder, _patient_for_seconds(), _quiet():
        wheel = build_wheel(folder)
        arguments = beam_options(
            target.settings,
            wheel,
            extra,
            endpoint=target.endpoints.dataflow,
            update=update,
            transform_name_mapping=transform_name_mapping,
        )
        _check_bucket(target)
        with _errors(target), _emulated_storage(target.endpoints), _quota_project(target):
            _check_name(target.settings, running_job(target), update)
            options, job = _run(target, arguments)
    staging = options.view_as(GoogleCloudOptions).staging_location
    return SubmittedJob(
        job.id, job.name, _state(job), console_url(target.settings, job.id), (f"{staging}/pipeline.pb", f"{staging}/{wheel.name}")
    )


def dry_run(settings: Settings, extra: Sequence[str] = ()) -> DryRun:
    """The options and the graph that ``submit`` would send, validated offline. Raises ConfigError."""
    with _scratch() as folder, _quiet():
        wheel = build_wheel(folder)
        arguments = beam_options(settings, wheel, extra)
        result = _pipeline(Target(settings, Endpoints()), PipelineOptions([*arguments, "--dry_run=true"])).run()
    shown = tuple(argument.replace(f"{folder}/", "") for argument in arguments)
    return DryRun(shown, graph_tree(result.job.proto_pipeline))


def check(target: Target, extra: Sequence[str] = ()) -> None:
    """Raises the ConfigError that ``submit`` would raise. Works offline."""
    check_endpoints(target.endpoints)
    with _quiet():
        beam_options(target.settings, Path("ecomflow.whl"), extra, endpoint=target.endpoints.dataflow)


def console_url(settings: Settings, job_id: str) -> str:
    """The job's page in Google's console."""
    return f"https://console.cloud.google.com/dataflow/jobs/{settings.region}/{job_id}?project={settings.project_id}"


def worker_config(target: Target) -> PipelineConfig:
    """The config for the workers: with Google's own endpoints, unless the job is submitted to an emulator."""
    ours = msgspec.structs.replace(target.endpoints, dataflow=None) if target.endpoints.dataflow is not None else Endpoints()
    return msgspec.structs.replace(pipeline_config(target.settings), endpoints=ours)


def running_job(target: Target) -> api.Job | None:
    """The job with the configured name that has not ended, or None. Raises what google-api-core raises."""
    settings = target.settings
    request = api.ListJobsRequest(
        project_id=settings.project_id,
        location=settings.region,
        filter=api.ListJobsRequest.Filter.ACTIVE,
        name=settings.dataflow.job_name,
    )
    retry = Retry(is_transient, initial=0.2, maximum=1.0, timeout=3.0)
    found = target.dataflow.jobs.list_jobs(request, timeout=_LOOK_SECONDS, retry=retry)
    return next((job for job in found if job.name == settings.dataflow.job_name), None)


def _check_bucket(target: Target) -> None:
    """Beam would retry an upload to a missing bucket for minutes; and the owner of the bucket could replace what workers run."""
    with google_errors(target.storage_service, f"bucket {target.settings.bucket_name}", READ_BUCKET):
        bucket = target.storage.get_bucket(target.settings.bucket_name, timeout=_LOOK_SECONDS, retry=None)
    check_owner_of(bucket, target)


def _check_name(settings: Settings, job: api.Job | None, update: bool) -> None:
    """Only one running job can have a name. An update needs that job running: Beam would look for it forever."""
    name = settings.dataflow.job_name
    if job is None:
        if update:
            raise PipelineError(
                f"There is no running job named {name} in {settings.region} to update.", "Start one with: ecomflow deploy"
            )
    elif not update:
        raise _name_taken(name, job.id)
    elif job.current_state != api.JobState.JOB_STATE_RUNNING:
        raise PipelineError(
            f"The job {name} ({job.id}) is {_state(job)}: only a running job can be updated.", "See: ecomflow job status"
        )


def _name_taken(name: str, job_id: str) -> PipelineError:
    return PipelineError(
        f"A job named {name} is already running ({job_id}).",
        "Replace it: ecomflow job update. End it: ecomflow job drain. Or start another one: ecomflow deploy --job-name …",
    )


def _overtaken(settings: Settings, words: str) -> PipelineError:
    """Beam's message about a job of the same name that was submitted first, as a PipelineError with its id."""
    found = re.search(r"already active job named \S+ with id: (\S+)\. ", words)
    if found is None:  # an update of a job that is already being updated
        return PipelineError(words, "See: ecomflow job list")
    return _name_taken(settings.dataflow.job_name, found[1])


def _state(job: api.Job) -> str:
    """The state in lower case, ``pending`` and not ``JOB_STATE_PENDING``; a new job may have none yet."""
    return str(job.current_state.name).removeprefix("JOB_STATE_").lower()


def _run(target: Target, arguments: list[str]) -> tuple[PipelineOptions, api.Job]:
    options = PipelineOptions(arguments)
    result = _pipeline(target, options).run()
    return result._options, result._job  # the job as it was created; its public state would need another request


def _pipeline(target: Target, options: PipelineOptions) -> beam.Pipeline:
    config = worker_config(target)
    job = target.settings.dataflow
    source = ReadMessages(config, job.id_attribute or None, job.timestamp_attribute or None)
    pipeline = beam.Pipeline(runner=DataflowRunner(), options=options)
    build_graph(pipeline, source, config)
    return pipeline


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for the duration of a submission, also for Beam's own temporary folders, which it does not delete."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="ecomflow-") as folder:
        tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before


@contextmanager
def _patient_for_seconds() -> Iterator[None]:
    """Shorten the pauses between Beam's attempts."""

    before = beam_retry.Clock.sleep
    beam_retry.Clock.sleep = lambda _, seconds: time.sleep(min(seconds, _LONGEST_PAUSE))
    try:
        yield
    finally:
        beam_retry.Clock.sleep = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide Beam's log lines and warnings, except with --debug. What matters in them is raised as an error."""
    if os.environ.get("ECOMFLOW_DEBUG"):
        logging.basicConfig(level=logging.INFO)
        yield
        return
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _quota_project(target: Target) -> Iterator[None]:
    """Beam finds credentials by itself; for a user's login without a quota project it needs one in the environment."""
    quota = find_credentials(target.settings.project_id).quota_project_id if target.endpoints.dataflow is None else None
    with _environment({_QUOTA_VARIABLE: quota} if quota else {}):
        yield


@contextmanager
def _emulated_storage(endpoints: Endpoints) -> Iterator[None]:
    """If the bucket is in an emulator, set its variable: Beam's storage client only reads the environment."""
    if endpoints.storage is None:
        yield
        return
    with _environment({_STORAGE_VARIABLE: endpoints.storage, _MTLS_VARIABLE: "never"}):
        yield


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set the environment variables ``wanted`` inside the block."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _errors(target: Target) -> Iterator[None]:
    """Raises errors of a submission as EcomflowErrors."""
    job = f"job {target.settings.dataflow.job_name}"
    try:
        with google_errors(target.dataflow_service, job, decide=partial(_about_a_submission, target.settings)):
            yield
    except DataflowJobAlreadyExistsError as error:  # another job was submitted after the check of the name
        raise _overtaken(target.settings, str(error)) from error
    except OSError as error:  # raised by Beam if an upload is refused
        words = str(error).splitlines()[0]
        raise AccessError(f"The job can't be staged: {words}", "See what is missing with: ecomflow doctor") from error


def _about_a_submission(settings: Settings, cause: Exception) -> EcomflowError | None:
    """Errors that mean something particular here: another job was quicker, and only a project or region can be missing."""
    message = message_of(cause)
    if isinstance(cause, Conflict):
        return PipelineError(f"Dataflow refuses the job {settings.dataflow.job_name}: {message}", "See: ecomflow job list")
    if is_missing(cause):
        return NotFoundError(
            f"Dataflow has no project {settings.project_id} in {settings.region}: {message}",
            "Correct the project or the region. See: ecomflow doctor",
        )
    return None
