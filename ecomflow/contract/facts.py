"""The five fact tables as Arrow schemas: the columns of the DDL in its order, the types that the Storage Write API takes.

NUMERIC is decimal128(38, 9), TIMESTAMP microseconds in the zone UTC, as in Google's table of supported Arrow types
(https://cloud.google.com/bigquery/docs/supported-data-types). A test holds these schemas equal to the DDL in
``ecomflow/sql/tables``.
"""

from __future__ import annotations

import pyarrow as pa

NUMERIC = pa.decimal128(38, 9)
TIMESTAMP = pa.timestamp("us", "UTC")

_STRING = pa.string()
_INT64 = pa.int64()
_DATE = pa.date32()


def _schema(*columns: tuple[str, pa.DataType] | tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=bool(rest and rest[0])) for name, kind, *rest in columns])


_NULLABLE = True
_ADDRESS = (("shipping_address_street", _STRING), ("shipping_address_city", _STRING), ("shipping_address_country", _STRING))
_ORDER_TIME = (("order_date", _DATE), ("order_timestamp", TIMESTAMP))
_EVENT_TIME = (("event_date", _DATE), ("event_timestamp", TIMESTAMP))
_INGESTION = ("ingestion_timestamp", TIMESTAMP)

FACT_ORDER_HEADER = _schema(
    ("event_id", _STRING),
    ("order_id", _STRING),
    ("customer_id", _STRING),
    ("customer_name", _STRING, _NULLABLE),
    *_ORDER_TIME,
    ("status", _STRING),
    *_ADDRESS,
    ("total_amount", NUMERIC),
    _INGESTION,
)
FACT_ORDER_ITEM = _schema(
    ("event_id", _STRING),
    ("order_id", _STRING),
    ("line_number", _INT64),
    ("product_id", _STRING),
    ("product_name", _STRING),
    ("quantity", _INT64),
    ("price", NUMERIC),
    ("total_amount", NUMERIC),
    *_ORDER_TIME,
    _INGESTION,
)
FACT_ORDER = _schema(
    ("event_id", _STRING),
    ("order_id", _STRING),
    ("line_number", _INT64),
    ("customer_id", _STRING),
    ("customer_name", _STRING, _NULLABLE),
    *_ORDER_TIME,
    ("status", _STRING),
    *_ADDRESS,
    ("product_id", _STRING),
    ("product_name", _STRING),
    ("quantity", _INT64),
    ("price", NUMERIC),
    ("total_amount", NUMERIC),
    ("order_total_amount", NUMERIC),
    _INGESTION,
)
FACT_INVENTORY = _schema(
    ("event_id", _STRING),
    ("inventory_id", _STRING),
    ("product_id", _STRING),
    ("warehouse_id", _STRING),
    ("quantity_change", _INT64),
    ("reason", _STRING),
    *_EVENT_TIME,
    _INGESTION,
)
FACT_USER_ACTIVITY = _schema(
    ("event_id", _STRING),
    ("user_id", _STRING),
    ("activity_type", _STRING),
    ("ip_address", _STRING, _NULLABLE),
    ("user_agent", _STRING, _NULLABLE),
    ("session_id", _STRING),
    ("platform", _STRING),
    *_EVENT_TIME,
    _INGESTION,
)

SCHEMAS: dict[str, pa.Schema] = {
    "fact_order_header": FACT_ORDER_HEADER,
    "fact_order_item": FACT_ORDER_ITEM,
    "fact_order": FACT_ORDER,
    "fact_inventory": FACT_INVENTORY,
    "fact_user_activity": FACT_USER_ACTIVITY,
}

# A stream is a branch of the pipeline: the events of one type, and the tables they become.
STREAM_TABLES: dict[str, tuple[str, ...]] = {
    "order": ("fact_order_header", "fact_order_item", "fact_order"),
    "inventory": ("fact_inventory",),
    "user_activity": ("fact_user_activity",),
}


def modelled_schema(table: str) -> pa.Schema:
    """``table``'s schema before the sink adds ``ingestion_timestamp``, the last column."""
    schema = SCHEMAS[table]
    return schema.remove(schema.get_field_index("ingestion_timestamp"))
