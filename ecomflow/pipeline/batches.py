"""What travels the graph's edges: batches, with a coder that sizes them without pickling.

No batch leaves its fused stage, so none is encoded in earnest; but Beam samples the encoded size of elements, and pickling a
batch for that costs about a tenth of the run.
"""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
from apache_beam.coders import Coder
from apache_beam.coders import registry as coder_registry

from ecomflow.contract.codec import TypedBatch
from ecomflow.contract.dead_letter import DeadLetter
from ecomflow.contract.events import Message
from ecomflow.contract.modelling import Facts

_TYPICAL_EVENT_BYTES = 512


class MessageBatch(msgspec.Struct, gc=False):
    """Messages as they were received."""

    messages: list[Message]


class DeadLetterBatch(msgspec.Struct, gc=False):
    """Dead letters of one stream."""

    stream: str
    letters: list[DeadLetter]


class BatchCoder(Coder):  # type: ignore[misc]  # Beam is untyped
    """Pickle, with an estimate in the place of a measured size."""

    def encode(self, value: Any) -> bytes:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)

    def decode(self, encoded: bytes) -> Any:
        return pickle.loads(encoded)  # noqa: S301  # written by encode, within one job

    def estimate_size(self, value: Any) -> int:
        items = value.letters if isinstance(value, DeadLetterBatch) else value.messages
        return _TYPICAL_EVENT_BYTES * len(items)

    def is_deterministic(self) -> bool:
        return False


for _kind in (MessageBatch, TypedBatch, Facts, DeadLetterBatch):
    coder_registry.register_coder(_kind, BatchCoder)
