"""A simulated shop: a fixed vocabulary and a seed in; valid event bodies (plain dicts) of the contract out.

Faker provides only the vocabulary, once per process and always the same, so that every run has the same customers and products;
the events come from a seeded source. Stock moves follow orders, and the steps of a session follow one another.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from datetime import datetime, timedelta
from functools import cache
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from ecomflow.generator.messages import Body
from ecomflow.generator.moments import Window, first_day, pick_moment, written

if TYPE_CHECKING:
    from faker import Faker

# Orders and sessions begin at least this long before a window ends, so that the stock moves and steps that follow are in it too.
_TAIL = timedelta(hours=3)
_VOCABULARY_SEED = 20251201
_CUSTOMERS, _PRODUCTS, _OPEN_SESSIONS, _OPEN_MOVES = 300, 60, 12, 60
_SESSION_STEPS_MAX = 30
CUSTOMER_IDS = tuple(f"CUS-{number:05d}" for number in range(1, _CUSTOMERS + 1))
PRODUCT_IDS = tuple(f"SKU-{number:05d}" for number in range(1, _PRODUCTS + 1))

# Locale of the names, country of the address, share of the customers.
_COUNTRIES = (
    ("de_DE", "Germany", 30),
    ("en_US", "United States", 20),
    ("fr_FR", "France", 13),
    ("en_GB", "United Kingdom", 12),
    ("es_ES", "Spain", 8),
    ("ja_JP", "Japan", 7),
    ("sv_SE", "Sweden", 6),
    ("pt_BR", "Brazil", 4),
)
# The providers of Faker that are used: loading all of them takes three times as long.
_PROVIDERS = [f"faker.providers.{name}" for name in ("address", "color", "internet", "person", "user_agent")]
# Kind of product, minimum and maximum price in whole currency units.
_KINDS = (
    ("espresso cups", 12, 48),
    ("desk lamp", 25, 140),
    ("rucksack", 40, 180),
    ("notebook", 3, 19),
    ("headphones", 30, 320),
    ("wool blanket", 35, 160),
    ("kitchen knife", 15, 210),
    ("running shoes", 55, 190),
    ("teapot", 18, 95),
    ("bicycle light", 9, 70),
)
WAREHOUSES = ("WH-BERLIN", "WH-LYON", "WH-RENO", "WH-大阪")
_STATUSES = ("delivered", "shipped", "processing", "pending", "cancelled", "returned")
_STATUS_WEIGHTS = tuple(accumulate((55, 15, 10, 8, 7, 5)))
_LINES_WEIGHTS = tuple(accumulate((45, 25, 15, 10, 5)))
_PLATFORMS = ("web", "mobile", "tablet")
_PLATFORM_WEIGHTS = tuple(accumulate((50, 40, 10)))
# What may follow an activity; a repeated entry is more likely. A session ends with logout.
_NEXT_ACTIVITY = {
    "login": ("view_product",),
    "view_product": ("view_product",) * 4 + ("add_to_cart",) * 4 + ("logout",) * 2,
    "add_to_cart": ("view_product",) * 4 + ("checkout",) * 5 + ("remove_from_cart",),
    "remove_from_cart": ("view_product",) * 2 + ("logout",),
    "checkout": ("logout",) * 4 + ("view_product",),
}


class Customer(msgspec.Struct, frozen=True):
    """A customer, with a user agent for each platform in ``agents``."""

    customer_id: str
    name: str
    street: str
    city: str
    country: str
    ip_address: str
    agents: dict[str, str]


class Product(msgspec.Struct, frozen=True):
    """A product; ``price`` is ``price_cents`` as the digits of a JSON number (1990: ``19.90``)."""

    product_id: str
    name: str
    price_cents: int
    price: msgspec.Raw
    warehouse_id: str


class Vocabulary(msgspec.Struct, frozen=True):
    customers: tuple[Customer, ...]
    products: tuple[Product, ...]


class _Session(msgspec.Struct):
    customer: Customer
    session_id: str
    platform: str
    shares_agent: bool
    shares_ip: bool
    moment: datetime
    activity: str | None = None
    steps: int = 0


class _Move(msgspec.Struct, frozen=True):
    product: Product
    quantity_change: int
    reason: str
    moment: datetime


def money(cents: int) -> msgspec.Raw:
    """A JSON number with two decimal places, built from its digits, without a binary float."""
    return msgspec.Raw(b"%d.%02d" % divmod(cents, 100))


@cache
def draw_vocabulary() -> Vocabulary:
    """The customers and products, the same in every process with the same version of Faker."""
    from faker import Faker

    source = Random(_VOCABULARY_SEED)
    fakers = {locale: Faker(locale, providers=_PROVIDERS) for locale, _, _ in _COUNTRIES}
    for faker in fakers.values():
        faker.seed_instance(_VOCABULARY_SEED)
    places = source.choices(_COUNTRIES, weights=[share for _, _, share in _COUNTRIES], k=_CUSTOMERS)
    customers = [_draw_customer(number, fakers[locale], country) for number, (locale, country, _) in enumerate(places, 1)]
    makers = source.choices(list(fakers.values()), k=_PRODUCTS)
    products = [_draw_product(number, source, maker, fakers["en_US"]) for number, maker in enumerate(makers, 1)]
    return Vocabulary(tuple(customers), tuple(products))


class Shop:
    """Generates one event body per call. The same ``seed``, ``identity`` and window give the same bodies in the same call order.

    ``seed`` determines the events, ``identity`` the ids of orders, stock moves and sessions. Shops whose bodies differ in any
    way, such as in their window, need different identities, so that no two events share an id.
    """

    def __init__(self, vocabulary: Vocabulary, window: Window, *, seed: str, identity: str) -> None:
        self._customers = vocabulary.customers
        self._products = vocabulary.products
        self._first_day = first_day(window)
        self._days = window.days
        self._day_seconds = (timedelta(days=1) - _TAIL).total_seconds()
        self._source = Random(f"events {seed}")
        self._ids = Random(f"ids {identity}")
        self._moves: deque[_Move] = deque(maxlen=_OPEN_MOVES)
        self._sessions = [self._open_session() for _ in range(_OPEN_SESSIONS)]

    def order(self) -> Body:
        """A new order by a recurring customer; its total is the sum of quantity times price."""
        draw = self._source.random
        customer, moment, status = self._pick_customer(), self._pick_moment(), self._pick(_STATUSES, _STATUS_WEIGHTS)
        lines = self._pick_lines()
        self._plan_moves(lines, status, moment)
        body: Body = {
            "order_id": f"ORD-{self._ids.getrandbits(64):016x}",
            "customer_id": customer.customer_id,
            "customer_name": customer.name,
            "order_date": written(moment, self._source),
            "status": status,
            "items": [
                {"product_id": p.product_id, "product_name": p.name, "quantity": quantity, "price": p.price}
                for p, quantity in lines
            ],
            "shipping_address": {"street": customer.street, "city": customer.city, "country": customer.country},
            "total_amount": money(sum([p.price_cents * quantity for p, quantity in lines])),
        }
        if draw() < 0.06:
            del body["customer_name"]
        return body

    def inventory(self) -> Body:
        """A stock move: usually one caused by an earlier order, else a restock or damaged goods."""
        move = self._moves.popleft() if self._moves and self._source.random() < 0.8 else self._unasked_move()
        return {
            "inventory_id": f"INV-{self._ids.getrandbits(64):016x}",
            "product_id": move.product.product_id,
            "warehouse_id": move.product.warehouse_id,
            "quantity_change": move.quantity_change,
            "reason": move.reason,
            "timestamp": written(move.moment, self._source),
        }

    def user_activity(self) -> Body:
        """The next step of one of the open sessions; a session that has ended is replaced by a new one."""
        place = int(self._source.random() * _OPEN_SESSIONS)
        if self._sessions[place].activity == "logout":
            self._sessions[place] = self._open_session()
        session = self._sessions[place]
        self._advance(session)
        body: Body = {"user_id": session.customer.customer_id, "activity_type": session.activity}
        if session.shares_ip:
            body["ip_address"] = session.customer.ip_address
        if session.shares_agent:
            body["user_agent"] = session.customer.agents[session.platform]
        body["timestamp"] = written(session.moment, self._source)
        body["metadata"] = {"session_id": session.session_id, "platform": session.platform}
        return body

    def _plan_moves(self, lines: list[tuple[Product, int]], status: str, moment: datetime) -> None:
        if status in ("cancelled", "pending"):
            return
        for product, quantity in lines:
            self._moves.append(_Move(product, -quantity, "sale", self._later(moment, 60, 3600)))
            if status == "returned":
                self._moves.append(_Move(product, quantity, "return", self._later(moment, 3600, 10_800)))

    def _unasked_move(self) -> _Move:
        product, moment = self._pick_product(), self._pick_moment()
        if self._source.random() < 0.85:
            return _Move(product, 5 * (1 + int(self._source.random() * 8)), "restock", moment)
        return _Move(product, -1 - int(self._source.random() * 3), "damage", moment)

    def _open_session(self) -> _Session:
        draw = self._source.random
        session_id = f"ses-{self._ids.getrandbits(64):016x}"
        platform = self._pick(_PLATFORMS, _PLATFORM_WEIGHTS)
        return _Session(self._pick_customer(), session_id, platform, draw() < 0.95, draw() < 0.92, self._pick_moment())

    def _advance(self, session: _Session) -> None:
        session.steps += 1
        if session.activity is None:
            session.activity = "login"
            return
        options = _NEXT_ACTIVITY[session.activity]
        last = session.steps >= _SESSION_STEPS_MAX
        session.activity = "logout" if last else options[int(self._source.random() * len(options))]
        session.moment = self._later(session.moment, 3, 180)

    def _pick_lines(self) -> list[tuple[Product, int]]:
        """Distinct products, usually few, each with its quantity."""
        draw = self._source.random
        count = self._pick((1, 2, 3, 4, 5), _LINES_WEIGHTS)
        products = dict.fromkeys([int(draw() ** 1.5 * _PRODUCTS) for _ in range(count)])
        return [(self._products[number], 1 + int(draw() ** 3 * 6)) for number in products]

    def _pick_customer(self) -> Customer:
        return self._customers[int(self._source.random() ** 1.5 * _CUSTOMERS)]

    def _pick_product(self) -> Product:
        return self._products[int(self._source.random() ** 1.5 * _PRODUCTS)]

    def _pick(self, options: tuple[Any, ...], cumulated_weights: tuple[int, ...]) -> Any:
        # The same draw as Random.choices, without its list, in a quarter of the time.
        return options[bisect(cumulated_weights, self._source.random() * cumulated_weights[-1], 0, len(options) - 1)]

    def _pick_moment(self) -> datetime:
        """A moment in the window, before its tail."""
        return pick_moment(self._source, self._first_day, self._days, self._day_seconds)

    def _later(self, moment: datetime, shortest: int, longest: int) -> datetime:
        """A time after ``moment``, by at least ``shortest`` and less than ``longest`` seconds."""
        return moment + timedelta(seconds=shortest + int(self._source.random() * (longest - shortest)))


def _draw_customer(number: int, faker: Faker, country: str) -> Customer:
    # Not faker.user_agent() or firefox(): they contain dates up to today, so the vocabulary would change every day.
    agents = {
        "web": f"Mozilla/5.0 ({faker.windows_platform_token()}; rv:128.0) Gecko/20100101 Firefox/128.0",
        "mobile": f"Mozilla/5.0 (Linux; {faker.android_platform_token()}; Mobile) Chrome/126.0.0.0 Mobile Safari/537.36",
        "tablet": f"Mozilla/5.0 (Linux; {faker.android_platform_token()}; Tablet) Chrome/126.0.0.0 Safari/537.36",
    }
    return Customer(
        customer_id=CUSTOMER_IDS[number - 1],
        name=faker.name(),
        street=faker.street_address().strip().replace("\n", ", "),
        city=faker.city(),
        country=country,
        ip_address=faker.ipv6() if number % 5 == 0 else faker.ipv4_public(),
        agents=agents,
    )


def _draw_product(number: int, source: Random, maker: Faker, english: Faker) -> Product:
    kind, lowest, highest = _KINDS[number % len(_KINDS)]
    cents = source.randrange(lowest, highest) * 100 + source.choice((0, 50, 90, 95, 99))
    name = f"{maker.last_name()} {kind}, {english.color_name()}"
    return Product(PRODUCT_IDS[number - 1], name, cents, money(cents), source.choice(WAREHOUSES))
