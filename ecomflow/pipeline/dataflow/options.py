"""Settings and the user's own Beam options in; the Beam options with which a Dataflow job is submitted out.

What Google would refuse minutes later is refused here, offline. An option that follows from a setting can only be set by that
setting, and an unknown option is an error, whereas Beam would ignore it.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

from ecomflow import __version__
from ecomflow.config import EMULATOR_VARIABLES, MOST_LABELS, DataflowSettings, Endpoints, Settings, check_labels, key_location
from ecomflow.errors import ConfigError

AT_LEAST_ONCE = "streaming_mode_at_least_once"  # https://cloud.google.com/dataflow/docs/guides/streaming-modes
VERSION_LABEL = "ecomflow-version"

# Beam's options that ecomflow sets, with the flag or setting for each.
_FROM_SETTINGS = {
    "project": "--project",
    "region": "--region",
    "job_name": "--job-name",
    "machine_type": "--machine-type",
    "worker_machine_type": "--machine-type",
    "num_workers": "--workers",
    "max_num_workers": "--max-workers",
    "service_account_email": "--service-account",
    "network": "--network",
    "subnetwork": "--subnetwork",
    "dataflow_kms_key": "--kms-key",
    "label": "--label",
    "labels": "--label",
    "runner": "--runner",
    "dry_run": "--dry-run",
    "update": "ecomflow job update",
    "transform_name_mapping": "ecomflow job update",
    "staging_location": "--bucket",
    "temp_location": "--bucket",
    "dataflow_endpoint": "DATAFLOW_EMULATOR_HOST",
    "no_auth": "DATAFLOW_EMULATOR_HOST",
}
_FIXED = {
    "streaming": "the pipeline always streams",
    "save_main_session": "the package is shipped as a wheel",
    "no_save_main_session": "the package is shipped as a wheel",
    "requirements_file": "the package is shipped as a wheel that names what it needs",
    "setup_file": "the package is shipped as a wheel",
    "template_location": "templates are not supported",
}
_PACKAGES = (".whl", ".tar.gz", ".tar", ".zip")
_OPTION = re.compile(r"--(?P<name>[A-Za-z0-9_]+)(?:=.*)?", re.DOTALL)

# The job's name: https://cloud.google.com/dataflow/docs/reference/rest/v1b3/projects.jobs#Job
_JOB_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")


def beam_options(
    settings: Settings,
    wheel: Path,
    extra: Sequence[str] = (),
    *,
    endpoint: str | None = None,
    update: bool = False,
    transform_name_mapping: Mapping[str, str] | None = None,
) -> list[str]:
    """The options as ``--name=value``. ``endpoint`` is the URL of an emulator of the Dataflow API.

    Raises ConfigError for an invalid setting or option of ``extra``.
    """
    check_settings(settings)
    _check_extra(extra)
    mapping = json.dumps(dict(transform_name_mapping)) if transform_name_mapping else None
    options = [
        *_job_options(settings),
        *_worker_options(settings.dataflow, _key(settings)),
        *(["--update"] if update else []),
        *_given({"transform_name_mapping": mapping}),
        *extra,
        # The last one: workers install packages in this order, and the wheel may need those that the user gives.
        f"--extra_package={wheel}",
    ]
    _check_with_beam(options)
    return [*options, *_emulator_options(endpoint)]


def check_settings(settings: Settings) -> None:
    """Raises ConfigError if a setting of the job breaks one of Google's rules."""
    job = settings.dataflow
    if settings.project is None:
        raise ConfigError("Dataflow needs a project, and none is configured.", "Add: --project my-project")
    if not _JOB_NAME.fullmatch(job.job_name):
        raise ConfigError(
            f"'{job.job_name}' is not a valid job name: expected 1 to 63 lowercase letters, digits and hyphens, starting with a "
            "letter, not ending with a hyphen.",
            "Choose another with --job-name.",
        )
    for name, number in (("workers", job.workers), ("max_workers", job.max_workers)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} is {number}: expected 1 or more.", f"Correct --{name.replace('_', '-')}.")
    if job.workers is not None and job.max_workers is not None and job.workers > job.max_workers:
        raise ConfigError(f"workers is {job.workers}: expected at most max_workers, {job.max_workers}.", "Raise --max-workers.")
    _check_labels(_labels(settings))
    _check_key(settings)


def check_endpoints(endpoints: Endpoints) -> None:
    """Raises ConfigError if workers at Google would connect to an emulator on this machine."""
    if endpoints.dataflow is not None:
        return
    for field, variable in EMULATOR_VARIABLES.items():
        if (value := getattr(endpoints, field)) is not None:
            raise ConfigError(
                f"{variable} is set to {value}, which the workers of Dataflow can't reach.",
                f"Unset {variable}, or run the pipeline here: ecomflow deploy --runner DirectRunner",
            )


def _job_options(settings: Settings) -> list[str]:
    bucket = f"gs://{settings.bucket_name}"
    labels = {**_labels(settings), VERSION_LABEL: re.sub(r"[^a-z0-9_-]", "-", __version__.lower())}
    return [
        *_given(
            {
                "runner": "DataflowRunner",
                "project": settings.project_id,
                "region": settings.region,
                "job_name": settings.dataflow.job_name,
                "staging_location": f"{bucket}/staging",
                "temp_location": f"{bucket}/temp",
            }
        ),
        "--streaming",
        "--no_save_main_session",  # on Dataflow it is saved by default; the wheel has everything that the steps need
        # Beam would run pip freeze, and stage the list of the packages installed here.
        "--experiments=disable_logging_submission_environment",
        *(f"--labels={key}={value}" for key, value in sorted(labels.items())),
    ]


def _labels(settings: Settings) -> dict[str, str]:
    return {**settings.labels, **settings.dataflow.labels}


def _key(settings: Settings) -> str | None:
    return settings.dataflow.kms_key or settings.kms_key


def _worker_options(job: DataflowSettings, key: str | None) -> list[str]:
    # num_workers is only the initial number: without a minimum, autoscaling may go below it.
    # https://cloud.google.com/dataflow/docs/horizontal-autoscaling
    least = None if job.workers is None else f"min_num_workers={job.workers}"
    return [
        *_given(
            {
                "machine_type": job.machine_type,
                "num_workers": job.workers,
                "max_num_workers": job.max_workers,
                "service_account_email": job.service_account,
                "network": job.network,
                "subnetwork": job.subnetwork,
                "dataflow_kms_key": key,
                "dataflow_service_options": least,
            }
        ),
        *([f"--dataflow_service_options={AT_LEAST_ONCE}"] if job.at_least_once else []),
    ]


def _emulator_options(endpoint: str | None) -> list[str]:
    if endpoint is None:
        return []
    # Beam uses REST, as emulators do, only if the endpoint is localhost.
    return [f"--dataflow_endpoint={endpoint.replace('127.0.0.1', 'localhost')}", "--no_auth"]


def _given(values: Mapping[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def _check_labels(labels: Mapping[str, str]) -> None:
    """One more label is ecomflow's own."""
    if len(labels) >= MOST_LABELS:
        raise ConfigError(f"The job has {len(labels)} labels: expected fewer than {MOST_LABELS}.", "Remove some.")
    if VERSION_LABEL in labels:
        raise ConfigError(f"The label {VERSION_LABEL} is set by ecomflow.", "Choose another key.")
    check_labels(labels, "--label, or labels under [dataflow]")


def _check_key(settings: Settings) -> None:
    """Dataflow accepts only a key in the job's region; with any other the job fails when its workers start.

    https://cloud.google.com/dataflow/docs/guides/customer-managed-encryption-keys
    """
    key = _key(settings)
    if key is not None and (location := key_location(key)) != settings.region:
        raise ConfigError(
            f"The key {key} is in {location}: expected {settings.region}, where the job runs.",
            "Set a key in that region with --kms-key, or with kms_key under [dataflow].",
        )


def _check_extra(extra: Iterable[str]) -> None:
    known: set[str] | None = None
    for option in extra:
        found = _OPTION.fullmatch(option)
        if found is None:
            raise ConfigError(f"'{option}' is not a Beam option.", "Write Beam options after -- as --name=value.")
        name = found["name"]
        if name in _FROM_SETTINGS:
            raise ConfigError(f"--{name} is set by ecomflow.", f"Use {_FROM_SETTINGS[name]} instead.")
        if name in _FIXED:
            raise ConfigError(f"--{name} is set by ecomflow: {_FIXED[name]}.", "Omit it.")
        known = known or _known_names()
        if name not in known:
            raise ConfigError(f"Beam has no option --{name}.", _suggestion(name, known))
        if name in ("extra_package", "extra_packages"):
            _check_package(option.partition("=")[2])


def _check_package(path: str) -> None:
    """Beam would find out only while it stages the job."""
    if not path.endswith(_PACKAGES):
        raise ConfigError(
            f"--extra_package is '{path}': expected a package file that ends with {', '.join(_PACKAGES)}.",
            "Build one, for example with: pip wheel --no-deps .",
        )
    if "://" not in path and not Path(path).is_file():
        raise ConfigError(f"--extra_package is '{path}': there is no such file.", "Correct the path.")


def _known_names() -> set[str]:
    names: set[str] = set()

    def collect(parser: Any) -> None:
        names.update(text.removeprefix("--") for action in parser._actions for text in action.option_strings)

    PipelineOptions([]).get_all_options(add_extra_args_fn=collect)
    return names - {"help"}


def _suggestion(name: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    listing = "See https://cloud.google.com/dataflow/docs/reference/pipeline-options"
    return f"Did you mean --{close[0]}?" if close else listing


def _check_with_beam(options: list[str]) -> None:
    """Let Beam parse and validate the options as for the real service; with an emulator's endpoint it would not.

    As a dry run, or Beam would request the bucket's soft delete policy, which takes minutes without credentials.
    """
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):  # argparse prints its usage, with all options of Beam
            parsed = PipelineOptions([*options, "--dry_run=true"])
            parsed.get_all_options()
            errors = PipelineOptionsValidator(parsed, DataflowRunner()).validate()
    except SystemExit as error:
        words = complaint.getvalue().strip().splitlines()[-1].split("error: ", 1)[-1]
        raise ConfigError(f"Beam can't parse the options: {words}.", "Write Beam options after -- as --name=value.") from error
    if errors:
        raise ConfigError(f"Beam refuses the options: {errors[0]}", "Correct the option or the setting that it names.")
