"""A contract in; who reads bodies as the pipeline does, out."""

from __future__ import annotations

from datetime import date
from decimal import DecimalException
from typing import Any

import msgspec

from ecomflow.contract.codec import Codec, violation_of_event
from ecomflow.contract.compiling import EventType, compile_contract
from ecomflow.contract.documents import Refusal
from ecomflow.contract.language import Contract
from ecomflow.contract.limits import DateRange
from ecomflow.contract.reasons import Violation, sentence
from ecomflow.generator.messages import Body, encode_typed

# The user chooses the date of the events.
_ALL_DATES = DateRange(date.min, date.max)
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, DecimalException, OverflowError)


class Judge:
    """Whether bodies are valid events of a contract, and have no field that it does not name."""

    def __init__(self, contract: Contract) -> None:
        self.kind: EventType = compile_contract(contract)
        self._decode = self.kind.exact_decoder.decode
        self._type = contract.type

    def event(self, body: Body) -> Any | None:
        """What ``body`` is read as; None where its types are wrong."""
        try:
            return self._decode(encode_typed(body, self._type))
        except _UNREADABLE:
            return None

    def violation(self, event: Any) -> Violation | None:
        """The first rule that ``event`` breaks."""
        return violation_of_event(self.kind, event, "", _ALL_DATES)

    def takes(self, body: Body) -> bool:
        event = self.event(body)
        return event is not None and self.violation(event) is None

    def error(self, body: Body) -> str:
        """Why ``body`` is refused, in the pipeline's words."""
        read = Codec([self.kind.contract]).read_document(encode_typed(body, self._type))
        if isinstance(read, Refusal):
            return read.error
        found = self.violation(read.event)
        return sentence(found) if found else f"{read.paths[0] if read.paths else '$'}: the contract does not name it"
