"""An event in two versions, which share a table: a refund."""

from __future__ import annotations

from ecomflow.contract.language import Contract
from ecomflow.contract.loading import load_text

V1 = """
event = "refund"
time = "at"
[fields]
at = "timestamp"
id = "string"
amount = "numeric"
note = { type = "string", optional = true }
[[tables]]
name = "fact_refund"
cluster = ["id"]
"""
V2 = """
event = "refund"
version = 2
time = "at"
[fields]
at = "timestamp"
id = "string"
currency = "string"
note = "string"
lines = { type = "list", of = "line" }
[records.line]
sku = "string"
[[tables]]
name = "fact_refund"
cluster = ["id"]
[[tables]]
name = "fact_refund_line"
each = "lines"
columns = ["lines"]
"""


def first(changes: tuple[str, str] = ("", "")) -> Contract:
    return load_text(V1.replace(*changes), "refund.toml")


def second(changes: tuple[str, str] = ("", "")) -> Contract:
    assert changes[0] in V2
    return load_text(V2.replace(*changes), "refund.v2.toml")
