"""How deeply a JSON document is nested: its bytes in, whether that is more than the contract allows out. Pure.

A decoder's own bound is Python's recursion limit, which differs between Python versions and with where the decoder is called.
This bound is the same for everything that judges a message.
"""

from __future__ import annotations

import re
from itertools import accumulate

MAX_DEPTH = 500
"""The most levels of objects and arrays within each other: what BigQuery's JSON type takes.
https://cloud.google.com/bigquery/docs/json-data
"""

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_BRACKETS = b"[]{}"
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_STEP = [0] * 256
for _opening in b"[{":
    _STEP[_opening] = 1
for _closing in b"]}":
    _STEP[_closing] = -1


def is_too_deep(document: bytes, most: int = MAX_DEPTH) -> bool:
    """Whether ``document`` is nested more than ``most`` levels. Looks closely only at one with that many brackets."""
    if len(document) <= most or document.count(b"[") + document.count(b"{") <= most:
        return False
    brackets = _STRING.sub(b"", document).translate(None, _ALL_BUT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > most
