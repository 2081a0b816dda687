"""Events of any contract: valid, deterministic, and such as its fields say."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomflow.contract.codec import Codec
from ecomflow.contract.events import Message
from ecomflow.contract.language import Contract
from ecomflow.contract.loading import load_text, shop_contracts
from ecomflow.contract.modelling import model
from ecomflow.contract.times import EPOCH, read_moment
from ecomflow.errors import ConfigError
from ecomflow.generator.bodies import Run, makers_of
from ecomflow.generator.hints import hint_mistakes
from ecomflow.generator.moments import window_before, window_of
from ecomflow.generator.rounds import GeneratedEvent, generate
from tests.contract.test_loading import REFUND
from tests.generator.samples import EVERYTHING, STRICT
from tests.support.any_contract import contracts
from tests.support.compiled import contract_of
from tests.support.contract import property_test
from tests.support.generator import parse

NOW = datetime(2025, 12, 3, 15, 30, tzinfo=UTC)
SHOP = shop_contracts()
ORDER = SHOP[0]


def loaded(text: str) -> Contract:
    return load_text(text, "contract.toml")


SAMPLES = [REFUND, STRICT, EVERYTHING]


def valid(contract: Contract, rounds: int = 200, seed: int = 7, **options: Any) -> list[GeneratedEvent]:
    return list(generate(rounds, seed=seed, now=NOW, contracts=[contract], valid_only=True, **options))


def bodies(contract: Contract, rounds: int = 200) -> list[dict[str, Any]]:
    return [parse(event.data) for event in valid(contract, rounds)]


def field_values(field: str, rounds: int = 300) -> list[Any]:
    """The values of ``field`` in the events of a contract that has it, and a time."""
    return [body.get("f") for body in bodies(contract_of(f'[fields]\nat = "timestamp"\nf = {field}'), rounds)]


def problems(contract: Contract, events: list[GeneratedEvent]) -> Iterator[str]:
    """What the pipeline does not take of ``events`` as they are."""
    messages = [Message(event.data, event.attributes, str(number), 0) for number, event in enumerate(events)]
    decoded = Codec([contract]).decode(messages, NOW)
    yield from map(str, decoded.drift)
    for part in decoded.parts:
        facts = model(part, NOW)
        yield from (letter.error for letter in facts.refused)
        for rows in facts.tables:
            rows.rows.validate(full=True)


class TestAnyContract:
    @pytest.mark.parametrize("text", SAMPLES, ids=["refund", "strict", "everything"])
    def test_every_event_is_valid(self, text: str) -> None:
        """The pipeline loads each of them, and finds no field that the contract does not name."""
        contract = loaded(text)
        assert list(problems(contract, valid(contract, 500))) == []

    @pytest.mark.slow
    @property_test(150)
    @given(contracts(), st.integers(0, 2**63))
    def test_events_of_a_contract_of_any_make_are_valid(self, contract: Contract, seed: int) -> None:
        """Whatever records, lists, paths and types it has; and those with all that may be missing."""
        assert list(problems(contract, valid(contract, 20, seed))) == []
        (maker,) = makers_of((contract,), Run(window_before(NOW), seed, "any", "invalid"))
        assert None not in maker.make_full().values()

    @pytest.mark.parametrize("text", SAMPLES, ids=["refund", "strict", "everything"])
    def test_the_same_arguments_give_the_same_bytes(self, text: str) -> None:
        """Valid and invalid events of one seed and one moment; those of another seed are others."""
        contract = loaded(text)
        runs = [list(generate(80, seed=seed, now=NOW, contracts=[contract])) for seed in (7, 7, 8)]
        assert runs[0] == runs[1]
        assert not {event.data for event in runs[0]} & {event.data for event in runs[2] if event.fault is None}

    @pytest.mark.slow
    def test_the_bytes_are_the_same_in_another_process(self) -> None:
        """The hash seed of a process changes nothing, with Faker's values too."""
        script = (
            "import sys, hashlib; from datetime import UTC, datetime; from ecomflow.contract.loading import load_text;"
            "from ecomflow.generator.rounds import generate; contract = load_text(sys.stdin.read(), 'a.toml');"
            "events = generate(50, seed=7, now=datetime(2025, 12, 3, tzinfo=UTC), contracts=[contract]);"
            "print(hashlib.sha256(b''.join(event.data for event in events)).hexdigest())"
        )
        command = [sys.executable, "-c", script]
        found = {subprocess.run(command, input=EVERYTHING, capture_output=True, text=True, check=True).stdout for _ in range(2)}
        assert len(found) == 1

    def test_fewer_rounds_are_the_beginning_of_more(self) -> None:
        """Of several contracts together."""
        in_force = [*SHOP, loaded(REFUND), loaded(EVERYTHING)]
        runs = [list(generate(rounds, seed=7, now=NOW, contracts=in_force)) for rounds in (30, 10)]
        assert runs[0][: len(runs[1])] == runs[1]
        assert Counter(event.event_type for event in runs[1]) == {contract.event: 20 for contract in in_force}

    def test_simple_events_are_made_quickly(self) -> None:
        """At least 20,000 a second of one processor (measured: 60,000 and more)."""
        contract = contract_of('[fields]\nat = "timestamp"\nid = "string"\nn = "integer"\nprice = "numeric"\nis_new = "boolean"')
        best = min(self._seconds(contract) for _ in range(5))
        assert 2_000 / best > 20_000

    @staticmethod
    def _seconds(contract: Contract) -> float:
        began = time.process_time()
        valid(contract, 2_000)
        return time.process_time() - began


class TestValues:
    def test_numbers_stay_in_their_bounds(self) -> None:
        """Also the narrowest, with more than two decimal places where money has none between them."""
        for body in bodies(loaded(EVERYTHING)):
            assert -5 <= body["count"] <= 20
            assert int(body["signed"]) <= -3
            assert Decimal("0.001") <= body["amount"] <= Decimal("0.002")
            assert 0.5 <= body["weight"] <= 2

    def test_money_has_two_decimal_places(self) -> None:
        """Where the bounds leave room for it."""
        prices = [line["price"] for body in bodies(loaded(REFUND)) for line in body["lines"]]
        assert {price.as_tuple().exponent for price in prices} == {-2}

    @pytest.mark.parametrize("bound", ["-99999999999999999999999999999.999999999", "99999999999999999999999999998.000000001"])
    def test_the_widest_numbers_are_exact(self, bound: str) -> None:
        """At the end of what a NUMERIC holds."""
        low, high = Decimal(bound), Decimal(bound) + Decimal("0.000000001")
        found = field_values(f'{{ type = "numeric", min = {bound}, max = {bound} }}', 5)
        assert set(found) == {low}
        assert high  # the context's own rounding is not asked

    def test_texts_stay_in_their_lengths(self) -> None:
        """Short, long and of a pattern."""
        for body in bodies(loaded(EVERYTHING)):
            assert 1 <= len(body["short"]) <= 3
            assert len(body["long"]) >= 60
            assert re.fullmatch(r"[A-Z]{2}-[0-9]+", body["code"])
            assert 5 <= len(body["code"]) <= 8
            assert body["kind"] in ("none", "one", "two")

    def test_a_number_may_be_written_as_a_text_and_a_text_as_a_number(self) -> None:
        """As ``written_as`` says: always, or now and then."""
        made = bodies(loaded(EVERYTHING))
        assert {type(body["number"]) for body in made} == {int}
        assert {type(body["signed"]) for body in made} == {str}
        assert {type(body["total"]) for body in made} == {str, Decimal}
        assert {type(body["reference"]) for body in made if body.get("reference")} == {str, int}
        assert all(len(str(body["number"])) >= 4 for body in made)

    def test_optional_fields_are_missing_at_times(self) -> None:
        """Left out or null, and mostly there."""
        found = Counter(type(value) for value in field_values('{ type = "string", optional = true }', 1000))
        assert found[str] > 700
        assert found[type(None)] > 50
        made = bodies(contract_of('[fields]\nat = "timestamp"\nf = { type = "string", optional = true }'), 1000)
        assert 0 < sum("f" in body and body["f"] is None for body in made) < 100

    def test_lists_have_as_many_elements_as_they_may(self) -> None:
        """Within their bounds, also none where none are needed."""
        made = bodies(loaded(EVERYTHING))
        assert {len(body["lines"]) for body in made} == {1, 2, 3, 4}
        assert min(len(body["prices"]) for body in made) == 2
        assert {len(body["tags"]) for body in made if body.get("tags") is not None} >= {0, 1, 2}

    def test_a_field_stands_at_its_path(self) -> None:
        """In objects that the contract does not name."""
        body = bodies(loaded(EVERYTHING), 1)[0]
        assert set(body["shipping"]["from"]) == {"ip"}
        assert all("amount" in line["money"] for line in body["lines"])

    def test_every_type_has_its_values(self) -> None:
        """Dates, addresses of both kinds, JSON of several shapes."""
        made = bodies(loaded(EVERYTHING))
        assert all(date.fromisoformat(body["day"]) for body in made if body.get("day"))
        assert {":" in body["shipping"]["from"]["ip"] for body in made} == {True, False}
        assert len({type(body["raw"]) for body in made}) >= 4
        assert {body["is_new"] for body in made} == {True, False}


class TestTimes:
    @pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Pacific/Auckland"])
    @pytest.mark.parametrize("day", [date(2025, 12, 1), date(2025, 10, 26), date(2025, 11, 2), date(2026, 4, 4)])
    def test_a_fixed_date_holds_however_it_is_written(self, zone: str, day: date) -> None:
        """With and without an offset, also on days when the clocks are changed."""
        contract = contract_of(f'[fields]\nat = {{ type = "timestamp", without_offset = "{zone}" }}')
        texts = [parse(event.data)["at"] for event in valid(contract, 300, event_date=day)]
        moments = [read_moment(text, zone) for text in texts]
        assert {(EPOCH.timestamp() * 10**6 + int(str(moment))) // (86_400 * 10**6) for moment in moments} == {
            (datetime(day.year, day.month, day.day, tzinfo=UTC) - EPOCH).days
        }
        assert 0.3 < sum(re.search(r"(Z|[+-]\d\d:\d\d)$", text) is None for text in texts) / 300 < 0.7

    def test_without_a_date_events_are_of_the_days_before(self) -> None:
        """As those of the shop; the attribute has the time of the body, wherever it stands."""
        for event in valid(loaded(STRICT)):
            text = parse(event.data)["payment"]["at"]
            assert event.attributes["event_timestamp"] == text
            moment = read_moment(text, "Europe/Berlin")
            assert isinstance(moment, int)
            assert (NOW.timestamp() - 7 * 86_400) * 10**6 <= moment < NOW.timestamp() * 10**6


class TestIds:
    def test_an_events_own_id_is_new(self) -> None:
        """The key's, or the field that is called after the event; those of another moment are others."""
        contract = loaded(REFUND)
        ids = [body["refund_id"] for body in bodies(contract)]
        later = generate(200, seed=7, now=NOW.replace(hour=16), contracts=[contract], valid_only=True)
        assert len({*ids, *(parse(event.data)["refund_id"] for event in later)}) == 400

    def test_other_ids_come_again(self) -> None:
        """So that tables can be joined: products are those of the shop."""
        products = Counter(line["product_id"] for body in bodies(loaded(REFUND)) for line in body["lines"])
        assert products.most_common(1)[0][1] > 3
        assert set(products) <= {f"SKU-{number:05d}" for number in range(1, 61)}

    def test_events_of_one_run_name_each_other(self) -> None:
        """A refund is of an order that was generated before."""
        orders, seen = set(), 0
        for event in generate(50, seed=7, now=NOW, contracts=[*SHOP, loaded(REFUND)], valid_only=True):
            body = parse(event.data)
            if event.event_type == "order":
                orders.add(body["order_id"])
            elif event.event_type == "refund":
                seen += body["order_id"] in orders
        assert seen == 50

    @pytest.mark.parametrize("field", ['{ type = "integer", min = 1, max = 9 }', '{ type = "string", max_length = 4 }'])
    def test_an_id_stays_within_its_bounds(self, field: str) -> None:
        """Also where no id of the usual kind does."""
        contract = contract_of(f'key = ["id"]\n[fields]\nat = "timestamp"\nid = {field}\nother_id = {field}')
        assert list(problems(contract, valid(contract))) == []

    def test_a_key_with_a_pattern_is_new_each_time(self) -> None:
        """Not from a pool, as other values of a pattern are."""
        text = 'key = ["code"]\n[fields]\nat = "timestamp"\ncode = { type = "string", pattern = "C-[0-9]{12}" }'
        codes = [body["code"] for body in bodies(contract_of(text), 1000)]
        assert len(set(codes)) == 1000


class TestRules:
    def test_the_field_that_stands_alone_is_computed(self) -> None:
        """A total is the sum of its lines, in a string or not; a bound is kept."""
        for body in bodies(loaded(EVERYTHING)):
            lines = sum(line["quantity"] * line["money"]["amount"] for line in body["lines"])
            assert Decimal(body["total"]) == lines
            assert body["least"] <= body["most"]
            assert sum(body["prices"]) >= 1

    def test_one_after_the_other(self) -> None:
        """Rules that share fields all hold."""
        for body in bodies(loaded(STRICT)):
            assert Decimal(body["gross"]) == body["net"] + body["tax"]
            assert body["tax"] < body["net"] * Decimal("0.25")

    @pytest.mark.parametrize("comparison", ["<", "<=", "==", "!=", ">=", ">"])
    @pytest.mark.parametrize("kind", ["integer", "numeric"])
    def test_every_comparison(self, comparison: str, kind: str) -> None:
        """With the field on either side."""
        for check in (f"a {comparison} b + 3", f"b + 3 {comparison} a"):
            contract = contract_of(f'[fields]\nat = "timestamp"\na = "{kind}"\nb = "{kind}"\n[[rules]]\ncheck = "{check}"')
            assert list(problems(contract, valid(contract, 100))) == []

    def test_a_rule_without_such_a_field_is_drawn_until_it_holds(self) -> None:
        """Within a bound."""
        contract = contract_of('[fields]\nat = "timestamp"\na = "integer"\nb = "integer"\n[[rules]]\ncheck = "a + b >= 100"')
        assert list(problems(contract, valid(contract, 100))) == []

    def test_a_rule_that_no_event_satisfies_is_said(self) -> None:
        """With the last event's reason, and what to do."""
        contract = contract_of('[fields]\nat = "timestamp"\na = { type = "integer", max = 5 }\n[[rules]]\ncheck = "a + a >= 100"')
        with pytest.raises(ConfigError, match=r"refund\.toml: none of 200 events drawn is valid.*a \+ a >= 100") as raised:
            valid(contract, 1)
        assert "--types" in str(raised.value.remedy)


class TestHints:
    def test_a_hint_names_a_provider_of_faker(self) -> None:
        """Its values come again, as those of customers do."""
        found = Counter(field_values('{ type = "string", fake = "email" }', 1000))
        assert all(re.fullmatch(r"[^@\s]+@[^@\s]+", text) for text in found)
        assert 100 < len(found) <= 300

    @pytest.mark.parametrize(
        ("kind", "provider"),
        [
            *(("integer", "year"), ("integer", "port_number"), ("numeric", "latitude"), ("boolean", "pybool")),
            *(("float", "pyfloat"), ("date", "date_object"), ("timestamp", "date_time"), ("timestamp", "iso8601")),
            *(("ip_address", "ipv6"), ("string", "uuid4"), ("string", "random_digit")),
        ],
    )
    def test_values_take_the_type_of_their_field(self, kind: str, provider: str) -> None:
        """Where they can be had in it."""
        without_offset = ', without_offset = "UTC"' if kind == "timestamp" else ""
        contract = contract_of(f'[fields]\nat = "timestamp"\nf = {{ type = "{kind}", fake = "{provider}"{without_offset} }}')
        if (kind, provider) == ("integer", "year"):  # a text
            with pytest.raises(ConfigError, match=r"\$\.f: expected values of its type and bounds from fake = 'year'"):
                valid(contract, 1)
            return
        assert list(problems(contract, valid(contract, 50))) == []

    def test_a_key_is_another_each_time(self) -> None:
        """Faker is asked for each."""
        contract = contract_of('key = ["f"]\n[fields]\nat = "timestamp"\nf = { type = "string", fake = "uuid4" }')
        assert len({body["f"] for body in bodies(contract, 1000)}) == 1000

    def test_the_time_stays_in_its_window(self) -> None:
        """A hint for the event's own time changes nothing."""
        contract = contract_of('[fields]\nat = { type = "timestamp", fake = "iso8601" }')
        assert list(problems(contract, valid(contract, 50, event_date=date(2025, 12, 1)))) == []

    def test_wrong_hints_are_told_all_at_once(self) -> None:
        """With the nearest provider, or why one gives nothing; before any event is made."""
        text = "\n".join(
            [
                '[fields]\nat = "timestamp"\na = { type = "string", fake = "emial" }',
                'b = { type = "string", fake = "enum" }\nc = { type = "list", of = "part" }',
                'f = { type = "string", fake = "seed" }',
                '[records.part]\nd = { type = "string", fake = "email" }\ne = { type = "string", fake = "_factories" }',
                '[[tables]]\nname = "fact_refund"\n[[tables]]\nname = "fact_part"\neach = "c"',
            ]
        )
        contract = contract_of(text)
        mistakes = hint_mistakes([contract])
        expected = "expected a provider of Faker without arguments, found"
        assert mistakes[0] == f"refund.toml: fields.a.fake: {expected} 'emial', did you mean 'email'?"
        assert mistakes[1].startswith(f"refund.toml: fields.b.fake: {expected} 'enum', which fails: ")
        assert mistakes[2].startswith(f"refund.toml: fields.f.fake: {expected} 'seed'")
        assert mistakes[3].startswith(f"refund.toml: records.part.e.fake: {expected} '_factories'")
        assert len(mistakes) == 4
        with pytest.raises(ConfigError) as raised:
            valid(contract, 1)
        assert str(raised.value.message).splitlines() == mistakes


class TestPatterns:
    def test_a_pattern_that_can_not_be_made_asks_for_a_hint(self) -> None:
        """A sentence with the field, the pattern, why, and ``fake``."""
        field = r"""{ type = "string", pattern = '(a)?(?(1)b|c)' }"""
        with pytest.raises(ConfigError, match=r"\$\.f: no text that matches .* could be made: groupref_exists") as raised:
            field_values(field, 1)
        assert 'f = { fake = "' in str(raised.value.remedy)

    def test_a_hint_stands_for_such_a_pattern(self) -> None:
        """Its values are those that match."""
        field = r"""{ type = "string", pattern = '(?:(a)|[^a])(?(1)[a-z0-9]|[^a]).*', fake = "md5" }"""
        assert len(set(field_values(field, 50))) > 10

    @pytest.mark.parametrize("pattern", ["(?=.*[0-9])[a-z0-9]{4}", r"\b[a-z]+\b", "(?!aa)[ab]{2}", "[A-Z]+"])
    def test_what_only_looks_around_is_drawn_until_it_matches(self, pattern: str) -> None:
        """And a length beyond the usual."""
        assert all(re.fullmatch(pattern, text) for text in field_values(f"{{ type = \"string\", pattern = '{pattern}' }}", 20))
        long = field_values('{ type = "string", pattern = "[A-Z]+", min_length = 40 }', 20)
        assert min(map(len, long)) >= 40


class TestTheShop:
    def test_a_contract_that_adds_a_field_has_the_shop_with_it(self) -> None:
        """Coherent orders, and the new field, optional or not, from its type."""
        own = _order('status = "string"\nchannel = { type = "string", values = ["app", "web"] }\n')
        made = bodies(own)
        assert {body["channel"] for body in made} == {"app", "web"}
        assert all(body["order_id"].startswith("ORD-") and "," in body["items"][0]["product_name"] for body in made)
        assert list(problems(own, valid(own))) == []

    def test_a_contract_that_the_shop_does_not_pass_has_events_from_its_types(self) -> None:
        """Another field in its items, or one of the shop's that it does not name."""
        for own in (_order('status = { type = "string", values = ["new"] }\n'), _order("")):
            made = bodies(own)
            assert not any("," in body["items"][0]["product_name"] for body in made)
            assert list(problems(own, valid(own))) == []


def _order(status: str) -> Contract:
    """The shop's order with other lines for its status."""
    return loaded(f"""
event = "order"
time = "order_date"
key = ["order_id"]
[fields]
order_id = "string"
customer_id = "string"
customer_name = {{ type = "string", optional = true }}
order_date = "timestamp"
items = {{ type = "list", of = "item", min_items = 1 }}
shipping_address = {{ type = "record", of = "address" }}
total_amount = "numeric"
{status}
[records.item]
product_id = "string"
product_name = "string"
quantity = "integer"
price = "numeric"
[records.address]
street = "string"
city = "string"
country = "string"
[[rules]]
check = "total_amount == sum(items.quantity * items.price)"
[[tables]]
name = "fact_order_header"
[[tables]]
name = "fact_order"
each = "items"
""")


class TestVersions:
    def test_both_versions_of_an_event_are_generated(self) -> None:
        """Each with a valid and an invalid event a round; those above the lowest say so in an attribute."""
        newer = loaded(REFUND.replace("version = 1", "version = 2").replace("order_id", "sale_id"))
        made = list(generate(30, seed=7, now=NOW, contracts=[newer, loaded(REFUND)]))
        assert Counter((event.attributes.get("event_version"), event.fault is None) for event in made) == {
            (version, is_valid): 30 for version in (None, "2") for is_valid in (True, False)
        }
        for event in made:
            if event.fault is None:
                body = parse(event.data)
                assert ("sale_id" in body) == (event.attributes.get("event_version") == "2") != ("order_id" in body)


def test_a_window_is_a_day() -> None:
    """The window of a date ends where the next begins."""
    assert (window_of(date(2025, 12, 31)).end, window_of(date(2025, 12, 31)).days) == (datetime(2026, 1, 1, tzinfo=UTC), 1)


def test_a_list_or_a_text_beyond_all_bounds_is_said() -> None:
    """No event of a billion elements is made."""
    with pytest.raises(ConfigError, match=r"\$\.f: no event has a text of 2000000 characters"):
        field_values('{ type = "string", min_length = 2000000 }', 1)
    text = '[fields]\nat = "timestamp"\nf = { type = "list", of = "integer", min_items = 1000000000 }'
    tables = '\n[[tables]]\nname = "fact_refund"\n[[tables]]\nname = "fact_f"\neach = "f"'
    with pytest.raises(ConfigError, match=r"\$\.f: no event has 1000000000 elements"):
        bodies(contract_of(text + tables), 1)
