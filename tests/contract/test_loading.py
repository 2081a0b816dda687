# ruff: noqa: E501  # a mistake and its sentence are a line
"""Contract files in; contracts, or every mistake in them at once, each a sentence, out."""

from __future__ import annotations

import pickle
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomflow.contract.keys import FILE_KEYS, names_of
from ecomflow.contract.language import Constant, Operation, Sum
from ecomflow.contract.language import Path as FieldPath
from ecomflow.contract.loading import SHOP, contracts_in_force, load_file, load_folder, load_text, read_contract
from ecomflow.errors import ConfigError, NotFoundError
from tests.support.compiled import contract_of, to_toml
from tests.support.contract import property_test

REFUND = """
event = "refund"                       # the value of event_type
version = 1
description = "Money given back for lines of an order."
time = "refunded_at"                   # its UTC date partitions the tables
unknown_fields = "keep"                # keep (the default) | refuse | drop

[fields]
refund_id   = { type = "string", description = "The refund." }
order_id    = "string"
refunded_at = { type = "timestamp", without_offset = "UTC" }
amount      = { type = "numeric", min = 0, written_as = "number or string" }
currency    = { type = "string", pattern = "[A-Z]{3}", default = "EUR" }
reason      = { type = "string", values = ["damaged", "late", "other"] }
email       = { type = "string", optional = true, personal = true, path = "customer.email" }
lines       = { type = "list", min_items = 1, of = "line" }

[records.line]
product_id = "string"
quantity   = { type = "integer", min = 1 }
price      = { type = "numeric", min = 0 }

[[rules]]
check = "amount <= sum(lines.quantity * lines.price)"
otherwise = "count"

[[tables]]
name = "fact_refund"
cluster = ["order_id", "reason"]

[[tables]]
name = "fact_refund_line"
each = "lines"
cluster = ["product_id"]
columns = [
  "refund_id", "lines.product_id", "lines.quantity", "lines.price",
  { name = "total_amount", value = "lines.quantity * lines.price", description = "quantity x price, exact" },
]
"""

# The shortest contract, to which each mistake is brought.
SHORT = """
event = "e"
time = "at"
[fields]
at = "timestamp"
id = "string"
n = "integer"
[[tables]]
name = "fact_e"
"""
LISTS = """
event = "e"
time = "at"
[fields]
at = "timestamp"
n = "integer"
m = "numeric"
x = "float"
lines = { type = "list", of = "line" }
tags = { type = "list", of = "string" }
[records.line]
q = "integer"
p = "numeric"
[[tables]]
name = "fact_e"
[[tables]]
name = "fact_line"
each = "lines"
[[tables]]
name = "fact_tag"
each = "tags"
columns = ["tags"]
"""


def short(old: str, new: str, base: str = SHORT) -> str:
    assert old in base
    return base.replace(old, new, 1)


def field(text: str) -> str:
    return short('id = "string"', f"id = {text}")


def table(text: str) -> str:
    return SHORT + text + "\n"


def rule(check: str) -> str:
    return LISTS + f'[[rules]]\ncheck = "{check}"\n'


TYPES = "string, integer, numeric, boolean, float, date, timestamp, ip_address, json, record, list"
MISTAKES: list[tuple[str, str]] = [
    # the file
    ("event = ", "not valid TOML: Invalid value (at end of document)"),
    ("a = 1\na = 2", "not valid TOML: Cannot overwrite a value (at end of document)"),
    (short("time =", 'tine = "at"\ntime ='), "unknown key 'tine', did you mean 'time'?"),
    (
        short("time =", "zzz = 1\ntime ="),
        "unknown key 'zzz'; known are event, type, version, description, time, time_prefix, unknown_fields, key, fields, records, rules, tables",
    ),
    (short('event = "e"\n', ""), "expected event, the value of event_type, found none"),
    (short('"e"', '"../e"'), "event: expected 1 to 100 letters, digits, _, - and ., not beginning with - or ., found '../e'"),
    (
        short('"e"', '"unknown"'),
        "event: expected another name: this one is the stream of messages without a known type, found 'unknown'",
    ),
    (short('"e"', "7"), "event: expected the value of event_type, found 7"),
    (short("time =", "version = 0\ntime ="), "version: expected an integer, 1 or more, found 0"),
    (
        short("time =", 'unknown_fields = "kep"\ntime ='),
        "unknown_fields: expected one of keep, refuse, drop, found 'kep', did you mean 'keep'?",
    ),
    (short("time =", 'key = ["idd"]\ntime ='), "key: expected names of fields, found 'idd', did you mean 'id'?"),
    (short("time =", 'time_prefix = "a b"\ntime ='), "time_prefix: expected a name of letters, digits and _, found 'a b'"),
    # time
    (short('time = "at"\n', ""), "expected time, the name of a timestamp field (at), found none"),
    (short('"at"', '"att"'), "time: expected the name of a timestamp field, found 'att', did you mean 'at'?"),
    (short('"at"', '"id"'), "time: expected the name of a timestamp field, found id, which is string"),
    (
        short('at = "timestamp"', 'at = { type = "timestamp", optional = true }'),
        "time: expected a field that is not optional, because its date partitions the tables, found at, which is optional",
    ),
    # fields
    (
        short('[fields]\nat = "timestamp"\nid = "string"\nn = "integer"\n', ""),
        "fields: expected a table of one or more fields, found none",
    ),
    (field('"sting"'), f"fields.id.type: expected one of {TYPES}, found 'sting', did you mean 'string'?"),
    (field("5"), "fields.id: expected a type, or a table with one, found 5"),
    (field("{ optional = true }"), f"fields.id: a field needs a type: {TYPES}"),
    (field('{ type = "string", patern = "x" }'), "fields.id: unknown key 'patern', did you mean 'pattern'?"),
    (
        field('{ type = "string", min = 1 }'),
        "fields.id.min: expected a field of type integer, numeric or float, found one of type string",
    ),
    (field('{ type = "integer", min = 1.5 }'), "fields.id.min: expected an integer of 64 bits, found 1.5"),
    (
        field('{ type = "numeric", min = "none" }'),
        "fields.id.min: expected a number of at most 29 integer and 9 decimal digits, found 'none'",
    ),
    (field('{ type = "integer", min = 5, max = 4 }'), "fields.id.max: expected at least min (5), found 4"),
    (field('{ type = "string", min_length = -1 }'), "fields.id.min_length: expected an integer, 0 or more, found -1"),
    (field('{ type = "string", optional = "yes" }'), "fields.id.optional: expected true or false, found 'yes'"),
    (field('{ type = "string", values = [] }'), "fields.id.values: expected at least one string, found none"),
    (field('{ type = "string", values = ["a", "a"] }'), "fields.id.values: expected different strings, found 'a' twice"),
    (field('{ type = "string", values = ["a"], default = "b" }'), "fields.id.default: expected one of a, found 'b'"),
    (
        field('{ type = "string", pattern = "(" }'),
        "fields.id.pattern: expected a regular expression, found '(' (missing ), unterminated subpattern at position 0)",
    ),
    (field('{ type = "integer", default = "1" }'), "fields.id.default: expected an integer, found '1'"),
    (
        field('{ type = "timestamp", without_offset = "Europe/Berln" }'),
        "fields.id.without_offset: expected refuse, or a time zone such as UTC or Europe/Berlin, found 'Europe/Berln', did you mean 'Europe/Berlin'?",
    ),
    (
        field('{ type = "numeric", written_as = "text" }'),
        "fields.id.written_as: expected one of number, string, number or string, found 'text'",
    ),
    (
        field('{ type = "string", path = "a..b" }'),
        "fields.id.path: expected keys with dots between them, or a list of keys, found 'a..b'",
    ),
    (
        field('{ type = "string", path = "event_type" }'),
        "fields.id: expected another key, found 'event_type', which names the type of the event",
    ),
    (field('{ type = "string", path = "n" }'), "fields.n: has the same place in the message as id: n"),
    (field('{ type = "string", path = "n.x" }'), "fields.n: id is inside n: make n a record, or remove it"),
    (
        short('id = "string"', '"order-id" = "string"'),
        "fields.'order-id': expected a name of letters, digits and _ that does not begin with a digit, of at most 300 characters, found 'order-id'; if the key in the message is different, use path",
    ),
    (field('"record"'), "fields.id: a record needs 'of', the name of its record"),
    (
        field('{ type = "list", of = "list" }'),
        "fields.id.of: expected a scalar type or a record: a list of lists can't be a table; use type json, found 'list'",
    ),
    (field('{ type = "list", of = "line" }'), "fields.id.of: expected a scalar type or a record of this file, found 'line'"),
    # records
    (
        field('{ type = "record", of = "r" }') + '[records.r]\nr = { type = "record", of = "r" }\n',
        "records.r.r: a record can't contain itself; use type json",
    ),
    (
        field('{ type = "list", of = "r" }') + '[records.r]\nl = { type = "list", of = "string" }\n',
        "r.l: a list inside the list id can't be a table; use type json",
    ),
    (SHORT + '[records.r]\na = "string"\n', "records.r: no field uses this record"),
    # tables
    (short('[[tables]]\nname = "fact_e"\n', ""), "expected at least one table, [[tables]], found none"),
    (short('name = "fact_e"', 'nam = "fact_e"'), "tables[0]: unknown key 'nam', did you mean 'name'?"),
    (
        short("fact_e", "fact-e"),
        "tables[0].name: expected letters, digits and _, at most 1024 of them, not beginning with a digit, found 'fact-e'",
    ),
    (
        short("fact_e", "dead_letters"),
        "tables[0].name: expected another name: ecomflow uses this one itself, found 'dead_letters'",
    ),
    (table('[[tables]]\nname = "Fact_E"'), "tables[1].name: two tables are called Fact_E"),
    (table('[[tables]]\nname = "fact_e_unique"'), "tables[1].name: fact_e_unique is the name of the view of fact_e"),
    (
        table('description = "say \\"x\\""'),
        "tables[0].description: expected one line without quotation marks and backslashes, found 'say \"x\"'",
    ),
    (table('each = "n"'), "tables[0].each: expected the name of a list, found 'n', which is integer"),
    (
        short('name = "fact_e"', 'name = "fact_e"\neach = "lines"', LISTS),
        "tables[0].each: expected a table with one row for each event first: an event with an empty list would otherwise leave no row, found 'lines'",
    ),
    (table('cluster = ["idd"]'), "tables[0].cluster: expected columns of this table, found 'idd', did you mean 'id'?"),
    (table('cluster = ["id", "id"]'), "tables[0].cluster: expected different columns, found id twice"),
    (table('cluster = ["a", "b", "c", "d", "e"]'), "tables[0].cluster: expected at most 4 columns, found 5"),
    (
        short('name = "fact_e"', 'name = "fact_e"\ncluster = ["x"]', LISTS),
        "tables[0].cluster: expected columns of the types STRING, INT64, NUMERIC, BOOL, DATE, TIMESTAMP, found x, which is FLOAT64",
    ),
    (table('columns = ["id", "n", "m"]'), "tables[0].columns[2]: expected a field of the event, found 'm'"),
    (table('columns = ["id", "n", "id"]'), "tables[0].columns: two columns are called id"),
    (
        table('columns = ["id", "n", { name = "ID", value = "id" }]'),
        "tables[0].columns: two columns are called ID, like id: BigQuery ignores case",
    ),
    (
        table('columns = ["id", "n", { name = "event_date", value = "n" }]'),
        "tables[0].columns: two columns are called event_date",
    ),
    (
        table('columns = ["id", "n", { name = "line_number", value = "n" }]'),
        "tables[0].columns: expected another name: every table has line_number already, found 'line_number'; rename the column",
    ),
    (
        table('columns = ["id", { name = "_PARTITIONTIME", value = "n" }]'),
        "tables[0].columns: expected a name without BigQuery's reserved prefixes, found '_PARTITIONTIME'",
    ),
    (
        table('columns = ["id", { name = "Order", value = "n" }]'),
        "tables[0].columns: expected a name that is not a reserved word of SQL, found 'Order'; rename the column, or rename the field and use path",
    ),
    (
        table(f'columns = ["id", {{ name = "{"x" * 301}", value = "n" }}]'),
        f"tables[0].columns: expected a name of letters, digits and _, at most 300 of them, found '{'x' * 56}...",
    ),
    (table('columns = ["id", { value = "n * n" }]'), "tables[0].columns[1]: a column that is not a field needs a name"),
    (
        table('columns = ["id", { name = "d", value = "n + n" }]'),
        "tables[0].columns[1].value: expected a field, the product of two fields, or a constant; for anything else, create a view, found 'n + n'",
    ),
    (
        table('columns = ["id", { name = "d", value = "n * id" }]'),
        "tables[0].columns[1].value: expected an integer field times an integer or numeric one, whose product is exact, found 'n * id'",
    ),
    (
        table('columns = ["id", { name = "d", value = "n *" }]'),
        "tables[0].columns[1].value: expected a field, a number or a 'string', found the end",
    ),
    (
        table('columns = ["id"]'),
        "fields.n: no table has a column for it: add it to the columns of a table, or remove it",
    ),
    (
        short('columns = ["tags"]', 'columns = ["lines.q", "tags"]', LISTS),
        "tables[2].columns[0]: expected a field of the event, or one of an element in a table with each = 'lines', found 'lines.q'",
    ),
    # rules
    (rule("n"), "rules[0].check: expected a comparison (<, <=, ==, !=, >=, >), found the end"),
    (rule("n <= $"), "rules[0].check: expected an expression of fields, numbers, + - * and sum(), found '$'"),
    (rule("n <= k"), "rules[0].check: expected fields of the event, found 'k'"),
    (rule("n <= x"), "rules[0].check: expected integer and numeric fields, which are exact, found x, which is float"),
    (rule("n <= lines.q"), "rules[0].check: expected sum(...) around fields of the list lines, found lines.q"),
    (
        rule("n <= sum(m)"),
        "rules[0].check: expected a sum over the fields of one list, found a sum over 0 lists and fields of the event",
    ),
    (rule("n <= sum(sum(lines.q))"), "rules[0].check: expected no sum within a sum, found one"),
    (rule("n <= 'a'"), "rules[0].check: expected numbers, found the string 'a'"),
    (
        LISTS + '[[rules]]\ncheck = "n > 0"\notherwise = "warn"\n',
        "rules[0].otherwise: expected one of count, refuse, found 'warn'",
    ),
    (LISTS + '[[rules]]\nchekc = "n > 0"\n', "rules[0]: unknown key 'chekc', did you mean 'check'?"),
]


class TestMistakes:
    @pytest.mark.parametrize(("text", "sentence"), MISTAKES, ids=[sentence[:60] for _, sentence in MISTAKES])
    def test_each_is_a_sentence(self, text: str, sentence: str) -> None:
        """File, place, what was expected and what was found; exit code 2."""
        with pytest.raises(ConfigError) as caught:
            load_text(text, "e.toml")
        assert f"e.toml: {sentence}" in caught.value.message.splitlines()
        assert caught.value.exit_code == 2

    def test_the_bases_have_none(self) -> None:
        """Each sentence above is of its mistake alone."""
        assert read_contract(SHORT, "e.toml")[1] == read_contract(LISTS, "e.toml")[1] == []

    def test_all_of_a_file_are_told_together(self) -> None:
        """Not the first only."""
        text = 'event = "e"\nversion = "x"\ntime = "when"\n[fields]\na = "sting"\nb = { type = "integer", pattern = "x" }\n'
        with pytest.raises(ConfigError) as caught:
            load_text(text, "e.toml")
        assert caught.value.message.splitlines() == [
            f"e.toml: fields.a.type: expected one of {TYPES}, found 'sting', did you mean 'string'?",
            "e.toml: fields.b.pattern: expected a field of type string, found one of type integer",
            "e.toml: time: expected the name of a timestamp field, found 'when'",
            "e.toml: version: expected an integer, 1 or more, found 'x'",
        ]

    def test_ten_thousand_columns(self) -> None:
        """BigQuery's bound, those of every table counted."""
        entries = ", ".join(f'{{ name = "c{n}", value = "n" }}' for n in range(10_000))
        with pytest.raises(ConfigError, match=r"tables\[0\].columns: expected at most 10000 columns, found 10006"):
            load_text(table(f'columns = ["id", {entries}]'), "e.toml")


class TestFolder:
    def test_each_file_is_a_contract(self, tmp_path: Path) -> None:
        """By the name of the file."""
        (tmp_path / "b.toml").write_text(REFUND)
        (tmp_path / "a.toml").write_text(SHORT)
        (tmp_path / "notes.md").write_text("not read")
        assert [one.event for one in load_folder(tmp_path)] == ["e", "refund"]

    def test_mistakes_of_all_files_and_between_them(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One event twice, one table of two events, and what is wrong in one file alone; each names its file as a path."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a.toml").write_text(SHORT)
        (tmp_path / "b.toml").write_text(SHORT)
        (tmp_path / "c.toml").write_text(SHORT.replace('"e"', '"other"'))
        (tmp_path / "d.toml").write_bytes(b"event = '\xff'")
        with pytest.raises(ConfigError) as caught:
            load_folder(Path())
        assert caught.value.message.splitlines() == [
            "d.toml: expected UTF-8, found the byte 0xff at 9",
            "b.toml: event: a.toml already has version 1 of e",
            "c.toml: tables: fact_e is already a table of e (a.toml)",
        ]

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        """A file or a folder that does not exist has an exit code of its own."""
        for load in (load_file, load_folder):
            with pytest.raises(NotFoundError):
                load(tmp_path / "none")


class TestTheLanguage:
    def test_the_example_in_full(self) -> None:
        """Every key, and the columns that follow."""
        contract = load_text(REFUND, "refund.toml")
        header, line = contract.tables
        assert [(column.name, column.type, column.required) for column in header.columns] == [
            ("event_id", "STRING", True),
            ("refund_id", "STRING", True),
            ("order_id", "STRING", True),
            ("event_date", "DATE", True),
            ("event_timestamp", "TIMESTAMP", True),
            ("amount", "NUMERIC", True),
            ("currency", "STRING", True),
            ("reason", "STRING", True),
            ("email", "STRING", False),
            ("unknown_fields", "JSON", False),
            ("ingestion_timestamp", "TIMESTAMP", True),
        ]
        assert [column.name for column in line.columns] == [
            *("event_id", "line_number", "refund_id", "product_id", "quantity", "price", "total_amount"),
            *("event_date", "event_timestamp", "ingestion_timestamp"),
        ]
        lines = FieldPath(("lines", "quantity")), FieldPath(("lines", "price"))
        assert contract.rules[0].check.right == Sum(Operation("*", *lines))
        assert pickle.loads(pickle.dumps(contract)) == contract

    def test_what_a_string_is_without_more(self) -> None:
        """Not empty where it must be there; an optional one may be empty; the file may say otherwise."""
        contract = contract_of(
            '[fields]\nat = "timestamp"\na = "string"\nb = { type = "string", optional = true }\nc = { type = "string", min_length = 0 }'
        )
        assert [one.min_length for one in contract.fields] == [0, 1, 0, 0]

    def test_constants_and_their_types(self) -> None:
        """Numbers and texts."""
        columns = (
            'columns = ["id", "n", { name = "a", value = "\'web\'" }, { name = "b", value = 1 }, { name = "c", value = "1.50" }]'
        )
        contract = load_text(table(columns), "e.toml")
        found = {column.name: (column.type, column.value) for column in contract.tables[0].columns}
        assert (found["a"], found["b"]) == (("STRING", Constant("web")), ("INT64", Constant(1)))
        assert found["c"] == ("NUMERIC", Constant(Decimal("1.50")))


NAMES = st.sampled_from(["a", "b", "at", "lines", "event_type", "Ä", "", "x" * 400, "event_date", "line"])
TEXTS = st.sampled_from(
    ["string", "integer", "list", "record", "timestamp", "numeric", "json", "a", "lines.a", "a * b", "sum(a) <= 1", "(" * 90]
)
VALUES: Any = st.recursive(
    TEXTS | NAMES | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.dates() | st.datetimes(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            NAMES | st.sampled_from(["type", "of", "path", "min", "name", "columns", "each", "value", "default", "pattern"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)
ANY_KEYS = (*names_of(FILE_KEYS), "other")


class TestAnyFile:
    @pytest.mark.slow
    @property_test(300)
    @given(st.dictionaries(st.sampled_from(ANY_KEYS), VALUES, max_size=8))
    def test_any_toml_is_a_contract_or_sentences(self, values: dict[str, Any]) -> None:
        """Whatever stands under the keys of the language."""
        text = "\n".join(f"{key} = {to_toml(part)}" for key, part in values.items())
        tomllib.loads(text)
        contract, mistakes = read_contract(text, "f.toml")
        assert (contract is None) == bool(mistakes)
        assert all(sentence.startswith("f.toml: ") and "\n" not in sentence for sentence in mistakes)

    @property_test(300)
    @given(st.data())
    def test_a_contract_with_something_replaced(self, data: st.DataObject) -> None:
        """A good file in which one value is another."""
        values: Any = tomllib.loads(REFUND)
        place = values
        while True:
            key = data.draw(st.sampled_from(sorted(place)) if isinstance(place, dict) else st.sampled_from(range(len(place))))
            if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
                place[key] = data.draw(VALUES)
                break
            place = place[key]
        text = "\n".join(f"{key} = {to_toml(part)}" for key, part in values.items())
        contract, mistakes = read_contract(text, "f.toml")
        assert (contract is None) == bool(mistakes)

    @property_test(200)
    @given(st.binary(max_size=30) | st.text(max_size=30).map(str.encode))
    def test_any_bytes(self, data: bytes) -> None:
        """A text that is no TOML, too."""
        contract, mistakes = read_contract(data.decode(errors="replace"), "f.toml")
        assert contract is None
        assert mistakes


class TestInForce:
    def test_without_a_folder(self, tmp_path: Path) -> None:
        """The built-in events that are wanted, in the shop's order."""
        found = contracts_in_force(tmp_path / "contracts", ["user_activity", "order"])
        assert [contract.event for contract in found] == ["order", "user_activity"]

    def test_a_file_of_ones_own_replaces_the_built_in_one(self, tmp_path: Path) -> None:
        """It is found by its event, whatever the file is called."""
        (tmp_path / "stock.toml").write_text(SHORT.replace('event = "e"', 'event = "inventory"'))
        found = {contract.event: contract.file for contract in contracts_in_force(tmp_path, SHOP)}
        assert found == {"order": "order.toml", "user_activity": "user_activity.toml", "inventory": str(tmp_path / "stock.toml")}

    def test_a_table_of_a_built_in_event(self, tmp_path: Path) -> None:
        """Two events can't write one table."""
        (tmp_path / "e.toml").write_text(SHORT.replace('name = "fact_e"', 'name = "fact_order"'))
        with pytest.raises(ConfigError, match=r"fact_order is already a table of order \(order\.toml\)"):
            contracts_in_force(tmp_path, SHOP)

    def test_an_unknown_built_in_event(self, tmp_path: Path) -> None:
        """The nearest one is suggested."""
        with pytest.raises(ConfigError, match=r"builtin_events names 'ordr': .*, did you mean 'order'\?"):
            contracts_in_force(tmp_path, ["ordr"])

    def test_no_event_at_all(self, tmp_path: Path) -> None:
        """Nothing could be decoded."""
        with pytest.raises(ConfigError, match="There is no event type"):
            contracts_in_force(tmp_path, [])
