"""Two columns of numbers in; the column of their products, exact, out: in 64 bits where each fits there, as for any shop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ecomflow.contract.buffers import NUMERIC, decimals, integers, words
from ecomflow.contract.converting import SuspectError
from ecomflow.contract.numbers import number_in, scaled
from ecomflow.contract.rule_code import product_fits

_MOST = 2**62


class Small(NamedTuple):
    """A column as int64 numbers, whole or billionths, none of them null; ``bound`` is the largest absolute one."""

    values: Any
    bound: int


def small_numbers(column: pa.Array) -> Small | None:
    """An INT64 or NUMERIC column as small numbers; None where some are null or wider."""
    if column.null_count or not len(column):
        return None
    if column.type == NUMERIC:
        billionths = words(column)
        values = billionths[:, 0]
        if not (values >> 63 == billionths[:, 1]).all():
            return None
    else:
        values = integers(column, np.int64)
    return Small(values, max(int(values.max()), -int(values.min())))


def small_product(first: Small | None, second: Small | None) -> pa.Array | None:
    """A NUMERIC column from whole numbers and billionths; None where it needs more than 64 bits."""
    if first is None or second is None or first.bound * second.bound >= _MOST:
        return None
    totals = np.empty((len(first.values), 2), dtype=np.int64)
    np.multiply(first.values, second.values, out=totals[:, 0])
    np.right_shift(totals[:, 0], 63, out=totals[:, 1])
    return pa.Array.from_buffers(NUMERIC, len(totals), [None, pa.py_buffer(totals)])


def exact_product(first: Sequence[Any], second: Sequence[Any], to_numeric: bool) -> pa.Array:
    """The same from any values. Raises SuspectError where the column holds one of them not."""
    found: list[int | None] = []
    for left, right in zip(first, second, strict=True):
        left, right = number_in(left), number_in(right)
        if left is None or right is None:
            found.append(None)
        elif not product_fits(left, right, to_numeric):
            raise SuspectError
        elif to_numeric:
            whole, number = (left, right) if type(left) is int else (right, left)
            found.append(whole * scaled(number))
        else:
            found.append(left * right)
    return decimals(found) if to_numeric else pa.array(found, pa.int64())
