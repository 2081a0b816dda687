"""A dead letter in, its fingerprint out: event type, path and rule, which are the same for all dead letters with one cause.

The path has no indices, and the rule has no values from the message: ``$.items[3].quantity: expected int >= 1, got 0`` becomes
the path ``$.items[].quantity`` and the rule ``expected int >= 1``. Pure.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

from ecomflow.contract.dead_letter import DeadLetter, path_and_rule

# Producers and BigQuery choose these texts, so the length of a group's name is limited.
_MAX_TYPE, _MAX_RULE = 64, 160

_INDEX = re.compile(r"\[\d+\]")
# Parts that change with the date or with the size of the order.
_VARIABLE = (
    (re.compile(r"\d{4}-\d\d-\d\d"), "<date>"),
    (re.compile(r"at most \d+ items with a header of \d+ bytes"), "fewer items"),
)
# Messages of services and exceptions can quote values and name rows.
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")
_DIGITS = re.compile(r"\d+")
_FREE_TEXT_REASONS = ("rejected_by_bigquery", "processing_error")


class Fingerprint(msgspec.Struct, frozen=True):
    """``id``: 10 hexadecimal digits of the hash of the other three fields."""

    id: str
    event_type: str | None
    path: str
    rule: str


def fingerprint(letter: DeadLetter) -> Fingerprint:
    """The fingerprint of ``letter``."""
    path, rule = path_of(letter), _rule_of(letter)
    event_type = None if letter.event_type is None else letter.event_type[:_MAX_TYPE]
    digest = hashlib.sha256(msgspec.json.encode([event_type, path, rule])).hexdigest()[:10]
    return Fingerprint(digest, event_type, path, rule)


def path_of(letter: DeadLetter) -> str:
    """The path of the error without indices; ``$`` (the whole event) if the error has no path."""
    return _INDEX.sub("[]", path_and_rule(letter.error)[0])


def _rule_of(letter: DeadLetter) -> str:
    rule = path_and_rule(letter.error)[1].partition(", got ")[0]
    for pattern, shown in _VARIABLE:
        rule = pattern.sub(shown, rule)
    if letter.reason in _FREE_TEXT_REASONS:
        rule = _DIGITS.sub("N", _QUOTED.sub("'…'", rule))
    return rule if len(rule) <= _MAX_RULE else f"{rule[: _MAX_RULE - 1]}…"
