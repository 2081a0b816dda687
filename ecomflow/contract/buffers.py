"""Arrow columns in; their memory as numpy arrays, nothing copied, out; and NUMERIC columns made of it.

A call of ``pyarrow.compute`` takes tens of microseconds however short the column; a look at its memory takes two. With thirty
event types a batch is thirty short ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

# What the Storage Write API takes for a NUMERIC: 38 digits, 9 of them after the point.
NUMERIC = pa.decimal128(38, 9)


def offsets(column: pa.Array) -> Any:
    """Where each text of a string column begins, and the end of the last: int32 of len + 1."""
    buffer = column.buffers()[1]
    if buffer is None or not len(column):
        return np.zeros(1, dtype=np.int32)
    return np.frombuffer(buffer, dtype=np.int32)[column.offset : column.offset + len(column) + 1]


def lengths(column: pa.Array) -> Any:
    """The bytes of each text, 0 where it is null: int64."""
    places = offsets(column)
    return np.subtract(places[1:], places[:-1], dtype=np.int64)


def at_most_bytes(column: pa.Array) -> int:
    """No less than the bytes of all texts of a string column together."""
    data = column.buffers()[2]
    return 0 if data is None else int(data.size)


def at_most_row_bytes(rows: pa.RecordBatch) -> int:
    """No less than ``rows.nbytes``, which takes thirty times as long. Of a slice it is what the whole has; and ``nbytes`` also
    counts what a column of nulls would take.
    """
    return int(rows.get_total_buffer_size() + rows.num_columns * (16 * rows.num_rows + 64))


def texts(column: pa.Array) -> Any:
    """The bytes of a string column's texts, at least one of them not empty: uint8, to be read by ``offsets``."""
    return np.frombuffer(column.buffers()[2], dtype=np.uint8)


def integers(column: pa.Array, kind: Any) -> Any:
    """The values of a column of one fixed width, ``kind`` being numpy's of that width; what is null holds anything."""
    buffer = column.buffers()[1]
    if buffer is None or not len(column):
        return np.zeros(0, dtype=kind)
    return np.frombuffer(buffer, dtype=kind)[column.offset : column.offset + len(column)]


def words(column: pa.Array) -> Any:
    """A NUMERIC column's billionths as two 64-bit words a value, the low one first: int64 of (len, 2)."""
    buffer = column.buffers()[1]
    if buffer is None or not len(column):
        return np.zeros((0, 2), dtype=np.int64)
    start = column.offset * 2
    return np.frombuffer(buffer, dtype=np.int64)[start : start + 2 * len(column)].reshape(-1, 2)


def decimals(billionths: Sequence[int | None]) -> pa.Array:
    """A NUMERIC column from its billionths: 16 bytes each, the low ones first."""
    words = b"".join([(value or 0).to_bytes(16, "little", signed=True) for value in billionths])
    column = pa.Array.from_buffers(NUMERIC, len(billionths), [None, pa.py_buffer(words)])
    if None not in billionths:
        return column
    return pa.compute.if_else(pa.array([value is not None for value in billionths]), column, pa.scalar(None, NUMERIC))
