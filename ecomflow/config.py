"""Settings, and the endpoints that follow from them. Precedence: flag, environment variable, ecomflow.toml, default.

Every command of a folder and of the folders below it has the same ones: see ``find_folder``.

Without a project the target is the local stack, which writes its endpoints to ``<state_dir>/stack.json`` while it is up. They are
the only difference between the local stack and Google Cloud. Emulator variables override them.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import msgspec

from ecomflow.contract.envelope import Envelope, EnvelopeSettings, read_envelope
from ecomflow.contract.language import Contract
from ecomflow.contract.loading import SHOP, contracts_in_force
from ecomflow.errors import ConfigError, UnavailableError
from ecomflow.loopback.peers import OtherUsers
from ecomflow.processes.state_folder import access_error, check_own, folder_mark

LOCAL_PROJECT = "ecomflow-local"
CONFIG_FILE = "ecomflow.toml"
STATE_DIR = ".ecomflow"
STACK_FILE = "stack.json"
_PATHS = ("contracts", "state_dir")  # the settings that are paths

# 6 to 30 lowercase letters, digits and hyphens, optionally after a domain (example.com:project).
# https://cloud.google.com/resource-manager/docs/creating-managing-projects
_PROJECT_ID = re.compile(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")

# Letters are lowercase, or of a script without case. Each part of a label has at most 128 bytes.
# https://cloud.google.com/resource-manager/docs/labels-overview#requirements
_LABEL_KEY = re.compile(r"[^\W\d_][\w-]{0,62}")
_LABEL_VALUE = re.compile(r"[\w-]{0,63}")
MOST_LABELS = 64
_MOST_LABEL_BYTES = 128

_KMS_KEY = re.compile(r"projects/[^/]+/locations/(?P<location>[a-z0-9-]+)/keyRings/[\w-]{1,63}/cryptoKeys/[\w-]{1,63}")
# Locations that Cloud KMS names differently from BigQuery and Cloud Storage.
# https://cloud.google.com/bigquery/docs/customer-managed-encryption#before_you_begin
_KEY_LOCATIONS = {"eu": "europe"}


class Endpoints(msgspec.Struct, frozen=True):
    """Where the services listen: ``host:port`` for gRPC, a URL for REST; None means Google's own."""

    pubsub: str | None = None
    storage: str | None = None
    bigquery: str | None = None
    bigquery_storage: str | None = None
    dataflow: str | None = None


# The variables that name an emulator, by field of Endpoints; and the fields of services that speak gRPC.
EMULATOR_VARIABLES = {
    "pubsub": "PUBSUB_EMULATOR_HOST",
    "storage": "STORAGE_EMULATOR_HOST",
    "bigquery": "BIGQUERY_EMULATOR_HOST",
    "bigquery_storage": "BIGQUERY_STORAGE_EMULATOR_HOST",
    "dataflow": "DATAFLOW_EMULATOR_HOST",
}
_GRPC = ("pubsub", "bigquery_storage")


class DataflowSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a job runs on Dataflow, from [dataflow] in ecomflow.toml or deploy's flags. None: Dataflow decides."""

    job_name: str = "ecomflow"
    machine_type: str | None = None
    workers: int | None = None
    max_workers: int | None = None
    service_account: str | None = None
    network: str | None = None
    subnetwork: str | None = None
    kms_key: str | None = None
    at_least_once: bool = False
    # The attribute by which Dataflow deduplicates. Empty: by Pub/Sub's message id, which recognises redeliveries only.
    id_attribute: str = "event_id"
    # The attribute that holds the event's time. Set it only if every producer sends it: Dataflow fails on a message without it.
    timestamp_attribute: str | None = None
    labels: dict[str, str] = {}


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a command needs to know about its target. ``project`` None: the local stack."""

    project: str | None = None
    region: str = "europe-west1"
    location: str = "EU"
    topic: str = "ecomflow-events"
    subscription: str = "ecomflow-events-pipeline"
    bucket: str = ""
    # The id or number of the project that owns the bucket, if it is not ``project``.
    bucket_project: str | None = None
    dataset: str = "ecomflow"
    ack_deadline_seconds: int = 30
    topic_retention_days: int = 0
    soft_delete_days: int = 7
    # For topics, bucket, dataset and tables in a project, and for the Dataflow job unless it has its own.
    kms_key: str | None = None
    # For every resource that infra up creates, for queries, and for the Dataflow job.
    labels: dict[str, str] = {}
    # Engine processes of the pipeline on this machine, all on one subscription.
    processes: int = 1
    # The folder of the user's contracts, and which of the built-in ones are in force beside them.
    contracts: str = "contracts"
    builtin_events: tuple[str, ...] = SHOP
    # Where type, id, version and body of an event stand in its message.
    envelope: EnvelopeSettings = EnvelopeSettings()
    state_dir: str = STATE_DIR
    # Whether the services on loopback answer other users of the machine.
    other_users: OtherUsers = "refuse"
    dataflow: DataflowSettings = DataflowSettings()

    @property
    def is_local(self) -> bool:
        return self.project is None

    @property
    def project_id(self) -> str:
        return self.project or LOCAL_PROJECT

    @property
    def bucket_name(self) -> str:
        return self.bucket or f"{self.project_id.replace(':', '-').replace('.', '-')}-ecomflow"

    @property
    def topic_path(self) -> str:
        return f"projects/{self.project_id}/topics/{self.topic}"

    @property
    def subscription_path(self) -> str:
        return f"projects/{self.project_id}/subscriptions/{self.subscription}"

    @property
    def dataset_id(self) -> str:
        return f"{self.project_id}.{self.dataset}"

    @property
    def state_path(self) -> Path:
        return Path(self.state_dir)


def contracts_of(settings: Settings) -> tuple[Contract, ...]:
    """The event types of ``settings``, built in or the user's own. Raises ConfigError with every mistake in their files."""
    return contracts_in_force(Path(settings.contracts), settings.builtin_events)


def envelope_of(settings: Settings) -> Envelope:
    """Where type, id, version and body of an event stand in its message."""
    return read_envelope(settings.envelope)


class _StackFile(msgspec.Struct, frozen=True):
    """The part of stack.json, written by ``ecomflow.local.supervisor``, that is read here."""

    folder: str
    endpoints: Endpoints


_LOOPBACK = re.compile(r"(?:http://)?(?:127\.0\.0\.1|localhost|\[::1\]):\d{1,5}")


COMMENTED_CONFIG = """\
# ecomflow's settings. Precedence: flag, environment variable (ECOMFLOW_PROJECT, ...), this file, default.

# The Google Cloud project. Without one, everything runs on this machine: ecomflow infra up starts the local stack.
# project = "my-project"

# The region of the Dataflow job, and the location of the dataset and the bucket.
# region = "europe-west1"
# location = "EU"

# The topic of all event types, and the subscription that the pipeline reads.
# topic = "ecomflow-events"
# subscription = "ecomflow-events-pipeline"

# Seconds that a pulled message may stay unacknowledged before Pub/Sub delivers it again, 10 to 600. The local pipeline extends
# it while it works, so this is how long the messages of a killed pipeline wait.
# ack_deadline_seconds = 30

# Days for which the topic keeps acknowledged messages, 0 to 31, so that you can rewind a subscription. Pub/Sub charges for them.
# topic_retention_days = 0

# Days for which objects deleted from the bucket can be restored, and are charged for: 7 to 90, or 0 to turn it off.
# soft_delete_days = 7

# The Cloud KMS key of topics, bucket, dataset and tables. It must be in location: the multi-region europe for EU, us for US.
# kms_key = "projects/my-project/locations/europe/keyRings/ring/cryptoKeys/key"

# The folder of your own event types, one TOML file each, and which built-in ones to use. A file for the same version of an event
# replaces the built-in one. See docs/contracts.md.
# contracts = "contracts"
# builtin_events = ["order", "inventory", "user_activity"]

# Number of engine processes of the pipeline on this machine; each can use one core.
# processes = 1

# The bucket of the dead letters. Bucket names are globally unique. Default: <project>-ecomflow.
# bucket = "my-project-ecomflow"

# The id or number of the project that owns the bucket, if it is not the project above. Buckets of other projects are refused.
# bucket_project = "my-shared-project"

# The dataset of the fact tables.
# dataset = "ecomflow"

# Labels for topics, subscriptions, bucket, dataset, tables, views, queries and the Dataflow job, for example to split costs.
# As a variable: ECOMFLOW_LABELS=team=shop,env=production
# labels = { team = "shop", env = "production" }

# The folder for the local stack's data, logs and process state.
# state_dir = ".ecomflow"

# Whether the local stack, the page and the metrics answer other users of this machine: "refuse" or "allow". Takes effect when
# they start.
# other_users = "refuse"

# Where type, id, version and body of an event stand in its message: "attribute:<name>", or a path in the JSON document. The
# preset "cloudevents" reads CloudEvents, structured and binary; with it, nothing else may be set.
# [envelope]
# preset = "ecomflow"
# type = "$.event_type"
# id = "attribute:event_id"
# version = "attribute:event_version"
# body = "$"

# The job on Dataflow. Dataflow decides what is not set.
# [dataflow]
# job_name = "ecomflow"
# machine_type = "n1-standard-2"
# Initial and minimum number of workers, and the maximum.
# workers = 1
# max_workers = 4
# service_account = "ecomflow-job@my-project.iam.gserviceaccount.com"
# network = "default"
# subnetwork = "regions/europe-west1/subnetworks/default"
# The key of the job's state and its workers' disks, in the job's region. Default: the key above.
# kms_key = "projects/my-project/locations/europe-west1/keyRings/ring/cryptoKeys/key"
# Streaming mode without deduplication: cheaper and faster.
# at_least_once = false
# The attribute by which Dataflow deduplicates; "" if its values are not unique.
# id_attribute = "event_id"
# The attribute that holds the event's time. Set it only if every producer sends it.
# timestamp_attribute = "event_timestamp"
# More labels for the job. They override those above.
# labels = { job = "shop" }
"""


def load_settings(flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ, folder: Path | None = None) -> Settings:
    """The settings from ``flags`` (None: not set), ``ECOMFLOW_*`` variables, and the ``ecomflow.toml`` of ``folder`` (the current
    one) or of the nearest folder above it (``find_folder``).

    Relative paths in ecomflow.toml, and the default ones, start from its folder; those in variables from the current one. Raises
    ConfigError for an unknown setting, a value of the wrong type, or a name that Google Cloud would refuse.
    """
    start = folder or Path()
    found = find_folder(start)
    in_file = _from_file(found / CONFIG_FILE)
    layers = [
        in_file if found == start else _placed(in_file, found),
        _from_environment(environ),
        {k: v for k, v in flags.items() if v is not None},
    ]
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(layer)
    try:
        settings = msgspec.convert(merged, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"The settings are not valid: {error}.", f"Correct the flag, the ECOMFLOW_ variable or {CONFIG_FILE}."
        ) from error
    _check(settings)
    return settings


def find_folder(start: Path) -> Path:
    """The nearest folder with ``ecomflow.toml`` or ``.ecomflow/``: ``start``, or an absolute one above; ``start`` if none has.

    The search ends at a folder that belongs to another user or that everyone can write to, such as /tmp.
    """
    if _is_home(start):
        return start
    try:
        above = start.absolute().parents
    except FileNotFoundError:  # the current folder has been deleted
        return start
    return next(filter(_is_home, takewhile(_is_own, above)), start)


def _is_home(folder: Path) -> bool:
    config, state = _stat(folder / CONFIG_FILE), _stat(folder / STATE_DIR)
    return (config is not None and stat.S_ISREG(config.st_mode)) or (state is not None and stat.S_ISDIR(state.st_mode))


def _is_own(folder: Path) -> bool:
    found = _stat(folder)
    return found is not None and found.st_uid == os.geteuid() and not found.st_mode & stat.S_IWOTH


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # it does not exist, or may not be looked at
        return None


def _placed(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """``settings`` of the ecomflow.toml in ``folder``, with the paths in it, and the default ones, as paths from anywhere."""
    paths = {name: settings.get(name, getattr(Settings(), name)) for name in _PATHS}
    placed = {
        name: str(folder / path) for name, path in paths.items() if isinstance(path, str) and path and not path.startswith("~")
    }
    return {**settings, **placed}


def resolve_endpoints(settings: Settings, environ: Mapping[str, str] = os.environ) -> Endpoints:
    """The endpoints of the running local stack or of Google, overridden by the emulator variables of ``environ``."""
    base = read_stack_endpoints(settings.state_path) if settings.is_local else None
    return msgspec.structs.replace(base or Endpoints(), **overrides(environ))


def overrides(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The endpoints that emulator variables name, by field of ``Endpoints``. All may be written with or without ``http://``.

    Raises ConfigError for a gRPC service with another scheme.
    """
    found = {field: environ[variable] for field, variable in EMULATOR_VARIABLES.items() if environ.get(variable)}
    return {field: _as_host(field, value) if field in _GRPC else as_url(value) for field, value in found.items()}


def external_endpoints(settings: Settings, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The endpoints of ``overrides`` that are not those of the local stack of ``settings``, whose variables a shell may have."""
    given = overrides(environ)
    if not given or not settings.is_local:
        return given
    try:
        own = read_stack_endpoints(settings.state_path) or Endpoints()
    except ConfigError:  # a damaged file, which the next start replaces
        own = Endpoints()
    return {field: value for field, value in given.items() if getattr(own, field) != value}


def running_endpoints(settings: Settings, environ: Mapping[str, str] = os.environ) -> Endpoints:
    """The endpoints. Raises UnavailableError if the local stack is needed and one of its endpoints is unknown."""
    endpoints = resolve_endpoints(settings, environ)
    local = (endpoints.pubsub, endpoints.storage, endpoints.bigquery, endpoints.bigquery_storage)
    if settings.is_local and None in local:
        raise UnavailableError(f"The local stack in {settings.state_path}/ is not running.", "Run: ecomflow infra up")
    return endpoints


def read_stack_endpoints(state_path: Path) -> Endpoints | None:
    """The endpoints that the local stack of this folder wrote on start; None without a stack file, or if it is a copy.

    Raises AccessError for a folder that other users can access, ConfigError for a file that is not a valid stack file.
    """
    check_own(state_path)
    try:
        text = (state_path / STACK_FILE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise access_error(state_path / STACK_FILE, error, "read") from error
    try:
        written = msgspec.json.decode(text, type=_StackFile)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"{state_path / STACK_FILE} is not a valid stack file: {error}.", "Run: ecomflow infra up") from error
    if written.folder != folder_mark(state_path):  # copied from another folder, whose stack it describes
        return None
    for endpoint in msgspec.structs.astuple(written.endpoints):
        if endpoint is not None and not _LOOPBACK.fullmatch(endpoint):
            raise ConfigError(
                f"{state_path / STACK_FILE} names {endpoint!r}: expected an address on this machine, such as 127.0.0.1:8085.",
                "Delete the file, and run: ecomflow infra up",
            )
    return written.endpoints


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.", "Make it readable, or delete it.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        remedy = "Correct the file, or write a new one with: ecomflow init --force"
        raise ConfigError(f"{path} is not valid TOML: {error}.", remedy) from error


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    names = [name for name in Settings.__struct_fields__ if name not in ("dataflow", "envelope")]
    found: dict[str, Any] = {name: environ[key] for name in names if environ.get(key := f"ECOMFLOW_{name.upper()}")}
    if "labels" in found:
        found["labels"] = labels_of(found["labels"].split(","))
    if "builtin_events" in found:
        found["builtin_events"] = [name.strip() for name in found["builtin_events"].split(",")]
    return found


def labels_of(pairs: Iterable[str]) -> dict[str, str]:
    """The labels in ``pairs`` of the form ``key=value``. Raises ConfigError for any other form."""
    found = [pair.strip().partition("=") for pair in pairs]
    if wrong := [key for key, sign, _ in found if not sign]:
        raise ConfigError(f"'{wrong[0]}' is not a valid label: expected key=value.", "Write it as team=shop.")
    return {key: value for key, _, value in found}


def as_url(host: str) -> str:
    """The URL of a REST service at ``host:port`` or at a URL."""
    return (host if "://" in host else f"http://{host}").rstrip("/")


def _as_host(field: str, host: str) -> str:
    """``host:port`` of a gRPC service, which has no URL."""
    scheme, separator, rest = host.rpartition("://")
    if separator and scheme.lower() != "http":
        sentence = f"{EMULATOR_VARIABLES[field]} is '{host}': expected host:port, because emulators use no TLS."
        raise ConfigError(sentence, f"Correct or unset {EMULATOR_VARIABLES[field]}.")
    return rest.rstrip("/")


def _check(settings: Settings) -> None:
    envelope_of(settings)
    if settings.project is not None and not _PROJECT_ID.fullmatch(settings.project):
        raise ConfigError(
            f"'{settings.project}' is not a valid project id: "
            "expected 6 to 30 lowercase letters, digits and hyphens, starting with a letter.",
            "List your projects with: gcloud projects list",
        )
    if settings.bucket_project is not None and not re.fullmatch(rf"\d+|{_PROJECT_ID.pattern}", settings.bucket_project):
        raise ConfigError(
            f"bucket_project is '{settings.bucket_project}': expected the id or the number of a project.",
            "List your projects with: gcloud projects list",
        )
    if not 10 <= settings.ack_deadline_seconds <= 600:
        raise ConfigError(f"ack_deadline_seconds is {settings.ack_deadline_seconds}: expected 10 to 600.", "Correct the setting.")
    if not 0 <= settings.topic_retention_days <= 31:
        raise ConfigError(
            f"topic_retention_days is {settings.topic_retention_days}: expected 0 (off) to 31.", "Correct the setting."
        )
    if settings.soft_delete_days != 0 and not 7 <= settings.soft_delete_days <= 90:
        raise ConfigError(
            f"soft_delete_days is {settings.soft_delete_days}: expected 0 (off), or 7 to 90.", "Correct the setting."
        )
    check_labels(settings.labels, "labels in ecomflow.toml, or ECOMFLOW_LABELS")
    _check_keys(settings)
    if settings.processes < 1:
        raise ConfigError(f"processes is {settings.processes}: expected 1 or more.", "Correct the setting.")
    if not re.fullmatch(r"\w{1,1024}", settings.dataset, re.ASCII):
        raise ConfigError(
            f"'{settings.dataset}' is not a valid dataset name: expected letters, digits and underscores.", "Correct dataset."
        )


def check_labels(labels: Mapping[str, str], source: str) -> None:
    """Raises ConfigError if Google Cloud would refuse ``labels``, which come from ``source``."""
    if len(labels) > MOST_LABELS:
        raise ConfigError(f"There are {len(labels)} labels: expected at most {MOST_LABELS}.", f"Remove some from {source}.")
    for key, value in labels.items():
        if not _fits(key, _LABEL_KEY):
            raise ConfigError(
                f"'{key}' is not a valid label key: expected 1 to 63 lowercase letters, digits, _ and -, starting with a letter.",
                f"Correct {source}.",
            )
        if not _fits(value, _LABEL_VALUE):
            raise ConfigError(
                f"'{value}' is not a valid value of the label {key}: expected at most 63 lowercase letters, digits, _ and -.",
                f"Correct {source}.",
            )


def _fits(text: str, pattern: re.Pattern[str]) -> bool:
    return bool(pattern.fullmatch(text)) and text == text.lower() and len(text.encode()) <= _MOST_LABEL_BYTES


def key_location(key: str) -> str:
    """The location of the Cloud KMS key with the name ``key``. Raises ConfigError if it is not a key's name."""
    match = _KMS_KEY.fullmatch(key)
    if match is None:
        expected = "projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY"
        raise ConfigError(f"'{key}' is not a Cloud KMS key: expected {expected}, without a version.", "Correct kms_key.")
    return match["location"]


def _check_keys(settings: Settings) -> None:
    if settings.dataflow.kms_key is not None:
        key_location(settings.dataflow.kms_key)
    if settings.kms_key is None:
        return
    location = settings.location.lower()
    found, wanted = key_location(settings.kms_key), _KEY_LOCATIONS.get(location, location)
    if found != wanted:
        raise ConfigError(
            f"kms_key is in {found}: expected {wanted}, because bucket and dataset are in {settings.location}.",
            f"Set kms_key to a key in {wanted}. A key for the Dataflow job only is kms_key under [dataflow].",
        )
