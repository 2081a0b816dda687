"""Dead letters in; those that the current contract takes out to the topic again, and aside in the bucket.

First ``plan_replay`` asks the pipeline's own steps about every chosen letter. Then ``replay`` takes the objects one by one, and
each in an order that loses nothing wherever it ends: publish and wait for Pub/Sub's word; copy the published lines to
``replayed/``; only then take them out of ``dlq/``. Ended in between, a letter is published, and lies in ``dlq/`` still; replayed
again it is the same ``event_id`` a second time, which the ``_unique`` views show once.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any

import msgspec

from ecomflow.config import Endpoints, Settings
from ecomflow.contract.dead_letter import REPLAYED, ROOT, DeadLetter, from_line, original
from ecomflow.contract.decode import decode_messages, portions
from ecomflow.contract.events import Message
from ecomflow.contract.rules import DEFAULT_ORDER_TOTALS, OrderTotals
from ecomflow.deadletters import store
from ecomflow.deadletters.fingerprints import path_of
from ecomflow.deadletters.merge_patch import patched
from ecomflow.deadletters.store import DeadLetterFilter, OnProgress, Unreadable, is_chosen
from ecomflow.errors import AccessError
from ecomflow.gcp.publishing import InHand, RequestSender, interruptible_pool, publish_error, topic_sender
from ecomflow.pipeline.model import model_facts
from ecomflow.pipeline.quarantine import halves_of_events, halves_of_messages, isolate, refuse_events, refuse_messages

if TYPE_CHECKING:
    from google.cloud.storage import Bucket

# Where replayed letters lie: replayed/<stream>/<YYYY>/<MM>/<DD>/<HH>/<mm>/<name of the object>-<digest of the lines>.jsonl
# The attribute that counts how often an event was replayed.
ATTEMPT = "ecomflow_replay_attempt"

# Dataflow takes an event whose id it has seen within ten minutes for a repeat, and drops it, also where the first was refused.
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
    """An object and those of its lines that are to be published, by their digests."""

    name: str
    generation: int
    lines: frozenset[bytes]


class ReplayPlan(msgspec.Struct, frozen=True):
    """What a replay would do. ``failing`` counts by path (``$.status``), ``examples`` has an error for each; ``too_recent`` are
    those that Dataflow would drop; ``unreadable`` what lies among the letters and is none.
    """

    chosen: int
    passing: int
    failing: dict[str, int]
    examples: dict[str, str]
    too_recent: int
    objects: list[PlannedObject]
    unreadable: list[Unreadable]


class ReplaySummary(msgspec.Struct, frozen=True):
    """``published`` is what Pub/Sub has confirmed. ``left``: letters whose object somebody else changed meanwhile, so that they
    lie where they were, published or not; a further replay settles them.
    """

    published: int
    moved: int
    left: int
    interrupted: bool = False


def plan_replay(
    settings: Settings,
    endpoints: Endpoints,
    selected: DeadLetterFilter,
    *,
    patch: Mapping[str, Any] | None = None,
    limit: int | None = None,
    now: datetime | None = None,
    on_progress: OnProgress | None = None,
) -> ReplayPlan:
    """What would become of the newest ``limit`` letters of ``selected``, each with the JSON Merge Patch ``patch`` applied.

    Changes nothing. Raises as ``deadletters.objects`` does.
    """
    moment = now or datetime.now(UTC)
    before = _dropped_after(settings, moment)
    plan = ReplayPlan(0, 0, {}, {}, 0, [], [])
    found = store.objects(settings, endpoints, selected, unreadable=plan.unreadable, on_progress=on_progress)
    for stored in found:
        chosen = [(number, letter) for number, letter in stored.letters if is_chosen(letter, selected)]
        if limit is not None:
            chosen = sorted(chosen, key=lambda one: one[1].failed_at, reverse=True)[: limit - plan.chosen]
        old = [(number, letter) for number, letter in chosen if before is None or letter.failed_at < before]
        errors = refusals([letter for _, letter in old], moment, patch, settings.order_totals)
        passing = frozenset(_digest(stored.lines[number]) for at, (number, _) in enumerate(old) if at not in errors)
        plan = _counted(plan, len(chosen), len(chosen) - len(old), len(old) - len(errors), errors.values())
        if passing:
            plan.objects.append(PlannedObject(stored.name, stored.generation, passing))
        if plan.chosen == limit:
            break
    return plan


def refusals(
    letters: list[DeadLetter],
    now: datetime,
    patch: Mapping[str, Any] | None = None,
    order_totals: OrderTotals = DEFAULT_ORDER_TOTALS,
) -> dict[int, tuple[str, str]]:
    """The letters that the pipeline would refuse at ``now``: (path, error) by their place in ``letters``. Pure."""
    refused: dict[int, tuple[str, str]] = {}
    messages = []
    for at, letter in enumerate(letters):
        message = message_of(letter, patch)
        if isinstance(message, str):
            refused[at] = ("$", message)
        else:  # its place in place of its message id, to be told apart in what comes back
            messages.append(msgspec.structs.replace(message, message_id=str(at)))
    for part in portions(messages):
        for again in _refused_by_steps(part, now, order_totals):
            refused[int(again.message_id or 0)] = (path_of(again), again.error)
    return refused


def message_of(letter: DeadLetter, patch: Mapping[str, Any] | None = None) -> Message | str:
    """The message to publish for ``letter``: its bytes, or those patched; its attributes, with the ``event_id`` that the event
    has had from the beginning and one more attempt. A sentence where there can be none.
    """
    try:
        data, attributes = original(letter)
    except ValueError as error:
        return f"$: expected a payload in {letter.payload_encoding}, got one that is none: {error}"
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
    settings: Settings,
    endpoints: Endpoints,
    plan: ReplayPlan,
    *,
    patch: Mapping[str, Any] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> ReplaySummary:
    """Publish what passes in ``plan``, made with the same ``patch``, and move it aside, never deleting what has no copy.

    ``on_progress`` gets the number of events published so far. Ctrl-C gives the objects in hand half a second, and returns the
    summary with ``interrupted``: what still lies in ``dlq/`` can be replayed again. Raises NotFoundError (topic or bucket),
    AccessError, UnavailableError and EcomflowError: what was published until then is counted in the message.
    """
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    with topic_sender(settings, endpoints) as sender, store.reading(settings, endpoints):
        mover = _Mover(store.bucket_of(settings, endpoints), sender, patch, on_progress or (lambda _: None))
        is_interrupted = False
        try:
            _move_all(mover, plan.objects)
        except KeyboardInterrupt:
            is_interrupted = True
        except _PublishError as error:
            cause = error.__cause__
            assert isinstance(cause, GoogleAPIError | GoogleAuthError)
            raise publish_error(cause, settings, endpoints, mover.published) from cause
        return ReplaySummary(mover.published, mover.moved, mover.left, is_interrupted)


def _move_all(mover: _Mover, objects: list[PlannedObject]) -> None:
    with interruptible_pool(_AT_ONCE) as (pool, in_hand):
        # A few at a time, so that after a failure nothing more is begun.
        waiting = iter(objects)
        while page := list(islice(waiting, _AT_ONCE)):
            list(pool.map(lambda planned: mover.move(planned, in_hand), page))


class _PublishError(Exception):
    """Its cause is an error of Pub/Sub, not of the bucket."""


class _Mover:
    """Publishes the lines of an object and moves them aside. Safe for several threads."""

    def __init__(
        self, bucket: Bucket, sender: RequestSender, patch: Mapping[str, Any] | None, report: Callable[[int], None]
    ) -> None:
        self._bucket, self._sender, self._patch, self._report = bucket, sender, patch, report
        self._lock = Lock()
        self.published = self.moved = self.left = 0

    def move(self, planned: PlannedObject, in_hand: InHand) -> None:
        with in_hand.piece():
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
        """The object's lines; none where it is no longer what was planned for."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        blob = self._bucket.blob(planned.name)
        try:
            content = blob.download_as_bytes(raw_download=True, if_generation_match=planned.generation, timeout=_TIMEOUT)
        except (NotFound, PreconditionFailed):
            return []
        return bytes(content).splitlines()

    def _publish(self, lines: list[bytes]) -> None:
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError

        for request in _requests(message_of(from_line(line), self._patch) for line in lines):
            try:
                self._sender.send((message.data, message.attributes) for message in request)
            except (GoogleAPIError, GoogleAuthError) as error:
                raise _PublishError from error
            with self._lock:
                self.published += len(request)
                self._report(self.published)

    def _copy(self, name: str, lines: list[bytes]) -> None:
        """The name tells the lines, so that a copy which is there already, from a replay that was cut off, is the same."""
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
            told = f"Replayed letters can't be moved aside in bucket {self._bucket.name}: {error.message}"
            raise AccessError(
                f"{told}. They are published and still in dlq/.", "Grant the role roles/storage.objectUser, then replay again."
            ) from error

    def _take_out(self, planned: PlannedObject, rest: list[bytes]) -> bool:
        """Leave ``rest`` in the object, or delete it where none is left. False where somebody else has changed it."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        blob, same = self._bucket.blob(planned.name), planned.generation
        try:
            if rest:
                blob.upload_from_string(_joined(rest), "application/x-ndjson", if_generation_match=same, timeout=_TIMEOUT)
            else:
                blob.delete(if_generation_match=same, timeout=_TIMEOUT)
        except NotFound:  # deleted already: by the first try of this call, whose answer was lost, or by another replay
            return not rest
        except PreconditionFailed:
            return False
        return True


def _dropped_after(settings: Settings, now: datetime) -> datetime | None:
    """The moment of refusal from which on a replayed event would be dropped as a repeat; None where nothing drops any."""
    if settings.is_local or settings.dataflow.at_least_once or not settings.dataflow.id_attribute:
        return None
    return now - REMEMBERED


def _refused_by_steps(messages: list[Message], now: datetime, order_totals: OrderTotals) -> Iterator[DeadLetter]:
    """The dead letters that the steps of the pipeline before the tables would make of ``messages``."""
    for decoded in isolate(
        messages,
        lambda part: decode_messages(part, now),
        halves_of_messages,
        lambda part, failure: refuse_messages(part, failure, now),
    ):
        for batch in decoded.streams.values():
            for facts in isolate(
                batch,
                lambda part: model_facts(part, now, order_totals),
                halves_of_events,
                lambda part, failure: refuse_events(part, failure, now),
            ):
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
    """``messages`` in requests that Pub/Sub takes. The plan has left out those that are sentences."""
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
