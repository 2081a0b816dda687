"""The keys of a contract file and the types of its fields: what each means, its default and its limits. Pure data.

The loader knows no key and no limit but these; docs/contract-language.md is generated from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, get_args

from ecomflow.contract.language import (
    FIELD_TYPES,
    ColumnType,
    FieldType,
    Otherwise,
    ScalarType,
    UnknownFields,
    WrittenAs,
)

MAX_FILE_BYTES = 10 * 2**20
MAX_EVENT_NAME = 100
MAX_TYPE = 200
MAX_VALUES = 10_000
MAX_PATTERN = 1_000

# Column names: https://cloud.google.com/bigquery/docs/schemas#column_names, clustering:
# https://cloud.google.com/bigquery/docs/clustered-tables, columns of a table: https://cloud.google.com/bigquery/quotas
MAX_NAME = 300
MAX_TABLE_NAME = 1024
MAX_COLUMNS = 10_000
MAX_CLUSTER = 4
CLUSTERABLE: tuple[ColumnType, ...] = ("STRING", "INT64", "NUMERIC", "BOOL", "DATE", "TIMESTAMP")
RESERVED_PREFIXES = ("_TABLE_", "_FILE_", "_PARTITION", "_ROW_TIMESTAMP", "__ROOT__", "_COLIDENTIFIER", "_CHANGE_")
RESERVED_TABLES = ("dead_letters",)
# The folder of dead letters whose type is not known.
RESERVED_EVENTS = ("unknown",)
# A column can't have such a name unless each query quotes it.
# https://cloud.google.com/bigquery/docs/reference/standard-sql/lexical#reserved_keywords
_WORDS = """
    ALL AND ANY ARRAY AS ASC ASSERT_ROWS_MODIFIED AT BETWEEN BY CASE CAST COLLATE CONTAINS CREATE CROSS CUBE CURRENT DEFAULT
    DEFINE DESC DISTINCT ELSE END ENUM ESCAPE EXCEPT EXCLUDE EXISTS EXTRACT FALSE FETCH FOLLOWING FOR FROM FULL GROUP GROUPING
    GROUPS HASH HAVING IF IGNORE IN INNER INTERSECT INTERVAL INTO IS JOIN LATERAL LEFT LIKE LIMIT LOOKUP MERGE NATURAL NEW NO NOT
    NULL NULLS OF ON OR ORDER OUTER OVER PARTITION PRECEDING PROTO QUALIFY RANGE RECURSIVE RESPECT RIGHT ROLLUP ROWS SELECT SET
    SOME STRUCT TABLESAMPLE THEN TO TREAT TRUE UNBOUNDED UNION UNNEST USING WHEN WHERE WINDOW WITH WITHIN
"""
SQL_WORDS = frozenset(_WORDS.split())


class Key(NamedTuple):
    """A key of a TOML table. ``value`` is its value in TOML, ``types`` the types of fields that may have it."""

    name: str
    value: str
    default: str
    meaning: str
    limits: str = ""
    types: tuple[FieldType, ...] = FIELD_TYPES


class TypeFacts(NamedTuple):
    """A type of fields. ``json`` is its form in a message, ``column`` its type in a table, None if its parts are columns."""

    json: str
    column: ColumnType | None
    meaning: str


REQUIRED = "required"
NONE = "none"


def names_of(keys: Sequence[Key]) -> tuple[str, ...]:
    return tuple(key.name for key in keys)


def _one_of(options: Sequence[str]) -> str:
    return ", ".join(f'`"{option}"`' for option in options)


FILE_KEYS = (
    Key(
        "event",
        "string",
        REQUIRED,
        "The name of the event type, which dead letters, counters and commands use. Messages have it in `event_type`, unless "
        "`type` says otherwise.",
        f"1 to {MAX_EVENT_NAME} letters, digits, `_`, `-` and `.`; `-` and `.` not first. Not `{RESERVED_EVENTS[0]}`, which is "
        "the stream of messages without a known type.",
    ),
    Key(
        "type",
        "string",
        "the value of `event`",
        "The name of the type in messages, if it isn't that of `event`. The [envelope](contracts.md#envelopes) says where it is.",
        f"1 to {MAX_TYPE} printable characters, no blanks at either end. No other event type has it.",
    ),
    Key(
        "version",
        "integer",
        "`1`",
        "The version of the contract. Several may be in use at once, a file each.",
        "1 or more; different in each file of the same event.",
    ),
    Key("description", "string", NONE, "What has happened, in a sentence."),
    Key(
        "time",
        "string",
        REQUIRED,
        "The field that says when the event happened. Its UTC date partitions every table.",
        "A field of `[fields]` of type `timestamp` that is not optional.",
    ),
    Key(
        "time_prefix",
        "string",
        "`event`",
        "The prefix of the two columns that hold the time: `<prefix>_date` and `<prefix>_timestamp`.",
        "A name.",
    ),
    Key(
        "unknown_fields",
        _one_of(get_args(UnknownFields)),
        "`keep`",
        "What happens to fields that the contract does not name. `keep`: the event passes, and they are kept in the column "
        "`unknown_fields` of the first table. `drop`: the event passes, and they are lost. `refuse`: the event becomes a dead "
        "letter.",
    ),
    Key(
        "key",
        "list of strings",
        NONE,
        "The fields that identify what the event is about, such as the order. If it is a single one, each event that `publish` "
        "generates has a different value of it.",
        "Fields of `[fields]` that are not optional, and not of type `record`, `list`, `json` or `float`.",
    ),
    Key("fields", "table", REQUIRED, "`[fields]`: the fields of the event, in the order of the columns.", "1 field or more."),
    Key(
        "records",
        "tables",
        NONE,
        "`[records.<name>]`: the fields of a JSON object, for fields of type `record` and for the elements of a `list`.",
        "Each one is used by a field. None contains itself.",
    ),
    Key(
        "rules",
        "tables",
        NONE,
        "`[[rules]]`: comparisons between fields that a good event satisfies.",
    ),
    Key(
        "tables",
        "tables",
        REQUIRED,
        "`[[tables]]`: the fact tables. The first one has one row for each event, and the column `unknown_fields` if they are "
        "kept.",
        "1 table or more. Every field is in a column of one of them.",
    ),
)

_NUMBERS: tuple[FieldType, ...] = ("integer", "numeric", "float")
_SCALARS: tuple[ScalarType, ...] = get_args(ScalarType)

FIELD_KEYS = (
    Key(
        "type",
        "string",
        REQUIRED,
        'The type. `name = "string"` is short for `name = { type = "string" }`.',
        "One of the types above.",
    ),
    Key(
        "description",
        "string",
        NONE,
        "What the field means. It becomes the description of the column.",
        'For a field that becomes a column: one line without `"` and `\\`.',
    ),
    Key(
        "path",
        "string, or list of strings",
        "the field's name",
        "Where the value is in the message, if not under the field's name: keys with dots between them, from the object that "
        "the field belongs to. A list of keys if a key contains a dot.",
        "Keys without quotation marks, backslashes and control characters. Each field has a place of its own, not within that of "
        "another.",
    ),
    Key("optional", "`true` or `false`", "`false`", "Whether the field may be missing or `null`. Its column is then `NULLABLE`."),
    Key(
        "personal",
        "`true` or `false`",
        "`false`",
        "Whether the value is personal data, or all that is in it. It then appears in no error and no log; an error only says "
        "its JSON type.",
    ),
    Key(
        "default",
        "string, number, `true` or `false`",
        NONE,
        "The value of the column if the field is missing or `null`. It makes the field optional, and its column `REQUIRED`.",
        "A value of the field's type, and one that `values` and `pattern` allow.",
        ("string", "integer", "numeric", "float", "boolean"),
    ),
    Key("min", "number", NONE, "The smallest value that is allowed.", "An integer for `integer`; exact as NUMERIC.", _NUMBERS),
    Key("max", "number", NONE, "The largest value that is allowed.", "Like `min`, and not smaller.", _NUMBERS),
    Key(
        "min_length",
        "integer",
        "`1`; for optional fields `0`",
        "The minimum number of characters. A required string can't be empty unless this is 0.",
        "0 or more.",
        ("string",),
    ),
    Key(
        "max_length", "integer", NONE, "The maximum number of characters.", "1 or more, and not below `min_length`.", ("string",)
    ),
    Key(
        "values",
        "list of strings",
        NONE,
        "The strings that are allowed.",
        f"1 to {MAX_VALUES:,} different ones.",
        ("string",),
    ),
    Key(
        "pattern",
        "string",
        NONE,
        "A regular expression, as in Python, that the whole string matches.",
        f"At most {MAX_PATTERN:,} characters.",
        ("string",),
    ),
    Key(
        "without_offset",
        "string",
        "`refuse`",
        "What a time without an offset means: it is refused, or it is in this time zone.",
        "`refuse`, or a name of the time zone database, such as `UTC` or `Europe/Berlin`.",
        ("timestamp",),
    ),
    Key(
        "written_as",
        _one_of(get_args(WrittenAs)),
        "`string` for `string`, else `number`",
        "How the value is written in JSON. A `string` written as a number is an integer, such as an id; its column is STRING.",
        "A `string` with `values` is written as a string.",
        ("string", "integer", "numeric"),
    ),
    Key(
        "fake",
        "string",
        NONE,
        "The [Faker provider](https://faker.readthedocs.io/en/stable/providers.html) of the values that `publish` generates, "
        "such as `email`, `city` or `company`. Without it they follow from the type.",
        "A provider that needs no arguments; `publish` checks it.",
        tuple(kind for kind in _SCALARS if kind != "json"),
    ),
    Key(
        "of",
        "string",
        REQUIRED,
        "The name of the record; for a list also a scalar type.",
        "No list of lists.",
        ("record", "list"),
    ),
    Key("min_items", "integer", "`0`", "The minimum number of elements.", "0 or more.", ("list",)),
    Key("max_items", "integer", NONE, "The maximum number of elements.", "1 or more, and not below `min_items`.", ("list",)),
)

RULE_KEYS = (
    Key(
        "check",
        "string",
        REQUIRED,
        "A comparison that a good event satisfies, in the [expression language](#expressions).",
        "Fields of type `integer` and `numeric`, which are exact. If one of them is missing and has no default, the rule is not "
        "applied.",
    ),
    Key(
        "otherwise",
        _one_of(get_args(Otherwise)),
        "`refuse`",
        "What happens to an event that breaks the rule. `count`: it passes, and the counter `rules_broken/<event>/<rule>` counts "
        "it. `refuse`: it becomes a dead letter.",
    ),
    Key("name", "string", "`rule_<number>`", "What the counter is called.", "A name; each rule has a different one."),
)

TABLE_KEYS = (
    Key(
        "name",
        "string",
        REQUIRED,
        "The name of the table. Its view is called `<name>_unique`.",
        f"At most {MAX_TABLE_NAME} letters, digits and `_`, not beginning with a digit. Not `{RESERVED_TABLES[0]}`, and not a "
        "table or view of this or another event type.",
    ),
    Key("description", "string", "made from `each`", "What a row is.", 'One line without `"` and `\\`.'),
    Key(
        "each",
        "string",
        NONE,
        "The list of which each element gets a row. Without it, each event gets one row.",
        "A field of type `list`; within records, with dots. Not in the first table.",
    ),
    Key(
        "cluster",
        "list of strings",
        NONE,
        "The columns that the table is clustered by, most important first.",
        f"At most {MAX_CLUSTER} different columns of this table, of type {', '.join(CLUSTERABLE)}.",
    ),
    Key(
        "columns",
        "list of strings and tables",
        "every field outside of lists, and those of `each`",
        "The columns, in order. A string is the name of a field; a record or a list is replaced by its fields. Every table also "
        "has the [columns of all tables](#columns-of-every-table).",
        f"At most {MAX_COLUMNS:,}, different in more than case. Names follow the [rules below](#names).",
    ),
)

COLUMN_KEYS = (
    Key(
        "name",
        "string",
        "the names on the way to the field, joined by `_`",
        "The name of the column.",
        "A [column name](#names). Required for a product and a constant.",
    ),
    Key(
        "value",
        "string or number",
        "the field called `name`",
        "What the column holds: a field, the product of two fields (`lines.quantity * lines.price`), a number, or a `'string'`.",
        "In a product, one field is an `integer`, the other an `integer` or `numeric`, and both belong to the event, or both to "
        "the element.",
    ),
    Key("description", "string", "that of the field", "The description of the column.", 'One line without `"` and `\\`.'),
)

TYPES: dict[FieldType, TypeFacts] = {
    "string": TypeFacts("string", "STRING", "Text. Not empty, unless it is optional or has `min_length = 0`."),
    "integer": TypeFacts("number without a decimal point or an exponent", "INT64", "An integer of 64 bits. `2.0` is refused."),
    "numeric": TypeFacts(
        "number",
        "NUMERIC",
        "An exact decimal, such as an amount: at most 29 integer and 9 decimal digits. It is never rounded.",
    ),
    "boolean": TypeFacts("`true` or `false`", "BOOL", "True or false."),
    "float": TypeFacts("number", "FLOAT64", "A binary floating-point number of 64 bits, for what need not be exact."),
    "date": TypeFacts("string, `2025-12-01`", "DATE", "A calendar date."),
    "timestamp": TypeFacts(
        "string, RFC 3339: `2025-12-01T10:15:30Z`",
        "TIMESTAMP",
        "A moment, stored in UTC. The offset is `Z`, `+01:00`, `+0100` or `+01`; `T` may be a blank, `T` and `Z` in lower case. "
        "Digits beyond microseconds are cut off. A leap second (`23:59:60`) is refused as `out_of_range`.",
    ),
    "ip_address": TypeFacts("string", "STRING", "An IPv4 or IPv6 address without a zone."),
    "json": TypeFacts("anything", "JSON", "Any JSON value, kept as it is."),
    "record": TypeFacts("object", None, "An object with the fields of `[records.<name>]`, which become columns."),
    "list": TypeFacts("array", None, "An array of records or of scalars, for a table with `each`."),
}
