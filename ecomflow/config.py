"""Settings, and the endpoints that follow from them. Precedence: flag, environment variable, ecomflow.toml, default.

Every command of a folder and of the folders below it has the same ones: see ``find_folder``.

Without a project the target is the local stack, which writes its endpoints to ``<state_dir>/stack.json`` while it is up. They are
the only difference between the local stack and Google Cloud. Emulator variables override them.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from ecomflow.contract.envelope import Envelope, EnvelopeSettings, read_envelope
from ecomflow.contract.language import Contract
from ecomflow.contract.loading import SHOP, contracts_in_force
from ecomflow.contract.mistakes import listed, nearest, shown
from ecomflow.errors import ConfigError, UnavailableError
from ecomflow.loopback.peers import OtherUsers
from ecomflow.processes.state_folder import access_error, check_own, folder_mark

LOCAL_PROJECT = "ecomflow-local"
CONFIG_FILE = "ecomflow.toml"
STATE_DIR = ".ecomflow"
STACK_FILE = "stack.json"
_FOLDERS = ("contracts", "state_dir")  # the settings that are paths

VARIABLE_PREFIX = "ECOMFLOW_"
# The variables that are no settings.
_OTHER_VARIABLES = ("ECOMFLOW_DEBUG",)
# What is as similar to the name of a setting is a slip. Kubernetes sets ECOMFLOW_PORT and others for a service of the name.
_SLIP = 0.7

# A project's id may come after a domain (example.com:project).
# https://cloud.google.com/resource-manager/docs/creating-managing-projects
_PROJECT_ID = r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]"
# https://cloud.google.com/pubsub/docs/pubsub-basics#resource_names
_PUBSUB_ID = r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}"
# https://cloud.google.com/storage/docs/buckets#naming
_BUCKET_PART = r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_NO_BUCKET = r"goog|.*google|(?:\d+\.){3}\d+$|.{0,2}$|.{223}"
_BUCKET = rf"(?!{_NO_BUCKET}){_BUCKET_PART}(?:\.{_BUCKET_PART})*"

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

    Relative paths in ecomflow.toml, and the default ones, start from its folder; those in variables and flags from the current
    one. ``flags`` are by path, such as ``dataset`` and ``dataflow.workers``. Raises ConfigError for an unknown setting or
    variable, a value of the wrong type, and a name that Google Cloud would refuse; it says where the value was set.
    """
    _check_variables(environ)
    start = folder or Path()
    found = find_folder(start)
    in_file = _from_file(found / CONFIG_FILE)
    given = {
        **(in_file if found == start else _placed(in_file, found)),
        **_from_environment(environ),
        **_from_flags(flags, in_file),
    }
    converted = {path: _converted(path, one) for path, one in given.items()}
    tables: dict[str, Any] = {
        name: kind(**{key.partition(".")[2]: value for key, value in converted.items() if key.startswith(f"{name}.")})
        for name, kind in _TABLES.items()
    }
    settings = Settings(**{path: value for path, value in converted.items() if "." not in path}, **tables)
    _check(settings, {path: one.place for path, one in given.items()})
    return settings


def flag_of(path: str) -> str:
    """The option of a command that sets the setting: ``--max-workers`` for ``dataflow.max_workers``."""
    name = path.rpartition(".")[2]
    return "--label" if path == "dataflow.labels" else f"--{name.replace('_', '-')}"


def variables_of(settings: Settings) -> dict[str, str]:
    """The ``ECOMFLOW_*`` variables that set what ``settings`` say, without the tables, for a process of its own."""
    values = {name: getattr(settings, name) for name in _TYPES if "." not in name}
    return {_variable(name): _as_text(value) for name, value in values.items() if value not in (None, "", {})}


def foreign_variables(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The variables that begin like those of the settings and are none of them."""
    known = (*map(_variable, _TYPES), *_OTHER_VARIABLES)
    return tuple(sorted(name for name in environ if name.startswith(VARIABLE_PREFIX) and environ[name] and name not in known))


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


def _placed(in_file: Mapping[str, Given], folder: Path) -> dict[str, Given]:
    """``in_file``, the settings of the ecomflow.toml in ``folder``, with the paths in it, and the default ones, as paths from
    anywhere.
    """
    paths = {name: in_file.get(name, Given(getattr(Settings(), name), name)) for name in _FOLDERS}
    relative = {name: one for name, one in paths.items() if isinstance(one.value, str) and one.value and one.value[0] != "~"}
    return {**in_file, **{name: one._replace(value=str(folder / one.value)) for name, one in relative.items()}}


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


class Given(NamedTuple):
    """A value of a setting as it was given, and where: ``--dataset``, ``ECOMFLOW_DATASET``, ``dataset in ecomflow.toml``."""

    value: Any
    place: str


_TABLES: Mapping[str, type[msgspec.Struct]] = {"envelope": EnvelopeSettings, "dataflow": DataflowSettings}


def _typed() -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(Settings):
        if field.name not in _TABLES:
            yield field.name, field.type
    for table, kind in _TABLES.items():
        for field in msgspec.structs.fields(kind):
            yield f"{table}.{field.name}", field.type


# The type of each setting by its path: ``dataset``, ``dataflow.workers``.
_TYPES: Mapping[str, Any] = dict(_typed())


def _converted(path: str, given: Given) -> Any:
    """The value in the setting's type; ``~`` in the path of a folder is the home folder."""
    value, kind = given.value, _TYPES[path]
    if isinstance(value, str):
        value = _parsed(path, value)
    try:
        value = msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path} is {shown(value)}: expected {_expected(kind, value)}", f"Correct {given.place}.") from error
    return os.path.expanduser(value) if path in _FOLDERS else value  # noqa: PTH111  # Path("") would be the working folder


def _parsed(path: str, text: str) -> Any:
    """Labels and names from the text of a variable or flag, in which commas separate them."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if path == "builtin_events":
        return parts
    return labels_of(parts) if path == "labels" else text


def _as_text(value: Any) -> str:
    """The inverse of ``_parsed``."""
    if isinstance(value, dict):
        return ",".join(f"{key}={text}" for key, text in value.items())
    return (",".join(value) or ",") if isinstance(value, tuple) else str(value)


_KINDS: Mapping[Any, str] = {bool: "true or false", int: "a whole number", tuple: "a list of strings", dict: "a table of strings"}


def _expected(kind: Any, found: Any) -> str:
    if get_origin(kind) is Literal:
        options = sorted(get_args(kind))
        return listed(options) + ((nearest(found, options) if isinstance(found, str) else "") or ".")
    bare = next((one for one in get_args(kind) if one is not type(None)), kind) if get_origin(kind) not in (tuple, dict) else kind
    return f"{_KINDS.get(get_origin(bare) or bare, 'a string')}."


def _from_file(path: Path) -> dict[str, Given]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.", "Make it readable, or delete it.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        remedy = "Correct the file, or write a new one with: ecomflow init --force"
        raise ConfigError(f"{path} is not valid TOML: {error}.", remedy) from error
    return dict(_flattened(found, path))


def _flattened(found: Mapping[str, Any], path: Path) -> Iterator[tuple[str, Given]]:
    for key, value in found.items():
        if key in _TABLES and not isinstance(value, dict):
            raise ConfigError(f"{key} is {shown(value)}: expected a table.", f"Write it as [{key}] in {path}.")
        inner = {f"{key}.{name}": one for name, one in value.items()} if key in _TABLES else {key: value}
        for name, one in inner.items():
            if name not in _TYPES:
                sentence = f"{path} has the unknown setting {name}{nearest(name, _TYPES) or '.'}"
                raise ConfigError(sentence, f"Rename it, or remove it. The settings are: {', '.join(_TYPES)}.")
            yield name, Given(one, f"{name.rpartition('.')[2]} {f'under [{key}] ' if key in _TABLES else ''}in {path}")


def _from_flags(flags: Mapping[str, Any], in_file: Mapping[str, Given]) -> dict[str, Given]:
    """Labels of the job, ``key=value`` each, come to those of the file."""
    found = {path: value for path, value in flags.items() if value is not None}
    if pairs := found.pop("dataflow.labels", None):
        before = in_file.get("dataflow.labels", Given({}, "")).value
        found["dataflow.labels"] = {**(before if isinstance(before, dict) else {}), **labels_of(pairs)}
    return {path: Given(value, flag_of(path)) for path, value in found.items()}


def _variable(path: str) -> str:
    """The variable of a setting; those in tables have none."""
    return "" if "." in path else f"{VARIABLE_PREFIX}{path.upper()}"


def _from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    names = {_variable(path): path for path in _TYPES if "." not in path}
    return {path: Given(environ[name], name) for name, path in names.items() if environ.get(name)}


def _check_variables(environ: Mapping[str, str]) -> None:
    """Raises ConfigError for a variable that is meant to be a setting's."""
    known = [path.upper() for path in _TYPES if "." not in path]
    for name in foreign_variables(environ):
        word = name.removeprefix(VARIABLE_PREFIX)
        if (table := word.partition("_")[0].lower()) in _TABLES:
            raise ConfigError(f"{name} is set, but [{table}] has no variables.", f"Unset it, and use [{table}] in {CONFIG_FILE}.")
        if close := difflib.get_close_matches(word, known, n=1, cutoff=_SLIP):
            sentence = f"{name} is not the variable of a setting, did you mean {VARIABLE_PREFIX}{close[0]}?"
            raise ConfigError(sentence, "Rename it, or unset it.")


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


class _Rule(NamedTuple):
    """What a setting must be, as a test and in words."""

    holds: Callable[[Any], bool]
    expected: str


def _matching(pattern: str, expected: str) -> _Rule:
    compiled = re.compile(pattern, re.ASCII)
    return _Rule(lambda value: compiled.fullmatch(value) is not None, expected)


_FOLDER = _Rule(lambda value: bool(value) and not value.startswith("~"), "the path of a folder")
_PUBSUB_RULE = _matching(_PUBSUB_ID, "3 to 255 letters, digits and - . _ ~ % +, starting with a letter, but not with goog")
_RULES: Mapping[str, _Rule] = {
    "project": _matching(
        _PROJECT_ID, "6 to 30 lowercase letters, digits and hyphens, starting with a letter, not ending with a hyphen"
    ),
    "region": _matching(r"[a-z]+(?:-[a-z]+)+\d+", "a region, such as europe-west1"),
    "location": _matching(r"[A-Za-z][A-Za-z0-9-]+", "a region or a multi-region, such as europe-west1 or EU"),
    "topic": _PUBSUB_RULE,
    "subscription": _PUBSUB_RULE,
    "bucket": _matching(
        f"(?:{_BUCKET})?",
        "3 to 63 lowercase letters, digits and - _ . (63 between dots), with a letter or digit at both ends, without google",
    ),
    "bucket_project": _matching(rf"\d+|{_PROJECT_ID}", "the id or the number of a project"),
    "dataset": _matching(r"\w{1,1024}", "1 to 1,024 letters, digits and underscores"),
    "ack_deadline_seconds": _Rule(lambda value: 10 <= value <= 600, "10 to 600"),
    "topic_retention_days": _Rule(lambda value: 0 <= value <= 31, "0 (off) to 31"),
    "soft_delete_days": _Rule(lambda value: value == 0 or 7 <= value <= 90, "0 (off), or 7 to 90"),
    "processes": _Rule(lambda value: value >= 1, "1 or more"),
    "contracts": _FOLDER,
    "state_dir": _FOLDER,
}
_REMEDIES = dict.fromkeys(("project", "bucket_project"), " List your projects with: gcloud projects list")


def _check(settings: Settings, places: Mapping[str, str]) -> None:
    """Raises ConfigError for a value that the service it names would refuse. ``places``: where a setting was set, by its path."""
    envelope_of(settings)
    for name, rule in _RULES.items():
        value = getattr(settings, name)
        if value is not None and not rule.holds(value):
            remedy = f"Correct {places.get(name, name)}.{_REMEDIES.get(name, '')}"
            raise ConfigError(f"{name} is {shown(value)}: expected {rule.expected}.", remedy)
    check_labels(settings.labels, places.get("labels", "labels"))
    _check_keys(settings)


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
