"""A JSON document's bytes and a JSON Merge Patch (RFC 7396) in, the patched bytes out. Pure.

Numbers keep their exact digits: integers become Python integers, and all other numbers are copied as text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ecomflow.contract.documents import no_json
from ecomflow.contract.nesting import MAX_DEPTH, is_too_deep
from ecomflow.errors import ConfigError

_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=lambda digits: msgspec.Raw(digits))
# Raised by decoding and encoding: bad syntax, an integer of more than 4,300 digits, bad UTF-8.
_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, OverflowError)


def merge_patch(target: Any, patch: Any) -> Any:
    """``target`` with ``patch`` applied: MergePatch of https://www.rfc-editor.org/rfc/rfc7396#section-2. Neither is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def patched(data: bytes, patch: Any) -> bytes | None:
    """The document in ``data`` with ``patch`` applied, as compact JSON; None if ``data`` is not valid JSON."""
    if is_too_deep(data):
        return None
    try:
        return msgspec.json.encode(merge_patch(_DECODER.decode(data), patch))
    except _ERRORS:
        return None


def read_patch(path: Path) -> Any:
    """The patch in a file. Raises ConfigError if the file can't be read or is not a JSON object."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"The patch {path} can't be read: {error.strerror}.", "Choose another file with --patch.") from error
    if is_too_deep(text):
        raise ConfigError(f"The patch {path}: expected at most {MAX_DEPTH} levels of objects, got more.", "Correct the file.")
    try:
        patch = _DECODER.decode(text)
    except _ERRORS as error:
        sentence = f"The patch {path}: expected a JSON object in UTF-8, got {no_json(text, error)}."
        raise ConfigError(sentence, "Correct the file.") from error
    if not isinstance(patch, dict):
        sentence = f"The patch {path} would replace each event completely: expected a JSON object with the fields to change."
        raise ConfigError(sentence, 'For example: {"status": "returned"}')
    return patch
