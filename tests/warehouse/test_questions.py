"""The analysts' questions on the local warehouse, compared with results calculated in Python from the events themselves."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from google.cloud import bigquery

from ecomflow import infra, sql
from ecomflow.config import Endpoints, Settings
from ecomflow.gcp.clients import bigquery_client
from ecomflow.gcp.target import Target
from tests.support.contract import FACT_TABLES, written_columns

pytestmark = pytest.mark.stack

DAY = date(2025, 12, 1)


class Item(NamedTuple):
    product: str
    quantity: int
    price: str


class Order(NamedTuple):
    """An order event; ``copies`` is how often its message was delivered and written."""

    event_id: str
    order_id: str
    customer: str
    name: str | None
    at: datetime
    status: str
    country: str
    items: tuple[Item, ...]
    copies: int = 1


class Movement(NamedTuple):
    event_id: str
    product: str
    change: int
    reason: str
    copies: int = 1


class Activity(NamedTuple):
    event_id: str
    user: str
    session: str
    kind: str
    at: datetime
    copies: int = 1


def at(day: date, hour: int, minute: int = 0) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)


PEN, CUP = Item("pen", 3, "0.1"), Item("cup", 1, "12.345678901")
NEXT_DAY = DAY + timedelta(days=1)

ORDERS = (
    # One order in three events: its last one counts for sales, with an item that the first did not have.
    Order("e1", "o1", "ann", None, at(DAY, 8), "pending", "DE", (PEN,)),
    Order("e2", "o1", "ann", "Ann", at(DAY, 9), "delivered", "DE", (PEN, CUP), copies=2),
    Order("e3", "o1", "ann", "Ann", at(DAY, 9), "delivered", "DE", (PEN, CUP)),
    Order("e4", "o2", "bob", None, at(DAY, 10), "delivered", "DE", (CUP, CUP), copies=3),
    Order("e5", "o3", "ann", "Ann", at(DAY, 11), "delivered", "FR", (Item("hat", 2, "20"),)),
    # Delivered on the day, returned on the next.
    Order("e6", "o4", "cy", "Cy", at(DAY, 12), "delivered", "FR", (PEN, PEN)),
    Order("e7", "o4", "cy", "Cy", at(NEXT_DAY, 7), "returned", "FR", (PEN,), copies=2),
    Order("e8", "o5", "cy", None, at(NEXT_DAY, 8), "delivered", "FR", (CUP,)),
    Order("e9", "o6", "dee", "Dee", at(DAY, 13), "cancelled", "IT", (CUP,)),
)
MOVEMENTS = (
    Movement("m1", "pen", 100, "restock", copies=2),
    Movement("m2", "pen", -3, "sale"),
    Movement("m3", "pen", 3, "return", copies=3),
    Movement("m4", "pen", 2, "return"),
    Movement("m5", "cup", -1, "sale"),
    Movement("m6", "cup", 1, "return"),
    Movement("m7", "sofa", 5, "restock"),
    Movement("m8", "sofa", 9, "return"),
)
ACTIVITIES = (
    Activity("a3", "u1", "s1", "logout", at(NEXT_DAY, 0, 5)),
    Activity("a1", "u1", "s1", "login", at(DAY, 23, 50), copies=2),
    Activity("a2", "u1", "s1", "view_product", at(DAY, 23, 55), copies=2),
    Activity("a4", "u1", "s2", "login", at(NEXT_DAY, 9)),
    # Two in the same moment: distinguished by event_id. And another user in a session of the same name.
    Activity("a6", "u2", "s1", "checkout", at(DAY, 8)),
    Activity("a5", "u2", "s1", "add_to_cart", at(DAY, 8)),
)


def latest_orders() -> dict[str, Order]:
    """Each order's last event: by its time, then as it was written, which here is by event_id."""
    return {order.order_id: order for order in sorted(ORDERS, key=lambda order: (order.at, order.event_id))}


def amount(item: Item) -> Decimal:
    return item.quantity * Decimal(item.price)


def fact_rows() -> dict[str, list[tuple[Any, ...]]]:
    """Each table's rows in the order of its columns: a row for each copy, written a minute after the one before."""
    rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for order in ORDERS:
        for copy in range(order.copies):
            written = at(NEXT_DAY, 12, copy)
            total = sum(map(amount, order.items))
            head = (order.customer, order.name, order.at.date(), order.at, order.status, "Street 1", "Town", order.country)
            rows["fact_order_header"].append((order.event_id, order.order_id, *head, total, written))
            for line, item in enumerate(order.items, start=1):
                key = (order.event_id, order.order_id, line)
                sold = (item.product, item.product.title(), item.quantity, Decimal(item.price), amount(item))
                rows["fact_order_item"].append((*key, *sold, order.at.date(), order.at, written))
                rows["fact_order"].append((*key, *head, *sold, total, written))
    for movement in MOVEMENTS:
        row = (movement.event_id, "i", movement.product, "w", movement.change, movement.reason, DAY, at(DAY, 6))
        rows["fact_inventory"] += [(*row, at(NEXT_DAY, 12, copy)) for copy in range(movement.copies)]
    for act in ACTIVITIES:
        activity = (act.event_id, act.user, act.kind, None, None, act.session, "web", act.at.date(), act.at)
        rows["fact_user_activity"] += [(*activity, at(NEXT_DAY, 12, copy)) for copy in range(act.copies)]
    return rows


def literal(value: Any) -> str:
    """``value`` in GoogleSQL."""
    if value is None:
        return "NULL"
    if isinstance(value, datetime):
        return f"TIMESTAMP '{value.isoformat()}'"
    if isinstance(value, date):
        return f"DATE '{value}'"
    return f"NUMERIC '{value}'" if isinstance(value, Decimal) else repr(value)


class Warehouse:
    """The local warehouse with all rows in it."""

    def __init__(self, settings: Settings, client: bigquery.Client) -> None:
        self.settings = settings
        self.client = client

    def query(self, statement: str, parameters: tuple[bigquery.ScalarQueryParameter, ...] = ()) -> list[tuple[Any, ...]]:
        config = bigquery.QueryJobConfig(query_parameters=parameters)
        return [tuple(row.values()) for row in self.client.query(statement, config).result()]

    def ask(self, name: str, **values: Any) -> list[tuple[Any, ...]]:
        question = sql.question(name)
        parameters = tuple(bigquery.ScalarQueryParameter(p.name, p.type, values[p.name]) for p in question.parameters)
        return self.query(sql.qualify(question.sql, self.settings.dataset_id), parameters)


@pytest.fixture(scope="module")
def warehouse(stack: Endpoints) -> Warehouse:
    settings = Settings(topic="questions", subscription="questions", bucket="questions", dataset="questions")
    target = Target(settings, stack)
    infra.apply(target, infra.plan(target))
    warehouse = Warehouse(settings, bigquery_client(settings.project_id, stack))
    for table, rows in fact_rows().items():
        values = ", ".join(f"({', '.join(map(literal, row))})" for row in rows)
        warehouse.query(f"INSERT INTO `{settings.dataset_id}.{table}` ({written_columns(table)}) VALUES {values}")
    return warehouse


@pytest.mark.parametrize("table", FACT_TABLES)
def test_unique_views(warehouse: Warehouse, table: str) -> None:
    """A view shows each row of a repeated event once, as it was last written."""
    last = {row[:3]: row for row in fact_rows()[table]}
    shown = warehouse.query(f"SELECT {written_columns(table)} FROM `{warehouse.settings.dataset_id}.{table}_unique`")
    assert len(shown) < len(fact_rows()[table])
    assert sorted(shown, key=lambda row: row[:3]) == sorted(last.values(), key=lambda row: row[:3])


@pytest.mark.parametrize("day", [DAY, NEXT_DAY, date(2025, 1, 1)])
def test_delivered_orders_per_country(warehouse: Warehouse, day: date) -> None:
    """An order with several delivered events on the day counts once; one that was returned on a later day still counts."""
    delivered = {(order.country, order.order_id) for order in ORDERS if order.status == "delivered" and order.at.date() == day}
    counts = Counter(country for country, _ in delivered)
    assert warehouse.ask("delivered-orders-per-country", date=day) == sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    assert day != DAY or counts == {"DE": 2, "FR": 2}


def test_sales_per_product(warehouse: Warehouse) -> None:
    """An order's items count once, as its latest event has them, and a product on two lines of an order is one order of it."""
    orders, sold, revenue = defaultdict(set), Counter[str](), Counter[str]()
    for order in latest_orders().values():
        for item in order.items:
            orders[item.product].add(order.order_id)
            sold[item.product] += item.quantity
            revenue[item.product] += amount(item)  # type: ignore[assignment]
    answer = [(product, product.title(), len(orders[product]), sold[product], revenue[product]) for product in orders]
    assert warehouse.ask("sales-per-product") == sorted(answer, key=lambda row: (-row[4], row[0]))
    assert answer[1][:4] == ("cup", "Cup", 4, 5)


def test_sales_per_customer(warehouse: Warehouse) -> None:
    """A customer's orders count once each, with the name that any of the latest events gave, or none."""
    names: dict[str, str | None] = {}
    orders, revenue = Counter[str](), Counter[str]()
    for order in latest_orders().values():
        names[order.customer] = names.get(order.customer) or order.name
        orders[order.customer] += 1
        revenue[order.customer] += sum(map(amount, order.items))  # type: ignore[assignment]
    answer = [(customer, name, orders[customer], revenue[customer]) for customer, name in names.items()]
    assert warehouse.ask("sales-per-customer") == sorted(answer, key=lambda row: (-row[3], row[0]))
    assert {row[:3] for row in answer} == {("ann", "Ann", 2), ("bob", None, 1), ("cy", "Cy", 2), ("dee", "Dee", 1)}


def test_customers_and_products_add_up(warehouse: Warehouse) -> None:
    """The revenue of all customers is the revenue of all products."""
    by_customer = sum(row[3] for row in warehouse.ask("sales-per-customer"))
    assert by_customer == sum(row[4] for row in warehouse.ask("sales-per-product"))


def test_most_returned_products(warehouse: Warehouse) -> None:
    """Products stand by the number of their returns, then by the items returned; a repeated message counts once."""
    assert warehouse.ask("most-returned-products") == [("pen", 2, 5), ("sofa", 1, 9), ("cup", 1, 1)]


def test_session_steps(warehouse: Warehouse) -> None:
    """Steps count by time within a user's session, across midnight, and each activity has one step."""
    answer = []
    for user, session in sorted({(act.user, act.session) for act in ACTIVITIES}):
        acts = sorted((act.at, act.event_id, act.kind) for act in ACTIVITIES if (act.user, act.session) == (user, session))
        answer += [(user, session, step, kind, "web", moment) for step, (moment, _, kind) in enumerate(acts, start=1)]
    assert warehouse.ask("session-steps") == answer
    assert [row[2:4] for row in answer[:3]] == [(1, "login"), (2, "view_product"), (3, "logout")]


def test_stock_movement_and_sales(warehouse: Warehouse) -> None:
    """Movements and sales of a product do not multiply each other; a product with only one of the two shows 0 for the other."""
    stock, sold, revenue = Counter[str](), Counter[str](), defaultdict[str, Decimal](Decimal)
    for movement in MOVEMENTS:
        stock[movement.product] += movement.change
    for item in (item for order in latest_orders().values() for item in order.items):
        sold[item.product] += item.quantity
        revenue[item.product] += amount(item)
    products = sorted({*stock, *sold})
    answer = [(product, stock[product], sold[product], revenue[product]) for product in products]
    assert warehouse.ask("stock-movement-and-sales") == answer
    assert [row[:3] for row in answer] == [("cup", 0, 5), ("hat", 0, 2), ("pen", 102, 6), ("sofa", 14, 0)]
