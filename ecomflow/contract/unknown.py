"""What a contract does not name, kept: a document's bytes in, its unknown part as JSON and its known part, out. Pure.

The unknown part has the shape of the document: ``{"coupon": "X", "items": [{}, {"colour": "red"}]}``, an element of a list for
each of its elements, so that merging it with the known part gives the document again. Every value keeps the exact text
of the message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import Raw

from ecomflow.contract.generated import compiled
from ecomflow.contract.reasons import shown_name
from ecomflow.contract.structs import Learned
from ecomflow.contract.tree import Node, json_path

# The fields that a type's decoder learns; each costs a look at each event. Beyond it, an event with another one takes the slow
# path.
MAX_LEARNED = 32
_MAX_LEARNED_KEY = 256

# The unknown part and the paths of its fields; None and an empty list if there is none.
Kept = tuple[Any, list[str]]

_encode = msgspec.json.Encoder(decimal_format="number").encode
_members = msgspec.json.Decoder(dict[str, Raw]).decode
_elements = msgspec.json.Decoder(list[Raw]).decode


class Split(msgspec.Struct):
    """A document in two. ``known`` and ``unknown`` are JSON, ``unknown`` None if there is nothing; ``paths`` has one for each
    unknown field, a name cut short; ``keys`` the place and the key of each, in full.
    """

    known: bytes
    unknown: bytes | None
    paths: list[str]
    keys: list[tuple[tuple[str, ...], str]]


def split(data: bytes, root: Node) -> Split:
    """``data``, an object that a judge has passed, in its known and its unknown part."""
    found = Split(b"", None, [], [])
    known, unknown = _split_object(Raw(data), root, found)
    found.known = _encode(known)
    found.unknown = _encode(unknown) if unknown else None
    return found


def _split_object(raw: Raw, node: Node, found: Split) -> tuple[dict[str, Any], dict[str, Any]]:
    children = {child.key: child for child in node.children}
    known: dict[str, Any] = {}
    unknown: dict[str, Any] = {}
    for key, part in _members(raw).items():
        child = children.get(key)
        if child is None:
            unknown[key] = part
            found.paths.append(f"{json_path(node.keys)}.{shown_name(key)}")
            found.keys.append((node.keys, key))
        elif child.kind == "value":
            known[key] = part
        else:
            known[key], rest = _split_part(part, child, found)
            if rest:
                unknown[key] = rest
    return known, unknown


def _split_part(raw: Raw, node: Node, found: Split) -> tuple[Any, Any]:
    start = memoryview(raw)[:1].tobytes()
    if node.kind == "object" and start == b"{":
        return _split_object(raw, node, found)
    if node.kind == "list" and start == b"[" and node.children[0].kind == "object":
        parts = [_split_part(element, node.children[0], found) for element in _elements(raw)]
        return [known for known, _ in parts], [rest or {} for _, rest in parts] if any(rest for _, rest in parts) else None
    return raw, None


def learn(learned: Learned, keys: list[tuple[tuple[str, ...], str]]) -> Learned:
    """``learned`` and those of ``keys`` that a decoder can learn, as far as there is room."""
    room = MAX_LEARNED - sum(map(len, learned.values()))
    more = dict(learned)
    for place, key in keys:
        if room > 0 and key not in more.get(place, ()) and _is_learnable(key):
            more[place] = (*more.get(place, ()), key)
            room -= 1
    return more


def _is_learnable(key: str) -> bool:
    """A decoder compares keys as they are in the message, so keys with characters that JSON escapes can't be learned."""
    return len(key) <= _MAX_LEARNED_KEY and not any(character in '"\\' or character < " " for character in key)


class Found(msgspec.Struct):
    """The unknown part of each event of a batch, JSON whose UTF-8 is not looked at, or None; and how often each path occurs."""

    parts: list[bytes | None]
    counts: Counter[str]


Keeper = Callable[[list[Any]], Found]


def keeper_of(root: Node, learned: Learned) -> Keeper | None:
    """How the unknown parts of events with ``learned`` fields are read; None where nothing is learned."""
    if not any(learned.values()):
        return None
    return _flat_keeper(learned[root.keys]) if set(learned) == {root.keys} else _deep_keeper(root, learned)


def _flat_keeper(keys: tuple[str, ...]) -> Keeper:
    """For fields of the event itself, as a producer mostly adds them: the text of each is put behind its key.

    An event with all of them costs one joining; one with some, a call.
    """
    names = [f"u{index}" for index in range(len(keys))]
    starts = [_encode(key) + b":" for key in keys]
    pieces = {f"k{index}": (b"{" if index == 0 else b",") + start for index, start in enumerate(starts)} | {"end": b"}"}
    paths = [f"$.{shown_name(key)}" for key in keys]
    members = list(zip(names, starts, paths, strict=True))
    whole = "".join(f"k{index}, event.u{index}, " for index in range(len(keys)))
    having_all = " and ".join(f"event.{name} is not None" for name in names)
    having_none = " and ".join(f"event.{name} is None" for name in names)
    either = f"join(({whole}end)) if {having_all} else None if {having_none} else some(event)"
    read = compiled(f"lambda events, some: [{either} for event in events]", join=b"".join, **pieces)

    def keep(events: list[Any]) -> Found:
        counted: list[str] = []
        calls = 0

        def some(event: Any) -> bytes:
            nonlocal calls
            calls += 1
            texts = []
            for name, start, path in members:
                if (raw := getattr(event, name)) is not None:
                    texts.append(b"%b%b" % (start, raw))
                    counted.append(path)
            return b"{%b}" % b",".join(texts)

        parts = read(events, some)
        having = len(list(filter(None, parts))) - calls
        counts = Counter(counted)
        for path in paths:
            counts[path] += having
        return Found(parts, counts)

    return keep


def _deep_keeper(root: Node, learned: Learned) -> Keeper:
    condition = " or ".join(_conditions("event", root, learned))
    read = compiled(f"lambda events, some: [some(event) if {condition} else None for event in events]")
    keep_one = _keeper(root, learned)

    def keep(events: list[Any]) -> Found:
        counted: list[str] = []

        def some(event: Any) -> bytes:
            part, paths = keep_one(event)
            counted.extend(paths)
            return _encode(part)

        return Found(read(events, some), Counter(counted))

    return keep


def _has_learned(node: Node, learned: Learned) -> bool:
    return bool(learned.get(node.keys)) or any(_has_learned(child, learned) for child in node.children)


def _keeper(node: Node, learned: Learned) -> Callable[[Any], Kept]:
    own = [
        (f"u{index}", key, f"{json_path(node.keys)}.{shown_name(key)}") for index, key in enumerate(learned.get(node.keys, ()))
    ]
    inner = [
        (child.attribute, child.key, _keeper(child, learned) if child.kind == "object" else _list_keeper(child, learned))
        for child in node.children
        if _has_learned(child, learned)
    ]

    def keep(event: Any) -> Kept:
        found: dict[str, Any] = {}
        paths: list[str] = []
        for attribute, key, path in own:
            if (value := getattr(event, attribute)) is not None:
                found[key] = value
                paths.append(path)
        for attribute, key, of_part in inner:
            part = getattr(event, attribute)
            if part is not None:
                rest, more = of_part(part)
                if more:
                    found[key] = rest
                    paths += more
        return found, paths

    return keep


def _list_keeper(node: Node, learned: Learned) -> Callable[[Any], Kept]:
    keep = _keeper(node.children[0], learned)

    def of_list(elements: Any) -> Kept:
        parts = [keep(element) for element in elements]
        return [rest for rest, _ in parts], [path for _, paths in parts for path in paths]

    return of_list


def _conditions(at: str, node: Node, learned: Learned) -> Iterator[str]:
    for index, _ in enumerate(learned.get(node.keys, ())):
        yield f"{at}.u{index} is not None"
    for child in node.children:
        if not _has_learned(child, learned):
            continue
        value = f"{at}.{child.attribute}"
        guard = f"{value} is not None and " if child.optional else ""
        if child.kind == "object":
            inner = " or ".join(_conditions(value, child, learned))
            yield f"({guard}({inner}))"
        else:
            inner = " or ".join(_conditions("line", child.children[0], learned))
            yield f"({guard}[None for line in {value} if {inner}])"
