"""A field in; what makes an Arrow column of its values out. Arrow refuses what no column holds, and so does all that is here.

Raises SuspectError, pa.ArrowException, TypeError or OverflowError: some value breaks a rule, whichever it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ecomflow.contract.buffers import NUMERIC, decimals, words
from ecomflow.contract.ddl import ARROW_TYPES
from ecomflow.contract.language import Field, Place, may_be_null, scalar_type
from ecomflow.contract.limits import is_ip_address
from ecomflow.contract.numbers import integer_in, is_numeric, number_in, scaled
from ecomflow.contract.reading_tables import COLUMN_TYPES
from ecomflow.contract.times import moments
from ecomflow.contract.values import is_written_otherwise, written_fault

# The values of a column in, the column out.
ToArrow = Callable[[list[Any]], pa.Array]


class SuspectError(Exception):
    """Some event of the batch breaks a rule; which one is not known."""


def to_arrow_of(field: Field, place: Place, optional: bool) -> ToArrow:
    """``optional``: the value itself may be null. One that may not can be null for want of an object on the way to it."""
    kind = scalar_type(place) or "string"
    match kind:
        case _ if field.type != "list" and is_written_otherwise(field):
            return _written(field, may_be_null(place))
        case "numeric":
            return _numeric(field, may_be_null(place))
        case "timestamp":
            return lambda values: _moments(values, field.without_offset)
        case "ip_address":
            return _addresses
        case "json":
            return lambda values: _texts_of_json(values, optional)
    arrow = ARROW_TYPES[COLUMN_TYPES[kind]]
    return lambda values: pa.array(values, arrow)


def _written(field: Field, nullable: bool) -> ToArrow:
    """Numbers that may stand in strings, and texts that may be numbers: looked at one by one."""
    fault = written_fault(field, nullable)
    assert fault is not None  # the caller has looked
    readers: dict[str, Callable[[Any], Any]] = {"integer": integer_in, "numeric": number_in, "string": _text_in}
    read = readers[field.type]
    numeric, arrow = _numeric(field, nullable=True), ARROW_TYPES[COLUMN_TYPES[field.type]]

    def to_arrow(values: list[Any]) -> pa.Array:
        if any(value is not field.default and fault(value) for value in values) or (None in values and not nullable):
            raise SuspectError
        found = [read(value) for value in values]
        return numeric(found) if field.type == "numeric" else pa.array(found, arrow)

    return to_arrow


def _text_in(value: Any) -> Any:
    return str(value) if type(value) is int else value


def _numeric(field: Field, nullable: bool) -> ToArrow:
    """Exact decimals within the field's bounds."""
    least, most = field.min, field.max

    def to_arrow(values: list[Any]) -> pa.Array:
        column = _decimals(values)
        if column.null_count and not nullable:
            raise SuspectError
        if least is not None or most is not None:
            _check_bounds(column, least, most)
        return column

    return to_arrow


def _check_bounds(column: pa.Array, least: Any, most: Any) -> None:
    """Raise SuspectError where a value of a NUMERIC column is less than ``least`` or more than ``most``."""
    if least == 0 and most is None and not column.null_count:
        if len(column) and words(column)[:, 1].min() < 0:  # the sign is in the high word
            raise SuspectError
        return
    bounds = pc.min_max(column).as_py()
    low, high = bounds["min"], bounds["max"]
    if low is not None and ((least is not None and low < least) or (most is not None and high > most)):
        raise SuspectError


def _decimals(values: list[Any]) -> pa.Array:
    """Arrow raises for what is no number, does not fit, or would be rounded, and for ``1.0000000000``, whose zeros it can't leave
    out.
    """
    try:
        return pa.array(values, NUMERIC)
    except (pa.ArrowException, TypeError):
        if not all(value is None or is_numeric(value) for value in values):
            raise SuspectError from None
    return decimals([None if value is None else scaled(value) for value in values])


def _moments(values: list[Any], without_offset: str) -> pa.Array:
    column = moments(values, without_offset)
    if column is None:
        raise SuspectError
    return column


def _addresses(values: list[Any]) -> pa.Array:
    if not all(address is None or is_ip_address(address) for address in set(values)):
        raise SuspectError
    return pa.array(values, pa.string())


def _texts_of_json(values: list[Any], optional: bool) -> pa.Array:
    try:
        texts = [None if one is None else str(one, "utf-8") for one in values]
    except UnicodeDecodeError as error:
        raise SuspectError from error
    if "null" in texts:
        if not optional:
            raise SuspectError
        texts = [None if text == "null" else text for text in texts]
    return pa.array(texts, pa.string())
