"""Events of one's own, from samples to rows and back from the dead letters: the commands in a folder, no line of Python."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import pubsub_v1

from tests.support.cli import ecomflow
from tests.support.waiting import wait_until

pytestmark = pytest.mark.stack

SAMPLES: list[dict[str, Any]] = [
    {
        "event_type": "refund",
        "refund_id": f"R-{number}",
        "order_id": "O-1",
        "refunded_at": "2026-11-20T10:00:00",
        "amount": amount,
        "reason": reason,
        "customer": {"id": 5, "email": "jane.doe@example.org"},
        "lines": [{"product_id": f"P-{line}", "quantity": line + 1, "price": 6.25} for line in range(lines)],
    }
    for number, (amount, reason, lines) in enumerate([("6.25", "late", 1), ("18.75", "damaged", 2), ("0.10", "late", 1)])
]


class Folder:
    """A user's folder with a stack of its own. A command runs in it as typed, and its exit code is asserted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *words: str, code: int = 0) -> str:
        result = ecomflow(*words, folder=self.path)
        assert result.returncode == code, (words, result.stdout, result.stderr)
        return result.stdout

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.run(*words, "--json", code=code))

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return list(self.json("query", sql))

    def publish(self, *bodies: object, **attributes: str) -> None:
        """By Google's own client, as a producer does, with the variables that ``infra env`` prints."""
        variables = self.json("infra", "env")
        options = ClientOptions(api_endpoint=variables["PUBSUB_EMULATOR_HOST"])
        before = os.environ.get("PUBSUB_EMULATOR_HOST")
        os.environ["PUBSUB_EMULATOR_HOST"] = variables["PUBSUB_EMULATOR_HOST"]
        try:
            client = pubsub_v1.PublisherClient(client_options=options, credentials=AnonymousCredentials())
            topic = client.topic_path(variables["GOOGLE_CLOUD_PROJECT"], "ecomflow-events")
            for sent in [client.publish(topic, json.dumps(body).encode(), **attributes) for body in bodies]:
                sent.result(30)
            client.stop()
        finally:
            os.environ.pop("PUBSUB_EMULATOR_HOST", None)
            if before is not None:
                os.environ["PUBSUB_EMULATOR_HOST"] = before

    @property
    def contract(self) -> Path:
        return self.path / "contracts" / "refund.toml"

    def edit(self, old: str, new: str) -> None:
        """One edit of the drafted contract."""
        text = self.contract.read_text()
        assert text.count(old) == 1, text
        self.contract.write_text(text.replace(old, new))

    def settled(self) -> dict[str, Any]:
        """The equation, once nothing waits in the subscription."""
        outcome: dict[str, Any] = {}

        def is_empty() -> bool:
            outcome.update(self.json("reconcile", "--allow-waiting"))
            return bool(outcome["waiting"]["messages"] == 0)

        wait_until(is_empty, "the subscription is empty")
        return {line["event_type"]: (line["facts"], line["dead_letters"]) for line in outcome["lines"]}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """Stopped at the end, whatever became of the test."""
    mine = Folder(tmp_path)
    try:
        yield mine
    finally:
        ecomflow("infra", "down", "--yes", folder=tmp_path)


def test_a_refund_from_samples_to_rows(folder: Folder) -> None:
    """Every command knows a type that was drafted from samples a minute ago."""
    (folder.path / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in SAMPLES))
    folder.run("contract", "new", "refund", "--from", "samples.jsonl")
    folder.edit('reason      = "string"', 'reason      = { type = "string", values = ["late", "damaged"] }')
    folder.run("contract", "check", "samples.jsonl")
    folder.run("infra", "up")
    folder.run("deploy", "--detach")

    folder.publish(*SAMPLES)
    folder.publish(SAMPLES[0] | {"refund_id": "R-8", "amount": "lots"}, event_id="E-8")
    folder.publish(SAMPLES[1] | {"refund_id": "R-9", "coupon": {"code": "X"}, "reason": "lost"}, event_id="E-9")
    assert folder.settled()["refund"] == (3, 2)

    rows = folder.rows(
        "SELECT refund_id, amount, customer_id, event_timestamp FROM ecomflow.fact_refund_unique ORDER BY refund_id"
    )
    assert [(row["refund_id"], Decimal(row["amount"]), row["customer_id"]) for row in rows] == [
        ("R-0", Decimal("6.25"), 5),
        ("R-1", Decimal("18.75"), 5),
        ("R-2", Decimal("0.10"), 5),
    ]
    assert rows[0]["event_timestamp"].startswith("2026-11-20T10:00:00")
    (total,) = folder.rows("SELECT SUM(quantity * price) AS total, COUNT(*) AS lines FROM ecomflow.fact_refund_line_unique")
    assert (Decimal(total["total"]), total["lines"]) == (Decimal("31.25"), 4)

    letters = folder.json("dlq", "inspect", "--stream", "refund")
    errors = {one["letter"]["event_id"]: one["letter"]["error"] for one in letters}
    assert errors == {
        "E-8": "$.amount: expected number in a string, got 'lots'",
        "E-9": "$.reason: expected one of late, damaged, got 'lost'",
    }

    # One edited line, and what was refused for it goes its way again.
    (folder.path / "old.toml").write_text(folder.contract.read_text())
    folder.edit('"damaged"]', '"damaged", "lost"]')
    assert folder.json("contract", "diff", "old.toml", "contracts/refund.toml")["compatible"] is True
    folder.run("job", "drain")
    folder.run("deploy", "--detach")
    folder.run("dlq", "replay", "--stream", "refund")
    assert folder.settled()["refund"] == (4, 1)
    (kept,) = folder.rows(
        "SELECT JSON_VALUE(unknown_fields, '$.coupon.code') AS code FROM ecomflow.fact_refund WHERE refund_id = 'R-9'"
    )
    assert kept == {"code": "X"}

    folder.run("publish", "--n", "20", "--types", "refund", "--ledger", "mine.jsonl")
    facts, dead = folder.settled()["refund"]
    outcome = folder.json("reconcile", "--ledger", "mine.jsonl")
    (line,) = [one for one in outcome["lines"] if one["event_type"] == "refund"]
    assert (line["published"], line["facts"], line["dead_letters"], outcome["adds_up"]) == (40, 20, 20, True)
    assert (facts, dead) == (24, 1 + 20 - folder.settled()["unknown"][1])
    metrics = folder.json("top", "--once")["metrics"]
    assert [step["step"] for step in metrics["steps"] if "refund" in step["step"]] == [
        "Model refund facts",
        "Write refund facts",
        "Write refund dead letters",
    ]
    assert {table["table"]: table["rows"] for table in metrics["tables"]}[
        "fact_refund"
    ] == 21  # of this run: the replayed one and the generated ones


ORDERS = [
    {
        "id": 5_551_000 + number,
        "created_at": "2026-11-20T11:00:00+01:00",
        "currency": "EUR",
        "total_price": total,
        "customer": {"id": 42, "email": "jane.doe@example.org", "default_address": {"city": "Paris", "country_code": "FR"}},
        "line_items": [
            {"id": 90 + line, "product_id": 7_000 + line, "title": "Blue chair", "quantity": line + 1, "price": "19.90"}
            for line in range(lines)
        ],
        "note": note,
    }
    for number, (total, lines, note) in enumerate([("19.90", 1, None), ("59.70", 2, "gift"), ("19.90", 1, None)])
]


def test_a_shop_systems_webhook_as_it_comes(folder: Folder) -> None:
    """Ids as integers, money as strings, a nested customer, line items, and the type in an attribute."""
    (folder.path / "ecomflow.toml").write_text('builtin_events = []\n[envelope]\ntype = "attribute:kind"\nid = "$.id"\n')
    (folder.path / "samples.jsonl").write_text("".join(json.dumps(order) + "\n" for order in ORDERS))
    folder.run("contract", "new", "shop_order", "--from", "samples.jsonl")
    contract = folder.path / "contracts" / "shop_order.toml"
    contract.write_text(contract.read_text().replace('event = "shop_order"', 'event = "shop_order"\ntype = "orders/create"'))
    folder.run("infra", "up")
    folder.run("deploy", "--detach")
    folder.publish(*ORDERS, kind="orders/create")
    folder.publish(ORDERS[0] | {"id": 1, "line_items": "none"}, kind="orders/create")
    folder.publish(ORDERS[0] | {"id": 2}, kind="orders/paid")

    assert folder.settled() == {"shop_order": (3, 1), "unknown": (0, 1)}
    rows = folder.rows(
        "SELECT event_id, id, total_price, customer_id, customer_default_address_city FROM ecomflow.fact_shop_order ORDER BY id"
    )
    assert [list(row.values()) for row in rows][1] == ["5551001", 5551001, "59.7", 42, "Paris"]
    (lines,) = folder.rows("SELECT SUM(quantity * price) AS total, COUNT(*) AS lines FROM ecomflow.fact_shop_order_line_item")
    assert (Decimal(lines["total"]), lines["lines"]) == (Decimal("99.50"), 4)
    (letter,) = folder.json("dlq", "inspect", "--stream", "shop_order")
    assert letter["letter"]["error"] == "$.line_items: expected array, got 'none'"


def test_cloud_events_structured_and_binary(folder: Folder) -> None:
    """Both modes on one topic: the type, the id and the body stand where CloudEvents puts them."""
    (folder.path / "ecomflow.toml").write_text('builtin_events = []\n[envelope]\npreset = "cloudevents"\n')
    bodies = [{name: value for name, value in sample.items() if name != "event_type"} for sample in SAMPLES]
    (folder.path / "samples.jsonl").write_text("".join(json.dumps(body) + "\n" for body in bodies))
    folder.run("contract", "new", "refund", "--from", "samples.jsonl")
    folder.edit('event = "refund"', 'event = "refund"\ntype = "com.example.refund"')
    folder.run("infra", "up")
    folder.run("deploy", "--detach")

    structured = {"specversion": "1.0", "type": "com.example.refund", "source": "/shop", "id": "S-1", "data": bodies[0]}
    folder.publish(structured, **{"content-type": "application/cloudevents+json"})
    binary = {"ce-specversion": "1.0", "ce-type": "com.example.refund", "ce-source": "/shop", "ce-id": "B-1"}
    folder.publish(bodies[1], **binary)
    bad = structured | {"id": "S-2", "data": bodies[2] | {"amount": "lots"}}
    folder.publish(bad, **{"content-type": "application/cloudevents+json"})

    assert folder.settled() == {"refund": (2, 1), "unknown": (0, 0)}
    rows = folder.rows("SELECT event_id, refund_id FROM ecomflow.fact_refund ORDER BY refund_id")
    assert rows == [{"event_id": "S-1", "refund_id": "R-0"}, {"event_id": "B-1", "refund_id": "R-1"}]
    (letter,) = folder.json("dlq", "inspect")
    assert letter["letter"]["error"] == "$.data.amount: expected number in a string, got 'lots'"
    assert letter["letter"]["event_id"] == "S-2"


def order(order_id: str, **more: Any) -> dict[str, Any]:
    return {
        "event_type": "order",
        "order_id": order_id,
        "customer_id": "C-1",
        "order_date": "2026-11-20T10:00:00Z",
        "status": "pending",
        "items": [{"product_id": "P-1", "product_name": "Chair", "quantity": 1, "price": 5}],
        "shipping_address": {"street": "Main 1", "city": "Paris", "country": "FR"},
        "total_amount": 5,
        **more,
    }


def test_two_versions_of_an_order_at_once(folder: Folder) -> None:
    """Into one table, whose new columns ``infra up`` adds: version 1 says no version and has no coupon."""
    folder.run("infra", "up")
    built_in = folder.run("contract", "show", "order", "--format", "toml")
    new_field = 'coupon    = { type = "string", optional = true }\nshop_id = { type = "string", optional = true }\ncustomer_id '
    second = built_in.replace("version = 1", "version = 2").replace("customer_id ", new_field, 1)
    second = second.replace('  "customer_id",\n', '  "customer_id",\n  "coupon",\n')
    (folder.path / "v1.toml").write_text(built_in)
    (folder.path / "contracts").mkdir()
    (folder.path / "contracts" / "order.v2.toml").write_text(second)
    (folder.path / "narrower.toml").write_text(second.replace('"pending", ', ""))
    assert folder.json("contract", "diff", "v1.toml", "contracts/order.v2.toml")["compatible"] is True
    breaking = [change["path"] for change in folder.json("contract", "diff", "v1.toml", "narrower.toml", code=10)["changes"]]
    assert "$.status" in breaking

    assert "column coupon: STRING" in folder.run("infra", "plan")
    folder.run("infra", "up")
    folder.run("deploy", "--detach")
    folder.publish(order("O-1", coupon="X"))
    folder.publish(order("O-2", coupon="Y", shop_id="S"), event_version="2")
    folder.publish(order("O-3"), event_version="3")
    assert folder.settled()["order"] == (2, 1)
    rows = folder.rows(
        "SELECT order_id, coupon, shop_id, unknown_fields FROM ecomflow.fact_order_header_unique ORDER BY order_id"
    )
    assert [list(row.values()) for row in rows] == [["O-1", None, None, {"coupon": "X"}], ["O-2", "Y", "S", None]]
    (letter,) = folder.json("dlq", "inspect")
    assert letter["letter"]["error"] == "$: expected the attribute event_version to be one of 1, 2, got '3'"
