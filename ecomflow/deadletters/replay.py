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
from ecomflow.contract.events import EVENT_ID, Message
from ecomflow.deadletters import store
from ecomflow.deadletters.fingerprints import path_of
from ecomflow.deadletters.merge_patch import patched
from ecomflow.deadletters.store import DeadLetterFilter, OnProgress, Unreadable, is_chosen
from ecomflow.errors import AccessError, ConfigError
from ecomflow.gcp.publishing import (
    InFlight,
    RequestSender,
    interruptible_pool,
    publish_error,
    requests_of,
    topic_sender,
    unpublishable,
    without_tracing,
)
from ecomflow.gcp.target import Target
from ecomflow.infra import check_owner
from ecomflow.pipeline.quarantine import decoded_parts, modelled_parts

if TYPE_CHECKING:
    from google.api_core.exceptions import Forbidden

# Replayed lines are in replayed/<stream>/<YYYY>/<MM>/<DD>/<HH>/<mm>/<name of the object>-<digest of the lines>.jsonl
# The attribute that counts how often an event was replayed.
ATTEMPT = "ecomflow_replay_attempt"

# Dataflow drops an event whose id it has seen within ten minutes as a repeat, even if it refused the first one.
# https://cloud.google.com/dataflow/docs/concepts/streaming-with-cloud-pubsub#efficient_deduplication
REMEMBERED = timedelta(minutes=15)

_AT_ONCE = 4


class PlannedObject(msgspec.Struct, frozen=True):
    """An object, and the digests of those of its lines that will be published. ``kept_until`` as in ``StoredObject``."""

    name: str
    generation: int
    lines: frozenset[bytes]
    kept_until: datetime | None = None


class Unpublishable(msgspec.Struct, frozen=True):
    """A dead letter that passes, but that Pub/Sub does not take, and why. It stays where it is."""

    event_id: str | None
    object_name: str
    error: str


class ReplayPlan(msgspec.Struct, frozen=True):
    """What a replay would do. ``failing`` counts by path (``$.status``), and ``examples`` has an error for each; ``too_recent``:
    how many Dataflow would drop; ``unpublishable``: those that would pass, but that Pub/Sub would refuse; ``unreadable``: objects
    and lines under ``dlq/`` that are not dead letters.
    """

    chosen: int
    passing: int
    failing: dict[str, int]
    examples: dict[str, str]
    too_recent: int
    objects: list[PlannedObject]
    unreadable: list[Unreadable]
    unpublishable: list[Unpublishable] = []


class ReplaySummary(msgspec.Struct, frozen=True):
    """``published``: how many Pub/Sub has confirmed. ``left``: dead letters whose object was changed by another program
    meanwhile. They stay where they were, published or not; another replay resolves them. ``unpublishable``: those that Pub/Sub
    has refused, for reasons that the plan did not know.
    """

    published: int
    moved: int
    left: int
    interrupted: bool = False
    unpublishable: tuple[Unpublishable, ...] = ()


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
        refused = refusals([letter for _, letter in old], codec, moment, patch)
        passed = [number for at, (number, _) in enumerate(old) if at not in refused.failing | refused.unpublishable]
        passing = frozenset(_digest(stored.lines[number]) for number in passed)
        plan.unpublishable.extend(_unpublishable(old[at][1], stored.name, error) for at, error in refused.unpublishable.items())
        plan = _counted(plan, len(chosen), len(chosen) - len(old), len(passed), refused.failing.values())
        if passing:
            plan.objects.append(PlannedObject(stored.name, stored.generation, passing, stored.kept_until))
        if plan.chosen == limit:
            break
    return plan


class Refusals(msgspec.Struct, frozen=True):
    """Dead letters by their index: path and error of those that a pipeline would refuse again; of those that it would take, the
    error of what Pub/Sub would not.
    """

    failing: dict[int, tuple[str, str]]
    unpublishable: dict[int, str]


def refusals(letters: list[DeadLetter], codec: Codec, now: datetime, patch: Mapping[str, Any] | None = None) -> Refusals:
    """Which of ``letters`` a pipeline with ``codec`` would refuse at ``now``, and which can't get there. Pure."""
    failing: dict[int, tuple[str, str]] = {}
    messages = []
    for at, letter in enumerate(letters):
        message = message_of(letter, patch)
        if isinstance(message, str):
            failing[at] = ("$", message)
        else:  # the index replaces the message id, to identify the message in the result
            messages.append(msgspec.structs.replace(message, message_id=str(at)))
    for part in portions(messages):
        for again in _refused_by_steps(part, codec, now):
            failing[int(again.message_id or 0)] = (path_of(again), again.error)
    passed = ((at, message) for message in messages if (at := int(message.message_id)) not in failing)
    return Refusals(failing, {at: error for at, message in passed if (error := unpublishable(message)) is not None})


def message_of(letter: DeadLetter, patch: Mapping[str, Any] | None = None) -> Message | str:
    """The message to publish for ``letter``: its bytes, patched if ``patch`` is given, its ordering key, and its attributes, with
    the original ``event_id`` and the attempt counter incremented. An error as a string if there can be no message.
    """
    try:
        data, attributes = original(letter)
    except ValueError as error:
        return f"$: expected a payload in valid {letter.payload_encoding}: {error}"
    changed = data if patch is None else patched(data, patch)
    if changed is None:
        return "$: expected a JSON document that can be patched, got none"
    event_id = attributes.get(EVENT_ID) or letter.message_id
    if not event_id:
        return "$: expected a dead letter with an event_id or a message_id, got one with neither"
    attributes = {**without_tracing(attributes), EVENT_ID: event_id, ATTEMPT: str(_attempts(attributes) + 1)}
    return Message(changed, attributes, letter.message_id or "", 0, letter.ordering_key or "")


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
        mover = _Mover(target, sender, patch, on_progress or (lambda _: None))
        is_interrupted = False
        try:
            _move_all(mover, plan.objects)
        except KeyboardInterrupt:
            is_interrupted = True
        except _PublishError as error:
            raise publish_error(error.failure, target, mover.published) from error.failure
        return ReplaySummary(mover.published, mover.moved, mover.left, is_interrupted, tuple(mover.unpublishable))


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
        self, target: Target, sender: RequestSender, patch: Mapping[str, Any] | None, report: Callable[[int], None]
    ) -> None:
        from ecomflow.infra.requests import storage_options

        self._bucket, self._options = target.bucket, storage_options(target.storage_service)
        self._sender, self._patch, self._report = sender, patch, report
        self._lock = Lock()
        self.published = self.moved = self.left = 0
        self.unpublishable: list[Unpublishable] = []

    def move(self, planned: PlannedObject, in_flight: InFlight) -> None:
        with in_flight.task():
            lines = self._read(planned)
            chosen = [line for line in lines if _digest(line) in planned.lines]
            refused = self._publish(planned.name, chosen)
            published = [line for line in chosen if line not in refused]
            if published:
                self._copy(planned.name, published)
            gone = frozenset(published)
            out = bool(published) and self._take_out(planned, [line for line in lines if line not in gone])
            with self._lock:
                self.moved += len(published) if out else 0
                self.left += 0 if out else len(planned.lines) - len(refused)

    def _read(self, planned: PlannedObject) -> list[bytes]:
        """The object's lines; none if it has changed since the plan was made."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        blob = self._bucket.blob(planned.name)
        try:
            content = blob.download_as_bytes(raw_download=True, if_generation_match=planned.generation, **self._options)
        except (NotFound, PreconditionFailed):
            return []
        return bytes(content).splitlines()

    def _publish(self, name: str, lines: list[bytes]) -> frozenset[bytes]:
        """Publish ``lines`` of the object ``name``; returns those that Pub/Sub refuses."""
        letters = [from_line(line) for line in lines]
        messages = [_at(index, message_of(letter, self._patch)) for index, letter in enumerate(letters)]
        refused = {int(message.message_id): error for request in requests_of(messages) for message, error in self._send(request)}
        with self._lock:
            self.unpublishable += [_unpublishable(letters[index], name, error) for index, error in refused.items()]
        return frozenset(lines[index] for index in refused)

    def _send(self, request: list[Message]) -> Iterator[tuple[Message, str]]:
        """Publish ``request``; the messages that Pub/Sub refuses, with its words. It refuses requests as a whole, so they are
        halved until each of these messages is alone.
        """
        from google.api_core.exceptions import InvalidArgument

        from ecomflow.gcp.errors import FAILURES

        try:
            self._sender.send(request)
        except InvalidArgument as error:
            middle = len(request) // 2
            if not middle:
                yield request[0], f"Pub/Sub refuses it: {error.message}"
                return
            yield from self._send(request[:middle])
            yield from self._send(request[middle:])
        except FAILURES as error:
            raise _PublishError(error) from error
        else:
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
            blob.upload_from_string(content, "application/x-ndjson", if_generation_match=0, **self._options)
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
                blob.upload_from_string(_joined(rest), "application/x-ndjson", if_generation_match=same, **self._options)
            else:
                blob.delete(if_generation_match=same, **self._options)
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


def _at(index: int, message: Message | str) -> Message:
    """``message`` with ``index`` as its id, which Pub/Sub replaces. The plan has already left out those that are errors."""
    assert isinstance(message, Message)
    return msgspec.structs.replace(message, message_id=str(index))


def _unpublishable(letter: DeadLetter, name: str, error: str) -> Unpublishable:
    return Unpublishable(letter.event_id or letter.message_id, name, error)


def _joined(lines: list[bytes]) -> bytes:
    return b"\n".join(lines) + b"\n"


def _digest(line: bytes) -> bytes:
    return hashlib.sha256(line).digest()
