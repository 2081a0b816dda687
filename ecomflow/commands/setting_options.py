"""The options of the settings, from one table: a command names its settings, and gets their options and the settings."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeVar

import typer

from ecomflow.config import flag_of, foreign_variables, load_settings
from ecomflow.terminal.console import note

F = TypeVar("F", bound=Callable[..., None])


class SettingOption(NamedTuple):
    """The type of the option's value, its help, and its flags where they don't follow from the setting's path."""

    kind: Any
    help: str
    flags: tuple[str, ...] = ()


def _option(kind: Any, help: str, *flags: str) -> SettingOption:
    return SettingOption(kind, help, flags)


# By the path of the setting.
SETTING_OPTIONS = {
    "project": _option(str, "Google Cloud project. Default: the local stack.", "--project", "-p"),
    "region": _option(str, "Region of the Dataflow job."),
    "location": _option(str, "Location of the dataset and the bucket."),
    "topic": _option(str, "Topic of all event types."),
    "subscription": _option(str, "Subscription that the pipeline reads."),
    "bucket": _option(str, "Bucket of the dead letters."),
    "bucket_project": _option(str, "Id or number of the project that owns the bucket, if it is another one."),
    "dataset": _option(str, "Dataset of the fact tables."),
    "ack_deadline_seconds": _option(int, "Seconds until Pub/Sub delivers an unacknowledged message again, 10 to 600."),
    "topic_retention_days": _option(int, "Days for which the topic keeps acknowledged messages, 0 to 31."),
    "soft_delete_days": _option(int, "Days for which deleted objects can be restored: 0, or 7 to 90."),
    "kms_key": _option(str, "Cloud KMS key of topics, bucket, dataset and tables."),
    "labels": _option(str, "Labels of all resources, queries and jobs, as key=value,key=value."),
    "processes": _option(int, "On this machine: number of engine processes."),
    "contracts": _option(str, "Folder of your own event types."),
    "builtin_events": _option(str, "Built-in event types to use, comma-separated."),
    "state_dir": _option(str, "Folder of the local stack's data and logs."),
    "other_users": _option(str, "Whether local services answer other users of the machine: refuse or allow."),
    "dataflow.job_name": _option(str, "Name of the job. Only one job of a name can run."),
    "dataflow.machine_type": _option(str, "Machine type of the workers."),
    "dataflow.workers": _option(int, "Initial and minimum number of workers."),
    "dataflow.max_workers": _option(int, "Maximum number of workers."),
    "dataflow.service_account": _option(str, "Service account that the workers run as."),
    "dataflow.network": _option(str, "Network of the workers."),
    "dataflow.subnetwork": _option(str, "Subnetwork of the workers, as regions/REGION/subnetworks/NAME."),
    "dataflow.kms_key": _option(str, "Cloud KMS key for the job's state and its workers' disks."),
    "dataflow.at_least_once": _option(
        bool, "Streaming mode without deduplication (cheaper), or with it.", "--at-least-once/--exactly-once"
    ),
    "dataflow.id_attribute": _option(str, "Attribute by which Dataflow deduplicates; empty: by the message id."),
    "dataflow.timestamp_attribute": _option(str, "Attribute that holds the event's time, if every message has it."),
    "dataflow.labels": _option(list[str], "Label of the job, as key=value. Can be repeated.", "--label"),
}

# Settings that a command needs together.
TARGET = ("project", "state_dir")
EVENTS = ("contracts", "builtin_events")
TABLES = ("dataset", "location")
DEAD_LETTERS = ("bucket", *EVENTS)
RESOURCES = ("topic", "subscription", "bucket", "bucket_project", *TABLES, *EVENTS)
RESOURCE_OPTIONS = ("ack_deadline_seconds", "topic_retention_days", "soft_delete_days", "kms_key", "labels")
JOB = tuple(path for path in SETTING_OPTIONS if path.startswith("dataflow."))
JOBS = (*TARGET, "region", "subscription")
# The settings of a job on Dataflow, by the parameter of the command.
OPTIONS_OF_JOB = {path.removeprefix("dataflow."): path for path in JOB}


def with_settings(*paths: str) -> Callable[[F], Callable[..., None]]:
    """Give a command the options of the settings in ``paths``, after its own, and pass it the settings as its first argument."""

    def mark(command: F) -> Callable[..., None]:
        own = [*inspect.signature(command, eval_str=True).parameters.values()][1:]
        options = {_parameter_name(path): path for path in dict.fromkeys(paths)}

        @functools.wraps(command)
        def run(**values: Any) -> None:
            settings = load_settings({path: values.pop(name) for name, path in options.items()})
            if strangers := foreign_variables():
                note(f"Ignored these variables, which are not settings: {', '.join(strangers)}.")
            command(settings, **values)

        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(path))
            for name, path in options.items()
        ]
        parameters = [*(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own), *added]
        del run.__wrapped__  # Typer would read the annotations of the command itself
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return mark


def _parameter_name(path: str) -> str:
    return path.rpartition(".")[2]


def _annotation(path: str) -> Any:
    kind, help, flags = SETTING_OPTIONS[path]
    return Annotated[kind | None, typer.Option(*(flags or (flag_of(path),)), help=help, show_default=False)]
