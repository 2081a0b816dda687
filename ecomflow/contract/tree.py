"""A contract in; the shape of its messages, a tree of JSON objects, lists and values, out. Pure.

The language knows fields by names and lets a ``path`` lead through objects that it does not name; the decoder knows objects and
their keys. Each node has an attribute of its own making (``f0``, ``f1``), so that no text of a file or of a message is ever
in generated code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from ecomflow.contract.language import SCALAR_TYPES, Contract, Field, Place, RecordType, records_of

NodeKind = Literal["value", "object", "list"]


class Node(msgspec.Struct, kw_only=True):
    """One place in a message. ``keys`` lead to it from the event, ``[]`` standing for each element of a list.

    ``field`` is what the contract says of it; None for an object on a field's ``path``, and for a value that is the envelope's.
    ``optional``: may be missing or null; a list's element may not. A list has one child, its element, without a key.
    """

    key: str
    keys: tuple[str, ...]
    attribute: str
    kind: NodeKind
    optional: bool
    field: Field | None
    children: list[Node] = msgspec.field(default_factory=list)


def tree_of(contract: Contract, of_envelope: Iterable[tuple[str, ...]] = ()) -> Node:
    """The event as an object. ``of_envelope`` are the keys of what the envelope says within it: known, and in no column."""
    root = Node(key="", keys=(), attribute="", kind="object", optional=False, field=None)
    _grow(root, contract.fields, records_of(contract.records))
    for keys in of_envelope:
        _add_value(root, keys)
    _make_optional(root)
    return root


def json_path(keys: tuple[str, ...]) -> str:
    """``$.items[].price``."""
    return "$" + "".join(key if key == "[]" else f".{key}" for key in keys)


def walk(node: Node) -> Iterator[Node]:
    """``node`` and all within it, outer before inner, in the order of the contract."""
    yield node
    for child in node.children:
        yield from walk(child)


def nodes_to(root: Node, place: Place) -> list[Node]:
    """The nodes on the way to ``place``, the root left out; a list is followed by its element."""
    found: list[Node] = []
    at = root
    for field in place.fields:
        for key in field.path:
            at = next(child for child in at.children if child.key == key)
            found.append(at)
        if at.kind == "list":
            at = at.children[0]
            found.append(at)
    return found


def _grow(parent: Node, fields: tuple[Field, ...], records: dict[str, RecordType]) -> None:
    is_personal = parent.field is not None and parent.field.personal
    for field in fields:
        if is_personal:  # so is all that is in a personal record
            field = msgspec.structs.replace(field, personal=True)
        at = parent
        for key in field.path[:-1]:
            at = _object_at(at, key)
        _add(at, field, records)
    _make_optional(parent)


def _make_optional(parent: Node) -> None:
    """An object on a path within ``parent`` may be missing if everything in it may."""
    for node in reversed(list(walk(parent))):  # inner before outer
        if node.kind == "object" and node.field is None and node is not parent:
            node.optional = all(child.optional for child in node.children)


def _add_value(root: Node, keys: tuple[str, ...]) -> None:
    at = root
    for key in keys[:-1]:
        at = _object_at(at, key)
        if at.kind != "object":
            return  # a field holds it
    if keys[-1] not in [child.key for child in at.children]:
        attribute = f"f{len(at.children)}"
        at.children.append(Node(key=keys[-1], keys=keys, attribute=attribute, kind="value", optional=True, field=None))


def _object_at(parent: Node, key: str) -> Node:
    for child in parent.children:
        if child.key == key:
            return child
    made = Node(
        key=key, keys=(*parent.keys, key), attribute=f"f{len(parent.children)}", kind="object", optional=False, field=None
    )
    parent.children.append(made)
    return made


def _add(parent: Node, field: Field, records: dict[str, RecordType]) -> None:
    keys = (*parent.keys, field.path[-1])
    kind: NodeKind = "list" if field.type == "list" else "object" if field.type == "record" else "value"
    node = Node(
        key=field.path[-1],
        keys=keys,
        attribute=f"f{len(parent.children)}",
        kind=kind,
        optional=field.optional,
        field=field,
    )
    parent.children.append(node)
    if kind == "list":
        of = field.of if field.of in SCALAR_TYPES else "record"
        written_as = "string" if of == "string" else "number"
        element = msgspec.structs.replace(field, type=of, optional=False, min_length=0, written_as=written_as)
        inner: NodeKind = "value" if field.of in SCALAR_TYPES else "object"
        node.children.append(Node(key="", keys=(*keys, "[]"), attribute="", kind=inner, optional=False, field=element))
        node = node.children[0]
    if field.of in records:
        _grow(node, records[str(field.of)].fields, records)
