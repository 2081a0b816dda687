"""The name of a field in; ids that come again, so that tables can be joined, out.

Fields of one name share their ids, whichever event they stand in: the events of any contract tell of the shop's customers and
products, and a refund of an order that was generated shortly before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from ecomflow.generator.shop import CUSTOMER_IDS, PRODUCT_IDS, WAREHOUSES

Id = str | int
_POOL = 100
_RECENT = 200
_FIRST_NUMBER = 1001
_OF_THE_SHOP: dict[str, tuple[str, ...]] = {
    "customer_id": CUSTOMER_IDS,
    "user_id": CUSTOMER_IDS,
    "product_id": PRODUCT_IDS,
    "warehouse_id": WAREHOUSES,
}


def is_id(name: str) -> bool:
    """Whether a field called so holds an id."""
    return name == "id" or name.endswith("_id")


class Ids:
    """The ids of the events of one run. ``random`` is a source of its own: events of another run have other new ids."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._recent: dict[str, deque[Id]] = {}

    def recent(self, name: str) -> deque[Id]:
        """The newest ids under ``name``; whoever makes one adds it."""
        return self._recent.setdefault(name, deque(maxlen=_RECENT))

    def new(self, name: str, is_text: bool) -> Callable[[], Id]:
        """Makes ids that no event has had."""
        recent, random, prefix = self.recent(name), self._random, _prefix(name)

        def make() -> Id:
            made: Id = f"{prefix}-{random.getrandbits(64):016x}" if is_text else random.getrandbits(48)
            recent.append(made)
            return made

        return make

    def known(self, name: str, is_text: bool, random: Random, fits: Callable[[Any], bool]) -> Callable[[], Id] | None:
        """Draws ids that other events have or share; None where none ``fits``."""
        recent = self.recent(name)
        pool = tuple(one for one in _pool(name, is_text) if fits(one))
        if not pool:
            return None

        def draw() -> Id:
            if recent and fits(found := recent[int(random.random() * len(recent))]):
                return found
            return pool[int(random.random() * len(pool))]

        return draw


def _pool(name: str, is_text: bool) -> tuple[Id, ...]:
    if not is_text:
        return tuple(range(_FIRST_NUMBER, _FIRST_NUMBER + _POOL))
    return _OF_THE_SHOP.get(name) or tuple(f"{_prefix(name)}-{number:05d}" for number in range(1, _POOL + 1))


def _prefix(name: str) -> str:
    """``STO`` for ``store_id``."""
    return (name.removesuffix("_id").replace("_", "")[:3] or "id").upper()
