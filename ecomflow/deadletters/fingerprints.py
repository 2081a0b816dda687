"""A dead letter in, its fingerprint out: the event type, the rule and the path, alike for all that were refused for one cause.

The path has no indices and the rule none of the message's own values: ``$.items[3].quantity: expected int >= 1, got 0`` is the
path ``$.items[].quantity`` and the rule ``expected int >= 1``. Pure.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

from ecomflow.contract.dead_letter import DeadLetter, path_and_rule

# A producer, or BigQuery, chooses these words: a group's name must not grow with them.
_MAX_TYPE, _MAX_RULE = 64, 160

_INDEX = re.compile(r"\[\d+\]")
# What moves with the day and with the order's own size.
_MOVING = (
    (re.compile(r"\d{4}-\d\d-\d\d"), "<date>"),
    (re.compile(r"at most \d+ items with a header of \d+ bytes"), "fewer items"),
)
# A service's words, or an exception's, quote values and name rows as they like.
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")
_DIGITS = re.compile(r"\d+")
_IN_OTHERS_WORDS = ("rejected_by_bigquery", "processing_error")


class Fingerprint(msgspec.Struct, frozen=True):
    """``id``: 10 hexadecimal digits of the other three."""

    id: str
    event_type: str | None
    path: str
    rule: str


def fingerprint(letter: DeadLetter) -> Fingerprint:
    """What ``letter`` has in common with the others of its cause."""
    path, rule = path_of(letter), _rule_of(letter)
    event_type = None if letter.event_type is None else letter.event_type[:_MAX_TYPE]
    digest = hashlib.sha256(msgspec.json.encode([event_type, path, rule])).hexdigest()[:10]
    return Fingerprint(digest, event_type, path, rule)


def path_of(letter: DeadLetter) -> str:
    """Where in the event the error lies, indices left out; ``$``, the whole, where the error names no place."""
    return _INDEX.sub("[]", path_and_rule(letter.error)[0])


def _rule_of(letter: DeadLetter) -> str:
    rule = path_and_rule(letter.error)[1].partition(", got ")[0]
    for pattern, shown in _MOVING:
        rule = pattern.sub(shown, rule)
    if letter.reason in _IN_OTHERS_WORDS:
        rule = _DIGITS.sub("N", _QUOTED.sub("'…'", rule))
    return rule if len(rule) <= _MAX_RULE else f"{rule[: _MAX_RULE - 1]}…"
