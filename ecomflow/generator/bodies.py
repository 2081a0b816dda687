"""The contracts in force in; who makes the bodies of each, out: the hand-written shop where it can, else the types.

The shop's bodies are coherent: totals are sums, stock moves follow orders, the steps of a session follow one another. They are
used for its own three contracts, and for one that replaces one of them where they pass it, completed by the fields that are new.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any, NamedTuple, Protocol

from ecomflow.contract.language import Contract
from ecomflow.contract.loading import SHOP, shop_contracts
from ecomflow.contract.tree import tree_of
from ecomflow.generator.fakes import BodyMaker, part_maker
from ecomflow.generator.ids import Ids
from ecomflow.generator.messages import Body
from ecomflow.generator.moments import Window
from ecomflow.generator.shop import Shop, draw_vocabulary
from ecomflow.generator.values import Sources

# Bodies of the shop that are tried with a contract that replaces one of its own.
_TRIED = 50


class Bodies(Protocol):
    """Makes valid bodies; ``make_full`` those in which every list has an element and every object is there."""

    def make(self) -> Body: ...

    def make_full(self) -> Body: ...


class Run(NamedTuple):
    """A run of the generator. ``seed`` decides the events, ``identity`` their ids; ``kind`` is valid or invalid, whose events are
    independent of each other.
    """

    window: Window
    seed: int
    identity: str
    kind: str


def makers_of(contracts: tuple[Contract, ...], run: Run) -> list[Bodies]:
    """The maker of each of ``contracts``. Raises ConfigError where a field has no value that could be made."""
    ids = Ids(Random(f"ids of any contract {run.identity} {run.kind}"))
    shop = _shop(run) if any(contract.event in SHOP for contract in contracts) else None
    return [_maker(contract, run, ids, shop) for contract in contracts]


@cache
def builtin(event: str) -> Contract:
    """The shop's own contract of ``event``."""
    return shop_contracts([event])[0]


def _shop(run: Run) -> Shop:
    return Shop(draw_vocabulary(), run.window, seed=f"{run.seed} {run.kind}", identity=f"{run.identity} {run.kind}")


def _maker(contract: Contract, run: Run, ids: Ids, shop: Shop | None) -> Bodies:
    if shop is not None and contract.event in SHOP:
        if contract == builtin(contract.event):
            return _ShopBodies(shop, contract.event, ids)
        completed = _CompletedBodies(contract, run, ids, shop)
        if completed.pass_the_contract():
            return completed
    return _types(contract, run, ids)


def _types(contract: Contract, run: Run, ids: Ids) -> BodyMaker:
    return BodyMaker(contract, run.window, seed=f"{run.seed} {run.kind}", identity=f"{run.identity} {run.kind}", ids=ids)


class _ShopBodies:
    """The shop's own. Each of its containers is there in every body."""

    def __init__(self, shop: Shop, event: str, ids: Ids) -> None:
        make: Callable[[], Body] = getattr(shop, event)
        self.make = self.make_full = _remembering(make, ids.recent("order_id")) if event == "order" else make


def _remembering(make: Callable[[], Body], recent: deque[Any]) -> Callable[[], Body]:
    def make_order() -> Body:
        body = make()
        recent.append(body["order_id"])
        return body

    return make_order


class _CompletedBodies:
    """The shop's, with the fields that the contract has beside the shop's own; from the types where one does not pass."""

    def __init__(self, contract: Contract, run: Run, ids: Ids, shop: Shop) -> None:
        self._types = _types(contract, run, ids)
        self._shop = _ShopBodies(shop, contract.event, ids)
        self._trial = _ShopBodies(_shop(run._replace(kind="trial")), contract.event, Ids(Random(0)))
        known = {child.key for child in tree_of(builtin(contract.event)).children}
        sources = Sources(Random(f"{run.seed} {run.kind} {contract.event} beside"), ids, run.window, run.identity)
        self._beside = part_maker(contract, tree_of(contract), sources, known)

    def pass_the_contract(self) -> bool:
        """Whether all of some bodies do."""
        return all(self._types.judge.takes(self._completed(self._trial, is_full=False)) for _ in range(_TRIED))

    def make(self) -> Body:
        body = self._completed(self._shop, is_full=False)
        return body if self._types.judge.takes(body) else self._types.make()

    def make_full(self) -> Body:
        body = self._completed(self._shop, is_full=True)
        return body if self._types.judge.takes(body) else self._types.make_full()

    def _completed(self, shop: _ShopBodies, is_full: bool) -> Body:
        return {**shop.make(), **self._beside(is_full)}
