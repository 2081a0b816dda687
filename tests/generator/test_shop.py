"""The shop and its rounds: what valid events look like, one by one and together."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import islice, pairwise
from typing import Any

import pytest

from ecomflow.errors import ConfigError
from ecomflow.generator.rounds import GeneratedEvent, dry_run_line, generate
from ecomflow.generator.seeds import MAX_SEED, fresh_seed
from ecomflow.generator.shop import money
from tests.support.generator import find_breach, moment_of, parse

NOW = datetime(2025, 12, 3, 15, 30, tzinfo=UTC)
ROUNDS = 600


def events(rounds: int = ROUNDS, seed: int = 7, **options: Any) -> list[GeneratedEvent]:
    return list(generate(rounds, seed=seed, now=NOW, **options))


@pytest.fixture(scope="module")
def bodies() -> dict[str, list[dict[str, Any]]]:
    """The bodies of ROUNDS valid rounds by event type, in the order of publishing."""
    by_type = defaultdict(list)
    for event in events(valid_only=True):
        by_type[event.event_type].append(parse(event.data))
    return by_type


class TestRounds:
    def test_a_round_is_one_valid_and_one_invalid_event_of_each_type(self) -> None:
        """100 rounds of three types are 600 events, each valid one just before its invalid one."""
        slots = [(event.event_type, event.fault is None) for event in events(100)]
        types = ("order", "inventory", "user_activity")
        assert slots == [(name, valid) for name in types for valid in (True, False)] * 100

    def test_types_choose_the_slots_of_a_round(self) -> None:
        """Only the named types occur, in the order of the contract whatever the order given."""
        chosen = events(2, types=["user_activity", "order"], valid_only=True)
        assert [event.event_type for event in chosen] == ["order", "user_activity"] * 2

    @pytest.mark.parametrize("types", [["refund"], ["order", "refund"], []])
    def test_an_unknown_type_is_refused_at_once(self, types: list[str]) -> None:
        """The error names the types that exist before any event is made."""
        with pytest.raises(ConfigError, match="order, inventory, user_activity"):
            generate(1, seed=7, now=NOW, types=types)

    def test_the_same_arguments_give_the_same_bytes(self) -> None:
        """Two streams of one seed and one moment are equal in data and attributes."""
        assert events(50) == events(50)

    def test_the_bytes_are_the_same_in_another_process(self) -> None:
        """Neither the hash seed nor the time of day of a process changes what a seed gives."""
        script = (
            "import hashlib; from datetime import UTC, datetime; from ecomflow.generator.rounds import generate;"
            "now = datetime(2025, 12, 3, 15, 30, tzinfo=UTC);"
            "print(hashlib.sha256(b''.join(e.data for e in generate(50, seed=7, now=now))).hexdigest())"
        )
        environment = os.environ | {"PYTHONHASHSEED": "1234", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
        other = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
        assert other.stdout.strip() == hashlib.sha256(b"".join(event.data for event in events(50))).hexdigest()

    def test_fewer_rounds_are_the_beginning_of_more(self) -> None:
        """A short run of a seed is a prefix of a long one."""
        assert events(100)[: 20 * 6] == events(20)

    def test_invalid_events_do_not_change_the_valid_ones(self) -> None:
        """The valid events of a seed are the same whether or not faults are mixed in."""
        assert [event for event in events(50) if event.fault is None] == events(50, valid_only=True)

    def test_event_ids_never_repeat(self) -> None:
        """Within a run, over two seeds, over two moments and over two choices of types every event_id is another."""
        runs = [events(200), events(200, seed=8), events(200, types=["order"])]
        runs.append(list(generate(200, seed=7, now=NOW + timedelta(seconds=1))))
        ids = [event.attributes["event_id"] for run in runs for event in run]
        assert len(set(ids)) == len(ids) == 1200 * 3 + 400

    def test_a_fixed_date_repeats_the_events_of_a_seed(self) -> None:
        """With an event_date the moment of the run changes nothing: a second run publishes the very same events."""
        day = date(2025, 12, 1)
        later = list(generate(20, seed=7, now=NOW + timedelta(days=40), event_date=day))
        assert later == events(20, event_date=day)

    def test_a_fresh_seed_is_another_each_time(self) -> None:
        """Runs for which no seed was given share none."""
        found = {fresh_seed() for _ in range(100)}
        assert len(found) == 100
        assert max(found) <= MAX_SEED == 2**53 - 1

    def test_events_are_made_as_they_are_asked_for(self) -> None:
        """The first events of a billion rounds are there at once."""
        assert len(list(islice(generate(10**9, seed=7, now=NOW), 12))) == 12

    def test_items_count_the_rows_of_the_item_tables(self) -> None:
        """A valid order tells how many items it has; no other event has a list."""
        for event in events(50):
            is_order = event.event_type == "order" and event.fault is None
            assert event.lists == ({"items": len(parse(event.data)["items"])} if is_order else {})


class TestContract:
    def test_every_valid_event_keeps_the_contract(self) -> None:
        """An independent reading of the contract finds nothing wrong with any valid event."""
        assert [event for event in events(valid_only=True) if find_breach(event.data, NOW.date())] == []

    def test_attributes_name_the_event_and_its_time(self) -> None:
        """event_id is a version 4 UUID; event_timestamp is the time that the body says."""
        for event in events(50, valid_only=True):
            body = parse(event.data)
            assert event.attributes["event_timestamp"] == body.get("order_date", body.get("timestamp"))
            assert event.attributes["event_id"][14] == "4"
            assert len(event.attributes["event_id"]) == 36

    def test_events_happen_in_the_days_before_now(self) -> None:
        """Times spread over all the days of the week before now, and none is later than now."""
        moments = [moment_of(event.attributes["event_timestamp"]) for event in events(valid_only=True)]
        assert NOW - timedelta(days=7) <= min(moments)
        assert max(moments) <= NOW
        assert len({moment.date() for moment in moments}) >= 7

    def test_a_fixed_date_holds_for_every_event(self) -> None:
        """With an event_date the UTC date of every event is that one, whatever offset it is written with."""
        made = events(event_date=date(2025, 12, 1))
        assert {moment_of(event.attributes["event_timestamp"]).date() for event in made} == {date(2025, 12, 1)}
        assert any(not event.attributes["event_timestamp"].startswith("2025-12-01") for event in made)

    def test_times_are_written_in_several_forms(self) -> None:
        """Most end in Z, some have a fraction of a second, some an offset."""
        texts = [event.attributes["event_timestamp"] for event in events(valid_only=True)]
        plain = [text for text in texts if len(text) == 20 and text.endswith("Z")]
        fractions = [text for text in texts if "." in text]
        offsets = [text for text in texts if not text.endswith("Z")]
        assert 0.7 < len(plain) / len(texts) < 0.9
        assert len(fractions) > 50
        assert {text[-6:] for text in offsets} == {"+02:00", "-05:00", "+05:30", "+09:00"}

    def test_names_are_written_as_their_owners_write_them(self, bodies: dict[str, list[dict[str, Any]]]) -> None:
        """Umlauts, accents and Japanese occur, as UTF-8 and not as escapes."""
        text = b"".join(event.data for event in events(valid_only=True)).decode()
        assert all(letter in text for letter in "üéñ大")
        assert "\\u" not in text


class TestOrders:
    def test_a_total_is_the_exact_sum_of_its_lines(self, bodies: dict[str, list[dict[str, Any]]]) -> None:
        """total_amount equals quantity x price over the items, with no cent lost."""
        for body in bodies["order"]:
            assert Decimal(body["total_amount"]) == sum(item["quantity"] * Decimal(item["price"]) for item in body["items"])

    @pytest.mark.parametrize(
        ("cents", "digits"), [(1990, b"19.90"), (5, b"0.05"), (0, b"0.00"), (10**20 + 1, b"1000000000000000000.01")]
    )
    def test_money_is_written_with_two_decimal_places(self, cents: int, digits: bytes) -> None:
        """An amount in cents becomes the digits of a JSON number, also where a binary float would lose some."""
        assert bytes(money(cents)) == digits

    def test_every_order_is_another(self, bodies: dict[str, list[dict[str, Any]]]) -> None:
        """No order_id comes twice."""
        assert len({body["order_id"] for body in bodies["order"]}) == ROUNDS

    def test_customers_and_products_come_again(self, bodies: dict[str, list[dict[str, Any]]]) -> None:
        """A customer keeps the address, a product its name and price, and some customers order often."""
        homes: dict[str, set[str]] = defaultdict(set)
        labels: dict[str, set[tuple[str, Decimal]]] = defaultdict(set)
        for body in bodies["order"]:
            homes[body["customer_id"]].add(json.dumps(body["shipping_address"]))
            for item in body["items"]:
                labels[item["product_id"]].add((item["product_name"], item["price"]))
        assert {len(found) for found in homes.values()} == {len(found) for found in labels.values()} == {1}
        assert len(homes) < ROUNDS
        assert Counter(body["customer_id"] for body in bodies["order"]).most_common(1)[0][1] >= 8

    def test_another_seed_tells_of_the_same_shop(self, bodies: dict[str, list[dict[str, Any]]]) -> None:
        """The names and prices of products do not depend on the seed."""
        both = [*bodies["order"], *(parse(event.data) for event in events(seed=99, types=["order"], valid_only=True))]
        names = {(item["product_id"], item["product_name"], item["price"]) for body in both for item in body["items"]}
        assert len(names) == len({product_id for product_id, _, _ in names})

    def test_statuses_and_countries_make_questions_worth_asking(self, bodies: dict[str, list[dict[str, Any]]]) -> None:
        """About half of the orders are delivered, every status occurs, and a few countries lead the others."""
        statuses = Counter(body["status"] for body in bodies["order"])
        countries = Counter(body["shipping_address"]["country"] for body in bodies["order"])
        assert 0.45 < statuses["delivered"] / ROUNDS < 0.65
        assert len(statuses) == 6
        assert len(countries) == 8
        assert countries["Germany"] > 3 * countries["Brazil"]

    def test_optional_fields_are_absent_at_times(self, bodies: dict[str, list[dict[str, Any]]]) -> None:
        """Some orders have no customer_name, some sessions no ip_address or no user_agent; most have them."""
        for event_type, name in (("order", "customer_name"), ("user_activity", "ip_address"), ("user_activity", "user_agent")):
            absent = sum(name not in body for body in bodies[event_type])
            assert 0 < absent < 0.2 * ROUNDS


class TestStock:
    def test_sales_and_returns_follow_orders(self, bodies: dict[str, list[dict[str, Any]]]) -> None:
        """Every sale takes out, and every return brings back, what an order of an earlier time says."""
        ordered = defaultdict(list)
        for body in bodies["order"]:
            for item in body["items"]:
                ordered[item["product_id"], item["quantity"]].append((moment_of(body["order_date"]), body["status"]))
        for move in bodies["inventory"]:
            if move["reason"] == "sale":
                asked = ordered[move["product_id"], -move["quantity_change"]]
            elif move["reason"] == "return":
                asked = [order for order in ordered[move["product_id"], move["quantity_change"]] if order[1] == "returned"]
            else:
                continue
            assert min(moment for moment, _ in asked) < moment_of(move["timestamp"])

    def test_signs_follow_reasons(self, bodies: dict[str, list[dict[str, Any]]]) -> None:
        """Sales and damage take stock out, restocks and returns bring it in, and sales are the most frequent."""
        reasons = Counter((move["reason"], move["quantity_change"] > 0) for move in bodies["inventory"])
        assert set(reasons) == {("sale", False), ("damage", False), ("restock", True), ("return", True)}
        assert reasons["sale", False] > ROUNDS / 2

    def test_a_product_stays_in_its_warehouse(self, bodies: dict[str, list[dict[str, Any]]]) -> None:
        """All the moves of a product are in one warehouse."""
        places = defaultdict(set)
        for move in bodies["inventory"]:
            places[move["product_id"]].add(move["warehouse_id"])
        assert {len(found) for found in places.values()} == {1}


class TestSessions:
    def test_a_session_is_a_story(self, bodies: dict[str, list[dict[str, Any]]]) -> None:
        """It starts with login, its time advances, nothing follows logout, and a checkout has an add_to_cart before it."""
        for steps in self._sessions(bodies).values():
            names = [step["activity_type"] for step in steps]
            moments = [moment_of(step["timestamp"]) for step in steps]
            assert names[0] == "login"
            assert "logout" not in names[:-1]
            assert all(earlier < later for earlier, later in pairwise(moments))
            assert all(before == "add_to_cart" for before, after in pairwise(names) if after == "checkout")

    def test_a_session_has_one_user_and_one_device(self, bodies: dict[str, list[dict[str, Any]]]) -> None:
        """User, platform, address and agent stay the same within a session."""
        for steps in self._sessions(bodies).values():
            assert len({(s["user_id"], s["metadata"]["platform"], s.get("ip_address"), s.get("user_agent")) for s in steps}) == 1

    def test_sessions_end_and_new_ones_begin(self, bodies: dict[str, list[dict[str, Any]]]) -> None:
        """Most sessions of a run reach logout, and every kind of activity occurs."""
        sessions = self._sessions(bodies)
        ended = [steps for steps in sessions.values() if steps[-1]["activity_type"] == "logout"]
        assert len(ended) > len(sessions) / 2
        assert len({step["activity_type"] for steps in sessions.values() for step in steps}) == 6

    @staticmethod
    def _sessions(bodies: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
        sessions = defaultdict(list)
        for body in bodies["user_activity"]:
            sessions[body["metadata"]["session_id"]].append(body)
        return sessions


class TestDryRun:
    def test_a_line_holds_data_and_attributes(self) -> None:
        """A message that is text stands there as text, with its attributes, type and fault."""
        event = events(1)[0]
        line = json.loads(dry_run_line(event))
        assert line["data"].encode() == event.data
        assert (line["data_encoding"], line["attributes"]) == ("utf-8", event.attributes)
        assert (line["event_type"], line["fault"], line["expected_reason"]) == ("order", None, None)
        assert "\n" not in dry_run_line(event)

    def test_bytes_that_are_no_text_stand_in_base64(self) -> None:
        """A message that is not UTF-8 comes back from its line byte by byte."""
        event = next(event for event in events(40) if event.fault == "invalid_utf8")
        line = json.loads(dry_run_line(event))
        assert line["data_encoding"] == "base64"
        assert base64.b64decode(line["data"]) == event.data


def test_importing_the_shop_stays_light() -> None:
    """Neither Faker nor a Google client nor Beam is loaded before it is needed."""
    script = "import sys, ecomflow.generator.rounds, ecomflow.generator.publisher; print([m for m in sys.modules])"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert all(
        f"'{heavy}'" not in modules for heavy in ("faker", "google.cloud.pubsub_v1", "google.api_core", "grpc", "apache_beam")
    )
