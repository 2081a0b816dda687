"""A step's function and its batch in; its result out, without the messages that make it raise an exception: those become dead
letters.

Only a bug of ours makes a pure step raise, because invalid messages are refused by value. Such a message would be redelivered
forever and block the stream. So the batch is halved until the message is isolated, it is refused as ``processing_error`` with the
traceback, and the others continue. Errors of services (no answer, a missing table) are not about a message: they pass through,
and the bundle is redelivered.
"""

from __future__ import annotations

import base64
import logging
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError
from grpc import RpcError

from ecomflow.contract.codec import Codec, DecodedBatch, TypedBatch, halves
from ecomflow.contract.columns import TableRows
from ecomflow.contract.dead_letter import UNKNOWN_STREAM, DeadLetter, dead_letter, original
from ecomflow.contract.events import Message
from ecomflow.contract.modelling import Facts, model
from ecomflow.errors import EcomflowError

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

# How often a message is tried by itself, after every larger batch that held it has failed.
ATTEMPTS = 2
MAX_MESSAGE = 300
MAX_TRACEBACK = 8_000
_FRAMES = 25

# A service or the machine (OSError: sockets, files) is ill, and no message can be blamed for it.
_NOT_THE_MESSAGE = (EcomflowError, GoogleAPIError, GoogleAuthError, RpcError, OSError)


class Failure(NamedTuple):
    """What was raised: the exception's type and words on one line, and the traceback; both bounded, without folders of this
    machine.
    """

    error: str
    traceback: str


def isolate(
    batch: T, work: Callable[[T], R], halves: Callable[[T], tuple[T, T] | None], refuse: Callable[[T, Failure], R]
) -> Iterator[R]:
    """``work(batch)``; where that raises, the same of its halves, in their order, and ``refuse`` of a part that has none.

    A batch of n messages with one that raises is worked on in some 2 log2(n) parts. Raises what speaks of a service
    (EcomflowError and Google's own errors), and whatever is no Exception.
    """
    failure = None
    for _ in range(ATTEMPTS):
        try:
            result = work(batch)
        except _NOT_THE_MESSAGE:
            raise
        except Exception as error:  # noqa: BLE001  # the only place that does: a bug must not stop the stream forever
            parts = halves(batch)  # only now: batches that work are never halved
            if parts is not None:
                for part in parts:
                    yield from isolate(part, work, halves, refuse)
                return
            failure = _failure(error)
        else:
            yield result
            return
    if failure is not None:
        kind, frames = failure.error.partition(":")[0], failure.traceback.rpartition("\n")[0]
        # Without the exception's words, which may quote the message: no log has a value of one.
        log.error("A message is refused as a processing_error: %s; for details see its dead letter.\n%s", kind, frames)
        yield refuse(batch, failure)


# Decode: a list of messages becomes a DecodedBatch.


def decoded_parts(codec: Codec, messages: list[Message], now: datetime) -> Iterator[DecodedBatch]:
    """``messages`` decoded, in as few parts as it takes for one that makes ``codec`` raise to be refused alone."""
    return isolate(
        messages, lambda part: codec.decode(part, now), _halves, lambda part, failure: _refuse_messages(part, failure, now)
    )


def _refuse_messages(messages: list[Message], failure: Failure, now: datetime) -> DecodedBatch:
    """Of stream unknown: a message that can't be decoded has no type."""
    letters = [failed_letter(message, "decode", failure, None, now) for message in messages]
    return DecodedBatch([TypedBatch(UNKNOWN_STREAM, None, [], [], [], letters, [])], Counter())


# Model: a TypedBatch becomes Facts.


def modelled_parts(batch: TypedBatch, now: datetime) -> Iterator[Facts]:
    """The facts of ``batch``, in as few parts as it takes for an event that makes the model raise to be refused alone."""
    return isolate(
        batch, lambda part: model(part, now), _halves_of_events, lambda part, failure: _refuse_events(part, failure, now)
    )


def _halves_of_events(batch: TypedBatch) -> tuple[TypedBatch, TypedBatch] | None:
    """``batch`` in two parts, what was refused with the first; None where it has but one event."""
    if len(batch.events) < 2:
        return None
    left, right = halves(batch)
    return left, right


def _refuse_events(batch: TypedBatch, failure: Failure, now: datetime) -> Facts:
    letters = [
        failed_letter(message, "model", failure, batch.stream, now, event_id)
        for message, event_id in zip(batch.messages, batch.event_ids, strict=True)
    ]
    return Facts(batch.stream, [], [], [], [*batch.refused, *letters], Counter())


# Write: rows of a table become appends, letters become uploads.


def halves_of_rows(part: TableRows) -> tuple[TableRows, TableRows] | None:
    """``part`` in two, the rows of a message together; None where they are all of one."""
    sources = np.unique(part.sources)
    if len(sources) < 2:
        return None
    cut = int(np.searchsorted(part.sources, sources[len(sources) // 2]))
    return (
        TableRows(part.table, part.rows.slice(0, cut), part.sources[:cut]),
        TableRows(part.table, part.rows.slice(cut), part.sources[cut:]),
    )


def without_sources(part: TableRows, sources: set[int]) -> TableRows:
    """``part`` without the rows of the messages at ``sources``."""
    if not sources:
        return part
    keep = ~np.isin(part.sources, list(sources))
    return TableRows(part.table, part.rows.filter(pa.array(keep)), part.sources[keep])


def replace_letter(letter: DeadLetter, failure: Failure) -> DeadLetter:
    """In the place of a letter that can't be written: the same message, in base64."""
    return msgspec.structs.replace(
        letter,
        reason="processing_error",
        error=f"$: expected a dead letter ({letter.reason}) that can be written, but {failure.error}",
        payload=base64.b64encode(original(letter)[0]).decode("ascii"),
        payload_encoding="base64",
        traceback=failure.traceback,
    )


def halves_of_letters(letters: list[DeadLetter]) -> tuple[list[DeadLetter], list[DeadLetter]] | None:
    """``letters`` in two parts; None where there is but one."""
    return _halves(letters)


def failed_letter(
    message: Message, step: str, failure: Failure, event_type: str | None, now: datetime, event_id: str | None = None
) -> DeadLetter:
    """The dead letter of a message that makes ``step`` raise."""
    error = f"$: expected a message that the {step} step can process, but it raised {failure.error}"
    return dead_letter(message, "processing_error", error, event_type, now, failure.traceback, event_id)


def _failure(error: Exception) -> Failure:
    words = _words(error)
    frames = "".join(traceback.format_tb(error.__traceback__, -_FRAMES))
    shown = f"Traceback (most recent call last):\n{_FOLDERS.sub(_ENTRY, frames)}"[: MAX_TRACEBACK - len(words) - 1]
    return Failure(words, f"{shown.rstrip()}\n{words}")


def _words(error: Exception) -> str:
    """The exception's type and words as traceback prints them, on one line, with no folder of this machine in it and nothing that
    a terminal obeys: they may quote the message.
    """
    printed = traceback.format_exception_only(error)[-1][: 4 * MAX_MESSAGE]
    words = " ".join(_PATH.sub("", printed).split())
    line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in words)
    return line if len(line) <= MAX_MESSAGE else f"{line[: MAX_MESSAGE - 1]}…"


# A frame names its file: the package and the module are enough.
_FOLDERS = re.compile(r'^  File "(?:[^"\n]*?/)??((?:[^"/\n]+/){0,2}[^"/\n]+)"', re.MULTILINE)
_ENTRY = r'  File "\1"'
# The folders of an absolute path.
_PATH = re.compile(r"(?<![\w/.:])/(?:[^/\s'\"]+/)+")


def _halves(items: list[T]) -> tuple[list[T], list[T]] | None:
    middle = len(items) // 2
    return (items[:middle], items[middle:]) if middle else None
