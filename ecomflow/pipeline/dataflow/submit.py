"""Settings in, a streaming job on Dataflow out: the same graph as on this machine, submitted by Beam's own DataflowRunner.

What can be known beforehand is looked up before anything is staged, and Beam's retries, which last for minutes, are cut to
seconds: a person waits. ``dry_run`` makes the same graph and options, and speaks to nobody.
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
from pathlib import Path

import apache_beam as beam
import msgspec
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError
from apache_beam.utils import retry as beam_retry
from google.api_core import exceptions
from google.api_core.retry import Retry, if_exception_type
from google.auth.exceptions import GoogleAuthError
from google.cloud import dataflow_v1beta3 as api
from requests.exceptions import RequestException

from ecomflow.config import Endpoints, Settings
from ecomflow.errors import AccessError, EcomflowError, NotFoundError, PipelineError
from ecomflow.gcp.credentials import find_credentials
from ecomflow.gcp.errors import NO_PROJECT, cause_of, google_errors, message_of, translate
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
# Beam waits 5 s and longer between tries, up to 7 of them. So many at this pace are over in seconds, and pass over a hiccup.
_LONGEST_PAUSE = 1.0
_STORAGE_VARIABLE = "STORAGE_EMULATOR_HOST"
# With "always", google-cloud-core would pass by the endpoint that the variable above names.
_MTLS_VARIABLE = "GOOGLE_API_USE_MTLS_ENDPOINT"
_QUOTA_VARIABLE = "GOOGLE_CLOUD_QUOTA_PROJECT"
_PASSING = (exceptions.ServiceUnavailable, exceptions.InternalServerError, exceptions.TooManyRequests, RequestException)


class SubmittedJob(msgspec.Struct, frozen=True):
    """A job as Dataflow took it: ``staged`` are the gs:// paths of its pipeline and wheel, ``url`` its page in the console."""

    job_id: str
    name: str
    state: str
    url: str
    staged: tuple[str, ...]


class DryRun(msgspec.Struct, frozen=True):
    """What would be submitted: Beam's options in their order, and the graph."""

    options: tuple[str, ...]
    graph: tuple[Step, ...]


def submit(
    target: Target,
    *,
    extra: Sequence[str] = (),
    update: bool = False,
    transform_name_mapping: Mapping[str, str] | None = None,
) -> SubmittedJob:
    """Submit the pipeline, and return as soon as Dataflow has taken the job.

    ``extra`` are Beam options as ``--name=value``. With ``update`` the job replaces the running one of its name, whose steps
    ``transform_name_mapping`` maps to the new names. Raises ConfigError for options that can't stand, PipelineError where a job
    of the name runs (or, to be updated, doesn't), NotFoundError, AccessError or UnavailableError where Google's services refuse.
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
    """Raise the ConfigError that ``submit`` would, without speaking to anyone."""
    check_endpoints(target.endpoints)
    with _quiet():
        beam_options(target.settings, Path("ecomflow.whl"), extra, endpoint=target.endpoints.dataflow)


def console_url(settings: Settings, job_id: str) -> str:
    """The job's page in Google's console."""
    return f"https://console.cloud.google.com/dataflow/jobs/{settings.region}/{job_id}?project={settings.project_id}"


def worker_config(target: Target) -> PipelineConfig:
    """What travels to the workers: Google's own endpoints, but for a job that is submitted to an emulator."""
    ours = msgspec.structs.replace(target.endpoints, dataflow=None) if target.endpoints.dataflow is not None else Endpoints()
    return msgspec.structs.replace(pipeline_config(target.settings), endpoints=ours)


def running_job(target: Target) -> api.Job | None:
    """The job of the settings' name that has not ended, or None. Raises what google-api-core raises."""
    settings = target.settings
    request = api.ListJobsRequest(
        project_id=settings.project_id,
        location=settings.region,
        filter=api.ListJobsRequest.Filter.ACTIVE,
        name=settings.dataflow.job_name,
    )
    retry = Retry(if_exception_type(*_PASSING), initial=0.2, maximum=1.0, timeout=3.0)
    found = target.dataflow.jobs.list_jobs(request, timeout=_LOOK_SECONDS, retry=retry)
    return next((job for job in found if job.name == settings.dataflow.job_name), None)


def _check_bucket(target: Target) -> None:
    """Beam would retry an upload to a missing bucket for minutes; and the owner of the bucket could replace what workers run."""
    with google_errors(target.storage_service, f"bucket {target.settings.bucket_name}", READ_BUCKET):
        bucket = target.storage.get_bucket(target.settings.bucket_name, timeout=_LOOK_SECONDS, retry=None)
    check_owner_of(bucket, target)


def _check_name(settings: Settings, job: api.Job | None, update: bool) -> None:
    """A name is one running job's. An update needs it running: Beam looks for any other for ever."""
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
    """Beam's sentence about a job that was there first, which names it, as our own."""
    found = re.search(r"already active job named \S+ with id: (\S+)\. ", words)
    if found is None:  # an update of a job that is updated already
        return PipelineError(words, "See: ecomflow job list")
    return _name_taken(settings.dataflow.job_name, found[1])


def _state(job: api.Job) -> str:
    """The state in lower case, ``pending`` and not ``JOB_STATE_PENDING``; a new job may have none yet."""
    return str(job.current_state.name).removeprefix("JOB_STATE_").lower()


def _run(target: Target, arguments: list[str]) -> tuple[PipelineOptions, api.Job]:
    options = PipelineOptions(arguments)
    result = _pipeline(target, options).run()
    return result._options, result._job  # the job as it was created: its public state asks the service once more


def _pipeline(target: Target, options: PipelineOptions) -> beam.Pipeline:
    config = worker_config(target)
    job = target.settings.dataflow
    source = ReadMessages(config, job.id_attribute or None, job.timestamp_attribute or None)
    pipeline = beam.Pipeline(runner=DataflowRunner(), options=options)
    build_graph(pipeline, source, config)
    return pipeline


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for the time of a submission, for Beam's own temporary folders too: it leaves them behind."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="ecomflow-") as folder:
        tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before


@contextmanager
def _patient_for_seconds() -> Iterator[None]:
    """Beam's own waiting between tries, cut short."""

    before = beam_retry.Clock.sleep
    beam_retry.Clock.sleep = lambda _, seconds: time.sleep(min(seconds, _LONGEST_PAUSE))
    try:
        yield
    finally:
        beam_retry.Clock.sleep = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Beam's log lines and warnings; what matters in them is raised. With --debug they are shown."""
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
    """Beam finds credentials by itself, and only the environment tells it the quota project of a user's login without one."""
    quota = find_credentials(target.settings.project_id).quota_project_id if target.endpoints.dataflow is None else None
    with _environment({_QUOTA_VARIABLE: quota} if quota else {}):
        yield


@contextmanager
def _emulated_storage(endpoints: Endpoints) -> Iterator[None]:
    """Where the bucket is an emulator's: Beam stages by a client that looks only into the environment."""
    if endpoints.storage is None:
        yield
        return
    with _environment({_STORAGE_VARIABLE: os.environ.get(_STORAGE_VARIABLE, endpoints.storage), _MTLS_VARIABLE: "never"}):
        yield


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """``wanted`` in the environment until the block ends."""
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
    """Raises what fails on the way to Dataflow as an EcomflowError."""
    try:
        yield
    except DataflowJobAlreadyExistsError as error:  # someone else was quicker, since the name was looked up
        raise _overtaken(target.settings, str(error)) from error
    except (exceptions.GoogleAPIError, GoogleAuthError, RequestException) as error:
        raise _translated(error, target) from error
    except OSError as error:  # Beam's own, for an upload that is refused
        words = str(error).splitlines()[0]
        raise AccessError(f"The job can't be staged: {words}", "See what is missing with: ecomflow doctor") from error


def _translated(error: Exception, target: Target) -> EcomflowError:
    cause, job = cause_of(error), target.settings.dataflow.job_name
    message = message_of(cause)
    if isinstance(cause, exceptions.Conflict):
        return PipelineError(f"Dataflow refuses the job {job}: {message}", "See: ecomflow job list")
    if isinstance(cause, exceptions.NotFound) and not NO_PROJECT.search(message):
        return NotFoundError(
            f"Dataflow has no project {target.settings.project_id} in {target.settings.region}: {message}",
            "Correct the project or the region. See: ecomflow doctor",
        )
    return translate(cause, target.dataflow_service, f"job {job}")
