"""Message ordering: which messages of an ordering key may be delivered, and to which consumer.

The messages of an ordering key go to one consumer (a stream, or the batch of one unary pull), in order and without waiting for
acknowledgements, for as long as it holds any of them. Returned messages are redelivered before all later messages of their key.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ecomflow.local.pubsub.log import StoredMessage
from ecomflow.local.pubsub.stream import Stream


class _Key:
    """An ordering key with messages that are outstanding, or delayed until ``delayed_until``."""

    def __init__(self, holder: Stream) -> None:
        self.holder = holder
        self.leased: dict[str, StoredMessage] = {}  # by ack id, in order
        self.behind: deque[StoredMessage] = deque()
        self.delayed_until = 0.0


class OrderingKeys:
    """The ordering keys of one subscription that are in use."""

    def __init__(self) -> None:
        self._keys: dict[str, _Key] = {}

    def next_of(self, consumer: Stream) -> deque[StoredMessage] | None:
        """The messages of a key that only ``consumer`` may take; None if there is no such key."""
        while consumer.keys:
            name = next(iter(consumer.keys))
            key = self._keys.get(name)
            if key is not None and key.holder is consumer and key.behind and not key.delayed_until:
                return key.behind
            del consumer.keys[name]
        return None

    def admit(self, message: StoredMessage, consumer: Stream) -> bool:
        """Whether ``consumer`` may take ``message``, the next one available; otherwise it is queued behind its key."""
        if not message.key:
            return True
        key = self._keys.get(message.key)
        if key is None:
            self._keys[message.key] = _Key(consumer)
            return True
        if key.holder is consumer and not key.behind and not key.delayed_until:
            return True
        key.behind.append(message)
        self._call_holder(message.key, key)
        return False

    def lease(self, ack_id: str, message: StoredMessage) -> None:
        if message.key:
            self._keys[message.key].leased[ack_id] = message

    def release(self, ack_id: str, message: StoredMessage) -> None:
        if key := self._keys.get(message.key):
            key.leased.pop(ack_id, None)

    def later_than(self, message: StoredMessage) -> list[str]:
        """The ack ids of the leased messages after ``message`` in its key."""
        key = self._keys.get(message.key)
        return [ack_id for ack_id, later in key.leased.items() if later.id > message.id] if key else []

    def put_back(self, name: str, messages: Iterable[StoredMessage], delayed_until: float = 0.0) -> None:
        """Queue ``messages``, which are no longer leased, before all others of the key ``name``."""
        key = self._keys[name]
        key.behind.extendleft(sorted(messages, key=_message_id, reverse=True))
        key.delayed_until = max(key.delayed_until, delayed_until)

    def end_delay(self, name: str, now: float) -> None:
        if (key := self._keys.get(name)) and key.delayed_until <= now:
            key.delayed_until = 0.0

    def free(self, name: str) -> Iterable[StoredMessage]:
        """The messages queued behind the key ``name`` once none of it is outstanding or delayed: any consumer may take them."""
        key = self._keys.get(name)
        if key is None or key.delayed_until:
            return ()
        if key.leased:
            self._call_holder(name, key)
            return ()
        del self._keys[name]
        return key.behind

    def restart(self, leases: Iterable[tuple[str, StoredMessage, Stream | None]]) -> None:
        """Forget everything except the leases: ack ids, messages and the streams that hold them."""
        self._keys.clear()
        for ack_id, message, stream in leases:
            if message.key:
                self._keys.setdefault(message.key, _Key(stream or Stream())).leased[ack_id] = message

    def _call_holder(self, name: str, key: _Key) -> None:
        if key.behind and not key.delayed_until:
            key.holder.keys[name] = None
            key.holder.wake()


def _message_id(message: StoredMessage) -> int:
    return message.id
