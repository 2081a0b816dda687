"""Validation of the local Pub/Sub's requests and configurations: raises StatusError for what the service would refuse."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from google.protobuf import duration_pb2
from google.pubsub_v1 import types

from ecomflow.local.pubsub.names import already_exists
from ecomflow.local.pubsub.queue import Proto, seconds_of
from ecomflow.local.pubsub.status import invalid, unimplemented

# https://cloud.google.com/pubsub/quotas#resource_limits
MAX_PUBLISH_BYTES = 10_000_000
MAX_ACK_BYTES = 524_288
MAX_MESSAGES = 1000
MAX_LABELS = 64
MAX_LABEL_CHARACTERS = 63
MAX_ATTRIBUTES = 100
MAX_ATTRIBUTE_KEY_BYTES = 256
MAX_ATTRIBUTE_VALUE_BYTES = 1024
MAX_ORDERING_KEY_BYTES = 1024

_Subscription = types.Subscription.pb()


def check_new(name: str, known: Collection[str]) -> None:
    if name in known:
        raise already_exists(name)


def check_labels(config: Proto) -> None:
    if len(config.labels) > MAX_LABELS:
        raise invalid(f"{config.name} has {len(config.labels)} labels: expected up to {MAX_LABELS}.")
    for key, value in config.labels.items():
        if not key[:1].isalpha() or not _is_label_text(key) or not _is_label_text(value):
            raise invalid(
                f"Invalid label given: ({key}={value}): expected up to {MAX_LABEL_CHARACTERS} lowercase letters, digits, '_' and "
                "'-' in each part, and a key that starts with a letter."
            )


def _is_label_text(text: str) -> bool:
    """https://cloud.google.com/pubsub/docs/create-topic-properties#labels"""
    is_short = len(text) <= MAX_LABEL_CHARACTERS
    return is_short and text == text.lower() and all(character.isalnum() or character in "_-" for character in text)


def check_page_size(request: Proto) -> None:
    if request.page_size < 0:
        raise invalid(f"Invalid page_size given: ({request.page_size}): expected at least 0 (0: the default).")


def check_range(name: str, value: float, minimum: int, maximum: int) -> None:
    if not minimum <= value <= maximum:
        raise invalid(f"Invalid {name} given: ({name}={value:g}): expected {minimum} to {maximum}.")


def check_supported(config: Proto, lacking: Mapping[str, str]) -> None:
    """Refuse the fields in ``lacking`` that are set; an empty message such as PushConfig counts as unset."""
    for field, value in config.ListFields():
        if field.name in lacking and (field.message_type is None or field.is_repeated or value.ByteSize()):
            raise unimplemented(lacking[field.name])


TOPIC_LACKS = {
    "schema_settings": "schemas",
    "ingestion_data_source_settings": "ingestion from other sources",
    "message_transforms": "message transforms",
}
SUBSCRIPTION_LACKS = {
    "push_config": "push delivery",
    "bigquery_config": "BigQuery subscriptions",
    "cloud_storage_config": "Cloud Storage subscriptions",
    "bigtable_config": "Bigtable subscriptions",
    "filter": "filters",
    "enable_exactly_once_delivery": "exactly-once delivery",
    "message_transforms": "message transforms",
}
TOPIC_FIXED = {"name", "kms_key_name"}
_RETENTION = (600, 31 * 86_400)
SUBSCRIPTION_FIXED = {"name", "topic", "enable_message_ordering", "filter"}


def check_topic(config: Proto) -> None:
    check_supported(config, TOPIC_LACKS)
    check_labels(config)
    if config.HasField("message_retention_duration"):
        check_range("message_retention_duration", seconds_of(config.message_retention_duration), *_RETENTION)


def complete_subscription(config: Proto) -> None:
    """Fill in the defaults of the service, and validate the given fields."""
    check_supported(config, SUBSCRIPTION_LACKS)
    check_labels(config)
    config.state = _Subscription.ACTIVE
    config.ack_deadline_seconds = config.ack_deadline_seconds or 10
    check_range("ack_deadline_seconds", config.ack_deadline_seconds, 10, 600)
    if not config.HasField("message_retention_duration"):
        config.message_retention_duration.CopyFrom(duration_pb2.Duration(seconds=7 * 86_400))
    check_range("message_retention_duration", seconds_of(config.message_retention_duration), *_RETENTION)
    if not config.HasField("expiration_policy"):
        config.expiration_policy.ttl.CopyFrom(duration_pb2.Duration(seconds=31 * 86_400))
    if config.expiration_policy.HasField("ttl") and seconds_of(config.expiration_policy.ttl) < 86_400:
        raise invalid(f"Invalid ttl given: (ttl={seconds_of(config.expiration_policy.ttl):g}): expected at least 86400.")
    if config.HasField("retry_policy"):
        check_range("minimum_backoff", seconds_of(config.retry_policy.minimum_backoff), 0, 600)
        check_range("maximum_backoff", seconds_of(config.retry_policy.maximum_backoff), 0, 600)
    if config.HasField("dead_letter_policy"):
        policy = config.dead_letter_policy
        policy.max_delivery_attempts = policy.max_delivery_attempts or 5
        check_range("max_delivery_attempts", policy.max_delivery_attempts, 5, 100)


def merge(stored: Proto, update: Proto, paths: Collection[str], fixed: Collection[str]) -> Proto:
    """A copy of ``stored`` with the top-level fields ``paths`` from ``update``."""
    fields = set(stored.DESCRIPTOR.fields_by_name)
    if not paths or not fields.issuperset(paths) or not set(paths).isdisjoint(fixed):
        allowed = ", ".join(sorted(fields.difference(fixed)))
        raise invalid(f"Invalid update_mask provided: ({', '.join(paths)}): expected one or more of {allowed}.")
    merged, part = type(stored)(), type(stored)()
    merged.CopyFrom(stored)
    part.CopyFrom(update)
    for field in fields:
        (merged if field in paths else part).ClearField(field)
    merged.MergeFrom(part)
    return merged


def check_publish(request: Proto) -> None:
    if not 1 <= len(request.messages) <= MAX_MESSAGES:
        raise invalid(f"The request has {len(request.messages)} messages: expected 1 to {MAX_MESSAGES}.")
    if len({message.ordering_key for message in request.messages}) > 1:
        raise invalid("In a single publish request all messages must have the same ordering key, or none.")
    if len(request.messages[0].ordering_key.encode()) > MAX_ORDERING_KEY_BYTES:
        raise invalid(f"The ordering key is too long: expected up to {MAX_ORDERING_KEY_BYTES} bytes.")
    for message in request.messages:
        if message.attributes:
            _check_attributes(message.attributes)
        elif not message.data:
            raise invalid("A message in the publish request is empty: expected non-empty data or at least one attribute.")


def _check_attributes(attributes: Mapping[str, str]) -> None:
    if len(attributes) > MAX_ATTRIBUTES:
        raise invalid(f"A message has {len(attributes)} attributes: expected up to {MAX_ATTRIBUTES}.")
    for key, value in attributes.items():
        # Google's own clients set attributes that start with googclient_, for example for tracing.
        is_reserved = key[:4].lower() == "goog" and not key.startswith("googclient_")
        if not 1 <= len(key.encode()) <= MAX_ATTRIBUTE_KEY_BYTES or is_reserved:
            raise invalid(
                f"Invalid attribute key '{key}': expected 1 to {MAX_ATTRIBUTE_KEY_BYTES} bytes, not starting with 'goog'."
            )
        if len(value.encode()) > MAX_ATTRIBUTE_VALUE_BYTES:
            raise invalid(f"The value of attribute '{key}' is too long: expected up to {MAX_ATTRIBUTE_VALUE_BYTES} bytes.")


def check_ack_ids(request: Proto) -> None:
    if not request.ack_ids:
        raise invalid("No ack ids specified.")
