"""Dead letters in; those that now pass go back to the topic, and their lines move to ``replayed/`` in the bucket.

``plan_replay`` runs each selected dead letter through the pipeline's own steps. ``replay`` then processes the objects in an order
that loses nothing, wherever it is interrupted: publish and wait for Pub/Sub's confirmation; copy the published lines to
``replayed/``; only then remove them from ``dlq/``. If it is interrupted in between, a dead letter is published but still in
``dlq/``. The next replay publishes it again with the same ``event_id``, and the ``_unique`` views show it once.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import MAXYEAR, UTC, datetime, timedelta
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any

import msgspec

from ecomflow.config import Settings, contracts_of, envelope_of
from ecomflow.contract.codec import Codec, portions
from ecomflow.contract.dead_letter import REPLAYED, ROOT, DeadLetter, from_line, original
from ecomflow.contract.events import Message
from ecomflow.deadletters import store
from ecomflow.deadletters.fingerprints import path_of
from ecomflow.deadletters.merge_patch import patched
from ecomflow.deadletters.store import DeadLetterFilter, OnProgress, Unreadable, is_chosen
from ecomflow.errors import AccessError, ConfigError
from ecomflow.gcp.publishing import InFlight, RequestSender, interruptible_pool, publish_error, topic_sender
from ecomflow.gcp.target import Target
from ecomflow.infra import check_owner
from ecomflow.pipeline.quarantine import decoded_parts, modelled_parts

if TYPE_CHECKING:
    from google.api_core.exceptions import Forbidden
    from google.cloud.storage import Bucket

# Replayed lines are in replayed/<stream>/<YYYY>/<MM>/<DD>/<HH>/<mm>/<name of the object>-<digest of the lines>.jsonl
# The attribute that counts how often an event was replayed.
ATTEMPT = "ecomflow_replay_attempt"

# Dataflow drops an event whose id it has seen within ten minutes as a repeat, even if it refused the first one.
# https://cloud.google.com/dataflow/docs/concepts/streaming-with-cloud-pubsub#efficient_deduplication
REMEMBERED = timedelta(minutes=15)

# https://cloud.google.com/pubsub/quotas#resource_limits
_MAX_MESSAGES = 1000
_MAX_BYTES = 10_000_000
_MAX_ATTRIBUTES = 100
_REQUEST_BYTES = 9_000_000
_FRAMING = 16  # bytes of protobuf around a message or an attribute, at most

_AT_ONCE = 4
_TIMEOUT = 30.0


class PlannedObject(msgspec.Struct, frozen=True):
    """An object, and the digests of those of its lines that will be published. ``kept_until`` as in ``StoredObject``."""

    name: str
    generation: int
    lines: frozenset[bytes]
    kept_until: datetime | None = None


class ReplayPlan(msgspec.Struct, frozen=True):
    """What a replay would do. ``failing`` counts by path (``$.status``), and ``examples`` has an error for each; ``too_recent``:
    how many Dataflow would drop; ``unreadable``: objects and lines under ``dlq/`` that are not dead letters.
    """

    chosen: int
    passing: int
    failing: dict[str, int]
    examples: dict[str, str]
    too_recent: int
    objects: list[PlannedObject]
    unreadable: list[Unreadable]


class ReplaySummary(msgspec.Struct, frozen=True):
    """``published``: how many Pub/Sub has confirmed. ``left``: dead letters whose object was changed by another program
    meanwhile. They stay where they were, published or not; another replay resolves them.
    """

    published: int
    moved: int
    left: int
    interrupted: bool = False


def plan_replay(
    target: Target,
    selected: DeadLetterFilter,
    *,
    patch: Mapping[str, Any] | None = None,
    limit: int | None = None,
    now: datetime | None = None,
    on_progress: OnProgress | None = None,
) -> ReplayPlan:
    """What a replay of the newest ``limit`` dead letters of ``selected`` would do, with the JSON Merge Patch ``patch`` applied.

    Changes nothing. Raises the same errors as ``store.objects``.
    """
    moment = now or datetime.now(UTC)
    before = _dropped_after(target.settings, moment)
    codec = Codec(contracts_of(target.settings), envelope_of(target.settings))
    plan = ReplayPlan(0, 0, {}, {}, 0, [], [])
    found = store.objects(target, selected, unreadable=plan.unreadable, on_progress=on_progress)
    for stored in found:
        chosen = [(number, letter) for number, letter in stored.letters if is_chosen(letter, selected)]
        if limit is not None:
            chosen = sorted(chosen, key=lambda one: one[1].failed_at, reverse=True)[: limit - plan.chosen]
        old = [(number, letter) for number, letter in chosen if before is None or letter.failed_at < before]
        errors = refusals([letter for _, letter in old], codec, moment, patch)
        passing = frozenset(_digest(stored.lines[number]) for at, (number, _) in enumerate(old) if at not in errors)
        plan = _counted(plan, len(chosen), len(chosen) - len(old), len(old) - len(errors), errors.values())
        if passing:
            plan.objects.append(PlannedObject(stored.name, stored.generation, passing, stored.kept_until))
        if plan.chosen == limit:
            break
    return plan


def refusals(
    letters: list[DeadLetter], codec: Codec, now: datetime, patch: Mapping[str, Any] | None = None
) -> dict[int, tuple[str, str]]:
    """The dead letters that a pipeline with ``codec`` would refuse at ``now``: (path, error) by index in ``letters``. Pure."""
    refused: dict[int, tuple[str, str]] = {}
    messages = []
    for at, letter in enumerate(letters):
        message = message_of(letter, patch)
        if isinstance(message, str):
            refused[at] = ("$", message)
        else:  # the index replaces the message id, to identify the message in the result
            messages.append(msgspec.structs.replace(message, message_id=str(at)))
    for part in portions(messages):
        for again in _refused_by_steps(part, codec, now):
            refused[int(again.message_id or 0)] = (path_of(again), again.error)
    return refused


def message_of(letter: DeadLetter, patch: Mapping[str, Any] | None = None) -> Message | str:
    """The message to publish for ``letter``: its bytes, patched if ``patch`` is given, and its attributes, with the original
    ``event_id`` and the attempt counter incremented. An error as a string if there can be no message.
    """
    try:
        data, attributes = original(letter)
    except ValueError as error:
        return f"$: expected a payload in valid {letter.payload_encoding}: {error}"
    changed = data if patch is None else patched(data, patch)
    if changed is None:
        return "$: expected a JSON document that can be patched, got none"
    event_id = attributes.get("event_id") or letter.message_id
    if not event_id:
        return "$: expected a dead letter with an event_id or a message_id, got one with neither"
    attributes = {**attributes, "event_id": event_id, ATTEMPT: str(_attempts(attributes) + 1)}
    message = Message(changed, attributes, letter.message_id or "", 0)
    if len(attributes) > _MAX_ATTRIBUTES or _size(message) > _MAX_BYTES:
        return f"$: expected at most {_MAX_ATTRIBUTES} attributes and {_MAX_BYTES:,} bytes with what a replay adds, got more"
    return message


def replay(
    target: Target,
    plan: ReplayPlan,
    *,
    patch: Mapping[str, Any] | None = None,
    on_progress: Callable[[int], None] | None = None,
    now: datetime | None = None,
) -> ReplaySummary:
    """Publish the dead letters that pass in ``plan`` (made with the same ``patch``), and move them to ``replayed/``.

    Nothing is deleted before it has a copy. ``on_progress`` gets the number of events published so far. After Ctrl-C the current
    objects have half a second to finish, and the summary has ``interrupted``; whatever is still in ``dlq/`` can be replayed
    again. Raises ConfigError if another project owns the bucket or an object must not be deleted yet, NotFoundError (topic or
    bucket), AccessError, UnavailableError and EcomflowError, whose message says how many events were published.
    """
    check_owner(target)
    check_movable(plan.objects, target.settings.bucket_name, now or datetime.now(UTC))
    with topic_sender(target) as sender, store.reading(target):
        mover = _Mover(target.bucket, sender, patch, on_progress or (lambda _: None))
        is_interrupted = False
        try:
            _move_all(mover, plan.objects)
        except KeyboardInterrupt:
            is_interrupted = True
        except _PublishError as error:
            raise publish_error(error.failure, target, mover.published) from error.failure
        return ReplaySummary(mover.published, mover.moved, mover.left, is_interrupted)


def check_movable(objects: list[PlannedObject], bucket: str, now: datetime) -> None:
    """Raises ConfigError if Cloud Storage keeps any of ``objects`` beyond ``now``: published, they would stay in ``dlq/``, and
    each replay would publish them again. Pure.
    """
    kept = [planned.kept_until for planned in objects if planned.kept_until is not None and planned.kept_until > now]
    if not kept:
        return
    held = sum(until.year == MAXYEAR for until in kept)
    dates = [until for until in kept if until.year != MAXYEAR]
    why = [f"{held:,} are held"] if held else []
    why += [f"{len(dates):,} under a retention policy, until {max(dates):%Y-%m-%d %H:%M} UTC at the latest"] if dates else []
    raise ConfigError(
        f"Nothing was published: {len(kept):,} of {len(objects):,} objects can't be moved out of {ROOT}/ in bucket {bucket},"
        f" because Cloud Storage keeps them ({', '.join(why)}).",
        f"Wait, release the holds, or remove the policy: gcloud storage buckets update gs://{bucket} --clear-retention-period",
    )


def _move_all(mover: _Mover, objects: list[PlannedObject]) -> None:
    with interruptible_pool(_AT_ONCE) as (pool, in_flight):
        # A few at a time, so that nothing more is started after a failure.
        waiting = iter(objects)
        while page := list(islice(waiting, _AT_ONCE)):
            list(pool.map(lambda planned: mover.move(planned, in_flight), page))


class _PublishError(Exception):
    """An error of Pub/Sub, not of the bucket."""

    def __init__(self, failure: Exception) -> None:
        super().__init__(failure)
        self.failure = failure


class _Mover:
    """Publishes the lines of an object and moves them to ``replayed/``. Thread-safe."""

    def __init__(
        self, bucket: Bucket, sender: RequestSender, patch: Mapping[str, Any] | None, report: Callable[[int], None]
    ) -> None:
        self._bucket, self._sender, self._patch, self._report = bucket, sender, patch, report
        self._lock = Lock()
        self.published = self.moved = self.left = 0

    def move(self, planned: PlannedObject, in_flight: InFlight) -> None:
        with in_flight.task():
            lines = self._read(planned)
            chosen = [line for line in lines if _digest(line) in planned.lines]
            if chosen:
                self._publish(chosen)
                self._copy(planned.name, chosen)
            out = bool(chosen) and self._take_out(planned, [line for line in lines if _digest(line) not in planned.lines])
            with self._lock:
                self.moved += len(chosen) if out else 0
                self.left += 0 if out else len(planned.lines)

    def _read(self, planned: PlannedObject) -> list[bytes]:
        """The object's lines; none if it has changed since the plan was made."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        blob = self._bucket.blob(planned.name)
        try:
            content = blob.download_as_bytes(raw_download=True, if_generation_match=planned.generation, timeout=_TIMEOUT)
        except (NotFound, PreconditionFailed):
            return []
        return bytes(content).splitlines()

    def _publish(self, lines: list[bytes]) -> None:
        from ecomflow.gcp.errors import FAILURES

        for request in _requests(message_of(from_line(line), self._patch) for line in lines):
            try:
                self._sender.send((message.data, message.attributes) for message in request)
            except FAILURES as error:
                raise _PublishError(error) from error
            with self._lock:
                self.published += len(request)
                self._report(self.published)

    def _copy(self, name: str, lines: list[bytes]) -> None:
        """The name contains a digest of the lines, so an existing copy, from an interrupted replay, is identical."""
        from google.api_core.exceptions import Forbidden, PreconditionFailed

        content = _joined(lines)
        digest = hashlib.sha256(content).hexdigest()[:16]
        stem = name.removeprefix(f"{ROOT}/").removesuffix(".jsonl")
        blob = self._bucket.blob(f"{REPLAYED}/{stem}-{digest}.jsonl")
        try:
            blob.upload_from_string(content, "application/x-ndjson", if_generation_match=0, timeout=_TIMEOUT)
        except PreconditionFailed:
            return
        except Forbidden as error:
            raise self._cannot_move(error) from error

    def _cannot_move(self, error: Forbidden) -> AccessError:
        """Not left to the translation: by now the events are published, and the user must know."""
        sentence = f"Replayed dead letters can't be moved to {REPLAYED}/ in bucket {self._bucket.name}: {error.message}"
        return AccessError(
            f"{sentence.rstrip('.')}. They are published, but still in {ROOT}/.",
            "Grant the role roles/storage.objectUser, or remove the hold or retention policy; then replay again.",
        )

    def _take_out(self, planned: PlannedObject, rest: list[bytes]) -> bool:
        """Keep only ``rest`` in the object, or delete it if nothing is left. False if another program has changed it."""
        from google.api_core.exceptions import Forbidden, NotFound, PreconditionFailed

        blob, same = self._bucket.blob(planned.name), planned.generation
        try:
            if rest:
                blob.upload_from_string(_joined(rest), "application/x-ndjson", if_generation_match=same, timeout=_TIMEOUT)
            else:
                blob.delete(if_generation_match=same, timeout=_TIMEOUT)
        except NotFound:  # already deleted, by a first attempt whose response was lost or by another replay
            return not rest
        except PreconditionFailed:
            return False
        except Forbidden as error:
            raise self._cannot_move(error) from error
        return True


def _dropped_after(settings: Settings, now: datetime) -> datetime | None:
    """Dead letters refused after this time would be dropped as duplicates; None if nothing drops duplicates."""
    if settings.is_local or settings.dataflow.at_least_once or not settings.dataflow.id_attribute:
        return None
    return now - REMEMBERED


def _refused_by_steps(messages: list[Message], codec: Codec, now: datetime) -> Iterator[DeadLetter]:
    """The dead letters that the pipeline's steps before the write would make of ``messages``."""
    for decoded in decoded_parts(codec, messages, now):
        for batch in decoded.parts:
            for facts in modelled_parts(batch, now):
                yield from facts.refused


def _counted(plan: ReplayPlan, chosen: int, too_recent: int, passing: int, errors: Iterable[tuple[str, str]]) -> ReplayPlan:
    failing = Counter(plan.failing)
    for path, error in errors:
        failing[path] += 1
        plan.examples.setdefault(path, error)
    return msgspec.structs.replace(
        plan,
        chosen=plan.chosen + chosen,
        passing=plan.passing + passing,
        failing=dict(failing.most_common()),
        too_recent=plan.too_recent + too_recent,
    )


def _attempts(attributes: Mapping[str, str]) -> int:
    text = attributes.get(ATTEMPT, "")
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _requests(messages: Iterable[Message | str]) -> Iterator[list[Message]]:
    """``messages`` in requests within Pub/Sub's limits. The plan has already left out those that are errors."""
    request: list[Message] = []
    size = 0
    for message in messages:
        assert isinstance(message, Message)
        if request and (len(request) == _MAX_MESSAGES or size + _size(message) > _REQUEST_BYTES):
            yield request
            request, size = [], 0
        request.append(message)
        size += _size(message)
    if request:
        yield request


def _size(message: Message) -> int:
    attributes = sum(len(name.encode()) + len(value.encode()) + _FRAMING for name, value in message.attributes.items())
    return len(message.data) + attributes + _FRAMING


def _joined(lines: list[bytes]) -> bytes:
    return b"\n".join(lines) + b"\n"


def _digest(line: bytes) -> bytes:
    return hashlib.sha256(line).digest()
