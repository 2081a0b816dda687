"""contract diff: whether what was valid stays valid, change by change; and the promise to those who publish today."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ecomflow.contract.diff import Change, compare, read_side, side_in, side_of
from ecomflow.contract.example import example_of, published_schema, to_text, whole_published_schema
from ecomflow.contract.json_schema import schema_of as contract_schema_of
from ecomflow.contract.language import Contract
from ecomflow.contract.loading import SHOP as NAMES
from ecomflow.contract.loading import load_text, shop_text
from ecomflow.errors import ConfigError
from ecomflow.infra.contract_changes import WarehouseChange, warehouse_changes
from tests.support import ROOT
from tests.support.cli import ecomflow
from tests.support.compiled import SHOP
from tests.support.contract import TYPES, VALID, encoded
from tests.support.json_schema import is_valid

RELEASED = ROOT / "tests/contract/released"
BY_NAME = {contract.event: contract for contract in SHOP}

Schema = dict[str, Any]
Edit = Callable[[Schema], Any]


def schema_of(kind: str) -> Schema:
    return contract_schema_of(BY_NAME[kind])


def whole() -> Schema:
    return json.loads(to_text(whole_published_schema(SHOP)))


def edited(edit: Edit, kind: str = "order") -> Schema:
    schema = copy.deepcopy(schema_of(kind))
    edit(schema)
    return schema


def changes(old: Schema, new: Schema) -> list[tuple[str, bool, str]]:
    found = compare(side_in(old), side_in(new))
    assert {change.event_type for change in found} <= {"order"}
    return [(change.path, change.breaking, change.change) for change in found]


def field(*names: str) -> Callable[[Schema], Schema]:
    def found(schema: Schema) -> Schema:
        for name in names:
            schema = schema["items" if name == "[]" else "properties"]
            schema = schema if name == "[]" else schema[name]
        return schema

    return found


status, items, quantity, price = field("status"), field("items"), field("items", "[]", "quantity"), field("items", "[]", "price")
customer_name, total = field("customer_name"), field("total_amount")

# What is changed in today's order schema, and what must be said of it: path, whether breaking, words.
CASES: dict[str, tuple[Edit, list[tuple[str, bool, str]]]] = {
    "nothing": (lambda s: None, []),
    "words alone": (lambda s: s.update(title="x", description="y", examples=[], **{"$id": "urn:x"}), []),
    "an optional field": (
        lambda s: s["properties"].update(coupon={"type": "string"}),
        [("$.coupon", False, "optional field added")],
    ),
    "a required field": (
        lambda s: (s["properties"].update(coupon={"type": "string"}), s["required"].append("coupon")),
        [("$.coupon", True, "required field added")],
    ),
    "a field less": (
        lambda s: s["properties"].pop("customer_name"),
        [("$.customer_name", False, "field removed: accepted, but no longer in a column")],
    ),
    "a required field less": (
        lambda s: (s["properties"].pop("status"), s["required"].remove("status")),
        [("$.status", False, "field removed: accepted, but no longer in a column")],
    ),
    "required now": (lambda s: s["required"].append("customer_name"), [("$.customer_name", True, "required now")]),
    "optional now": (lambda s: s["required"].remove("status"), [("$.status", False, "optional now")]),
    "another type": (lambda s: total(s).update(type="string"), [("$.total_amount", True, "type changed from number to string")]),
    "null taken": (
        lambda s: total(s).update(type=["number", "null"]),
        [("$.total_amount", False, "type changed from number to null, number")],
    ),
    "null refused": (
        lambda s: customer_name(s).update(type="string"),
        [("$.customer_name", True, "type changed from null, string to string")],
    ),
    "integer to number": (
        lambda s: quantity(s).update(type="number"),
        [("$.items[].quantity", False, "type changed from integer to number")],
    ),
    "number to integer": (
        lambda s: price(s).update(type="integer"),
        [("$.items[].price", True, "type changed from number to integer")],
    ),
    "a status more": (lambda s: status(s)["enum"].append("lost"), [("$.status", False, 'value "lost" added')]),
    "a status less": (lambda s: status(s)["enum"].remove("shipped"), [("$.status", True, 'value "shipped" removed')]),
    "a status renamed": (
        lambda s: status(s).update(enum=["lost", *[one for one in status(s)["enum"] if one != "shipped"]]),
        [("$.status", True, 'value "shipped" removed'), ("$.status", False, 'value "lost" added')],
    ),
    "any status": (lambda s: status(s).pop("enum"), [("$.status", False, "any value allowed now")]),
    "few names": (
        lambda s: customer_name(s).update(enum=["Jane", None]),
        [("$.customer_name", True, "only Jane, None allowed now")],
    ),
    "a tighter minimum": (
        lambda s: quantity(s).update(minimum=2),
        [("$.items[].quantity", True, "minimum tightened from 1 to 2")],
    ),
    "a looser minimum": (
        lambda s: quantity(s).update(minimum=-1),
        [("$.items[].quantity", False, "minimum loosened from 1 to -1")],
    ),
    "no minimum": (lambda s: price(s).pop("minimum"), [("$.items[].price", False, "minimum loosened from 0 to none")]),
    "a minimum excluded": (
        lambda s: (price(s).pop("minimum"), price(s).update(exclusiveMinimum=0)),
        [("$.items[].price", True, "minimum tightened from 0 to 0 (excluded)")],
    ),
    "a maximum included": (
        lambda s: (price(s).pop("exclusiveMaximum"), price(s).update(maximum=1e29)),
        [("$.items[].price", False, "maximum loosened from 1e+29 (excluded) to 1e+29")],
    ),
    "a longest name": (
        lambda s: customer_name(s).update(maxLength=80),
        [("$.customer_name", True, "maxLength tightened from none to 80")],
    ),
    "empty ids": (lambda s: field("order_id")(s).pop("minLength"), [("$.order_id", False, "minLength loosened from 1 to none")]),
    "no items": (lambda s: items(s).update(minItems=0), [("$.items", False, "minItems loosened from 1 to 0")]),
    "two items": (lambda s: items(s).update(minItems=2), [("$.items", True, "minItems tightened from 1 to 2")]),
    "a field of an item": (
        lambda s: (items(s)["items"]["properties"].update(size={"type": "string"}), items(s)["items"]["required"].append("size")),
        [("$.items[].size", True, "required field added")],
    ),
    "a date": (
        lambda s: field("order_date")(s).update(format="date"),
        [("$.order_date", True, 'format changed from "date-time" to "date"')],
    ),
    "any text for a date": (
        lambda s: field("order_date")(s).pop("format"),
        [("$.order_date", False, 'format "date-time" dropped')],
    ),
    "unknown fields refused": (
        lambda s: s.update(additionalProperties=False),
        [("$", True, "additionalProperties changed from true to false")],
    ),
    "unknown fields not spoken of": (lambda s: s.pop("additionalProperties"), []),
    "a keyword of another's": (
        lambda s: field("order_id")(s).update(pattern="^O"),
        [("$.order_id", True, 'pattern changed from none to "^O"')],
    ),
    "a step of one": (lambda s: price(s).update(multipleOf=1), [("$.items[].price", True, "multipleOf changed from none to 1")]),
    "anything": (
        lambda s: s["properties"].update(status=True),
        [("$.status", False, "type changed from string to any"), ("$.status", False, "any value allowed now")],
    ),
}


class TestChanges:
    @pytest.mark.parametrize("name", CASES)
    def test_what_is_said_of_a_change(self, name: str) -> None:
        """The path, whether it is breaking, and the change in words."""
        edit, expected = CASES[name]
        assert changes(schema_of("order"), edited(edit)) == expected

    @pytest.mark.parametrize("name", CASES)
    def test_the_way_back(self, name: str) -> None:
        """What is a change forth is one back; and one of the two is breaking, for one of the two takes less than the other."""
        edit, expected = CASES[name]
        back = changes(edited(edit), schema_of("order"))
        kept_open = name in ("an optional field", "a field less")  # fields that may hold anything while nobody names them
        assert bool(back) == bool(expected)
        assert not expected or kept_open or any(breaking for _, breaking, _ in expected + back)

    @pytest.mark.parametrize("name", [name for name, (_, said) in CASES.items() if not any(breaking for _, breaking, _ in said)])
    def test_under_a_compatible_schema_valid_events_stay_valid(self, name: str) -> None:
        """The verdict is true of events."""
        schema = edited(CASES[name][0])
        schema["properties"] = {name: {} if part is True else part for name, part in schema["properties"].items()}
        for data in (example_of(BY_NAME["order"]), encoded(VALID["order"]())):
            assert is_valid(schema, json.loads(data, parse_float=Decimal))

    def test_alternatives(self) -> None:
        """Another kind of address is compatible; one kind less is not."""
        old = schema_of("user_activity")
        more = edited(lambda s: field("ip_address")(s)["anyOf"].append({"format": "hostname"}), "user_activity")
        less = edited(lambda s: field("ip_address")(s)["anyOf"].pop(), "user_activity")
        none = edited(lambda s: field("ip_address")(s).pop("anyOf"), "user_activity")
        verdicts = [
            [change.breaking for change in compare(side_in(one), side_in(two))]
            for one, two in [(old, more), (more, old), (old, less), (old, none), (none, old)]
        ]
        assert verdicts == [[False], [True], [True], [False], [True]]

    def test_an_integer_that_may_be_zero(self) -> None:
        """Forbidding a value is breaking, allowing it is not."""
        held = edited(lambda s: field("quantity_change")(s).update({"not": {"const": 0}}), "inventory")
        tight, loose = side_in(held), side_in(schema_of("inventory"))
        assert [(c.breaking, c.change) for c in compare(tight, loose)] == [(False, 'not {"const":0} dropped')]
        assert [(c.breaking, c.change) for c in compare(loose, tight)] == [(True, 'not changed from none to {"const":0}')]


class TestEventTypes:
    def test_an_event_type_more_and_less(self) -> None:
        """A new type troubles nobody; a type that is gone makes dead letters of its messages."""
        smaller = side_in({**whole(), "oneOf": whole()["oneOf"][:2]})
        assert compare(smaller, side_in(whole())) == [Change("user_activity", "$", False, "event type added")]
        (change,) = compare(side_in(whole()), smaller)
        assert (change.event_type, change.breaking) == ("user_activity", True)

    def test_a_single_type_is_compared_with_its_own(self) -> None:
        """A file of one type says nothing of the others, on either side."""
        changed = edited(lambda s: status(s)["enum"].append("lost"))
        current = side_of(SHOP, whole=True)
        assert [change.path for change in compare(side_in(changed), current)] == ["$.status"]
        assert [change.breaking for change in compare(current, side_in(changed))] == [False]
        assert compare(side_in(schema_of("inventory")), current) == []

    def test_different_types_are_not_compared(self) -> None:
        """An order is no version of an inventory event."""
        with pytest.raises(ConfigError, match="Only one of the two has the event type"):
            compare(side_in(schema_of("order")), side_in(schema_of("inventory")))


class TestReleased:
    """tests/contract/released holds the contract of the last release: what producers rely on."""

    @pytest.mark.parametrize("kind", TYPES)
    def test_what_was_released_is_still_taken(self, kind: str) -> None:
        """No breaking change since the last release under the same version number; a stock move of 0 is taken since."""
        released = read_side(RELEASED / f"{kind}.v1.json", NAMES)
        found = compare(released, side_of(SHOP, whole=True))
        assert found == (
            [Change("inventory", "$.quantity_change", False, 'not {"const":0} dropped')] if kind == "inventory" else []
        )


REFUND = """
event = "refund"
version = 1
time = "happened"
[fields]
happened = "timestamp"
amount = { type = "numeric", min = 0, written_as = "number or string" }
reason = "string"
note = { type = "string", optional = true }
lines = { type = "list", of = "line" }
[records.line]
price = "numeric"
[[rules]]
check = "amount <= sum(lines.price)"
otherwise = "count"
[[tables]]
name = "fact_refund"
cluster = ["reason"]
[[tables]]
name = "fact_refund_line"
each = "lines"
columns = ["lines"]
"""


def refund(*edits: tuple[str, str]) -> Contract:
    text = REFUND
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return load_text(text, "refund.toml")


def seen_by_producers(old: Contract, new: Contract) -> list[tuple[str, bool, str]]:
    found = compare(side_of([old], whole=False), side_of([new], whole=False))
    return [(change.path, change.breaking, change.change) for change in found]


def seen_by_the_warehouse(old: Contract, new: Contract) -> list[tuple[str, bool, str]]:
    found = warehouse_changes([old], [new], ["refund"], "p.d")
    assert {change.event_type for change in found} <= {"refund"}
    assert all((change.remedy is not None) == change.breaking for change in found)
    return [(change.table, change.breaking, change.change) for change in found]


class TestContracts:
    """What a contract says, and no JSON Schema does."""

    @pytest.mark.parametrize(
        ("edit", "expected"),
        [
            (("min = 0", "min = 1"), ("$.amount", True, "min tightened from 0 to 1")),
            (("min = 0", "min = -1"), ("$.amount", False, "min loosened from 0 to -1")),
            (("min = 0, ", ""), ("$.amount", False, "min loosened from 0 to none")),
            (("min = 0, ", "min = 0, max = 9, "), ("$.amount", True, "max tightened from none to 9")),
            (
                ('"count"', '"refuse"'),
                ("$", True, "events that break 'amount <= sum(lines.price)': refused now, before counted"),
            ),
            (
                ('[[rules]]\ncheck = "amount <= sum(lines.price)"\notherwise = "count"\n', ""),
                ("$", False, "events that break 'amount <= sum(lines.price)': not a rule now, before counted"),
            ),
        ],
    )
    def test_a_change(self, edit: tuple[str, str], expected: tuple[str, bool, str]) -> None:
        """Bounds of numbers in strings, and rules."""
        assert seen_by_producers(refund(), refund(edit)) == [expected]

    def test_the_zone_of_moments(self) -> None:
        """Nothing is refused, but they are other moments."""
        utc, berlin = (
            refund(('"timestamp"', f'{{ type = "timestamp", without_offset = "{zone}" }}')) for zone in ("UTC", "Europe/Berlin")
        )
        assert seen_by_producers(utc, berlin) == [("$.happened", False, "without an offset in Europe/Berlin now, not in UTC")]
        assert [breaking for _, breaking, _ in seen_by_producers(utc, refund())] == [True]

    def test_an_event_type_with_two_versions(self) -> None:
        """Each is compared with its own; a new version is an addition, one that is gone refuses its messages."""
        one, two = refund(), refund(("version = 1", "version = 2"), ("min = 0", "min = 1"))
        old, new = side_of([one], whole=True), side_of([one, two], whole=True)
        assert compare(old, new) == [Change("refund v2", "$", False, "event type added")]
        assert [(c.event_type, c.breaking) for c in compare(new, old)] == [("refund v2", True)]
        assert [c.event_type for c in compare(old, side_of([two], whole=True))] == ["refund v2"]


class TestWarehouse:
    """The tables, as infra up would find them."""

    @pytest.mark.parametrize(
        ("edits", "expected"),
        [
            ([], []),
            (
                [("[records", 'coupon = { type = "string", optional = true }\n[records')],
                [("fact_refund", False, "column coupon added (STRING): infra up adds it")],
            ),
            (
                [("[records", 'coupon = "string"\n[records')],
                [("fact_refund", True, "column coupon added (STRING NOT NULL): infra up refuses it")],
            ),
            (
                [('note = { type = "string", optional = true }\n', "")],
                [("fact_refund", False, "column note removed (STRING): infra up leaves it, and its new rows have NULL")],
            ),
            (
                [
                    ('price = "numeric"', 'price = "float"'),
                    ('[[rules]]\ncheck = "amount <= sum(lines.price)"\notherwise = "count"\n', ""),
                ],
                [
                    (
                        "fact_refund_line",
                        True,
                        "column price changed from NUMERIC NOT NULL to FLOAT64 NOT NULL: infra up refuses it",
                    )
                ],
            ),
            (
                [('reason = "string"', 'reason = { type = "string", optional = true }')],
                [("fact_refund", True, "column reason changed from STRING NOT NULL to STRING: infra up refuses it")],
            ),
            (
                [('note = { type = "string", optional = true }', 'note = "string"')],
                [("fact_refund", False, "column note changed from STRING to STRING NOT NULL: infra up leaves it as it is")],
            ),
            (
                [('cluster = ["reason"]\n', "")],
                [("fact_refund", False, "clustering changed from reason to none: infra up changes it")],
            ),
            (
                [('name = "fact_refund_line"', 'name = "fact_line"')],
                [
                    ("fact_refund_line", False, "table no longer written: infra up leaves it as it is"),
                    ("fact_line", False, "table added: infra up creates it"),
                ],
            ),
            (
                [("version = 1", 'version = 1\nunknown_fields = "drop"')],
                [("fact_refund", False, "column unknown_fields removed (JSON): infra up leaves it, and its new rows have NULL")],
            ),
        ],
    )
    def test_a_change(self, edits: list[tuple[str, str]], expected: list[tuple[str, bool, str]]) -> None:
        """Which columns, and whether infra up can carry it out."""
        assert seen_by_the_warehouse(refund(), refund(*edits)) == expected

    def test_another_partition(self) -> None:
        """No table can be partitioned anew, and says what to do instead."""
        found = warehouse_changes([refund()], [refund(("version = 1", 'version = 1\ntime_prefix = "refund"'))], ["refund"], "p.d")
        assert (
            WarehouseChange(
                "refund",
                "fact_refund",
                True,
                "partition changed from event_date to refund_date: infra up refuses it",
                "Partitioning can't be changed: copy the rows of p.d.fact_refund elsewhere, drop it, and run: ecomflow infra up",
            )
            in found
        )

    def test_another_time(self) -> None:
        """The columns stay, and mean something else."""
        more = ("[records", 'sent = "timestamp"\n[records')
        assert seen_by_the_warehouse(refund(more), refund(more, ('time = "happened"', 'time = "sent"')))[-1] == (
            "all",
            True,
            "time changed from happened to sent",
        )

    def test_other_rows(self) -> None:
        """A row for each of something else is another table."""
        lists = ("[records", 'more = { type = "list", of = "line" }\n[records')
        tables = ('columns = ["lines"]', 'columns = ["lines"]\n[[tables]]\nname = "fact_more"\neach = "more"\ncolumns = ["more"]')
        names = (('"fact_refund_line"', '"x"'), ('"fact_more"', '"fact_refund_line"'), ('"x"', '"fact_more"'))
        found = seen_by_the_warehouse(refund(lists, tables), refund(lists, tables, *names))
        assert [one for one in found if one[1]] == [
            ("fact_refund_line", True, "a row for each more, before for each lines"),
            ("fact_more", True, "a row for each lines, before for each more"),
        ]


@pytest.mark.slow
class TestCommand:
    def test_nothing_changed(self, tmp_path: Path) -> None:
        """A file that contract show wrote, against what it would write now."""
        (tmp_path / "old.json").write_text(to_text(whole_published_schema(SHOP)))
        result = ecomflow("contract", "diff", "old.json", folder=tmp_path)
        assert (result.returncode, result.stdout) == (0, "No changes.\n")
        assert result.stderr == "A JSON Schema says nothing of tables: they were not compared.\n"

    def test_a_breaking_change(self, tmp_path: Path) -> None:
        """A table of all changes, exit code 10, and what to do."""
        (tmp_path / "old.json").write_text(to_text(published_schema(BY_NAME["order"])))
        new = edited(lambda s: (status(s)["enum"].remove("shipped"), status(s)["enum"].append("lost")))
        (tmp_path / "new.json").write_text(to_text(new))
        result = ecomflow("contract", "diff", "old.json", "new.json", folder=tmp_path)
        assert result.returncode == 10
        assert [line.split()[:3] for line in result.stdout.splitlines() if "$.status" in line] == [
            ["order", "$.status", "BREAKING"],
            ["order", "$.status", "compatible"],
        ]
        assert "1 of 2 changes are breaking" in result.stderr

    def test_json(self, tmp_path: Path) -> None:
        """--json says whether it is compatible, and each change; a compatible one ends well."""
        (tmp_path / "old.json").write_text(to_text(edited(lambda s: status(s)["enum"].remove("shipped"))))
        result = ecomflow("contract", "diff", "old.json", "--json", folder=tmp_path)
        change = {"event_type": "order", "path": "$.status", "breaking": False, "change": 'value "shipped" added'}
        assert (result.returncode, json.loads(result.stdout)) == (
            0,
            {"compatible": True, "changes": [change], "tables": None, "versions": []},
        )

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("{", "Input data was truncated"),
            ("[]", "Expected `object`, got `array`"),
            ("{}", "expected a property event_type with a const"),
            ('{"properties": {"event_type": {"enum": ["order"]}}}', "expected a property event_type with a const"),
            (
                '{"properties": {"event_type": {"const": "order"}, "x": 5}}',
                "Expected `bool | object`, got `int` - at `$.properties[...]`",
            ),
            (
                '{"properties": {"event_type": {"const": "order"}}, "required": 5}',
                "Expected `array`, got `int` - at `$.required`",
            ),
            ('{"oneOf": [5]}', "Expected `object`, got `int` - at `$.oneOf[0]`"),
        ],
    )
    def test_what_is_no_contract(self, text: str, what: str, tmp_path: Path) -> None:
        """The file is named, with what is wrong in it."""
        (tmp_path / "odd.json").write_text(text)
        with pytest.raises(ConfigError, match="is not the JSON Schema of an event") as caught:
            read_side(tmp_path / "odd.json", NAMES)
        assert what in caught.value.message

    def test_a_missing_file(self, tmp_path: Path) -> None:
        """A sentence and exit code 2."""
        result = ecomflow("contract", "diff", "old.json", folder=tmp_path)
        assert (result.returncode, result.stderr.splitlines()[0]) == (
            2,
            "Error: old.json can't be read: No such file or directory.",
        )

    def test_contract_files(self, tmp_path: Path) -> None:
        """Both views; what infra up can't carry out ends with exit code 10 although producers notice nothing."""
        (tmp_path / "old.toml").write_text(REFUND)
        (tmp_path / "new.toml").write_text(REFUND.replace('reason = "string"', 'reason = { type = "string", optional = true }'))
        result = ecomflow("contract", "diff", "old.toml", "new.toml", folder=tmp_path)
        assert result.returncode == 10
        assert "Changes for producers" in result.stdout
        assert "BREAKING" not in result.stdout.partition("Changes in the warehouse")[0]
        assert "ALTER COLUMN reason DROP NOT NULL" in " ".join(result.stdout.split())
        assert result.stderr.startswith("Error: 1 of 1 changes in the warehouse can't be carried out by infra up.\n")

    def test_a_file_against_the_contracts_in_force(self, tmp_path: Path) -> None:
        """The user's own order stands for the built-in one."""
        (tmp_path / "contracts").mkdir()
        own = shop_text("order").replace("customer_id      =", 'coupon = { type = "string", optional = true }\ncustomer_id =')
        own = own.replace('"customer_name",', '"customer_name", "coupon",')
        (tmp_path / "contracts/order.toml").write_text(own)
        (tmp_path / "old.toml").write_text(shop_text("order"))
        result = ecomflow("contract", "diff", "old.toml", "--json", folder=tmp_path)
        found = json.loads(result.stdout)
        assert (result.returncode, found["compatible"]) == (0, True)
        assert [change["change"] for change in found["changes"]] == ["optional field added"]
        assert [(one["table"], one["change"]) for one in found["tables"]] == [
            ("fact_order_header", "column coupon added (STRING): infra up adds it"),
            ("fact_order", "column coupon added (STRING): infra up adds it"),
        ]

    @pytest.mark.slow
    def test_folders(self, tmp_path: Path) -> None:
        """Each with the built-in types that it does not replace."""
        for name in ("old", "new"):
            (tmp_path / name).mkdir()
        (tmp_path / "new/refund.toml").write_text(REFUND)
        result = ecomflow("contract", "diff", "old", "new", folder=tmp_path)
        assert result.returncode == 0
        assert "event type added" in result.stdout
        assert ecomflow("contract", "diff", "new", "old", folder=tmp_path).returncode == 10

    def test_versions_that_can_not_stand_side_by_side(self, tmp_path: Path) -> None:
        """They are refused with what to do."""
        (tmp_path / "one.toml").write_text(REFUND)
        two = REFUND.replace("version = 1", "version = 2").replace('reason = "string"', 'reason = "integer"')
        (tmp_path / "two.toml").write_text(two)
        result = ecomflow("contract", "diff", "one.toml", "two.toml", folder=tmp_path)
        assert result.returncode == 10
        assert " ".join(result.stdout.split()).endswith(
            "These versions can't stand side by side: two.toml: tables.fact_refund.reason: expected STRING, as in one.toml, found"
            " INT64; give the column a name of its own."
        )
