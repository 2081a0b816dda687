"""The pure core as every benchmark runs it, by one codec of the shop's contracts: messages in, typed batches or facts out.

A module of its own, so that Beam's steps refer to the codec here: one of theirs would be pickled.
"""

from __future__ import annotations

from datetime import datetime

from benchmarks.events import NOW
from ecomflow.contract.codec import Codec, TypedBatch
from ecomflow.contract.ddl import table_schema
from ecomflow.contract.events import Message
from ecomflow.contract.loading import shop_contracts
from ecomflow.contract.modelling import Facts, model
from ecomflow.contract.tables import tables_of

SHOP = shop_contracts()
# The columns of each fact table, ingestion_timestamp the last.
SCHEMAS = {table.name: table_schema(table) for table in tables_of(SHOP)}

_CODEC = Codec(SHOP)


def decoded(batch: list[Message], now: datetime = NOW) -> list[TypedBatch]:
    """``batch`` by stream."""
    return list(_CODEC.decode(batch, now).streams.values())


def modelled(batch: list[Message], now: datetime = NOW) -> list[Facts]:
    """The facts of each stream of ``batch``."""
    return [model(part, now) for part in decoded(batch, now)]
